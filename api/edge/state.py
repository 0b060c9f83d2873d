"""What the requests of one process share: threads, who may have them, and whose request it is."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from cachetools import LRUCache
from flask import Flask, g
from granian.utils.proxies import wrap_wsgi_with_proxy_headers

from api.edge.lanes import Lanes
from api.edge.waits import Waits
from api.http.auth import authenticate
from api.http.services import EXTENSION, Services
from api.uploads.content import PREFIX, tenant_of_address
from shared import keys
from shared.config import Settings
from shared.errors import ThoraqError

#: What is slow because its client is, or because it is long: so many threads in all, and for one tenant or address.
STREAMS, STREAMS_EACH = 48, 16
#: The same for requests without a key that is known. Few are enough: none of them waits for its client.
OPEN, OPEN_EACH = 8, 4
#: Bodies in memory, of a megabyte at most: so many in all, and of one tenant or address.
BODIES, BODIES_EACH = 256, 64
#: Keys whose tenant is remembered, for the lane that a request waits in; never for what it may do.
KNOWN = 10_000


class State:
    """Shared by the requests of one process, in one event loop."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.service = cast(Services, app.extensions[EXTENSION])
        self.threads = ThreadPoolExecutor(settings.api_threads + OPEN, "request")
        self.stream_threads = ThreadPoolExecutor(STREAMS, "stream")
        #: for those who watch the service, and for what is refused: never taken by what they speak of
        self.watching, self.refusing = ThreadPoolExecutor(2, "watch"), ThreadPoolExecutor(1, "refuse")
        self.lanes = Lanes(settings.api_threads, max(1, settings.api_threads // 2))
        self.open = Lanes(OPEN, OPEN_EACH)
        self.bodies, self.streams = Lanes(BODIES, BODIES_EACH), Lanes(STREAMS, STREAMS_EACH)
        self.waits = Waits(self.service.listener, self.service.waits)
        self._tenants: LRUCache[str, str] = LRUCache(KNOWN)
        trusted = [str(network) for network in settings.trusted_proxies]
        self._resolve = wrap_wsgi_with_proxy_headers(lambda environ, _: environ["REMOTE_ADDR"], trusted)

    def address(self, environ: dict[str, Any]) -> str:
        """Return the client's address, as a trusted proxy says it."""
        said = {name: environ[name] for name in ("REMOTE_ADDR", "HTTP_X_FORWARDED_FOR") if name in environ}
        return str(self._resolve(said, None))

    def remembered(self, environ: dict[str, Any]) -> tuple[str | None, bool]:
        """Return the tenant whose key this is, and whether it is known to be in force.

        The database is not asked.
        """
        scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            return None, False
        digest = keys.digest(credentials.strip())
        principal = self.service.principals.get(digest)
        if principal is None:
            return self._tenants.get(digest), False
        self._tenants[digest] = principal.tenant_id
        return principal.tenant_id, True

    def authority(self, environ: dict[str, Any]) -> str | None:
        """Return the tenant for whom a body may be read, looked up in a thread; None where there is none."""
        path = environ["PATH_INFO"]
        if path.startswith(PREFIX):
            return tenant_of_address(self.service, path, environ["QUERY_STRING"])
        if not path.startswith("/v1/"):
            return None
        with self.app.request_context({**environ, "wsgi.input": io.BytesIO()}):
            try:
                authenticate()
            except ThoraqError:
                return None
            return cast(str, g.principal.tenant_id)
