"""The DICOM half of docs/reference/formats.md: every registered transfer syntax is read, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from imagecodecs import htj2k_encode
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from shared.errors import UnsupportedDicom
from shared.imaging.decode import Limits, decode_one, probe
from shared.imaging.dicom.transfer_syntaxes import PLUGINS
from tests.formats_table import PAGE, registered, with_table
from tests.support.files.damaged_dicom import says
from tests.support.files.images import dicom_bytes, make_dicom

LIMITS = Limits()
RAMP = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) // 4
WINDOW = (128, 256)
PAGE_TEXT = PAGE.read_text(encoding="utf-8")
PLAIN = make_dicom(RAMP.astype(np.uint8), window=WINDOW)


def in_syntax(syntax: UID) -> bytes:
    """The ramp, really encoded in a transfer syntax that is read."""
    if not syntax.name.startswith("High-Throughput"):
        return make_dicom(RAMP.astype(np.uint8), window=WINDOW, transfer_syntax=syntax)
    dataset = dcmread(BytesIO(PLAIN))
    dataset.PixelData = encapsulate([bytes(htj2k_encode(RAMP.astype(np.uint8), reversible=True))])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dicom_bytes(dataset)


def rows() -> Iterator[tuple[str, str, str]]:
    """Name, UID and answer of each line of the page's table."""
    table = PAGE_TEXT.split("| transfer syntax | UID | read |")[1]
    yield from re.findall(r"^\| (.+?) \| ([0-9.]+) \| (.+?) \|$", table, re.MULTILINE)


def test_the_page_has_every_registered_transfer_syntax() -> None:
    assert with_table(PAGE_TEXT) == PAGE_TEXT, "run `python -m tests.formats_table`"
    assert {uid for _, uid, _ in rows()} == set(registered()) >= set(PLUGINS)


@pytest.mark.parametrize(("name", "uid", "answer"), list(rows()))
def test_a_transfer_syntax_is_read_or_named_as_the_page_says(name: str, uid: str, answer: str) -> None:
    if answer == "yes":
        picture = decode_one(in_syntax(UID(uid)), LIMITS).astype(int)
        assert np.abs(picture - decode_one(PLAIN, LIMITS)).max() <= 3
        return
    assert answer == f"`{UnsupportedDicom.type}`"
    with pytest.raises(UnsupportedDicom, match=re.escape(f"{name} ({uid})")):
        probe(BytesIO(says(uid, PLAIN)), LIMITS)


@pytest.mark.parametrize("uid", ["1.2.3.4", "1.2.840.10008.1.2.999", "Explicit VR Little Endian", "4711^NAME"])
def test_what_is_no_transfer_syntax_is_not_quoted(uid: str) -> None:
    with pytest.raises(UnsupportedDicom, match=r"TransferSyntaxUID \(0002,0010\)") as caught:
        probe(BytesIO(says(uid, PLAIN)), LIMITS)
    assert uid not in caught.value.detail
