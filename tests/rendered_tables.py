"""Every table of both commands as it looks at 60, 80 and 100 columns; `python -m tests.rendered_tables` rewrites them.

The texts lie in tests/rendered/, so that a change of a column is seen by whoever reads the change.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from admin.__main__ import DOCTOR_COLUMNS, KEY_COLUMNS
from admin.console import show
from admin.models import LIST_COLUMNS, VERIFY_COLUMNS
from admin.queue import JOB_COLUMNS, WORKER_COLUMNS
from admin.tenants import COLUMNS as TENANT_COLUMNS
from client.batch_models import Batch, BatchError, BatchResult
from client.commands.batch_tables import batch_errors_table, batches_table, tally_table
from client.commands.sending import Outcome
from client.commands.tables import jobs_table, models_table, results_table
from client.commands.tally import tally
from client.errors import ApiError, Unreachable
from client.models import Job, Model
from tests.support.servers.scripted import batch, failed, job, succeeded

FOLDER = Path(__file__).with_name("rendered")
WIDTHS = (60, 80, 100)
DIGEST = "0123456789abcdef" * 4
FILE = "/data/pacs/export/2026-11-29/ward 7/chest/series-0001/image-000123.dcm"
ERROR = {"field": "modality", "message": "say whether this is `xray` or `ct`"}


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def ident(kind: str, number: int) -> str:
    """An id as long as the server's are."""
    return f"{kind}_019{number:029x}"


def outcome_of(view: dict[str, Any], *files: str) -> Outcome:
    return Outcome(files=tuple(map(Path, files)), job=Job.model_validate(view))


def answered(number: int, images: int = 1, **more: Any) -> dict[str, Any]:
    view = succeeded(ident("job", number), images=images)
    view["result"] |= {
        "prediction": "pneumonia",
        "probabilities": {"normal": 0.312, "pneumonia": 0.652, "covid19": 0.036},
    } | more
    return view


def waiting(number: int, **more: Any) -> dict[str, Any]:
    return job(job_id=ident("job", number)) | {"classifier": "ensemble"} | more


def jobs() -> None:
    running = waiting(2, status="running", priority="stat")
    jobs_table([outcome_of(waiting(1, position=1234, estimated_wait_seconds=130.0)), outcome_of(running)])


def jobs_with_files_and_a_refusal() -> None:
    error = ApiError(422, "invalid-request", "Invalid request", ERROR["message"], "req_1", [ERROR])
    jobs_table([outcome_of(waiting(1), FILE), Outcome(files=(Path("chest.png"),), error=error)])


def jobs_none() -> None:
    jobs_table([])


def results() -> None:
    second: dict[str, Any] = {
        "classifier": "binary",
        "prediction": "not_covid19",
        "probabilities": {"not_covid19": 0.9, "covid19": 0.1},
    }
    doubtful: dict[str, Any] = {"needs_review": True, "review_reasons": ["thin-margin", "classifiers-disagree"]}
    results_table(
        [
            outcome_of(answered(1, second_opinion=second), FILE),
            outcome_of(answered(2, second_opinion=second, **doubtful), "b.png"),
        ]
    )


def results_plain() -> None:
    results_table([outcome_of(answered(1)), outcome_of(answered(2))])


def results_of_all_kinds() -> None:
    gone: dict[str, Any] = {
        "prediction": None,
        "probabilities": None,
        "outcome": "rejected_input",
        "detail": "No chest is seen.",
    }
    results_table(
        [
            outcome_of(answered(1, images=2, modality="ct", modality_corrected=True), "one.png", "two.png"),
            outcome_of(answered(2, **gone), "holiday.jpg"),
            outcome_of(failed(ident("job", 3)), "empty.dcm"),
            Outcome(
                files=(Path("far.png"),), error=Unreachable("no answer from example.org after 5 attempts: refused")
            ),
        ]
    )


def models() -> None:
    card: Any = {"heads": {"binary": {}, "ensemble": {}}}
    bundle = {"name": "thoraq-3", "version": "3.0.0", "sha256": DIGEST, "card": card, "active": True, "serving": True}
    models_table([Model.model_validate(bundle)])


def batches() -> None:
    mixed = batch("completed_with_errors", ident("batch", 1), total=12_345, succeeded=12_300, failed=40, rejected=5)
    mixed |= {"completed_at": "2026-01-02T03:06:34Z", "external_id": "night of 1 January, ward 7"}
    running = batch("running", ident("batch", 2), total=2_000, queued=1_500, running=16, succeeded=484)
    batches_table([Batch.model_validate(mixed), Batch.model_validate(running)])


def batch_errors() -> None:
    problem = {"type": "truncated", "title": "Truncated", "detail": "The file ends in the middle of its pixel data."}
    base = {"item": 1203, "member": FILE.removeprefix("/data/"), "custom_id": None, "problem": problem}
    errors = [base | {"job_id": ident("job", 7), "status": "failed"}, base | {"job_id": None, "status": "rejected"}]
    batch_errors_table([BatchError.model_validate(error) for error in errors], "Without an answer (45, the first 10)")


