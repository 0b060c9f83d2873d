"""Batches that are taken in as they come: ZIPs and lines, good and bad items, groups, limits, broken uploads."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom import Dataset

from shared.db.engine import Database
from shared.db.tables import Batch, Image, Job, Study, Upload, UploadState
from tests.support.api import (
    CT_DICOM,
    PNG,
    TEXT,
    XRAY_DICOM,
    Caller,
    MakeApp,
    json_of,
    new_key,
    objects,
    problem_of,
    work,
)
from tests.support.batches import counts, errors, output, packed, post_lines, post_zip, streamed, upload
from tests.support.files.images import make_dicom
from tests.support.storage import largest_file

MEMBERS = [
    ("a.png", PNG),
    ("notes.txt", TEXT),
    ("deep/er/b.dcm", XRAY_DICOM),
    ("empty.png", b""),
    ("c.dcm", CT_DICOM[:400]),
]


def images(database: Database) -> list[tuple[str | None, int, int]]:
    """Of each job its member, the images of its study, and their files."""
    files = sa.func.count(sa.distinct(Image.object_key))
    rows = (
        sa.select(Job.member, Study.image_count, files)
        .join(Study, Study.id == Job.study_id)
        .join(Image, Image.study_id == Study.id)
        .group_by(Job.item, Job.member, Study.image_count)
    )
    with database.transaction() as session:
        return [(row[0], row[1], row[2]) for row in session.execute(rows.order_by(Job.item))]


@pytest.mark.parametrize("pack", [packed, streamed])
def test_a_zip_ends_with_right_counts_results_and_errors(
    pack: Callable[..., bytes], north: Caller, clean_database: Database
) -> None:
    batch = json_of(post_zip(north, pack(*MEMBERS), external_id="night"), 202)
    assert (batch["status"], batch["external_id"], batch["next_item"]) == ("running", "night", 5)
    assert (batch["classifier"], batch["modality"], batch["priority"]) == ("binary", "xray", "bulk")
    assert batch["counts"] == counts(total=5, queued=2, rejected=3)
    assert batch["received_at"]
    assert errors(north, batch["id"]) == [
        (1, "notes.txt", "rejected", "unsupported-image"),
        (3, "empty.png", "rejected", "empty-file"),
        (4, "c.dcm", "rejected", "corrupt-image"),
    ]
    assert len(objects(north.client)) == 2
    work(clean_database)
    batch = json_of(north.get(f"/v1/batches/{batch['id']}"))
    assert (batch["status"], batch["counts"]) == ("completed_with_errors", counts(total=5, succeeded=2, rejected=3))
    lines = output(north, batch["id"], "results")
    assert [(line["item"], line["member"]) for line in lines] == [(0, "a.png"), (2, "deep/er/b.dcm")]
    assert {line["job"]["result"]["prediction"] for line in lines} == {"not_covid19"}


def test_what_lies_beside_the_pictures_is_no_item(north: Caller) -> None:
    beside = [".DS_Store", "a/.Trashes/x.png", "__MACOSX/._a.png", "DICOMDIR", "disc/dicomdir", "Thumbs.db"]
    archive = packed(
        ("folder/", b""),
        *((name, TEXT) for name in beside[:3]),
        ("./x.png", PNG),
        *((name, TEXT) for name in beside[3:]),
    )
    batch = json_of(post_zip(north, archive), 202)
    assert batch["counts"] == counts(total=1, queued=1)
    assert batch["ignored"] == {"count": 6, "names": beside}
    (line,) = output(north, batch["id"], "results")
    assert (line["item"], line["member"]) == (0, "./x.png")
    problem = problem_of(post_zip(north, packed(("DICOMDIR", TEXT))), 422, "invalid-request")
    assert problem["detail"] == "the body holds no item: all 1 files in it are left out"


def test_what_is_left_out_is_counted_once_when_an_upload_goes_on(
    north: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.batches.pipeline.CHUNK_ITEMS", 1)
    members = [part for name, content in numbered() for part in ((f"__MACOSX/._{name}", TEXT), (name, content))]
    whole = packed(*members, ("Thumbs.db", TEXT))
    problem = problem_of(post_zip(north, cut(whole, 7), key="k"), 400, "bad-request")
    begun = json_of(north.get(f"/v1/batches/{problem['batch_id']}"))
    assert begun["ignored"]["count"] == begun["next_item"] == 3
    batch = json_of(post_zip(north, whole, key="k"), 202)
    assert batch["ignored"] == {"count": 7, "names": [*(f"__MACOSX/._{name}" for name in NAMES), "Thumbs.db"]}


def test_of_many_files_that_are_left_out_the_first_are_named(north: Caller) -> None:
    members = [(f"__MACOSX/._{number}{'x' * 300}", b"") for number in range(120)]
    batch = json_of(post_zip(north, packed(*members, ("a.png", PNG))), 202)
    assert batch["ignored"]["count"] == 120
    assert batch["ignored"]["names"] == [name[:200] for name, _ in members[:50]]


@pytest.mark.parametrize("name", ["ab:c/d e.png", "a\\b.png", "a../b...png", "tab\there.png", "ä" * 2000])
def test_a_members_name_is_only_a_name(name: str, north: Caller) -> None:
    batch = json_of(post_zip(north, packed((name, PNG))), 202)
    (line,) = output(north, batch["id"], "results")
    assert line["member"] == name.replace("\t", "\ufffd")[:1000]


def test_old_archives_names_are_read(north: Caller) -> None:
    archive = packed(("xxx.png", PNG)).replace(b"xxx.png", b"\x84xx.png")  # code page 437
    (line,) = output(north, json_of(post_zip(north, archive), 202)["id"], "results")
    assert line["member"] == "äxx.png"


def dicom(study: str, series: str) -> bytes:
    elements = Dataset()
    elements.StudyInstanceUID, elements.SeriesInstanceUID = study, series
    return make_dicom(np.zeros((8, 8), np.uint8), elements=elements)


@pytest.mark.parametrize(
    ("group_by", "found"),
    [
        ("folder", [("a", 3, 3), ("b", 2, 2), ("", 1, 1)]),
        ("study", [("a/1.dcm", 3, 3), ("b/1.dcm", 1, 1)]),
        ("series", [("a/1.dcm", 2, 2), ("b/1.dcm", 1, 1), ("a/2.dcm", 1, 1)]),
        ("file", [(name, 1, 1) for name in ("a/1.dcm", "b/1.dcm", "a/2.dcm", "a/3.dcm", "b/2.png", "c.png")]),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "form"])
def test_files_are_grouped_into_studies(
    kind: str, group_by: str, found: list[tuple[str, int, int]], north: Caller, clean_database: Database
) -> None:
    members = [
        ("a/1.dcm", dicom("1.1", "1.1.1")),
        ("b/1.dcm", dicom("1.2", "1.2.1")),
        ("a/2.dcm", dicom("1.1", "1.1.2")),
        ("a/3.dcm", dicom("1.1", "1.1.1")),
        ("b/2.png", PNG),
        ("c.png", PNG),
    ]
    if kind == "zip":
        response = post_zip(north, packed(*members), group_by=group_by)
    else:
        files = [(io.BytesIO(content), name) for name, content in members]
        data = {"classifier": "binary", "modality": "xray", "group_by": group_by, "files": files}
        response = north.post("/v1/batches", data=data, content_type="multipart/form-data")
    batch = json_of(response, 202)
    assert images(clean_database) == found
    refused = 2 if group_by in {"study", "series"} else 0
    assert batch["counts"] == counts(total=len(found) + refused, queued=len(found), rejected=refused)
    assert batch["next_item"] == 6
    assert len(objects(north.client)) == 6 - refused
    with clean_database.transaction() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM batch_files")) == 0


def test_a_bad_file_does_not_spoil_its_group(north: Caller, clean_database: Database) -> None:
    members = [("a/1.png", PNG), ("a/2.png", TEXT), ("b/1.png", TEXT), ("c/1.dcm", CT_DICOM), ("c/2.dcm", XRAY_DICOM)]
    batch = json_of(post_zip(north, packed(*members), group_by="folder", modality=None), 202)
    assert errors(north, batch["id"]) == [
        (0, "a", "rejected", "invalid-request"),  # nobody says whether it is an X-ray
        (2, "b", "rejected", "unsupported-image"),
        (3, "c", "rejected", "invalid-request"),
    ]
    assert objects(north.client) == []
    batch = json_of(post_zip(north, packed(*members[:2]), group_by="folder"), 202)
    assert batch["counts"] == counts(total=1, queued=1)
    assert images(clean_database) == [("a", 2, 1)]


def test_a_ct_in_a_batch_of_x_rays_goes_its_own_way(north: Caller) -> None:
    members = [("a.png", PNG), ("ct.dcm", CT_DICOM), ("dx.dcm", XRAY_DICOM)]
    for asked, modalities in (("xray", ["xray", "ct", "xray"]), ("ct", ["ct", "ct", "xray"])):
        batch = json_of(post_zip(north, packed(*members), modality=asked), 202)
        assert batch["counts"] == counts(total=3, queued=3)
        jobs = [line["job"] for line in output(north, batch["id"], "results")]
        assert [job["modality"] for job in jobs] == modalities
    with_ct = json_of(post_zip(north, packed(*members), classifier="ensemble"), 202)
    assert errors(north, with_ct["id"]) == [(1, "ct.dcm", "rejected", "invalid-request")]


def test_a_study_of_two_modalities_names_the_file(north: Caller) -> None:
    members = [("c/1.dcm", CT_DICOM), ("c/2.dcm", XRAY_DICOM)]
    batch = json_of(post_zip(north, packed(*members), group_by="folder"), 202)
    ((line,)) = output(north, batch["id"], "errors")
    problem = line["problem"]
    assert problem["detail"] == "the modality that file 1 says contradicts another"
    assert problem["errors"][0]["message"].endswith("(file 1) is `xray` by its DICOM header, and file 0 is `ct`")
    (error,) = problem["errors"]
    assert (error["field"], error["message"].partition(" is ")[0]) == ("modality", "c/2.dcm (file 1)")


def unreadable() -> bytes:
    """Where the second member should be, and after it, there is nothing of an archive."""
    archive = packed(("a.png", PNG), ("b.png", PNG))
    return archive[: archive.index(b"PK\x03\x04", 4)] + bytes(200_000)


def damaged() -> bytes:
    """The second member's bytes are not those of its checksum; the third is whole."""
    archive = bytearray(packed(("a.png", PNG), ("b.png", PNG), ("c.png", PNG)))
    second = archive.index(b"PK\x03\x04", 4)
    archive[second + 1000] ^= 0xFF
    return bytes(archive)


