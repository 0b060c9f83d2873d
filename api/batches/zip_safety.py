"""What refuses a ZIP as a whole: the signs of one that is made to do harm to whoever unpacks it.

Nothing is unpacked to names here, so none of it could do its harm. But an archive with such a member is not what a
hospital's export makes, and who took part of it would leave the sender in the dark about the rest. A member that is
merely not read (encrypted, packed with another method, an archive itself) is an item that fails, and the others go on.
"""

from __future__ import annotations

import io
import re
import stat
from collections import deque
from zipfile import BadZipFile, ZipFile, ZipInfo

from api.batches.zip.names import member_name
from api.batches.zip.stream import extra_fields
from shared.errors import ArchiveLimits, BadRequest, NestedArchive, UnsafeArchive

ABSOLUTE = re.compile(r"[A-Za-z]:[/\\]|[/\\]")
#: Of the end of an archive so much is kept to find its directory in: 40,000 entries of 200 bytes.
DIRECTORY_BYTES = 8_000_000
#: What `check_content` needs to see of a member.
HEAD_BYTES = 262
ZIP = b"PK\x03\x04"
ARCHIVES = (ZIP, b"PK\x05\x06", b"\x1f\x8b\x08", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\xfd7zXZ\0", b"BZh")
TAR = b"ustar"  # at 257
#: First members of office documents, which are ZIPs too: a work list beside the pictures is a file like any other.
DOCUMENTS = (b"[Content_Types].xml", b"mimetype", b"_rels/", b"docProps/", b"word/", b"xl/", b"ppt/")
UTF8_FLAG = 1 << 11


class Entries:
    """Counts an archive's members, and looks at their names; at most `most` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0

    def check(self, name: str) -> None:
        """UnsafeArchive for a name that is a path out of the archive; ArchiveLimits for one member too many."""
        self._count += 1
        if self._count > self._most:
            raise ArchiveLimits(f"more than {self._most} members, directories included")
        # A drive alone (`P:4711.jpg`) is part of a name: DICOM names and old Mac names have colons.
        if ABSOLUTE.match(name):
            raise UnsafeArchive("a member's name is an absolute path")
        if "\0" in name:
            raise UnsafeArchive("a member's name holds a zero byte, where others see its end")
        if ".." in name.replace("\\", "/").split("/"):
            raise UnsafeArchive("a member's name leads out of the archive")


class Directory:
    """The end of an archive, where its directory says what kind of file each member is, and where (APPNOTE, 4.3.12)."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = self._dropped = 0

    def note(self, piece: bytes) -> None:
        """Count the archive's next bytes."""
        self._pieces.append(piece)
        self._size += len(piece)
        while self._size - len(self._pieces[0]) >= DIRECTORY_BYTES:
            self._dropped += len(self._pieces[0])
            self._size -= len(self._pieces.popleft())

    def check(self, offsets: dict[int, str]) -> None:
        """Compare the members that came, by their offsets, with those of the directory.

        UnsafeArchive for links and devices, and where the two are not the same members: who unpacks by the directory
        would have got others. BadRequest when the directory is not whole.
        """
        try:
            with ZipFile(io.BytesIO(b"".join(self._pieces))) as archive:
                listed = {entry.header_offset + self._dropped: entry for entry in archive.infolist()}
                count = len(archive.infolist())
        except (BadZipFile, ValueError) as error:
            raise BadRequest("the archive's directory is damaged or ends too early") from error
        for offset, entry in listed.items():
            name = _name(entry)
            if stat.S_IFMT(entry.external_attr >> 16) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise UnsafeArchive("a member is a link or a device", member=name)
            # Before its beginning: an upload that goes on sends the rest of the file, with the whole directory.
            if offset >= 0 and offset not in offsets:
                raise UnsafeArchive("the directory lists a member that is not there", member=name)
        if count > len(listed):
            raise UnsafeArchive("the directory lists members that overlap")
        if missing := next((name for offset, name in offsets.items() if offset not in listed), None):
            raise UnsafeArchive("a member is not in the archive's directory", member=missing)


def _name(entry: ZipInfo) -> str:
    raw = entry.orig_filename.encode("utf-8" if entry.flag_bits & UTF8_FLAG else "cp437", "replace")
    return member_name(raw, extra_fields(entry.extra))


def check_content(head: bytes) -> None:
    """NestedArchive when a member's first bytes are those of another archive, whatever it is called."""
    if head.startswith(ZIP) and head[30:].startswith(DOCUMENTS):
        return
    if head.startswith(ARCHIVES) or head[257:262] == TAR:
        raise NestedArchive
