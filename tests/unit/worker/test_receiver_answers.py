"""What receivers of webhooks answer, as the record of a delivery shows it."""

from __future__ import annotations

from datetime import UTC, datetime

import httpcore
import pytest

from worker.deliver.handler import next_delay
from worker.deliver.http import Failure
from worker.deliver.receiver_responses import read_answer, reason_of, refusal_of, retry_after

NOW = datetime(2026, 11, 29, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        (" 120 ", 120),
        ("Sun, 29 Nov 2026 12:02:00 GMT", 120),
        ("Sunday, 29-Nov-26 12:02:00 GMT", 120),
        ("Sun Nov 29 12:02:00 2026", 120),
        ("Sun, 29 Nov 2026 11:00:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("9" * 50, 1e50),
        ("9" * 500, float("inf")),
        ("Mon, 01 Jan 99999 12:00:00 GMT", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_a_receiver_s_wish_is_bounded_by_the_delay_after_this_one() -> None:
    schedule = (5, 300, 1800)
    assert next_delay(schedule, 1, 120) == 120
    assert next_delay(schedule, 1, 10**9) == 300
    assert next_delay(schedule, 1, float("inf")) == 300
    assert next_delay(schedule, 2, 1) == 1
    assert next_delay(schedule, 3, 10**9) == 1800
    assert 4 <= next_delay(schedule, 1, None) <= 6


@pytest.mark.parametrize(
    ("headers", "body", "head"),
    [
        ({}, b"plain", "plain"),
        ({"Content-Type": "text/plain; charset=iso-8859-1"}, b"\xfc", "ü"),
        ({"Content-Type": "text/html; charset=no-such"}, "ü".encode(), "ü"),
        ({"Content-Type": "application/problem+json"}, b'{"title": "x"}', '{"title": "x"}'),
        ({"Content-Type": "application/json"}, b"", None),
        ({"Content-Type": "image/png"}, b"PNG", None),
        ({"Content-Type": "text/plain", "Content-Encoding": "gzip"}, b"x", None),
        ({"Content-Type": "text/plain"}, b"a\r\nb\0\x1b", "a\nb\ufffd\ufffd"),
        ({"Content-Type": "text/plain"}, b"x" * 5000, "x" * 1000),
    ],
)
def test_of_a_body_its_text_is_kept(headers: dict[str, str], body: bytes, head: str | None) -> None:
    assert read_answer(500, [(k.encode(), v.encode()) for k, v in headers.items()], body).head == head


def test_every_failure_and_refusal_has_words() -> None:
    kinds = [*Failure, *(kind for failure in Failure for kind in failure.__subclasses__())]
    words = {kind: reason_of(kind()) for kind in kinds if not kind.__subclasses__()}
    assert all(" " in said and kind.__name__ not in said for kind, said in words.items())
    assert reason_of(httpcore.ConnectTimeout()) == "no connection in time"
    assert [refusal_of(status) for status in (200, 204, 299)] == [None] * 3
    assert refusal_of(429) == "the receiver answered 429 Too Many Requests"
    assert refusal_of(599) == "the receiver answered 599"
