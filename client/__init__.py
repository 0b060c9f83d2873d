"""The Python client of a Thoraq server, over HTTP alone.

For example:

    with Client("https://thoraq.example", key) as thoraq:
        job = thoraq.submit([Path("chest.dcm")], classifier="binary")
        print(thoraq.wait(job).answer().probabilities)
"""

from client.archive import Archive, PackedArchive, StoredArchive, archive_of
from client.batch_calls import BatchOptions, Watch
from client.batch_models import Batch, BatchCounts, BatchError, BatchResult
from client.client import Client
from client.errors import ApiError, ClientError, Unreachable
from client.models import (
    ApiKey,
    Artifact,
    AuditEntry,
    Bundle,
    Classifier,
    Delivery,
    Endpoint,
    Grouping,
    Job,
    JobFailed,
    JobResult,
    Modality,
    Model,
    Priority,
    Problem,
    SecondOpinion,
    Study,
)
from client.transport import Retry
from client.waits import WaitTimeout

__all__ = [
    "ApiError",
    "ApiKey",
    "Archive",
    "Artifact",
    "AuditEntry",
    "Batch",
    "BatchCounts",
    "BatchError",
    "BatchOptions",
    "BatchResult",
    "Bundle",
    "Classifier",
    "Client",
    "ClientError",
    "Delivery",
    "Endpoint",
    "Grouping",
    "Job",
    "JobFailed",
    "JobResult",
    "Modality",
    "Model",
    "PackedArchive",
    "Priority",
    "Problem",
    "Retry",
    "SecondOpinion",
    "StoredArchive",
    "Study",
    "Unreachable",
    "WaitTimeout",
    "Watch",
    "archive_of",
]
