"""A worker's drain on a real database and store and a tiny bundle, with the faults that an engine can have."""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
import pytest
import sqlalchemy as sa

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Artifact, Classifier, Image, Job, JobState, Modality, Result
from shared.errors import EngineError, EngineOutOfMemory
from shared.inference.bundle import Bundle
from shared.inference.engine import Engine, EngineName, FeatureMaps, Pixels
from shared.inference.gate import REASON
from shared.jobs import states
from shared.jobs.schemas import job_envelope
from tests.support.bundles.brightness import BLACK, CT_GREY, DENSENET, SIZE, VGG, Watched, tiny_bundle, tiny_model
from tests.support.rows import add_job, add_study, add_tenant, ask_about
from tests.support.worker_drain import Counting, drain, every_job, put, queue
from worker.classify.handler import Classify
from worker.classify.predictor import Model


class Faulty:
    """An engine that meets a fault."""

    name: EngineName = "tensorflow"
    lanes, max_batch = 1, 16

    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    def feature_maps(self, *_: object, **__: object) -> dict[str, FeatureMaps]:
        raise self.fault

    def warm_up(self) -> None:
        """Nothing to do."""


class Narrow:
    """An engine that has memory for so many images."""

    name: EngineName = "tensorflow"
    lanes, max_batch = 1, 16

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine, self._most = engine, most
        self.looks: list[int] = []

    def feature_maps(
        self, images: Pixels, backbones: Collection[str], *, beside: bool = False
    ) -> dict[str, FeatureMaps]:
        self.looks.append(len(images))
        if len(images) > self._most:
            raise EngineOutOfMemory
        return self._engine.feature_maps(images, backbones, beside=beside)

    def warm_up(self) -> None:
        """Nothing to do."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def model(loaded: Model) -> Model:
    """The tiny model, whose engine has been shown nothing yet."""
    shown(loaded).clear()
    return loaded


@pytest.fixture(scope="module")
def bundle(loaded: Model) -> Bundle:
    """For models on other engines."""
    return loaded.bundle


def shown(model: Model) -> list[tuple[str, int]]:
    """What the backbones were shown."""
    assert isinstance(model.engine, Watched)
    return model.engine.shown


def test_everything_that_waits_is_answered(
    settings: Settings, clean_database: Database, storage: Counting, model: Model
) -> None:
    ids = queue(clean_database, storage, count=20, images=2, levels=(200, 240))
    drain(settings, clean_database, storage, model)
    with clean_database.transaction() as session:
        results = session.scalars(sa.select(Result)).all()
        states = set(session.scalars(sa.select(Job.state)))
    assert states == {JobState.SUCCEEDED}
    assert sorted(result.job_id for result in results) == sorted(ids)
    assert {result.prediction for result in results} == {"covid19"}
    assert {len(result.images) for result in results} == {2}
    assert {result.bundle_sha256 for result in results} == {model.bundle.sha256}
    assert sum(count for _, count in shown(model)) == 40


def test_every_answered_image_has_its_heatmap(
    settings: Settings, clean_database: Database, storage: Counting, model: Model
) -> None:
    (job_id,) = queue(clean_database, storage, count=1, images=3, levels=(20, 240, 60))
    drain(settings, clean_database, storage, model)
    with every_job(clean_database) as found:
        result = job_envelope(found[job_id]).result
    with clean_database.transaction() as session:
        heatmaps = {heatmap.image_id: heatmap for heatmap in session.scalars(sa.select(Artifact))}
    assert result is not None
    assert [image.prediction for image in result.images] == ["not_covid19", "covid19", "not_covid19"]
    for image in result.images:
        heatmap = heatmaps[image.image_id]
        assert image.heatmap == f"/v1/jobs/{job_id}/artifacts/{heatmap.id}"
        assert (heatmap.class_name, heatmap.media_type) == (image.prediction, "image/png")
        grid = np.asarray(cv2.imdecode(np.frombuffer(heatmap.content, np.uint8), cv2.IMREAD_UNCHANGED))
        assert grid.shape == (7, 7)
        # Darkness speaks for the other class by what is not there: nothing that a map could show.
        assert grid.max() == (255 if image.prediction == "covid19" else 0)


def test_no_heatmap_is_kept_where_they_are_switched_off(
    settings: Settings, clean_database: Database, storage: Counting, model: Model
) -> None:
    (job_id,) = queue(clean_database, storage, count=1)
    drain(settings.model_copy(update={"heatmaps": False}), clean_database, storage, model)
    with every_job(clean_database) as found:
        result = job_envelope(found[job_id]).result
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Artifact)).all() == []
    assert result is not None
    assert [image.heatmap for image in result.images] == [None]


def test_an_image_that_two_jobs_ask_about_is_fetched_once_and_run_once(
    settings: Settings, clean_database: Database, storage: Counting, model: Model
) -> None:
    with clean_database.transaction() as session:
        study = add_study(session, add_tenant(session), Modality.XRAY, images=2)
        asked = [ask_about(session, study, classifier=classifier).id for classifier in (*Classifier, Classifier.BINARY)]
    put(clean_database, storage, (240, 200))
    drain(settings, clean_database, storage, model)
    assert sorted(shown(model)) == [(DENSENET, 2), (VGG, 2)]
    assert len(storage.fetched) == len(set(storage.fetched)) == 2
    with every_job(clean_database) as found:
        binary, ensemble, again = (job_envelope(found[job_id]).result for job_id in asked)
    assert binary is not None
    assert ensemble is not None
    assert again is not None
    assert again.probabilities == binary.probabilities
    assert ensemble.second_opinion is not None
    assert ensemble.second_opinion.probabilities == binary.probabilities
    assert set(ensemble.probabilities or {}) == {"normal", "pneumonia", "covid19"}
    with clean_database.transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Artifact)) == 6


def test_an_input_that_the_classifier_cannot_speak_of_succeeds_as_rejected(
    settings: Settings, clean_database: Database, storage: Counting, model: Model
) -> None:
    with clean_database.transaction() as session:
        job_id = add_job(
            session, add_tenant(session), images=2, modality=Modality.CT, classifier=Classifier.ENSEMBLE
        ).id
    put(clean_database, storage, (200,))
    drain(settings, clean_database, storage, model)
    with every_job(clean_database) as found:
        assert found[job_id].state is JobState.SUCCEEDED
        result = job_envelope(found[job_id]).result
    assert result is not None
    assert (result.outcome, result.reason) == ("rejected_input", "ensemble-needs-xray")
    assert (result.prediction, result.probabilities, result.aggregate) == (None, None, "none")
    assert [image.rejected for image in result.images] == ["ensemble-needs-xray"] * 2
    assert result.detail is not None
    assert "X-rays only" in result.detail


def test_the_gate_rejects_what_is_no_chest_image_and_corrects_the_modality(
    settings: Settings, clean_database: Database, storage: Counting, tmp_path: Path
) -> None:
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        nothing, slices = (add_job(session, tenant, images=2, modality=Modality.XRAY).id for _ in range(2))
    put(clean_database, storage, (BLACK, BLACK, CT_GREY, CT_GREY))
    drain(settings, clean_database, storage, tiny_model(tmp_path / "gated", gated=True))
    with every_job(clean_database) as found:
        assert {job.state for job in found.values()} == {JobState.SUCCEEDED}
        rejected, corrected = (job_envelope(found[job_id]).result for job_id in (nothing, slices))
    assert rejected is not None
    assert (rejected.outcome, rejected.reason, rejected.detail) == ("rejected_input", "not-a-chest-image", REASON)
    assert (rejected.modality, rejected.modality_corrected) == (Modality.XRAY, False)
    assert corrected is not None
    assert (corrected.outcome, corrected.prediction) == ("answered", "not_covid19")
    assert (corrected.modality, corrected.modality_corrected) == (Modality.CT, True)
    assert (corrected.needs_review, corrected.review_reasons) == (True, ["modality-corrected"])


def test_a_bad_image_fails_alone_and_a_study_of_bad_ones_fails(
    settings: Settings, clean_database: Database, storage: Counting, model: Model
) -> None:
    mixed, bad = queue(clean_database, storage, count=2, images=2)
    with clean_database.transaction() as session:
        studies = {job.id: job.study_id for job in session.scalars(sa.select(Job))}
        broken = sa.or_(Image.study_id == studies[bad], Image.position == 1)
        session.execute(sa.update(Image).where(broken).values(sha256="0" * 64))
    drain(settings, clean_database, storage, model)
    with every_job(clean_database) as found:
        assert {job_id: job.state for job_id, job in found.items()} == {
            mixed: JobState.SUCCEEDED,
            bad: JobState.FAILED,
        }
        assert (found[bad].error or {})["type"] == "object-corrupt"
        result = job_envelope(found[mixed]).result
    assert result is not None
    assert [image.problem is None for image in result.images] == [True, False]
    assert result.review_reasons == ["images-left-out"]
    assert result.aggregate == "single"


def test_a_study_larger_than_a_batch_goes_through_in_batches(
    settings: Settings, clean_database: Database, storage: Counting, model: Model
) -> None:
    queue(clean_database, storage, count=1, images=11)
    drain(settings.model_copy(update={"batch_size": 4}), clean_database, storage, model)
    assert shown(model) == [(DENSENET, 4), (DENSENET, 4), (DENSENET, 3)]
    with clean_database.transaction() as session:
        assert [len(result.images) for result in session.scalars(sa.select(Result))] == [11]


def test_a_swapped_model_answers_what_is_claimed_afterwards(
    settings: Settings, clean_database: Database, storage: Counting, model: Model, tmp_path: Path
) -> None:
    (before,) = queue(clean_database, storage, count=1)
    handler = drain(settings, clean_database, storage, model)
    other = tiny_bundle(tmp_path / "other", version="2")
    handler.swap(Model(other, model.engine))
    (after,) = queue(clean_database, storage, count=1)
    handler.drain(threading.Event())
    assert handler.serving is not None
    assert handler.serving.bundle_sha256 == other.sha256
    with every_job(clean_database) as found:
        versions = {job_id: job_envelope(job).result for job_id, job in found.items()}
    assert {job_id: result and result.model.version for job_id, result in versions.items()} == {
        before: "1",
        after: "2",
    }


def test_a_batch_that_was_claimed_before_a_swap_is_answered_by_the_model_it_was_prepared_for(
    settings: Settings, clean_database: Database, storage: Counting, model: Model, tmp_path: Path
) -> None:
    """The other model takes larger pictures: it could not answer for pixels that were not made for it."""
    queue(clean_database, storage, count=3)
    other = tiny_model(tmp_path / "other", version="2", size=2 * SIZE)
    handler = Classify("worker", settings.model_copy(update={"batch_size": 1}), clean_database, storage, model)

    class Swapping(Watched):
        def feature_maps(
            self, images: Pixels, backbones: Collection[str], *, beside: bool = False
        ) -> dict[str, FeatureMaps]:
            handler.swap(other)
            return super().feature_maps(images, backbones, beside=beside)

    handler.swap(Model(model.bundle, Swapping(model.engine)))
    handler.drain(threading.Event())
    with every_job(clean_database) as found:
        assert {job.state for job in found.values()} == {JobState.SUCCEEDED}
        results = [job_envelope(job).result for job in found.values()]
    versions = sorted(result.model.version for result in results if result)
    # The one after the first may have been claimed before or after the swap.
    assert versions in (["1", "1", "2"], ["1", "2", "2"])


def test_a_transient_fault_of_the_engine_costs_an_attempt(
    settings: Settings, clean_database: Database, storage: Counting, bundle: Bundle
) -> None:
    (job_id,) = queue(clean_database, storage, count=1)
    drain(settings, clean_database, storage, Model(bundle, Faulty(EngineError("the device failed"))))
    with clean_database.transaction() as session:
        job = session.get_one(Job, job_id)
    assert (job.state, job.error_attempts) == (JobState.QUEUED, 1)


@pytest.mark.parametrize(
    ("most", "looks"), [(16, [11]), (8, [11, 5, 6]), (3, [11, 5, 2, 3, 6, 3, 3]), (1, [11, 5, 2, 1, 1, 3, 1, 2, 1, 1])]
)
def test_where_memory_runs_out_the_batch_is_halved_until_it_fits(
    settings: Settings, clean_database: Database, storage: Counting, model: Model, most: int, looks: list[int]
) -> None:
    bright = queue(clean_database, storage, count=11, levels=(240, 20, 200))
    engine = Narrow(model.engine, most)
    drain(settings, clean_database, storage, Model(model.bundle, engine))
    assert engine.looks[: len(looks)] == looks
    with every_job(clean_database) as found:
        assert [found[job_id].state for job_id in bright] == [JobState.SUCCEEDED] * 11
        assert {job.error_attempts for job in found.values()} == {0}
        results = [job_envelope(found[job_id]).result for job_id in bright]
    dark = "not_covid19"
    assert [result and result.prediction for result in results] == (["covid19", dark, "covid19"] * 4)[:11]


def test_without_memory_for_a_single_image_an_attempt_is_spent(
    settings: Settings, clean_database: Database, storage: Counting, model: Model
) -> None:
    ids = queue(clean_database, storage, count=3)
    drain(settings, clean_database, storage, Model(model.bundle, Narrow(model.engine, 0)))
    with every_job(clean_database) as found:
        assert {(found[job_id].state, found[job_id].error_attempts) for job_id in ids} == {(JobState.QUEUED, 1)}


def test_what_a_failed_drain_leaves_is_not_kept_alive(
    settings: Settings, clean_database: Database, storage: Counting, bundle: Bundle
) -> None:
    ids = queue(clean_database, storage, count=40)
    handler = Classify("worker", settings, clean_database, storage, Model(bundle, Faulty(RuntimeError("a bug"))))
    with pytest.raises(RuntimeError, match="a bug"):
        handler.drain(threading.Event())
    with clean_database.transaction() as session:
        abandoned = session.scalars(sa.select(Job.id).where(Job.state == JobState.RUNNING)).all()
        session.execute(sa.update(Job).where(Job.id.in_(abandoned)).values(lease_until=sa.func.now()))
    assert len(abandoned) == settings.batch_size  # the batch ahead of it was given back
    handler.beat()
    with clean_database.transaction() as session:
        assert sorted(states.rescue(session, 3)[0]) == sorted(abandoned)
        assert session.scalar(sa.select(sa.func.count()).where(Job.state == JobState.QUEUED)) == len(ids)


def test_a_worker_that_stops_gives_back_what_it_has_claimed(
    settings: Settings, clean_database: Database, storage: Counting, model: Model
) -> None:
    queue(clean_database, storage, count=3)
    stopping = threading.Event()
    stopping.set()
    Classify("worker", settings, clean_database, storage, model).drain(stopping)
    with clean_database.transaction() as session:
        rows = session.execute(sa.select(Job.state, Job.error_attempts, Job.crash_attempts)).all()
    assert [tuple(row) for row in rows] == [(JobState.QUEUED, 0, 0)] * 3


def test_a_job_cancelled_during_inference_keeps_neither_result_nor_heatmap(
    settings: Settings, clean_database: Database, storage: Counting, model: Model
) -> None:
    (job_id,) = queue(clean_database, storage, count=1)

    class Cancelling(Watched):
        def feature_maps(
            self, images: Pixels, backbones: Collection[str], *, beside: bool = False
        ) -> dict[str, FeatureMaps]:
            with clean_database.transaction() as session:
                states.cancel(session, session.get_one(Job, job_id).tenant_id, job_id)
            return super().feature_maps(images, backbones, beside=beside)

    engine = Cancelling(model.engine)
    drain(settings, clean_database, storage, Model(model.bundle, engine))
    with clean_database.transaction() as session:
        assert session.get_one(Job, job_id).state is JobState.CANCELLED
        assert session.scalars(sa.select(Result)).all() == []
        assert session.scalars(sa.select(Artifact)).all() == []
    assert engine.shown == [(DENSENET, 1)]
