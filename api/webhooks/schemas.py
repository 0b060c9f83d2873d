"""The JSON shapes of webhook endpoints and of what is delivered to them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from api.http.fields import Description, JsonBool, Moment, Url
from api.http.schemas import Strict
from shared.db.tables import DeliveryState, EventType


class EndpointPath(BaseModel):
    """A webhook endpoint's id in the path."""

    endpoint_id: str


class DeliveryPath(BaseModel):
    """A delivery's id in the path."""

    delivery_id: str


#: The types of events, or all of them; one set of words, not two, so that an error speaks of the field alone.
Subscription = Literal[
    "*", "job.succeeded", "job.failed", "job.cancelled", "job.quarantined", "batch.completed", "test"
]


class EndpointRequest(Strict):
    """A new webhook endpoint."""

    url: Url
    events: list[Subscription] = Field(min_length=1, max_length=20)
    description: Description = ""
    include_labels: JsonBool = Field(
        False, description="Events carry `external_id`, which you chose; leave it off if that names a patient"
    )


class EndpointUpdate(Strict):
    """What to change of an endpoint; enabling it again clears the reason."""

    url: Url | None = None
    events: list[Subscription] | None = Field(None, min_length=1, max_length=20)
    description: Description | None = None
    enabled: JsonBool | None = None


class EndpointView(BaseModel):
    """A webhook endpoint as clients see it."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    url: str
    description: str
    events: list[str]
    include_labels: bool = Field(description="Events carry `external_id`")
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None = Field(description="No delivery succeeded since then; null while they do")
    created_at: datetime


class ReplayRequest(Strict):
    """What to send an endpoint again."""

    since: Moment = Field(description="Events from then on")
    delivered: JsonBool = Field(False, description="Also those that were delivered; else only those that were missed")


class Replay(BaseModel):
    """How many deliveries were scheduled."""

    object: Literal["replay"] = "replay"
    endpoint_id: str
    scheduled: int
    more: bool = Field(description="There may be more of them: ask again once these are through")


class EndpointSecretView(EndpointView):
    """With the signing secret, in the answer that made it; null when the same request is sent again."""

    secret: str | None


class EndpointList(BaseModel):
    """A page of endpoints, newest first."""

    object: Literal["list"] = "list"
    data: list[EndpointView]
    next_cursor: str | None


class AttemptView(BaseModel):
    """One request to the receiver."""

    number: int
    status_code: int | None
    error: str | None = Field(description="Why it is no delivery, in words; null when the receiver took it")
    response_body: str | None = Field(description="The first 1,000 characters of the answer's body, if that is text")
    duration_ms: float
    created_at: datetime


class DeliveryView(BaseModel):
    """One event for one endpoint, with every attempt."""

    id: str
    object: Literal["delivery"] = "delivery"
    event_id: str
    endpoint_id: str
    type: EventType
    state: DeliveryState
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    attempts: list[AttemptView]


class DeliveryList(BaseModel):
    """A page of deliveries, newest first."""

    object: Literal["list"] = "list"
    data: list[DeliveryView]
    next_cursor: str | None
