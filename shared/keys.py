"""API keys: `tq_` and 256 random bits, shown once; kept as a prefix to recognise them by and a SHA-256.

A fast hash is enough for 256 random bits: there is no dictionary to try (OWASP Password Storage, "peppers and
high-entropy secrets").
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.ids import new_id
from shared.models import ApiKey, AuditEntry, Tenant


class Scope(StrEnum):
    """What a key may do."""

    JOBS_WRITE = "jobs:write"  #: submit and cancel
    JOBS_READ = "jobs:read"  #: read studies, jobs, batches and results
    WEBHOOKS_MANAGE = "webhooks:manage"  #: endpoints and deliveries
    MODELS_READ = "models:read"  #: model bundles and their cards
    ADMIN = "admin"  #: everything of its tenant


@dataclass(frozen=True)
class NewKey:
    """A key as it is shown, once."""

    id: str
    tenant_id: str
    key: str


def digest(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def tenant_named(session: Session, name: str) -> Tenant:
    """The tenant of this name, made when there is none."""
    row = {"id": new_id("ten"), "name": name}
    session.execute(insert(Tenant).values(row).on_conflict_do_nothing(index_elements=["name"]))
    return session.scalars(sa.select(Tenant).where(Tenant.name == name)).one()


def create(
    session: Session, tenant: Tenant, name: str, scopes: list[Scope], expires_at: datetime | None, actor: str
) -> NewKey:
    """A new key for a tenant; the caller shows it and forgets it."""
    key = "tq_" + secrets.token_urlsafe(32)
    row = ApiKey(
        id=new_id("key"),
        tenant_id=tenant.id,
        name=name,
        prefix=key[:8],
        hash=digest(key),
        scopes=[scope.value for scope in scopes],
        expires_at=expires_at,
    )
    session.add(row)
    session.add(AuditEntry(tenant_id=tenant.id, actor=actor, action="key.create", subject=row.id))
    return NewKey(row.id, tenant.id, key)


def find(session: Session, key: str) -> ApiKey | None:
    """The key's row if it is in force. The lookup is by hash, so its timing tells nothing about stored keys."""
    return in_force(session, ApiKey.hash == digest(key))


def in_force(session: Session, which: sa.ColumnElement[bool]) -> ApiKey | None:
    """The row of a key that is neither revoked nor expired, by the database's clock."""
    return session.scalar(
        sa.select(ApiKey).where(
            which,
            ApiKey.revoked_at.is_(None),
            sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > sa.func.now()),
        )
    )


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
