"""Types of settings: addresses of databases and of Redis, and lists separated by commas."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import make_conninfo
from pydantic import (
    AfterValidator,
    BeforeValidator,
    SecretStr,
)
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _database_url(value: SecretStr) -> SecretStr:
    """PostgreSQL as most tools write it, with the driver that we use."""
    scheme, separator, rest = value.get_secret_value().partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise ValueError(
            "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE; no other database or driver is supported"
        )
    try:
        url = make_url(f"postgresql+psycopg://{rest}")
        make_conninfo(**{name: str(value) for name, value in url.query.items() if name not in {"host", "port"}})
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"the port must be a number; {ESCAPED}") from error
    except ProgrammingError as error:
        raise ValueError(f"PostgreSQL knows no such parameter: {str(error).strip()}") from error
    _check_port(url.port)
    return SecretStr(f"postgresql+psycopg://{rest}")


def _database_url_or_none(value: SecretStr) -> SecretStr:
    return _database_url(value) if value.get_secret_value() else value


def _check_port(port: int | None) -> None:
    if port is not None and not 0 < port < 1 << 16:
        raise ValueError(f"the port must be between 1 and {(1 << 16) - 1}")


def _redis_url(value: SecretStr) -> SecretStr:
    """One Redis by its address; over TLS its certificate is checked, which not every library does by itself."""
    url = value.get_secret_value()
    if not url.startswith(("redis://", "rediss://")):
        raise ValueError(
            "write redis://:PASSWORD@HOST:PORT/0, or rediss:// for TLS; of sentinels and clusters give the address "
            "that leads to the primary"
        )
    try:
        parts = urlsplit(url)
        _check_port(parts.port)
    except ValueError as error:
        raise ValueError(f"the port must be a number between 1 and {(1 << 16) - 1}; {ESCAPED}") from error
    if "," in (parts.hostname or ""):
        raise ValueError("one address: of sentinels and clusters the one that leads to the primary")
    if not re.fullmatch(r"/?|/\d+/?", parts.path):
        raise ValueError("what follows the address is the number of a database, as in redis://HOST:PORT/0")
    if url.startswith("rediss://") and "ssl_cert_reqs=" not in url:
        return SecretStr(f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required")
    return value


#: What makes a port of a password, and a fragment of what follows it.
ESCAPED = "in the password, %40 stands for @, %3A for :, %2F for /, %23 for # and %3F for ?"
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
DatabaseUrlOrNone = Annotated[SecretStr, AfterValidator(_database_url_or_none)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_split)]
Seconds = Annotated[tuple[float, ...], BeforeValidator(_split)]
