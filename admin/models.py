"""thoraq-admin models: which bundles there are, and which one the workers are to serve."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer
from sqlalchemy.orm import Session

from admin.console import ACTOR, AsJson, field, open_database, show
from console.command import Command
from shared import bundle_registry
from shared.config import settings
from shared.db.tables import AuditEntry, ModelBundle, Worker
from shared.errors import Conflict, ModelError, NotFound
from shared.inference import bundle_store
from shared.inference.bundle import Bundle
from shared.storage import Storage, open_storage

app = Command("models", "Model bundles.")
SHORTEST_PREFIX = 4
LIST_COLUMNS = [
    field("name", wraps=16),
    field("version"),
    field("sha256", "SHA-256"),
    field("active"),
    field("stored", leaves=1),
    field("workers", wraps=20),
    field("refused", wraps=28),
]
VERIFY_COLUMNS = [
    field("where", wraps=16),
    field("name", wraps=16),
    field("version", leaves=1),
    field("sha256", "SHA-256"),
    field("problem", wraps=28),
]


@app.command("push", short_help="Put a bundle into the store.")
def push(
    folder: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    activate: Annotated[bool, typer.Option("--activate", help="Have the workers serve it.")] = False,
) -> None:
    """Check a bundle and put it into the object store. Doing it again mends what is missing or damaged there."""
    with open_database() as database:
        try:
            bundle = Bundle.open(folder)
        except ModelError as error:
            raise ModelError(f"{folder}: {error.detail}") from error
        bundle_registry.check_heads(bundle)
        # The row first: the sweeper removes what no row names.
        with database.transaction() as session:
            bundle_registry.register(session, bundle)
        bundle_store.push(bundle, open_storage(settings()))
        with database.transaction() as session:
            session.execute(sa.update(ModelBundle).where(ModelBundle.sha256 == bundle.sha256).values(stored=True))
            _audit(session, "model.push", bundle.sha256)
            if activate:
                _activate(session, bundle.sha256)
    typer.echo(f"{'pushed and activated' if activate else 'pushed'} {bundle.name} {bundle.sha256}")


@app.command("activate", short_help="Have the workers serve a bundle.")
def activate(which: Annotated[str, typer.Argument(help="Its name, or the beginning of its SHA-256.")]) -> None:
    """Have the workers serve a bundle that was pushed, the next one or the last one; they change without a restart.

    Activating the active one again has workers that refused it try at once.
    """
    with open_database() as database:
        with database.transaction() as session:
            bundle = _find(session, which)
        try:
            bundle_store.check(bundle.sha256, open_storage(settings()))
        except ModelError as error:
            raise ModelError(f"{bundle.name} is damaged, push it again: {error.detail}") from error
        with database.transaction() as session:
            _activate(session, bundle.sha256)
    typer.echo(f"activated {bundle.name} {bundle.sha256}")


@app.command("list", short_help="List every bundle.")
def list_models(as_json: AsJson = False) -> None:
    """Every bundle that was pushed or served: the active one, who serves which, and why a worker refused another."""
    with open_database() as database, database.transaction() as session:
        bundles = session.scalars(sa.select(ModelBundle).order_by(ModelBundle.first_seen_at)).all()
        fresh = Worker.seen_at > sa.func.now() - timedelta(seconds=settings().lease_seconds)
        workers = session.scalars(sa.select(Worker).where(fresh).order_by(Worker.name)).all()
    show(
        LIST_COLUMNS,
        [_row(bundle, [w for w in workers if w.bundle_sha256 == bundle.sha256]) for bundle in bundles],
        as_json,
    )


def _row(bundle: ModelBundle, workers: list[Worker]) -> dict[str, object]:
    return {
        "name": bundle.name,
        "version": bundle.version,
        "sha256": bundle.sha256,
        "active": bundle.active,
        "stored": bundle.stored,
        "first_seen_at": bundle.first_seen_at,
        "activated_at": bundle.activated_at,
        "workers": [worker.name for worker in workers],
        "refused": [f"{worker.name}: {worker.bundle_problem}" for worker in workers if worker.bundle_problem],
    }


@app.command("verify", short_help="Check every bundle.")
def verify(as_json: AsJson = False) -> None:
    """Check THORAQ_MODEL_DIR and every bundle in the object store, file by file; exit 1 when one is damaged."""
    with open_database() as database:
        with database.transaction() as session:
            stored = session.scalars(sa.select(ModelBundle).where(ModelBundle.stored)).all()
        storage = open_storage(settings())
        rows = [_verified_folder(settings().model_dir), *(_verified(bundle, storage) for bundle in stored)]
    show(VERIFY_COLUMNS, rows, as_json)
    damaged = sum(bool(row["problem"]) for row in rows)
    if not as_json:
        typer.echo(f"{damaged} of {len(rows)} damaged" if damaged else "every file is as its card says")
    if damaged:
        raise typer.Exit(1)


def _verified_folder(folder: Path) -> dict[str, object]:
    row: dict[str, object] = {"where": "THORAQ_MODEL_DIR", "name": None, "version": None, "sha256": None}
    try:
        bundle = Bundle.open(folder)
    except ModelError as error:
        return row | {"problem": error.detail}
    return row | {"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256, "problem": None}


def _verified(bundle: ModelBundle, storage: Storage) -> dict[str, object]:
    problem = None
    try:
        bundle_store.check(bundle.sha256, storage)
    except ModelError as error:
        problem = error.detail
    row = {"where": "object store", "name": bundle.name, "version": bundle.version, "sha256": bundle.sha256}
    return row | {"problem": problem}


def _find(session: Session, which: str) -> ModelBundle:
    matches = ModelBundle.name == which
    if len(which) >= SHORTEST_PREFIX:
        matches |= ModelBundle.sha256.startswith(which.lower(), autoescape=True)
    found = session.scalars(sa.select(ModelBundle).where(matches).order_by(ModelBundle.first_seen_at)).all()
    if not found:
        raise NotFound(f"no model bundle is called {which}, nor begins its SHA-256 so")
    stored = [bundle for bundle in found if bundle.stored]
    if not stored:
        raise Conflict(f"{found[0].name} is not in the object store: push its folder first")
    if len(stored) > 1:
        raise Conflict(f"several are called so, give the SHA-256: {', '.join(bundle.sha256 for bundle in stored)}")
    return stored[0]


def _activate(session: Session, sha256: str) -> None:
    bundle_registry.activate(session, sha256)
    _audit(session, "model.activate", sha256)


def _audit(session: Session, action: str, sha256: str) -> None:
    session.add(AuditEntry(actor=ACTOR, action=action, subject=sha256))
