"""thoraq-admin: migrate, queue, keys, tenants, models, objects, doctor."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import sqlalchemy as sa
import typer

from admin import models, objects, queue, tenants
from admin.console import ACTOR, AsJson, field, open_database, show, told_in_a_line
from admin.doctor import Doctor
from admin.login import make_login
from console.command import Command, version_option
from migrations.upgrade import upgrade
from shared import keys
from shared.config import settings
from shared.db.checks import check_for_migration
from shared.db.engine import Database
from shared.db.tables import ApiKey, Image, Tenant
from shared.errors import ConfigError, Unavailable
from shared.keys import Scope
from shared.storage import Storage, open_storage
from shared.version import VERSION

HELP = """Operate Thoraq: works on the database and the object store directly.

The settings are those of the deployment, in the environment (THORAQ_*).

\b
Exit codes, for scripts:
  0  all good
  1  refused, not found, damaged, or an invariant
     that does not hold
  2  wrong usage, or output that cannot be written
141  the reader of a pipe has left (| head)
"""

app = Command("thoraq-admin", HELP)
app.command("queue", short_help="Count jobs by state, and what workers say.")(queue.show_queue)
keys_app = Command("keys", "API keys.")
app.add_typer(keys_app, name="keys")
app.add_typer(models.app, name="models")
app.add_typer(objects.app, name="objects")
app.add_typer(tenants.app, name="tenants")


KEY_COLUMNS = [
    field("id"),
    field("tenant", wraps=16),
    field("name", wraps=16),
    field("prefix", leaves=4),
    field("scopes", wraps=24, leaves=5),
    field("created_at", leaves=1),
    field("expires_at", leaves=3),
    field("revoked_at"),
    field("last_used_at", leaves=2),
]
DOCTOR_COLUMNS = [field("invariant", wraps=28), field("violations", right=True, always=True), field("ids", wraps=28)]


@app.callback()
def main(version: Annotated[bool, version_option("thoraq-admin", lambda: VERSION)] = False) -> None:
    """Stand for what comes before a command."""


@app.command(short_help="Make or upgrade schema and store.")
def migrate(
    wait: Annotated[float, typer.Option(help="Seconds to wait for a database or a store that does not answer.")] = 0,
) -> None:
    """Bring the schema to the newest revision, make the API's login if it has one, and the folder or bucket."""
    until = time.monotonic() + wait
    with told_in_a_line():
        _retry(lambda: check_for_migration(settings()), until)
    with open_database() as database:
        upgrade(database.engine)
        make_login(database, settings())
        _retry(lambda: _prepare_store(database, open_storage(settings())), until)
    typer.echo("migrated")


def _prepare_store(database: Database, storage: Storage) -> None:
    """Make the folder or bucket. One that is missing while the database names objects is that of another store."""
    if not storage.prepared():
        with database.transaction() as session:
            if session.scalar(sa.select(sa.exists().where(Image.object_key.is_not(None)))):
                raise ConfigError(
                    "the object store is empty, and the database names objects: THORAQ_STORAGE or its address is not "
                    "that of before. To change stores, run `thoraq-admin objects import` first."
                )
    storage.prepare()


def _retry(act: Callable[[], None], until: float) -> None:
    """Do it, again each second while what it needs is Unavailable, until this time of time.monotonic()."""
    while True:
        try:
            return act()
        except Unavailable:
            if time.monotonic() >= until:
                raise
            time.sleep(1)


@keys_app.command("create", short_help="Make an API key.")
def create_key(
    tenant: Annotated[str, typer.Option(help="The hospital's name; made when it is new.")],
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scopes: Annotated[
        str, typer.Option(help="Separated by commas: " + ", ".join(Scope))
    ] = "jobs:write,jobs:read,webhooks:manage,models:read",
    expires_at: Annotated[datetime | None, typer.Option(help="UTC; without it the key does not expire.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key. It is shown this once."""
    try:
        asked = [Scope(scope.strip()) for scope in scopes.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{error}; there are:\n  " + "\n  ".join(Scope), param_hint="--scopes") from error
    with open_database() as database, database.transaction() as session:
        made = keys.create(session, keys.tenant_named(session, tenant), name, asked, expires_at, ACTOR)
    if as_json:
        typer.echo(json.dumps({"id": made.id, "tenant": made.tenant_id, "key": made.key}))
    else:
        typer.echo(made.key)


@keys_app.command("list", short_help="List every key.")
def list_keys(as_json: AsJson = False) -> None:
    """Every key: whose, what for, and when it was last used; never the key itself."""
    with open_database() as database, database.transaction() as session:
        rows = session.execute(
            sa.select(ApiKey, Tenant.name).join(Tenant, Tenant.id == ApiKey.tenant_id).order_by(ApiKey.id)
        ).all()
    names = ("id", "name", "prefix", "created_at", "expires_at", "revoked_at", "last_used_at")
    comma = "," if as_json else ", "  # a table wraps at blanks
    found = [
        {name: getattr(key, name) for name in names} | {"tenant": tenant, "scopes": comma.join(key.scopes)}
        for key, tenant in rows
    ]
    show(KEY_COLUMNS, found, as_json)


@keys_app.command("revoke")
def revoke_key(key_id: str) -> None:
    """End a key now."""
    with open_database() as database, database.transaction() as session:
        revoked = keys.revoke(session, key_id, ACTOR)
    if not revoked:
        typer.echo(f"thoraq-admin: no key {key_id} is in force", err=True)
        raise typer.Exit(1)
    typer.echo("revoked")


Repair = Annotated[bool, typer.Option("--repair", help="Mend what may be mended; what cannot be is told.")]


@app.command(short_help="Prove the invariants, and mend.")
def doctor(repair: Repair = False, as_json: AsJson = False) -> None:
    """Prove the invariants on the running system; exit 1 when one does not hold."""
    with open_database() as database:
        findings = list(Doctor(settings(), database, open_storage(settings()), repair=repair).examine())
    columns = [*DOCTOR_COLUMNS, *([field("mended", right=True, always=True)] if repair else [])]
    rows: list[dict[str, object]] = [
        {"invariant": f.invariant, "violations": len(f.ids), "mended": f.mended}
        | {"ids": list(f.ids) if as_json else ", ".join(f.ids[:5])}
        for f in findings
    ]
    show(columns, rows, as_json)
    violated = sum(bool(finding.ids) for finding in findings)
    if not as_json:
        do_not = f"{violated} of {len(rows)} invariants do not hold"
        typer.echo(do_not if violated else f"all {len(rows)} invariants hold")
    if violated:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
