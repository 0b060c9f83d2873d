"""One job of a study: what was asked, where it is, and its result or the reason why there is none."""

from __future__ import annotations

from flask import Response, request

from api.http.auth import authenticate
from api.http.principal import principal
from api.http.problems import problem_types
from api.http.services import services
from api.jobs.lookup import read_job
from api.pages.pictures import first_to_look_at, pictures_of
from api.pages.responses import conditional, tenant_name
from api.pages.review import review_sentences
from api.pages.words import TERMINAL_WORDS
from api.studies.routes import file_name, find_study
from shared.db.tables import Study
from shared.keys import Scope

#: What the reader last set the heatmap's switch to; static/heatmap.js keeps it.
HEATMAP_COOKIE = "heatmap"


def show_job(job_id: str) -> Response:
    """Show the page of a job; `image`, an image's id, chooses the picture that is shown."""
    authenticate()
    who = principal(Scope.JOBS_READ)
    job = read_job(services(), who, job_id)
    with services().database.transaction() as session:
        study = find_study(session, who, job.study_id)
        pictures, files = pictures_of(job, study), _file_names(study)
        tenant = tenant_name(session, who)
    asked = request.args.get("image")
    chosen = next((p for p in pictures if p.image.id == asked and p.answer.problem is None), None)
    kinds = {kind.type: kind for kind in problem_types()}
    return conditional(
        "job.html",
        tenant=tenant,
        job=job,
        files=files,
        pictures=pictures,
        chosen=chosen or first_to_look_at(pictures),
        review=review_sentences(job, pictures),
        heatmap_on=request.cookies.get(HEATMAP_COOKIE) != "off",
        kind=kinds.get(job.error.type) if job.error else None,
        ending=TERMINAL_WORDS.get(job.status),
        settled=job.ended,
        may_send=who.has(Scope.JOBS_WRITE),
    )


def _file_names(study: Study) -> list[str]:
    """Return the names of the study's files, in their order; 'file 2' for one without."""
    numbers = sorted({image.file_index for image in study.images})
    if not any(study.file_names or []):
        return []
    return [file_name(study, number) or f"file {number + 1}" for number in numbers]
