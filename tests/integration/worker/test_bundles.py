"""A worker follows the active bundle: when it changes, refuses and tries again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared import bundle_registry
from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Image, Result
from shared.errors import ModelError, StorageError, Unavailable
from shared.inference import bundle_store
from shared.inference.bundle import Bundle
from shared.inference.engines import make_engine
from shared.storage import FolderStorage, Storage, object_key
from tests.support.bundles.tiny import write_bundle, write_working_bundle
from tests.support.rows import add_job, add_tenant
from worker.bundles import reloader
from worker.bundles.cache import ModelCache
from worker.bundles.reloader import BundleReloader
from worker.classify.handler import Classify
from worker.classify.predictor import Model

ROOT = Path(__file__).parents[3]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A store that is ready."""
    storage = FolderStorage(tmp_path / "objects")
    storage.prepare()
    return storage


def cached(tmp_path: Path) -> set[str]:
    """What lies in the cache."""
    return {path.name for path in (tmp_path / "cache").iterdir()} - {".lock"}


class Worker:
    """What a worker has of models: names instead of networks, so that the tests see which one it serves."""

    def __init__(self, tmp_path: Path, database: Database, storage: Storage) -> None:
        self.tmp_path, self.database, self.storage = tmp_path, database, storage
        self.fault: Exception | None = None
        self.database_away = False
        self.shipped = write_bundle(tmp_path / "shipped")
        self.reloader = BundleReloader(self.shipped.path, database, ModelCache(tmp_path / "cache", storage), self.load)
        self.serves: str | None = None

    def load(self, bundle: Bundle) -> str:
        """The bundle's name, unless this machine cannot run it."""
        if self.fault is not None and bundle.name != "shipped":
            raise self.fault
        return bundle.name

    def swap(self, model: str) -> None:
        """Serve it; as the real one, only when the database confirms it."""
        if self.database_away:
            raise Unavailable("the database does not answer")
        self.serves = model

    def start(self) -> None:
        """Begin."""
        self.serves = self.reloader.first()

    def check(self) -> None:
        """Check for another bundle."""
        self.reloader.check(self)

    def activate(self, bundle: Bundle) -> None:
        """What the operator does."""
        bundle_store.push(bundle, self.storage)
        with self.database.transaction() as session:
            bundle_registry.register(session, bundle)
            bundle_registry.activate(session, bundle.sha256)

    def damage(self, bundle: Bundle) -> None:
        """Alter a file in the store."""
        self.storage.put(f"models/{bundle.sha256}/head.json", BytesIO(b"altered"))


@pytest.fixture
def worker(tmp_path: Path, clean_database: Database, storage: Storage) -> Worker:
    """A worker that has not started."""
    return Worker(tmp_path, clean_database, storage)


def test_it_serves_the_shipped_bundle_until_another_is_activated(worker: Worker, tmp_path: Path) -> None:
    worker.start()
    worker.check()
    assert (worker.serves, worker.reloader.problem) == ("shipped", None)
    for name in ("second", "third"):
        worker.activate(write_bundle(tmp_path / name))
        worker.check()
        assert (worker.serves, worker.reloader.problem) == (name, None)
    assert cached(tmp_path) == {Bundle.open(tmp_path / "third").sha256}


def test_it_goes_back_to_an_older_one(worker: Worker, tmp_path: Path) -> None:
    old = write_bundle(tmp_path / "old")
    worker.start()
    for bundle in (old, write_bundle(tmp_path / "new"), old):
        worker.activate(bundle)
        worker.check()
    assert worker.serves == "old"


def test_it_starts_with_the_bundle_that_was_activated_while_it_was_away(worker: Worker, tmp_path: Path) -> None:
    worker.activate(write_bundle(tmp_path / "second"))
    worker.start()
    assert worker.serves == "second"


def damaged(worker: Worker, bundle: Bundle) -> str:
    """A file of the bundle was altered in the store."""
    worker.damage(bundle)
    return "head.json: its SHA-256 in the object store"


def no_engine(worker: Worker, bundle: Bundle) -> str:
    """No engine repeats the reference answers."""
    worker.fault = ModelError(f"no engine runs model bundle {bundle.name} as it should")
    return "no engine runs"


def a_bug(worker: Worker, _: Bundle) -> str:
    """Something that nobody has thought of."""
    worker.fault = ValueError("patient's name")
    return "cannot be loaded (ValueError)"


def store_away(worker: Worker, _: Bundle) -> str:
    """The store cannot be reached."""
    (worker.tmp_path / "objects").rename(worker.tmp_path / "away")
    return "the object folder"


def database_away(worker: Worker, _: Bundle) -> str:
    """The database is gone when the model has loaded."""
    worker.database_away = True
    return "the database"


