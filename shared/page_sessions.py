"""Sessions of the page, which a key opened: each lasts until somebody signs out, or its time is over."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.db.tables import PageSession
from shared.ids import new_id
from shared.keys import KeyInForce


def begin(session: Session, key: KeyInForce, lifetime: timedelta) -> str:
    """Open a session for the key; its id, which the browser keeps in a cookie that is signed."""
    row = PageSession(id=new_id("ses"), tenant_id=key.tenant_id, key_id=key.id, expires_at=sa.func.now() + lifetime)
    session.add(row)
    session.flush()
    return row.id


def is_open(session: Session, key: KeyInForce, session_id: str) -> bool:
    """Whether nobody has signed out of it, and its time is not over."""
    mine = sa.and_(PageSession.id == session_id, PageSession.key_id == key.id, PageSession.tenant_id == key.tenant_id)
    return session.scalar(sa.select(sa.exists().where(mine, PageSession.expires_at > sa.func.now()))) or False


def end(session: Session, key: KeyInForce, session_id: str) -> None:
    """Close it, wherever its cookie is."""
    mine = sa.and_(PageSession.id == session_id, PageSession.tenant_id == key.tenant_id)
    session.execute(sa.delete(PageSession).where(mine))


def forget_expired(session: Session) -> None:
    """Remove sessions that have expired, for the sweeper."""
    session.execute(sa.delete(PageSession).where(PageSession.expires_at < sa.func.now()))
