"""Same bytes, same answer: what is taken from an earlier job, and what is run again."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.config import Settings
from shared.db.engine import Database
from shared.db.tables import Artifact, Classifier, Image, Job, JobState, Modality, ModelBundle, Result, Study
from shared.errors import CorruptImage
from shared.ids import new_id
from shared.jobs import states
from shared.jobs.claims import Answer, Claim, Heatmap, Outcome
from shared.jobs.reuse import earlier_answers
from shared.jobs.schemas import job_envelope
from tests.support.rows import BUNDLE, POLICY, add_bundle, add_job, add_tenant, answer, take
from tests.support.worker_drain import Counting, drain, every_job, know_contents, put, queue
from worker.classify.fake_predictor import null, stand_in

CONTENT = "c" * 64
OTHER = "d" * 64


def claimed(session: Session, *, tenant: str = "north", content: str | None = CONTENT, **asked: Any) -> Claim:
    """A claim for two images with this content."""
    job = add_job(session, add_tenant(session, tenant), images=2, **asked)
    session.get_one(Study, job.study_id).content_sha256 = content
    session.flush()
    (claim,) = take(session)
    return claim


def finished(session: Session, claim: Claim, **changes: Any) -> str:
    """The job, with an answer written."""
    add_bundle(session)
    assert states.finish(session, [answer(claim, **changes)], POLICY) == []
    return claim.job_id


def heatmaps(claim: Claim) -> list[Heatmap]:
    """One of each image, and each another."""
    return [
        Heatmap(new_id("art"), image.id, "covid19", f"png {place}".encode()) for place, image in enumerate(claim.images)
    ]


def known(session: Session, claim: Claim, bundle: str = BUNDLE) -> Answer | None:
    """The earlier answer to a claim."""
    return earlier_answers(session, [claim], bundle).get(claim.job_id)


def test_the_same_bytes_are_answered_from_the_job_that_was_run(clean_database: Database) -> None:
    said = {
        "prediction": "covid19",
        "probabilities": {"covid19": 0.9, "not_covid19": 0.1},
        "corrected_modality": Modality.CT,
        "review_reasons": ["modality-corrected"],
        "second_opinion": {"classifier": "binary", "prediction": "covid19", "probabilities": {"covid19": 0.9}},
    }
    with clean_database.transaction() as session:
        first = claimed(session)
        finished(session, first, **said)
        again = claimed(session)
        found = known(session, again)
    assert found is not None
    assert found.reused_from == first.job_id
    assert {name: getattr(found, name) for name in said} == said
    assert [image["image_id"] for image in found.images] == [image.id for image in again.images]
    assert [image["prediction"] for image in found.images] == ["not_covid19"] * 2  # as `answer` has it
    assert (found.timings["infer"], found.timings["load"]) == (0, 0)
    assert found.timings["total"] == found.timings["queued"]


def test_heatmaps_are_copied_under_new_ids(clean_database: Database) -> None:
    with clean_database.transaction() as session:
        first = claimed(session)
        finished(session, first, heatmaps=heatmaps(first))
        again = claimed(session)
        found = known(session, again)
        assert found is not None
        assert states.finish(session, [Outcome(again, answer=found)], POLICY) == []
    with clean_database.transaction() as session:
        kept = {(row.job_id, row.image_id): row for row in session.scalars(sa.select(Artifact))}
        result = job_envelope(session.get_one(Job, again.job_id)).result
    assert len(kept) == len({row.id for row in kept.values()}) == 4
    for place, image in enumerate(again.images):
        copy = kept[again.job_id, image.id]
        assert (copy.content, copy.class_name) == (f"png {place}".encode(), "covid19")
        assert result is not None
        assert result.images[place].heatmap == f"/v1/jobs/{again.job_id}/artifacts/{copy.id}"


def test_what_is_reused_is_never_what_was_reused_itself(clean_database: Database) -> None:
    with clean_database.transaction() as session:
        first = finished(session, claimed(session))
        for _ in range(3):
            claim = claimed(session)
            found = known(session, claim)
            assert found is not None
            assert found.reused_from == first
            assert states.finish(session, [Outcome(claim, answer=found)], POLICY) == []
        # Without the one that was run there is none, however many copies are left.
        session.execute(sa.update(Result).where(Result.job_id == first).values(bundle_sha256=add_other_bundle(session)))
        assert known(session, claimed(session)) is None


def add_other_bundle(session: Session) -> str:
    """Another bundle's SHA-256."""
    session.add(ModelBundle(sha256=OTHER, name="other", version="1", card={}))
    session.flush()
    return OTHER


