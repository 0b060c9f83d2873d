"""Same bytes, same answer: a study that was answered before is not run again.

The same means: the same tenant, files and frames in their order (`studies.content_sha256`), modality as sent,
classifier, and bundle, which pins the preprocessing. What the two clients attached does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.orm import Session

from shared.db.tables import ArtifactKind, Modality, ResultOutcome
from shared.ids import new_id
from shared.jobs.claims import Answer, Claim, Heatmap

#: Studies of the same bytes that are looked at. A tenant may have sent the same black picture ten thousand times; it
#: is run again rather than searched for.
MOST_STUDIES = 100
#: Tenant, content, classifier, modality.
Question = tuple[str, str, str, str]

# Answers to images that could not be read are not repeated: what was missing then may be there now. An answer that was
# itself reused is passed over, so that `reused_from` always names the job that was run.
EARLIER = sa.text("""
    SELECT q.tenant_id, q.content, q.classifier, q.modality, found.*
    FROM json_to_recordset(:questions) AS q(tenant_id text, content text, classifier text, modality text)
    CROSS JOIN LATERAL (
        SELECT r.job_id, r.outcome, r.reason, r.detail, r.prediction, r.probabilities, r.corrected_modality,
            r.review_reasons, r.second_opinion, r.images
        FROM (
            SELECT id FROM studies
            WHERE tenant_id = q.tenant_id AND content_sha256 = q.content AND modality = q.modality LIMIT :studies
        ) s
        JOIN jobs j ON j.study_id = s.id AND j.classifier = q.classifier AND j.state = 'succeeded'
        JOIN results r ON r.job_id = j.id
        WHERE r.bundle_sha256 = :bundle AND r.reused_from IS NULL
            AND NOT jsonb_path_exists(r.images, '$[*].problem')
        LIMIT 1
    ) found
""").bindparams(sa.bindparam("questions", type_=JSON))
HEATMAPS = sa.text(
    "SELECT job_id, image_id, class_name, content FROM artifacts WHERE job_id = ANY (:jobs) AND kind = :kind"
)


def earlier_answers(session: Session, claims: Sequence[Claim], bundle_sha256: str) -> dict[str, Answer]:
    """Answers of this bundle to the same bytes, for those claims that have one, by their job ids.

    They are ready to be written: with the claim's own images, heatmaps under new ids, and `reused_from`.
    """
    questions = {_question(claim) for claim in claims if not claim.force and claim.content_sha256 is not None}
    if not questions:
        return {}
    names = ("tenant_id", "content", "classifier", "modality")
    asked = [dict(zip(names, question, strict=True)) for question in sorted(questions)]
    rows = session.execute(EARLIER, {"questions": asked, "bundle": bundle_sha256, "studies": MOST_STUDIES}).all()
    found = {(row.tenant_id, row.content, row.classifier, row.modality): row for row in rows}
    heatmaps = _heatmaps(session, [row.job_id for row in rows])
    return {
        claim.job_id: _copy(claim, row, heatmaps[row.job_id], bundle_sha256)
        for claim in claims
        if not claim.force and (row := found.get(_question(claim))) is not None
    }


def _question(claim: Claim) -> Question:
    return claim.tenant_id, claim.content_sha256 or "", claim.classifier.value, claim.modality.value


def _heatmaps(session: Session, job_ids: Sequence[str]) -> Mapping[str, dict[str, sa.Row[Any]]]:
    """Return the jobs' heatmaps by job and image."""
    found: dict[str, dict[str, sa.Row[Any]]] = defaultdict(dict)
    if job_ids:
        for row in session.execute(HEATMAPS, {"jobs": job_ids, "kind": ArtifactKind.HEATMAP.value}):
            found[row.job_id][row.image_id] = row
    return found


def _copy(claim: Claim, row: sa.Row[Any], heatmaps: Mapping[str, sa.Row[Any]], bundle_sha256: str) -> Answer:
    images, kept = [], []
    for ref, earlier in zip(claim.images, row.images, strict=True):
        image = earlier | {"image_id": ref.id, "file": ref.file, "frame": ref.frame}
        heatmap = heatmaps.get(earlier["image_id"])
        if heatmap is not None:
            kept.append(Heatmap(new_id("art"), ref.id, heatmap.class_name, heatmap.content))
            image["heatmap"] = kept[-1].id
        images.append(image)
    waited = round(claim.waited_seconds, 4)
    return Answer(
        bundle_sha256=bundle_sha256,
        images=images,
        timings={"queued": waited, "load": 0.0, "infer": 0.0, "total": waited},
        outcome=ResultOutcome(row.outcome),
        reason=row.reason,
        detail=row.detail,
        prediction=row.prediction,
        probabilities=row.probabilities,
        corrected_modality=row.corrected_modality and Modality(row.corrected_modality),
        review_reasons=row.review_reasons,
        second_opinion=row.second_opinion,
        reused_from=row.job_id,
        heatmaps=kept,
    )
