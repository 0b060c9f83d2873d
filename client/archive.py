"""What a batch sends: a ZIP made on the way from files, or one that is there already; from any item on.

Items are numbered from 0, as the server numbers them: it passes over directories, DICOMDIR and what systems put beside
the files, so they are never counted here either.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo
from zlib import crc32

from client.files import find

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PIECE_BYTES = 256 * 1024
#: What the server leaves out, and names in the batch: files of systems, and DICOM's index.
IGNORED_FOLDERS = re.compile(
    r"__macosx|\.(spotlight-v100|fseventsd|temporaryitems|documentrevisions-v100|apdisk|appledouble|git|svn)"
    r"|\.trash(es|-\d+)?|@eadir|#recycle|\$recycle\.bin|recycler|system volume information",
    re.IGNORECASE,
)
IGNORED_FILES = re.compile(
    r"\._.*|\.(ds_store|localized|directory|hidden|nomedia)|(eh)?thumbs\.db|desktop\.ini|autorun\.inf|dicomdir",
    re.IGNORECASE,
)
ZIP64_FROM = 2**30  # well below the 4 GiB from which a member needs ZIP64: a file may grow while it is read


@dataclass(frozen=True)
class Piece:
    """Bytes to send next, and how many items are complete once they are sent."""

    items: int
    data: bytes


class Archive(Protocol):
    """Something that can be sent as a ZIP, more than once and from any item on."""

    def __len__(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """The same for the same files: their paths, sizes and times of change."""

    def offset(self, item: int) -> int:
        """Bytes of the items before this one, about as they are sent."""

    def pieces(self, first: int) -> Iterator[Piece]:
        """Return a ZIP of the items from `first` on; beyond the last, an empty one.

        OSError if a file cannot be read.
        """


def archive_of(paths: Sequence[Path]) -> tuple[Archive, int]:
    """Return what to send of these paths, and how many other files lie beside it.

    One ZIP is sent as it is; files and directories are packed. ValueError when there is nothing to send, or a ZIP
    among others, or one that is none. OSError for what cannot be read.
    """
    if any(_is_zip(path) for path in paths):
        if len(paths) > 1:
            raise ValueError("a ZIP is a batch of its own: give it alone")
        return StoredArchive(paths[0]), 0
    members: dict[Path, Member] = {}
    names: set[str] = set()
    skipped = 0
    for root in paths:
        files, others = find([root])
        named = [Member.of(root, file) for file in files]
        kept = [member for member in named if counted(member.name)]
        for member in kept:
            if member.path not in members:
                members[member.path] = member.under(names)
        skipped += others + len(named) - len(kept)
    return PackedArchive(list(members.values())), skipped


@dataclass(frozen=True)
class Member:
    """A file, its name in the archive, its size in bytes and when it changed, in nanoseconds."""

    path: Path
    name: str
    size: int
    changed: int

    @classmethod
    def of(cls, root: Path, path: Path) -> Member:
        """Named as tar would: a directory's files begin with the directory's own name, made visible."""
        # Not resolve(): it would put a link's target in place of the name that the user knows. And strings: as Paths
        # they would take as long as it takes to pack small files.
        here = os.path.abspath(root)  # noqa: PTH100
        file = here if path is root else os.path.abspath(path)  # noqa: PTH100
        base, inside = here.rpartition("/")[2], file.removeprefix(here)
        name = f"{base.lstrip('.')}{inside}" if inside else base
        found = path.stat()
        # A name may hold bytes that no encoding explains; a ZIP's names are text.
        return cls(Path(file), name.encode(errors="replace").decode(), found.st_size, found.st_mtime_ns)

    def under(self, taken: set[str]) -> Member:
        """Return it under a name that is not taken, which then is: the server refuses an archive with a name twice."""
        if self.name not in taken:
            taken.add(self.name)
            return self
        whole = PurePosixPath(self.name)
        others = (str(whole.with_stem(f"{whole.stem} ({number})")) for number in itertools.count(2))
        return replace(self, name=next(name for name in others if name not in taken)).under(taken)


class PackedArchive:
    """Files, packed while they are sent: a few pieces are in memory, none on disk.

    They are not compressed: PNG, JPEG and most transfer syntaxes of DICOM are already. Yet those that are too large to
    be read before they are sent are marked as deflated: their checksum comes behind them, and so does their size, and a
    reader of a stream cannot tell where such a member ends if it is stored. ValueError without files.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        if not members:
            raise ValueError("no image found")
        self._members = members
        self._ends = list(itertools.accumulate((member.size for member in members), initial=0))

    def __len__(self) -> int:
        return len(self._members)

    @property
    def fingerprint(self) -> str:
        return _digest((member.path, member.size, member.changed) for member in self._members)

    def offset(self, item: int) -> int:
        return self._ends[item]

    def pieces(self, first: int) -> Iterator[Piece]:
        sink = _Sink()
        with ZipFile(sink, "w", ZIP_DEFLATED, compresslevel=0) as packed:
            for item in range(first, len(self)):
                member = self._members[item]
                with member.path.open("rb", buffering=0) as file:
                    data = file.read(PIECE_BYTES)
                    if len(data) < PIECE_BYTES:
                        _store(packed, sink, member.name, data)
                    else:
                        for piece in _deflate(packed, sink, member, data, file):
                            yield Piece(item, piece)
                if sink.full:
                    yield Piece(item + 1, sink.take())
        yield Piece(len(self), sink.take())


