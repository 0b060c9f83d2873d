"""The WSGI environ (PEP 3333) of an ASGI scope."""

from __future__ import annotations

import sys
from typing import Any


def environ_of(scope: dict[str, Any]) -> dict[str, Any]:
    """Return the environ of a request without its body."""
    server, client = scope.get("server") or ("", 0), scope.get("client") or ("", 0)
    path: str = scope["path"]
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        # Bytes as Latin-1, as WSGI has them.
        "PATH_INFO": path if path.isascii() else path.encode().decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        # However it was sent, the stream ends where the body does.
        "wsgi.input_terminated": True,
    }
    for name, value in scope["headers"]:
        _add(environ, name.decode("latin-1").upper().replace("-", "_"), value.decode("latin-1"))
    return environ


def _add(environ: dict[str, Any], name: str, value: str) -> None:
    key = name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}"
    if key in environ:
        # RFC 9110, 5.3; cookies are apart (RFC 6265, 5.4).
        value = f"{environ[key]}{'; ' if name == 'COOKIE' else ','}{value}"
    environ[key] = value


def has_body(environ: dict[str, Any]) -> bool:
    """Whether a body comes, by what the headers say."""
    return environ.get("CONTENT_LENGTH", "0") != "0" or "HTTP_TRANSFER_ENCODING" in environ
