"""`python -m standalone`: the whole of Thoraq on this machine, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from client import Client, ClientError
from console.command import Command
from shared.errors import ConfigError, ThoraqError
from standalone.demo import show_samples, show_webhooks
from standalone.stack import Stack

LOOK_SECONDS = 0.2
LARGEST_PORT = 65535
ADMIN_KEY = ".venv/bin/thoraq-admin keys create \\\n  --tenant local --name admin --scopes admin"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Port = Annotated[
    str | None, typer.Option(help="Port of the API; 0: a free one [default: 8080, or a free one when it is taken]")
]
Data = Annotated[Path, typer.Option(help="Folder for everything that survives a restart.")]
Demo = Annotated[bool, typer.Option("--demo", help="Receive and verify the samples' webhooks too, then end.")]


app = Command("thoraq", "Run the whole of Thoraq on this machine.")


@app.command()
def main(port: Port = None, data: Data = Path(".thoraq"), demo: Demo = False) -> None:
    """Start Thoraq on this machine, classify the samples, and serve until Ctrl-C."""
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    began = time.monotonic()
    try:
        wanted = port_of(port)
        run(Stack(data, port=wanted, say=lambda text: say(f"{time.monotonic() - began:6.1f} s  {text}")), demo)
    except KeyboardInterrupt:
        say("stopped")
    except (ThoraqError, ClientError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def run(stack: Stack, demo: bool) -> None:
    """Start the stack, show what it does, and stop it again whatever happens."""
    try:
        stack.up()
        say(f"ready url={stack.url} key={stack.key}")
        if demo:
            supervise_during(stack, show_webhooks)
        else:
            serve(stack)
    finally:
        # A second Ctrl-C must not cut the clean end short; it takes 15 s at most.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        stack.down()


def port_of(text: str | None) -> int | None:
    """Return a port as it was given; ConfigError when it is none."""
    if text is None or (text.isascii() and text.isdecimal() and int(text) <= LARGEST_PORT):
        return None if text is None else int(text)
    raise ConfigError(f"{text!r} is no port: give a number from 1 to {LARGEST_PORT}, or 0 for a free one")


def serve(stack: Stack) -> NoReturn:
    """Show the samples, then watch over the children until a signal comes."""
    try:
        supervise_during(stack, show_samples)
    except (ThoraqError, ClientError) as error:
        say(f"the samples could not be shown: {error}")
    # Once more, as the samples have scrolled the first line away.
    say(f"page and API: {stack.url}\nkey: {stack.key}")
    say(f"an admin key, for more keys:\n({stack.operator_environment}; {ADMIN_KEY})")
    say("serving; Ctrl-C stops")
    while True:
        stack.supervise()
        time.sleep(LOOK_SECONDS)


def supervise_during(stack: Stack, act: Callable[[Client], object]) -> None:
    """Run `act` in a thread; this one stays free for the children, which end with the thread that started them."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with stack.client() as client:
                act(client)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that can act on it
            errors.append(error)

    thread = threading.Thread(target=work, name="show", daemon=True)
    thread.start()
    while thread.is_alive():
        stack.supervise()
        thread.join(LOOK_SECONDS)
    if errors:
        raise errors[0]


def say(text: str) -> None:
    """One line, at once, even into a pipe."""
    print(text, flush=True)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    app()
