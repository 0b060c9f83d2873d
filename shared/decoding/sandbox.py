"""Decoding in processes that may die of it: a crash, a hang or a bomb takes down a decoder, never who wants the pixels.

A decoder (shared/decoding/child.py) is started when it is first needed and then kept. It gets the bytes of a file
through a socket and gives frames back: no name, no setting, no way to the database or the store. Its memory is limited,
and so are the time for each frame and the CPU time for the file. What it says is read as plain numbers: bytes that took
a decoder over must not get further.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from shared.decoding.child import ENDED, FAILED, FRAME, FRAME_HEAD, READY, USED, receive, send
from shared.errors import ImageError, TooCostly, Unavailable, UndecodableImage
from shared.imaging.info import Limits, Picture
from shared.imaging.preprocess import InputSpec

log = structlog.get_logger(__name__)
ROOT = Path(__file__).resolve().parents[2]
#: Decoders that one file may kill. The first may have been killed by something else, the kernel for memory's sake.
MOST_DEATHS = 2
MOST_WORDS = 4096
#: A decoder loads its codecs in a fraction of a second, and on a machine that is busy in many: no file's fault.
START_SECONDS = 60.0
#: Between two looks at whether a file is still wanted.
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Allowance:
    """What a decoder may use: seconds for a frame, bytes of address space."""

    seconds: float
    memory_bytes: int


class Budget:
    """CPU seconds that a file may take, and those that it took."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.used = seconds, 0.0


class CalledOff(Exception):
    """Nobody wants the file's frames any more; its decoder was ended."""


class Sandbox:
    """As many decoders as threads decode at once; for several threads."""

    def __init__(self, limits: Limits, allowance: Allowance) -> None:
        self._limits, self._allowance = limits, allowance
        self._idle: list[_Decoder] = []

    def prepared(
        self, data: bytes, spec: InputSpec, budget: Budget, unwanted: Callable[[], bool] = lambda: False
    ) -> Iterator[Picture]:
        """Every frame of a file, (size, size) uint8, as `decode.pictures` and `prepare` make it; to be read to its end.

        Raises the errors of `decode.pictures`; TooCostly when it takes more CPU time than its budget; UndecodableImage
        when decoders die of it, or a frame takes too long; and CalledOff soon after it has become `unwanted`.
        """
        asked = {"limits": asdict(self._limits), "spec": asdict(spec)}
        for picture in self._frames(data, asked, spec.size, budget, unwanted):
            if picture.grey.shape != (spec.size, spec.size):
                raise UndecodableImage("The decoder gives frames of another size.")
            yield picture

    def preview(self, data: bytes, frame: int, longest: int, budget: Budget) -> NDArray[np.uint8]:
        """One frame in display grey (H, W), no side longer than that. Raises as `prepared` does."""
        asked = {"limits": asdict(self._limits), "preview": [frame, longest]}
        return next(picture.grey for picture in list(self._frames(data, asked, longest, budget, lambda: False)))

    def _frames(
        self, data: bytes, asked: dict[str, Any], longest: int, budget: Budget, unwanted: Callable[[], bool]
    ) -> Iterator[Picture]:
        done = deaths = 0
        while True:
            try:
                with self._borrowed() as decoder:
                    for frame in islice(decoder.ask(data, asked, longest, budget, unwanted), done, None):
                        done += 1
                        yield frame
            except _DecoderDied as error:
                deaths += 1
                log.warning("decoder.died", reason=str(error), frame=done)
                if error.out_of_time:
                    budget.used = budget.seconds
                    raise TooCostly(
                        f"More than {budget.seconds:.1f} s of CPU time for {len(data) / 1e6:.1f} MB.",
                        cpu_seconds=budget.seconds,
                    ) from error
                if error.hung or deaths == MOST_DEATHS:
                    raise UndecodableImage(f"{error}.") from error
            else:
                return

    @contextmanager
    def _borrowed(self) -> Iterator[_Decoder]:
        """Lend a decoder; it is kept only if it has come to an end with what it was given."""
        decoder = self._idle.pop() if self._idle else _Decoder(self._allowance)
        try:
            yield decoder
        except ImageError:
            self._idle.append(decoder)
            raise
        except BaseException:
            decoder.kill()
            raise
        self._idle.append(decoder)


