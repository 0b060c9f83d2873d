"""What came of a batch's items, as NDJSON or CSV: streamed in their order, also while it runs and after a cancel."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from sqlalchemy.dialects.postgresql import JSONB

from api.batches.openapi import ERROR_LINES, RESULT_LINES
from api.batches.routes import NDJSON, find_batch
from api.batches.schemas import BatchPath, ErrorLine, OutputQuery, ResultLine
from api.http.openapi.document import ERRORS
from api.http.principal import principal, requires
from api.http.services import services
from shared.db.engine import Database
from shared.db.tables import BatchRejection, Job, JobState, ModelBundle
from shared.jobs import reads
from shared.jobs.schemas import job_envelope
from shared.keys import Scope

blueprint = APIBlueprint(
    "batch_output", __name__, url_prefix="/v1", abp_tags=[Tag(name="batches")], abp_responses=ERRORS
)

PAGE = 200  # rows that are read at once; between two reads nothing is held in the database
PIECE_CHARACTERS = 16_384  # sent at once: a line of its own would cost the server and the client as much as its content
#: Classes of the two papers' classifiers; a bundle may have others, whose columns come after them.
CLASSES = ("covid19", "not_covid19", "normal", "pneumonia")
WITHOUT_ANSWER = (JobState.FAILED, JobState.CANCELLED, JobState.QUARANTINED)
#: What a spreadsheet would take for a formula; some pass over blanks before it, and read the full-width forms as these.
FORMULA = ("=", "+", "-", "@")
CONTROL = ("\t", "\r", "\n")

Line = ResultLine | ErrorLine
Cells = Mapping[str, object]


@blueprint.get("/batches/<string:batch_id>/results", responses={"200": RESULT_LINES})
@requires(Scope.JOBS_READ)
def batch_results(path: BatchPath, query: OutputQuery) -> Response:
    """Every item that became a job, with the job as it is now, in the order of the items.

    CSV has a column for each class, times in UTC as RFC 3339 has them, and several review reasons with `; ` between
    them; cells that a spreadsheet would take for formulas begin with an apostrophe.
    """
    database = _database_of(path.batch_id)
    columns = ["item", "member", "custom_id", "job_id", "status", "prediction"]
    columns += [f"probability_{name}" for name in _classes(database)]
    columns += ["needs_review", "error_type", "error_detail", "model", "outcome", "review_reasons"]
    columns += ["created_at", "started_at", "finished_at"]
    return _respond(query, "results", _results(database, path.batch_id), columns, _result_cells)


@blueprint.get("/batches/<string:batch_id>/errors", responses={"200": ERROR_LINES})
@requires(Scope.JOBS_READ)
def batch_errors(path: BatchPath, query: OutputQuery) -> Response:
    """Every item that ended without an answer, in the order of the items: refused, failed, cancelled, quarantined."""
    database = _database_of(path.batch_id)
    columns = ["item", "member", "custom_id", "job_id", "status", "error_type", "error_detail"]
    return _respond(query, "errors", _errors(database, path.batch_id), columns, _error_cells)


def _database_of(batch_id: str) -> Database:
    who = principal()
    database = services().database
    with database.transaction() as session:
        find_batch(session, who, batch_id)
    return database


def _results(database: Database, batch_id: str) -> Iterator[ResultLine]:
    after = -1
    while True:
        with database.single() as connection:
            jobs = reads.of_batch(connection, batch_id, after, PAGE)
        if not jobs:
            return
        for job in jobs:
            after = job.item or 0
            yield ResultLine.model_construct(
                item=after, member=job.member, custom_id=job.custom_id, job=job_envelope(job)
            )


def _errors(database: Database, batch_id: str) -> Iterator[ErrorLine]:
    after = -1
    while True:
        with database.single() as connection:
            rows = connection.execute(_ERRORS, {"batch_id": batch_id, "after": after}).all()
        if not rows:
            return
        after = rows[-1].item
        yield from (ErrorLine.model_validate(row, from_attributes=True) for row in rows)


def _errors_statement() -> sa.Select[Any]:
    after, batch_id = sa.bindparam("after", type_=sa.Integer), sa.bindparam("batch_id", type_=sa.Text)
    ended = sa.select(
        Job.item, Job.member, Job.custom_id, Job.id.label("job_id"), sa.cast(Job.state, sa.Text).label("status"),
        Job.error.label("problem"),
    ).where(Job.batch_id == batch_id, Job.item > after, Job.state.in_(WITHOUT_ANSWER))  # fmt: skip
    refused = sa.select(
        BatchRejection.item, BatchRejection.member, BatchRejection.custom_id, sa.null().label("job_id"),
        sa.literal("rejected").label("status"), BatchRejection.problem,
    ).where(BatchRejection.batch_id == batch_id, BatchRejection.item > after)  # fmt: skip
    parts = [sa.select(part.order_by("item").limit(PAGE).subquery()) for part in (ended, refused)]
    both = sa.union_all(*parts).subquery()
    problem = sa.type_coerce(both.c.problem, JSONB).label("problem")
    columns = [both.c[name] for name in ("item", "member", "custom_id", "job_id", "status")]
    return sa.select(*columns, problem).order_by(both.c.item).limit(PAGE)


_ERRORS = _errors_statement()


def _classes(database: Database) -> list[str]:
    with database.single() as connection:
        cards = connection.scalars(sa.select(ModelBundle.card)).all()
    others = (name for card in cards for head in card.get("heads", {}).values() for name in head["classes"])
    return list(dict.fromkeys([*CLASSES, *others]))


def _respond(
    query: OutputQuery,
    name: Literal["results", "errors"],
    lines: Iterable[Line],
    columns: Sequence[str],
    cells: Callable[[Any], Cells],
) -> Response:
    kind = query.format
    if kind is None:
        kind = "csv" if request.accept_mimetypes.best_match([NDJSON, "text/csv"], NDJSON) == "text/csv" else "ndjson"
    texts = _csv(lines, columns, cells) if kind == "csv" else (f"{line.model_dump_json()}\n" for line in lines)
    response = Response(_in_pieces(texts), mimetype="text/csv" if kind == "csv" else NDJSON)
    response.headers["Cache-Control"] = "private, no-store"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}.{kind}"'
    return response


def _in_pieces(texts: Iterable[str]) -> Iterator[str]:
    piece = io.StringIO(newline="")
    for text in texts:
        piece.write(text)
        if piece.tell() >= PIECE_CHARACTERS:
            yield piece.getvalue()
            piece = io.StringIO(newline="")
    if rest := piece.getvalue():
        yield rest


class _Echo:
    """A file for csv, whose rows are what it is asked to write."""

    def write(self, text: str) -> str:
        return text


def _csv(lines: Iterable[Line], columns: Sequence[str], cells: Callable[[Any], Cells]) -> Iterator[str]:
    """As RFC 4180 has it."""
    writer = csv.DictWriter(_Echo(), columns)
    yield writer.writeheader()
    for line in lines:
        yield writer.writerow({name: _cell(value) for name, value in cells(line).items()})


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    begins = unicodedata.normalize("NFKC", value[:100]).lstrip()
    return f"'{value}" if begins.startswith(FORMULA) or value.startswith(CONTROL) else value


def _result_cells(line: ResultLine) -> Cells:
    job, result = line.job, line.job.result
    cells: dict[str, object] = {"item": line.item, "member": line.member, "custom_id": line.custom_id}
    cells |= {"job_id": job.id, "status": job.status.value}
    cells |= {name: _time(getattr(job, name)) for name in ("created_at", "started_at", "finished_at")}
    if job.error is not None:
        cells |= {"error_type": job.error.type, "error_detail": job.error.detail}
    if result is not None:
        cells |= {f"probability_{name}": value for name, value in (result.probabilities or {}).items()}
        cells |= {"prediction": result.prediction, "needs_review": str(result.needs_review).lower()}
        cells |= {"outcome": result.outcome, "review_reasons": "; ".join(result.review_reasons)}
        cells |= {"model": f"{result.model.name} {result.model.version}"}
    if result is not None and result.reason is not None:
        cells |= {"error_type": result.reason.value, "error_detail": result.detail}
    return cells


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _error_cells(line: ErrorLine) -> Cells:
    cells = line.model_dump(exclude={"problem"})
    if line.problem is not None:
        cells |= {"error_type": line.problem.type, "error_detail": line.problem.detail}
    return cells