def test_a_damaged_member_fails_alone(north: Caller) -> None:
    batch = json_of(post_zip(north, damaged()), 202)
    assert batch["counts"] == counts(total=3, queued=2, rejected=1)
    assert errors(north, batch["id"]) == [(1, "b.png", "rejected", "corrupt-image")]


def test_what_came_before_an_unreadable_member_stays_in(north: Caller) -> None:
    problem = problem_of(post_zip(north, unreadable(), key="k"), 422, "unreadable-archive")
    assert (problem["next_item"], problem["member"]) == (1, "a.png")
    batch = json_of(north.get(f"/v1/batches/{problem['batch_id']}"))
    assert (batch["status"], batch["counts"]) == ("receiving", counts(total=1, queued=1))


def test_without_a_key_what_is_in_is_all(north: Caller, clean_database: Database) -> None:
    problem = problem_of(post_zip(north, unreadable()), 422, "unreadable-archive")
    work(clean_database)
    batch = json_of(north.get(f"/v1/batches/{problem['batch_id']}"))
    assert (batch["status"], batch["counts"]) == ("completed", counts(total=1, succeeded=1))


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"this is no ZIP at all", 422, "unreadable-archive"),
        (b"", 400, "bad-request"),
        (packed(), 422, "invalid-request"),
        (packed(("x/", b"")), 422, "invalid-request"),
        (packed(("a.png", PNG))[:200], 400, "bad-request"),
    ],
)
def test_a_body_without_an_item_makes_no_batch(body: bytes, status: int, kind: str, north: Caller) -> None:
    problem_of(post_zip(north, body, key="k"), status, kind)
    assert json_of(north.get("/v1/batches"))["data"] == []
    assert objects(north.client) == []


