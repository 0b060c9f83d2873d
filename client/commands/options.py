"""What several commands take, and the client that they open with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Annotated

import typer
from pydantic import ValidationError

from client.client import Client
from client.commands.sending import Exit, code_of
from client.commands.tables import tell
from client.errors import ApiError, Unreachable
from client.transport import Retry
from console.terminal import note

LOCAL = "http://127.0.0.1:8080"

Url = Annotated[str, typer.Option("--url", envvar="THORAQCTL_URL", help="The server, http(s)://host[:port].")]
Key = Annotated[str, typer.Option("--key", envvar="THORAQCTL_KEY", help="The API key, tq_...")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output instead of a table.")]


@contextmanager
def connected(url: str, key: str, retry: Retry | None = None) -> Iterator[Client]:
    """Open a client whose errors become a line and an exit code."""
    try:
        client = Client(url, key, retry=retry)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        with client:
            yield client
    except (ApiError, Unreachable) as error:
        tell(error)
        raise typer.Exit(code_of(error)) from None
    except (JSONDecodeError, ValidationError):
        note(f"what {url} answers is not Thoraq's: is it the right address?")
        raise typer.Exit(Exit.SERVER) from None
