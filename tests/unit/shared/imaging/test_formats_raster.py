"""docs/reference/formats.md, its half on PNG, JPEG and TIFF, against the code that reads them."""

from __future__ import annotations

import re
from pathlib import Path

from shared.errors import ImageError
from shared.imaging.jpeg import READ_PROCESSES, REFUSED_PROCESSES
from shared.imaging.signatures import SIGNATURES
from shared.imaging.tiff.tags import COMPRESSIONS, DEPTHS, OTHER_COLOURS, REFUSED_COMPRESSIONS, REFUSED_SAMPLE_FORMATS

PAGE = (Path(__file__).parents[4] / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
HALF = PAGE[PAGE.index("## PNG, JPEG and TIFF") : PAGE.index("## DICOM")]
ROW = re.compile(r"^\| ([^|]+) \| ([\d, ]+) \| ([^|]+) \|$", re.MULTILINE)


def table(answer: str) -> dict[int, str]:
    """The numbers and names of TIFF compressions that the page says this about."""
    rows = [(name, numbers) for name, numbers, read in ROW.findall(HALF) if read == answer]
    return {int(number): name for name, numbers in rows for number in numbers.split(",")}


def test_the_page_names_the_compressions_that_the_code_reads_and_refuses() -> None:
    assert table("yes") == COMPRESSIONS
    assert table("`unsupported-encoding`") == REFUSED_COMPRESSIONS


def test_the_page_names_the_kinds_of_jpeg_that_are_read_and_refused() -> None:
    read, refused = next(line for line in HALF.splitlines() if line.startswith("| JPEG |")).rsplit("|", 2)[:2]
    assert all(name in read for name in READ_PROCESSES.values())
    assert all(word in refused for name in REFUSED_PROCESSES.values() for word in ("arithmetic-coded", "hierarchical")
               if name.startswith(word))  # fmt: skip


def test_the_page_names_what_is_refused_of_tiff() -> None:
    row = next(line for line in HALF.splitlines() if line.startswith("| TIFF |")).replace("\\", "")
    assert (min(DEPTHS), max(DEPTHS)) == (1, 16)
    assert "1 to 16 bits" in row
    assert all(name in row for name in (*REFUSED_SAMPLE_FORMATS.values(), *OTHER_COLOURS.values()))


def test_other_pictures_that_the_page_names_are_known_by_their_first_bytes() -> None:
    known = {name.split(" (")[0] for _, _, name in SIGNATURES} | {"NIfTI"}
    row = next(line for line in HALF.splitlines() if line.startswith("| JPEG 2000, "))
    for name in row.split(" and others")[0].strip("| ").replace(" and ", ", ").split(", "):
        assert name in known


def test_the_types_that_the_page_names_are_types_of_errors() -> None:
    types = {kind.type for kind in ImageError.__subclasses__()}
    named = set(re.findall(r"`([a-z]+-[a-z-]+)`", HALF))
    assert named <= types
    assert {"corrupt-image", "too-costly", "image-too-large", "unsupported-encoding", "unsupported-image"} <= named
