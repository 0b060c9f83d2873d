"""What keys did, written in the transaction in which they did it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.http.principal import Principal
from shared.db.bulk_insert import Rows
from shared.db.tables import AuditEntry

_ENTRY = sa.insert(AuditEntry.__table__).returning(AuditEntry.__table__.c.created_at)  # type: ignore[arg-type]


def record(session: Session, who: Principal, action: str, subject: str) -> datetime:
    """Return an entry of the audit log; the transaction's time, which is also that of its other rows."""
    row = {"tenant_id": who.tenant_id, "actor": who.key_id, "action": action, "subject": subject}
    at: datetime = session.execute(_ENTRY, row).scalar_one()
    return at


def rows(tenant_id: str, acts: Sequence[tuple[str, str, str]]) -> Rows:
    """Entries for (key, action, subject), ready to be inserted beside what they tell of."""
    names = ("actor", "action", "subject")
    return AuditEntry, [{"tenant_id": tenant_id} | dict(zip(names, act, strict=True)) for act in acts]
