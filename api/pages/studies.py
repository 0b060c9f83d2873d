"""The tenant's recent jobs, and one job with its result."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from flask import Response, make_response, render_template, request
from sqlalchemy.orm import Session

from api.answers import read_job
from api.auth import authenticate
from api.context import Principal, principal, services
from api.jobs import WHOLE
from api.pages.words import TERMINAL_WORDS
from api.problems import problem_types
from api.studies import PREVIEW_PIXELS, find_study
from shared.envelope import ImagePrediction, JobEnvelope, job_envelope
from shared.keys import Scope
from shared.models import Image, Job, Tenant

RECENT = 20
LONG = 1.6  # times the other side; chest pictures are nearly square


@dataclass(frozen=True)
class Picture:
    """An image of the study beside what the classifier said of it; `width` and `height` are its preview's.

    `long`: much longer than wide or the reverse, so that it would leave the screen at its full width.
    """

    number: int
    image: Image
    answer: ImagePrediction
    width: int
    height: int

    @property
    def long(self) -> bool:
        return max(self.width, self.height) > LONG * min(self.width, self.height)


def show_recent() -> Response:
    """The newest jobs and the form; `cursor` continues the list."""
    who = principal(Scope.JOBS_READ)
    wanted = sa.select(Job).where(Job.tenant_id == who.tenant_id).options(*WHOLE).order_by(Job.id.desc())
    if cursor := request.args.get("cursor"):
        wanted = wanted.where(Job.id < cursor)
    with services().database.transaction() as session:
        found = session.scalars(wanted.limit(RECENT + 1)).all()
        jobs = [job_envelope(job) for job in found[:RECENT]]
        tenant = _tenant_name(session, who)
    return conditional(
        "home.html",
        tenant=tenant,
        jobs=jobs,
        older=jobs[-1].id if len(found) > RECENT else None,
        cursor=cursor,
        may_send=bool({Scope.JOBS_WRITE, Scope.ADMIN} & who.scopes),
        settled=all(job.ended for job in jobs),
    )


def show_job(job_id: str) -> Response:
    """One job: what was asked, where it is, and its result or the reason why there is none."""
    authenticate()
    who = principal(Scope.JOBS_READ)
    job = read_job(services(), who, job_id)
    with services().database.transaction() as session:
        pictures = _pictures(job, find_study(session, who, job.study_id).images)
        tenant = _tenant_name(session, who)
    readable = [picture for picture in pictures if picture.answer.problem is None]
    readable.sort(key=lambda picture: picture.answer.prediction is None)  # the first that has an answer, if one has
    chosen = next((p for p in readable if p.image.id == request.args.get("image")), readable[0] if readable else None)
    kinds = {kind.type: kind for kind in problem_types()}
    return conditional(
        "job.html",
        tenant=tenant,
        job=job,
        pictures=pictures,
        chosen=chosen,
        kind=kinds.get(job.error.type) if job.error else None,
        ending=TERMINAL_WORDS.get(job.status),
        settled=job.ended,
        may_send=bool({Scope.JOBS_WRITE, Scope.ADMIN} & who.scopes),
    )


def conditional(template: str, **values: object) -> Response:
    """The page with its ETag; 304 when the browser's copy is the same, so that asking again costs little."""
    response = make_response(render_template(template, **values))
    response.add_etag()
    return response.make_conditional(request)  # type: ignore[return-value]


def _tenant_name(session: Session, who: Principal) -> str:
    return session.get_one(Tenant, who.tenant_id).name


def _pictures(job: JobEnvelope, images: list[Image]) -> list[Picture]:
    """The images that the result speaks of, in the study's order; none without a result."""
    if job.result is None:
        return []
    answers = {answer.image_id: answer for answer in job.result.images}
    return [_picture(number, image, answers[image.id]) for number, image in enumerate(images, 1) if image.id in answers]


def _picture(number: int, image: Image, answer: ImagePrediction) -> Picture:
    width, height = image.width or 1, image.height or 1
    scale = min(1.0, PREVIEW_PIXELS / max(width, height))
    return Picture(number, image, answer, max(1, round(width * scale)), max(1, round(height * scale)))
