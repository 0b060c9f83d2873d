"""How many images an engine may be given at once, by what the bundle's card says of its memory."""

from __future__ import annotations

from shared.errors import ModelError
from shared.inference.bundle import Bundle

GIGABYTE = 1e9


def images_that_fit(bundle: Bundle, engine: str, batch_size: int, room: int) -> int:
    """How many images, `batch_size` at the most, may go through this engine at once with `room` bytes of memory.

    An engine that was not measured needs what the greediest of those does that were; without any in the bundle's card
    nothing is known, and all may go. ModelError when not even one fits.
    """
    measured = bundle.card.memory_needed
    if not measured:
        return batch_size
    need = measured.get(engine) or max(measured.values(), key=lambda one: one.of(batch_size))
    if room < need.of(1):
        least, most, there = (size / GIGABYTE for size in (need.of(1), need.of(batch_size), max(room, 0)))
        raise ModelError(
            f"it needs {least:.2f} GB of memory for one image at a time, and {there:.2f} GB are there: give the "
            f"container more, {most:.2f} GB for batches of {batch_size}"
        )
    return min(1 + (room - need.of(1)) // max(need.each_more, 1), batch_size)
