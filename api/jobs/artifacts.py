"""Artifacts: what belongs to a job's result beside its numbers. Heatmaps are kept as a small grid, and drawn here."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import sqlalchemy as sa
from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from numpy.typing import NDArray

from api.http.openapi.document import ERRORS
from api.http.principal import principal, requires
from api.http.responses import json_response
from api.http.services import services
from api.jobs.schemas import ArtifactList, ArtifactPath, ArtifactView, JobPath
from shared.db.lookup import existing
from shared.db.tables import Artifact, Image, Job
from shared.errors import ObjectCorrupt
from shared.jobs.schemas import artifact_path
from shared.keys import Scope

blueprint = APIBlueprint("artifacts", __name__, url_prefix="/v1", abp_tags=[Tag(name="jobs")], abp_responses=ERRORS)

HEATMAP_PIXELS = 448
#: Shares of the strongest activation: nothing is drawn below the first, and from the second on nothing gets denser.
FAINTEST, DENSEST = 0.15, 0.75
#: What is under the strongest colour must still be seen.
OPACITY = 0.6


def _palette() -> NDArray[np.uint8]:
    """Blue, green, red and opacity of each of 256 activations, shape (256, 4)."""
    activation = np.linspace(0, 1, 256, dtype=np.float32)
    share = np.clip((activation - FAINTEST) / (DENSEST - FAINTEST), 0, 1)
    opacity = OPACITY * share * share * (3 - 2 * share)
    # Evenly perceived steps, and blue rather than black at its dark end: on an X-ray black would pass for air.
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[np.newaxis], cv2.COLORMAP_PLASMA)[0]
    return np.column_stack([colours, np.rint(opacity * 255).astype(np.uint8)])


PALETTE = _palette()


def draw_heatmap(content: bytes) -> bytes:
    """Draw a stored grid (an 8-bit grey PNG of any shape) as a PNG of 448 x 448, see-through where there is little.

    It covers the whole picture, as the model saw it stretched to a square: stretch it to the picture. Raises
    ObjectCorrupt when the content is no picture.
    """
    grid = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    if grid is None:
        raise ObjectCorrupt("the stored heatmap cannot be read")
    size = (HEATMAP_PIXELS, HEATMAP_PIXELS)
    # In floating point, and clipped: cubic interpolation overshoots beside a peak.
    smooth = np.clip(cv2.resize(grid.astype(np.float32), size, interpolation=cv2.INTER_CUBIC), 0, 255)
    _, encoded = cv2.imencode(".png", PALETTE[np.rint(smooth).astype(np.uint8)])
    return encoded.tobytes()


@blueprint.get("/jobs/<string:job_id>/artifacts", responses={"200": ArtifactList})
@requires(Scope.JOBS_READ)
def list_artifacts(path: JobPath) -> Response:
    """Return what belongs to a job's result: a heatmap for each image that was answered.

    None until it has succeeded.
    """
    who = principal()
    with services().database.transaction() as session:
        existing(session.scalar(sa.select(Job.id).where(Job.id == path.job_id, Job.tenant_id == who.tenant_id)), "job")
        found = session.execute(
            sa.select(Artifact.id, Artifact.kind, Artifact.image_id, Artifact.class_name, Artifact.created_at)
            .join(Image, Image.id == Artifact.image_id)
            .where(Artifact.job_id == path.job_id)
            .order_by(Image.position, Artifact.id)
        ).mappings()
        data = [ArtifactView(**row, url=artifact_path(path.job_id, row["id"])) for row in found]
    return json_response(ArtifactList(data=data))


@blueprint.get(
    "/jobs/<string:job_id>/artifacts/<string:artifact_id>",
    responses={
        "200": {
            "description": "The heatmap, to be laid over its picture and stretched to it",
            "content": {"image/png": {}},
        },
        "304": None,
    },
)
@requires(Scope.JOBS_READ)
def get_artifact(path: ArtifactPath) -> Response:
    """Return a heatmap: where the network looked for its answer (Grad-CAM), which need not be where a disease is.

    448 x 448 pixels with transparency, whatever the picture's shape: stretch it to the picture.
    """
    who = principal()
    mine = sa.and_(Artifact.id == path.artifact_id, Artifact.job_id == path.job_id, Artifact.tenant_id == who.tenant_id)
    with services().database.transaction() as session:
        content = existing(session.scalar(sa.select(Artifact.content).where(mine)), "artifact")
    drawn = draw_heatmap(content)
    response = Response(drawn, mimetype="image/png")
    response.set_etag(hashlib.sha256(drawn).hexdigest()[:32])
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response.make_conditional(request)  # type: ignore[return-value]
