"""DICOM files that contradict themselves: read as they are meant, or refused; never answered on other pixels."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from imagecodecs import htj2k_encode, jpeg2k_encode, jpeg8_encode
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
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

from shared.errors import CorruptImage, ImageError, InvalidDicom
from shared.imaging.decode import Limits, decode_one, frames
from shared.imaging.dicom.deidentification.deidentify import deidentified
from tests.support.files.damaged_dicom import edited, says
from tests.support.files.images import LOSSLESS, NATIVE, dicom_bytes, make_dicom

LIMITS = Limits()
SMALL = cv2.resize(np.random.default_rng(11).random((6, 7)).astype(np.float32), (40, 32))
STORED = np.rint(SMALL * 4095).astype(np.uint16)
SIGNED = (STORED.astype(np.int32) - 2048).astype(np.int16)
WINDOW = (2048, 4096)
GREY8 = (STORED >> 4).astype(np.uint8)
COLOUR = np.stack([GREY8, 255 - GREY8, GREY8 // 2], axis=2)
#: Transfer syntaxes of one codec, which reads each under the name of the other.
CODECS = (
    {JPEGBaseline8Bit, JPEGExtended12Bit}, {JPEGLossless, JPEGLosslessSV1}, {JPEGLSLossless, JPEGLSNearLossless},
    {JPEG2000, JPEG2000Lossless, HTJ2K},
)  # fmt: skip
HIGH_THROUGHPUT = (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)


def plain(**options: Any) -> bytes:
    known: dict[str, Any] = {"bits_stored": 12, "window": WINDOW, "slope": None}
    return make_dicom(STORED, **known | options)


def both_ways(data: bytes) -> list[NDArray[np.uint8]]:
    """The frames of a file as it is, and without what leads to the patient."""
    stored = deidentified(BytesIO(data), "north")[0].read()
    pictures, others = list(frames(data, LIMITS)), list(frames(stored, LIMITS))
    assert all(np.array_equal(one, other) for one, other in zip(pictures, others, strict=True))
    return pictures


def same(data: bytes, expected: bytes) -> bool:
    pairs = zip(both_ways(data), frames(expected, LIMITS), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def refused(data: bytes, match: str | None, kind: type[ImageError] = InvalidDicom) -> None:
    with pytest.raises(kind, match=match):
        list(frames(data, LIMITS))


def with_streams(data: bytes, syntax: UID, streams: list[bytes], *, table: bool = True, **elements: object) -> bytes:
    """The file with compressed frames in place of its pixel data."""
    dataset = dcmread(BytesIO(data))
    dataset.PixelData = encapsulate(streams, has_bot=table)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = syntax
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dicom_bytes(dataset)


def streams_of(data: bytes) -> list[bytes]:
    dataset = dcmread(BytesIO(data))
    return list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames", 1))))


@pytest.mark.parametrize("syntax", HIGH_THROUGHPUT)
def test_high_throughput_jpeg_2000_gives_the_pixels_back(syntax: UID) -> None:
    stream = bytes(htj2k_encode(STORED, reversible=True))
    assert same(with_streams(plain(), syntax, [stream]), plain())
    for share in (0.3, 0.8):
        refused(with_streams(plain(), syntax, [stream[: int(share * len(stream))]]), None, CorruptImage)


@pytest.mark.parametrize("written", NATIVE)
@pytest.mark.parametrize("said", NATIVE)
def test_the_dataset_is_read_as_it_is_written_whatever_the_file_meta_say(written: UID, said: UID) -> None:
    lying = says(said, plain(transfer_syntax=written))

    assert same(lying, plain())


@pytest.mark.parametrize("syntax", [*LOSSLESS, *NATIVE])
@pytest.mark.parametrize("stored", [STORED, SIGNED], ids=["unsigned", "signed"])
def test_what_stands_above_the_stored_bits_is_no_part_of_a_value(syntax: UID, stored: NDArray[np.integer]) -> None:
    window = (0, 4096) if stored is SIGNED else WINDOW
    overlay = np.where(np.indices(stored.shape).sum(0) % 5 == 0, 0x9000, 0x2000).astype(np.uint16)
    filled = ((stored.view(np.uint16) & 0x0FFF) | overlay).view(stored.dtype)
    data = make_dicom(filled, bits_stored=16, window=window, slope=None, transfer_syntax=syntax)

    expected = make_dicom(stored, bits_stored=12, window=window, slope=None)
    assert same(edited(data, BitsStored=12, HighBit=11), expected)


@pytest.mark.parametrize("said", [RLELossless, JPEGBaseline8Bit, JPEGLossless, JPEGLSLossless, JPEG2000, HTJ2K])
@pytest.mark.parametrize("real", [JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSNearLossless, JPEG2000Lossless])
def test_a_compression_other_than_the_transfer_syntax_says_is_named(said: UID, real: UID) -> None:
    data = make_dicom(GREY8, transfer_syntax=real)
    lying = with_streams(make_dicom(GREY8), said, streams_of(data))
    if any({said, real} <= codec for codec in CODECS):
        assert same(lying, data)
    elif said == RLELossless:
        refused(lying, None, CorruptImage)
    else:
        refused(lying, r"TransferSyntaxUID \(0002,0010\) says")


@pytest.mark.parametrize(
    ("said", "real"), [(RLELossless, ExplicitVRLittleEndian), (ExplicitVRLittleEndian, RLELossless)]
)
def test_compressed_or_not_is_what_the_transfer_syntax_says(said: UID, real: UID) -> None:
    refused(says(said, plain(transfer_syntax=real)), "TransferSyntaxUID")


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless, JPEG2000Lossless])
def test_compressed_pixels_in_a_dataset_of_implicit_vr_are_read(syntax: UID) -> None:
    implicit = says(syntax, plain(transfer_syntax=ImplicitVRLittleEndian))
    value = dcmread(BytesIO(plain(transfer_syntax=syntax))).PixelData
    head = implicit[: implicit.index(b"\xe0\x7f\x10\x00") + 4] + b"\xff\xff\xff\xff"

    assert same(head + value + b"\xfe\xff\xdd\xe0\0\0\0\0", plain())


def test_pixel_data_in_implicit_vr_behind_explicit_elements_are_read() -> None:
    data = plain()
    at = data.index(b"\xe0\x7f\x10\x00OW")
    assert same(data[:at] + b"\xe0\x7f\x10\x00" + data[at + 8 : at + 12] + data[at + 12 :], plain())


@pytest.mark.parametrize("syntax", NATIVE)
def test_pixel_data_of_another_length_than_the_header_says_are_refused(syntax: UID) -> None:
    data = plain(transfer_syntax=syntax)
    refused(edited(data, Columns=39), r"PixelData \(7FE0,0010\) has 2560 bytes")
    refused(edited(data, Rows=31), r"PixelData \(7FE0,0010\)")
    refused(edited(data, Columns=41), "truncated", CorruptImage)
    refused(edited(data, NumberOfFrames=2), "truncated", CorruptImage)
    refused(edited(plain(frames=3, transfer_syntax=syntax), NumberOfFrames=2), r"PixelData \(7FE0,0010\)")


def test_a_filled_up_value_is_read() -> None:
    dataset = dcmread(BytesIO(plain()))
    dataset.PixelData += bytes(12)
    assert same(dicom_bytes(dataset), plain())


def test_more_compressed_frames_than_the_header_says_are_refused() -> None:
    for syntax in LOSSLESS:
        data = plain(frames=3, transfer_syntax=syntax)
        refused(edited(data, NumberOfFrames=2), "offset table|NumberOfFrames")
        without_table = with_streams(plain(frames=3), syntax, streams_of(data), table=False)
        refused(
            edited(without_table, NumberOfFrames=1), "NumberOfFrames" if syntax != RLELossless else None, ImageError
        )


def with_basic_offsets(data: bytes, *offsets: int) -> bytes:
    dataset = dcmread(BytesIO(data))
    (length,) = struct.unpack_from("<I", dataset.PixelData, 4)
    table = struct.pack(f"<{len(offsets)}I", *offsets)
    dataset.PixelData = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(table)) + table + dataset.PixelData[8 + length :]
    return dicom_bytes(dataset)


def test_a_basic_offset_table_that_fits_no_fragments_is_refused() -> None:
    volume = np.stack([STORED, STORED // 2])
    data = make_dicom(volume, bits_stored=12, window=WINDOW, transfer_syntax=JPEGLSLossless)
    first = len(streams_of(data)[0])
    fits = first + first % 2 + 8
    assert len(both_ways(with_basic_offsets(data, 0, fits))) == 2
    assert len(both_ways(with_basic_offsets(data))) == 2
    for wrong in [(0, fits + 2), (0, 0), (fits, 0), (0,), (0, fits, fits), (4, fits)]:
        refused(with_basic_offsets(data, *wrong), "basic offset table")


def test_an_extended_offset_table_has_to_fit() -> None:
    volume = np.stack([STORED, STORED // 2])
    streams = streams_of(make_dicom(volume, bits_stored=12, transfer_syntax=JPEGLSLossless))
    base = make_dicom(volume, bits_stored=12, window=WINDOW)
    value, offsets, lengths = encapsulate_extended(streams)

    def extended(offsets: bytes, lengths: bytes | None) -> bytes:
        dataset = dcmread(BytesIO(with_streams(base, JPEGLSLossless, streams)))
        dataset.PixelData = value
        dataset.ExtendedOffsetTable = offsets
        if lengths is not None:
            dataset.ExtendedOffsetTableLengths = lengths
        return dicom_bytes(dataset)

    assert same(extended(offsets, lengths), base)
    refused(extended(struct.pack("<2Q", 0, 6), lengths), r"ExtendedOffsetTable \(7FE0,0001\)")
    refused(extended(offsets[8:] + offsets[:8], lengths), r"ExtendedOffsetTable \(7FE0,0001\)")
    refused(extended(offsets[:8], lengths[:8]), r"ExtendedOffsetTable \(7FE0,0001\)")
    refused(extended(offsets, struct.pack("<2Q", 20, 20)), r"ExtendedOffsetTableLengths \(7FE0,0002\)")
    refused(extended(offsets, None), r"ExtendedOffsetTableLengths \(7FE0,0002\)", CorruptImage)


COLOUR_STREAMS = {
    RLELossless: lambda: streams_of(make_dicom(COLOUR, photometric="RGB", transfer_syntax=RLELossless)),
    JPEGLSLossless: lambda: streams_of(make_dicom(COLOUR, photometric="RGB", transfer_syntax=JPEGLSLossless)),
    JPEGLosslessSV1: lambda: [bytes(jpeg8_encode(COLOUR, lossless=True, predictor=1))],
    JPEG2000Lossless: lambda: [bytes(jpeg2k_encode(COLOUR, codecformat="J2K", reversible=True, mct=False))],
}


@pytest.mark.parametrize("syntax", COLOUR_STREAMS)
@pytest.mark.parametrize("planar", [0, 1])
def test_the_planar_configuration_is_not_that_of_compressed_frames(syntax: UID, planar: int) -> None:
    base = make_dicom(COLOUR, photometric="RGB")
    assert same(with_streams(base, syntax, COLOUR_STREAMS[syntax](), PlanarConfiguration=planar), base)


def test_a_planar_native_frame_is_read_by_its_planes() -> None:
    planes = edited(make_dicom(COLOUR, photometric="RGB"), PlanarConfiguration=1)
    dataset = dcmread(BytesIO(planes))
    dataset.PixelData = np.ascontiguousarray(COLOUR.transpose(2, 0, 1)).tobytes()
    assert same(dicom_bytes(dataset), make_dicom(COLOUR, photometric="RGB"))
    refused(edited(planes, PlanarConfiguration=None), r"PlanarConfiguration \(0028,0006\) is missing")
    refused(edited(planes, PlanarConfiguration=2), r"PlanarConfiguration \(0028,0006\)")


STREAMS = {
    JPEGBaseline8Bit: lambda: (make_dicom(GREY8), cv2.imencode(".jpg", GREY8)[1].tobytes()),
    JPEGExtended12Bit: lambda: (plain(), bytes(jpeg8_encode(STORED, level=95, bitspersample=12))),
    JPEGLossless: lambda: (plain(), bytes(jpeg8_encode(STORED, lossless=True, bitspersample=12, predictor=4))),
    JPEGLSLossless: lambda: (plain(), streams_of(plain(transfer_syntax=JPEGLSLossless))[0]),
    RLELossless: lambda: (plain(), streams_of(plain(transfer_syntax=RLELossless))[0]),
}


@pytest.mark.parametrize("syntax", STREAMS)
def test_a_frame_that_ends_early_is_not_filled_up(syntax: UID) -> None:
    base, stream = STREAMS[syntax]()
    assert len(both_ways(with_streams(base, syntax, [stream]))) == 1
    for share in (0.5, 0.75, 0.95):
        cut = stream[: int(share * len(stream))]
        for end in (b"", b"\xff\xd9"):  # as a writer that knows nothing of the cut would end it
            refused(with_streams(base, syntax, [cut + end]), None, CorruptImage)


def test_run_lengths_of_another_width_are_refused() -> None:
    data = plain(transfer_syntax=RLELossless)
    for columns in (39, 41, 20):
        refused(edited(data, Columns=columns), None, CorruptImage)


def test_a_jpeg_of_8_bits_is_no_picture_of_12() -> None:
    stream = cv2.imencode(".jpg", GREY8)[1].tobytes()
    refused(with_streams(plain(), JPEGBaseline8Bit, [stream]), r"BitsStored \(0028,0101\) is 12")


def test_a_codestream_of_fewer_bits_keeps_its_values() -> None:
    stored = STORED // 16
    data = make_dicom(stored.astype(np.uint16), bits_stored=12, window=WINDOW, slope=None)
    shallow = bytes(jpeg8_encode(stored.astype(np.uint16), lossless=True, bitspersample=12, predictor=1))
    assert same(with_streams(data, JPEGLosslessSV1, [shallow]), data)


def test_a_big_endian_dataset_has_no_compressed_frames() -> None:
    lying = says(JPEGLSLossless, plain(transfer_syntax=ExplicitVRBigEndian))
    refused(lying, r"TransferSyntaxUID \(0002,0010\) says .* big endian")


def test_one_frame_is_that_frame() -> None:
    volume = np.stack([STORED, STORED // 2, STORED // 4])
    for syntax in LOSSLESS:
        data = make_dicom(volume, bits_stored=12, window=WINDOW, transfer_syntax=syntax)
        for index, picture in enumerate(both_ways(data)):
            assert np.array_equal(decode_one(data, LIMITS, frame=index), picture)
