"""Pages that explain the rest."""

from __future__ import annotations

from shared.bundle_registry import register
from shared.config import Settings
from shared.db.engine import Database
from shared.inference.bundle import Bundle
from tests.support.api import SAMPLES, Caller


def test_a_model_card_leads_with_what_to_expect_elsewhere(north: Caller, clean_database: Database) -> None:
    bundle = Bundle.open(SAMPLES.parent / Settings.model_fields["model_dir"].default)
    with clean_database.transaction() as session:
        register(session, bundle)
    answer = north.get(f"/models/{bundle.sha256}")
    assert answer.status_code == 200
    page = answer.text
    assert 0 < page.index("What to expect at another hospital") < page.index("At sources that it knows")
    for head in bundle.heads.values():
        assert f"on {' and '.join(head.backbones)}" in page
    for backbone in bundle.card.backbones.values():
        assert backbone.origin[:40] in page
