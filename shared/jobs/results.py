"""The rows of answers: one result a job, and its heatmaps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from shared.db.bulk_insert import insert_rows
from shared.db.tables import Artifact, ArtifactKind, Result
from shared.jobs.claims import Answer, Claim


def keep(session: Session, answers: Sequence[tuple[Claim, Answer]]) -> None:
    """Write the answers of jobs that have succeeded in this transaction."""
    heatmaps = [row for claim, answer in answers for row in _heatmaps(claim, answer)]
    insert_rows(session, (Result, [_result(claim, answer) for claim, answer in answers]), (Artifact, heatmaps))


def _result(claim: Claim, answer: Answer) -> dict[str, Any]:
    row = {"job_id": claim.job_id, "tenant_id": claim.tenant_id, **vars(answer)}
    del row["heatmaps"]  # rows of their own
    return row


def _heatmaps(claim: Claim, answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "id": heatmap.id,
            "tenant_id": claim.tenant_id,
            "job_id": claim.job_id,
            "image_id": heatmap.image_id,
            "kind": ArtifactKind.HEATMAP,
            "class_name": heatmap.class_name,
            "content": "\\x" + heatmap.png.hex(),
            "media_type": "image/png",
        }
        for heatmap in answer.heatmaps
    ]
