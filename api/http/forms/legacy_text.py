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
#: Syllables of Korean family and given names, and of what hospitals call their files; their bytes are Chinese, too.
KOREAN = frozenset(
    "김이박최정강조윤장임한오서신권황안송류홍전고문손양배백허유남심노하곽성차주우구민진지영수현준호경미연은혜선"
    "희숙자순옥명철동기상태용재원석훈병인규환찬혁승민아나윤서다라가을인도시군원료의대학교병실과부위면측촬검사"
    "결과본흉폐복두경요추골관절간신심혈압당뇨암염증좌우전후정기본일월년번호외래입퇴원여남생년월파일새폴더복사"
    "엑스레이씨티엠알컴퓨터단층방선영상보고"
)


def legacy_text(raw: bytes, *, oem: bool = False) -> str:
    """Return the text of bytes that are not UTF-8; ASCII as it is, and code page 437 where nothing fits.

    `oem`: they are a ZIP's, whose packers used the console's code pages (437, 850) where programs with windows use
    1252.
    """
    if raw.isascii():
        return raw.decode()
    for encoding, fits in (*SCRIPTS, *(CONSOLE if oem else WINDOWS), RARE_CHINESE, HALF_WIDTH):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if fits(raw, text):
            return text
    return raw.decode("cp437")


def _pairs(common: re.Pattern[bytes]) -> Callable[[bytes, str], bool]:
    """Make a check for common characters of two bytes, none beside a small Latin letter or in capitals, as accents."""
    return lambda raw, text: common.fullmatch(raw) is not None and not BESIDE_LETTER.search(text)


def _korean(raw: bytes, text: str) -> bool:
    """Hangul, half of it at least of syllables that names are made of."""
    hangul = [letter for letter in text if not letter.isascii()]
    common = sum(letter in KOREAN for letter in hangul)
    return _pairs(EUC_KR_HANGUL)(raw, text) and 2 * common >= len(hangul)


def _latin(raw: bytes, text: str) -> bool:
    """Latin letters; a sharp s stands after a vowel, and elsewhere its byte is the a with an acute of 1252."""
    return _letters("LATIN")(raw, text) and not LONE_SHARP_S.search(text)


def _western(raw: bytes, text: str) -> bool:
    """Words of Latin letters, without those that 850 shares with more common ones of 1252."""
    words = WORD.findall(text)
    return (
        _latin(raw, text)
        and not ICELANDIC.search(text)
        and all(word.isascii() or word.islower() or word.isupper() or word.istitle() for word in words)
    )


def _letters(script: str) -> Callable[[bytes, str], bool]:
    def fits(_: bytes, text: str) -> bool:
        return all(unicodedata.name(letter, "").startswith(script) for letter in text if not letter.isascii())

    return fits


def _cyrillic(_: bytes, text: str) -> bool:
    """Words of Russian and Ukrainian letters alone, in small letters or capitals, or with one capital in front."""
    words = [word for word in WORD.findall(text) if not word.isascii()]
    return CYRILLIC.fullmatch(text) is not None and all(
        not MIXED.search(word) and (word.islower() or word.isupper() or word.istitle()) for word in words
    )


def _koi8(raw: bytes, text: str) -> bool:
    """Words of Russian letters; where code page 1251 has words for the same bytes, those of rarer letters."""
    other = raw.decode("cp1251", "replace")
    return _cyrillic(raw, text) and (not _cyrillic(raw, other) or _rareness(text) < _rareness(other))


def _rareness(text: str) -> float:
    """Return the mean place of its letters among those of Russian."""
    places = [RUSSIAN.find(letter) % len(RUSSIAN) for letter in text.lower() if not letter.isascii()]
    return sum(places) / max(len(places), 1)


def _half_width(_: bytes, text: str) -> bool:
    """Katakana of half a width, as Japanese consoles and old devices write them."""
    return all("\uff66" <= letter <= "\uff9f" for letter in text if not letter.isascii())


BESIDE_LETTER = re.compile(r"[a-z][^\x00-\x7f]|[^\x00-\x7f][a-z]|[A-Z][^\x00-\x7f][A-Z]")
WORD = re.compile(r"[^\W\d_]+")
CYRILLIC = re.compile(r"[\x00-\x7f\u0410-\u044f\u0401\u0404\u0406\u0407\u0451\u0454\u0456\u0457\u0490\u0491]*")
#: From the most to the least frequent one (Russian National Corpus).
RUSSIAN = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё"
MIXED = re.compile(r"[A-Za-z]")
LONE_SHARP_S = re.compile(r"(?<![aeiouyäöü])ß", re.IGNORECASE)
ICELANDIC = re.compile("[þðý]", re.IGNORECASE)
#: Tried in this order: those that would take the bytes of others for their own by chance come later.
SCRIPTS: tuple[tuple[str, Callable[[bytes, str], bool]], ...] = (
    ("cp932", _pairs(SJIS_LEVEL_1)),
    ("koi8_r", _koi8),
    ("cp1251", _cyrillic),
    ("cp866", _cyrillic),
    ("euc_kr", _korean),
    ("gb2312", _pairs(GB_LEVEL_1)),
    ("big5", _pairs(BIG5_LEVEL_1)),
    ("euc_kr", _pairs(EUC_KR_HANGUL)),
)
CONSOLE: tuple[tuple[str, Callable[[bytes, str], bool]], ...] = (
    ("cp437", _latin),
    ("cp850", _western),
    ("cp1252", _letters("LATIN")),
)
WINDOWS: tuple[tuple[str, Callable[[bytes, str], bool]], ...] = (
    ("cp1252", _letters("LATIN")),
    ("cp437", _latin),
    ("cp850", _western),
)
#: What GB 2312 lacks: traditional characters, and rare ones of names.
RARE_CHINESE: tuple[str, Callable[[bytes, str], bool]] = ("gbk", _letters("CJK UNIFIED"))
#: Their bytes are capitals with accents, Cyrillic capitals and Chinese as well.
HALF_WIDTH: tuple[str, Callable[[bytes, str], bool]] = ("cp932", _half_width)
