"""DICOM: which objects are accepted, in which encodings, and that damage is named."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecodecs import jpeg2k_encode
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from shared.errors import CorruptImage, ImageError, ImageTooLarge, InvalidDicom, NoPixelData, UnsupportedDicom
from shared.imaging.decode import Limits, MediaType, decode_one, frames, probe
from shared.imaging.dicom.vendor import vendor_errors
from shared.imaging.preprocess import InputSpec, prepare
from tests.support.files.damaged_dicom import edited
from tests.support.files.images import LOSSLESS, NATIVE, SERIES_UID, STUDY_UID, dicom_bytes, make_dicom
from tests.support.waiting import EVENT_SECONDS

LIMITS = Limits()
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
IDENTITY = (128, 256)  # PS3.3 C.11.2.1.2.1: with 8 bits this LINEAR window maps every value to itself


def smooth(bits: int, *, signed: bool = False) -> NDArray[np.integer]:
    small = np.random.default_rng(2).random((6, 6)).astype(np.float32)
    stored = cv2.resize(small, (40, 32)) * ((1 << bits) - 1) - (1 << bits - 1 if signed else 0)
    return stored.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def refused(error: type[ImageError], data: bytes, limits: Limits = LIMITS) -> None:
    """Both doors give the same answer."""
    with pytest.raises(error):
        probe(BytesIO(data), limits)
    with pytest.raises(error):
        decode_one(data, limits)


def test_probe_tells_what_the_header_says() -> None:
    info = probe(BytesIO(make_dicom(smooth(12), bits_stored=12, modality="CT", frames=3)), LIMITS)

    assert (info.media_type, info.width, info.height, info.frames) == (MediaType.DICOM, 40, 32, 3)
    assert (info.modality, info.study_uid, info.series_uid) == ("ct", STUDY_UID, SERIES_UID)


@pytest.mark.parametrize(("modality", "kind"), [("CR", "xray"), ("DX", "xray"), ("RG", "xray"), ("CT", "ct")])
def test_accepted_modalities(modality: str, kind: str) -> None:
    assert probe(BytesIO(make_dicom(RAMP, modality=modality)), LIMITS).modality == kind


@pytest.mark.parametrize("modality", ["MR", "US", "OT", ""])
def test_other_modalities_are_unsupported(modality: str) -> None:
    refused(UnsupportedDicom, make_dicom(RAMP, modality=modality))


def test_uids_may_be_missing() -> None:
    info = probe(BytesIO(edited(make_dicom(RAMP), StudyInstanceUID=None, SeriesInstanceUID=None)), LIMITS)
    assert (info.study_uid, info.series_uid) == (None, None)


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_syntaxes_give_the_pixels_back_exactly(syntax: UID, bits: int, signed: bool) -> None:
    stored = smooth(bits, signed=signed)
    offset = 1 << bits - 1 if signed else 0
    expected = np.rint((stored.astype(np.int64) + offset) / ((1 << bits) - 1) * 255)
    window = (0 if signed else 1 << bits - 1, 1 << bits)

    data = make_dicom(stored, bits_stored=bits, window=window, transfer_syntax=syntax)

    assert np.array_equal(decode_one(data, LIMITS), expected)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [5, 7, 9, 10, 14, 15])
def test_jpeg_2000_of_every_precision_gives_the_native_picture(bits: int, signed: bool) -> None:
    stored = smooth(bits, signed=signed)
    native, compressed = (
        make_dicom(stored, bits_stored=bits, transfer_syntax=syntax) for syntax in (NATIVE[1], JPEG2000Lossless)
    )

    assert np.array_equal(decode_one(compressed, LIMITS), decode_one(native, LIMITS))


def test_a_codestream_that_is_unsigned_in_an_object_that_is_signed_is_read_by_the_object() -> None:
    stored = smooth(12)
    native, compressed = (
        edited(make_dicom(stored, bits_stored=12, transfer_syntax=syntax), PixelRepresentation=1)
        for syntax in (NATIVE[1], JPEG2000Lossless)
    )

    assert np.array_equal(decode_one(compressed, LIMITS), decode_one(native, LIMITS))


@pytest.mark.parametrize("bits", [8, 12])
def test_a_frame_that_is_a_jp2_file_is_read_by_the_codestream_in_it(bits: int) -> None:
    """PS3.5 A.4.4 forbids it, and archives have it."""
    stored = smooth(bits)
    dataset = dcmread(BytesIO(make_dicom(stored, bits_stored=bits, transfer_syntax=JPEG2000Lossless)))
    jp2 = jpeg2k_encode(stored, codecformat="JP2", bitspersample=bits, reversible=True)
    dataset.PixelData = encapsulate([bytes(jp2)])

    assert np.array_equal(
        decode_one(dicom_bytes(dataset), LIMITS), decode_one(make_dicom(stored, bits_stored=bits), LIMITS)
    )


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("syntax", [JPEG2000, JPEG2000Lossless])
def test_a_jpeg_2000_codestream_that_ends_early_in_whole_fragments_is_corrupt(syntax: UID, bits: int) -> None:
    stored = smooth(bits)
    dataset = dcmread(BytesIO(make_dicom(stored, bits_stored=bits, transfer_syntax=syntax)))
    [stream] = generate_frames(dataset.PixelData, number_of_frames=1)

    for share in (0.3, 0.6, 0.9):
        dataset.PixelData = encapsulate([stream[: int(share * len(stream))]])
        with pytest.raises(CorruptImage):
            decode_one(dicom_bytes(dataset), LIMITS)


@pytest.mark.parametrize(
    ("syntax", "bits"),
    [(JPEGBaseline8Bit, 8), (JPEGExtended12Bit, 8), (JPEGExtended12Bit, 12), (JPEGLSNearLossless, 8),
     (JPEGLSNearLossless, 12), (JPEG2000, 8), (JPEG2000, 12), (JPEG2000, 16)],
)  # fmt: skip
def test_lossy_syntaxes_give_the_pixels_back_nearly(syntax: UID, bits: int) -> None:
    stored, window = smooth(bits), (1 << bits - 1, 1 << bits)
    exact = decode_one(make_dicom(stored, bits_stored=bits, window=window), LIMITS)

    lossy = decode_one(make_dicom(stored, bits_stored=bits, window=window, transfer_syntax=syntax), LIMITS)

    assert np.abs(lossy.astype(int) - exact).max() <= 2


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_frames_come_one_by_one_and_by_index(syntax: UID) -> None:
    first = smooth(8)
    volume = np.stack([first, 255 - first, first // 2])
    data = make_dicom(volume, window=IDENTITY, transfer_syntax=syntax)

    assert all(np.array_equal(frame, stored) for frame, stored in zip(frames(data, LIMITS), volume, strict=True))
    assert np.array_equal(decode_one(data, LIMITS, frame=2), volume[2])
    for missing in (3, -1):
        with pytest.raises(IndexError):
            decode_one(data, LIMITS, frame=missing)


def test_an_x_ray_and_its_png_twin_prepare_to_the_same_picture() -> None:
    picture = smooth(8)
    png = cv2.imencode(".png", picture)[1].tobytes()
    dicoms = [
        make_dicom(picture, window=IDENTITY),
        make_dicom(255 - picture, window=IDENTITY, photometric="MONOCHROME1", transfer_syntax=JPEGLosslessSV1),
    ]

    twin = prepare(decode_one(png, LIMITS), InputSpec())
    for data in dicoms:
        assert np.array_equal(prepare(decode_one(data, LIMITS), InputSpec()), twin)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colour_becomes_luma(photometric: str) -> None:
    grey_in_colour = np.repeat(RAMP[:, :, np.newaxis], 3, axis=2)
    if photometric == "YBR_FULL":
        grey_in_colour[:, :, 1:] = 128

    assert np.array_equal(decode_one(make_dicom(grey_in_colour, photometric=photometric), LIMITS), RAMP)


@pytest.mark.parametrize(
    "elements",
    [{"PhotometricInterpretation": "PALETTE COLOR"}, {"BitsAllocated": 32}, {"BitsStored": 9}, {"HighBit": 6}],
)
def test_samples_that_are_not_read_are_unsupported(elements: dict[str, object]) -> None:
    refused(UnsupportedDicom, edited(make_dicom(RAMP), **elements))


@pytest.mark.parametrize("syntax", [MPEG2MPML, UID("1.2.3.4")])
def test_other_transfer_syntaxes_are_unsupported(syntax: UID) -> None:
    plain = make_dicom(RAMP)
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    at = plain.index(b"\x02\x00\x10\x00UI") + 6
    named = plain[:at] + bytes([len(value), 0]) + value + plain[at + 2 + 20 :]

    refused(UnsupportedDicom, named)


def test_objects_without_pixels_are_named() -> None:
    without = edited(make_dicom(RAMP), PixelData=None)
    directory = dcmread(BytesIO(without))
    directory.file_meta.MediaStorageSOPClassUID = directory.SOPClassUID = MediaStorageDirectoryStorage
    del directory.Modality, directory.Rows, directory.Columns

    refused(NoPixelData, without)
    refused(NoPixelData, dicom_bytes(directory))


def test_pixels_of_floating_point_are_unsupported() -> None:
    dataset = dcmread(BytesIO(make_dicom(RAMP)))
    del dataset.PixelData
    dataset.FloatPixelData = RAMP.astype("<f4").tobytes()

    with pytest.raises(UnsupportedDicom):
        decode_one(dicom_bytes(dataset), LIMITS)


def test_the_limits_are_those_of_the_header() -> None:
    data = make_dicom(RAMP, frames=3)

    assert probe(BytesIO(data), Limits(max_pixels=256, max_frames=3)).frames == 3
    refused(ImageTooLarge, data, Limits(max_pixels=255))
    refused(ImageTooLarge, data, Limits(max_frames=2))


@pytest.mark.parametrize("elements", [{"Rows": 0}, {"NumberOfFrames": -1}])
def test_pictures_without_pixels_are_corrupt(elements: dict[str, object]) -> None:
    refused(CorruptImage, edited(make_dicom(RAMP), **elements))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless])
def test_a_frame_larger_than_the_header_says_never_reaches_the_codec(syntax: UID) -> None:
    with pytest.raises(CorruptImage, match="size"):
        decode_one(edited(make_dicom(smooth(8), transfer_syntax=syntax), Rows=8), LIMITS)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_fewer_frames_than_the_header_says_are_corrupt(syntax: UID) -> None:
    with pytest.raises((CorruptImage, InvalidDicom)):
        list(frames(edited(make_dicom(smooth(8), frames=2, transfer_syntax=syntax), NumberOfFrames=4), LIMITS))


SYNTAX_FILES = {
    syntax: make_dicom(smooth(12), bits_stored=12, frames=2, transfer_syntax=syntax)
    for syntax in (*NATIVE, *LOSSLESS, JPEGExtended12Bit, JPEG2000)
}


@settings(deadline=None)
@given(syntax=st.sampled_from(list(SYNTAX_FILES)), data=st.data())
def test_a_file_cut_in_its_pixels_is_corrupt(syntax: UID, data: st.DataObject) -> None:
    whole = SYNTAX_FILES[syntax]
    dataset = dcmread(BytesIO(whole), stop_before_pixels=True)
    start = whole.index(b"\x7f\xe0\0\x10" if not dataset.original_encoding[1] else b"\xe0\x7f\x10\0") + 12
    cut = data.draw(st.integers(start, len(whole) - 1))

    with pytest.raises(CorruptImage):
        list(frames(whole[:cut], LIMITS))


@settings(deadline=None)
@given(cut=st.integers(132, 500))
def test_a_file_cut_in_its_header_is_refused(cut: int) -> None:
    # A cut between two elements leaves a well-formed object without pixels, or one whose transfer syntax is missing.
    for attempt in (lambda data: probe(BytesIO(data), LIMITS), lambda data: decode_one(data, LIMITS)):
        with pytest.raises((CorruptImage, NoPixelData, UnsupportedDicom)):
            attempt(make_dicom(RAMP)[:cut])


# Lossless JPEG is left out: its only free decoder may crash over such a frame.
CHANGED = (ExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless)
CHANGED_FILES = [make_dicom(smooth(8), window=IDENTITY, transfer_syntax=syntax) for syntax in CHANGED]


@settings(deadline=None)
@given(whole=st.sampled_from(CHANGED_FILES), place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_changed_byte_is_an_image_error_or_another_picture(whole: bytes, place: float, value: int) -> None:
    damaged = bytearray(whole)
    damaged[132 + int(place * (len(whole) - 132))] = value

    with suppress(ImageError):
        assert decode_one(bytes(damaged), Limits(max_pixels=100_000)).dtype == np.uint8


def test_probing_does_not_read_the_pixels() -> None:
    class Counting(BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            got = super().read(size)
            self.count += len(got)
            return got

    file = Counting(make_dicom(np.zeros((4000, 4000), np.uint8)))

    assert probe(file, LIMITS).width == 4000
    assert file.count < 10_000


def test_memory_does_not_grow_with_the_frames() -> None:
    data = make_dicom(np.zeros((256, 256), np.uint8), frames=200, transfer_syntax=RLELossless, window=IDENTITY)
    gc.collect()
    tracemalloc.start()
    for frame in frames(data, LIMITS):
        assert frame.shape == (256, 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 40 * 256 * 256


def test_what_pydicom_would_warn_about_is_decoded_in_silence_in_any_thread() -> None:
    odd = edited(make_dicom(RAMP, window=IDENTITY), NumberOfFrames=0)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(decode_one, [odd] * 8, [LIMITS] * 8))

    assert all(np.array_equal(picture, RAMP) for picture in results)


def test_no_thread_waits_for_another_and_the_filters_come_back() -> None:
    before, both = list(warnings.filters), threading.Barrier(2, timeout=EVENT_SECONDS)

    def inside() -> None:
        with vendor_errors():
            both.wait()  # broken, and CorruptImage, when one had to leave before the other came in
            warnings.warn("nobody sees it", stacklevel=1)

    with ThreadPoolExecutor(2) as pool:
        for thread in [pool.submit(inside) for _ in range(2)]:
            thread.result()

    assert list(warnings.filters) == before


def test_no_patient_data_in_what_is_raised() -> None:
    secret = Dataset()
    secret.PatientName, secret.PatientID = "SECRET^NAME", "SECRET-ID"
    data = edited(make_dicom(RAMP, elements=secret), BitsStored=None)

    with pytest.raises(InvalidDicom) as caught:
        decode_one(data, LIMITS)
    assert "SECRET" not in repr((caught.value, caught.value.detail, caught.value.__cause__))


FOUND = sorted((Path(__file__).parents[3] / "fuzz" / "found").iterdir())


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_ended_a_process_once_is_an_image_that_fails(path: Path) -> None:
    """Found by `make fuzz` while GDCM was among the decoders."""
    data = path.read_bytes()
    assert probe(BytesIO(data), LIMITS).media_type is MediaType.DICOM
    with suppress(ImageError):
        assert all(picture.ndim == 2 for picture in frames(data, LIMITS))


@pytest.mark.parametrize("said", ["RGB", "YBR_FULL_422"])
def test_a_jpeg_that_does_not_say_what_its_colours_are_is_taken_at_its_objects_word(said: str) -> None:
    picture = np.full((16, 16, 3), (200, 90, 60), np.uint8)
    luma_first = cv2.cvtColor(picture, cv2.COLOR_BGR2YCrCb)[:, :, [0, 2, 1]]
    stream = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    bare = stream[:2] + stream[2 + 2 + int.from_bytes(stream[4:6], "big") :]  # without the JFIF segment
    dataset = dcmread(BytesIO(make_dicom(picture, photometric="RGB")))
    dataset.PixelData, dataset.PhotometricInterpretation = encapsulate([bare]), said
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset["PixelData"].is_undefined_length = True
    grey = decode_one(dicom_bytes(dataset), LIMITS)
    # The three numbers of the file as they are; or made into the colour that they stand for.
    shown = luma_first if said == "RGB" else picture[:, :, ::-1]
    assert np.abs(grey.astype(int) - cv2.cvtColor(np.ascontiguousarray(shown), cv2.COLOR_RGB2GRAY)).max() <= 3
