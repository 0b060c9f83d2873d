"""Every setting, read once from the environment into one frozen object.

Names are `THORAQ_` and the field's name in capitals. A field that holds a secret may be given as a file
instead (`THORAQ_DATABASE_URL_FILE=/run/secrets/database_url`), as container secrets are mounted.
An unknown `THORAQ_*` variable is an error: a typing mistake must not pass for a default.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from shared.errors import ConfigError
from shared.imaging.info import Limits
from shared.setting_types import DatabaseUrl, DatabaseUrlOrNone, Networks, RedisUrl, Seconds

PREFIX = "THORAQ_"
ORIGIN = r"^(https?://[^/?#@\s]+)?$"


class Settings(BaseModel):
    """The settings; each field's description is what docs/operate/settings.md prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: DatabaseUrl = Field(description="PostgreSQL: postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    api_database_url: DatabaseUrlOrNone = Field(
        SecretStr(""),
        description="The same with a login of the API's own, which `thoraq-admin migrate` makes: give it to the API as "
        "THORAQ_DATABASE_URL. Empty: the API enters as the owner and takes its role",
    )
    redis_url: RedisUrl = Field(description="Redis, the doorbell: redis://..., or rediss://... for TLS")
    secret_key: SecretStr = Field(
        min_length=32, description="Signs the page's sessions and upload addresses; 32 or more random characters"
    )
    public_url: str = Field(
        "", pattern=ORIGIN, description="https://host[:port] at which clients reach the API; empty: as they ask for it"
    )

    trusted_proxies: Networks = Field(
        (),
        description="Proxies, as addresses or CIDR, separated by commas, whose X-Forwarded-For and X-Forwarded-Proto "
        "are believed; nobody else's are",
    )

    storage: Literal["folder", "minio"] = Field("folder", description="Where the bytes of studies are kept")
    storage_dir: Path = Field(Path(".thoraq/objects"), description="The folder, when storage is `folder`")
    minio_endpoint: str = Field("", description="host:port, when storage is `minio`")
    minio_access_key: SecretStr = Field(SecretStr(""), description="MinIO access key")
    minio_secret_key: SecretStr = Field(SecretStr(""), description="MinIO secret key")
    minio_bucket: str = Field("thoraq", description="Bucket; made at `thoraq-admin migrate` when it is missing")
    minio_secure: bool = Field(True, description="TLS to MinIO")
    minio_region: str = Field("us-east-1", description="Region that requests are signed for")
    minio_public_url: str = Field(
        "", pattern=ORIGIN, description="https://host[:port] at which clients reach MinIO; empty: minio_endpoint"
    )

    model_dir: Path = Field(Path("models/thoraq-4"), description="The model bundle served while none is activated")
    model_cache: Path = Field(
        Path(".thoraq/models"), description="Where workers keep bundles they fetched, and which engine was faster"
    )
    engine: Literal["auto", "tensorflow", "openvino-float32", "openvino-bf16", "openvino-int8", "null", "stand-in"] = (
        Field(
            "auto",
            description="What runs the backbones; auto: TensorFlow on a GPU, else the fastest that passes its check "
            "on this CPU. null and stand-in run none: they are for measurements and drills",
        )
    )
    stand_in_rate: float = Field(0, ge=0, description="Images/s of the engine `stand-in`; 0: it takes no time")
    heatmaps: bool = Field(True, description="Keep a heatmap (Grad-CAM) with every answered image")

    max_upload_bytes: int = Field(2_000_000_000, gt=0, description="Largest request body, bytes")
    max_files: int = Field(2_000, gt=0, description="Most files in one study")
    max_batch_items: int = Field(10_000, gt=0, description="Most items in one batch")
    max_batch_bytes: int = Field(
        100_000_000_000, gt=0, description="Largest batch in one request, bytes, as sent and as unpacked"
    )
    batch_receive_minutes: float = Field(
        60, gt=0, description="After so long without progress, a batch that is not all in is cancelled"
    )
    max_pixels: int = Field(64_000_000, gt=0, description="Most pixels in one image, from its header")
    max_frames: int = Field(2_000, gt=0, description="Most frames in one DICOM or TIFF file")
    max_file_pixels: int = Field(2_000_000_000, gt=0, description="Most pixels in all frames of one file together")
    max_wait_seconds: float = Field(60, ge=0, description="Upper bound of `Prefer: wait=N`")
    max_waits: int = Field(
        10_000,
        ge=0,
        description="Requests that may wait (`Prefer: wait`) in one API process at once; they hold no thread",
    )
    max_waits_per_tenant: int = Field(5_000, ge=0, description="The same of one tenant; more are answered at once")
    max_event_streams: int = Field(
        24, ge=0, description="Event streams in one API process at once; each holds a thread"
    )
    max_event_streams_per_tenant: int = Field(
        8, ge=0, description="The same of one tenant; more end after their first event"
    )
    api_threads: int = Field(
        16, ge=2, description="Requests that one API process works on at once; half of them of one tenant"
    )
    body_seconds: float = Field(
        30, gt=0, description="A body of which nothing comes for so long is refused, and an answer not taken given up"
    )
    upload_url_seconds: float = Field(
        3600, ge=1, le=604_800, description="How long the address of a direct upload takes the file"
    )
    max_pending_uploads: int = Field(
        20_000, gt=0, description="Direct uploads that one tenant may have announced and not completed; beyond, 429"
    )
    upload_hours: float = Field(
        24, gt=0, description="Age at which a complete direct upload that no study uses is removed"
    )
    study_quiet_seconds: float = Field(
        60, gt=0, description="After so long without another image, a study that was left open is closed"
    )
    max_queued: int = Field(1_000_000, gt=0, description="About so many jobs may wait; beyond, all get 503")
    max_queued_per_tenant: int = Field(
        200_000, gt=0, description="About so many jobs of one tenant may wait; beyond, it gets 429"
    )
    disk_reserve_bytes: int = Field(
        1_000_000_000, ge=0, description="Free space that uploads must leave on the API's disks; below, 503"
    )
    key_seconds: float = Field(
        2, ge=0, description="How long a key in force is taken without another look: a revoked one works so much longer"
    )
    finished_seconds: float = Field(5, ge=0, description="How long each process keeps a finished job's answer ready")
    idempotency_hours: float = Field(72, gt=0, description="How long an Idempotency-Key is remembered")
    session_hours: float = Field(12, gt=0, description="How long a sign-in on the page lasts")
    session_secure: bool = Field(True, description="Session cookie over https only; off for plain http on localhost")

    limit_key_requests: int = Field(600_000, ge=0, description="Requests of one key in a minute; 0: no limit")
    limit_tenant_requests: int = Field(
        1_200_000, ge=0, description="Requests of all keys of one tenant in a minute; 0: no limit"
    )
    limit_tenant_bytes: int = Field(
        1_000_000_000_000, ge=0, description="Bytes that one tenant sends or announces in an hour; 0: no limit"
    )

    batch_size: int = Field(16, gt=0, le=512, description="Images that go through the engine at once")
    lease_seconds: float = Field(30, gt=0, description="How long a claimed job belongs to a worker without a heartbeat")
    heartbeat_seconds: float = Field(5, gt=0, description="How often a worker extends its leases")
    progress_seconds: float = Field(
        120, gt=0, description="Without progress for this long, a worker ends itself: its leases run out"
    )
    poll_seconds: float = Field(2, gt=0, description="How often a worker looks for work without a doorbell")
    drain_seconds: float = Field(30, gt=0, description="How long one doorbell's work may last before it rings again")
    sweep_seconds: float = Field(10, gt=0, description="How often the sweeper runs")
    orphan_hours: float = Field(24.0, gt=0, description="Age at which a stored object that no row names is removed")
    ageing_seconds: float = Field(1800, gt=0, description="A bulk job that waited this long is served as routine")
    max_error_attempts: int = Field(5, gt=0, description="Transient errors before a job fails")
    max_crash_attempts: int = Field(3, gt=0, description="Worker deaths on a job alone before it is quarantined")
    retry_base_seconds: float = Field(2, gt=0, description="First delay after a transient error; doubles each time")
    engine_threads: int = Field(0, ge=0, description="CPU threads of the engine; 0: all cores")
    decode_threads: int = Field(2, gt=0, description="Threads that load and decode while the engine works")
    decode_cpu_seconds: float = Field(
        5, gt=0, description="CPU seconds that decoding a file may take, and all files of a job together"
    )
    decode_cpu_seconds_per_mb: float = Field(
        1, ge=0, description="Further CPU seconds for each megabyte of the file, and of the job's files"
    )
    decode_seconds: float = Field(60, gt=0, description="How long a decoder of DICOM and TIFF may take for one frame")
    decode_memory_bytes: int = Field(
        8_000_000_000, gt=0, description="Address space that such a decoder, a process of its own, may have"
    )

    webhook_retry_seconds: Seconds = Field(
        (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400),
        description="Delays between delivery attempts, with up to 20 % jitter (the Standard Webhooks schedule)",
    )
    webhook_timeout_seconds: float = Field(
        15, gt=0, description="Connect and read timeout of a delivery; all of it is over after twice as long"
    )
    webhook_disable_days: float = Field(
        5, gt=0, description="An endpoint to which nothing could be delivered for so long is switched off"
    )
    webhook_threads: int = Field(
        16, gt=0, description="Deliveries that one delivery worker has under way at once; half of them per tenant"
    )
    max_webhook_endpoints: int = Field(50, gt=0, description="Webhook endpoints that one tenant may have")
    webhook_allow_http: bool = Field(False, description="Accept http:// endpoints; https only otherwise")
    webhook_allowed_networks: Networks = Field(
        (), description="Private networks where receivers may live, as CIDR, separated by commas"
    )
    webhook_ca: str = Field(
        "", description="File with certificates (PEM) of more authorities, for receivers inside the hospital"
    )

    metrics_port: int = Field(0, ge=0, le=65535, description="Port of a worker's /metrics; 0: none")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe level logged")

    @property
    def image_limits(self) -> Limits:
        """What a sender may make us decode."""
        return Limits(self.max_pixels, self.max_frames, self.max_file_pixels)

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.storage == "minio" and not (self.minio_endpoint and self.minio_access_key and self.minio_secret_key):
            raise ValueError(
                "THORAQ_STORAGE=minio needs THORAQ_MINIO_ENDPOINT, THORAQ_MINIO_ACCESS_KEY and THORAQ_MINIO_SECRET_KEY"
            )
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            raise ValueError("THORAQ_LEASE_SECONDS must be at least three times THORAQ_HEARTBEAT_SECONDS")
        if self.progress_seconds <= self.decode_seconds:
            raise ValueError("THORAQ_PROGRESS_SECONDS must be longer than THORAQ_DECODE_SECONDS")
        return self


