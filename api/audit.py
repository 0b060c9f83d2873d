"""What keys did, written in the transaction in which they did it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.orm import Session

from api.context import Principal

_ENTRIES = sa.text("""
    WITH entries AS (
        INSERT INTO audit_log (tenant_id, actor, action, subject)
        SELECT :tenant_id, actor, action, subject
        FROM json_to_recordset(:acts) AS a(actor text, action text, subject text)
    )
    SELECT now()
""").bindparams(sa.bindparam("acts", type_=JSON))


def record(session: Session, who: Principal, action: str, subject: str) -> datetime:
    """An entry of the audit log; the transaction's time, which is also that of its other rows."""
    return record_all(session, who.tenant_id, [(who.key_id, action, subject)])


def record_all(session: Session, tenant_id: str, acts: Sequence[tuple[str, str, str]]) -> datetime:
    """An entry for each (key, action, subject) by one statement; the transaction's time."""
    rows = [{"actor": actor, "action": action, "subject": subject} for actor, action, subject in acts]
    at: datetime = session.execute(_ENTRIES, {"tenant_id": tenant_id, "acts": rows}).scalar_one()
    return at
