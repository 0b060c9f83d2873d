"""A command line whose output may fail: standard output is closed, full, or a pipe that nobody reads any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

import typer

FAILED = 2
#: As a shell reports a program that SIGPIPE has ended: 128 + 13.
READER_LEFT = 141


class OutputFailed(Exception):
    """Standard output or standard error takes nothing more; `reader_left`: it is a pipe that was closed.

    Not an OSError: Click ends a command over EPIPE with exit code 1, which means something else in ours.
    """

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(f"{name}: {error.strerror}")
        self.reader_left = isinstance(error, BrokenPipeError)


class Command(typer.Typer):
    """A command that ends with one line and an exit code when it cannot print; silently when its reader has left."""

    def __init__(self, name: str, help: str) -> None:  # noqa: A002 - Typer's own name
        # Plain help: Rich's boxes cut the names of options and variables on a narrow terminal.
        super().__init__(
            name=name,
            help=help,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_show_locals=False,
            rich_markup_mode=None,
        )

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with checked_output(self.info.name or "thoraq"):
            return super().__call__(*arguments, **options)


@contextmanager
def checked_output(program: str) -> Iterator[None]:
    """End the process when what is printed within cannot be written."""
    streams = sys.stdout, sys.stderr
    try:
        _need_stdout()
        # Kept by name: Click and Rich look them up whenever they print.
        sys.stdout = cast(TextIO, _Checked("standard output", sys.stdout))
        if sys.stderr is not None:
            sys.stderr = cast(TextIO, _Checked("standard error", sys.stderr))
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputFailed as error:
        _say(f"{program}: {error}" if not error.reader_left else "")
        raise SystemExit(READER_LEFT if error.reader_left else FAILED) from None
    finally:
        sys.stdout, sys.stderr = streams


def version_option(program: str, version: Callable[[], str]) -> Any:
    """Return an option `--version` that prints which one this is, and ends."""

    def show(asked: bool) -> None:
        if asked:
            print(f"{program} {version()}")
            raise typer.Exit

    return typer.Option("--version", callback=show, is_eager=True, help="Print the version and end.")


def _need_stdout() -> None:
    if sys.stdout is None:
        raise OutputFailed("standard output", OSError(0, "it is closed"))


class _Checked:
    """A text stream whose errors are OutputFailed."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self._stream = stream

    def write(self, text: str) -> int:
        with self._failing():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._failing():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputFailed(self._name, error) from None


def _say(text: str) -> None:
    """Tell it, if anybody listens, and keep the interpreter from trying what is buffered once more at its end."""
    if text:
        with suppress(OutputFailed, OSError):
            print(text, file=sys.stderr, flush=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
