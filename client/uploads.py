"""Files as multipart parts that are read while they are sent."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

Part = tuple[str, tuple[str, BinaryIO, str]]


class PathReader(io.RawIOBase):
    """A file that is open only while its bytes are read.

    A study of two thousand slices thus needs one file descriptor, not two thousand. Sends exactly as many bytes
    as the file had when the request was made, since Content-Length was computed from that.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        # Before what may fail: of an object that was not finished, too, the interpreter asks for close().
        self._file: BinaryIO | None = None
        with path.open("rb") as file:  # now, not in mid-request, is the time to hear that it cannot be read
            self._size = os.fstat(file.fileno()).st_size
        self._path = path
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move; a new attempt at the same request starts with seek(0)."""
        self._release()
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes. OSError if the file has become shorter since the request was made."""
        left = max(0, self._size - self._at)
        want = left if size < 0 else min(size, left)
        if want == 0:
            self._release()
            return b""
        chunk = self._opened().read(want)
        if len(chunk) < want:
            self._release()
            raise OSError("a file became shorter while it was being sent")
        self._at += len(chunk)
        return chunk

    def close(self) -> None:
        self._release()
        super().close()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = self._path.open("rb")
            self._file.seek(self._at)
        return self._file

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def parts(files: Sequence[Path]) -> list[Part]:
    """Multipart parts named `files`, in order. ValueError when there are none, OSError when one cannot be read.

    Their names, without directories, are sent along: the server shows them to their own tenant, and only there.
    """
    if not files:
        raise ValueError("at least one file is needed")
    return [
        ("files", (_name(Path(path)), cast(BinaryIO, PathReader(Path(path))), "application/octet-stream"))
        for path in files
    ]


def _name(path: Path) -> str:
    """Return a name as text: it may hold bytes that no encoding explains, and a form's names are text."""
    return path.name.encode(errors="replace").decode()


@contextmanager
def closing_parts(files: Sequence[Path]) -> Iterator[list[Part]]:
    """`parts`, closed however the request ends: one that breaks off leaves no file open. Raises as `parts` does."""
    made = parts(files)
    try:
        yield made
    finally:
        for _, (_, file, _) in made:
            file.close()
