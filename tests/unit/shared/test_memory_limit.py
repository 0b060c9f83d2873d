"""What a worker may use, by the control group that it is in, and how much of a batch fits into it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import ModelError
from shared.inference.batch_size import images_that_fit
from shared.inference.bundle import Bundle, MemoryNeed
from shared.inference.engines import choose_engine
from shared.memory import memory_limit, resident
from tests.support.bundles.tiny import write_working_bundle
from training.memory import need

MB = 1_000_000
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def described(proc: Path, groups: str, mounts: list[str]) -> Path:
    """/proc/self of a process in these groups, with these mounts."""
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text("".join(f"{25 + n} 20 0:{n} {line}\n" for n, line in enumerate(mounts)))
    return proc


def written(folder: Path, name: str, value: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{value}\n")


def test_version_2_in_a_container(tmp_path: Path) -> None:
    written(tmp_path / "fs", "memory.max", "700000000")
    proc = described(tmp_path / "proc", "0::/\n", [f"/ {tmp_path}/fs ro - cgroup2 cgroup rw"])
    assert memory_limit(proc) == 700 * MB


@pytest.mark.parametrize(("own", "above", "wanted"), [("max", "500000000", 500), ("300000000", "500000000", 300)])
def test_version_2_below_another_limit(tmp_path: Path, own: str, above: str, wanted: int) -> None:
    written(tmp_path / "fs" / "pod" / "worker", "memory.max", own)
    written(tmp_path / "fs" / "pod", "memory.max", above)
    proc = described(tmp_path / "proc", "0::/pod/worker\n", [f"/ {tmp_path}/fs rw - cgroup2 cgroup rw,nsdelegate"])
    assert memory_limit(proc) == wanted * MB


def test_version_1_in_a_container_whose_path_is_the_host_s(tmp_path: Path) -> None:
    written(tmp_path / "memory", "memory.limit_in_bytes", "600000000")
    mounts = [
        f"/docker/c0ffee {tmp_path}/cpu ro - cgroup cgroup rw,cpu",
        f"/docker/c0ffee {tmp_path}/memory ro - cgroup cgroup rw,memory",
    ]
    groups = "5:cpu,cpuacct:/docker/c0ffee\n4:memory:/docker/c0ffee\n0::/\n"
    assert memory_limit(described(tmp_path / "proc", groups, mounts)) == 600 * MB


@pytest.mark.parametrize("value", ["9223372036854771712", "18446744073709551615"])
def test_version_1_without_a_limit(tmp_path: Path, value: str) -> None:
    written(tmp_path / "memory", "memory.limit_in_bytes", value)
    proc = described(tmp_path / "proc", "4:memory:/\n", [f"/ {tmp_path}/memory ro - cgroup cgroup rw,memory"])
    assert memory_limit(proc) == MACHINE


def test_no_control_groups_leave_the_machine(tmp_path: Path) -> None:
    assert memory_limit(described(tmp_path / "proc", "", ["/ / rw - ext4 /dev/vda rw"])) == MACHINE


def test_this_process_has_less_than_it_may() -> None:
    assert 10 * MB < resident() < memory_limit() <= MACHINE


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """It needs 400 MB, and 10 MB for each image beyond the first, says its card."""
    made = write_working_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    needed = {"openvino-float32": MemoryNeed(one_image=400 * MB, each_more=10 * MB)}
    return Bundle(made.path, made.card.model_copy(update={"memory_needed": needed}), made.sha256)


@pytest.mark.parametrize(("room", "fit"), [(400, 1), (409, 1), (410, 2), (549, 15), (550, 16), (9000, 16)])
def test_as_much_of_a_batch_as_fits(bundle: Bundle, room: int, fit: int) -> None:
    assert images_that_fit(bundle, "openvino-float32", 16, room * MB) == fit


def test_an_engine_that_was_not_measured_needs_as_much_as_the_greediest(bundle: Bundle) -> None:
    assert images_that_fit(bundle, "tensorflow", 16, 450 * MB) == 6
    with pytest.raises(ModelError, match=r"it needs 0\.40 GB"):
        images_that_fit(bundle, "tensorflow", 16, 399 * MB)


def test_of_a_bundle_that_was_not_measured_nothing_is_known(bundle: Bundle) -> None:
    unmeasured = bundle.card.model_copy(update={"memory_needed": {}})
    assert images_that_fit(Bundle(bundle.path, unmeasured, bundle.sha256), "tensorflow", 16, 1) == 16


def test_no_engine_is_loaded_where_none_fits(bundle: Bundle) -> None:
    """The next one is not tried instead: it would be killed while it loads."""
    with pytest.raises(ModelError, match=r"openvino-float32: it needs 0\.40 GB.*tensorflow: it needs 0\.40 GB"):
        choose_engine(bundle, room=100 * MB)


def test_an_engine_is_made_for_what_fits(bundle: Bundle) -> None:
    assert choose_engine(bundle, "openvino-float32", room=450 * MB).engine.max_batch == 6


def test_too_little_is_said_with_what_would_do(bundle: Bundle) -> None:
    with pytest.raises(ModelError) as refused:
        choose_engine(bundle, "openvino-float32", room=399 * MB)
    assert "openvino-float32: it needs 0.40 GB of memory for one image at a time, and 0.40 GB are there" in str(
        refused.value
    )
    assert "0.55 GB for batches of 16" in refused.value.detail


@pytest.mark.parametrize(
    ("peaks", "each_more"),
    [({1: 500, 4: 560, 16: 700}, 20), ({1: 500, 4: 500, 16: 500}, 0), ({1: 500, 4: 490, 16: 800}, 20), ({1: 500}, 0)],
)
def test_the_card_s_line_lies_nowhere_below_what_was_measured(peaks: dict[int, int], each_more: int) -> None:
    needed = need(peaks)
    assert (needed.one_image, needed.each_more) == (500, each_more)
    assert all(needed.of(images) >= peak for images, peak in peaks.items())
