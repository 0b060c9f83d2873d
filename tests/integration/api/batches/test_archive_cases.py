"""ZIPs that people's systems really send, one test for each by the name of the file that it imitates."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import sqlalchemy as sa

from shared.db.engine import Database
from shared.db.tables import Image, Job
from tests.support.api import CT_DICOM, PNG, SAMPLES, Caller, json_of
from tests.support.batches import counts, errors, packed, post_zip
from tests.support.files.archives import SIGNED, STORED, Part, archive

JPEG = (SAMPLES / "xray-covid19.jpg").read_bytes()
JAR = packed(("META-INF/MANIFEST.MF", b"Manifest-Version: 1.0\r\n"), ("Viewer.class", b"\xca\xfe\xba\xbe"))


def pictures(database: Database) -> list[tuple[str | None, list[str]]]:
    """Of each job its member, and the SHA-256 of the files of its study."""
    with database.transaction() as session:
        jobs = session.execute(sa.select(Job.member, Job.study_id).order_by(Job.item)).all()
        files = {
            study: session.scalars(
                sa.select(Image.sha256).where(Image.study_id == study).order_by(Image.position)
            ).all()
            for _, study in jobs
        }
    return [(member, list(files[study])) for member, study in jobs]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def accepted(caller: Caller, body: bytes, **options: Any) -> dict[str, Any]:
    batch: dict[str, Any] = json_of(post_zip(caller, body, **options), 202)
    return batch


def test_dot_folder_zip(north: Caller, clean_database: Database) -> None:
    batch = accepted(north, archive(Part(b"scan/.625 LUNG/IM1.jpg", JPEG), Part(b"scan/5.0 BODY/IM2.jpg", PNG)))
    assert (batch["counts"], batch["ignored"]["count"]) == (counts(total=2, queued=2), 0)
    assert pictures(clean_database) == [("scan/.625 LUNG/IM1.jpg", [sha(JPEG)]), ("scan/5.0 BODY/IM2.jpg", [sha(PNG)])]


@pytest.mark.parametrize("first", [False, True])
def test_media_export_jar_last_zip(first: bool, north: Caller) -> None:
    images, jar = (
        [Part(b"DICOM/IM000001", CT_DICOM), Part(b"DICOM/IM000002", CT_DICOM + b"\0\0")],
        Part(b"zz/viewer.jar", JAR),
    )
    batch = accepted(north, archive(*([jar, *images] if first else [*images, jar])), modality="ct")
    assert batch["counts"] == counts(total=3, queued=2, rejected=1)
    assert errors(north, batch["id"]) == [(0 if first else 2, "zz/viewer.jar", "rejected", "nested-archive")]


def test_name_twice_zip(north: Caller, clean_database: Database) -> None:
    accepted(north, archive(Part(b"DICOM/1.jpg", JPEG), Part(b"DICOM/1.jpg", PNG)))
    assert pictures(clean_database) == [("DICOM/1.jpg", [sha(JPEG)]), ("DICOM/1.jpg", [sha(PNG)])]


def test_p_colon_zip(north: Caller, clean_database: Database) -> None:
    accepted(north, archive(Part(b"P:4711.jpg", JPEG)))
    assert pictures(clean_database) == [("P:4711.jpg", [sha(JPEG)])]


def test_real_infozip_pipe_zip(north: Caller, clean_database: Database) -> None:
    """`zip -r - study | cat`: directories and an empty file are stored, and the size of the file follows it."""
    body = archive(
        Part(b"study/", b"", STORED),
        Part(b"study/empty/", b"", STORED),
        Part(b"study/sub/", b"", STORED),
        Part(b"study/sub/LOCK", b"", STORED, SIGNED),
        Part(b"study/sub/2.jpg", JPEG, described=SIGNED, size_known=True),
        Part(b"study/1.jpg", PNG, described=SIGNED, size_known=True),
    )
    batch = accepted(north, body)
    assert errors(north, batch["id"]) == [(0, "study/sub/LOCK", "rejected", "empty-file")]
    assert pictures(clean_database) == [("study/sub/2.jpg", [sha(JPEG)]), ("study/1.jpg", [sha(PNG)])]


def test_real_python_pipe_stored_zip(north: Caller, clean_database: Database) -> None:
    """`ZipFile(pipe, "w")`: members are stored, and their sizes follow them."""
    accepted(north, archive(Part(b"study/1.jpg", JPEG, STORED, SIGNED), Part(b"study/sub/2.jpg", PNG, STORED, SIGNED)))
    assert pictures(clean_database) == [("study/1.jpg", [sha(JPEG)]), ("study/sub/2.jpg", [sha(PNG)])]


@pytest.mark.parametrize("encoding", ["cp932", "utf-8"], ids=["sjis-group-folder.zip", "utf8-group-folder.zip"])
def test_group_folder_zip(encoding: str, north: Caller, clean_database: Database) -> None:
    names = [name.encode(encoding) for name in ("患者A/表1.jpg", "患者A/正2.jpg", "患者表/1.jpg")]
    body = archive(*(Part(name, content) for name, content in zip(names, (JPEG, PNG, PNG + b"3"), strict=True)))
    accepted(north, body, group_by="folder")
    assert pictures(clean_database) == [("患者A", [sha(JPEG), sha(PNG)]), ("患者表", [sha(PNG + b"3")])]
