"""Hospitals that do not give up: every request is sent again, with the same Idempotency-Key, until it is answered."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.chaos.plan import Submission

SENDERS = 8
TIMEOUT_SECONDS = 6.0
WAIT_SECONDS = 3
PAUSE_SECONDS = 0.4


@dataclass
class Fate:
    """What became of a request, as its client saw it."""

    submission: Submission
    #: Ids of the job or batch in its answers; more than one would be a broken promise.
    ids: set[str] = field(default_factory=set)
    statuses: list[int] = field(default_factory=list)
    #: Tries without a good answer: timeouts, broken connections, 5xx, 429.
    failures: int = 0
    #: The status and type of the problem, when the request was refused for good.
    refusal: str | None = None
    cancelled: bool = False

    @property
    def answered(self) -> bool:
        return bool(self.ids)


class Clients:
    """Threads that send the planned requests at their times; `give_up` ends those that nobody answers."""

    def __init__(self, url: str, key: str, planned: Sequence[Submission]) -> None:
        self.fates = [Fate(submission) for submission in planned]
        self._left = iter(self.fates)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._began = 0.0
        self._http = httpx.Client(
            base_url=url, timeout=TIMEOUT_SECONDS, headers={"Authorization": f"Bearer {key}"}, trust_env=False
        )
        self._threads = [threading.Thread(target=self._work, name=f"sender-{n}") for n in range(SENDERS)]

    def start(self) -> None:
        """Begin to send."""
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether some request is not answered yet."""
        return any(thread.is_alive() for thread in self._threads)

    def give_up(self) -> None:
        """Send no more, and wait for the requests under way."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._http.close()

    def _work(self) -> None:
        while not self._over.is_set():
            with self._lock:
                fate = next(self._left, None)
            if fate is None:
                return
            self._over.wait(max(0.0, self._began + fate.submission.at - time.monotonic()))
            self._submit(fate)
            if fate.answered and fate.submission.repeats:
                self._submit(fate)
            if fate.answered and fate.submission.cancels:
                kind = "batches" if fate.submission.batch else "jobs"
                answer = self._insist(fate, f"/v1/{kind}/{min(fate.ids)}/cancel", dict)
                fate.cancelled = answer is not None and answer.status_code == 200

    def _submit(self, fate: Fate) -> None:
        submission = fate.submission
        path = "/v1/batches" if submission.batch else "/v1/jobs"
        answer = self._insist(fate, path, lambda: _content(submission))
        if answer is None:
            return
        if answer.status_code in {200, 202}:
            fate.statuses.append(answer.status_code)
            fate.ids.add(answer.json()["id"])
        else:
            fate.refusal = f"{answer.status_code} {answer.text[:300]}"

    def _insist(self, fate: Fate, path: str, content: Any) -> httpx.Response | None:
        """The first answer that is not a request to come again; None when the run is over before."""
        while not self._over.is_set():
            try:
                answer = self._http.post(path, **content())
            except httpx.TransportError:
                answer = None
            if answer is not None and not _come_again(answer):
                return answer
            fate.failures += 1
            self._over.wait(PAUSE_SECONDS)
        return None


def _come_again(answer: httpx.Response) -> bool:
    """Whether the same request may do better later: also while an earlier try of it is still under way."""
    if answer.status_code == 409:
        return str(answer.json()["type"]).endswith("#idempotency-in-progress")
    return answer.status_code >= 500 or answer.status_code == 429


def _content(submission: Submission) -> dict[str, Any]:
    first = submission.asks[0]
    fields = {"classifier": first.classifier, "external_id": submission.key}
    if first.modality is not None:
        fields["modality"] = first.modality
    headers = {"Idempotency-Key": submission.key}
    if submission.body == "zip":
        return {
            "params": fields,
            "content": _archive(submission),
            "headers": headers | {"Content-Type": "application/zip"},
        }
    files = [("files", (path.name, path.read_bytes())) for ask in submission.asks for path in ask.files]
    if submission.waits:
        headers["Prefer"] = f"wait={WAIT_SECONDS}"
    return {"data": fields, "files": files, "headers": headers}


def _archive(submission: Submission) -> bytes:
    """The same bytes each time, as the same request has."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number, ask in enumerate(submission.asks):
            archive.writestr(zipfile.ZipInfo(f"{number}.png"), ask.files[0].read_bytes())
    return content.getvalue()
