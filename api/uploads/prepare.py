"""What a file becomes on its way into the store: DICOM loses what leads to the patient, unless its tenant keeps it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import BinaryIO

import sqlalchemy as sa

from api.http.services import Services
from shared.db.tables import Tenant
from shared.imaging.decode import ImageInfo, MediaType, probe
from shared.imaging.dicom.deidentification.deidentify import Identity, deidentified, has_preamble, without_preamble


def identity_of(services: Services, tenant_id: str) -> Identity:
    """Per-tenant de-identification policy; remembered as keys are."""
    found = services.identities.get(tenant_id)
    if found is None:
        wanted = sa.select(Tenant.keep_identity, Tenant.uid_secret).where(Tenant.id == tenant_id)
        with services.database.transaction() as session:
            keep, secret = session.execute(wanted).one()
        found = Identity(keep=keep, secret=secret)
        services.identities.put(tenant_id, value=found, seconds=services.settings.key_seconds)
    return found


def deidentify_upload(services: Services, tenant_id: str, file: BinaryIO) -> tuple[BinaryIO, ImageInfo]:
    """Return a seekable file as it is to be stored, and what its header says; `file` itself if nothing is to change.

    The same file gives the same bytes, so that it is known again. Raises the errors of `probe`, and those of
    `deidentified`.
    """
    info = probe(file, services.settings.image_limits)
    file.seek(0)
    if info.media_type is not MediaType.DICOM:
        return file, info
    identity = identity_of(services, tenant_id)
    if not identity.keep:
        source, account = deidentified(file, identity.secret)
        return source, replace(info, deidentified=account)
    return (without_preamble(file) if has_preamble(file) else file), info


def digest_as_stored(services: Services, tenant_id: str, file: BinaryIO) -> str:
    """Return the SHA-256 that the file would have in the store. Raises as `deidentify_upload` does."""
    source, _ = deidentify_upload(services, tenant_id, file)
    digest = hashlib.sha256()
    while chunk := source.read(1024 * 1024):
        digest.update(chunk)
    return digest.hexdigest()