@pytest.mark.parametrize("fault", [damaged, no_engine, a_bug, store_away, database_away])
def test_a_bundle_that_it_cannot_serve_is_refused_with_the_reason(
    worker: Worker, tmp_path: Path, fault: Callable[[Worker, Bundle], str]
) -> None:
    worker.start()
    bundle = write_bundle(tmp_path / "second")
    worker.activate(bundle)
    reason = fault(worker, bundle)
    worker.check()
    assert worker.serves == "shipped"
    assert worker.reloader.problem is not None
    assert worker.reloader.problem.startswith(f"{bundle.sha256[:12]}: {reason}")
    assert "patient" not in worker.reloader.problem


def test_a_refused_bundle_is_not_tried_at_every_look_but_once_it_is_activated_again(
    worker: Worker, tmp_path: Path
) -> None:
    worker.start()
    bundle = write_bundle(tmp_path / "second")
    worker.activate(bundle)
    worker.damage(bundle)
    worker.check()
    bundle_store.push(bundle, worker.storage)
    worker.check()
    assert worker.serves == "shipped"
    assert "head.json" in (worker.reloader.problem or "")
    worker.activate(bundle)
    worker.check()
    assert (worker.serves, worker.reloader.problem) == ("second", None)


def test_a_refused_bundle_is_tried_again_after_a_pause(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloader, "FIRST_PAUSE", 0.0)
    worker.start()
    bundle = write_bundle(tmp_path / "second")
    worker.activate(bundle)
    worker.damage(bundle)
    worker.check()
    bundle_store.push(bundle, worker.storage)
    worker.check()
    assert (worker.serves, worker.reloader.problem) == ("second", None)


def test_a_worker_that_starts_beside_a_damaged_active_bundle_serves_the_shipped_one_and_says_so(
    worker: Worker, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "second")
    worker.activate(bundle)
    worker.damage(bundle)
    worker.start()
    worker.check()
    assert worker.serves == "shipped"
    assert "head.json" in (worker.reloader.problem or "")
    worker.activate(worker.shipped)
    worker.check()
    assert (worker.serves, worker.reloader.problem) == ("shipped", None)


def test_a_worker_that_cannot_reach_the_store_of_the_active_bundle_waits_for_it(worker: Worker, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "second")
    worker.activate(bundle)
    store_away(worker, bundle)
    with pytest.raises(StorageError):
        worker.start()
    (tmp_path / "away").rename(tmp_path / "objects")
    worker.start()
    assert worker.serves == "second"


def test_a_role_changes_its_model_between_batches_and_answers_every_job_once(
    clean_database: Database, settings: Settings, storage: Storage, tmp_path: Path
) -> None:
    old, new = write_working_bundle(tmp_path / "old"), write_working_bundle(tmp_path / "new")
    cache = ModelCache(tmp_path / "cache", storage)
    reloader = BundleReloader(
        old.path, clean_database, cache, lambda bundle: Model(bundle, make_engine("openvino-float32", bundle))
    )
    slow = settings.model_copy(update={"batch_size": 1, "drain_seconds": 3600.0})
    handler = Classify("worker", slow, clean_database, storage, reloader.first())
    ids = queue(clean_database, storage, 20)
    bundle_store.push(new, storage)
    busy = threading.Thread(target=handler.drain, args=(threading.Event(),))
    busy.start()
    while not answered(clean_database):
        assert busy.is_alive()
    with clean_database.transaction() as session:
        bundle_registry.register(session, new)
        bundle_registry.activate(session, new.sha256)
    reloader.check(handler)
    busy.join()
    late = queue(clean_database, storage, 1)
    handler.drain(threading.Event())
    found = answered(clean_database)
    assert sorted(job_id for job_id, _ in found) == sorted(ids + late)
    named = [sha256 for _, sha256 in found]
    assert named == sorted(named, key=[old.sha256, new.sha256].index)
    assert (named[0], named[-1]) == (old.sha256, new.sha256)
    assert handler.serving is not None
    assert handler.serving.bundle_sha256 == new.sha256


def queue(database: Database, storage: Storage, count: int) -> list[str]:
    """So many jobs for a real X-ray."""
    with database.transaction() as session:
        tenant = add_tenant(session)
        ids = [add_job(session, tenant).id for _ in range(count)]
        stored = storage.put(object_key(tenant.id), BytesIO((ROOT / "samples" / "xray-normal.png").read_bytes()))
        session.execute(sa.update(Image).values(object_key=stored.key, sha256=stored.sha256))
    return ids


def answered(database: Database) -> list[tuple[str, str]]:
    """Jobs and the bundles that answered them, in the order of the answers."""
    with database.transaction() as session:
        rows = session.execute(sa.select(Result.job_id, Result.bundle_sha256).order_by(Result.created_at)).all()
    return [(row.job_id, row.bundle_sha256) for row in rows]
