"""docs/operate/backup.md's lines for docker compose, word for word: a copy while a batch runs, and its return."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.compose.deployment import BATCH_SECONDS, START_SECONDS, Deployment, on_this_machine
from tests.compose.images import ROOT
from tests.compose.receiver import Receiver

pytestmark = pytest.mark.compose
PAGE = (ROOT / "docs" / "operate" / "backup.md").read_text(encoding="utf-8").split("## With docker compose")[1]
BACKUP, RESTORE = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def test_what_is_saved_while_a_batch_runs_is_whole_in_fresh_volumes(
    deployment: Deployment, receiver: Receiver, new_xrays: list[Path], tmp_path: Path
) -> None:
    deployment.wait_healthy()
    with deployment.client() as client:
        picture = ROOT / "samples" / "xray-pneumonia.jpg"
        sent = client.submit([picture], classifier="binary", modality="xray")
        before = client.wait(sent, on_this_machine(BATCH_SECONDS))
        (artifact, *_) = client.artifacts(before.id)
        heatmap = client.heatmap(before.id, artifact.id)
        receiver.wait_for_batch(before.id, set())
        (event_id,) = {event["id"] for event in receiver.received() if event["of"] == before.id}
        told = next(sent for sent in client.deliveries(receiver.endpoint) if sent.event_id == event_id)
        client.submit_batch(new_xrays, classifier="binary", modality="xray")
        deployment.shell(BACKUP, BACKUP=str(tmp_path / "backup"))
    receiver.leave()
    deployment.compose("down", "--volumes")
    deployment.shell(RESTORE, BACKUP=str(tmp_path / "backup"))
    receiver.join()
    deployment.wait_healthy(START_SECONDS)
    with deployment.client() as client:
        assert client.job(before.id).result == before.result
        assert client.heatmap(before.id, artifact.id) == heatmap
        client.redeliver(told.id)
        receiver.wait_for(lambda events: sum(event.get("id") == event_id for event in events) == 2)
        (batch, *_) = client.batches()
        assert client.wait_batch(batch, on_this_machine(BATCH_SECONDS)).status == "completed"
    deployment.doctor()
