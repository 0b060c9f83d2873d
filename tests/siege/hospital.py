"""Hospital B: a stat and a routine study every few seconds, polls, waits, webhooks; and how long each takes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import cv2
import httpx
import numpy as np

from standalone.receiver import Receiver

#: Between two submissions of one kind, two polls, two looks at the health.
SUBMIT_SECONDS, POLL_SECONDS, HEALTH_SECONDS = 2.0, 0.1, 0.25
PATIENCE_SECONDS = 120.0
ENDED = {"succeeded", "failed", "cancelled", "quarantined"}


class Hospital:
    """From `with` on it works, in threads of its own; `seconds` has what each kind of thing took."""

    def __init__(self, url: str, key: str) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        #: What should not have happened.
        self.failures: list[str] = []
        self.finished: dict[str, dict[str, Any]] = {}
        self.told: set[str] = set()
        self._url, self._key = url, key
        self._over = threading.Event()
        self._last = ""
        self._numbers = count()
        self._receiver = Receiver(self._note_event)
        jobs: list[tuple[Callable[[httpx.Client], None], float]]
        jobs = [(self._health, HEALTH_SECONDS), (self._poll, POLL_SECONDS)]
        jobs += [(self._submitting(priority), SUBMIT_SECONDS) for priority in ("stat", "routine")]
        self._threads = [threading.Thread(target=self._repeat, args=job, daemon=True) for job in jobs]

    def __enter__(self) -> Hospital:
        self._receiver.__enter__()
        with self._client() as client:
            asked = {"url": self._receiver.url, "events": ["job.succeeded"]}
            self._receiver.secret = client.post("/v1/webhook-endpoints", json=asked).json()["secret"]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._receiver.__exit__(None, None, None)

    def stop(self) -> None:
        """Begin nothing more, and wait for the end of what was begun."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def take_seconds(self) -> dict[str, list[float]]:
        """What was timed since the last call."""
        taken, self.seconds = self.seconds, defaultdict(list)
        return taken

    def _client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self._key}"}
        return httpx.Client(base_url=self._url, headers=headers, timeout=PATIENCE_SECONDS)

    def _repeat(self, do: Callable[[httpx.Client], None], every: float) -> None:
        with self._client() as client:
            while not self._over.wait(every):
                try:
                    do(client)
                except (httpx.HTTPError, AssertionError, KeyError) as error:
                    self.failures.append(f"{getattr(do, '__name__', 'submit')}: {type(error).__name__} {error}")

    def _timed(self, kind: str, ask: Callable[[], httpx.Response]) -> httpx.Response:
        began = time.monotonic()
        response = ask()
        self.seconds[kind].append(time.monotonic() - began)
        assert response.status_code < 400, f"{response.status_code} {response.text[:200]}"
        return response

    def _health(self, client: httpx.Client) -> None:
        self._timed("health", lambda: client.get("/healthz"))

    def _poll(self, client: httpx.Client) -> None:
        if self._last:
            self._timed("poll", lambda: client.get(f"/v1/jobs/{self._last}"))

    def _submitting(self, priority: str) -> Callable[[httpx.Client], None]:
        def submit(client: httpx.Client) -> None:
            fields = {"classifier": "binary", "modality": "xray", "priority": priority}
            began = time.monotonic()
            sent = client.post("/v1/jobs", files={"files": self._picture()}, data=fields)
            assert sent.status_code == 202, f"{sent.status_code} {sent.text[:200]}"
            job = sent.json()
            self._last = job["id"]
            while job["status"] not in ENDED:
                job = client.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"}).json()
                assert time.monotonic() - began < PATIENCE_SECONDS, f"{job['id']} is {job['status']}"
            self.seconds[priority].append(time.monotonic() - began)
            self.finished[job["id"]] = job

        return submit

    def _picture(self) -> bytes:
        # Another one each time: what was answered before is not run again.
        grey = np.full((64, 64), 60, np.uint8)
        cv2.putText(grey, str(next(self._numbers)), (2, 40), cv2.FONT_HERSHEY_PLAIN, 1.5, 200)
        png: bytes = cv2.imencode(".png", grey)[1].tobytes()
        return png

    def _note_event(self, event: dict[str, Any]) -> None:
        job = event["data"]
        late = datetime.now(UTC) - datetime.fromisoformat(job["finished_at"])
        if job["id"] not in self.told:
            self.seconds["webhook"].append(max(late.total_seconds(), 0.0))
        self.told.add(job["id"])
