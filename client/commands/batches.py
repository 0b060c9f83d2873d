"""`thoraq batch` sends thousands of studies at once; `thoraq batches` looks after what was sent."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from client.archive import Archive, archive_of
from client.batch_calls import BatchOptions, Format, unfinished_name
from client.batch_models import Batch, BatchError, BatchResult
from client.client import Client
from client.commands.batch_tables import batch_errors_table, batches_table, ignored_text, tally_table
from client.commands.meter import Meter
from client.commands.options import LOCAL, Json, Key, Url, connected
from client.commands.resumption import Resumption
from client.commands.sending import Exit, code_of, worst
from client.commands.tables import tell, tell_skipped
from client.commands.tally import Line, tally
from client.errors import ApiError, Unreachable
from client.models import RESEARCH_USE, Classifier, Grouping, Modality, Priority
from client.transport import Retry
from console.command import Command
from console.terminal import stderr, stdout

#: A server that has answered before and is silent now is waited for, about five minutes.
PATIENT = Retry(attempts=19)
SHOWN_ERRORS = 10
FORMATS: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="DIR|ZIP", exists=True, readable=True, help="Directories and images, or one ZIP."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", dir_okay=False, help="Write the results here: .csv or .ndjson.", show_default=False),
]
Errors = Annotated[
    Path | None,
    typer.Option(
        "--errors", dir_okay=False, help="Write what has no answer, and why: .csv or .ndjson.", show_default=False
    ),
]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Batch ids.", show_default=False)]
Id = Annotated[str, typer.Argument(metavar="ID", help="A batch id.", show_default=False)]

batches = Command("batches", "List, follow, fetch and cancel batches.")


def batch(
    paths: Paths,
    key: Key,
    url: Url = LOCAL,
    classifier: Annotated[Classifier, typer.Option(help="COVID-19 or not; or normal, pneumonia, COVID-19.")] = "binary",
    modality: Annotated[
        Modality | None, typer.Option(help="Of all files but DICOM, which say it themselves.", show_default=False)
    ] = None,
    priority: Annotated[Priority, typer.Option(help="Who goes first.")] = "bulk",
    group_by: Annotated[Grouping, typer.Option(help="Which files are one study.")] = "file",
    external_id: Annotated[str | None, typer.Option(help="Your own label for the batch.", show_default=False)] = None,
    expires_in: Annotated[
        float | None, typer.Option(min=1, help="Seconds after which nothing of it is begun.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run even what was answered before.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted run stopped, or begin anew.")] = True,
    wait: Annotated[bool, typer.Option(help="Wait until every job has ended, or only until all is sent.")] = True,
    out: Out = None,
    errors: Errors = None,
    as_json: Json = False,
) -> None:
    """Send all images of directories, or a ZIP, as one batch, and follow it to its end.

    Interrupted, by Ctrl-C or because the server went away, the same command goes on where it stopped and sends
    nothing twice. File names are sent along, from the directory's own name down: the results bear them.
    """
    if not wait and (out or errors):
        raise typer.BadParameter("without waiting there is nothing to write yet: leave --out and --errors away")
    _check(out, errors)
    archive = _archive(paths)
    options = BatchOptions(classifier, modality, priority, group_by, external_id, expires_in, force)
    resumption = Resumption(url, archive, options)
    idempotency_key = _kept(resumption, resume=resume)
    with connected(url, key) as thoraq:
        thoraq.find_batch(idempotency_key)  # a wrong address is not worth the patience
    with connected(url, key, PATIENT) as thoraq, Meter(archive) as meter, _leaving(meter):
        sent = thoraq.send_batch(archive, options, idempotency_key=idempotency_key, watch=meter)
        if sent.next_item != len(archive) and not sent.done:
            # A ZIP may hold members that its directory no longer lists; whoever reads it as a stream finds them.
            meter.say(f"The server has {sent.next_item:,} files where {len(archive):,} were to be sent: check the ZIP.")
        ended = _follow(thoraq, sent, meter) if wait else sent
        report = _save(thoraq, ended, meter, out, errors, as_json) if wait else Report()
    resumption.forget()
    _report(ended, report, as_json)
    if not wait:
        stderr().print(f"All is sent. Fetch the answers with:\nthoraq batches results --wait {ended.id}")
    raise typer.Exit(_code(ended) if wait else Exit.GOOD)


@batches.command("list")
def list_batches(
    key: Key, url: Url = LOCAL, limit: Annotated[int, typer.Option(min=1)] = 50, as_json: Json = False
) -> None:
    """List batches, newest first."""
    with connected(url, key) as thoraq:
        found = list(itertools.islice(thoraq.batches(page_size=min(limit, 200)), limit))
    _show(found, as_json)


@batches.command()
def status(ids: Ids, key: Key, url: Url = LOCAL, as_json: Json = False) -> None:
    """Show how far batches are."""
    with connected(url, key) as thoraq:
        found, refused = _each(ids, thoraq.batch)
    if found or not refused:
        _show(found, as_json)
    raise typer.Exit(worst([*refused, *map(_code, found)]))


@batches.command(short_help="Withdraw what has not ended.")
def cancel(ids: Ids, key: Key, url: Url = LOCAL, as_json: Json = False) -> None:
    """Withdraw what has not ended of batches; the answers that are there stay."""
    with connected(url, key) as thoraq:
        found, refused = _each(ids, thoraq.cancel_batch)
    if found or not refused:
        _show(found, as_json)
    raise typer.Exit(worst(refused))


@batches.command(short_help="Fetch what a batch has answered.")
def results(
    batch_id: Id,
    key: Key,
    url: Url = LOCAL,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every job has ended.")] = False,
    out: Out = None,
    errors: Errors = None,
) -> None:
    """Fetch what a batch has answered, also while it runs: to files, or as JSON lines on standard output."""
    _check(out, errors)
    with connected(url, key) as thoraq:
        found = thoraq.batch(batch_id)
    with connected(url, key, PATIENT) as thoraq, Meter() as meter, _leaving(meter):
        if wait and not found.done:
            found = _follow(thoraq, found, meter)
        report = _save(thoraq, found, meter, out, errors) if out or errors else Report()
        if out is None and errors is None:
            for line in _heard(thoraq.batch_results(found), meter):
                print(line.model_dump_json())
    if out or errors:
        _report(found, report, as_json=False)
    raise typer.Exit(_code(found) if found.done else Exit.UNFINISHED)


def _check(*files: Path | None) -> None:
    """Find a file that cannot be written before the sending, not after it."""
    for file in files:
        if file is None:
            continue
        if file.suffix.lower() not in FORMATS:
            raise typer.BadParameter(f"{file}: the name must end in one of {', '.join(FORMATS)}")
        try:
            unfinished_name(file).touch()
            unfinished_name(file).unlink()
        except OSError as error:
            raise typer.BadParameter(f"{file} cannot be written: {error.strerror}") from None


def _archive(paths: list[Path]) -> Archive:
    try:
        archive, skipped = archive_of(paths)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    tell_skipped(skipped)
    return archive


@contextmanager
def _leaving(meter: Meter) -> Iterator[None]:
    """Whoever stops early, by Ctrl-C or because of the server or a file, is told what becomes of it."""
    try:
        yield
    except KeyboardInterrupt:
        meter.say("Interrupted. What the server has goes on; the same command goes on where this one stopped.")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except OSError as error:
        meter.say(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        raise typer.Exit(Exit.USAGE) from None
    except (ApiError, Unreachable) as error:
        if code_of(error) is Exit.SERVER:
            meter.say("What the server has goes on; the same command goes on where this one stopped.")
        raise


def _follow(thoraq: Client, batch: Batch, meter: Meter) -> Batch:
    for view in thoraq.batch_events(batch, watch=meter):
        meter.seen(view)
        batch = view
    return batch


@dataclass(frozen=True)
class Report:
    """What is shown of a batch that has ended: its answers, counted, and the first items without one."""

    lines: Sequence[Line] = ()
    problems: Sequence[BatchError] = ()


def _kept(resumption: Resumption, *, resume: bool) -> str:
    try:
        return resumption.key(resume=resume)
    except OSError as error:
        raise typer.BadParameter(f"what is needed to go on after an interruption cannot be kept: {error}") from None


def _save(
    thoraq: Client, batch: Batch, meter: Meter, out: Path | None, errors: Path | None, as_json: bool = False
) -> Report:
    """Return the files, and what is told of their content."""
    if out is not None:
        thoraq.save_batch(batch, "results", out, FORMATS[out.suffix.lower()], watch=meter)
    if errors is not None:
        thoraq.save_batch(batch, "errors", errors, FORMATS[errors.suffix.lower()], watch=meter)
    if as_json or not batch.done:
        return Report()
    problems = list(itertools.islice(thoraq.batch_errors(batch), SHOWN_ERRORS)) if batch.failed else []
    return Report(tally(batch, _heard(thoraq.batch_results(batch), meter)), problems)


def _heard(results: Iterator[BatchResult], meter: Meter) -> Iterator[BatchResult]:
    for result in results:
        meter.heard()
        yield result


def _each(ids: list[str], ask: Callable[[str], Batch]) -> tuple[list[Batch], list[Exit]]:
    """Return the batches, and the codes of those that the server refuses; why goes to standard error."""
    found: list[Batch] = []
    refused: list[Exit] = []
    for batch_id in dict.fromkeys(ids):
        try:
            found.append(ask(batch_id))
        except ApiError as error:
            tell(error, batch_id)
            refused.append(code_of(error))
    return found, refused


def _code(batch: Batch) -> Exit:
    return Exit.JOB_FAILED if batch.failed else Exit.GOOD


def _report(batch: Batch, report: Report, as_json: bool) -> None:
    if as_json:
        print(batch.model_dump_json())
        return
    batches_table([batch])
    if report.lines:
        stdout().print()
        tally_table(report.lines)
    if ignored := ignored_text(batch):
        stdout().print(f"\n{ignored}")
    if report.problems:
        stdout().print()
        shown, all_of_them = len(report.problems), batch.counts.unanswered
        title = f"Without an answer ({all_of_them:,}"
        batch_errors_table(report.problems, title + (f", the first {shown})" if shown < all_of_them else ")"))
    stdout().print(f"\n{RESEARCH_USE}")


def _show(found: list[Batch], as_json: bool) -> None:
    if not as_json:
        batches_table(found)
        if found:
            stdout().print(f"\n{RESEARCH_USE}")
        return
    for one in found:
        print(one.model_dump_json())