def is_secret(field: str) -> bool:
    """Whether a field may be given as `THORAQ_<FIELD>_FILE`."""
    annotation = Settings.model_fields[field].annotation
    return annotation is SecretStr or SecretStr in get_args(annotation)


def parse(environ: Mapping[str, str]) -> Settings:
    """Return settings out of an environment; ConfigError names every variable that is wrong, never its value."""
    values: dict[str, str] = {}
    for variable, value in environ.items():
        if variable.startswith(PREFIX):
            field, content = _field(variable, value)
            if field in values:
                raise ConfigError(f"{PREFIX}{field.upper()} is given twice, as a value and as a file")
            values[field] = content
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(e["loc"], _message(e)) for e in error.errors())) from None


def _field(variable: str, value: str) -> tuple[str, str]:
    name = variable.removeprefix(PREFIX).lower()
    if name in Settings.model_fields:
        return name, value
    field = name.removesuffix("_file")
    if name.endswith("_file") and field in Settings.model_fields and is_secret(field):
        return field, _read_secret(variable, Path(value))
    raise ConfigError(f"{variable} is not a setting of Thoraq; docs/operate/settings.md lists them all")


def _read_secret(variable: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{variable}: cannot read the file: {error.strerror}") from error


def _message(error: ErrorDetails) -> str:
    # What our own validators say, without pydantic's word before it.
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return "not set" if error["type"] == "missing" else error["msg"]


def _explain(location: tuple[int | str, ...], message: str) -> str:
    # Network lists report the member's index too; the variable is what the operator can change.
    return f"{PREFIX}{str(location[0]).upper()}: {message}" if location else message


@functools.cache
def settings() -> Settings:
    """Return the process's settings, read at the first call."""
    return parse(os.environ)
