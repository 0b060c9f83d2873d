"""What refuses a ZIP as a whole: the signs of one that is made to do harm to whoever unpacks it.

Nothing is unpacked to names here, so none of it could do its harm. But an archive with such a member is not what a
hospital's export makes, and who took part of it would leave the sender in the dark about the rest.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
from collections import deque
from zipfile import BadZipFile, ZipFile

from shared.errors import ArchiveLimits, BadRequest, UnsafeArchive

DRIVE = re.compile(r"[A-Za-z]:")
#: Of the end of an archive so much is kept to find its directory in: 40,000 entries of 200 bytes.
DIRECTORY_BYTES = 8_000_000
#: What `check_content` needs to see of a member.
HEAD_BYTES = 262
ZIP = b"PK\x03\x04"
ARCHIVES = (ZIP, b"PK\x05\x06", b"\x1f\x8b\x08", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\xfd7zXZ\0", b"BZh")
TAR = b"ustar"  # at 257
#: First members of office documents, which are ZIPs too: a work list beside the pictures is a file like any other.
DOCUMENTS = (b"[Content_Types].xml", b"mimetype", b"_rels/", b"docProps/", b"word/", b"xl/", b"ppt/")


class Entries:
    """The names of an archive's members so far; at most `most` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._seen: set[bytes] = set()

    def check(self, name: str) -> None:
        """UnsafeArchive for a name that is a path out of the archive or comes twice; ArchiveLimits for one too many."""
        self._count += 1
        if self._count > self._most:
            raise ArchiveLimits(f"more than {self._most} members, directories included")
        parts = name.replace("\\", "/").split("/")
        if parts[0] == "" or DRIVE.match(name):
            raise UnsafeArchive("a member's name is an absolute path")
        if ".." in parts or "\0" in name:
            raise UnsafeArchive("a member's name leads out of the archive")
        if parts[-1]:
            self._note([part for part in parts if part not in {"", "."}])

    def _note(self, parts: list[str]) -> None:
        # A name may have 65,535 bytes; its hash has sixteen.
        name = hashlib.blake2b("/".join(parts).encode(errors="surrogatepass"), digest_size=16).digest()
        if name in self._seen:
            raise UnsafeArchive("two members have the same name")
        self._seen.add(name)


class Directory:
    """The end of an archive, where only its directory says what kind of file each member is (APPNOTE, 4.3.12)."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def note(self, piece: bytes) -> None:
        """The archive's next bytes."""
        self._pieces.append(piece)
        self._size += len(piece)
        while self._size - len(self._pieces[0]) >= DIRECTORY_BYTES:
            self._size -= len(self._pieces.popleft())

    def check(self) -> None:
        """UnsafeArchive for links and devices among the members, BadRequest when the directory is not whole."""
        try:
            with ZipFile(io.BytesIO(b"".join(self._pieces))) as archive:
                modes = [member.external_attr >> 16 for member in archive.infolist()]
        except (BadZipFile, ValueError) as error:
            raise BadRequest("the archive's directory is damaged or ends too early") from error
        if any(stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR} for mode in modes):
            raise UnsafeArchive("a member is a link or a device")


def check_content(head: bytes) -> None:
    """UnsafeArchive when a member's first bytes are those of another archive, whatever it is called."""
    if head.startswith(ZIP) and head[30:].startswith(DOCUMENTS):
        return
    if head.startswith(ARCHIVES) or head[257:262] == TAR:
        raise UnsafeArchive("a member is an archive itself")
