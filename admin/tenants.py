"""thoraq-admin tenants: what is kept of a hospital's patients, for how long, and its share of stat."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
import typer

from admin.console import ACTOR, AsJson, field, open_database, show
from console.command import Command
from shared.db.tables import AuditEntry, Tenant

app = Command("tenants", "Hospitals and their settings.")
COLUMNS = [
    field("id"),
    field("name", wraps=16),
    field("keep_identity", leaves=2),
    field("expires_after_days", leaves=3, right=True),
    field("stat_share", leaves=4, right=True),
    field("created_at", leaves=1),
]


@app.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """Every tenant and its settings."""
    with open_database() as database, database.transaction() as session:
        found = session.scalars(sa.select(Tenant).order_by(Tenant.id)).all()
    names = ("id", "name", "keep_identity", "expires_after_days", "stat_share", "created_at")
    show(COLUMNS, [{name: getattr(tenant, name) for name in names} for tenant in found], as_json)


@app.command("set")
def set_tenant(
    name: str,
    keep_identity: Annotated[
        bool | None,
        typer.Option("--keep-identity/--deidentify", help="Keep DICOM files that come from now on as sent."),
    ] = None,
    expires_after_days: Annotated[
        float | None, typer.Option(min=0, help="Delete studies of this age; 0: only when somebody asks for it.")
    ] = None,
    stat_share: Annotated[
        int | None, typer.Option(min=0, help="Stat jobs that may wait at once; more are served as routine.")
    ] = None,
) -> None:
    """Change a tenant's settings. Studies that are here stay as they are, until they are too old."""
    values: dict[str, Any] = {}
    if keep_identity is not None:
        values["keep_identity"] = keep_identity
    if expires_after_days is not None:
        values["expires_after_days"] = expires_after_days or None
    if stat_share is not None:
        values["stat_share"] = stat_share
    if not values:
        raise typer.BadParameter("say what is to be changed")
    with open_database() as database, database.transaction() as session:
        changed = session.scalar(sa.update(Tenant).where(Tenant.name == name).values(values).returning(Tenant.id))
        if changed is not None:
            session.add(AuditEntry(tenant_id=changed, actor=ACTOR, action="tenant.set", subject=changed))
    if changed is None:
        typer.echo(f"thoraq-admin: no tenant is called {name!r}", err=True)
        raise typer.Exit(1)
    typer.echo(f"changed {name}")
