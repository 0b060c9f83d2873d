"""One process that decodes case after case, and says on standard output which one it begins. Somebody watches it.

python -m tests.fuzz.child SEED FIRST
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import struct
import sys
from io import BytesIO

from shared.errors import ImageError
from shared.imaging.decode import Limits, frames, probe
from shared.imaging.dicom.deidentification.deidentify import deidentified
from shared.imaging.info import MediaType
from tests.fuzz.cases import case, seeds

#: Small, so that what is within them is quick; a case beyond them is refused as it would be with larger ones.
LIMITS = Limits(max_pixels=2_000_000, max_frames=20, max_file_pixels=8_000_000)
#: More than anything within the limits may want, in bytes: what tries is refused by the kernel.
ADDRESS_SPACE = 6 << 30
#: What one case may add to the most memory that was ever held, in KiB: a few pictures of the most pixels.
MOST_MEMORY = 256 * 1024
BEGUN, REFUSED, DECODED, RAISED, SWELLED = range(5)
RECORD = struct.Struct("<BQ")


def main(seed: int, first: int) -> None:
    """Case after case, until it is told to stop or dies of one."""
    _quiet()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    seeds()
    _warm_up()
    peak = _peak()
    for number in itertools.count(first):
        data = case(seed, number)
        _say(BEGUN, number)
        _say(_run(data), number)
        before, peak = peak, _peak()
        if peak - before > MOST_MEMORY:
            _say(SWELLED, number)


def _run(data: bytes) -> int:
    """All that the API and a worker do with a file's bytes."""
    try:
        if probe(BytesIO(data), LIMITS).media_type is MediaType.DICOM:
            data = deidentified(BytesIO(data), "fuzz")[0].read()
        for _ in frames(data, LIMITS, target=224):
            pass
    except ImageError:
        return REFUSED
    except Exception as error:  # noqa: BLE001 - whatever else it is is what we look for
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return RAISED
    return DECODED


def _quiet() -> None:
    """Codecs write about damage on descriptor 2; only what we write ourselves is to be seen."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _warm_up() -> None:
    for data in seeds():
        with contextlib.suppress(ImageError):
            _run(data)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _say(what: int, number: int) -> None:
    os.write(1, RECORD.pack(what, number))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
