"""One file per part of the table; each can run alone."""

from __future__ import annotations

from bench.lab import Row
from bench.rows import (
    backlog,
    busy_gpu,
    end_to_end,
    engine_rates,
    fairness,
    memory,
    null_engine,
    one_study,
    polls,
    queue_path,
    stat,
)

#: In the order in which they run: what a hospital would ask first.
ROWS = {
    row.name: row
    for row in (
        Row("end-to-end", "real models over HTTP, beside the peers and the raw ceiling", end_to_end.run),
        Row("one-study", "one study alone, warm, beside decoding and engine alone", one_study.run),
        Row("stat", "stat studies while thousands of bulk images of another tenant wait", stat.run),
        Row("null-engine", "submissions and a ZIP without a model, beside ordinary Celery", null_engine.run),
        Row("queue-path", "from claim to committed result, beside a Celery worker with null tasks", queue_path.run),
        Row("busy-gpu", "how busy a stand-in GPU is kept", busy_gpu.run),
        Row("backlog", "a deep queue beside a shallow one", backlog.run),
        Row("fairness", "two tenants of very different size", fairness.run),
        Row("polls", "polls beside a bare Flask route on the same server", polls.run),
        Row("memory", "memory of the API under a large ZIP, and of the worker under many images", memory.run),
        Row("engines", "the engines of this machine by themselves", engine_rates.run),
    )
}
