"""The tables. Every row that belongs to a hospital carries its tenant.

Times are the database's clock (`now()`), in UTC. Enums are text with a CHECK constraint, so that adding a member is
an ordinary migration.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

Json = dict[str, Any]


class JobState(StrEnum):
    """Where a job is; the terminal ones never change."""

    QUEUED = "queued"  #: waits for a worker, or for `not_before`
    RUNNING = "running"  #: a worker holds its lease
    SUCCEEDED = "succeeded"  #: has exactly one result
    FAILED = "failed"  #: cannot be answered; `error` says why
    CANCELLED = "cancelled"  #: the client withdrew it
    QUARANTINED = "quarantined"  #: workers died of it, even when it ran in isolation


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.QUARANTINED})


class Classifier(StrEnum):
    """Which of the two papers' classifiers answers."""

    BINARY = "binary"  #: DenseNet201, COVID-19 or not
    ENSEMBLE = "ensemble"  #: VGG16 and DenseNet201, normal, pneumonia or COVID-19


class Modality(StrEnum):
    """What kind of picture a study holds."""

    XRAY = "xray"  #: chest radiograph (DICOM CR, DX)
    CT = "ct"  #: chest CT slices (DICOM CT)


class Priority(StrEnum):
    """Who goes first."""

    STAT = "stat"  #: somebody waits for it
    ROUTINE = "routine"  #: the day's work
    BULK = "bulk"  #: archives and batches

    @property
    def rank(self) -> int:
        """0 goes first."""
        return RANKS[self]

    @classmethod
    def of_rank(cls, rank: int) -> Priority:
        """Return the priority of this rank."""
        return list(cls)[rank]


RANKS = {priority: rank for rank, priority in enumerate(Priority)}


class ResultOutcome(StrEnum):
    """What a job that succeeded came to."""

    ANSWERED = "answered"  #: at least one image was classified
    REJECTED_INPUT = "rejected_input"  #: no image is one that the classifier can speak of; `reason` says why


class ArtifactKind(StrEnum):
    """What an artifact is."""

    HEATMAP = "heatmap"  #: where the network looked (Grad-CAM), as an 8-bit grey PNG of the backbone's grid


class DeliveryState(StrEnum):
    """Where a webhook delivery is."""

    PENDING = "pending"  #: due now or at `next_attempt_at`
    DELIVERED = "delivered"  #: the receiver answered 2xx
    FAILED = "failed"  #: every attempt of the schedule failed, or the endpoint is gone


class Grouping(StrEnum):
    """What makes a study of a batch's files."""

    FILE = "file"  #: each file is a study
    FOLDER = "folder"  #: the files of one folder are a study
    STUDY = "study"  #: the DICOM files of one Study Instance UID are a study (PS3.3, C.7.2.1)
    SERIES = "series"  #: the DICOM files of one Series Instance UID are a study (PS3.3, C.7.3.1)


class UploadState(StrEnum):
    """Where a direct upload is."""

    PENDING = "pending"  #: its URL was given out; the bytes are not verified yet
    COMPLETE = "complete"  #: the bytes are there, with the size and the SHA-256 that the client said
    USED = "used"  #: a study owns its object now


class EventType(StrEnum):
    """What an endpoint can subscribe to."""

    JOB_SUCCEEDED = "job.succeeded"  #: a result is there
    JOB_FAILED = "job.failed"  #: the job cannot be answered
    JOB_CANCELLED = "job.cancelled"  #: the client withdrew it
    JOB_QUARANTINED = "job.quarantined"  #: workers died of it
    BATCH_COMPLETED = "batch.completed"  #: every job of the batch is terminal
    TEST = "test"  #: sent on request, to any endpoint


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can speak of them."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: sa.DateTime(timezone=True),
        str: sa.Text(),
        Json: JSONB(),
        list[Json]: JSONB(),
        list[str]: ARRAY(sa.Text()),
    }


def _enum(kind: type[StrEnum]) -> sa.Enum:
    return sa.Enum(
        kind,
        native_enum=False,
        create_constraint=True,
        length=32,
        name=kind.__name__.lower(),
        values_callable=lambda members: [m.value for m in members],
    )


