"""The Basic Application Level Confidentiality Profile (DICOM PS3.15, Annex E), element by element.

Table E.1-1 comes from dicom-anonymizer. What is done here goes further where the table leaves a choice: everything
private is removed, sequences that the table names are removed whole, and so is what no dictionary knows. An element
that stays is never decoded, so a value that breaks its own rules breaks nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import Any

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID

from shared.imaging.dicom.bounded import Budget, read_items
from shared.imaging.dicom.elements import count

EDITION = "2026c"
#: UIDs that the standard itself gives out: they say what a thing is, not whose.
STANDARD_UIDS = "1.2.840.10008."


class Act(Enum):
    """What the table wants of an element."""

    REMOVE = "X"
    EMPTY = "Z"
    REPLACE = "D"
    REMAP = "U"


_ACTS = {
    "X_TAGS": Act.REMOVE,
    "X_Z_U_STAR_TAGS": Act.REMOVE,
    "Z_TAGS": Act.EMPTY,
    "X_Z_TAGS": Act.EMPTY,
    "D_TAGS": Act.REPLACE,
    "Z_D_TAGS": Act.REPLACE,
    "X_D_TAGS": Act.REPLACE,
    "X_Z_D_TAGS": Act.REPLACE,
    "U_TAGS": Act.REMAP,
}
#: By value representation: a value that says nothing. What has another one is removed instead.
_DUMMIES: dict[str, object] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "REMOVED"),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "UL", "US"), 0),
    "AS": "000Y",
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
}


class Account:
    """Which elements were removed, and which got another value: by keyword, never by what they held."""

    def __init__(self) -> None:
        self._removed: set[str] = set()
        self._replaced: set[str] = set()

    def note(self, tag: BaseTag, *, removed: bool) -> None:
        """One element, by its keyword; private ones have none, and their numbers are a vendor's."""
        name = "private" if tag.is_private else keyword_for_tag(tag) or str(tag)
        (self._removed if removed else self._replaced).add(name)

    def told(self) -> dict[str, list[str]]:
        """Return the account as it is kept with the image."""
        return {"removed": sorted(self._removed), "replaced": sorted(self._replaced)}


@cache
def _table() -> tuple[dict[tuple[int, int], Act], list[tuple[int, int, int, int, Act]]]:
    """Acts by (group, element), and those of repeating groups with their masks."""
    found = dicom_anonymization_database_selector(f"dicomfields_{EDITION}")
    single: dict[tuple[int, int], Act] = {}
    repeating = []
    for category, act in _ACTS.items():
        for tag in found[category]:
            if len(tag) == 2:
                single[tag] = act
            else:
                group, element, group_mask, element_mask = tag
                repeating.append((group, element, group_mask, element_mask, act))
    return single, repeating


def _act_on(tag: BaseTag) -> Act | None:
    """Return what is to be done to an element; None when it stays."""
    single, repeating = _table()
    if tag.is_private or tag.element == 0:  # the lengths of groups are no longer true
        return Act.REMOVE
    for group, element, group_mask, element_mask, act in repeating:
        if tag.group & group_mask == group & group_mask and tag.element & element_mask == element & element_mask:
            return act
    known = single.get((tag.group, tag.element))
    return known or (None if dictionary_has_tag(tag) else Act.REMOVE)


def apply(dataset: Dataset, secret: bytes) -> Account:
    """De-identify a dataset in place, with everything nested in it; TooCostly for more than any device writes."""
    account, budget = Account(), Budget()
    budget.allow_frames(count(dataset, "NumberOfFrames") or 1)
    for holder, tag in list(_elements(dataset, budget)):
        if tag in holder:
            _apply(holder, tag, secret, account)
    return account


def _elements(dataset: Dataset, budget: Budget) -> Iterator[tuple[Dataset, BaseTag]]:
    """Every element, those of sequences after their sequence."""
    for tag in list(dataset.keys()):
        yield dataset, tag
        if _act_on(tag) is None and _representation(dataset, tag) == "SQ" and not _is_skipped(dataset, tag):
            for item in _items(dataset, tag, budget):
                yield from _elements(item, budget)


def _items(dataset: Dataset, tag: BaseTag, budget: Budget) -> Sequence:
    """Return a sequence's items; one that was passed on as bytes, and cannot be looked into, does not stay."""
    value = read_items(dataset, tag, budget)
    if value is not None:
        return value
    dataset[tag] = DataElement(tag, "SQ", [])
    return Sequence()


def _apply(holder: Dataset, tag: BaseTag, secret: bytes, account: Account) -> None:
    act, representation = _act_on(tag), _representation(holder, tag)
    skipped = _is_skipped(holder, tag)
    if act is None and not skipped:
        # A name is nobody's business wherever it stands; all that the standard has are in the table.
        act = Act.EMPTY if representation == "PN" else None
        if act is None:
            return
    if skipped or act is Act.REMOVE or (representation not in _DUMMIES and representation != "UI"):
        del holder[tag]
        account.note(tag, removed=True)
        return
    if act is Act.REMAP or representation == "UI":
        value: object = _remapped(holder[tag].value, secret)
    else:
        value = _DUMMIES[representation] if act is Act.REPLACE else None
    holder[tag] = DataElement(tag, representation, value)
    account.note(tag, removed=False)


def _representation(holder: Dataset, tag: BaseTag) -> str:
    item: Any = holder.get_item(tag, keep_deferred=True)
    known = item.VR
    if known in {None, "UN"}:  # implicit, or passed on by somebody who did not know it
        known = dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
    return str(known)


def _is_skipped(holder: Dataset, tag: BaseTag) -> bool:
    """Whether the element was too large to be read: it is no header, so it does not stay."""
    item: Any = holder.get_item(tag, keep_deferred=True)
    return isinstance(item, RawDataElement) and item.value is None and item.length != 0


def _remapped(value: object, secret: bytes) -> object:
    if isinstance(value, MultiValue):
        return [remapped(str(one), secret) for one in value]
    return remapped(str(value or ""), secret)


def remapped(uid: str, secret: bytes) -> str:
    """Another UID, always the same for the same UID and secret; nobody without the secret finds the way back.

    Of 128 bits, as a UUID has (PS3.5, B.2). UIDs of the standard stay.
    """
    if not uid or uid.startswith(STANDARD_UIDS):
        return uid
    return UID(f"2.25.{int.from_bytes(hmac.digest(secret, uid.encode(), hashlib.sha256)[:16], 'big')}")
