"""`make fuzz`: damaged images and DICOM files through the decoders, in a process that is watched from outside.

Found is what a worker must not meet: a death, a hang, an error that is none of ours, memory that grows. Each is written
to a file, and the search goes on behind it.
"""

from __future__ import annotations

import argparse
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.fuzz.cases import save
from tests.fuzz.child import BEGUN, DECODED, RAISED, RECORD, REFUSED, SWELLED

ROOT = Path(__file__).parents[2]
CHILD = (sys.executable, "-m", "tests.fuzz.child")
HANG_SECONDS = 20.0
#: What a process may hold more than after its first cases, in pages of 4 KiB: caches fill, and allocators keep.
MOST_GROWTH_PAGES = 100_000
WARM_CASES = 2_000
WORDS = {REFUSED: "refused", DECODED: "decoded", RAISED: "raised", SWELLED: "swelled"}


class Watch:
    """One child after the other, from the case on at which the last one ended."""

    def __init__(self, seed: int, found: Path, program: Sequence[str] = CHILD) -> None:
        self.counts: Counter[str] = Counter()
        self._seed, self._found, self._program = seed, found, program
        self._next = 0

    def run(self, seconds: float) -> None:
        """For so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._one_child(until)

    def _one_child(self, until: float) -> None:
        command = [*self._program, str(self._seed), str(self._next)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
            current: int | None = None
            grown = Growth(child.pid)
            try:
                for what, number in _records(child, until):
                    current = number if what == BEGUN else None
                    self._next = number + 1
                    self._note(what, number)
                    if what == BEGUN and grown.too_much(number):
                        self._keep("grown", number)
                        return
            except TimeoutError:
                self._keep("hung", self._next - 1)
            else:
                if time.monotonic() < until:
                    self._died(child, current)
            finally:
                child.kill()

    def _note(self, what: int, number: int) -> None:
        if what == BEGUN:
            self.counts["cases"] += 1
        elif what in {RAISED, SWELLED}:
            self._keep(WORDS[what], number)
        else:
            self.counts[WORDS[what]] += 1

    def _died(self, child: subprocess.Popen[bytes], current: int | None) -> None:
        child.wait(HANG_SECONDS)
        if current is None:
            raise RuntimeError(f"the process ended by itself: {child.returncode}")
        self._keep(f"died ({child.returncode})", current)

    def _keep(self, what: str, number: int) -> None:
        self.counts[what.partition(" ")[0]] += 1
        print(f"{what}: case {number}, kept as {save(self._found, self._seed, number)}", flush=True)


class Growth:
    """Whether a process holds more and more memory."""

    def __init__(self, pid: int) -> None:
        self._statm = Path(f"/proc/{pid}/statm")
        self._cases = self._first = 0

    def too_much(self, number: int) -> bool:
        """Looked at now and then; compared with what it held after its first cases."""
        self._cases += 1
        if self._cases < WARM_CASES or number % 100:
            return False
        pages = int(self._statm.read_text().split()[1])
        self._first = self._first or pages
        return pages - self._first > MOST_GROWTH_PAGES


def _records(child: subprocess.Popen[bytes], until: float) -> Iterator[tuple[int, int]]:
    """What the child says, until it ends or the time is over; TimeoutError when it has said nothing for too long."""
    assert child.stdout is not None
    data = b""
    started = False
    while time.monotonic() < until:
        # Loading and warming up takes longer than any case.
        ready, _, _ = select.select([child.stdout], [], [], HANG_SECONDS if started else 10 * HANG_SECONDS)
        if not ready:
            raise TimeoutError
        piece = child.stdout.read1(65536)  # type: ignore[attr-defined]
        if not piece:
            return
        started = True
        data += piece
        whole = len(data) // RECORD.size * RECORD.size
        yield from RECORD.iter_unpack(data[:whole])
        data = data[whole:]


def main() -> int:
    """0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=ROOT / ".thoraq" / "fuzz", help="where cases are kept")
    asked = parser.parse_args()
    watch = Watch(asked.seed, asked.found)
    watch.run(asked.seconds)
    print(" ".join(f"{word}={count}" for word, count in sorted(watch.counts.items())))
    return int(bool(set(watch.counts) - {"cases", "refused", "decoded"}))


if __name__ == "__main__":
    sys.exit(main())
