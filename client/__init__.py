"""The Python client of a Thoraq server, over HTTP alone.

For example:

    with Client("https://thoraq.example", key) as thoraq:
        job = thoraq.submit([Path("chest.dcm")], classifier="binary")
        print(thoraq.wait(job).answer().probabilities)
"""

from client.client import Client
from client.errors import ApiError, ClientError, JobFailed, Unreachable, WaitTimeout
from client.models import (
    Artifact,
    Batch,
    Bundle,
    Classifier,
    Delivery,
    Endpoint,
    Job,
    JobResult,
    Modality,
    Model,
    Priority,
    Problem,
    SecondOpinion,
    Study,
)
from client.transport import Retry

__all__ = [
    "ApiError",
    "Artifact",
    "Batch",
    "Bundle",
    "Classifier",
    "Client",
    "ClientError",
    "Delivery",
    "Endpoint",
    "Job",
    "JobFailed",
    "JobResult",
    "Modality",
    "Model",
    "Priority",
    "Problem",
    "Retry",
    "SecondOpinion",
    "Study",
    "Unreachable",
    "WaitTimeout",
]