def test_a_file_or_lines_beyond_the_limits_are_refused(make_app: MakeApp, clean_database: Database) -> None:
    app = make_app(max_batch_items=2, max_upload_bytes=len(PNG), max_batch_bytes=10 * len(PNG))
    caller = Caller(app.test_client(), new_key(clean_database))
    batch = json_of(post_zip(caller, packed(("large.png", PNG + b"x"), ("x.png", PNG))), 202)
    assert errors(caller, batch["id"]) == [(0, "large.png", "rejected", "payload-too-large")]
    assert batch["counts"] == counts(total=2, queued=1, rejected=1)
    problem_of(post_zip(caller, packed(("x.png", PNG * 11))), 413, "payload-too-large")
    problem_of(post_lines(caller, *[{"study_id": "stu_0"}] * 3), 413, "payload-too-large")
    caller = Caller(make_app(max_batch_items=2).test_client(), caller.key)
    problem_of(caller.send(PNG, PNG, PNG, path="/v1/batches", modality="xray"), 422, "invalid-request")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"classifier": None}, "classifier"),
        ({"group_by": "patient"}, "group_by"),
        ({"expires_in": 0}, "expires_in"),
        ({"colour": "red"}, "colour"),
        ({"first_item": 3}, "first_item"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], field: str, north: Caller) -> None:
    problem = problem_of(post_zip(north, packed(("x.png", PNG)), **options), 422, "invalid-request")
    assert [error["field"] for error in problem["errors"]] == [field]


