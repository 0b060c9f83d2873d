"""The raw ceiling: decoding and the default engine in one process with two decode threads, and no system around them.

`python -m bench.ceiling` serves its parent through pipes: a line with a JSON list of file names in, a line with the
seconds and the answers out. It stays loaded, so that rounds can take turns, and ends when its parent does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from bench.load import Measured, Round
from bench.machine import ROOT
from bench.peers.environment import BUNDLE
from bench.peers.model import XrayModel
from shared.errors import ThoraqError

BATCH = 16
DECODE_THREADS = 2


class CeilingFailed(ThoraqError):
    """The process with the bare engine ended."""

    type, title = "ceiling-failed", "The bare engine ended"
    remedy = "Its error is printed above."


class Ceiling:
    """The running process."""

    name = "decode and engine alone"

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def run(self, files: Sequence[Path]) -> Measured:
        """Classify files, in batches where there are several; CeilingFailed when the process is gone."""
        if self._process.stdin is None:
            raise CeilingFailed("it has no input")
        self._process.stdin.write(json.dumps([str(file) for file in files]) + "\n")
        self._process.stdin.flush()
        found = self._answer()
        return Measured(Round(found["seconds"], len(files)), found["answers"])

    def _answer(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise CeilingFailed("no answer came")
        return json.loads(line)


@contextmanager
def ceiling(bundle: Path) -> Iterator[Ceiling]:
    """Start the process, with its engine warm; it is ended at the end."""
    environment = {**os.environ, BUNDLE: str(bundle)}
    command = [sys.executable, "-m", "bench.ceiling"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Ceiling(process)
        finally:
            process.terminate()


def classify(model: XrayModel, pool: ThreadPoolExecutor, files: Iterable[Path]) -> list[dict[str, float]]:
    """Decode in the pool's threads, ahead of the engine, which takes BATCH images at once."""
    pixels = pool.map(lambda file: model.read(file.read_bytes()), files)
    answers: list[dict[str, float]] = []
    while batch := list(islice(pixels, BATCH)):
        answers += model.answers(batch)
    return answers


def main() -> None:
    """Serve the parent until it closes the pipe."""
    # Whatever a library prints must not get among the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model = XrayModel(our_engine=True)
    with ThreadPoolExecutor(DECODE_THREADS, "decode") as pool:
        print(json.dumps("ready"), file=out, flush=True)
        for line in sys.stdin:
            began = time.perf_counter()
            answers = classify(model, pool, [Path(name) for name in json.loads(line)])
            print(json.dumps({"seconds": time.perf_counter() - began, "answers": answers}), file=out, flush=True)


if __name__ == "__main__":
    main()
