"""A ZIP, member by member, as it comes in. Nothing of it is held but the member that is being read.

A member's name is data: it is never a path here, and what macOS and DICOM media put beside the pictures is no item.
What only an archive that is made to do harm has in it (`api/archive_rules.py`) refuses all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import SEEK_END
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from stream_unzip import IntegrityError, MissingPasswordError, TruncatedDataError, UnzipError, stream_unzip

from api.archive_rules import HEAD_BYTES, Directory, Entries, check_content
from api.disk import disk_errors
from api.uploads import shown_name
from shared.config import Settings
from shared.errors import (
    ArchiveLimits,
    BadRequest,
    CorruptImage,
    PayloadTooLarge,
    ThoraqError,
    UnreadableArchive,
    UnsafeArchive,
)

#: A member up to this size stays in memory until it is stored.
SPOOL_BYTES = 1024 * 1024
#: An archive that unpacks to more than this is refused when it is also so many times as large as what was sent.
BOMB_BYTES, BOMB_RATIO = 100_000_000, 200
#: Members of all kinds for each item that a batch may have: directories, and what macOS puts beside every file.
ENTRIES_PER_ITEM = 4


@dataclass(frozen=True)
class Member:
    """A file of the archive, to be read and closed by whoever gets it; or why it cannot be read."""

    item: int
    name: str
    file: BinaryIO
    size: int
    error: ThoraqError | None


class Archive:
    """The members of one ZIP; `pieces` are its bytes, and the first member has the number `first_item`."""

    def __init__(self, pieces: Iterable[bytes], first_item: int, settings: Settings) -> None:
        self._pieces = pieces
        self._item = first_item
        self._settings = settings
        self._packed = self._unpacked = 0
        self._entries = Entries(settings.max_batch_items * ENTRIES_PER_ITEM)
        self._directory = Directory()

    def __iter__(self) -> Iterator[Member]:
        """ArchiveRefused, UnreadableArchive or BadRequest (it ends too early) where it cannot go on."""
        try:
            for raw_name, _, content in stream_unzip(self._counted()):
                name = _text(raw_name)
                self._entries.check(name)
                if is_item(name):
                    yield self._member(name, content)
                    self._item += 1
                else:
                    self._skip(content)
        except TruncatedDataError as error:
            raise BadRequest("the archive ends too early") from error
        except MissingPasswordError as error:
            raise UnsafeArchive("a member is encrypted", item=self._item) from error
        except UnzipError as error:
            raise UnreadableArchive(_reason(error), item=self._item) from error
        self._directory.check()

    def _counted(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._packed += len(piece)
            self._directory.note(piece)
            yield piece

    def _member(self, name: str, content: Iterator[bytes]) -> Member:
        if self._item >= self._settings.max_batch_items:
            raise ArchiveLimits(f"at most {self._settings.max_batch_items} items in one batch")
        file = cast(BinaryIO, SpooledTemporaryFile(SPOOL_BYTES))  # noqa: SIM115 - whoever gets it closes it
        try:
            error = self._unpack(content, file)
            with disk_errors():  # what is still in the file's buffer is written now
                file.seek(0)
            check_content(file.read(HEAD_BYTES))
        except BaseException:
            file.close()
            raise
        size = file.seek(0, SEEK_END)
        file.seek(0)
        return Member(self._item, shown_name(name), file, size, error)

    def _unpack(self, content: Iterator[bytes], file: BinaryIO) -> ThoraqError | None:
        size = 0
        try:
            for chunk in content:
                self._note(len(chunk))
                size += len(chunk)
                if size <= self._settings.max_upload_bytes:
                    with disk_errors():
                        file.write(chunk)
        except IntegrityError:
            # Its bytes are through, so the next member can be found.
            return CorruptImage("The archive holds another checksum or size for it.")
        too_large = size > self._settings.max_upload_bytes
        return PayloadTooLarge(f"at most {self._settings.max_upload_bytes} bytes in one file") if too_large else None

    def _skip(self, content: Iterator[bytes]) -> None:
        for chunk in content:
            self._note(len(chunk))

    def _note(self, size: int) -> None:
        self._unpacked += size
        if self._unpacked > self._settings.max_batch_bytes:
            raise ArchiveLimits(f"the archive unpacks to more than {self._settings.max_batch_bytes} bytes")
        if self._unpacked > max(BOMB_BYTES, self._packed * BOMB_RATIO):
            raise ArchiveLimits(f"the archive unpacks to more than {BOMB_RATIO} times its size")


def is_item(name: str) -> bool:
    """Whether a member is a file that somebody wants to have classified: no directory, nothing hidden, no index."""
    *folders, base = name.split("/")
    hidden = any(part.startswith(".") and part not in {".", ".."} for part in (*folders, base))
    return base != "" and not hidden and "__MACOSX" not in folders and base != "DICOMDIR"


def _text(name: bytes) -> str:
    """ZIP names are UTF-8 or, in old archives, code page 437 (APPNOTE, appendix D)."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437")


def _reason(error: UnzipError) -> str:
    """The library's word for it, as a sentence; its own messages may quote names."""
    if type(error).__name__ == "NotStreamUnzippable":
        return "a member is stored without its size before it"
    return "a member is damaged or packed in a way that is not read"
