"""The rows of model bundles, and which of them is active. Their files are in shared/inference/bundle_store.py."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.db.tables import Classifier, Modality, ModelBundle
from shared.inference.bundle import Bundle

#: What the API takes jobs for, hence what every bundle must answer.
ASKED = (
    (Classifier.BINARY, Modality.XRAY),
    (Classifier.BINARY, Modality.CT),
    (Classifier.ENSEMBLE, Modality.XRAY),
)


@dataclass(frozen=True)
class Activation:
    """Which bundle workers are to serve, and since when; activating it again makes another activation."""

    sha256: str
    activated_at: datetime | None


def check_heads(bundle: Bundle) -> None:
    """ModelError when the bundle lacks a classifier that jobs may ask for."""
    for classifier, modality in ASKED:
        bundle.head_for(classifier, modality)


def register(session: Session, bundle: Bundle) -> None:
    """Add the bundle's row, unless it is there; while it is, the sweeper leaves the bundle's objects alone."""
    card = bundle.card.model_dump(mode="json")
    row = {"sha256": bundle.sha256, "name": bundle.name, "version": bundle.version, "card": card}
    session.execute(insert(ModelBundle).values(row).on_conflict_do_nothing())


def active(session: Session) -> Activation | None:
    """Return the bundle that workers are to serve; None while none was activated."""
    row = session.execute(sa.select(ModelBundle.sha256, ModelBundle.activated_at).where(ModelBundle.active)).first()
    return None if row is None else Activation(row.sha256, row.activated_at)


def activate(session: Session, sha256: str) -> None:
    """Make this bundle, whose row exists, the active one."""
    # Two at a time would each deactivate what they see and then meet in the index: the second waits here. Results that
    # name a bundle go on meanwhile, which FOR UPDATE would stop.
    session.execute(sa.select(ModelBundle.sha256).order_by(ModelBundle.sha256).with_for_update(key_share=True)).all()
    session.execute(sa.update(ModelBundle).where(ModelBundle.active).values(active=False))
    now = {"active": True, "activated_at": sa.func.now()}
    session.execute(sa.update(ModelBundle).where(ModelBundle.sha256 == sha256).values(now))
