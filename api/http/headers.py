"""What the headers of every answer say, unless the answer says something else."""

from __future__ import annotations

from shared.config import Settings


def default_headers(settings: Settings) -> list[tuple[str, str]]:
    """Return the headers of an answer that is what its type says, in no frame, and for who asked alone.

    OWASP REST Security Cheat Sheet, "Security headers".
    """
    headers = [
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
        ("Cache-Control", "no-store"),
    ]
    if settings.session_secure:
        headers.append(("Strict-Transport-Security", "max-age=31536000"))
    return headers
