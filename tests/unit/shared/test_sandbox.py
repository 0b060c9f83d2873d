"""Decoders in processes of their own: the same pictures, and deaths that stay theirs."""

from __future__ import annotations

import gc
import os
import resource
import signal
import threading
import time

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1

from shared.decoding.sandbox import Allowance, Budget, CalledOff, Sandbox
from shared.errors import CorruptImage, ImageTooLarge, TooCostly, UndecodableImage, UnsupportedImage
from shared.imaging.decode import Limits, frames
from shared.imaging.preprocess import InputSpec, prepare
from tests.support.decoders import decoders
from tests.support.files.costly import black_pages
from tests.support.files.images import make_dicom
from tests.support.files.poisoned import CRASH, FOLDER, HANG, picture

SPEC = InputSpec()
CT = np.random.default_rng(5).integers(0, 4096, (3, 96, 80)).astype(np.uint16)
FILES = [
    make_dicom(CT, modality="CT", bits_stored=12),
    make_dicom(CT, modality="CT", bits_stored=12, transfer_syntax=JPEGLosslessSV1),
    make_dicom(CT, modality="CT", bits_stored=12, transfer_syntax=JPEG2000Lossless),
    picture(".tif"),
    picture(".png"),
]


def children_seconds() -> float:
    """CPU seconds of the processes that this one has started and seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make(seconds: float = 30, memory_bytes: int = 8_000_000_000, limits: Limits | None = None) -> Sandbox:
    return Sandbox(limits or Limits(), Allowance(seconds, memory_bytes))


@pytest.fixture
def sandbox() -> Sandbox:
    gc.collect()  # those of the tests before
    assert decoders() == []
    return make()


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on decoders die of the files that are made for it."""
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))


def test_decoders_end_with_their_sandbox() -> None:
    gc.collect()  # those of the tests before
    sandbox = make()
    assert len(list(sandbox.prepared(FILES[0], SPEC, Budget(60)))) == len(CT)
    assert len(decoders()) == 1
    del sandbox
    gc.collect()
    assert decoders() == []


def test_frames_are_those_of_the_process_itself_from_one_decoder(sandbox: Sandbox) -> None:
    pids = set()
    for data in FILES:
        expected = [prepare(grey, SPEC) for grey in frames(data, Limits(), target=SPEC.size)]
        found = [picture.grey for picture in sandbox.prepared(data, SPEC, Budget(60))]
        assert len(found) == len(expected)
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
        pids |= {decoder.pid for decoder in decoders()}
    assert len(pids) == 1


@pytest.mark.parametrize(
    ("data", "kind"),
    [(FILES[1][:-200], CorruptImage), (b"no picture at all", UnsupportedImage), (FILES[0], ImageTooLarge)],
)
def test_errors_keep_their_kind_and_the_decoder_goes_on(data: bytes, kind: type[Exception]) -> None:
    sandbox = make(limits=Limits(max_pixels=96 * 80 - 1) if kind is ImageTooLarge else None)
    with pytest.raises(kind):
        list(sandbox.prepared(data, SPEC, Budget(60)))
    (before,) = decoders()
    assert len(list(sandbox.prepared(picture(".tif"), SPEC, Budget(60)))) == 1
    assert decoders() == [before]


@pytest.mark.usefixtures("poisoned")
def test_a_file_that_crashes_decoders_is_refused_and_the_next_one_is_read(sandbox: Sandbox) -> None:
    with pytest.raises(UndecodableImage, match="SIGSEGV"):
        list(sandbox.prepared(picture(".tif", CRASH), SPEC, Budget(60)))
    assert decoders() == []
    assert len(list(sandbox.prepared(picture(".tif"), SPEC, Budget(60)))) == 1


