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
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.formparser import FormDataParser

from api.form_spool import MEMORY_BYTES, Spool
from shared.errors import BadRequest

Fields: TypeAlias = MultiDict[str, str]
Files: TypeAlias = MultiDict[str, FileStorage]


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
        # Its texts cannot be more than MAX_FORM_MEMORY_SIZE either, which is as much.
        if content_length is not None and content_length <= MEMORY_BYTES:
            body = stream.read()
            found = _plain(body, options.get("boundary", ""), self.max_form_parts or math.inf)
            if found is not None:
                return stream, *found
            stream = io.BytesIO(body)
        with ExitStack() as opened:
            spool = Spool()
            self.stream_factory = lambda *_, **__: cast(IO[bytes], opened.enter_context(spool.part()))
            parsed = super()._parse_multipart(stream, mimetype, content_length, options)
            # Whole: Flask closes the files with the request. Otherwise they are closed here.
            opened.pop_all()
        return parsed


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
    # Names that are no ASCII come as `filename*` (RFC 5987) from some clients, though RFC 7578 forbids it.
    return bool(
        part.name
        and part.charset in {None, "utf-8"}
        and not content.startswith(b"--" + boundary.encode())
        and (part.filename is not None or "filename*" not in part.header("Content-Disposition", ""))
    )