def batch_tally() -> None:
    no_chest: Any = {"outcome": "rejected_input", "reason": "not-a-chest-image", "prediction": None}
    doubtful: Any = {"needs_review": True, "review_reasons": ["thin-margin", "classifiers-disagree"]}
    views = [answered(1), answered(2, **doubtful), answered(3, prediction="normal"), answered(4, **no_chest)]
    found = [BatchResult(item=item, job=Job.model_validate(view)) for item, view in enumerate(views)]
    counts = Batch.model_validate(batch("completed_with_errors", total=1239, succeeded=4, failed=1234, rejected=1))
    tally_table(tally(counts, found))


AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def admin_keys() -> None:
    scopes = "jobs:write, jobs:read, webhooks:manage, models:read"
    base = {"prefix": "tq_E69S44pj", "created_at": AT, "expires_at": None, "last_used_at": None}
    show(
        KEY_COLUMNS,
        [
            base | {"id": ident("key", 1), "tenant": "local", "name": "first", "scopes": scopes, "revoked_at": None},
            base
            | {"id": ident("key", 2), "tenant": "General Hospital of the North", "name": "viewer of ward 7"}
            | {"scopes": "jobs:read", "revoked_at": AT, "last_used_at": AT},
        ],
        as_json=False,
    )


def admin_tenants() -> None:
    row = {"id": ident("ten", 1), "name": "General Hospital", "created_at": AT}
    row |= {"keep_identity": True, "expires_after_days": 90.0, "stat_share": 50}
    show(TENANT_COLUMNS, [row], as_json=False)


def admin_models() -> None:
    row = {"name": "thoraq-3", "version": "3", "sha256": DIGEST, "active": True, "stored": True}
    refused = ["classify@ward: no engine repeats its reference answers"]
    show(LIST_COLUMNS, [row | {"workers": ["classify@one", "classify@two"], "refused": refused}], as_json=False)


def admin_verify() -> None:
    none: dict[str, object] = {"name": None, "version": None, "sha256": None}
    damaged = {"where": "THORAQ_MODEL_DIR", "problem": "backbone.safetensors: its SHA-256 is not the one in card.json"}
    whole: dict[str, object] = {
        "where": "object store",
        "name": "thoraq-3",
        "version": "3",
        "sha256": DIGEST,
        "problem": None,
    }
    show(VERIFY_COLUMNS, [none | damaged, whole], as_json=False)


def admin_doctor() -> None:
    says = "what ended has one delivery per endpoint that was subscribed"
    ids = ", ".join(ident("job", number) for number in range(3))
    rows: list[dict[str, object]] = [
        {"invariant": "a job that succeeded has a result", "violations": 0, "ids": ""},
        {"invariant": says, "violations": 12, "ids": ids},
    ]
    show(DOCTOR_COLUMNS, rows, as_json=False)


def admin_queue() -> None:
    show(JOB_COLUMNS, [{"state": "queued", "priority": "bulk", "jobs": 12345, "oldest_seconds": 130}], as_json=False)


def admin_workers() -> None:
    row = {"worker": "classify@ward-7.example", "queue": "classify", "takes_work": False, "seen_seconds_ago": 2}
    row |= {"bundle": DIGEST, "engine": None, "engine_reason": None}
    works = row | {"worker": "classify@ward-8.example", "takes_work": True, "engine": "openvino-float32"}
    figures = "openvino-int8 not taken: 14.2 images/s, openvino-float32 16.9"
    show(
        WORKER_COLUMNS,
        [
            row | {"problem": "it needs 9 GB of memory, and may have 4"},
            works | {"engine_reason": figures, "problem": None},
        ],
        as_json=False,
    )


TABLES: tuple[Callable[[], None], ...] = (
    jobs,
    jobs_with_files_and_a_refusal,
    jobs_none,
    results,
    results_plain,
    results_of_all_kinds,
    models,
    batches,
    batch_errors,
    batch_tally,
    admin_keys,
    admin_tenants,
    admin_models,
    admin_verify,
    admin_doctor,
    admin_queue,
    admin_workers,
)


@contextmanager
def terminal(width: int) -> Iterator[Terminal]:
    """Standard output is a terminal of this width, without colours."""
    before = dict(os.environ)
    os.environ |= {"COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1", "TZ": "Asia/Kolkata"}
    time.tzset()
    try:
        with redirect_stdout(Terminal()) as screen:
            yield screen
    finally:
        os.environ.clear()
        os.environ.update(before)
        time.tzset()


def rendered(show: Callable[[], None], width: int) -> str:
    """What a table looks like, without what only bold or italic letters need and blanks at the ends of lines."""
    with terminal(width) as screen:
        show()
    lines = Text.from_ansi(screen.getvalue()).plain.splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def path_of(show: Callable[[], None], width: int) -> Path:
    return FOLDER / f"{show.__name__.replace('_', '-')}-{width}.txt"


def too_wide(text: str, width: int) -> list[str]:
    """Lines that the terminal would wrap; only a word that is wider than the room for it may do that."""
    return [line for line in text.splitlines() if cell_len(line) > width]


def write() -> None:
    """Rewrite every text."""
    FOLDER.mkdir(exist_ok=True)
    for table in TABLES:
        for width in WIDTHS:
            path_of(table, width).write_text(rendered(table, width), encoding="utf-8")


if __name__ == "__main__":
    write()
