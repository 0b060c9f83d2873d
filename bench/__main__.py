"""`python -m bench`: Thoraq and its peers side by side, on this machine, in one run."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console

from bench.images import SIDE, make_images
from bench.load import System, check_agreement, measure
from bench.machine import machine, revision, versions
from bench.peers.start import POLL_SECONDS, ordinary_celery, sync_flask
from bench.report import RESULTS, Round, as_json, table, write
from bench.thoraq import Thoraq, thoraq
from client import ClientError
from shared.errors import ThoraqError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Images = Annotated[int, typer.Option(min=1, help="Images per system and round.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds; every system runs once in each.")]
Clients = Annotated[int, typer.Option(min=1, max=32, help="Threads that send, each one image at a time.")]
Out = Annotated[Path, typer.Option(help="Where the results are written, as JSON.")]


def main(images: Images = 160, rounds: Rounds = 3, clients: Clients = 16, out: Out = RESULTS) -> None:
    """Measure Thoraq beside its peers. The ratios are the claim; the absolute numbers are this machine's."""
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="thoraq-bench-") as folder:
            _run(Path(folder), images, rounds, clients, out)
    except KeyboardInterrupt:
        _say("stopped; nothing is written")
        raise typer.Exit(130) from None
    except (ThoraqError, ClientError, httpx.HTTPError, TimeoutError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _run(folder: Path, images: int, rounds: int, clients: int, out: Path) -> None:
    context: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(folder),
        "versions": versions(),
        "revision": revision(),
    }
    _say("making the images")
    warm_up, *sent = make_images(folder / "images", images, rounds + 1)
    context["sizes"] = {"images": images, "rounds": rounds, "clients": clients, "peer_poll_seconds": POLL_SECONDS}
    context["input"] = {"format": "PNG", "side": SIDE, "mean_bytes": _mean_bytes(sent)}
    with _systems(folder, clients) as systems:
        _warm_up(systems, warm_up[: 2 * clients], clients)
        measured = _rounds(systems, sent, clients)
    write(out, as_json(measured, Thoraq.name, context))
    Console().print(table(measured, Thoraq.name))
    _say("measuring the engines")
    # In a process of its own: an engine's threads and memory do not get in the systems' way, nor theirs in its.
    subprocess.run([sys.executable, "-m", "bench.engines", "--out", str(out)], check=True)
    _say(f"written: {out}")


@contextmanager
def _systems(folder: Path, clients: int) -> Iterator[list[System]]:
    """All of them, up at the same time: an idle one takes next to nothing, and rounds can take turns."""
    with ExitStack() as stack:
        _say("starting Thoraq")
        ours = stack.enter_context(thoraq(folder / "thoraq"))
        _say("starting the peers")
        celery = stack.enter_context(ordinary_celery(folder, ours.bundle, clients))
        flask = stack.enter_context(sync_flask(folder, ours.bundle, clients))
        stack.callback(_say, "stopping everything")
        yield [ours, flask, celery]


def _warm_up(systems: Sequence[System], files: Sequence[Path], clients: int) -> None:
    """Not counted. Also proves that all give the same answers, without which their speeds compare nothing."""
    _say("warming up, and comparing the answers")
    answers = {system.name: measure(system, files, clients).answers for system in systems}
    for name, found in answers.items():
        check_agreement(answers[Thoraq.name], found, name)


def _rounds(systems: Sequence[System], sent: Sequence[Sequence[Path]], clients: int) -> dict[str, list[Round]]:
    """A B C A B C: whatever else the machine does falls on all of them alike."""
    measured: dict[str, list[Round]] = {system.name: [] for system in systems}
    for number, files in enumerate(sent, 1):
        for system in systems:
            figures = measure(system, files, clients).figures
            measured[system.name].append(figures)
            _say(f"round {number} of {len(sent)}: {system.name} {figures.images_per_second:.1f} images/s")
    return measured


def _mean_bytes(sent: Sequence[Sequence[Path]]) -> int:
    sizes = [file.stat().st_size for files in sent for file in files]
    return sum(sizes) // len(sizes)


def _say(text: str) -> None:
    print(text, flush=True)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    # Once: a second Ctrl-C must not cut the clean end short.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)
