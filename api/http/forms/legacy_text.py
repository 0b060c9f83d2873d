"""Names in a code page that nothing names: of a ZIP's members, and of the files of a form.

The encoding is guessed, from the letters that come out. The guess serves the eye, and is the same for the same bytes;
in each encoding, different bytes are different texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

#: Characters that are common in Chinese and Japanese: levels 1 of GB 2312 and JIS X 0208, kana. Others come out by
#: chance, when accented letters of a code page with one byte for each are read in pairs.
GB_LEVEL_1 = re.compile(rb"(?:[\x00-\x7f]|[\xa3\xb0-\xd7][\xa1-\xfe])*")
SJIS_LEVEL_1 = re.compile(
    rb"(?:[\x00-\x7f]|\x81[\x40\x45\x5b]|\x82[\x4f-\xf1]|[\x83\x88-\x97][\x40-\x7e\x80-\xfc]|\x98[\x40-\x72])*"
)
BIG5_LEVEL_1 = re.compile(rb"(?:[\x00-\x7f]|[\xa4-\xc5][\x40-\x7e\xa1-\xfe]|\xc6[\x40-\x7e])*")
EUC_KR_HANGUL = re.compile(rb"(?:[\x00-\x7f]|[\xb0-\xc8][\xa1-\xfe])*")


def legacy_text(raw: bytes) -> str:
    """The text of bytes that are not UTF-8; ASCII as it is, and code page 437 where nothing fits."""
    if raw.isascii():
        return raw.decode()
    for encoding, fits in GUESSES:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if fits(raw, text):
            return text
    return raw.decode("cp437")


def _pairs(common: re.Pattern[bytes]) -> Callable[[bytes, str], bool]:
    """Common characters of two bytes, and none beside a small Latin letter, as accented ones are."""
    return lambda raw, text: common.fullmatch(raw) is not None and not BESIDE_LETTER.search(text)


def _letters(script: str) -> Callable[[bytes, str], bool]:
    def fits(_: bytes, text: str) -> bool:
        return all(unicodedata.name(letter, "").startswith(script) for letter in text if not letter.isascii())

    return fits


def _words(script: str) -> Callable[[bytes, str], bool]:
    """Words of the script alone, in small letters or capitals, or with a capital at the beginning."""
    letters = _letters(script)

    def fits(raw: bytes, text: str) -> bool:
        words = [word for word in WORD.findall(text) if not word.isascii()]
        return letters(raw, text) and all(
            not MIXED.search(word) and (word.islower() or word.isupper() or word.istitle()) for word in words
        )

    return fits


BESIDE_LETTER = re.compile(r"[a-z][^\x00-\x7f]|[^\x00-\x7f][a-z]")
WORD = re.compile(r"[^\W\d_]+")
MIXED = re.compile(r"[A-Za-z]")
#: Tried in this order: EUC-KR and Big5 come after the encodings that share their bytes and are more common in ZIPs.
GUESSES: tuple[tuple[str, Callable[[bytes, str], bool]], ...] = (
    ("cp932", _pairs(SJIS_LEVEL_1)),
    ("cp866", _words("CYRILLIC")),
    ("cp1251", _words("CYRILLIC")),
    ("gb2312", _pairs(GB_LEVEL_1)),
    ("big5", _pairs(BIG5_LEVEL_1)),
    ("euc_kr", _pairs(EUC_KR_HANGUL)),
    ("cp437", _letters("LATIN")),
    ("cp1252", _letters("LATIN")),
)
