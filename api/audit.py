"""What a key did, written in the transaction in which it did it."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.context import Principal
from shared.models import AuditEntry

_ENTRY = sa.insert(AuditEntry.__table__).returning(AuditEntry.__table__.c.created_at)  # type: ignore[arg-type]


def record(session: Session, who: Principal, action: str, subject: str) -> datetime:
    """An entry of the audit log; the transaction's time, which is also that of its other rows."""
    row = {"tenant_id": who.tenant_id, "actor": who.key_id, "action": action, "subject": subject}
    at: datetime = session.execute(_ENTRY, row).scalar_one()
    return at