def test_lines_end_with_right_counts_results_and_errors(north: Caller, clean_database: Database) -> None:
    study = json_of(north.send(CT_DICOM, path="/v1/studies"), 201)["id"]
    first, second, third = (upload(north, content) for content in (PNG, XRAY_DICOM, CT_DICOM))
    batch = json_of(
        post_lines(
            north,
            {"custom_id": "one", "upload_id": first, "priority": "stat", "external_id": "e", "metadata": {"a": 1}},
            "",
            {"custom_id": "two", "upload_ids": [second]},
            {"custom_id": "three", "study_id": study},
            {"custom_id": "four", "upload_id": first},
            {"custom_id": "five", "upload_id": third, "modality": "xray"},
            {"custom_id": "six", "study_id": study, "classifier": "ensemble"},
            "{no json",
            {"custom_id": "eight", "upload_id": "upl_0", "colour": "red"},
            {"custom_id": "nine"},
            {"upload_id": "upl_0"},
            {"study_id": "stu_0"},
            "x" * 300_000,
        ),
        202,
    )
    assert batch["counts"] == counts(total=12, queued=3, rejected=9)
    assert batch["next_item"] == 12
    lines = output(north, batch["id"], "errors")
    assert [(line["item"], line["custom_id"], line["problem"]["type"]) for line in lines] == [
        (3, "four", "conflict"),
        (4, "five", "invalid-request"),  # a CT that is said to be an X-ray
        (5, "six", "invalid-request"),
        (6, None, "invalid-request"),
        (7, "eight", "invalid-request"),
        (8, "nine", "invalid-request"),
        (9, None, "not-found"),
        (10, None, "not-found"),
        (11, None, "invalid-request"),
    ]
    assert lines[3]["problem"]["detail"] == "line 7: not JSON"
    assert [error["field"] for error in lines[4]["problem"]["errors"]] == ["colour"]
    work(clean_database)
    work(clean_database)  # a claim is of one priority
    results = output(north, batch["id"], "results")
    assert [(line["item"], line["custom_id"], line["job"]["status"]) for line in results] == [
        (0, "one", "succeeded"),
        (1, "two", "succeeded"),
        (2, "three", "succeeded"),
    ]
    job = results[0]["job"]
    assert (job["priority"], job["external_id"], job["metadata"]) == ("stat", "e", {"a": 1})
    with clean_database.transaction() as session:
        states = {row.id: row.state for row in session.execute(sa.select(Upload.id, Upload.state))}
    assert states == {first: UploadState.USED, second: UploadState.USED, third: UploadState.COMPLETE}


