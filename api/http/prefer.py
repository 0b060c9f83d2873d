"""The `Prefer` header (RFC 7240): what a client would like, and what is ignored where it is not understood."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.request import parse_http_list

#: A preference: its name, and its value as a word or in quotation marks; parameters follow a semicolon (section 2).
PREFERENCE = re.compile(
    r"(?P<name>[!#$%&'*+.^_`|~\w-]+)\s*(?:=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<word>[^\s;\"]*)))?\s*(?:;.*)?",
    re.ASCII | re.DOTALL,
)
#: delta-seconds (section 4.3): digits alone, for `float` takes `nan`, and waiting for that never ends.
SECONDS = re.compile(r"[0-9]{1,4000}")


def wait_of(headers: Iterable[str]) -> int | None:
    """Read the seconds of `wait=N` in the `Prefer` headers of a request; None without one that is a number.

    Of a preference that comes more than once the first counts (section 2), in whichever of the headers it stands.
    """
    for header in headers:
        for part in parse_http_list(header):
            found = PREFERENCE.fullmatch(part.strip())
            if found is not None and found["name"].lower() == "wait":
                value = re.sub(r"\\(.)", r"\1", found["quoted"] or "") or found["word"] or ""
                return int(value) if SECONDS.fullmatch(value) else None
    return None
