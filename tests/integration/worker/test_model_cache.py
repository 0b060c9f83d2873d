"""The cache of bundles that the workers of a machine share, with real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared.cpu import Cpu
from shared.errors import ModelError
from shared.inference import bundle_store
from shared.inference.engine_comparison import Comparison, Comparisons
from shared.storage import FolderStorage, Storage
from tests.support.bundles.tiny import write_bundle
from worker.bundles.cache import ModelCache

ROOT = Path(__file__).parents[3]
OPEN = """
import sys, time
from pathlib import Path
from shared.storage import FolderStorage
from worker.bundles.cache import ModelCache

class Slow(FolderStorage):
    def get(self, *words, **named):
        time.sleep(0.2)  # so that those who fetch at once are at it together
        return super().get(*words, **named)

cache = ModelCache(Path(sys.argv[1]), Slow(Path(sys.argv[2])))
print("ready", flush=True)
sys.stdin.readline()
print(cache.open(sys.argv[3]).name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A store that is ready."""
    storage = FolderStorage(tmp_path / "objects")
    storage.prepare()
    return storage


@pytest.fixture
def cache(tmp_path: Path, storage: Storage) -> ModelCache:
    """An empty cache, in tmp_path/cache."""
    return ModelCache(tmp_path / "cache", storage)


def another_worker(tmp_path: Path, sha256: str) -> subprocess.Popen[str]:
    """A process that opens the bundle when it is told to go, and holds it until its standard input ends."""
    command = [sys.executable, "-c", OPEN, str(tmp_path / "cache"), str(tmp_path / "objects"), sha256]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def until(worker: subprocess.Popen[str], line: str) -> None:
    """Returns when the process has printed the line."""
    assert worker.stdout is not None
    while worker.stdout.readline() != f"{line}\n":
        assert worker.poll() is None


def go(worker: subprocess.Popen[str]) -> None:
    """Have the process open the bundle."""
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def cached(tmp_path: Path) -> set[str]:
    """What lies in the cache."""
    return {path.name for path in (tmp_path / "cache").iterdir()} - {".lock"}


def test_workers_that_start_together_fetch_once(tmp_path: Path, storage: Storage) -> None:
    bundle = write_bundle(tmp_path / "shared")
    bundle_store.push(bundle, storage)
    workers = [another_worker(tmp_path, bundle.sha256) for _ in range(3)]
    for worker in workers:
        until(worker, "ready")
    for worker in workers:
        go(worker)
    printed = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sum(text.count("model.fetched") for text in printed) == 1
    assert [text.splitlines()[-1] for text in printed] == ["shared"] * 3


def test_what_another_worker_serves_is_not_removed(tmp_path: Path, storage: Storage, cache: ModelCache) -> None:
    bundle = write_bundle(tmp_path / "served")
    bundle_store.push(bundle, storage)
    with another_worker(tmp_path, bundle.sha256) as worker:
        go(worker)
        until(worker, "served")
        cache.keep(set())
        assert cached(tmp_path) == {bundle.sha256}
        worker.communicate()
    cache.keep(set())
    assert cached(tmp_path) == set()


def test_what_a_killed_worker_left_half_fetched_is_removed(tmp_path: Path, cache: ModelCache) -> None:
    (tmp_path / "cache" / ".part-left").mkdir(parents=True)
    (tmp_path / "cache" / ".part-left" / "card.json").write_bytes(b"{")
    cache.keep(set())
    assert cached(tmp_path) == set()


@pytest.mark.parametrize("damage", [b"", b"other"])
def test_a_cached_bundle_that_was_damaged_is_fetched_again(
    tmp_path: Path, storage: Storage, cache: ModelCache, damage: bytes
) -> None:
    bundle = write_bundle(tmp_path / "b")
    bundle_store.push(bundle, storage)
    file = cache.open(bundle.sha256).path / "backbone.safetensors"
    whole = file.read_bytes()
    file.write_bytes(damage)
    cache.open(bundle.sha256)
    assert file.read_bytes() == whole


def test_a_damaged_bundle_leaves_nothing_in_the_cache(tmp_path: Path, storage: Storage, cache: ModelCache) -> None:
    bundle = write_bundle(tmp_path / "b")
    bundle_store.push(bundle, storage)
    storage.delete(f"models/{bundle.sha256}/head.json")
    with pytest.raises(ModelError, match=r"head\.json: missing"):
        cache.open(bundle.sha256)
    assert cached(tmp_path) == set()


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"THORAQ_MODEL_CACHE\) failed: ENOTDIR"):
        ModelCache(tmp_path / "file" / "cache", storage).open("0" * 64)


def test_what_was_measured_of_engines_stays_when_bundles_go(tmp_path: Path, cache: ModelCache) -> None:
    known = Comparisons(tmp_path / "cache")
    found = Comparison("openvino-int8", {"openvino-int8": 2.0, "openvino-float32": 1.0})
    known.keep("key", found, Cpu("a CPU"))
    cache.keep(set())
    assert known.recall("key") == found
