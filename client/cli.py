"""The `thoraq` command: submit, status, results, heatmap, cancel, jobs, models; batch and batches are next door."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from client.client import Client
from client.commands import batches
from client.commands.options import LOCAL, Json, Key, Url, connected
from client.commands.sending import Exit, Outcome, attempt, follow, send, worst
from client.commands.tables import jobs_table, models_table, print_json, progress, results_table, tell, tell_skipped
from client.errors import ClientError
from client.files import find
from client.models import Classifier, Job, Modality, Priority
from console.command import Command, version_option
from console.terminal import note, stderr

HELP = """Send chest X-ray and CT studies to a Thoraq server and read the answers.

The server and the key are given by --url and --key, or better, as command lines are visible to others, \
by the environment variables THORAQCTL_URL and THORAQCTL_KEY. (THORAQ_* are the server's own settings.)

\b
Exit codes, for scripts:
  0  all good
  1  a job failed, was cancelled or quarantined,
     or an item was rejected
  2  wrong usage, a file that cannot be read,
     or output that cannot be written
  3  the server cannot be reached, or failed
  4  the server refused: key, scope, content or unknown id
  5  a job or batch has not finished
     (results without --wait)
130  interrupted; what was accepted goes on
141  the reader of a pipe has left (| head)
When several apply: the first of 3, 4, 2, 1, 5.

Decision support for research; not a medical device. A radiologist decides.
"""
HINTED_IDS = 20

app = Command("thoraq", HELP)

Wait = Annotated[bool, typer.Option("--wait", help="Wait until every job has ended, and show the results.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Job ids.", show_default=False)]
Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILES", exists=True, readable=True, help="Images, or directories of them.", show_default=False
    ),
]


@app.callback()
def main(version: Annotated[bool, version_option("thoraq", lambda: metadata.version("thoraq"))] = False) -> None:
    """Stand for what comes before a command."""


@app.command("submit", short_help="Send images, a job for each file.")
def submit_command(
    files: Paths,
    key: Key,
    url: Url = LOCAL,
    classifier: Annotated[Classifier, typer.Option(help="COVID-19 or not; or normal, pneumonia, COVID-19.")] = "binary",
    modality: Annotated[Modality | None, typer.Option(help="Not needed for DICOM.", show_default=False)] = None,
    priority: Annotated[Priority, typer.Option(help="Who goes first.")] = "routine",
    study: Annotated[bool, typer.Option("--study", help="All files are one study: one job.")] = False,
    external_id: Annotated[str | None, typer.Option(help="Your own label for the jobs.", show_default=False)] = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Send images: each file a job of its own, or with --study all of them one job.

    Of a directory, PNG, JPEG, TIFF and DICOM files at any depth are sent, with their names but not their
    directories': the server shows them with the answers.
    """
    studies = _studies(files, together=study)
    outcomes: list[Outcome] = []
    with connected(url, key) as thoraq, _leaving(outcomes):
        sent = send(
            thoraq, studies, classifier=classifier, modality=modality, priority=priority, external_id=external_id
        )
        with progress() as bar:
            for outcome in bar.track(sent, total=len(studies), description="Sending"):
                outcomes.append(outcome)
                _stream(outcome, as_json, wait)
        if wait:
            _await(thoraq, outcomes, as_json)
    if len(outcomes) < len(studies):
        note(f"{len(studies) - len(outcomes)} of {len(studies)} studies were not sent.")
    order = {group: index for index, group in enumerate(studies)}
    outcomes.sort(key=lambda outcome: order[outcome.files])
    if not as_json:
        (results_table if wait else jobs_table)(outcomes)
    raise typer.Exit(worst(outcome.code for outcome in outcomes))


@app.command()
def status(ids: Ids, key: Key, url: Url = LOCAL, as_json: Json = False) -> None:
    """Show where jobs are."""
    with connected(url, key) as thoraq:
        outcomes = _fetch(thoraq, ids)
    _report(outcomes, as_json)
    raise typer.Exit(worst(outcome.code for outcome in outcomes))


@app.command()
def results(ids: Ids, key: Key, url: Url = LOCAL, wait: Wait = False, as_json: Json = False) -> None:
    """Show what jobs answered."""
    with connected(url, key) as thoraq:
        outcomes = _fetch(thoraq, ids)
        for outcome in outcomes:
            _stream(outcome, as_json, wait)
        if wait:
            with _leaving(outcomes):
                _await(thoraq, outcomes, as_json)
    if not as_json:
        results_table(outcomes)
    unfinished = [Exit.UNFINISHED for outcome in outcomes if outcome.job and not outcome.job.done]
    raise typer.Exit(worst([*unfinished, *(outcome.code for outcome in outcomes)]))


@app.command(short_help="Save the heatmaps of jobs.")
def heatmap(
    ids: Ids,
    key: Key,
    url: Url = LOCAL,
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="The directory to save them in.")] = Path(),
) -> None:
    """Save the heatmaps of jobs: where the network looked for its answer, not where the disease is.

    Each is a see-through PNG to lay over its picture, stretched to it, and is named after the job, the file and the
    frame (both from 0).
    """
    with connected(url, key) as thoraq:
        outcomes = [
            attempt(partial(_save_heatmaps, thoraq, job_id, out), Outcome(job_id=job_id))
            for job_id in dict.fromkeys(ids)
        ]
    for outcome in outcomes:
        if outcome.error:
            tell(outcome.error, outcome.job_id or "")
    unfinished = [Exit.UNFINISHED for outcome in outcomes if outcome.job and not outcome.job.done]
    raise typer.Exit(worst([*unfinished, *(outcome.code for outcome in outcomes)]))


