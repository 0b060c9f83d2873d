"""The table of bad input: each kind by its name, the status and the problem that it gets, and that nothing is left."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import struct
import tarfile
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage
from werkzeug.test import TestResponse

from shared.db.engine import Database
from shared.db.tables import Base, Batch, Event, EventType, Job, JobState
from tests.support.api import (
    PNG,
    TEXT,
    XRAY_DICOM,
    Caller,
    MakeApp,
    fields_of,
    file_part,
    json_of,
    multipart,
    new_key,
    objects,
    part,
    problem_of,
)
from tests.support.batches import errors, packed, post_held, post_lines, post_zip
from tests.support.files.damaged_dicom import says
from tests.support.files.images import dicom_bytes, make_dicom, png_header
from tests.support.waiting import until

#: Rows that a caller has before he sends anything.
OWN = {"tenants", "api_keys", "audit_log", "alembic_version"}


def rows(database: Database) -> dict[str, int]:
    """How many rows each table has, those without any left out."""
    with database.transaction() as session:
        counts = {
            table.name: session.scalar(sa.select(sa.func.count()).select_from(table))
            for table in Base.metadata.sorted_tables
        }
    return {name: count for name, count in counts.items() if count and name not in OWN}


@pytest.fixture
def nothing_left(north: Caller, clean_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After the test there is no row, no object, and no file that is still open."""
    # What a request has brought in so far is written when its time is over, which a slow machine would make now.
    monkeypatch.setattr("api.batches.pipeline.CHUNK_SECONDS", 600)
    north.get("/v1/jobs")  # connections that stay
    json_of(north.get("/v1/batches"))
    opened = open_files()
    yield
    assert rows(clean_database) == {}
    assert objects(north.client) == []
    assert open_files() <= opened


def open_files() -> int:
    """Regular files that this process has open; connections come and go with their pools."""
    return sum(1 for link in Path("/proc/self/fd").iterdir() if link.exists() and stat.S_ISREG(link.stat().st_mode))


def zipped(name: str, content: bytes = PNG, mode: int = stat.S_IFREG | 0o644) -> bytes:
    """A ZIP of a good picture and one member with this name and file mode."""
    archive = io.BytesIO()
    with ZipFile(archive, "w", ZIP_DEFLATED) as file:
        file.writestr("good.png", PNG)
        member = ZipInfo(name)
        member.external_attr = mode << 16
        file.writestr(member, content)
    return archive.getvalue()


def encrypted() -> bytes:
    archive = bytearray(zipped("secret.png"))
    archive[archive.index(b"PK\x03\x04", 4) + 6] |= 1
    return bytes(archive)


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x.png"), io.BytesIO())
    return file.getvalue()


def many() -> bytes:
    return packed(*((f"{number}/", b"") for number in range(41)), ("x.png", PNG))


UNSAFE: dict[str, bytes] = {
    "out of the archive": zipped("../../etc/passwd.png"),
    "out of the archive in the middle": zipped("a/../../x.png"),
    "out of the archive as Windows writes it": zipped("a\\..\\..\\x.png"),
    "absolute": zipped("/etc/x.png"),
    "absolute as Windows writes it": zipped("\\\\host\\x.png"),
    "of a drive": zipped("C:\\x.png"),
    "a path that is no item": zipped("../.hidden"),
    "a link": zipped("link.png", b"/etc/passwd", stat.S_IFLNK | 0o777),
    "a device": zipped("device.png", b"", stat.S_IFCHR | 0o666),
}


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.usefixtures("nothing_left")
def test_an_unsafe_archive_is_refused_as_a_whole(name: str, north: Caller) -> None:
    problem_of(post_zip(north, UNSAFE[name], key="k"), 422, "unsafe-archive")
    problem_of(post_zip(north, UNSAFE[name], group_by="folder"), 422, "unsafe-archive")


