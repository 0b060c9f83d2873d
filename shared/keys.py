"""API keys: `tq_` and 256 random bits, shown once; kept as a prefix to recognise them by and a SHA-256.

A fast hash is enough for 256 random bits: there is no dictionary to try (OWASP Password Storage, "peppers and
high-entropy secrets").
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.db.tables import ApiKey, AuditEntry, Tenant
from shared.ids import new_id

#: `tq_` and 30 of the 256 bits.
PREFIX_CHARACTERS = 8


class Scope(StrEnum):
    """What a key may do."""

    JOBS_WRITE = "jobs:write"  #: submit and cancel
    JOBS_READ = "jobs:read"  #: read studies, jobs, batches and results
    WEBHOOKS_MANAGE = "webhooks:manage"  #: endpoints and deliveries
    MODELS_READ = "models:read"  #: model bundles and their cards
    MODELS_MANAGE = "models:manage"  #: which bundle answers, for every tenant
    ADMIN = "admin"  #: everything of its tenant: the above but `models:manage`, its keys, its audit log


@dataclass(frozen=True)
class NewKey:
    """A key as it is shown, once."""

    id: str
    tenant_id: str
    key: str


def digest(key: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def tenant_named(session: Session, name: str) -> Tenant:
    """Return the tenant of this name, made when there is none."""
    row = {"id": new_id("ten"), "name": name}
    session.execute(insert(Tenant).values(row).on_conflict_do_nothing(index_elements=["name"]))
    return session.scalars(sa.select(Tenant).where(Tenant.name == name)).one()


def create(
    session: Session,
    tenant: Tenant,
    name: str,
    scopes: list[Scope],
    expires_at: datetime | None,
    actor: str,
    key_id: str | None = None,
) -> NewKey:
    """Return a new key for a tenant; the caller shows it and forgets it."""
    key = "tq_" + secrets.token_urlsafe(32)
    row = ApiKey(
        id=key_id or new_id("key"),
        tenant_id=tenant.id,
        name=name,
        prefix=key[:PREFIX_CHARACTERS],
        hash=digest(key),
        scopes=[scope.value for scope in scopes],
        expires_at=expires_at,
    )
    session.add(row)
    session.add(AuditEntry(tenant_id=tenant.id, actor=actor, action="key.create", subject=row.id))
    return NewKey(row.id, tenant.id, key)


@dataclass(frozen=True)
class KeyInForce:
    """A key that is neither revoked nor expired, by the database's clock."""

    id: str
    tenant_id: str
    scopes: frozenset[str]
    expires_at: datetime | None


# A function of the database (migration 0007): whose key it is, is not known before it is found.
IN_FORCE = sa.text("SELECT id, tenant_id, hash, scopes, expires_at FROM keys_in_force(:prefix, :id)")


def find(session: Session, key: str) -> KeyInForce | None:
    """Return the key, if it is in force. Found by its prefix, which is no secret, and compared in constant time."""
    if "\0" in key:
        return None  # PostgreSQL's text cannot hold it, so no key has it
    sought = digest(key)
    rows = session.execute(IN_FORCE, {"prefix": key[:PREFIX_CHARACTERS], "id": None}).all()
    return next((_in_force(row) for row in rows if hmac.compare_digest(row.hash, sought)), None)


def find_by_id(session: Session, key_id: str) -> KeyInForce | None:
    """Find the key with this id, if it is in force."""
    row = session.execute(IN_FORCE, {"prefix": None, "id": key_id}).one_or_none()
    return None if row is None else _in_force(row)


def _in_force(row: sa.Row[Any]) -> KeyInForce:
    return KeyInForce(row.id, row.tenant_id, frozenset(row.scopes), row.expires_at)


def note_use(session: Session, key_id: str) -> None:
    """Remember when the key was used last; once a minute is precise enough, and spares a write per look."""
    stale = sa.or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < sa.func.now() - timedelta(minutes=1))
    noted = sa.update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=sa.func.now())
    session.execute(noted.execution_options(synchronize_session=False))


def revoke(session: Session, key_id: str, actor: str) -> bool:
    """End a key now; False when there is no such key or it has ended before."""
    tenant_id = session.scalar(
        sa.update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=sa.func.now())
        .returning(ApiKey.tenant_id)
        .execution_options(synchronize_session=False)
    )
    if tenant_id is not None:
        session.add(AuditEntry(tenant_id=tenant_id, actor=actor, action="key.revoke", subject=key_id))
    return tenant_id is not None