@app.command(short_help="Withdraw queued or running jobs.")
def cancel(ids: Ids, key: Key, url: Url = LOCAL, as_json: Json = False) -> None:
    """Withdraw queued or running jobs; one that has already ended otherwise is refused (exit code 4)."""
    with connected(url, key) as thoraq:
        outcomes = [attempt(partial(thoraq.cancel, job_id), Outcome(job_id=job_id)) for job_id in dict.fromkeys(ids)]
    _report(outcomes, as_json)
    raise typer.Exit(worst(outcome.code for outcome in outcomes if outcome.error))


@app.command()
def jobs(
    key: Key,
    url: Url = LOCAL,
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, ...", show_default=False)] = None,
    classifier: Annotated[Classifier | None, typer.Option(show_default=False)] = None,
    study: Annotated[str | None, typer.Option(help="Of this study id.", show_default=False)] = None,
    batch: Annotated[str | None, typer.Option(help="Of this batch id.", show_default=False)] = None,
    external_id: Annotated[str | None, typer.Option(help="With this label.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to list.")] = 50,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connected(url, key) as thoraq:
        found = thoraq.jobs(
            status=status,
            classifier=classifier,
            study_id=study,
            batch_id=batch,
            external_id=external_id,
            include="result" if as_json else None,
            page_size=min(limit, 200),
        )
        outcomes = [Outcome(job=job) for job in itertools.islice(found, limit)]
    _report(outcomes, as_json)


@app.command(short_help="List the model bundles.")
def models(key: Key, url: Url = LOCAL, as_json: Json = False) -> None:
    """List the model bundles and which one answers."""
    with connected(url, key) as thoraq:
        found = thoraq.models()
    if as_json:
        for model in found:
            print(model.model_dump_json())
    else:
        models_table(found)


app.command("batch", short_help="Send many images as one batch.")(batches.batch)
app.add_typer(batches.batches, name="batches")


def _studies(paths: list[Path], *, together: bool) -> list[tuple[Path, ...]]:
    try:
        files, skipped = find(paths)
    except OSError as error:
        raise typer.BadParameter(str(error)) from None
    tell_skipped(skipped)
    if not files:
        raise typer.BadParameter("no image found")
    return [tuple(files)] if together else [(file,) for file in files]


@contextmanager
def _leaving(outcomes: list[Outcome]) -> Iterator[None]:
    """Whoever stops early, by Ctrl-C or because the server went away, is told how to pick the jobs up again."""
    try:
        yield
    except KeyboardInterrupt:
        _hint(outcomes)
        raise typer.Exit(Exit.INTERRUPTED) from None
    except ClientError:
        _hint(outcomes)
        raise


def _hint(outcomes: list[Outcome]) -> None:
    accepted = [outcome.job for outcome in outcomes if outcome.job]
    if not accepted:
        return
    ids = " ".join(job.id for job in accepted)
    command = f"results --wait {ids}" if len(accepted) <= HINTED_IDS else f"jobs --limit {len(accepted)}"
    going = sum(1 for job in accepted if not job.done)
    stderr().print(f"\nStopped waiting; {going} of {len(accepted)} jobs go on. Pick them up with:\nthoraq {command}")


def _fetch(thoraq: Client, ids: list[str]) -> list[Outcome]:
    return [attempt(partial(thoraq.job, job_id), Outcome(job_id=job_id)) for job_id in dict.fromkeys(ids)]


def _save_heatmaps(thoraq: Client, job_id: str, folder: Path) -> Job:
    """Return the job, with its heatmaps saved and their paths printed. OSError when they cannot be written."""
    job = thoraq.job(job_id)
    images = {image.image_id: image for image in job.result.images} if job.result else {}
    found = [one for one in thoraq.artifacts(job_id) if one.kind == "heatmap" and one.image_id in images]
    folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        image = images[one.image_id]
        path = folder / f"{job_id}-{image.file}-{image.frame}.png"
        path.write_bytes(thoraq.heatmap(job_id, one.id))
        print(path)
    if not found:
        note(f"{job_id}: no heatmap, {_why_none(job)}")
    return job


def _why_none(job: Job) -> str:
    if job.status != "succeeded":
        return f"the job is {job.status}"
    return "the input was rejected" if job.result and job.result.rejected else "the server kept none"


def _stream(outcome: Outcome, as_json: bool, wait: bool) -> None:
    """JSON lines appear as soon as they are true: a job that is waited for has its line when it ends."""
    if as_json and not (wait and outcome.job):
        print_json(outcome)


def _await(thoraq: Client, outcomes: list[Outcome], as_json: bool) -> None:
    """Put finished jobs in the place of unfinished ones, as they finish."""
    place = {outcome.job.id: index for index, outcome in enumerate(outcomes) if outcome.job}
    waiting = {job_id: outcomes[index] for job_id, index in place.items()}
    with progress() as bar:
        for outcome in bar.track(follow(thoraq, waiting), total=len(place), description="Waiting"):
            if outcome.job:
                outcomes[place[outcome.job.id]] = outcome
            if as_json:
                print_json(outcome)


def _report(outcomes: list[Outcome], as_json: bool) -> None:
    if not as_json:
        jobs_table(outcomes)
        return
    for outcome in outcomes:
        print_json(outcome)


if __name__ == "__main__":
    app()