#: By what is odd about them, archives of a good picture and a member that cannot be read, and the member's problem.
UNREAD: dict[str, tuple[bytes, str]] = {
    "encrypted": (encrypted(), "unreadable-member"),
    "a ZIP in it": (zipped("in.png", packed(("x.png", PNG))), "nested-archive"),
    "an empty ZIP in it": (zipped("in.zip", packed()), "nested-archive"),
    "a gzip in it": (zipped("in.png", gzip.compress(PNG)), "nested-archive"),
    "a tar in it": (zipped("in.dcm", tar()), "nested-archive"),
    "a 7z in it": (zipped("in.7z", b"7z\xbc\xaf\x27\x1c" + bytes(100)), "nested-archive"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_member_that_is_not_read_is_named_and_fails_alone(name: str, north: Caller) -> None:
    archive, kind = UNREAD[name]
    kinds: list[dict[str, str]] = [{}, {"group_by": "folder"}]
    for options in kinds:
        batch = json_of(post_zip(north, archive, **options), 202)
        assert batch["counts"]["queued"] == 1
        ((_, member, status, found),) = errors(north, batch["id"])
        assert (status, found) == ("rejected", kind)
        assert options or member in ZipFile(io.BytesIO(archive)).namelist()
    assert len(objects(north.client)) == 2


@pytest.mark.parametrize("again", ["a/x.png", "./a//x.png"])
def test_two_files_of_one_name_are_two_items(again: str, north: Caller) -> None:
    archive = packed(("a/x.png", PNG), ("b.png", PNG), ("x" * len(again), PNG)).replace(
        b"x" * len(again), again.encode()
    )
    assert json_of(post_zip(north, archive), 202)["counts"]["queued"] == 3


LIMITS: dict[str, bytes] = {
    "bytes as unpacked": packed(("x.png", bytes(11 * len(PNG))), method=ZIP_DEFLATED),
    "items": packed(*((f"{number}.png", TEXT) for number in range(11))),
    "members of all kinds": many(),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.usefixtures("nothing_left")
def test_an_archive_beyond_the_limits_is_refused_as_a_whole(
    name: str, make_app: MakeApp, clean_database: Database
) -> None:
    app = make_app(max_batch_items=10, max_batch_bytes=10 * len(PNG))
    caller = Caller(app.test_client(), new_key(clean_database))
    problem_of(post_zip(caller, LIMITS[name], key="k"), 422, "archive-limits")
    assert objects(caller.client) == []


@pytest.mark.usefixtures("nothing_left")
def test_a_bomb_is_refused_by_its_ratio_before_it_is_unpacked_whole(north: Caller) -> None:
    bomb = packed(("x.png", bytes(150_000_000)), method=ZIP_DEFLATED)
    assert len(bomb) < 200_000
    assert "times its size" in problem_of(post_zip(north, bomb), 422, "archive-limits")["detail"]


def test_an_office_document_beside_the_pictures_is_a_file_like_any_other(north: Caller) -> None:
    worklist = packed(("[Content_Types].xml", b"<Types/>"), ("xl/workbook.xml", b"<workbook/>"))
    batch = json_of(post_zip(north, zipped("worklist.xlsx", worklist)), 202)
    assert (batch["counts"]["queued"], batch["counts"]["rejected"]) == (1, 1)


def test_what_is_in_when_an_archive_is_refused_is_withdrawn(
    north: Caller, clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.batches.pipeline.CHUNK_ITEMS", 1)
    monkeypatch.setattr("shared.storage.FolderStorage.group", 1)
    north.post("/v1/webhook-endpoints", json={"url": "http://127.0.0.1:9/hook", "events": ["*"]})
    archive = packed(*((f"{number}.png", PNG) for number in range(40)), ("../x.png", PNG))
    problem = problem_of(post_zip(north, archive, key="k"), 422, "unsafe-archive")
    batch = json_of(north.get(f"/v1/batches/{problem['batch_id']}"))
    assert (batch["status"], batch["problem"]["type"]) == ("cancelled", "unsafe-archive")
    assert batch["counts"]["cancelled"] == batch["counts"]["total"] > 0
    with clean_database.transaction() as session:
        assert {state for (state,) in session.execute(sa.select(Job.state))} == {JobState.CANCELLED}
        kinds = set(session.scalars(sa.select(Event.type)))
    assert kinds == {EventType.JOB_CANCELLED, EventType.BATCH_COMPLETED}
    again = problem_of(post_zip(north, archive, key="k"), 422, "unsafe-archive")
    assert (again["batch_id"], again["detail"]) == (problem["batch_id"], problem["detail"])
    with clean_database.transaction() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Batch)) == 1


def test_files_that_waited_for_their_group_are_gone_with_the_archive(
    north: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.batches.pipeline.CHUNK_ITEMS", 1)
    monkeypatch.setattr("shared.storage.FolderStorage.group", 1)
    archive = packed(*((f"a/{number}.png", PNG) for number in range(40)), ("../x.png", PNG))
    problem = problem_of(post_zip(north, archive, group_by="folder"), 422, "unsafe-archive")
    assert json_of(north.get(f"/v1/batches/{problem['batch_id']}"))["status"] == "cancelled"
    assert objects(north.client) == []


def dicom(preamble: bytes = bytes(128), **elements: Any) -> bytes:
    """A small DICOM file with this preamble, and elements set."""
    dataset = dcmread(io.BytesIO(make_dicom(np.zeros((8, 8), np.uint8))))
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return preamble.ljust(128, b"\0") + dicom_bytes(dataset)[128:]


def directory() -> bytes:
    dataset = dcmread(io.BytesIO(dicom()))
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MediaStorageDirectoryStorage
    return dicom_bytes(dataset)


def deflated_bomb() -> bytes:
    """An object of 200 MB in 200 KB: in this syntax all of it must be inflated before an element can be read."""
    plain = says(DeflatedExplicitVRLittleEndian, dicom())
    start = plain.index(b"\x08\x00\x16\x00")
    packer = zlib.compressobj(wbits=-15)
    return plain[:start] + packer.compress(plain[start:] + bytes(200_000_000)) + packer.flush()


def tiff(width: int, height: int, pages: int = 1) -> bytes:
    """A TIFF of pages with a size and without pixels."""
    data = b"II*\0\x08\0\0\0"
    for page in range(pages):
        entries = ((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8))
        follows = 0 if page == pages - 1 else len(data) + 2 + 12 * len(entries) + 4
        table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        data += struct.pack("<H", len(entries)) + table + struct.pack("<I", follows)
    return data


FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty-file"),
    "text": (TEXT, "unsupported-image"),
    "a web page called x.png": (b"<html><script>alert(1)</script>", "unsupported-image"),
    "a program": (b"\x7fELF" + bytes(500), "unsupported-image"),
    "the beginning of a PNG": (PNG[:20], "corrupt-image"),
    "a PNG that is too large when it is decoded": (png_header(40_000, 40_000), "image-too-large"),
    "a TIFF that is too large when it is decoded": (tiff(40_000, 40_000), "image-too-large"),
    "a TIFF of too many pages": (tiff(8, 8, 2_100), "image-too-large"),
    "a TIFF of too many pixels in all its pages": (tiff(4_000, 4_000, 130), "image-too-large"),
    "a DICOM file of too large frames": (dicom(Rows=40_000, Columns=40_000), "image-too-large"),
    "a DICOM file of too many frames": (dicom(NumberOfFrames=2_001), "image-too-large"),
    "a DICOM file of too many pixels in all frames": (
        dicom(Rows=4_000, Columns=4_000, NumberOfFrames=130),
        "image-too-large",
    ),
    "a deflated DICOM bomb": (deflated_bomb(), "image-too-large"),
    "a DICOMDIR": (directory(), "no-pixel-data"),
    "a DICOM file that Windows starts": (dicom(b"MZ\x90\0"), "program-in-preamble"),
    "a DICOM file that Linux starts": (dicom(b"\x7fELF\x02\x01\x01"), "program-in-preamble"),
    "a DICOM file that macOS starts": (dicom(b"\xcf\xfa\xed\xfe"), "program-in-preamble"),
    "a DICOM file that macOS starts on any processor": (dicom(b"\xca\xfe\xba\xbe"), "program-in-preamble"),
    "a DICOM file that a shell starts": (dicom(b"#!/bin/sh\n"), "program-in-preamble"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.usefixtures("nothing_left")
def test_a_bad_file_is_refused_whatever_it_is_called(name: str, north: Caller) -> None:
    content, kind = FILES[name]
    problem_of(north.send(content, modality="xray"), 422, kind)
    problem_of(north.send(content, path="/v1/studies", modality="xray"), 422, kind)


def direct(caller: Caller, content: bytes) -> tuple[str, TestResponse]:
    """The content as a direct upload: its id, and what completing it is answered with."""
    announced = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (made,) = json_of(caller.post("/v1/uploads", json={"files": [announced]}), 201)["data"]
    path = made["url"].partition("//")[2].partition("/")[2]
    assert caller.client.put(f"/{path}", data=content).status_code == 204
    return made["id"], caller.post(f"/v1/uploads/{made['id']}/complete")


@pytest.mark.parametrize("name", [name for name in FILES if name != "nothing"])
@pytest.mark.usefixtures("nothing_left")
def test_a_bad_file_is_refused_as_a_direct_upload(name: str, north: Caller) -> None:
    content, kind = FILES[name]
    upload_id, response = direct(north, content)
    problem_of(response, 422, kind)
    assert objects(north.client) == []
    assert north.call("DELETE", f"/v1/uploads/{upload_id}").status_code == 204


JSON_BODIES: dict[str, tuple[str, str]] = {
    "NaN in a number": ('{"study_id": "stu_0", "classifier": "binary", "expires_in": NaN}', "/expires_in"),
    "NaN in metadata": ('{"study_id": "stu_0", "classifier": "binary", "metadata": {"a": NaN}}', "/metadata"),
    "infinity": ('{"study_id": "stu_0", "classifier": "binary", "metadata": {"a": -Infinity}}', "/metadata"),
    "an unknown field": ('{"study_id": "stu_0", "classifier": "binary", "colour": "red"}', "/colour"),
    "an unknown field with a slash": ('{"study_id": "stu_0", "classifier": "binary", "a/b~c": 1}', "/a~1b~0c"),
    "a wrong element": ('{"upload_ids": ["upl_0", 7], "classifier": "binary"}', "/upload_ids/1"),
    "a wrong word": ('{"study_id": "stu_0", "classifier": "best"}', "/classifier"),
}


@pytest.mark.parametrize("name", JSON_BODIES)
@pytest.mark.usefixtures("nothing_left")
def test_a_wrong_field_is_named_with_a_pointer(name: str, north: Caller) -> None:
    body, pointer = JSON_BODIES[name]
    problem = problem_of(north.post("/v1/jobs", data=body, content_type="application/json"), 422, "invalid-request")
    assert [error["pointer"] for error in problem["errors"]] == [f"#{pointer}"]


@pytest.mark.parametrize("body", ["", "{", '{"a": }', "\xff", "[" * 100_000])
@pytest.mark.usefixtures("nothing_left")
def test_malformed_json_is_a_bad_request(body: str, north: Caller) -> None:
    problem_of(north.post("/v1/jobs", data=body.encode("latin-1"), content_type="application/json"), 400, "bad-request")


@pytest.mark.usefixtures("nothing_left")
def test_a_wrong_field_of_a_form_is_named_with_a_pointer(north: Caller) -> None:
    assert fields_of(north.send(PNG, modality="xray", metadata='{"a": NaN}')) == ["metadata"]
    assert fields_of(north.send(PNG, modality="xray", colour="red")) == ["colour"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/studies", "/v1/batches"])
@pytest.mark.usefixtures("nothing_left")
def test_truncated_multipart_is_a_bad_request(path: str, north: Caller) -> None:
    options = multipart(part("classifier", b"binary"), part("modality", b"xray"), file_part(PNG), file_part(PNG))
    for length in (len(options["data"]) - 10, len(options["data"]) // 2, 60):
        body = options | {"data": options["data"][:length]}
        problem_of(north.post(path, **body), 400, "bad-request")


@pytest.mark.parametrize("declared", ["+1000", "0", "-1", "abc"])
@pytest.mark.usefixtures("nothing_left")
def test_a_wrong_content_length_is_a_bad_request(declared: str, north: Caller) -> None:
    options = multipart(part("classifier", b"binary"), part("modality", b"xray"), file_part(PNG))
    length = str(len(options["data"]) + 1000) if declared == "+1000" else declared
    response = north.post(
        "/v1/jobs",
        input_stream=io.BytesIO(options["data"]),
        content_type=options["content_type"],
        environ_overrides={"CONTENT_LENGTH": length},
    )
    problem_of(response, 400, "bad-request")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/studies"])
@pytest.mark.usefixtures("nothing_left")
def test_of_10_001_parts_the_reading_stops_at_the_limit(path: str, north: Caller) -> None:
    options = multipart(*[file_part(PNG[:1000])] * 10_001)
    sent = Watched(options["data"])
    response = north.post(
        path,
        input_stream=sent,
        content_type=options["content_type"],
        environ_overrides={"CONTENT_LENGTH": str(len(options["data"]))},
    )
    problem_of(response, 413, "payload-too-large")
    assert sent.tell() < len(options["data"]) / 3


@pytest.mark.usefixtures("nothing_left")
def test_10_001_files_of_a_batch_are_refused(north: Caller) -> None:
    options = multipart(part("classifier", b"binary"), *[file_part(TEXT)] * 10_001)
    problem_of(north.post("/v1/batches", **options), 422, "invalid-request")


class Watched(io.BytesIO):
    """A body that knows how much of it was read."""


def body_of(number: int) -> dict[str, Any]:
    return multipart(
        part("classifier", b"binary"), part("modality", b"xray"), file_part(PNG), part("external_id", b"%d" % number)
    )


def test_without_an_idempotency_key_each_request_makes_its_own(north: Caller, clean_database: Database) -> None:
    assert {json_of(north.post("/v1/jobs", **body_of(1)), 202)["id"] for _ in range(2)}
    assert rows(clean_database)["jobs"] == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
@pytest.mark.usefixtures("nothing_left")
def test_a_bad_idempotency_key_is_refused(key: str, north: Caller) -> None:
    problem_of(north.post("/v1/jobs", headers={"Idempotency-Key": key}, **body_of(1)), 422, "invalid-request")


def test_an_idempotency_key_is_replayed_and_not_reused(north: Caller, clean_database: Database) -> None:
    key = {"Idempotency-Key": "k"}
    first = json_of(north.post("/v1/jobs", headers=key, **body_of(1)), 202)
    before = (rows(clean_database), len(objects(north.client)))
    again = north.post("/v1/jobs", headers=key, **body_of(1))
    assert json_of(again, 202)["id"] == first["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    problem_of(north.post("/v1/jobs", headers=key, **body_of(2)), 422, "idempotency-key-reused")
    assert (rows(clean_database), len(objects(north.client))) == before


def test_an_idempotency_key_in_flight_is_a_conflict(
    north: Caller, clean_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.batches.pipeline.CHUNK_ITEMS", 1)
    monkeypatch.setattr("shared.storage.FolderStorage.group", 1)
    archive, go = packed(("a.png", PNG), ("b.png", PNG)), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post_held, Caller(north.client.application.test_client(), north.key), archive, go, "k")
        try:
            until(lambda: rows(clean_database).get("jobs", 0) > 0)
            problem_of(post_zip(north, archive, key="k"), 409, "idempotency-in-progress")
        finally:
            go.set()
        assert json_of(first.result(), 202)["counts"]["queued"] == 2
    assert json_of(post_zip(north, archive, key="k"), 202)["counts"]["queued"] == 2
    assert rows(clean_database)["jobs"] == 2


def test_a_line_that_says_nan_fails_alone_and_is_named(north: Caller) -> None:
    line = '{"custom_id": "one", "upload_id": "upl_0", "metadata": {"a": NaN}}'
    batch = json_of(post_lines(north, line), 202)
    (found,) = (json.loads(text) for text in north.get(f"/v1/batches/{batch['id']}/errors").text.splitlines())
    assert [error["field"] for error in found["problem"]["errors"]] == ["metadata"]


def test_a_good_file_beside_a_bad_one_is_taken(north: Caller) -> None:
    job = json_of(north.send(XRAY_DICOM, dicom(b"MZ")), 202)
    images = json_of(north.get(f"/v1/studies/{job['study_id']}"))["images"]
    assert [(image["problem"] or {}).get("type") for image in images] == [None, "program-in-preamble"]
    assert len(objects(north.client)) == 1
