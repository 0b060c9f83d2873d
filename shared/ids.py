"""Identifiers: a prefix that says what the thing is, then a UUIDv7 (RFC 9562, section 5.7), so ids sort by time."""

from __future__ import annotations

import uuid_utils


def new_id(prefix: str) -> str:
    """For example `job_0193f2...`: prefix, underscore, 32 hexadecimal digits."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"
