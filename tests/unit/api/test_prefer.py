"""`Prefer: wait` as RFC 7240 has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http.prefer import wait_of


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ([], None),
        (["wait=60"], 60),
        (["wait=60; x=y"], 60),
        (["wait=60;x"], 60),
        (["WAIT = 60"], 60),
        (['wait="60"'], 60),
        (['wait="6\\0"; a="b,c"'], 60),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (['return=minimal; foo="some, wait=3"', "wait=10"], 10),
        (["wait=1, wait=2"], 1),
        (["wait=1", "wait=2"], 1),
        (["wait=abc, wait=2"], None),
        (["wait"], None),
        (["wait="], None),
        (["wait=, x"], None),
        (["waiting=5"], None),
        (['x="wait=5'], None),
        (["=5, ;;, wait=5"], 5),
        *[([f"wait={bad}"], None) for bad in ("soon", "nan", "inf", "-1", "1.5", "1e3", '""', "٣", "9" * 5000)],
    ],
)
def test_what_is_not_understood_is_ignored(headers: list[str], wait: int | None) -> None:
    assert wait_of(headers) == wait


@given(st.lists(st.text('wait=;,"\\ 0x')))
def test_any_header_is_read(headers: list[str]) -> None:
    wait = wait_of(headers)
    assert wait is None or str(wait) in "".join(headers)