def test_lines_may_not_be_grouped_and_must_say_their_length(north: Caller) -> None:
    problem = problem_of(post_lines(north, {"study_id": "stu_0"}, group_by="study"), 422, "invalid-request")
    assert [error["field"] for error in problem["errors"]] == ["group_by"]
    response = north.post(
        "/v1/batches?classifier=binary",
        input_stream=io.BytesIO(b'{"study_id": "stu_0"}\n'),
        content_type="application/x-ndjson",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    problem_of(response, 400, "bad-request")


def test_another_hospitals_things_are_no_items(north: Caller, south: Caller) -> None:
    study = json_of(north.send(PNG, path="/v1/studies", modality="xray"), 201)["id"]
    batch = json_of(post_lines(south, {"upload_id": upload(north, PNG)}, {"study_id": study}), 202)
    assert [line["problem"]["type"] for line in output(south, batch["id"], "errors")] == ["not-found", "not-found"]


NAMES = [f"{number}.png" for number in range(6)]


def numbered(first: int = 0) -> list[tuple[str, bytes]]:
    """Pictures with bytes of their own."""
    return [(name, PNG + name.encode()) for name in NAMES][first:]


def cut(archive: bytes, members: int) -> bytes:
    """The archive up to the middle of a member."""
    at = -1
    for _ in range(members + 1):
        at = archive.index(b"PK\x03\x04", at + 1)
    return archive[: at + 500]


@pytest.mark.parametrize("group_by", ["file", "folder"])
@pytest.mark.parametrize("first_item", [0, 2, 3])
def test_a_broken_upload_goes_on_and_nothing_is_there_twice(
    first_item: int, group_by: str, north: Caller, clean_database: Database
) -> None:
    whole = packed(*numbered())
    problem = problem_of(post_zip(north, cut(whole, 3), key="k", group_by=group_by), 400, "bad-request")
    assert problem["next_item"] == 3
    (begun,) = json_of(north.get("/v1/batches?idempotency_key=k"))["data"]
    assert (begun["id"], begun["status"], begun["next_item"]) == (problem["batch_id"], "receiving", 3)
    rest = packed(*numbered(first_item))
    response = post_zip(north, rest, key="k", group_by=group_by, first_item=first_item)
    batch = json_of(response, 202)
    assert "Idempotency-Replayed" not in response.headers
    jobs = 6 if group_by == "file" else 1
    assert (batch["id"], batch["counts"], batch["next_item"]) == (begun["id"], counts(total=jobs, queued=jobs), 6)
    assert len(objects(north.client)) == 6
    assert sum(found[2] for found in images(clean_database)) == 6
    again = post_zip(north, whole, key="k", group_by=group_by)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert json_of(again, 202) == batch
    assert len(objects(north.client)) == 6


def test_what_is_left_may_be_nothing(north: Caller) -> None:
    archive = packed(*numbered())
    body = archive[: archive.index(b"PK\x01\x02") - 1]  # cut in the last member
    assert problem_of(post_zip(north, body, key="k"), 400, "bad-request")["next_item"] == 5
    json_of(post_zip(north, packed(*numbered(5)), key="k", first_item=5), 202)
    batch = json_of(post_zip(north, packed(), key="k", first_item=6), 202)
    assert batch["counts"] == counts(total=6, queued=6)


def test_a_resumed_upload_must_be_the_same(north: Caller) -> None:
    problem_of(post_zip(north, cut(packed(*numbered()), 3), key="k"), 400, "bad-request")
    other = [("0.png", PNG + b"other"), *numbered(1)]
    problem_of(post_zip(north, packed(*other), key="k"), 422, "idempotency-key-reused")
    problem_of(post_zip(north, packed(*numbered()), key="k", priority="stat"), 422, "idempotency-key-reused")
    problem = problem_of(post_zip(north, packed(*numbered(5)), key="k", first_item=5), 422, "invalid-request")
    assert [error["field"] for error in problem["errors"]] == ["first_item"]
    assert json_of(post_zip(north, packed(*numbered()), key="k"), 202)["counts"] == counts(total=6, queued=6)


def test_a_second_request_waits_for_the_first(north: Caller, clean_database: Database) -> None:
    batch_id = problem_of(post_zip(north, cut(packed(*numbered()), 3), key="k"), 400, "bad-request")["batch_id"]
    mine = sa.update(Batch).where(Batch.id == batch_id)
    with clean_database.transaction() as session:
        session.execute(mine.values(receiver="rcv_1", progress_at=sa.func.now()))
    problem_of(post_zip(north, packed(*numbered()), key="k"), 409, "idempotency-in-progress")
    with clean_database.transaction() as session:
        session.execute(mine.values(progress_at=sa.func.now() - sa.text("interval '31 seconds'")))
    assert json_of(post_zip(north, packed(*numbered()), key="k"), 202)["counts"] == counts(total=6, queued=6)


def test_broken_lines_go_on(north: Caller) -> None:
    ids = [upload(north, content) for _, content in numbered()]
    items = [{"upload_id": upload_id} for upload_id in ids]
    body = "".join(f'{{"upload_id": "{upload_id}"}}\n' for upload_id in ids).encode()
    response = north.post(
        "/v1/batches?classifier=binary&modality=xray",
        input_stream=io.BytesIO(body[: len(body) // 2]),
        content_type="application/x-ndjson",
        headers={"Idempotency-Key": "k"},
        environ_overrides={"CONTENT_LENGTH": str(len(body)), "wsgi.input_terminated": True},
    )
    assert problem_of(response, 400, "bad-request")["next_item"] == 3
    batch = json_of(post_lines(north, *items, key="k"), 202)
    assert batch["counts"] == counts(total=6, queued=6)


def test_a_cancelled_batch_takes_nothing_more_in(north: Caller) -> None:
    batch_id = problem_of(post_zip(north, cut(packed(*numbered()), 3), key="k"), 400, "bad-request")["batch_id"]
    batch = json_of(north.post(f"/v1/batches/{batch_id}/cancel"))
    assert (batch["status"], batch["counts"]) == ("cancelled", counts(total=3, cancelled=3))
    again = json_of(post_zip(north, packed(*numbered()), key="k"), 202)
    assert (again["status"], again["counts"]) == ("cancelled", counts(total=3, cancelled=3))


def test_items_that_several_threads_store_keep_their_order(north: Caller) -> None:
    members = [(f"{number}.png", PNG + struct.pack("<I", number)) for number in range(200)]
    batch = json_of(post_zip(north, packed(*members)), 202)
    assert batch["counts"] == counts(total=200, queued=200)
    assert [line["member"] for line in output(north, batch["id"], "results")] == [name for name, _ in members]


def test_what_the_store_has_no_room_for_takes_its_group_with_it_and_comes_again(north: Caller) -> None:
    members = numbered()
    members[3] = ("3.png", PNG + bytes(20_000))
    with largest_file(len(PNG) + 10_000):
        problem = problem_of(post_zip(north, packed(*members), key="k"), 503, "storage-unavailable")
    # What was stored before it is in, and of its own group nothing is there.
    assert len(objects(north.client)) == problem.get("next_item", 0) <= 3
    batch = json_of(post_zip(north, packed(*members), key="k"), 202)
    assert batch["counts"] == counts(total=6, queued=6)
    assert len(objects(north.client)) == 6


def test_a_bad_file_in_the_middle_of_a_group_fails_alone(north: Caller) -> None:
    members = [(f"{number}.png", PNG if number % 10 else TEXT) for number in range(100)]
    batch = json_of(post_zip(north, packed(*members)), 202)
    assert batch["counts"] == counts(total=100, queued=90, rejected=10)
    refused = [
        (item, name, "rejected", "unsupported-image") for item, (name, _) in enumerate(members) if item % 10 == 0
    ]
    assert errors(north, batch["id"]) == refused
    assert len(objects(north.client)) == 90
