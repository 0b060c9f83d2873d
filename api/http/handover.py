"""What a request and the server's edge (api/edge/) tell one another, through the WSGI environ.

Under another WSGI server none of it is there: then a wait holds its thread, and nobody says that a client has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from flask import request

from api.http.principal import principal
from api.http.responses import Answer
from shared.errors import ThoraqError

WAIT, GONE, REFUSED = "thoraq.wait", "thoraq.gone", "thoraq.refused"


@dataclass
class Wait:
    """A wait that holds no thread: what a request would wait for, for which tenant, and how to look at it then."""

    tenant_id: str = ""
    awaited: str = ""
    seconds: float = 0
    look_at: Callable[[], Answer] | None = None


def hand_over_wait(awaited: str, look_at: Callable[[], Answer], seconds: float) -> bool:
    """Leave the rest of a wait to the edge; False where there is none. `look_at` is called in another thread."""
    wait = cast(Wait | None, request.environ.get(WAIT))
    if wait is None:
        return False
    wait.tenant_id, wait.awaited, wait.seconds, wait.look_at = principal().tenant_id, awaited, seconds, look_at
    return True


def client_gone() -> Callable[[], bool]:
    """Return a function that says whether the current request's client has gone, as far as anybody knows."""
    return cast(Callable[[], bool], request.environ.get(GONE, lambda: False))


def raise_refusal() -> None:
    """Raise what the edge has against the current request, so that it is answered and logged as all others are."""
    refusal = cast(ThoraqError | None, request.environ.get(REFUSED))
    if refusal is not None:
        raise refusal
