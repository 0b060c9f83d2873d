"""A disk that takes no more bytes: whoever waits for an answer gets the one that says so."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from api.batches.zip_reader import SPOOL_BYTES, Archive
from api.http.forms.disk import disk_errors
from api.http.forms.parser import StrictFormParser
from api.http.forms.spool import MEMORY_BYTES
from shared.config import parse
from shared.errors import DiskFull, Unavailable
from tests.support.storage import largest_file

ROOT = Path(__file__).parents[3]
# It ends without Python's last flush of standard error, which would fail too.
LOGS_AND_ANSWERS = """
import os, structlog
from prometheus_client.registry import REGISTRY
from shared.log import set_up_logging

set_up_logging("INFO")
for _ in range(2):
    structlog.get_logger("test").error("request.unavailable")
print(f"answered, {REGISTRY.get_sample_value('thoraq_log_lines_lost_total')} lines lost", end="", flush=True)
os._exit(0)
"""


def form_of(content: bytes) -> bytes:
    head = b'--limit\r\nContent-Disposition: form-data; name="f"; filename="x.png"\r\n\r\n'
    return head + content + b"\r\n--limit--\r\n"


def test_a_form_that_finds_no_room_is_refused_as_such() -> None:
    body = form_of(bytes(4 * MEMORY_BYTES))
    with largest_file(1000), pytest.raises(DiskFull, match="nothing was accepted"):
        StrictFormParser().parse(io.BytesIO(body), "multipart/form-data", len(body), {"boundary": "limit"})


@pytest.mark.parametrize("size", [SPOOL_BYTES + 100, 4 * SPOOL_BYTES])
def test_a_member_of_an_archive_that_finds_no_room_is_refused_as_such(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with ZipFile(path, "w") as packed:
        packed.writestr("x.png", bytes(size))
    unused = {"DATABASE_URL": "postgresql://unused/unused", "REDIS_URL": "redis://unused", "SECRET_KEY": "unused" * 6}
    settings = parse({f"THORAQ_{name}": value for name, value in unused.items()})
    with largest_file(1000), pytest.raises(DiskFull):
        list(Archive([path.read_bytes()], 0, settings))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_to_be_full_is_full(code: int) -> None:
    with pytest.raises(DiskFull), disk_errors():
        raise OSError(code, "no room")


def test_a_disk_that_fails_is_named_with_its_error() -> None:
    with pytest.raises(Unavailable, match="EIO") as raised, disk_errors():
        raise OSError(errno.EIO, "failed")
    assert not isinstance(raised.value, DiskFull)


def test_a_log_that_is_full_stops_nobody() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LOGS_AND_ANSWERS],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            check=True,
        )
    assert done.stdout == "answered, 2.0 lines lost"
