"""The API's own disk, where bodies wait until they are stored: an error of it becomes ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import DiskFull, Unavailable

#: No block or inode is left, the quota is used up, or the file is as long as it may be (write(2), ERRORS).
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise DiskFull for an OSError that says there is no room, Unavailable for any other."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull("the disk where uploads wait is full; nothing was accepted") from error
        name = errno.errorcode.get(error.errno or 0, "unknown")
        raise Unavailable(f"the disk where uploads wait failed: {name}") from error
