"""Bundles in the object store, on both drivers, and which of them is active, on a real database."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared import bundle_registry
from shared.config import parse
from shared.db.engine import Database
from shared.db.tables import ModelBundle
from shared.errors import ModelError
from shared.inference import bundle_store
from shared.inference.bundle import Bundle
from shared.storage import FolderStorage, Storage, open_storage
from shared.studies.orphans import orphans
from tests.support.bundles.tiny import FILES, write_bundle


@pytest.fixture(params=["folder", "minio"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A store that is ready."""
    storage: Storage = FolderStorage(tmp_path / "objects")
    if request.param == "minio":
        storage = open_storage(parse(request.getfixturevalue("minio_env")))
    storage.prepare()
    return storage


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle; its name, and so its SHA-256, is this test's alone."""
    return write_bundle(tmp_path / tmp_path.name)


def test_what_was_pushed_can_be_fetched(storage: Storage, bundle: Bundle, tmp_path: Path) -> None:
    bundle_store.push(bundle, storage)
    bundle_store.push(bundle, storage)
    bundle_store.check(bundle.sha256, storage)
    (tmp_path / "fetched").mkdir()
    bundle_store.fetch(bundle.sha256, storage, tmp_path / "fetched")
    assert Bundle.open(tmp_path / "fetched").sha256 == bundle.sha256
    assert {info.key for info in storage.list(f"models/{bundle.sha256}/")} == {
        f"models/{bundle.sha256}/{name}" for name in [*FILES, "card.json"]
    }


@pytest.mark.parametrize("file", ["card.json", "backbone.safetensors"])
def test_what_was_altered_or_lost_in_the_store_is_refused_by_name_and_mended_by_pushing_again(
    storage: Storage, bundle: Bundle, tmp_path: Path, file: str
) -> None:
    bundle_store.push(bundle, storage)
    key = f"models/{bundle.sha256}/{file}"
    storage.put(key, BytesIO(b'{"name": "another"}'))
    with pytest.raises(ModelError, match=f"^{file}: its SHA-256 in the object store"):
        bundle_store.fetch(bundle.sha256, storage, tmp_path)
    storage.delete(key)
    with pytest.raises(ModelError, match=f"^{file}: missing in the object store"):
        bundle_store.check(bundle.sha256, storage)
    bundle_store.push(bundle, storage)
    bundle_store.check(bundle.sha256, storage)


def test_a_folder_that_changed_since_it_was_opened_is_not_pushed(storage: Storage, bundle: Bundle) -> None:
    (bundle.path / "head.json").write_bytes(b"other")
    with pytest.raises(ModelError, match=r"^head\.json: its SHA-256"):
        bundle_store.push(bundle, storage)
    (bundle.path / "head.json").write_bytes(FILES["head.json"])
    (bundle.path / "card.json").write_bytes(b"{}")
    with pytest.raises(ModelError, match=r"^card\.json: changed"):
        bundle_store.push(bundle, storage)


def test_a_bundle_that_could_not_answer_every_job_is_told(tmp_path: Path) -> None:
    bundle_registry.check_heads(write_bundle(tmp_path / "whole"))
    with pytest.raises(ModelError, match="has no binary classifier for ct"):
        bundle_registry.check_heads(write_bundle(tmp_path / "half", heads=(("binary", "xray"), ("ensemble", "xray"))))


def test_objects_of_a_registered_bundle_are_no_orphans(
    bundle: Bundle, clean_database: Database, tmp_path: Path
) -> None:
    storage = FolderStorage(tmp_path / "objects")
    storage.prepare()
    bundle_store.push(bundle, storage)
    time.sleep(0.01)  # older than now
    assert sum(map(len, orphans(clean_database, storage, timedelta(0)))) == len(FILES) + 1
    with clean_database.transaction() as session:
        bundle_registry.register(session, bundle)
    assert sum(map(len, orphans(clean_database, storage, timedelta(0)))) == 0


def test_one_bundle_is_active_however_many_activate_at_once(clean_database: Database, tmp_path: Path) -> None:
    bundles = [write_bundle(tmp_path / name).sha256 for name in "abcdef"]
    for name in "abcdef":
        with clean_database.transaction() as session:
            bundle_registry.register(session, Bundle.open(tmp_path / name))
            assert bundle_registry.active(session) is None
    together = threading.Barrier(len(bundles))

    def activate(sha256: str) -> None:
        with clean_database.transaction() as session:
            session.execute(sa.select(1))
            together.wait()
            bundle_registry.activate(session, sha256)

    with ThreadPoolExecutor(len(bundles)) as pool:
        list(pool.map(activate, bundles))
    with clean_database.transaction() as session:
        found = session.scalars(sa.select(ModelBundle.sha256).where(ModelBundle.active)).all()
        activation = bundle_registry.active(session)
    assert activation is not None
    assert found == [activation.sha256]


def test_activating_the_active_one_again_is_another_activation(clean_database: Database, bundle: Bundle) -> None:
    seen = []
    for _ in range(2):
        with clean_database.transaction() as session:
            bundle_registry.register(session, bundle)
            bundle_registry.activate(session, bundle.sha256)
            seen.append(bundle_registry.active(session))
    first, second = seen
    assert first is not None
    assert second is not None
    assert first.sha256 == second.sha256
    assert first != second
