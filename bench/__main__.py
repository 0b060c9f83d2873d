"""`python -m bench [ROW...]`: Thoraq and its peers side by side, on this machine, in one run."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import psycopg
import typer
from rich.console import Console

from bench import plot
from bench.lab import Lab, Row, say
from bench.machine import machine, revision, versions
from bench.report import RESULTS, Claim, as_json, read, table, write
from bench.rows import ROWS
from bench.sizes import FULL, QUICK, Sizes
from client import ClientError
from shared.config import Settings
from shared.errors import ThoraqError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAILURES = (ThoraqError, ClientError, httpx.HTTPError, TimeoutError, subprocess.CalledProcessError, psycopg.Error)

Names = Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(ROWS)}; all of them without.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small sizes: whether it runs, not how fast.")]
Bundle = Annotated[Path, typer.Option(help="The model bundle of the rows with a real model.")]
Out = Annotated[Path, typer.Option(help="Where the results are written, as JSON; rows that do not run stay in it.")]


def main(
    rows: Names = None,
    quick: Quick = False,
    bundle: Bundle = Settings.model_fields["model_dir"].default,
    out: Out = RESULTS,
) -> None:
    """Measure Thoraq beside its peers. The ratios are the claim; the absolute numbers are this machine's."""
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        failed = _run(chosen(rows or []), QUICK if quick else FULL, bundle.resolve(), out)
    except KeyboardInterrupt:
        say("stopped; the rows that were done are written")
        raise typer.Exit(130) from None
    if failed:
        print(f"error: {len(failed)} rows failed: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(1)


def chosen(names: Sequence[str]) -> list[Row]:
    """Return the rows of these names, in the bench's order; all of them without names."""
    if unknown := set(names) - ROWS.keys():
        raise typer.BadParameter(f"no such row: {', '.join(sorted(unknown))}")
    return [row for name, row in ROWS.items() if not names or name in names]


def _run(rows: Sequence[Row], sizes: Sizes, bundle: Path, out: Path) -> list[str]:
    """Measure, write and show; returns the names of the rows that failed, which leave no figure behind."""
    claims: list[Claim] = []
    failed = []
    # Removed at the end alone: without a journal, ext4 takes up to a millisecond to make a file where some were deleted
    # in the last minutes.
    with tempfile.TemporaryDirectory(prefix="thoraq-bench-") as folder:
        for row in rows:
            say(f"{row.name}: {row.about}")
            lab = Lab(Path(folder, row.name), sizes, bundle)
            try:
                claims += _measure(row, lab, out)
            except FAILURES as error:
                say(f"  failed: {error}")
                failed.append(row.name)
    Console().print(table(claims))
    if sizes is FULL and any(row.name == "end-to-end" for row in rows) and "end-to-end" not in failed:
        say(f"drawn: {', '.join(str(path) for path in plot.draw(read(out)['rows']['end-to-end']['figures']))}")
    say(f"written: {out}")
    return failed


def _measure(row: Row, lab: Lab, out: Path) -> list[Claim]:
    began = time.monotonic()
    lab.folder.mkdir()
    context = _context(lab.folder, lab.sizes)
    found = row.run(lab)
    context["seconds"] = round(time.monotonic() - began)
    kept = read(out)
    write(out, kept | {"rows": kept.get("rows", {}) | {row.name: as_json(found, context)}})
    return found.claims


def _context(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """With every row, as a row may be measured alone, on another day."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": sizes is QUICK,
        "rounds": sizes.rounds,
        "machine": machine(folder),
        "versions": versions(),
        "revision": revision(),
    }


def _interrupt(_number: int, _frame: object) -> NoReturn:
    # Once: a second Ctrl-C must not cut the clean end short.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)
