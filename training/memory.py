"""How much memory a worker needs with a bundle, by engine and batch, measured: the card's `memory_needed`.

`python -m training.memory --bundle DIR` measures on this machine and writes the card anew. Each figure is the most
resident memory of a process of its own (worker/memory_probe.py), on as many cores as this machine has.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from shared.inference.bundle import Bundle, Card, MemoryNeed
from shared.inference.engine import EngineName
from shared.inference.engines import candidates
from training.bundle.export import write_card

ROOT = Path(__file__).parents[1]
#: Images at once. What one more needs falls with the batch; the card's figure is the steepest rise from one image.
BATCHES = (1, 4, 16)


def memory_needed(bundle: Bundle) -> dict[str, MemoryNeed]:
    """Of every engine that this machine would try and that passes its check."""
    measured = {engine: _peaks(bundle, engine) for engine in candidates(bundle, "auto")}
    return {engine: need(peaks) for engine, peaks in measured.items() if peaks}


def need(peaks: Mapping[int, int]) -> MemoryNeed:
    """Bytes by batch size, 1 among them, as a line that lies nowhere below them."""
    one = peaks[1]
    rises = [(peak - one) / (images - 1) for images, peak in peaks.items() if images > 1]
    return MemoryNeed(one_image=one, each_more=max(0, math.ceil(max(rises, default=0))))


def _peaks(bundle: Bundle, engine: EngineName) -> dict[int, int]:
    """Bytes by batch size; empty when the engine does not run here."""
    peaks = {}
    for images in BATCHES:
        command = [sys.executable, "-m", "worker.memory_probe", str(bundle.path.absolute()), engine, str(images)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            return {}
        peaks[images] = int(done.stdout.split()[-1])
    return peaks


def with_memory(out: Path, card: Card) -> Card:
    """Return the card with what was measured, written."""
    return write_card(out, card.model_copy(update={"memory_needed": memory_needed(Bundle.open(out))}))


def main(bundle: Annotated[Path, typer.Option(help="The bundle's directory.")]) -> None:
    """Measure the memory that a bundle needs, and write its card and README."""
    for engine, needed in with_memory(bundle, Bundle.open(bundle).card).memory_needed.items():
        typer.echo(f"{engine}: {needed.one_image / 1e6:.0f} MB, {needed.each_more / 1e6:.1f} MB for each more image")


if __name__ == "__main__":
    typer.run(main)
