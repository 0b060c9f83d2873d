"""JSON logs, one object a line, bound to request, job and tenant ids; never patient data.

Code logs ids, counts, durations and error types. It does not log file names, metadata, external ids, DICOM
attributes, request bodies or keys.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import ClassVar, TextIO

import structlog

from shared import metrics

PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


class Lines:
    """Writes a line at once, from any thread, to `stream`; without one, to standard error as it is at the time."""

    stream: ClassVar[TextIO | None] = None
    _lock = threading.Lock()

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """One event. A line that cannot be written is counted and lost, and whoever logged it goes on.

        A log's disk may be full (ENOSPC, EDQUOT), as long as a file may be (EFBIG), or failing (EIO): a request that
        was refused for the same reason is still to get its answer.
        """
        with self._lock:
            try:
                (self.stream or sys.stderr).write(f"{line}\n")
            except OSError:
                metrics.LOG_LINES_LOST.inc()

    debug = info = warning = error = critical = exception = msg


def set_up_logging(level: str) -> None:
    """One JSON object a line to standard error, for our own events and for the standard library's logging.

    Ours do not pass through the latter: its records, handlers and formatters took longer than all the rest of a line.
    """
    structlog.configure(
        processors=[*PROCESSORS, structlog.processors.JSONRenderer()],
        logger_factory=Lines,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
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