def _store(packed: ZipFile, sink: _Sink, name: str, data: bytes) -> None:
    """Add a member whose size and checksum are known; what `ZipFile` does for sinks in which it can go back."""
    member = ZipInfo(name, time.localtime()[:6])
    member.CRC, member.file_size, member.compress_size = crc32(data), len(data), len(data)
    member.header_offset = sink.tell()
    member.external_attr = 0o600 << 16
    sink.write(member.FileHeader())
    sink.write(data)
    packed.filelist.append(member)
    packed.NameToInfo[name] = member
    packed.start_dir = sink.tell()


def _deflate(packed: ZipFile, sink: _Sink, member: Member, data: bytes, file: io.FileIO) -> Iterator[bytes]:
    """Add a member that begins with these data and goes on with the file; what is to be sent meanwhile."""
    with packed.open(member.name, "w", force_zip64=member.size >= ZIP64_FROM) as out:
        while data:
            out.write(data)
            if sink.full:
                yield sink.take()
            data = file.read(PIECE_BYTES)


class StoredArchive:
    """A ZIP on disk, sent as it is; from a later item on, it is the rest of the file. ValueError if it is no ZIP."""

    def __init__(self, path: Path) -> None:
        try:
            with ZipFile(path) as archive:
                inside = archive.infolist()
                self._end = archive.start_dir
        except BadZipFile as error:
            raise ValueError(f"{path} cannot be read as a ZIP: {error}") from None
        self._starts = sorted(info.header_offset for info in inside if counted(info.filename))
        if not self._starts:
            raise ValueError(f"no image found in {path}")
        # An item is sent with what is left out before it: the server counts that with the item, and names it.
        members = sorted(info.header_offset for info in inside)
        behind = [0, *(bisect.bisect_right(members, start) for start in self._starts)]
        self._begins = [members[at] if at < len(members) else self._end for at in behind]
        self._path = path

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def fingerprint(self) -> str:
        found = self._path.stat()
        return _digest([(self._path.absolute(), found.st_size, found.st_mtime_ns)])

    def offset(self, item: int) -> int:
        return self._begins[item] - self._begins[0]

    def pieces(self, first: int) -> Iterator[Piece]:
        with self._path.open("rb") as file:
            file.seek(self._begins[first])
            while data := file.read(PIECE_BYTES):
                at = file.tell()
                items = len(self) if at >= self._end else bisect.bisect_right(self._starts, at) - 1
                yield Piece(max(first, items), data)


class _Sink(io.RawIOBase):
    """Where the ZIP writer writes; emptied piece by piece. It cannot seek, so what it gets can be streamed."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._size = self._taken = 0

    @property
    def full(self) -> bool:
        return self._size >= PIECE_BYTES

    def write(self, data: ReadableBuffer, /) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        return self._taken + self._size

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self._taken += self._size
        self._size = 0
        return data


def counted(name: str) -> bool:
    """Whether the server makes an item of a member with this name; its rule is that of api/batches/ignored_files.py."""
    *folders, base = name.replace("\\", "/").split("/")
    left_out = IGNORED_FILES.fullmatch(base) or any(IGNORED_FOLDERS.fullmatch(folder) for folder in folders)
    return base != "" and not left_out


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def _digest(files: Iterable[tuple[Path, int, int]]) -> str:
    told = hashlib.sha256()
    for path, size, changed in files:
        told.update(f"{path}\0{size}\0{changed}\0".encode(errors="surrogateescape"))
    return told.hexdigest()
