"""Forms with files: multipart/form-data (RFC 7578).

A small one is read in one go by `multipart`, in a fifth of the time that werkzeug's parser takes. What is large,
malformed or merely unusual is werkzeug's, which streams, and forgives more.
"""

from __future__ import annotations

import io
import math
from contextlib import ExitStack
from typing import IO, TypeAlias, cast

from multipart import MultipartError, MultipartSegment, PushMultipartParser
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from api.http.forms.names import file_name, in_utf8, is_plain_name
from api.http.forms.spool import MEMORY_BYTES, Spool
from shared.errors import BadRequest, EncodedPart

Fields: TypeAlias = MultiDict[str, str]
Files: TypeAlias = MultiDict[str, FileStorage]

PIECE_BYTES = 64 * 1024
#: Encodings that a text may be in; RFC 7578, 5.1.2 wants UTF-8.
CHARSETS = frozenset({"ascii", "us-ascii", "utf-8", "iso-8859-1"})
#: Content-Transfer-Encodings that leave a part's bytes as they are (RFC 2045, 6.2).
AS_IT_IS = frozenset({"", "7bit", "8bit", "binary"})


class StrictFormParser(FormDataParser):
    """Says that a form is malformed; werkzeug's own parser takes it for an empty one."""

    def parse(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str] | None = None
    ) -> tuple[IO[bytes], Fields, Files]:
        self.silent = False
        try:
            return super().parse(stream, mimetype, content_length, options)
        except ValueError as error:
            raise BadRequest("the form is malformed or ends too early") from error

    def _parse_multipart(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str]
    ) -> tuple[IO[bytes], Fields, Files]:
        del mimetype  # the caller has looked at it
        # Its texts cannot be more than MAX_FORM_MEMORY_SIZE either, which is as much.
        if content_length is not None and content_length <= MEMORY_BYTES:
            body = stream.read()
            found = _plain(body, options.get("boundary", ""), self.max_form_parts or math.inf)
            if found is not None:
                return stream, *found
            stream = io.BytesIO(body)
        with ExitStack() as opened:
            parsed = self._streamed(stream, options.get("boundary", ""), Spool(), opened)
            # Whole: Flask closes the files with the request. Otherwise they are closed here.
            opened.pop_all()
        return stream, *parsed

    def _streamed(self, stream: IO[bytes], boundary: str, spool: Spool, opened: ExitStack) -> tuple[Fields, Files]:
        """Texts and files, read piece by piece; ValueError for a form that is malformed or ends too early."""
        if not boundary:
            raise ValueError("no boundary")
        decoder = LenientDecoder(boundary.encode("ascii"), self.max_form_memory_size, max_parts=self.max_form_parts)
        form = _Form(spool, opened, self.max_form_memory_size or math.inf)
        while not isinstance(event := decoder.next_event(), Epilogue):
            if isinstance(event, NeedData):
                decoder.receive_data(stream.read(PIECE_BYTES) or None)
            elif isinstance(event, Field | File):
                form.begin(event)
            elif isinstance(event, Data):
                form.add(event)
        return form.fields, form.files


class LenientDecoder(MultipartDecoder):
    """werkzeug's decoder, which takes a whole form for malformed because of one name that is no UTF-8."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        return super()._parse_headers(in_utf8(bytes(data)))


class _Form:
    """The parts of a form as they come: texts in memory, `most` bytes of each, and files in the spool."""

    def __init__(self, spool: Spool, opened: ExitStack, most: float) -> None:
        self.fields, self.files = Fields(), Files()
        self._spool, self._opened, self._most = spool, opened, most
        self._part: Field | File | None = None
        self._content: IO[bytes] = io.BytesIO()

    def begin(self, part: Field | File) -> None:
        encoding = part.headers.get("Content-Transfer-Encoding", "").strip().lower()
        if encoding not in AS_IT_IS:
            raise EncodedPart(f"the part {part.name!r} has the Content-Transfer-Encoding {encoding[:30]!r}")
        self._part = part
        if isinstance(part, File):
            self._content = cast(IO[bytes], self._opened.enter_context(self._spool.part()))
        else:
            self._content = io.BytesIO()

    def add(self, data: Data) -> None:
        self._content.write(data.data)
        if isinstance(self._part, Field) and self._content.tell() > self._most:
            raise RequestEntityTooLarge
        if not data.more_data:
            self._end()

    def _end(self) -> None:
        self._content.seek(0)
        if isinstance(self._part, File):
            name = file_name(self._part.headers.get("Content-Disposition", ""), self._part.filename)
            file = FileStorage(self._content, name, self._part.name, headers=self._part.headers)
            self.files.add(self._part.name, file)
        elif self._part is not None:
            charset = parse_options_header(self._part.headers.get("Content-Type"))[1].get("charset", "").lower()
            text = self._content.read().decode(charset if charset in CHARSETS else "utf-8", "replace")
            self.fields.add(self._part.name, text)


def _plain(body: bytes, boundary: str, most: float) -> tuple[Fields, Files] | None:
    """Texts and files of a form as nearly all clients write one, with `most` parts; None for any other."""
    fields, files = Fields(), Files()
    part, content = MultipartSegment([]), b""
    try:
        with PushMultipartParser(boundary, max_segment_count=most) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    part, content = event, b""
                elif event is not None:
                    content = bytes(event)
                elif not _is_plain(part, content, boundary):
                    return None
                elif part.filename is None:
                    fields.add(part.name, content.decode(errors="replace"))
                else:
                    files.add(part.name, FileStorage(io.BytesIO(content), part.filename, part.name))
    except MultipartError:
        return None
    return fields, files


def _is_plain(part: MultipartSegment, content: bytes, boundary: str) -> bool:
    # A part without a body ends where its head does (RFC 2046, 5.1.1), and the parser takes the next part for its body.
    return bool(
        part.name
        and "\0" not in (part.filename or "")
        and part.charset in {None, "utf-8"}
        and not content.startswith(b"--" + boundary.encode())
        and is_plain_name(part.header("Content-Disposition", ""))
        and part.header("Content-Transfer-Encoding") is None
    )
