"""What Prometheus reads, named as its conventions ask (base units, `_total`). Labels hold no ids."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REQUESTS = Histogram("thoraq_http_request_seconds", "HTTP requests", ("method", "route", "status"), buckets=SECONDS)
UPLOADED_BYTES = Counter("thoraq_uploaded_bytes_total", "Bytes of images stored")
JOBS_SUBMITTED = Counter("thoraq_jobs_submitted_total", "Jobs accepted", ("classifier", "priority"))
REFUSED = Counter("thoraq_refused_total", "Requests refused because there was no room for more", ("reason",))
JOBS_FINISHED = Counter("thoraq_jobs_finished_total", "Claims that ended, by outcome", ("classifier", "outcome"))
JOBS_RESCUED = Counter("thoraq_jobs_rescued_total", "Jobs whose worker was gone", ("outcome",))
BATCH_IMAGES = Histogram(
    "thoraq_batch_images", "Images that went through the engine at once", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
LOAD_SECONDS = Histogram("thoraq_batch_load_seconds", "Fetching and decoding a batch", buckets=SECONDS)
INFER_SECONDS = Histogram("thoraq_batch_infer_seconds", "Running a batch through the engine", buckets=SECONDS)
DELIVERIES = Counter("thoraq_webhook_attempts_total", "Webhook attempts, by what came of them", ("outcome",))
DELIVERY_SECONDS = Histogram("thoraq_webhook_attempt_seconds", "Webhook requests", buckets=SECONDS)
LOG_LINES_LOST = Counter("thoraq_log_lines_lost_total", "Log lines that could not be written: a full disk")
WAITS = Gauge("thoraq_waits", "Requests that wait, and event streams", multiprocess_mode="livesum")
WAITS_DECLINED = Counter("thoraq_waits_declined_total", "Waits answered at once, since too many others waited")
