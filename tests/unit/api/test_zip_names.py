"""Names of members as text: UTF-8, what Info-ZIP adds, and code pages that nothing names."""

from __future__ import annotations

import pytest

from api.batches.zip.names import UNICODE_PATH, member_name
from api.batches.zip.stream import extra_fields
from tests.support.files.archives import unicode_path


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("ascii", "IM000001"),
        ("utf-8", "患者A/表1.jpg"),
        ("cp437", "MÜLLER/Größe.png"),
        ("cp437", "äxx.png"),
        ("cp1252", "MÜLLER/José García.dcm"),
        ("cp932", "患者A/表1.jpg"),
        ("cp932", "十字/ソ.jpg"),
        ("gb2312", "患者张三/肺部.dcm"),
        ("big5", "患者/病人.jpg"),
        ("gb2312", "病人/肺部.dcm"),
        ("gbk", "陳大文/1.dcm"),
        ("euc_kr", "김철수/흉부.dcm"),
        ("euc_kr", "환자영상/1.dcm"),
        ("cp850", "JØRGENSEN/João.dcm"),
        ("cp850", "NUÑEZ/Größe.dcm"),
        ("cp1252", "Sánchez/1.dcm"),
        ("cp437", "Weiß/Straße.dcm"),
        ("cp1251", "снимок груди/1.dcm"),
        ("cp866", "ИВАНОВ/Снимок 1.dcm"),
        ("cp1251", "Иванов Иван/1.dcm"),
    ],
)
def test_a_name_is_shown_in_its_own_letters(encoding: str, name: str) -> None:
    assert member_name(name.encode(encoding), {}) == name


@pytest.mark.parametrize("base", ["1.jpg", "表1.jpg", "Ünal.jpg", "ソ\\2.jpg"])
@pytest.mark.parametrize("folder", ["患者表", "MÜLLER", "ソA"])
def test_a_folder_has_one_text_however_its_files_are_called(folder: str, base: str) -> None:
    for encoding in ("cp932", "cp437", "gbk"):
        raw = folder.encode(encoding, "replace") + b"/" + base.encode("cp932", "replace")
        name = member_name(raw, {})
        assert name.count("/") == 1
        if not name.isascii():
            assert "\\" not in name or raw.isascii()
        assert name.partition("/")[0] == member_name(folder.encode(encoding, "replace") + b"/x", {}).partition("/")[0]


def test_backslashes_separate_where_nothing_else_does() -> None:
    assert member_name(b"a\\1.png", {}) == "a\\1.png"
    assert member_name("MÜLLER\\1.png".encode("cp437"), {}) == "MÜLLER\\1.png"
    assert member_name("表\\1.png".encode("cp932"), {}) == "表\\1.png"


def test_the_unicode_path_goes_first_unless_the_member_was_renamed() -> None:
    raw = "患者".encode("cp437", "replace")
    for of, expected in ((raw, "患者"), (b"other", "??")):
        assert member_name(raw, extra_fields(b"UT\x01\x00\x03" + unicode_path(of, "患者"))) == expected
    for broken in (b"", b"\x01", b"\x02" + bytes(8)):
        assert member_name(raw, {UNICODE_PATH: broken}) == "??"
    assert extra_fields(b"UT") == {}
