"""Heatmaps over HTTP, and what a result says beside its probabilities."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from shared.db.engine import Database
from shared.db.tables import Artifact
from shared.jobs.schemas import Rejection
from shared.keys import Scope
from tests.support.answers import answered, rejected, spot
from tests.support.api import PNG, Caller, claim_all, finish, json_of, new_key, problem_of, work


def answer_all(database: Database, grid: NDArray[np.uint8] | None, **changes: Any) -> None:
    finish(database, *(answered(claim, grid, **changes) for claim in claim_all(database)))


def listed(caller: Caller, job_id: str) -> list[dict[str, Any]]:
    body = json_of(caller.get(f"/v1/jobs/{job_id}/artifacts"))
    assert body["object"] == "list"
    data: list[dict[str, Any]] = body["data"]
    return data


def picture(caller: Caller, url: str) -> NDArray[Any]:
    """The heatmap's blue, green, red and opacity."""
    response = caller.get(url)
    assert (response.status_code, response.mimetype) == (200, "image/png"), response.text
    drawn = cv2.imdecode(np.frombuffer(response.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert drawn is not None
    assert drawn.shape == (448, 448, 4)
    return drawn


def test_every_image_has_its_heatmap_in_their_order(north: Caller, clean_database: Database) -> None:
    job = north.submit(PNG, PNG, PNG)
    assert listed(north, job["id"]) == []
    answer_all(clean_database, spot())
    found = listed(north, job["id"])
    images = json_of(north.get(f"/v1/jobs/{job['id']}"))["result"]["images"]
    assert [one["image_id"] for one in found] == [image["image_id"] for image in images]
    assert [one["url"] for one in found] == [image["heatmap"] for image in images]
    assert {(one["object"], one["kind"], one["class"], one["media_type"]) for one in found} == {
        ("artifact", "heatmap", "not_covid19", "image/png")
    }


@pytest.mark.parametrize(("row", "column"), [(0, 0), (4, 2), (6, 6), (1, 5)])
def test_a_heatmap_is_densest_where_the_network_looked(
    row: int, column: int, north: Caller, clean_database: Database
) -> None:
    job = north.submit()
    answer_all(clean_database, spot(row, column))
    opacity = picture(north, listed(north, job["id"])[0]["url"])[..., 3]
    # The middle of the cell, and the opposite corner.
    assert opacity[row * 64 + 32, column * 64 + 32] == opacity.max() > 100
    assert opacity[447 if row < 3 else 0, 447 if column < 3 else 0] == 0
    # The picture underneath is seen everywhere, and the drawing has no hard edge.
    assert opacity.max() < 180
    assert np.abs(np.diff(opacity.astype(int), axis=0)).max() < 12


def test_nothing_is_drawn_where_the_network_looked_nowhere(north: Caller, clean_database: Database) -> None:
    job = north.submit()
    answer_all(clean_database, np.zeros((7, 7), np.uint8))
    assert not picture(north, listed(north, job["id"])[0]["url"])[..., 3].any()


def test_stronger_is_brighter_and_denser(north: Caller, clean_database: Database) -> None:
    job = north.submit()
    ramp = np.tile(np.linspace(0, 255, 7).astype(np.uint8), (7, 1))
    answer_all(clean_database, ramp)
    drawn = picture(north, listed(north, job["id"])[0]["url"])[224]
    assert (np.diff(drawn[:, 3].astype(int)) >= 0).all()
    bright = cv2.cvtColor(drawn[np.newaxis, :, :3], cv2.COLOR_BGR2LAB)[0, :, 0].astype(int)
    assert (np.diff(bright) >= -1).all()  # evenly: never darker again, but for the rounding
    assert bright[-1] > bright[0] + 150


def test_a_heatmap_seen_before_costs_no_body(north: Caller, clean_database: Database) -> None:
    job = north.submit()
    answer_all(clean_database, spot())
    url = listed(north, job["id"])[0]["url"]
    first = north.get(url)
    assert first.headers["Cache-Control"].startswith("private")
    again = north.get(url, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_a_heatmap_belongs_to_its_job(north: Caller, clean_database: Database) -> None:
    one, other = north.submit(), north.submit()
    answer_all(clean_database, spot())
    (artifact,) = listed(north, one["id"])
    problem_of(north.get(f"/v1/jobs/{other['id']}/artifacts/{artifact['id']}"), 404, "not-found")


def test_a_key_that_may_not_read_sees_no_heatmap(north: Caller, clean_database: Database) -> None:
    job = north.submit()
    answer_all(clean_database, spot())
    (artifact,) = listed(north, job["id"])
    sender = Caller(north.client, new_key(clean_database, Scope.JOBS_WRITE))
    for path in (f"/v1/jobs/{job['id']}/artifacts", artifact["url"]):
        problem_of(sender.get(path), 403, "forbidden")


def test_a_heatmap_that_is_damaged_is_said_to_be(north: Caller, clean_database: Database) -> None:
    job = north.submit()
    answer_all(clean_database, spot())
    with clean_database.transaction() as session:
        session.execute(sa.update(Artifact).values(content=b"no picture"))
    problem_of(north.get(listed(north, job["id"])[0]["url"]), 500, "object-corrupt")


def test_without_heatmaps_the_result_names_none(north: Caller, clean_database: Database) -> None:
    job = north.submit()
    work(clean_database)
    assert listed(north, job["id"]) == []
    (image,) = json_of(north.get(f"/v1/jobs/{job['id']}"))["result"]["images"]
    assert (image["heatmap"], image["rejected"]) == (None, None)


def test_a_rejected_input_succeeds_without_any_number(north: Caller, clean_database: Database) -> None:
    job = north.submit()
    (claim,) = claim_all(clean_database)
    finish(clean_database, rejected(claim, Rejection.NOT_A_CHEST_IMAGE, "No image is a chest X-ray or CT slice."))
    ended = json_of(north.get(f"/v1/jobs/{job['id']}"))
    result = ended["result"]
    assert (ended["status"], result["outcome"], result["reason"]) == (
        "succeeded",
        "rejected_input",
        "not-a-chest-image",
    )
    assert result["detail"] == "No image is a chest X-ray or CT slice."
    assert (result["prediction"], result["probabilities"]) == (None, None)
    assert [image["rejected"] for image in result["images"]] == ["not-a-chest-image"]
    assert listed(north, job["id"]) == []
