"""The typed client: every method is one route of the API, except those that wait or turn pages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from client.admin_calls import AdminCalls
from client.batch_calls import BatchCalls
from client.calls import POLL_SECONDS, given, id_of, route
from client.models import Artifact, Classifier, Delivery, Endpoint, Job, Modality, Model, Priority, Study
from client.transport import retry_after
from client.uploads import closing_parts


class Client(BatchCalls, AdminCalls):
    """A Thoraq server, as its tenant sees it. Threads may share one.

    `timeout` is in seconds, for connecting and between two pieces of an answer. Every method raises ApiError when the
    server says no and Unreachable when it gives no answer, both only after the attempts that `retry` allows. What is
    created carries an Idempotency-Key, made up unless given, so that repeating never creates twice.
    """

    def submit(
        self,
        files: Sequence[Path],
        *,
        classifier: Classifier,
        modality: Modality | None = None,
        priority: Priority = "routine",
        external_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
        wait: float | None = None,
    ) -> Job:
        """Send the images of one study and classify it; the files are read while they are sent.

        `modality` may be left out when the files are DICOM. With `wait`, the server holds its answer up to that many
        seconds and answers with the finished job if it ends in time. ValueError without files, OSError for a file
        that cannot be read.
        """
        fields = given(
            classifier=classifier,
            modality=modality,
            priority=priority,
            external_id=external_id,
            metadata=None if metadata is None else json.dumps(metadata),
        )
        return Job.model_validate(self._upload("/v1/jobs", files, fields, idempotency_key, wait))

    def submit_study(
        self,
        files: Sequence[Path],
        *,
        modality: Modality | None = None,
        external_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Study:
        """Send the images of one study without classifying it; see `run`."""
        fields = given(
            modality=modality,
            external_id=external_id,
            metadata=None if metadata is None else json.dumps(metadata),
        )
        return Study.model_validate(self._upload("/v1/studies", files, fields, idempotency_key))

    def study(self, study_id: str) -> Study:
        """Return a study and its images."""
        return Study.model_validate(self._transport.send("GET", route("studies", study_id)).json())

    def run(
        self,
        study_id: str,
        *,
        classifier: Classifier,
        priority: Priority = "routine",
        external_id: str | None = None,
        metadata: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
        wait: float | None = None,
    ) -> Job:
        """Classify a study that the server already has; `wait` as for `submit`."""
        body = given(
            study_id=study_id, classifier=classifier, priority=priority, external_id=external_id, metadata=metadata
        )
        return Job.model_validate(self._post("/v1/jobs", idempotency_key, wait=wait, json=body).json())

    def job(self, job_id: str) -> Job:
        """Return a job as it is now."""
        return Job.model_validate(self._transport.send("GET", route("jobs", job_id)).json())

    def jobs(
        self,
        *,
        status: str | None = None,
        classifier: Classifier | None = None,
        study_id: str | None = None,
        batch_id: str | None = None,
        external_id: str | None = None,
        include: Literal["result"] | None = None,
        page_size: int = 50,
    ) -> Iterator[Job]:
        """Jobs, newest first; pages of `page_size` (1 to 200) are fetched as the iteration reaches them.

        Their results lack the images' own results, unless `include` is `result`.
        """
        query = given(
            status=status,
            classifier=classifier,
            study_id=study_id,
            batch_id=batch_id,
            external_id=external_id,
            include=include,
        )
        return map(Job.model_validate, self._pages("/v1/jobs", query | {"limit": page_size}))

    def wait(self, job: str | Job, timeout: float | None = None) -> Job:
        """Return the job once it has ended, in whatever way (`answer()` tells). WaitTimeout after `timeout` seconds."""
        return self._follow(route("jobs", id_of(job)), Job, timeout)

    def wait_many(self, jobs: Iterable[str | Job]) -> Iterator[Job]:
        """Each job as it ends, in whatever way, until all have.

        One request is under way at a time. Rounds through the jobs begin no more often than the server's Retry-After
        asks; the last job is waited for as `wait` does.
        """
        waiting: dict[str, str | None] = dict.fromkeys((id_of(job) for job in jobs), None)
        while len(waiting) > 1:
            began, pause = self._retry.clock(), POLL_SECONDS
            for job_id, tag in list(waiting.items()):
                response = self._look(route("jobs", job_id), tag)
                waiting[job_id] = response.headers.get("ETag", tag)
                pause = retry_after(response, default=POLL_SECONDS)
                if response.status_code != 304 and (job := Job.model_validate(response.json())).done:
                    del waiting[job_id]
                    yield job
            if len(waiting) > 1:
                self._retry.sleep(max(0.0, pause - (self._retry.clock() - began)))
        for job_id in waiting:
            yield self.wait(job_id)

    def cancel(self, job_id: str) -> Job:
        """Withdraw a queued or running job. ApiError 409 when it has already ended otherwise."""
        return Job.model_validate(self._transport.send("POST", route("jobs", job_id, "cancel")).json())

    def artifacts(self, job_id: str) -> list[Artifact]:
        """Return what belongs to a job's result, in the order of its images; none until it has succeeded."""
        return [Artifact.model_validate(item) for item in self._pages(route("jobs", job_id, "artifacts"), {})]

    def heatmap(self, job_id: str, artifact_id: str) -> bytes:
        """Return a heatmap as a PNG, see-through where the network hardly looked: stretch it over the picture."""
        return self._transport.send("GET", route("jobs", job_id, "artifacts", artifact_id)).content

    def models(self) -> list[Model]:
        """Return the model bundles that the server knows."""
        return [Model.model_validate(item) for item in self._pages("/v1/models", {})]

    def create_endpoint(
        self, url: str, events: Sequence[str], description: str = "", idempotency_key: str | None = None
    ) -> Endpoint:
        """Have `events` (or `["*"]`) sent to `url`. The answer alone holds the secret: keep it."""
        body = {"url": url, "events": list(events), "description": description}
        return Endpoint.model_validate(self._post("/v1/webhook-endpoints", idempotency_key, json=body).json())

    def endpoints(self) -> Iterator[Endpoint]:
        """Return the tenant's webhook endpoints."""
        return map(Endpoint.model_validate, self._pages("/v1/webhook-endpoints", {}))

    def delete_endpoint(self, endpoint_id: str) -> None:
        """Send nothing more to an endpoint."""
        self._transport.send("DELETE", route("webhook-endpoints", endpoint_id))

    def test_endpoint(self, endpoint_id: str) -> Delivery:
        """Have a `test` event sent."""
        return Delivery.model_validate(self._post(route("webhook-endpoints", endpoint_id, "test")).json())

    def deliveries(self, endpoint_id: str) -> Iterator[Delivery]:
        """Return what was or will be sent to an endpoint, with every attempt."""
        return map(Delivery.model_validate, self._pages(route("webhook-endpoints", endpoint_id, "deliveries"), {}))

    def redeliver(self, delivery_id: str) -> Delivery:
        """Have an event sent once more."""
        return Delivery.model_validate(self._post(route("deliveries", delivery_id, "redeliver")).json())

    def _upload(
        self, path: str, files: Sequence[Path], fields: dict[str, Any], key: str | None, wait: float | None = None
    ) -> Any:
        with closing_parts(files) as sent:
            return self._post(path, key, wait=wait, data=fields, files=sent).json()
