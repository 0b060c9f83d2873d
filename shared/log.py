"""JSON logs, one object a line, bound to request, job and tenant ids; never patient data.

Code logs ids, counts, durations and error types. It does not log file names, metadata, external ids, DICOM
attributes, request bodies or keys.
"""

from __future__ import annotations

import logging
import sys

import structlog

PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


def set_up(level: str) -> None:
    """Send structlog and the standard library's logging through one JSON formatter to standard error."""
    structlog.configure(
        processors=[*PROCESSORS, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=PROCESSORS,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # httpx and urllib3 log URLs at INFO and below; Celery logs two lines per doorbell, which say nothing of the work.
    for name in ("httpx", "httpcore", "urllib3", "celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # pydicom's warnings quote the values of attributes.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
