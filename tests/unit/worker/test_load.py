"""Stored files to studies that are ready for the engine, through decoders in processes of their own."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from shared.config import Settings
from shared.db.tables import Classifier, Modality
from shared.imaging.preprocess import InputSpec
from shared.jobs.claims import Claim, ImageRef
from shared.storage import FolderStorage
from tests.support.files.damaged_dicom import with_elements
from tests.support.files.images import make_dicom
from worker.classify.load import Loader
from worker.classify.loading import Study

SLICE = np.linspace(-1000, 400, 64 * 64).reshape(64, 64).astype(np.int16)
WITHOUT_UNITS = {"slope": None, "intercept": None}


def ct(**options: object) -> bytes:
    return make_dicom(SLICE, modality="CT", bits_stored=16, **options)  # type: ignore[arg-type]


#: Each with whether it is shown in another window than one for lungs.
SLICES = {
    "Hounsfield units, a window of the mediastinum": (ct(window=(40, 400)), False),
    "no units, a window of the mediastinum": (ct(window=(40, 400), **WITHOUT_UNITS), True),
    "no units, no window": (ct(**WITHOUT_UNITS), True),
    "no units, a window of the lungs": (ct(window=(-500, 1400), **WITHOUT_UNITS), False),
    "no units, a window of the lungs that comes second": (
        ct(**WITHOUT_UNITS, elements=with_elements(WindowCenter=[40, -600], WindowWidth=[400, 1600])), False
    ),
    "rescaled to other units": (ct(elements=with_elements(RescaleType="US"), window=(40, 400)), True),
    "an X-ray": (make_dicom(SLICE, bits_stored=16, window=(40, 400)), False),
}  # fmt: skip


def load(settings: Settings, storage: FolderStorage, *files: bytes) -> Study:
    refs = []
    for place, data in enumerate(files):
        storage.put(f"objects/{place}", BytesIO(data))
        refs.append(ImageRef(f"img_{place}", place, 0, f"objects/{place}", hashlib.sha256(data).hexdigest(), None))
    claim = Claim("job_1", "token", "tenant_1", Classifier.BINARY, Modality.CT, 0.0, tuple(refs))
    [study] = Loader(storage, settings, lambda: None).load([claim], InputSpec(size=32)).results()
    assert isinstance(study, Study)
    return study


@pytest.fixture
def unit_settings() -> Settings:
    return Settings(
        database_url="postgresql+psycopg://nobody@127.0.0.1:1/none",
        redis_url="redis://127.0.0.1:1/0",
        secret_key="x" * 32,
    )


def test_a_study_knows_its_slices_that_are_not_shown_in_a_lung_window(unit_settings: Settings, tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    storage.prepare()
    study = load(unit_settings, storage, *(data for data, _ in SLICES.values()))

    assert len(study.pixels) == len(SLICES)
    names = [name for place, name in enumerate(SLICES) if f"img_{place}" in study.other_windows]
    assert names == [name for name, (_, is_other) in SLICES.items() if is_other]
