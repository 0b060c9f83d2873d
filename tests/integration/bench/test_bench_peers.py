"""The peers that need nothing but what Thoraq needs: they start, answer, and agree with the bare engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.ceiling import BATCH, ceiling
from bench.images import make_small
from bench.load import OneByOne, check_agreement
from bench.peers.celery_peer import CeleryPeer
from bench.peers.environment import NULL
from bench.peers.servers import running
from bench.peers.systems import Setting, ordinary_celery, sync_flask
from tests.support.bundles.brightness import tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The folder of a bundle that loads quickly."""
    return tiny_bundle(tmp_path / "tiny").path


@pytest.mark.parametrize("our_engine", [True, False], ids=["our engine", "keras"])
def test_the_synchronous_app_answers_as_the_bare_engine_does(tmp_path: Path, bundle: Path, our_engine: bool) -> None:
    files = make_small(tmp_path / "images", BATCH + 2)
    setting = Setting(tmp_path, bundle, our_engine)
    with ceiling(bundle) as alone, sync_flask(setting, clients=2) as system:
        expected, found = alone.run(files), OneByOne(system, 2).run(files)
    assert expected.figures.images == BATCH + 2
    assert expected.figures.seconds > 0
    check_agreement(expected.answers, found.answers, system.name)


def test_the_ordinary_design_answers_who_polls(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NULL, "1")
    with ordinary_celery(Setting(tmp_path, bundle), clients=2) as system:
        assert OneByOne(system, 2).run(make_small(tmp_path / "images", 5)).answers == [{}] * 5


def test_tasks_that_were_queued_before_the_worker_are_all_timed(tmp_path: Path) -> None:
    peer = CeleryPeer(tmp_path / "celery", 2, **{NULL: "1"})
    with running(peer.redis):
        peer.queue(50)
        with running(peer.worker):
            peer.wait_for(50)
        finished = peer.finished_at()
        assert len(finished) == peer.wait_idle() == 50
        assert finished == sorted(finished)
        peer.forget()
        assert peer.finished_at() == []