def _created() -> Mapped[datetime]:
    return mapped_column(server_default=sa.func.now())


def _tenant() -> Mapped[str]:
    return mapped_column(sa.ForeignKey("tenants.id"))


#: 244 random bits, by PostgreSQL alone.
RANDOM_TEXT = "((gen_random_uuid())::text || (gen_random_uuid())::text)"


class Tenant(Base):
    """A hospital."""

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    #: its DICOM files are kept as they were sent
    keep_identity: Mapped[bool] = mapped_column(server_default=sa.false())
    #: what its DICOM UIDs are changed by: always to the same ones, which nobody leads back without it
    uid_secret: Mapped[str] = mapped_column(server_default=sa.text(RANDOM_TEXT))
    #: its studies are deleted when they are so old; None: when somebody asks for it
    expires_after_days: Mapped[float | None]
    #: so many of its stat jobs may wait as such; what comes beyond is served as routine, by a trigger (migration 0019)
    stat_share: Mapped[int] = mapped_column(server_default="50")
    created_at: Mapped[datetime] = _created()


class ApiKey(Base):
    """A key: its prefix to recognise it by, its SHA-256 to check it with; the key itself is shown once."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(index=True)
    hash: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = _created()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class PageSession(Base):
    """A session of the page that is open; its cookie names it."""

    __tablename__ = "page_sessions"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    key_id: Mapped[str] = mapped_column(sa.ForeignKey("api_keys.id"))
    expires_at: Mapped[datetime]
    __table_args__ = (sa.Index("ix_page_sessions_expires_at", "expires_at"),)


class Study(Base):
    """What was sent: one or more images of one modality."""

    __tablename__ = "studies"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    modality: Mapped[Modality] = mapped_column(_enum(Modality))
    external_id: Mapped[str | None]
    extra: Mapped[Json] = mapped_column("metadata", server_default=sa.text("'{}'"))
    image_count: Mapped[int]
    #: names of the files, by `file_index` of their images, as they were sent; patient data, and long: loaded on demand
    file_names: Mapped[list[str | None] | None] = mapped_column(ARRAY(sa.Text()), deferred=True)
    #: SHA-256 over the files' SHA-256 and frames, in their order: the same for the same pictures
    content_sha256: Mapped[str | None]
    #: one of its images says that text is burned into it
    burned_in: Mapped[bool] = mapped_column(server_default=sa.false())
    #: images may still be added, until it is closed or, after `quiet_until`, closed by the sweeper
    open: Mapped[bool] = mapped_column(server_default=sa.false())
    expected_images: Mapped[int | None]
    quiet_seconds: Mapped[float | None]
    quiet_until: Mapped[datetime | None]
    #: the jobs that are to be submitted when it is closed
    wanted: Mapped[list[Json]] = mapped_column(server_default=sa.text("'[]'"))
    created_at: Mapped[datetime] = _created()
    images: Mapped[list[Image]] = relationship(order_by="Image.position", viewonly=True)
    __table_args__ = (
        # The same bytes, answered before.
        sa.Index("ix_studies_tenant_id_content_sha256", "tenant_id", "content_sha256"),
        # The sweeper: studies that nobody closed.
        sa.Index("ix_studies_quiet", "quiet_until", postgresql_where=sa.text("open")),
    )


class Image(Base):
    """One picture, or one frame of a DICOM or TIFF file; `problem` says why it cannot be classified."""

    __tablename__ = "images"
    __table_args__ = (sa.UniqueConstraint("study_id", "position"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    study_id: Mapped[str] = mapped_column(sa.ForeignKey("studies.id"))
    position: Mapped[int]
    file_index: Mapped[int]
    frame: Mapped[int]
    object_key: Mapped[str | None] = mapped_column(index=True)
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    media_type: Mapped[str | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    problem: Mapped[Json | None]
    #: DICOM says that text is burned into its pixels
    burned_in: Mapped[bool] = mapped_column(server_default=sa.false())
    #: of a file's first image: what was removed from it and replaced, by keyword; None when it is as it was sent
    deidentified: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))


class Batch(Base):
    """Many jobs sent together. A trigger on jobs keeps the counts, so reading them costs one row.

    Until `received_at` its items still arrive: those that are in may run, and it cannot be complete yet.
    """

    __tablename__ = "batches"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    external_id: Mapped[str | None]
    #: how the client asked for it: classifier, modality, priority, grouping
    options: Mapped[Json] = mapped_column(server_default=sa.text("'{}'"))
    #: jobs and rejected items
    total: Mapped[int] = mapped_column(server_default="0")
    queued: Mapped[int] = mapped_column(server_default="0")
    running: Mapped[int] = mapped_column(server_default="0")
    succeeded: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    cancelled: Mapped[int] = mapped_column(server_default="0")
    quarantined: Mapped[int] = mapped_column(server_default="0")
    rejected: Mapped[int] = mapped_column(server_default="0")
    #: of `failed`: those that had not run when their time was over
    expired: Mapped[int] = mapped_column(server_default="0")
    #: items that are in, without a gap from 0
    next_item: Mapped[int] = mapped_column(server_default="0")
    #: files of its archive that were left out: their number, and the names of the first of them
    ignored: Mapped[int] = mapped_column(server_default="0")
    ignored_names: Mapped[list[str]] = mapped_column(server_default=sa.text("'{}'"))
    #: the request that takes items in; None between two of them
    receiver: Mapped[str | None]
    #: when bytes of its items came in last
    progress_at: Mapped[datetime] = _created()
    created_at: Mapped[datetime] = _created()
    received_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    #: why its archive was refused as a whole
    problem: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    #: what has not run by then is not run
    expires_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    __table_args__ = (
        sa.Index("ix_batches_tenant_id_id", "tenant_id", "id"),
        # The sweeper: batches whose client went away in the middle.
        sa.Index("ix_batches_receiving", "created_at", postgresql_where=sa.text("received_at IS NULL")),
    )


class BatchFile(Base):
    """A file of a batch that waits for the others of its study: they are grouped when the last one is in."""

    __tablename__ = "batch_files"
    batch_id: Mapped[str] = mapped_column(sa.ForeignKey("batches.id"), primary_key=True)
    item: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant_id: Mapped[str] = _tenant()
    member: Mapped[str | None]
    #: the same for the files of one study; a hash, for DICOM UIDs lead back to the patient
    group_key: Mapped[str]
    object_key: Mapped[str | None] = mapped_column(unique=True)
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    info: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    problem: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))


class BatchRejection(Base):
    """An item of a batch that never became a job, and why."""

    __tablename__ = "batch_rejections"
    batch_id: Mapped[str] = mapped_column(sa.ForeignKey("batches.id"), primary_key=True)
    item: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant_id: Mapped[str] = _tenant()
    member: Mapped[str | None]
    custom_id: Mapped[str | None]
    problem: Mapped[Json]
    created_at: Mapped[datetime] = _created()


class Upload(Base):
    """A file that a client puts into the store itself. It becomes an image of a study, or is swept."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    object_key: Mapped[str] = mapped_column(unique=True)
    state: Mapped[UploadState] = mapped_column(_enum(UploadState))
    #: as the client said it, verified when the upload is completed
    size_bytes: Mapped[int] = mapped_column(sa.BigInteger)
    sha256: Mapped[str]
    #: what the header says, once complete: the fields of shared/imaging's ImageInfo
    info: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = _created()
    expires_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    __table_args__ = (
        sa.Index("ix_uploads_tenant_id_id", "tenant_id", "id"),
        # The sweeper: what was never used.
        sa.Index("ix_uploads_unused", "expires_at", postgresql_where=sa.text("state <> 'used'")),
    )


