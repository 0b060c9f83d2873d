"""Files in: headers probed, bytes stored and hashed, rows prepared. A bad file never spoils the good ones beside it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

import structlog
from flask import request
from sqlalchemy.orm import Session
from werkzeug.datastructures import FileStorage, MultiDict

from api.http.principal import Principal
from api.http.requests import MULTIPART
from api.http.services import Services
from api.uploads.prepare import deidentify_upload
from shared import metrics
from shared.db.tables import Classifier, Modality, Upload
from shared.errors import ImageError, InvalidRequest, StorageError, ThoraqError, UnsupportedMediaType, problem_of
from shared.imaging.decode import ImageInfo
from shared.storage import Stored, object_key
from shared.studies import direct_uploads
from shared.studies.rows import NewImage, NewStudy, images_of

log = structlog.get_logger(__name__)

#: Parts of a form that are no files.
FIELDS = 20
NAME_CHARACTERS = 1_000
#: What `thoraq submit` sends where a name would stand: there the names of files stay on the sender's machine.
NO_NAME = re.compile(r"image-\d+")


@dataclass(frozen=True)
class StoredFile:
    """One file: stored, with what its header says; or refused, and why."""

    sha256: str
    size: int
    key: str | None
    info: ImageInfo | None
    error: ImageError | None
    #: as it was sent; None for a direct upload. Patient data: for the study's row and answers to its tenant alone
    name: str | None = None


def shown_name(name: str) -> str:
    """Return a file's name as it is kept: printable, and of a bounded length."""
    return "".join(c if c.isprintable() else "\ufffd" for c in name)[:NAME_CHARACTERS]


def sent_files(most: int) -> Sequence[FileStorage]:
    """Return the request's `files` parts. They are on disk, so memory stays flat.

    The parser stops at one beyond `most`.
    """
    if request.mimetype != MULTIPART:
        raise UnsupportedMediaType(f"send {MULTIPART} with a part `files` for each file")
    request.max_form_parts = most + FIELDS
    strange = [{"field": name[:100], "message": "files come in parts named `files`"} for name in request.files]
    if strange := [error for error in strange if error["field"] != "files"]:
        raise InvalidRequest("some parts are not known", errors=strange)
    files = request.files.getlist("files")
    if not files:
        raise InvalidRequest("send at least one part named `files`", errors=[{"field": "files", "message": "missing"}])
    return files


def sent_fields() -> dict[str, str]:
    """Return the request's other parts, each once."""
    return single(request.form)


def single(fields: MultiDict[str, str]) -> dict[str, str]:
    """Return the fields; InvalidRequest when one comes twice, as only one of the two could be obeyed."""
    twice = [name[:100] for name, values in fields.lists() if len(values) > 1]
    if twice:
        errors = [{"field": name, "message": "given more than once"} for name in twice]
        raise InvalidRequest("some fields are given more than once", errors=errors)
    return fields.to_dict()


@contextmanager
def store_files(
    services: Services, who: Principal, files: Sequence[FileStorage], most: int | None = None
) -> Iterator[list[StoredFile]]:
    """Take every file in; if what follows refuses the request, what was stored is removed again.

    InvalidRequest for more files than `most`; a study's most unless told otherwise.
    """
    most = most or services.settings.max_files
    if len(files) > most:
        raise InvalidRequest(f"at most {most} files in one request")
    taken: list[StoredFile] = []
    try:
        # One by one, not as a list when all are in: those before a failure must be known to be removed.
        taken.extend(_receive_named(services, who, file) for file in files)
    except BaseException:
        discard(services, taken)
        raise
    count_bytes(taken)
    try:
        yield taken
    except ThoraqError as error:
        # Only where no row can have been committed. When the connection is lost in a commit nobody knows, and of
        # the two a row without its object would be the worse; the sweeper removes objects without a row.
        if error.permanent:
            discard(services, taken)
        raise


def discard(services: Services, taken: Iterable[StoredFile]) -> None:
    """Remove what was stored: nothing refers to it."""
    remove(services, [one.key for one in taken if one.key is not None])


def remove(services: Services, keys: Iterable[str]) -> None:
    """Remove objects that nothing refers to. While the store is away they are left to the sweeper."""
    try:
        for key in keys:
            services.storage.delete(key)
    except StorageError as error:
        log.warning("objects.orphaned", error=error.type)


def receive(services: Services, who: Principal, stream: BinaryIO) -> StoredFile:
    """One file, from its beginning to its end: looked at, then stored as it is to be kept, or refused. StorageError."""
    found = _probe(services, who, stream)
    if isinstance(found, StoredFile):
        return found
    source, info = found
    return _kept(services.storage.put(object_key(who.tenant_id), source), info)


def _receive_named(services: Services, who: Principal, file: FileStorage) -> StoredFile:
    found = receive(services, who, cast(BinaryIO, file.stream))
    # Browsers and curl write a quotation mark so, and leave a percent sign as it is (HTML, "Multipart form data").
    name = shown_name((file.filename or "").replace("%22", '"'))
    return replace(found, name=None if NO_NAME.fullmatch(name) else name or None)


