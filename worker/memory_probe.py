"""What a classify worker's process needs with a bundle on an engine: `python -m worker.memory_probe DIR ENGINE IMAGES`.

Loads what `celery -A worker.app worker --queues classify` loads, runs batches of so many images through it in all of
its lanes, asks every head with heatmaps, and prints the most memory that the process ever had, in bytes. Started by
training/memory.py, once for each figure: a process that has been large never becomes small again.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import celery  # noqa: F401 - the process that is measured has it loaded
import numpy as np

import worker.classify.handler  # noqa: F401 - so with this
from shared.db.tables import Classifier, Modality
from shared.inference.bundle import Bundle
from shared.inference.engines import choose_engine
from worker.classify.predictor import ImageRequest, Model

ROUNDS = 3


def main(directory: str, engine: str, images: str) -> int:
    """Bytes."""
    bundle = Bundle.open(Path(directory))
    model = Model(bundle, choose_engine(bundle, engine, int(images)).engine)
    size, count = bundle.input.size, max(int(images) // model.lanes, 1)
    pixels = np.random.default_rng(1).integers(0, 255, (count, size, size), np.uint8)
    requests = [ImageRequest(row, classifier, Modality.XRAY) for row in range(count) for classifier in Classifier]
    with ThreadPoolExecutor(model.lanes) as lanes:
        for _ in range(ROUNDS):
            for outputs in lanes.map(lambda _: model.infer(pixels, requests, beside=True), range(model.lanes)):
                outputs.predictions(heatmaps=True)
    return peak()


def peak() -> int:
    """Return the most resident memory of this process so far (VmHWM, proc(5))."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
