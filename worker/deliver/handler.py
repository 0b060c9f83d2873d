"""Webhooks out: claim what is due, send it signed, record every attempt.

At least once, with a stable id: a worker that dies between the request and the record sends again. A claim pushes
`next_attempt_at` ahead and leaves a token; only the holder of the token records the attempt.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session, joinedload

from shared import metrics
from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import AuditEntry, Delivery, DeliveryAttempt, DeliveryState, WebhookEndpoint
from shared.errors import WebhookDestinationRefused
from shared.webhooks.signing import sign
from worker.deliver.due import DUE, PER_ENDPOINT, DueDelivery, secrets_in_force
from worker.deliver.http import Failure, WebhookClient
from worker.deliver.payloads import payloads
from worker.deliver.receiver_responses import reason_of, refusal_of
from worker.runner import Serving

log = structlog.get_logger(__name__)

SENDER = {"Content-Type": "application/json", "User-Agent": "Thoraq-Webhooks/1"}


@dataclass(frozen=True)
class Reply:
    """What came of one attempt: the receiver's answer, or the reason that there was none."""

    status_code: int | None
    error: str | None
    seconds: float
    head: str | None = None
    #: seconds after which the receiver wants to be asked again
    retry_after: float | None = None

    @property
    def delivered(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300

    @property
    def gone(self) -> bool:
        return self.status_code == 410


class Deliver:
    """The handler of the deliver queue."""

    serving: Serving | None = None

    def __init__(self, settings: Settings, database: Database) -> None:
        self.progress = time.monotonic()
        self._settings, self._database = settings, database
        self._threads = ThreadPoolExecutor(settings.webhook_threads, "deliver")
        self._client = WebhookClient(settings)
        self._flying: dict[Future[None], DueDelivery] = {}

    @property
    def under_way(self) -> int:
        """How many requests to receivers are under way."""
        return len(self._flying)

    def drain(self, stopping: threading.Event) -> None:
        """Send until nothing is due, or `stopping` is set; a thread that is free takes the next delivery at once."""
        flying = self._flying
        while True:
            free = 0 if stopping.is_set() else self._settings.webhook_threads - len(flying)
            for due in self.take(free, list(flying.values())):
                flying[self._threads.submit(self._deliver, due)] = due
            self.progress = time.monotonic()
            if not flying:
                return
            for done in wait(flying, self._settings.poll_seconds, FIRST_COMPLETED).done:
                del flying[done]
                done.result()

    def beat(self) -> None:
        """Nothing to extend: a claim outlives its request's timeouts by construction."""

    def close(self) -> None:
        """Let go of threads and connections."""
        self._threads.shutdown()
        self._client.close()

    def take(self, free: int, flying: Sequence[DueDelivery]) -> list[DueDelivery]:
        """Claim what is due: at most `free`, and with those that are `flying` a few per endpoint, half per tenant."""
        if free <= 0:
            return []
        # Longer than a request may last, so that nobody else sends it meanwhile; shorter than a person's patience.
        lease = timedelta(seconds=4 * self._settings.webhook_timeout_seconds)
        with self._database.transaction() as session:
            due = self._due(session, free, flying)
            open_ = sa.and_(Delivery.state == DeliveryState.PENDING, Delivery.next_attempt_at <= sa.func.now())
            rows = sa.select(Delivery.id).where(Delivery.id.in_(due), open_).with_for_update(skip_locked=True)
            ids = session.scalars(rows).all()
            session.execute(
                sa.update(Delivery)
                .where(Delivery.id.in_(ids))
                .values(lease_token=sa.cast(sa.func.gen_random_uuid(), sa.Text), next_attempt_at=sa.func.now() + lease)
                .execution_options(synchronize_session=False)
            )
            return list(self._due_deliveries(session, ids))

    def _due(self, session: Session, free: int, flying: Sequence[DueDelivery]) -> list[str]:
        of_endpoint = Counter(due.endpoint_id for due in flying)
        of_tenant = Counter(due.tenant_id for due in flying)
        # Slow receivers of one tenant hold half of the threads at most.
        per_tenant = max(self._settings.webhook_threads // 2, 1)
        asked = {
            "full": [endpoint for endpoint, count in of_endpoint.items() if count >= PER_ENDPOINT],
            "sated": [tenant for tenant, count in of_tenant.items() if count >= per_tenant],
            "per_endpoint": PER_ENDPOINT,
            "many": 2 * self._settings.webhook_threads,
        }
        due: list[str] = []
        for delivery_id, endpoint_id, tenant_id in session.execute(DUE, asked):
            if len(due) < free and of_endpoint[endpoint_id] < PER_ENDPOINT and of_tenant[tenant_id] < per_tenant:
                of_endpoint[endpoint_id] += 1
                of_tenant[tenant_id] += 1
                due.append(delivery_id)
        return due

    def _due_deliveries(self, session: Session, ids: Any) -> Iterator[DueDelivery]:
        rows = (
            sa.select(Delivery)
            .where(Delivery.id.in_(ids))
            .options(joinedload(Delivery.event), joinedload(Delivery.endpoint))
        )
        deliveries = session.scalars(rows.execution_options(populate_existing=True)).all()
        bodies = {
            labels: payloads(
                session, [one.event for one in deliveries if one.endpoint.include_labels is labels], labels=labels
            )
            for labels in (False, True)
        }
        for delivery in deliveries:
            yield DueDelivery(
                delivery_id=delivery.id,
                token=delivery.lease_token or "",
                endpoint_id=delivery.endpoint_id,
                tenant_id=delivery.tenant_id,
                url=delivery.endpoint.url,
                secrets=tuple(secrets_in_force(delivery.endpoint)),
                message_id=delivery.event_id,
                payload=bodies[delivery.endpoint.include_labels][delivery.event_id],
                attempt=delivery.attempt_count + 1,
                attempt_of_round=delivery.attempt_count - delivery.round_start + 1,
                failing=delivery.endpoint.failing_since is not None,
            )

    def _deliver(self, due: DueDelivery) -> None:
        reply = self.send(due)
        metrics.DELIVERY_SECONDS.observe(reply.seconds)
        outcome = self.record(due, reply)
        metrics.DELIVERIES.labels(outcome).inc()
        log.info(
            "webhook.attempt",
            delivery_id=due.delivery_id,
            attempt=due.attempt,
            outcome=outcome,
            status_code=reply.status_code,
            error=reply.error,
        )

    def send(self, due: DueDelivery) -> Reply:
        """One request to the receiver; whatever goes wrong is a Reply too."""
        body = json.dumps(due.payload, separators=(",", ":"))
        headers = SENDER | sign(due.secrets, due.message_id, datetime.now(UTC), body)
        started = time.perf_counter()
        try:
            answer = self._client.post(due.url, body.encode(), headers)
        except WebhookDestinationRefused as refused:
            return Reply(None, refused.detail, time.perf_counter() - started)
        except Failure as failed:
            return Reply(None, reason_of(failed), time.perf_counter() - started)
        seconds = time.perf_counter() - started
        return Reply(answer.status, refusal_of(answer.status), seconds, answer.head, answer.retry_after)

    def record(self, due: DueDelivery, reply: Reply) -> str:
        """Write the attempt and what follows from it; in words."""
        with self._database.transaction() as session:
            # The endpoint before its deliveries, as where it is disabled: else two would wait for each other.
            hopeless = self._note_health(session, due, reply)
            delivery = session.scalar(sa.select(Delivery).where(Delivery.id == due.delivery_id).with_for_update())
            if delivery is None or delivery.lease_token != due.token:
                return "lease_lost"
            session.add(
                DeliveryAttempt(
                    delivery_id=delivery.id,
                    tenant_id=delivery.tenant_id,
                    number=due.attempt,
                    status_code=reply.status_code,
                    error=reply.error,
                    response_head=reply.head,
                    duration_ms=round(reply.seconds * 1000, 1),
                )
            )
            delivery.attempt_count, delivery.lease_token = due.attempt, None
            return self._settle(session, delivery, due, reply, hopeless=hopeless)

    def _note_health(self, session: Session, due: DueDelivery, reply: Reply) -> bool:
        """Whether nothing reached the endpoint for too long; costs nothing while everything does."""
        if reply.delivered and not due.failing:
            return False
        since = None if reply.delivered else sa.func.coalesce(WebhookEndpoint.failing_since, sa.func.now())
        days = timedelta(days=self._settings.webhook_disable_days)
        noted = sa.update(WebhookEndpoint).where(WebhookEndpoint.id == due.endpoint_id).values(failing_since=since)
        too_long = session.scalar(
            noted.returning(WebhookEndpoint.failing_since < sa.func.now() - days).execution_options(
                synchronize_session=False
            )
        )
        return bool(too_long)

    def _settle(self, session: Session, delivery: Delivery, due: DueDelivery, reply: Reply, *, hopeless: bool) -> str:
        schedule = self._settings.webhook_retry_seconds
        if reply.delivered:
            delivery.state = DeliveryState.DELIVERED
        elif reply.gone:
            _disable(session, delivery, "the receiver answered 410 Gone")
            delivery.state = DeliveryState.FAILED
        elif hopeless:
            _disable(session, delivery, f"nothing could be delivered for {self._settings.webhook_disable_days:g} days")
            delivery.state = DeliveryState.FAILED
        elif due.attempt_of_round > len(schedule):
            delivery.state = DeliveryState.FAILED
        else:
            seconds = next_delay(schedule, due.attempt_of_round, reply.retry_after)
            delivery.next_attempt_at = sa.func.now() + timedelta(seconds=seconds)
            return "retry"
        delivery.finished_at, delivery.next_attempt_at = sa.func.now(), None
        return delivery.state.value


def next_delay(schedule: Sequence[float], attempt: int, retry_after: float | None) -> float:
    """Seconds from a round's failed attempt (from 1) to the next one.

    What the receiver asked for (Retry-After, RFC 9110, 10.2.3), but no longer than the schedule's delay after this one:
    a receiver that answers nonsense is not lost for days.
    """
    if retry_after is not None:
        return min(retry_after, schedule[min(attempt, len(schedule) - 1)])
    # Jitter, so that a receiver that comes back is not met by everything at once.
    return schedule[attempt - 1] * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret


def _disable(session: Session, delivery: Delivery, reason: str) -> None:
    """Switch the endpoint of a delivery off; what it misses from now on, a replay sends."""
    endpoint_id = delivery.endpoint_id
    switched = session.scalar(
        sa.update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.enabled)
        .values(enabled=False, disabled_reason=reason)
        .returning(WebhookEndpoint.id)
        .execution_options(synchronize_session=False)
    )
    if switched is None:
        return
    log.warning("webhook.disabled", endpoint_id=endpoint_id, reason=reason)
    act = AuditEntry(tenant_id=delivery.tenant_id, actor="deliverer", action="webhook.disable", subject=endpoint_id)
    session.add(act)
    session.execute(
        sa.update(Delivery)
        .where(Delivery.endpoint_id == endpoint_id, Delivery.state == DeliveryState.PENDING)
        .values(state=DeliveryState.FAILED, finished_at=sa.func.now(), next_attempt_at=None)
        .execution_options(synchronize_session=False)
    )