def _probe(services: Services, who: Principal, stream: BinaryIO) -> tuple[BinaryIO, ImageInfo] | StoredFile:
    """Return the file as it is to be stored, and what its header says.

    If it is refused, return all that there is to say of it.
    """
    try:
        return deidentify_upload(services, who.tenant_id, stream)
    except ImageError as error:
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256")  # type: ignore[arg-type]
        return StoredFile(digest.hexdigest(), stream.tell(), None, None, error)


def _kept(stored: Stored, info: ImageInfo) -> StoredFile:
    return StoredFile(stored.sha256, stored.size, stored.key, info, None)


def receive_many(services: Services, who: Principal, streams: Iterable[BinaryIO]) -> list[StoredFile]:
    """Return some small files, each as `receive` has it, stored together: all of them, or none."""
    probed = [_probe(services, who, stream) for stream in streams]
    keys = [object_key(who.tenant_id) for found in probed if not isinstance(found, StoredFile)]
    sources = [found[0] for found in probed if not isinstance(found, StoredFile)]
    try:
        stored = iter(services.storage.put_many(zip(keys, sources, strict=True)))
    except BaseException:
        remove(services, keys)
        raise
    return [found if isinstance(found, StoredFile) else _kept(next(stored), found[1]) for found in probed]


def count_bytes(taken: Iterable[StoredFile]) -> None:
    """In the metrics, once for many: counting costs as much as looking at a header."""
    metrics.UPLOADED_BYTES.inc(sum(one.size for one in taken if one.key is not None))


def refuse_if_all_bad(taken: Sequence[StoredFile]) -> None:
    """Refuse a request without one usable image, for the reason of its first file."""
    errors = [one.error for one in taken if one.error is not None]
    if len(errors) < len(taken):
        return
    if len(errors) > 1:
        errors[0].extensions["files"] = [{"file": n, **problem_of(error)} for n, error in enumerate(errors)]
    raise errors[0]


def settle_modality(
    taken: Sequence[StoredFile], asked: Modality | None, *, otherwise: Modality | None = None
) -> Modality:
    """DICOM says its modality; for other formats the client must. Contradictions are refused, with the file's name.

    `otherwise`: of files that do not say it, where nobody else does; it contradicts nothing.
    """
    said = [(n, one, Modality(one.info.modality)) for n, one in enumerate(taken) if one.info and one.info.modality]
    modality = asked or (said[0][2] if said else otherwise)
    if modality is None:
        raise _modality_error("give `modality`, `xray` or `ct`: only DICOM files say it themselves")
    for number, one, other in said:
        if other is not modality:
            source = "the request says" if asked else f"file {said[0][0]} is"
            where = f"file {number}" if one.name is None else f"{one.name} (file {number})"
            raise _modality_error(
                f"the modality that file {number} says contradicts another",
                f"{where} is `{other.value}` by its DICOM header, and {source} `{modality.value}`",
            )
    return modality


def _modality_error(message: str, named: str | None = None) -> InvalidRequest:
    """`named`: the same with the name of the file, which no detail may hold."""
    return InvalidRequest(message, errors=[{"field": "modality", "message": named or message}])


def check_supported(classifier: Classifier, modality: Modality) -> None:
    """Refuse CT for the ensemble: it was trained on X-rays only."""
    if classifier is Classifier.ENSEMBLE and modality is Modality.CT:
        message = "the ensemble classifies X-rays only; use `binary` for CT"
        raise InvalidRequest(message, errors=[{"field": "classifier", "message": message}])


def use_uploads(session: Session, who: Principal, upload_ids: Sequence[str]) -> list[StoredFile]:
    """Use the tenant's direct uploads as files of a study, which has them from now on; NotFound or Conflict."""
    return [of_upload(upload) for upload in direct_uploads.use(session, who.tenant_id, upload_ids)]


def of_upload(upload: Upload) -> StoredFile:
    """Return a complete direct upload as a file that was taken in."""
    return StoredFile(upload.sha256, upload.size_bytes, upload.object_key, direct_uploads.info_of(upload), None)


def new_study(
    who: Principal,
    taken: Sequence[StoredFile],
    modality: Modality,
    external_id: str | None,
    metadata: dict[str, Any],
    study_id: str,
) -> NewStudy:
    """Make the study, with one image per picture or frame, in the order of the files; ready for its rows."""
    images = [image for number, one in enumerate(taken) for image in new_images(number, one)]
    names = [one.name for one in taken]
    return NewStudy(study_id, who.tenant_id, modality, images, external_id, metadata, names)


def new_images(file_index: int, one: StoredFile) -> list[NewImage]:
    """Make the images of one file, ready for their rows."""
    return images_of(
        file_index,
        sha256=one.sha256,
        size_bytes=one.size,
        object_key=one.key,
        info=one.info,
        problem=problem_of(one.error) if one.error else None,
    )


def fingerprint(form: dict[str, Any], taken: Sequence[StoredFile] = ()) -> str:
    """Return what makes two requests the same: route, fields and the bytes of the files."""
    content = [request.method, request.path, form, [one.sha256 for one in taken]]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