@pytest.mark.usefixtures("poisoned")
def test_a_file_over_which_a_decoder_hangs_is_refused_when_its_time_is_over() -> None:
    sandbox = make(seconds=2)
    began = time.monotonic()
    with pytest.raises(UndecodableImage, match="no frame within 2 s"):
        list(sandbox.prepared(picture(".tif", HANG), SPEC, Budget(60)))
    assert time.monotonic() - began < 20
    assert decoders() == []


def test_a_decoder_that_was_killed_by_something_else_costs_nothing(sandbox: Sandbox) -> None:
    """By the kernel, for memory's sake: the file is none the worse, and its frames come once each."""
    data = make_dicom(np.tile(CT, (14, 1, 1))[:40], modality="CT", bits_stored=12)
    coming = sandbox.prepared(data, SPEC, Budget(60))
    found = [next(coming)]
    (victim,) = decoders()
    os.kill(victim.pid, signal.SIGKILL)
    found += list(coming)
    expected = [prepare(grey, SPEC) for grey in frames(data, Limits(), target=SPEC.size)]
    assert len(found) == 40
    assert all(np.array_equal(one.grey, other) for one, other in zip(found, expected, strict=True))


def test_a_decoder_has_only_so_much_memory() -> None:
    """A picture within the limits, whose pixels are more than the decoder may have."""
    flat = picture(".tif", level=0)
    big = make_dicom(np.zeros((8000, 8000), np.uint16), modality="CT", bits_stored=12)
    sandbox = make(memory_bytes=600_000_000)
    assert len(list(sandbox.prepared(flat, SPEC, Budget(60)))) == 1
    with pytest.raises((ImageTooLarge, UndecodableImage)):
        list(sandbox.prepared(big, SPEC, Budget(60)))


def test_a_decoder_sees_no_secret(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THORAQ_DATABASE_URL", "postgresql+psycopg://user:secret@host/db")
    list(sandbox.prepared(picture(".tif"), SPEC, Budget(60)))
    (decoder,) = decoders()
    assert not [name for name in decoder.environ() if name.startswith("THORAQ_")]


def test_a_reader_that_goes_away_leaves_no_decoder_with_frames_of_its_file(sandbox: Sandbox) -> None:
    coming = sandbox.prepared(FILES[0], SPEC, Budget(60))
    next(coming)
    coming.close()  # type: ignore[attr-defined]
    assert decoders() == []
    assert len(list(sandbox.prepared(picture(".tif"), SPEC, Budget(60)))) == 1


def test_a_file_that_takes_more_cpu_time_than_its_budget_is_too_costly(sandbox: Sandbox) -> None:
    """By the kernel's clock: no codec looks at one. A hundred pages are long work for LZMA."""
    data = black_pages(100)
    budget = Budget(1)
    began = children_seconds()

    with pytest.raises(TooCostly, match=r"More than 1\.0 s of CPU time for 0\.\d MB"):
        list(sandbox.prepared(data, SPEC, budget))

    assert budget.used == 1
    # Its start (libraries), the budget, and the second to which the kernel counts.
    assert children_seconds() - began < 15
    assert decoders() == []
    assert len(list(sandbox.prepared(picture(".tif"), SPEC, Budget(60)))) == 1


def test_a_decoder_has_a_budget_for_each_file(sandbox: Sandbox) -> None:
    """What earlier files took is not counted: a decoder goes on for as long as none of them is too costly."""
    first = Budget(60)
    list(sandbox.prepared(black_pages(3), SPEC, first))
    assert 0 < first.used < 60
    for _ in range(3):
        list(sandbox.prepared(black_pages(3), SPEC, Budget(2 * first.used + 1)))
    assert len(decoders()) == 1


def test_a_file_that_nobody_wants_any_more_is_called_off_within_a_frame() -> None:
    unwanted = threading.Event()
    sandbox = make(seconds=600)
    coming = sandbox.prepared(black_pages(100), SPEC, Budget(600), unwanted.is_set)
    next(coming)
    unwanted.set()

    with pytest.raises(CalledOff):
        list(coming)
    assert decoders() == []
