"""The server's side of the API: an ASGI application around `api:create_app`. A slow client holds no thread of it.

`granian --interface asginl --factory api.edge:create_edge`.
"""

from __future__ import annotations

import resource
import sys

from api import create_app
from api.edge.server import Edge
from shared.config import settings

SWITCH_SECONDS = 0.001


def create_edge() -> Edge:
    """Make the ASGI application; settings come from the environment."""
    # As many connections as the system lets a process have: few files are what most shells and services begin with.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # The event loop waits for the interpreter's lock behind the threads, each of which keeps it for so long.
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app()
    return Edge(app, settings())
