"""Files that are sent are open only while they are read, however the request ends."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from client.uploads import PathReader, closing_parts


def open_files(folder: Path) -> list[str]:
    """The files of a folder that this process has open."""
    targets = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [target for target in targets if target.startswith(str(folder))]


def test_a_file_that_is_not_there_leaves_nothing_to_finalise(tmp_path: Path) -> None:
    """Python 3.13 reports what close() raises when an object is collected; pytest makes an error of it."""
    with pytest.raises(FileNotFoundError):
        PathReader(tmp_path / "none")
    gc.collect()


def test_a_file_that_became_shorter_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1_000_000))
    reader = PathReader(path)
    assert len(reader.read(4)) == 4
    path.write_bytes(b"12345")
    with pytest.raises(OSError, match="became shorter"):
        reader.read()
    assert open_files(tmp_path) == []


def test_a_request_that_breaks_off_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345678")

    def send() -> None:
        with closing_parts([path]) as sent:
            sent[0][1][1].read(4)
            assert open_files(tmp_path) == [str(path)]
            raise ConnectionError

    with pytest.raises(ConnectionError):
        send()
    assert open_files(tmp_path) == []
