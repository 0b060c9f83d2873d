"""The transfer syntaxes in docs/reference/formats.md: `python -m tests.formats_table` writes them."""

from __future__ import annotations

from pathlib import Path

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID

from shared.imaging.dicom.transfer_syntaxes import NEWER_NAMES, PLUGINS, PRIVATE_NAMES, registered_name

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "formats.md"
HEAD = "| transfer syntax | UID | read |\n|---|---|---|\n"


def registered() -> list[UID]:
    """Every transfer syntax that has a name: pydicom's, what is newer, and the private ones that are known."""
    names = {uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"}
    return [UID(uid) for uid in sorted(names | NEWER_NAMES.keys() | PRIVATE_NAMES.keys(), key=_by_number)]


def _by_number(uid: str) -> list[int]:
    return [int(part) for part in uid.split(".")]


def with_table(page: str) -> str:
    """The page with the table as the code has it, at its end."""
    rows = (
        f"| {registered_name(uid)} | {uid} | {'yes' if uid in PLUGINS else '`unsupported-dicom`'} |\n"
        for uid in registered()
    )
    return page.split(HEAD, maxsplit=1)[0] + HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
