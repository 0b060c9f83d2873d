"""What standalone shows when it serves: the samples' answers, and in the demo their verified webhooks."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable
from typing import Any

from client import Client, Job
from standalone.process import ROOT, ServiceFailed
from standalone.receiver import Receiver
from standalone.samples import Answered, classify, print_table, read_samples

EVENTS = ["job.succeeded", "job.failed", "job.quarantined"]
WEBHOOK_SECONDS = 60.0

Events = queue.Queue[dict[str, Any]]


def show_samples(client: Client) -> list[Answered]:
    """Classifies the samples over HTTP and prints their table; ServiceFailed when one has no answer."""
    answers = classify(client, read_samples(ROOT / "samples"))
    print_table(answers)
    failed = [answer.job.id for answer in answers if answer.job.status != "succeeded"]
    if failed:
        raise ServiceFailed(f"{len(failed)} of {len(answers)} samples have no answer: {', '.join(failed)}")
    return answers


def show_webhooks(client: Client) -> None:
    """Classifies the samples with a webhook receiver in place; ServiceFailed unless every job's webhook verifies.

    The endpoint is deleted again, whatever happens.
    """
    events: Events = queue.Queue()
    with Receiver(events.put) as receiver:
        endpoint = client.create_endpoint(receiver.url, EVENTS, "demo")
        receiver.secret = endpoint.secret or ""
        try:
            answers = show_samples(client)
            _await_webhooks([answer.job for answer in answers], events, receiver)
        finally:
            client.delete_endpoint(endpoint.id)


def _await_webhooks(jobs: Iterable[Job], events: Events, receiver: Receiver) -> None:
    missing = {job.id for job in jobs}
    deadline = time.monotonic() + WEBHOOK_SECONDS
    while missing:
        try:
            event = events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            refused = f"; {len(receiver.refused)} were refused: {receiver.refused[0]}" if receiver.refused else ""
            raise ServiceFailed(f"{len(missing)} webhooks did not come{refused}") from None
        job_id = event["data"]["id"]
        if job_id in missing:  # a delivery may come twice
            missing.discard(job_id)
            print(f"webhook verified type={event['type']} id={job_id}", flush=True)
