"""Makers of test images: DICOM objects in every transfer syntax that is read, and headers of PNG files."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
from imagecodecs import jpeg2k_encode, jpeg8_encode
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

_ENCODED = (JPEG2000, JPEG2000Lossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
SAMPLES = Path(__file__).parents[3] / "samples"
STUDY_UID = "1.2.826.0.1.3680043.8.498.1"
SERIES_UID = "1.2.826.0.1.3680043.8.498.2"
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
LOSSLESS = (RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)


def make_dicom(
    pixels: NDArray[np.integer],
    *,
    modality: str = "DX",
    photometric: str = "MONOCHROME2",
    bits_stored: int = 8,
    window: tuple[float, float] | None = None,
    slope: float | None = 1,
    intercept: float | None = 0,
    frames: int | None = None,
    transfer_syntax: UID = ExplicitVRLittleEndian,
    elements: Dataset | None = None,
) -> bytes:
    """A DICOM file of the stored values (H, W), (frames, H, W), or (H, W, 3) for a photometric of colour.

    Signed pixels make a signed object. `frames` repeats one picture; `window` is (centre, width); `elements` is
    added last, over what is there. Without a window a DX is stretched from its minimum to its maximum, and a CT is
    shown with the lung window.
    """
    data = _grey_dataset(pixels, photometric, bits_stored, frames)
    data.SOPClassUID = CTImageStorage if modality == "CT" else DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = f"{SERIES_UID}.1"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = STUDY_UID, SERIES_UID, modality
    if slope is not None and intercept is not None:
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
    if window is not None:
        data.WindowCenter, data.WindowWidth = window
    data.update(elements or {})
    return dicom_bytes(_in_syntax(data, pixels, transfer_syntax))


def dicom_bytes(dataset: Dataset) -> bytes:
    """The dataset as a file, in the transfer syntax that its file meta names."""
    file = BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """The signature and a valid IHDR of an 8-bit grey PNG of any size, without a pixel."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def _grey_dataset(pixels: NDArray[np.integer], photometric: str, bits_stored: int, frames: int | None) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.PhotometricInterpretation = photometric
    colour = pixels.shape[-1] == 3 and not photometric.startswith("MONOCHROME")
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    data.BitsAllocated = 8 if bits_stored <= 8 else 16
    data.BitsStored, data.HighBit = bits_stored, bits_stored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    count = frames or (len(pixels) if pixels.ndim == 3 and not colour else 1)
    if count > 1:
        data.NumberOfFrames = count
    kind = "i" if data.PixelRepresentation else "u"
    stored = pixels.astype(f"<{kind}{data.BitsAllocated // 8}").tobytes() * (frames or 1)
    data.PixelData = stored + b"\0" * (len(stored) % 2)
    data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"
    return data


def _in_syntax(data: Dataset, pixels: NDArray[np.integer], syntax: UID) -> Dataset:
    """Encode with a codec that is not the one under test, where there is another."""
    if syntax == RLELossless or syntax in (JPEGLSLossless, JPEGLSNearLossless):
        options: dict[str, Any] = {"jls_error": 2} if syntax == JPEGLSNearLossless else {}
        data.compress(syntax, generate_instance_uid=False, **options)
    elif syntax in _ENCODED:
        pictures = pixels if pixels.ndim == 3 else pixels[np.newaxis]
        encoded = [_encoded(picture, syntax, data.BitsStored) for picture in pictures]
        data.PixelData = encapsulate(encoded * (data.get("NumberOfFrames", 1) // len(encoded)))
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
    elif syntax == ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data["PixelData"].VR = "OW"
    data.file_meta.TransferSyntaxUID = syntax
    return data


def _encoded(picture: NDArray[np.integer], syntax: UID, bits_stored: int) -> bytes:
    if syntax == JPEGBaseline8Bit:
        return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    if syntax == JPEGExtended12Bit:
        return bytes(jpeg8_encode(picture, level=98, bitspersample=max(8, bits_stored)))
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        # Selection value 1 has a syntax of its own; the other may use any.
        predictor = 1 if syntax == JPEGLosslessSV1 else 4
        if picture.dtype.kind == "i":  # all bits of the two's complement
            picture, bits_stored = picture.view(f"u{picture.itemsize}"), 8 * picture.itemsize
        return bytes(jpeg8_encode(picture, lossless=True, bitspersample=bits_stored, predictor=predictor))
    how: dict[str, Any] = {"level": 80.0, "reversible": False} if syntax == JPEG2000 else {"reversible": True}
    return bytes(jpeg2k_encode(picture, codecformat="J2K", bitspersample=bits_stored, **how))


def real_dicom() -> Iterator[bytes]:
    """The samples, and pydicom's own test files as if their modality were one that is read."""
    yield from (path.read_bytes() for path in sorted(SAMPLES.glob("*.dcm")))
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        file = BytesIO()
        with warnings.catch_warnings(), contextlib.suppress(Exception):  # some are broken on purpose
            warnings.simplefilter("ignore")
            dataset = dcmread(path, force=True)
            dataset.Modality = "CT"
            dcmwrite(file, dataset, enforce_file_format=True)
        yield file.getvalue() or path.read_bytes()


def grey(level: int, size: int = 56) -> NDArray[np.uint8]:
    """A picture of one brightness, with a darker left half so that it has something to look at."""
    picture = np.full((size, size), level, np.uint8)
    picture[:, : size // 2] = level // 2
    return picture
