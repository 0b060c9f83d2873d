"""A hospital's webhook receiver in a container of its own, in the network that deliveries leave by."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.compose.deployment import Deployment
from tests.support.waiting import EVENT_SECONDS

NAME = "hospital"
EVENTS = ["job.succeeded", "job.failed", "batch.completed"]
# Prints each delivery whose signature holds, one line of JSON; what is refused is printed as such.
PROGRAM = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            event = Webhook(open("/tmp/secret").read()).verify(body, dict(self.headers))
            said = {"id": self.headers["webhook-id"], "type": event["type"], "of": event["data"]["id"]}
        except WebhookVerificationError as error:
            said = {"refused": str(error)}
        sys.stdout.write(json.dumps(said) + "\\n")  # in one piece: several threads write
        sys.stdout.flush()
        self.send_response(400 if "refused" in said else 204)
        self.end_headers()

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("0.0.0.0", 9000), Handler).serve_forever()
"""


class Receiver:
    """From `with` on it receives; `endpoint` is its endpoint's id."""

    def __init__(self, deployment: Deployment, image: str) -> None:
        self._deployment, self._image = deployment, image
        self._name = f"{deployment.project}-{NAME}"
        self.endpoint = ""

    def __enter__(self) -> Self:
        program = self._deployment.folder / "receiver.py"
        program.write_text(PROGRAM, encoding="utf-8")
        self._deployment.engine.docker(
            *("run", "--detach", "--name", self._name, "--network", self._network),
            *("--network-alias", NAME, "--volume", f"{program}:/receiver.py:ro", self._image, "python", "/receiver.py"),
        )
        with self._deployment.client() as client:
            endpoint = client.create_endpoint(f"http://{NAME}:9000/thoraq", EVENTS, "compose tests")
        self.endpoint = endpoint.id
        write = f"printf %s '{endpoint.secret}' > /tmp/secret"
        self._deployment.engine.docker("exec", self._name, "sh", "-c", write)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._deployment.engine.docker("rm", "--force", self._name, check=False)

    @property
    def _network(self) -> str:
        return f"{self._deployment.project}_outside"

    def leave(self) -> None:
        """Leave the deployment's network, which could not be removed otherwise."""
        self._deployment.engine.docker("network", "disconnect", self._network, self._name)

    def join(self) -> None:
        """Be reachable again, under the same name."""
        self._deployment.engine.docker("network", "connect", "--alias", NAME, self._network, self._name)

    def received(self) -> list[dict[str, Any]]:
        """Every delivery so far, in order."""
        lines = self._deployment.engine.docker("logs", self._name).splitlines()
        return [json.loads(line) for line in lines]

    def wait_for(self, wanted: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """What came, once it is what is wanted."""
        deadline = time.monotonic() + EVENT_SECONDS
        while not wanted(found := self.received()):
            came = Counter(str(event.get("type")) for event in found)
            assert time.monotonic() < deadline, f"{len(found)} deliveries came: {came}"
            time.sleep(0.5)
        return found

    def wait_for_batch(self, batch_id: str, jobs: set[str]) -> None:
        """Until every job's webhook and the batch's came, each under one webhook-id, and none was refused."""
        wanted = jobs | {batch_id}
        found = self.wait_for(lambda events: wanted <= {event.get("of") for event in events})
        assert not [event for event in found if "refused" in event]
        ids = {(event["of"], event["type"]): {e["id"] for e in found if e["of"] == event["of"]} for event in found}
        assert {key: len(names) for key, names in ids.items() if len(names) != 1} == {}