class Job(Base):
    """One classifier run over one study. shared/jobs/states.py is the only writer of `state`."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    study_id: Mapped[str] = mapped_column(sa.ForeignKey("studies.id"))
    batch_id: Mapped[str | None] = mapped_column(sa.ForeignKey("batches.id"))
    classifier: Mapped[Classifier] = mapped_column(_enum(Classifier))
    priority: Mapped[Priority] = mapped_column(_enum(Priority))
    rank: Mapped[int] = mapped_column(sa.SmallInteger)
    external_id: Mapped[str | None]
    #: of a batch's item: its number (line or member, from 0), its name in the archive, and the client's name for it
    item: Mapped[int | None]
    member: Mapped[str | None]
    custom_id: Mapped[str | None]
    extra: Mapped[Json] = mapped_column("metadata", server_default=sa.text("'{}'"))
    #: run it even if the same bytes were answered before
    force: Mapped[bool] = mapped_column(server_default=sa.false())
    #: after this it is not run any more
    expires_at: Mapped[datetime | None]
    state: Mapped[JobState] = mapped_column(_enum(JobState))
    error: Mapped[Json | None]
    not_before: Mapped[datetime | None]
    isolated: Mapped[bool] = mapped_column("alone", server_default=sa.false())
    error_attempts: Mapped[int] = mapped_column(server_default="0")
    crash_attempts: Mapped[int] = mapped_column(server_default="0")
    worker: Mapped[str | None]
    lease_token: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = _created()
    queued_at: Mapped[datetime] = _created()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    study: Mapped[Study] = relationship(viewonly=True)
    result: Mapped[Result | None] = relationship(foreign_keys="Result.job_id", viewonly=True)

    __table_args__ = (
        # The claim: the oldest of the highest rank, tenant by tenant.
        sa.Index(
            "ix_jobs_queued",
            "tenant_id",
            "rank",
            "queued_at",
            "id",
            postgresql_where=sa.text("state = 'queued' AND not_before IS NULL"),
        ),
        # The claim: what waited for a later time that has come.
        sa.Index(
            "ix_jobs_delayed",
            "not_before",
            postgresql_where=sa.text("state = 'queued' AND not_before IS NOT NULL"),
        ),
        # The sweeper: leases that ran out.
        sa.Index("ix_jobs_running", "lease_until", postgresql_where=sa.text("state = 'running'")),
        # Lists: a tenant's jobs, newest first; ids sort by time.
        sa.Index("ix_jobs_tenant_id_id", "tenant_id", "id"),
        # The page's list, where a batch is one row: a batch of any size is no longer a way to go.
        sa.Index("ix_jobs_outside_batches", "tenant_id", "id", postgresql_where=sa.text("batch_id IS NULL")),
        sa.Index("ix_jobs_study_id", "study_id"),
        # A batch's items in their order; none twice, however often it is sent.
        sa.Index(
            "uq_jobs_batch_id_item", "batch_id", "item", unique=True, postgresql_where=sa.text("batch_id IS NOT NULL")
        ),
        # The sweeper: deadlines that have passed.
        sa.Index(
            "ix_jobs_expires_at",
            "expires_at",
            postgresql_where=sa.text("state = 'queued' AND expires_at IS NOT NULL"),
        ),
        # The estimate of waiting times: what finished lately.
        sa.Index("ix_jobs_finished_at", "finished_at", postgresql_where=sa.text("finished_at IS NOT NULL")),
        sa.CheckConstraint(
            "(state = 'running') = (lease_token IS NOT NULL AND lease_until IS NOT NULL)", name="lease_while_running"
        ),
        sa.CheckConstraint("(state IN ('queued', 'running')) = (finished_at IS NULL)", name="finished_when_terminal"),
    )


class ModelBundle(Base):
    """A bundle that was pushed, or that some worker has served; its card is kept, so old results stay explained.

    `active`: the one that workers are to serve. `stored`: its files are in the object store, under `models/<sha256>/`.
    """

    __tablename__ = "model_bundles"
    __table_args__ = (
        # At most one is active; and the workers' look for it.
        sa.Index("uq_model_bundles_active", "active", unique=True, postgresql_where=sa.text("active")),
    )
    sha256: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[str]
    card: Mapped[Json]
    active: Mapped[bool] = mapped_column(server_default=sa.false())
    stored: Mapped[bool] = mapped_column(server_default=sa.false())
    #: the last time; workers that refused the bundle try again when it is later
    activated_at: Mapped[datetime | None]
    first_seen_at: Mapped[datetime] = _created()


class Result(Base):
    """The answer of a job; its primary key makes it the only one. shared/jobs/schemas.py says what the columns mean."""

    __tablename__ = "results"
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id"), primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    bundle_sha256: Mapped[str] = mapped_column(sa.ForeignKey("model_bundles.sha256"))
    outcome: Mapped[ResultOutcome] = mapped_column(_enum(ResultOutcome), server_default=ResultOutcome.ANSWERED.value)
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    prediction: Mapped[str | None]
    probabilities: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    #: what the images are, where that is not what the study was sent as
    corrected_modality: Mapped[Modality | None] = mapped_column(_enum(Modality))
    review_reasons: Mapped[list[str]] = mapped_column(server_default=sa.text("'{}'"))
    second_opinion: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    #: the tenant's job whose answer this is: the same bytes, bundle and classifier. No foreign key: that job may be
    #: deleted while a worker writes this one's answer, which is none the worse for it.
    reused_from: Mapped[str | None]
    images: Mapped[list[Json]]
    timings: Mapped[Json]
    created_at: Mapped[datetime] = _created()
    bundle: Mapped[ModelBundle] = relationship(viewonly=True)
    #: where it was read without its images: how many of them were answered
    answered: ClassVar[int | None] = None
    __table_args__ = (
        # A deletion: answers that were taken from a job.
        sa.Index("ix_results_reused_from", "reused_from", postgresql_where=sa.text("reused_from IS NOT NULL")),
        sa.CheckConstraint(
            "CASE outcome WHEN 'answered' THEN reason IS NULL AND prediction IS NOT NULL"
            " AND probabilities IS NOT NULL ELSE reason IS NOT NULL AND prediction IS NULL"
            " AND probabilities IS NULL END",
            name="answer_or_reason",
        ),
    )


class Artifact(Base):
    """A small file that belongs to a job's result and was written with it, in the same transaction.

    About a hundred bytes, hence here: it is exactly as durable as its result, and there is nothing to orphan.
    """

    __tablename__ = "artifacts"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id"))
    #: of the job's study, and deleted with it; a foreign key would want an index, which every answer would pay for
    image_id: Mapped[str]
    kind: Mapped[ArtifactKind] = mapped_column(_enum(ArtifactKind))
    #: the class that it speaks of: the one predicted for the image
    class_name: Mapped[str]
    content: Mapped[bytes]
    media_type: Mapped[str]
    created_at: Mapped[datetime] = _created()
    # Its index also serves the list of a job's artifacts.
    __table_args__ = (sa.UniqueConstraint("job_id", "image_id", "kind"),)


class WebhookEndpoint(Base):
    """Where a tenant wants its events. The old secret signs beside the new one until `previous_secret_until`."""

    __tablename__ = "webhook_endpoints"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    url: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    events: Mapped[list[str]]
    #: its events carry `external_id`, which the client chose and which may name a patient
    include_labels: Mapped[bool] = mapped_column(server_default=sa.false())
    secret: Mapped[str]
    previous_secret: Mapped[str | None]
    previous_secret_until: Mapped[datetime | None]
    enabled: Mapped[bool] = mapped_column(server_default=sa.true())
    disabled_reason: Mapped[str | None]
    #: since when it is subscribed to its events as it is; written by a trigger
    changed_at: Mapped[datetime] = _created()
    #: no delivery succeeded since then; None while they do
    failing_since: Mapped[datetime | None]
    created_at: Mapped[datetime] = _created()
    __table_args__ = (sa.Index("ix_webhook_endpoints_tenant_id_id", "tenant_id", "id"),)


class Event(Base):
    """Something that happened and that endpoints are told of; its id is the `webhook-id` header of every attempt.

    `payload` is what they are told when the event is about no job and no batch; else it is made of that one's rows.
    """

    __tablename__ = "events"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    type: Mapped[EventType] = mapped_column(_enum(EventType))
    job_id: Mapped[str | None] = mapped_column(sa.ForeignKey("jobs.id"), index=True)
    batch_id: Mapped[str | None] = mapped_column(sa.ForeignKey("batches.id"), index=True)
    payload: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = _created()
    __table_args__ = (sa.CheckConstraint("num_nonnulls(payload, job_id, batch_id) > 0", name="told_of_something"),)


class Delivery(Base):
    """One event for one endpoint."""

    __tablename__ = "deliveries"
    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    event_id: Mapped[str] = mapped_column(sa.ForeignKey("events.id"))
    endpoint_id: Mapped[str] = mapped_column(sa.ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    state: Mapped[DeliveryState] = mapped_column(_enum(DeliveryState))
    attempt_count: Mapped[int] = mapped_column(server_default="0")
    #: attempts of earlier rounds; a redelivery starts the schedule again from here
    round_start: Mapped[int] = mapped_column(server_default="0")
    next_attempt_at: Mapped[datetime | None] = mapped_column(server_default=sa.func.now())
    lease_token: Mapped[str | None]
    created_at: Mapped[datetime] = _created()
    finished_at: Mapped[datetime | None]
    event: Mapped[Event] = relationship(viewonly=True)
    endpoint: Mapped[WebhookEndpoint] = relationship(viewonly=True)
    attempts: Mapped[list[DeliveryAttempt]] = relationship(order_by="DeliveryAttempt.number", viewonly=True)
    __table_args__ = (
        sa.UniqueConstraint("event_id", "endpoint_id"),
        # The deliverer: what is due. A lease pushes next_attempt_at ahead, so one index serves both.
        sa.Index("ix_deliveries_due", "next_attempt_at", postgresql_where=sa.text("state = 'pending'")),
        sa.Index("ix_deliveries_endpoint_id_id", "endpoint_id", "id"),
    )


class DeliveryAttempt(Base):
    """One request to a receiver and what came back."""

    __tablename__ = "delivery_attempts"
    delivery_id: Mapped[str] = mapped_column(sa.ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant_id: Mapped[str] = _tenant()
    status_code: Mapped[int | None]
    error: Mapped[str | None]
    #: the beginning of the answer's body, if that is text
    response_head: Mapped[str | None]
    duration_ms: Mapped[float]
    created_at: Mapped[datetime] = _created()


class IdempotencyKey(Base):
    """The answer that a repeated request gets again."""

    __tablename__ = "idempotency_keys"
    tenant_id: Mapped[str] = mapped_column(sa.ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    resource_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now(), index=True)


class AuditEntry(Base):
    """One act on a study, job, key, endpoint or model, written in the transaction of the act."""

    __tablename__ = "audit_log"
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(always=True), primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(sa.ForeignKey("tenants.id"))
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    created_at: Mapped[datetime] = _created()
    __table_args__ = (sa.Index("ix_audit_log_tenant_id_id", "tenant_id", "id"),)


class Tombstone(Base):
    """A study that was deleted; the audit log says by whom. Its objects are named here until they are removed, too."""

    __tablename__ = "tombstones"
    study_id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = _tenant()
    object_keys: Mapped[list[str]]
    deleted_at: Mapped[datetime] = _created()
    __table_args__ = (
        # The sweeper: objects that whoever deleted the study could not remove.
        sa.Index("ix_tombstones_pending", "study_id", postgresql_where=sa.text("cardinality(object_keys) > 0")),
    )


# Views of everybody's rows, for those who see one tenant's alone: how long the lines are, nothing of what is in them.
#: each job's columns that places in line and gauges are made of
QUEUE = sa.table(
    "queue",
    *(sa.column(name) for name in ("tenant_id", "rank", "priority", "state", "not_before")),
    *(sa.column(name, sa.DateTime(timezone=True)) for name in ("queued_at", "started_at", "finished_at")),
)
#: a row for each delivery that is under way
PENDING_DELIVERIES = sa.table("pending_deliveries", sa.column("next_attempt_at", sa.DateTime(timezone=True)))


class Worker(Base):
    """A worker process that reports for work; readiness asks for a fresh one per queue."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(primary_key=True)
    queue: Mapped[str] = mapped_column(primary_key=True)
    bundle_sha256: Mapped[str | None]
    #: why it does not serve the active bundle, if it tried and could not; without a bundle, why it ended
    bundle_problem: Mapped[str | None]
    engine: Mapped[str | None]
    #: why other engines that were tried do not answer, with what was measured of them
    engine_reason: Mapped[str | None]
    started_at: Mapped[datetime] = _created()
    seen_at: Mapped[datetime] = _created()

    @classmethod
    def takes_work(cls) -> sa.ColumnElement[bool]:
        """Whether it did when it was last seen; otherwise it has only said why it cannot."""
        return sa.or_(cls.bundle_sha256.is_not(None), cls.bundle_problem.is_(None))