class _DecoderDied(Exception):
    """A decoder ended, or had to be ended (`hung`), over a file; or its CPU time was over."""

    def __init__(self, reason: str, *, hung: bool = False, out_of_time: bool = False) -> None:
        super().__init__(reason)
        self.hung, self.out_of_time = hung, out_of_time


class _Decoder:
    """One process, which ends with this object."""

    def __init__(self, allowance: Allowance) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(allowance.seconds)
        self._ready = False
        with theirs:
            command = [
                sys.executable,
                "-m",
                "shared.decoding.child",
                str(theirs.fileno()),
                str(allowance.memory_bytes),
            ]
            try:
                self._process = subprocess.Popen(
                    command, cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
                )
            except OSError as error:
                self._socket.close()
                raise Unavailable("no process for a decoder") from error
        self.kill = weakref.finalize(self, _end, self._process, self._socket)

    def ask(
        self, data: bytes, asked: dict[str, Any], longest: int, budget: Budget, unwanted: Callable[[], bool]
    ) -> Iterator[Picture]:
        """Yield the frames that are asked for, no side longer than that."""
        most = 1 + FRAME_HEAD.size + max(longest**2, MOST_WORDS)
        self._wait_ready(unwanted)
        try:
            send(self._socket, json.dumps(asked | {"cpu_seconds": budget.seconds}).encode())
            send(self._socket, data)
            while (message := self._next(most, unwanted))[:1] == FRAME:
                yield _frame(message, longest)
            (budget.used,) = USED.unpack(self._next(USED.size, unwanted))
        except TimeoutError as error:
            raise _DecoderDied(f"no frame within {self._socket.gettimeout():.0f} s", hung=True) from error
        except (EOFError, OSError, ValueError, struct.error) as error:
            raise self._died() from error
        if message[:1] == FAILED:
            raise _image_error(json.loads(message[1:]))
        if message[:1] != ENDED:
            raise _DecoderDied("it says what no decoder says")

    def _wait_ready(self, unwanted: Callable[[], bool]) -> None:
        """Wait until the process can decode; Unavailable when it does not come to that."""
        if self._ready:
            return
        try:
            self._ready = self._next(len(READY), unwanted, START_SECONDS) == READY
        except (TimeoutError, EOFError, OSError, ValueError) as error:
            raise Unavailable("a decoder did not start") from error

    def _next(self, most: int, unwanted: Callable[[], bool], seconds: float | None = None) -> bytearray:
        """Return the next message; TimeoutError when none begins in time (None: a frame's), CalledOff."""
        until = time.monotonic() + (seconds or self._socket.gettimeout() or 0)
        while not unwanted():  # before each frame, however quickly they come
            if wait([self._socket], LOOK_SECONDS):
                return receive(self._socket, most)
            if time.monotonic() > until:
                raise TimeoutError
        raise CalledOff

    def _died(self) -> _DecoderDied:
        self.kill()
        code = self._process.returncode
        if code >= 0:
            return _DecoderDied(f"the decoder ended with {code}")
        return _DecoderDied(f"the decoder ended by {signal.Signals(-code).name}", out_of_time=-code == signal.SIGXCPU)


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    """Its own end, if it has come to one, is what `returncode` tells."""
    connection.close()
    try:
        process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    """Nothing that is secret, and one thread for what would start one per core."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("THORAQ_")}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _frame(message: bytearray, longest: int) -> Picture:
    """ValueError for a frame that is none."""
    height, width, in_lung_window = FRAME_HEAD.unpack_from(message, 1)
    if not (1 <= height <= longest and 1 <= width <= longest):
        raise ValueError("a frame of another size")
    grey = np.frombuffer(message, np.uint8, offset=1 + FRAME_HEAD.size).reshape(height, width)
    return Picture(grey, in_lung_window)


def _image_error(said: dict[str, Any]) -> ImageError:
    kinds: list[type[ImageError]] = ImageError.__subclasses__()
    kind = next((kind for kind in kinds if kind.type == said["type"]), ImageError)
    return kind(said["detail"])
