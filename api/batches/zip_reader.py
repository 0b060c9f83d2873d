"""A ZIP, member by member, as it comes in. Nothing of it is held but the member that is being read.

A member's name is data: it is never a path here. What systems put beside the pictures is no item, and is named
(`api/batches/ignored_files.py`). A member that cannot be read is an item that fails. What only an archive that is made
to do harm has in it (`api/batches/zip_safety.py`) refuses all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import SEEK_END
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from api.batches.ignored_files import is_directory, is_ignored
from api.batches.zip.names import member_name
from api.batches.zip.stream import ZipStream
from api.batches.zip_safety import HEAD_BYTES, Directory, Entries, check_content
from api.http.forms.disk import disk_errors
from api.uploads.receive import shown_name
from shared.config import Settings
from shared.errors import (
    ArchiveLimits,
    ArchiveRefused,
    ImageError,
    PayloadTooLarge,
    ThoraqError,
    UnreadableArchive,
)

#: A member up to this size stays in memory until it is stored.
SPOOL_BYTES = 1024 * 1024
#: An archive that unpacks to more than this is refused when it is also so many times as large as what was sent.
BOMB_BYTES, BOMB_RATIO = 100_000_000, 200
#: Members of all kinds for each item that a batch may have: directories, and what macOS puts beside every file.
ENTRIES_PER_ITEM = 4


@dataclass(frozen=True)
class ZipMember:
    """A file of the archive, to be read and closed by whoever gets it; or why it cannot be read."""

    item: int
    name: str
    file: BinaryIO
    size: int
    error: ThoraqError | None


def ignore_silently(item: int, name: str) -> None:
    """Do nothing about a member that is left out, where nobody asks."""
    del item, name


class Archive:
    """The members of one ZIP; `pieces` are its bytes, and the first member has the number `first_item`.

    `ignore` is told of each file that is left out: the number of the next item, and its name.
    """

    def __init__(
        self,
        pieces: Iterable[bytes],
        first_item: int,
        settings: Settings,
        ignore: Callable[[int, str], None] = ignore_silently,
    ) -> None:
        self._pieces = pieces
        self._item = first_item
        self._settings = settings
        self._ignore = ignore
        self._packed = self._unpacked = 0
        self._entries = Entries(settings.max_batch_items * ENTRIES_PER_ITEM)
        self._directory = Directory()
        self._offsets: dict[int, str] = {}

    def __iter__(self) -> Iterator[ZipMember]:
        """ArchiveRefused, UnreadableArchive or BadRequest (it ends too early) where it cannot go on."""
        name = None
        try:
            for header, content in ZipStream(self._counted()):
                name = member_name(header.name, header.extra)
                self._offsets[header.offset] = shown_name(name)
                self._entries.check(name)
                if is_directory(name) and not header.size:
                    self._skip(content)
                elif is_directory(name) or is_ignored(name):
                    self._ignore(self._item, shown_name(name))
                    self._skip(content)
                else:
                    yield self._member(name, content)
                    self._item += 1
        except (ArchiveRefused, UnreadableArchive) as error:
            error.extensions |= {"item": self._item} | ({} if name is None else {"member": shown_name(name)})
            raise
        self._directory.check(self._offsets)

    def _counted(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._packed += len(piece)
            self._directory.note(piece)
            yield piece

    def _member(self, name: str, content: Iterator[bytes]) -> ZipMember:
        if self._item >= self._settings.max_batch_items:
            raise ArchiveLimits(f"at most {self._settings.max_batch_items} items in one batch")
        file = cast(BinaryIO, SpooledTemporaryFile(SPOOL_BYTES))  # noqa: SIM115 - whoever gets it closes it
        try:
            error = self._unpack(content, file)
            with disk_errors():  # what is still in the file's buffer is written now
                size = file.seek(0, SEEK_END)
                file.seek(0)
        except BaseException:
            file.close()
            raise
        return ZipMember(self._item, shown_name(name), file, size, error)

    def _unpack(self, content: Iterator[bytes], file: BinaryIO) -> ThoraqError | None:
        size = 0
        try:
            for chunk in content:
                self._note(len(chunk))
                size += len(chunk)
                if size <= self._settings.max_upload_bytes:
                    with disk_errors():
                        file.write(chunk)
            with disk_errors():
                file.seek(0)
            check_content(file.read(HEAD_BYTES))
        except ImageError as error:
            return error  # its bytes are through, so the next member can be found
        too_large = size > self._settings.max_upload_bytes
        return PayloadTooLarge(f"at most {self._settings.max_upload_bytes} bytes in one file") if too_large else None

    def _skip(self, content: Iterator[bytes]) -> None:
        try:
            for chunk in content:
                self._note(len(chunk))
        except ImageError:
            return  # nobody wants to have it

    def _note(self, size: int) -> None:
        self._unpacked += size
        if self._unpacked > self._settings.max_batch_bytes:
            raise ArchiveLimits(f"the archive unpacks to more than {self._settings.max_batch_bytes} bytes")
        if self._unpacked > max(BOMB_BYTES, self._packed * BOMB_RATIO):
            raise ArchiveLimits(f"the archive unpacks to more than {BOMB_RATIO} times its size")
