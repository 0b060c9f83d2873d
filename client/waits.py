"""The end of a wait for a job or a batch that goes on."""

from __future__ import annotations

from client.batch_models import Batch
from client.errors import ClientError
from client.models import Job


class WaitTimeout(ClientError, TimeoutError):
    """The time to wait is over; the job or batch goes on. `last` is how it was last seen."""

    def __init__(self, last: Job | Batch) -> None:
        super().__init__(f"{last.object} {last.id} is still {last.status}")
        self.last = last
