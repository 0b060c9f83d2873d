"""A process that decodes what it is sent, and may die of it: `python -m shared.decoding.child SOCKET MEMORY_BYTES`.

It says when it is ready. A request is two messages, what is asked (JSON) and the bytes of a file; the answer is a
message for each frame and one that ends or fails it, with the CPU time that it took. A file that takes more than its
budget of CPU time ends the process (SIGXCPU): no codec looks at a clock. A message is its length in 8 bytes, and so
many bytes. At the other end is shared/decoding/sandbox.py.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import ImageError, ImageTooLarge
from shared.imaging.decode import Limits, Picture, decode_one, pictures
from shared.imaging.preprocess import InputSpec, prepare

READY, FRAME, ENDED, FAILED = b"R", b"F", b".", b"!"
#: Of a message; of a frame: its height and width, and whether a CT slice is in a lung window.
LENGTH, FRAME_HEAD = struct.Struct(">Q"), struct.Struct(">II?")
#: Of the end: CPU seconds.
USED = struct.Struct(">d")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def send(connection: socket.socket, message: bytes) -> None:
    """TimeoutError when the other end does not take all of it in the socket's time."""
    connection.sendall(LENGTH.pack(len(message)))
    connection.sendall(message)


def receive(connection: socket.socket, most: int | None = None) -> bytearray:
    """EOFError when the other end is gone, ValueError for a message beyond `most` bytes."""
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if most is not None and length > most:
        raise ValueError("the message is too long")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytearray:
    read = bytearray(count)
    view = memoryview(read)
    while view:
        got = connection.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return read


def main(handle: int, memory_bytes: int) -> None:
    """Serve until whoever started it is gone."""
    _confine(memory_bytes)
    with socket.socket(fileno=handle) as connection:
        send(connection, READY)
        while True:
            try:
                asked, data = json.loads(receive(connection)), bytes(receive(connection))
            except EOFError:
                return
            began = time.process_time()
            _allow(asked["cpu_seconds"])
            for message in _answer(data, asked):
                send(connection, message)
            send(connection, USED.pack(time.process_time() - began))


def _answer(data: bytes, asked: dict[str, Any]) -> Iterator[bytes]:
    try:
        for picture in _pictures(data, asked, Limits(**asked["limits"])):
            yield FRAME + FRAME_HEAD.pack(*picture.grey.shape, picture.in_lung_window) + picture.grey.tobytes()
    except MemoryError:
        yield _failed(ImageTooLarge("It needs more memory than a decoder may have."))
    except ImageError as error:
        yield _failed(error)
    else:
        yield ENDED


def _pictures(data: bytes, asked: dict[str, Any], limits: Limits) -> Iterator[Picture]:
    """Every frame as a model takes it (`spec`), or one of them to be looked at (`preview`: its index, longest side)."""
    if "preview" in asked:
        frame, longest = asked["preview"]
        yield Picture(fitted(decode_one(data, limits, frame=frame, target=longest), longest))
        return
    spec = InputSpec(**asked["spec"])
    for picture in pictures(data, limits, target=spec.size):
        yield Picture(prepare(picture.grey, spec), picture.in_lung_window)


def fitted(grey: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Return the picture (H, W), shrunk so that no side is longer than that."""
    scale = min(1.0, longest / max(grey.shape))
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    return grey if scale == 1 else np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _failed(error: ImageError) -> bytes:
    return FAILED + json.dumps({"type": error.type, "detail": error.detail}).encode()


def _allow(cpu_seconds: float) -> None:
    """From here on: so much more CPU time, to the next whole second, and then death."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + cpu_seconds), hard))


def _confine(memory_bytes: int) -> None:
    """From here on: no more memory than that, no files, no core, no word, and no life without its starter."""
    # The worker decides when it is over; a terminal's Ctrl-C is not for its decoders.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # One that hangs would never learn from its socket that the worker was killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),  # pictures of patients
    ):
        resource.setrlimit(limit, (most, most))
    # Codecs write about damaged files there, and may quote them.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
