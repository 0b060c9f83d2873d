"""What every request needs, made once per process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

from flask import current_app, g

from api.http.limits.backpressure import Admission
from api.http.limits.rate_limits import Limits
from api.http.limits.wait_slots import WaitSlots
from api.http.principal import Principal
from api.http.responses import Answer
from api.http.ttl_cache import TTLCache
from shared.config import Settings
from shared.db.engine import TenantDatabase
from shared.db.listen_notify import Listener
from shared.imaging.dicom.deidentification.deidentify import Identity
from shared.storage import Storage

EXTENSION = "thoraq"
#: Bytes of terminal jobs' answers that a process keeps ready.
FINISHED_BYTES = 32_000_000


@dataclass(frozen=True)
class Services:
    """The process's ways to the outside, and what it remembers of it for seconds."""

    settings: Settings
    database: TenantDatabase
    storage: Storage
    listener: Listener
    limits: Limits
    admission: Admission
    #: requests that wait without a thread
    waits: WaitSlots
    #: and those that hold one
    streams: WaitSlots
    #: by the key's digest, or by its id for a session: keys in force; refusals are not remembered
    principals: TTLCache[Principal] = field(default_factory=lambda: TTLCache(10_000))
    #: by tenant: how it has it with its patients' identities
    identities: TTLCache[Identity] = field(default_factory=lambda: TTLCache(10_000))
    #: by tenant and job: answers that do not change any more
    finished: TTLCache[Answer] = field(default_factory=lambda: TTLCache(FINISHED_BYTES))
    #: by job, or by rank for jobs that are new: position and estimated wait in seconds
    places: TTLCache[tuple[int, float | None]] = field(default_factory=lambda: TTLCache(10_000))
    _views: dict[str, Services] = field(default_factory=dict)

    def of(self, tenant_id: str) -> Services:
        """Return the same with the database for one tenant's rows, as `TenantDatabase.of` gives it."""
        view = self._views.get(tenant_id)
        if view is None:
            view = self._views[tenant_id] = replace(self, database=self.database.of(tenant_id))
        return view


def services() -> Services:
    """Return the current application's services.

    The database holds the rows of the tenant who asks, and of nobody else.
    """
    return cast(Services, g.get("services") or current_app.extensions[EXTENSION])
