"""The names of files: kept with their study, whatever way they came in, and told to their own tenant."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import Study
from tests.support.api import PNG, TEXT, XRAY_DICOM, Caller, json_of, multipart, part
from tests.support.batches import output, packed, post_lines, post_zip, upload

ODD = ["Zoë <b>&'.png", "צילום חזה.png", "胸部 Ｘ線.png", "a/b/../c.png"]


def send_named(caller: Caller, *files: tuple[str, bytes], path: str = "/v1/jobs", **fields: str) -> Any:
    """Files under these names, as multipart; a job for the binary classifier unless it is a study."""
    if path == "/v1/jobs":
        fields = {"classifier": "binary"} | fields
    data: dict[str, Any] = dict(fields) | {"files": [(BytesIO(content), name) for name, content in files]}
    return caller.post(path, data=data, content_type="multipart/form-data")


def names_of(caller: Caller, study_id: str) -> list[tuple[int, str | None]]:
    images = json_of(caller.get(f"/v1/studies/{study_id}"))["images"]
    return [(image["file"], image["file_name"]) for image in images]


def test_a_study_says_the_names_that_its_files_were_sent_with(north: Caller, south: Caller) -> None:
    files = [(name, PNG + bytes([number])) for number, name in enumerate(ODD)]
    job = json_of(send_named(north, *files, modality="xray"), 202)
    assert names_of(north, job["study_id"]) == list(enumerate(ODD))
    assert south.get(f"/v1/studies/{job['study_id']}").status_code == 404
    study = json_of(send_named(north, *files, path="/v1/studies", modality="xray"), 201)
    assert names_of(north, study["id"]) == list(enumerate(ODD))


def test_a_file_that_is_refused_keeps_its_name_beside_the_good_ones(north: Caller) -> None:
    job = json_of(send_named(north, ("good.png", PNG), ("bad.png", TEXT), modality="xray"), 202)
    assert names_of(north, job["study_id"]) == [(0, "good.png"), (1, "bad.png")]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\u202eb.png", "a\ufffdb.png"),
        ("a\tb.png", "a\ufffdb.png"),
        ("a%22b%22.png", 'a"b".png'),
        ("image-0", None),
    ],
)
def test_a_name_is_kept_as_it_can_be_shown(name: str, shown: str | None, north: Caller) -> None:
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
    body = multipart((head, PNG), part("classifier", b"binary"), part("modality", b"xray"))
    job = json_of(north.post("/v1/jobs", **body), 202)
    assert names_of(north, job["study_id"]) == [(0, shown)]


def test_images_that_are_added_later_bring_their_names(north: Caller) -> None:
    study_id = json_of(north.post("/v1/studies", json={"open": True, "modality": "xray"}), 201)["id"]
    path = f"/v1/studies/{study_id}/images"
    json_of(north.post(path, json={"upload_ids": [upload(north, PNG)]}))
    json_of(send_named(north, ("same.png", PNG), ("second.png", PNG + b"2"), path=path))
    json_of(send_named(north, ("third.png", PNG + b"3"), path=path))
    assert names_of(north, study_id) == [(0, None), (1, "second.png"), (2, "third.png")]


@pytest.mark.parametrize("group_by", ["file", "folder", "study"])
def test_members_of_an_archive_are_named_with_their_paths(group_by: str, north: Caller) -> None:
    names = ["one/a.dcm"] if group_by == "file" else ["one/a.dcm", "one/b.dcm"]
    archive = packed(*((name, XRAY_DICOM + bytes(2 * number)) for number, name in enumerate(names)))
    batch = json_of(post_zip(north, archive, group_by=group_by), 202)
    (line,) = output(north, batch["id"], "results")
    assert names_of(north, line["job"]["study_id"]) == list(enumerate(names))


def test_files_of_a_form_for_a_batch_are_named(north: Caller) -> None:
    files = [("one.png", PNG), ("two.png", PNG + b"2")]
    batch = json_of(send_named(north, *files, path="/v1/batches", classifier="binary", modality="xray"), 202)
    studies = [line["job"]["study_id"] for line in output(north, batch["id"], "results")]
    assert [names_of(north, study) for study in studies] == [[(0, "one.png")], [(0, "two.png")]]


def test_a_direct_upload_has_no_name(north: Caller, clean_database: Database) -> None:
    batch = json_of(post_lines(north, {"upload_id": upload(north, PNG)}), 202)
    (line,) = output(north, batch["id"], "results")
    assert names_of(north, line["job"]["study_id"]) == [(0, None)]
    with clean_database.transaction() as session:
        assert session.scalars(sa.select(Study.file_names)).all() == [None]