@pytest.mark.parametrize(
    "difference",
    [
        {"tenant": "south"},
        {"content": OTHER},
        {"content": None},
        {"classifier": Classifier.ENSEMBLE},
        {"modality": Modality.CT},
        {"force": True},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_what_differs_is_run(clean_database: Database, difference: dict[str, Any]) -> None:
    with clean_database.transaction() as session:
        finished(session, claimed(session))
        assert known(session, claimed(session)) is not None
        assert known(session, claimed(session, **difference)) is None


def test_another_bundle_runs_it_again(clean_database: Database) -> None:
    with clean_database.transaction() as session:
        finished(session, claimed(session))
        assert known(session, claimed(session), add_other_bundle(session)) is None


def test_neither_a_failure_nor_an_answer_without_some_image_is_repeated(clean_database: Database) -> None:
    with clean_database.transaction() as session:
        assert states.finish(session, [Outcome(claimed(session), error=CorruptImage())], POLICY) == []
        assert known(session, claimed(session)) is None
        partial = claimed(session)
        images: list[dict[str, Any]] = [{"image_id": image.id, "file": 0, "frame": 0} for image in partial.images]
        images[1]["problem"] = {"type": "object-not-found", "title": "", "detail": ""}
        add_bundle(session)
        said = Answer(BUNDLE, images, {}, prediction="covid19", probabilities={"covid19": 1.0})
        written = Outcome(partial, answer=said)
        assert states.finish(session, [written], POLICY) == []
        assert known(session, claimed(session)) is None


def test_a_worker_fetches_nothing_for_what_it_knows(
    settings: Settings, clean_database: Database, storage: Counting
) -> None:
    """The same pictures in another order are another study."""
    with clean_database.transaction() as session:
        tenant = add_tenant(session)
        first, turned = (add_job(session, tenant, images=2).id for _ in range(2))
    put(clean_database, storage, (40, 200, 200, 40))
    know_contents(clean_database)
    drain(settings, clean_database, storage, stand_in(0))
    assert len(storage.fetched) == 4
    with clean_database.transaction() as session:
        again, forced = add_job(session, tenant, images=2).id, add_job(session, tenant, images=2, force=True).id
    put(clean_database, storage, (40, 200, 200, 40, 40, 200, 200, 40))
    know_contents(clean_database)
    storage.fetched.clear()
    drain(settings, clean_database, storage, stand_in(0))
    assert len(storage.fetched) == 2
    with every_job(clean_database) as found:
        assert {job.state for job in found.values()} == {JobState.SUCCEEDED}
        reused = {job_id: job.result and job.result.reused_from for job_id, job in found.items()}
    assert reused == {first: None, turned: None, again: first, forced: None}


def test_null_answers_without_fetching(settings: Settings, clean_database: Database, storage: Counting) -> None:
    (job_id,) = queue(clean_database, storage, count=1, images=2)
    with clean_database.transaction() as session:
        bad = session.scalars(sa.select(Image).order_by(Image.position)).all()[1]
        bad.problem = {"type": "corrupt-image", "title": "Image truncated or damaged", "detail": "truncated"}
    drain(settings, clean_database, storage, null())
    assert storage.fetched == []
    with every_job(clean_database) as found:
        result = job_envelope(found[job_id]).result
    assert result is not None
    assert result.model.name == "stand-in"
    assert result.probabilities == {"covid19": 0.5, "not_covid19": 0.5}
    assert [image.problem is None for image in result.images] == [True, False]
