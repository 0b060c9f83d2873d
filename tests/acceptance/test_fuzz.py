"""Half a minute of `make fuzz`, and that it finds what it looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import Watch
from tests.fuzz.cases import case, seeds

ROOT = Path(__file__).parents[2]


def test_damaged_files_end_in_no_crash_hang_or_growth(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "30", "--found", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
    counts = dict(word.split("=") for word in done.stdout.split())
    assert int(counts["cases"]) > 500
    assert int(counts["decoded"]) > 50  # it gets through to the codecs, too


def test_a_case_is_the_same_whenever_it_is_made() -> None:
    assert [case(1, number) for number in range(20)] == [case(1, number) for number in range(20)]
    assert len({case(1, number) for number in range(50)}) > 45
    assert len(seeds()) > 80


# Speaks as the child does, begins two cases, and meets what is looked for in the second.
PROGRAM = """
import os, signal, struct, sys, time
BEGUN, REFUSED, DECODED, RAISED, SWELLED = range(5)
first = int(sys.argv[2])
say = lambda what, number: os.write(1, struct.pack("<BQ", what, number))
for number in (first, first + 1):
    say(BEGUN, number)
    say(DECODED, number) if number == first else {act}
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("act", "word"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died"),
        ("time.sleep(60)", "hung"),
        ("say(RAISED, number)", "raised"),
        ("say(SWELLED, number)", "swelled"),
    ],
)
def test_what_is_looked_for_is_found_and_kept(
    act: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.__main__.HANG_SECONDS", 0.5)
    watch = Watch(5, tmp_path, (sys.executable, "-c", PROGRAM.format(act=act)))
    watch.run(3)
    assert watch.counts[word]
    assert (tmp_path / "5-1.bin").read_bytes() == case(5, 1)
