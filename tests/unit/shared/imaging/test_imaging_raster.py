"""PNG, JPEG and TIFF: what is read, what is refused, and that nothing cut short passes as whole."""

from __future__ import annotations

import base64
import gzip
import struct
from io import BytesIO

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecodecs import jpeg2k_encode, jpeg8_encode, jpegls_encode, jpegxl_encode
from numpy.typing import NDArray

from shared.errors import CorruptImage, EmptyFile, ImageTooLarge, TooCostly, UnsupportedEncoding, UnsupportedImage
from shared.imaging.decode import Limits, MediaType, decode_one, frames, probe
from shared.imaging.preprocess import InputSpec, prepare
from tests.support.files.images import png_header

LIMITS = Limits()


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    small = np.random.default_rng(1).integers(0, 256, (6, 6), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def encode(extension: str, picture: NDArray[np.integer | np.floating], *options: int) -> bytes:
    return cv2.imencode(extension, picture, options)[1].tobytes()


PICTURE = smooth(48, 64)
PNG, JPEG, TIFF = (encode(extension, PICTURE) for extension in (".png", ".jpg", ".tif"))
PROGRESSIVE = encode(".jpg", PICTURE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)


def with_exif(jpeg: bytes, orientation: int, thumbnail: bytes = b"") -> bytes:
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    segment = b"Exif\0\0" + tiff + thumbnail
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize(
    ("data", "media_type"),
    [(PNG, MediaType.PNG), (JPEG, MediaType.JPEG), (PROGRESSIVE, MediaType.JPEG), (TIFF, MediaType.TIFF)],
)
def test_each_format_is_probed_and_decoded(data: bytes, media_type: MediaType) -> None:
    info = probe(BytesIO(data), LIMITS)

    assert (info.media_type, info.width, info.height, info.frames) == (media_type, 64, 48, 1)
    assert (info.modality, info.series_uid, info.study_uid) == (None, None, None)
    [picture] = frames(data, LIMITS)
    assert picture.shape == (48, 64)
    assert np.abs(picture.astype(int) - PICTURE).max() <= (8 if media_type is MediaType.JPEG else 0)


def test_colour_becomes_luma() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 2] = 255

    for data in (encode(".png", red), encode(".jpg", red), encode(".tif", red)):
        assert np.abs(decode_one(data, LIMITS).astype(int) - 76).max() <= 1


def test_no_bytes_are_an_empty_file() -> None:
    for attempt in (lambda: probe(BytesIO(b""), LIMITS), lambda: decode_one(b"", LIMITS)):
        with pytest.raises(EmptyFile):
            attempt()


OTHER_FILES = {
    "JPEG 2000": bytes(jpeg2k_encode(PICTURE)),
    "JPEG XL": bytes(jpegxl_encode(PICTURE)),
    "JPEG XL codestream": b"\xff\x0a" + bytes(200),
    "GIF": b"GIF89a" + bytes(200),
    "BMP": encode(".bmp", PICTURE),
    "WebP": encode(".webp", PICTURE),
    "HEIC": b"\0\0\0\x24ftypheic" + bytes(200),
    "AVIF": b"\0\0\0\x1cftypavif" + bytes(200),
    "NIfTI-1": struct.pack("<I", 348) + bytes(340) + b"n+1\0",
    "gzip file": gzip.compress(b"a NIfTI of a volume"),
    "PDF": b"%PDF-1.7\n" + bytes(200),
    "ZIP archive": b"PK\x03\x04" + bytes(200),
    "Photoshop": b"8BPS" + bytes(200),
    "NRRD": b"NRRD0004\n" + bytes(200),
    "MetaImage": b"ObjectType = Image\nNDims = 3\n",
    "web page": b"<!DOCTYPE html><title>404</title>",
    "program": b"MZ" + bytes(200),
    "MP4 film": b"\0\0\0\x18ftypisom" + bytes(200),
    "RIFF file": b"RIFF\x24\0\0\0WAVE" + bytes(200),
}


@pytest.mark.parametrize(("name", "data"), OTHER_FILES.items(), ids=OTHER_FILES)
def test_other_files_are_called_by_their_name(name: str, data: bytes) -> None:
    for attempt in (lambda: probe(BytesIO(data), LIMITS), lambda: decode_one(data, LIMITS)):
        with pytest.raises(UnsupportedImage, match=f"It is an? {name}"):
            attempt()


def test_a_name_has_the_article_that_is_said() -> None:
    for data, said in ((OTHER_FILES["MP4 film"], "an MP4"), (b"<?xml", "an XML"), (b"BM", "a BMP"), (b"8BPS", "a Ph")):
        with pytest.raises(UnsupportedImage, match=f"It is {said}"):
            probe(BytesIO(data), LIMITS)


@pytest.mark.parametrize("data", [b"text, whatever it is called", b"\x89PNG", bytes(200)])
def test_unknown_magic_bytes_are_refused(data: bytes) -> None:
    for attempt in (lambda: probe(BytesIO(data), LIMITS), lambda: decode_one(data, LIMITS)):
        with pytest.raises(UnsupportedImage):
            attempt()


def test_a_header_of_forty_thousand_squared_is_too_large_without_a_pixel_behind_it() -> None:
    bomb = png_header(40_000, 40_000)

    with pytest.raises(ImageTooLarge):
        probe(BytesIO(bomb), LIMITS)
    with pytest.raises(ImageTooLarge):
        decode_one(bomb, LIMITS)


@pytest.mark.parametrize("data", [PNG, JPEG, TIFF])
def test_the_limit_on_pixels_is_inclusive(data: bytes) -> None:
    assert probe(BytesIO(data), Limits(max_pixels=48 * 64)).width == 64
    for attempt in (probe, lambda file, limits: decode_one(file.getvalue(), limits)):
        with pytest.raises(ImageTooLarge):
            attempt(BytesIO(data), Limits(max_pixels=48 * 64 - 1))


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_without_area_is_corrupt(size: tuple[int, int]) -> None:
    with pytest.raises(CorruptImage):
        probe(BytesIO(png_header(*size)), LIMITS)


def test_a_png_header_with_a_wrong_checksum_is_corrupt() -> None:
    with pytest.raises(CorruptImage):
        probe(BytesIO(PNG[:20] + b"\xff" + PNG[21:]), LIMITS)


@settings(deadline=None)
@given(cut=st.integers(8, len(PNG) - 1))
def test_a_png_cut_anywhere_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptImage):
        decode_one(PNG[:cut], LIMITS)


@settings(deadline=None)
@given(cut=st.integers(3, len(JPEG) - 1))
def test_a_jpeg_cut_anywhere_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptImage):
        decode_one(JPEG[:cut], LIMITS)


@settings(deadline=None)
@given(cut=st.integers(3, len(PROGRESSIVE) - 1))
def test_a_progressive_jpeg_with_restart_markers_cut_anywhere_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptImage):
        decode_one(PROGRESSIVE[:cut], LIMITS)


@settings(deadline=None)
@given(cut=st.integers(4, len(TIFF) - 1))
def test_a_tiff_cut_anywhere_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptImage):
        decode_one(TIFF[:cut], LIMITS)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_jpeg() -> None:
    whole = with_exif(JPEG, 1, thumbnail=JPEG)

    assert decode_one(whole, LIMITS).shape == (48, 64)
    with pytest.raises(CorruptImage):
        decode_one(whole[: len(JPEG) + 700], LIMITS)


def test_bytes_after_the_end_do_no_harm() -> None:
    for data in (PNG, JPEG):
        assert np.array_equal(decode_one(data + bytes(100), LIMITS), decode_one(data, LIMITS))


@settings(deadline=None)
@given(position=st.integers(33, len(PNG) - 13), change=st.integers(1, 255))
def test_a_png_with_any_byte_changed_is_corrupt(position: int, change: int) -> None:
    damaged = bytearray(PNG)
    damaged[position] ^= change

    with pytest.raises(CorruptImage):
        decode_one(bytes(damaged), LIMITS)


def test_exif_orientation_is_honoured() -> None:
    turned = decode_one(with_exif(JPEG, 6), LIMITS)  # 6: turn by 90 degrees clockwise to display

    assert np.array_equal(turned, np.rot90(decode_one(JPEG, LIMITS), -1))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_sixteen_bit_pictures_are_scaled_by_the_depth_that_holds_them(bits: int, extension: str) -> None:
    top = (1 << bits) - 1
    stored = np.array([[0, top // 4, top // 2, top]], dtype=np.uint16)

    grey = decode_one(encode(extension, stored), LIMITS)

    assert grey.tolist() == [np.rint(stored[0] * (255.0 / top)).astype(int).tolist()]


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_tiff_is_turned_around(bits: int) -> None:
    picture = PICTURE if bits == 8 else PICTURE.astype(np.uint16) * 257
    data = bytearray(encode(".tif", picture, cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_NONE))
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    data[at] = 0

    assert np.array_equal(decode_one(bytes(data), LIMITS), 255 - PICTURE)


def multi_page() -> tuple[list[NDArray[np.uint8]], bytes]:
    pages = [PICTURE, PICTURE[:20, :30], 255 - PICTURE]
    return pages, cv2.imencodemulti(".tif", pages)[1].tobytes()


def test_the_pages_of_a_tiff_are_its_frames() -> None:
    pages, data = multi_page()

    assert probe(BytesIO(data), LIMITS).frames == 3
    assert all(np.array_equal(page, frame) for page, frame in zip(pages, frames(data, LIMITS), strict=True))
    assert np.array_equal(decode_one(data, LIMITS, frame=1), pages[1])
    with pytest.raises(IndexError):
        decode_one(data, LIMITS, frame=3)


def test_too_many_pages_are_too_large() -> None:
    with pytest.raises(ImageTooLarge):
        probe(BytesIO(multi_page()[1]), Limits(max_frames=2))


def test_tiff_directories_in_a_ring_are_corrupt() -> None:
    ring = b"II*\0" + struct.pack("<IH", 8, 2)
    ring += struct.pack("<HHII", 256, 4, 1, 5) + struct.pack("<HHII", 257, 4, 1, 5) + struct.pack("<I", 8)

    with pytest.raises(CorruptImage, match="ring"):
        probe(BytesIO(ring), LIMITS)


def test_floating_point_tiff_is_unsupported() -> None:
    with pytest.raises(UnsupportedEncoding, match="floating point"):
        probe(BytesIO(encode(".tif", PICTURE.astype(np.float32))), LIMITS)


def test_a_jpeg_of_twelve_bits_is_unsupported() -> None:
    at = JPEG.index(b"\xff\xc0") + 4

    with pytest.raises(UnsupportedEncoding, match="12 bits"):
        probe(BytesIO(JPEG[:at] + b"\x0c" + JPEG[at + 1 :]), LIMITS)


def test_a_reduced_jpeg_prepares_to_nearly_the_same_picture() -> None:
    large = encode(".jpg", smooth(1024, 1536))

    whole, reduced = decode_one(large, LIMITS), decode_one(large, LIMITS, target=64)

    assert reduced.shape == (512, 768)
    difference = prepare(whole, InputSpec(size=64)).astype(int) - prepare(reduced, InputSpec(size=64))
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("shape", [(511, 1024), (1022, 257), (254, 512)])
def test_a_jpeg_that_does_not_reduce_evenly_or_enough_is_decoded_whole(shape: tuple[int, int]) -> None:
    data = encode(".jpg", smooth(*shape))

    assert np.array_equal(decode_one(data, LIMITS, target=16), decode_one(data, LIMITS))


@pytest.mark.parametrize("data", [PNG, TIFF])
def test_a_target_leaves_the_other_formats_alone(data: bytes) -> None:
    assert np.array_equal(decode_one(data, LIMITS, target=2), decode_one(data, LIMITS))


def segments_of(jpeg: bytes) -> list[int]:
    """Where the segments before the first scan begin."""
    starts, at = [], 2
    while jpeg[at + 1] != 0xDA:
        starts.append(at)
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    return [*starts, at]


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("junk", [b"\0", b"\0\xff\0junk", b"\xff\xff\xff", bytes(200_000)])
def test_bytes_between_segments_are_passed_over(data: bytes, junk: bytes) -> None:
    """As libjpeg does, which warns; at any place between the first segment and the first scan."""
    wanted = decode_one(data, LIMITS)
    for at in segments_of(data)[1:]:
        odd = data[:at] + junk + data[at:]

        assert probe(BytesIO(odd), LIMITS).width == 64
        assert np.array_equal(decode_one(odd, LIMITS), wanted)


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_jpeg_whose_data_end_before_its_picture_is_corrupt(data: bytes, share: float) -> None:
    """Closed properly all the same: decoders fill the rest with grey, and go on."""
    at = segments_of(data)[-1]
    cut = at + int((len(data) - at) * share)

    with pytest.raises(CorruptImage):
        decode_one(data[:cut] + b"\xff\xd9", LIMITS)


def coloured() -> NDArray[np.uint8]:
    return np.dstack([PICTURE, np.roll(PICTURE, 9, axis=1), 255 - PICTURE])


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (bytes(jpeg8_encode(coloured(), level=98, outcolorspace="RGB")), cv2.cvtColor(coloured(), cv2.COLOR_RGB2GRAY)),
        (bytes(jpeg8_encode(PICTURE, lossless=True)), PICTURE),
        (bytes(jpegls_encode(PICTURE)), PICTURE),
        (bytes(jpegls_encode(PICTURE.astype(np.uint16) * 257)), PICTURE),
        (bytes(jpegls_encode(coloured())), cv2.cvtColor(coloured(), cv2.COLOR_RGB2GRAY)),
    ],
    ids=["RGB", "lossless", "JPEG-LS", "JPEG-LS of 16 bits", "JPEG-LS of colour"],
)
def test_other_kinds_of_jpeg_are_read(data: bytes, wanted: NDArray[np.uint8]) -> None:
    assert probe(BytesIO(data), LIMITS).media_type is MediaType.JPEG
    assert np.abs(decode_one(data, LIMITS).astype(int) - wanted).max() <= 8


def test_inks_are_those_of_photoshop_which_writes_them_inverted() -> None:
    data = bytes(jpeg8_encode(np.dstack([coloured(), np.full_like(PICTURE, 255)]), level=98, colorspace="CMYK",
                              outcolorspace="CMYK"))  # fmt: skip

    found = decode_one(data, LIMITS).astype(int)

    assert np.abs(found - cv2.cvtColor(coloured(), cv2.COLOR_RGB2GRAY)).max() <= 8


# A picture of 24 by 16 pixels, by `jpegtran -arithmetic`.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYUGBIU"
    "FRT/yQALCAAQABgBAREA/8wABgAQEAX/2gAIAQEAAD8A0rv5zvOOlScFGUi0eR7CfUjObC0d5xT74zA4O4Aonh6kh8nh7UGMVAvisv7cf0XMYLfo4RjlOc"
    "/9Cb8RpaF5WTi+HhSHr0Xpa9cHguqUmb2Nz4x1ewjgFNaPEzjdXgewWh9P5foDkjtood0/JNe4hSgbDy3FT7w/rkEQmRThkbP2n4oLjoMNKv/Z"
)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (ARITHMETIC, "arithmetic-coded"),
        (bytes(jpeg8_encode(PICTURE.astype(np.uint16) * 16, bitspersample=12)), "12 bits"),
        (bytes(jpeg8_encode(PICTURE.astype(np.uint16) * 257, lossless=True, bitspersample=16)), "16 bits"),
        (JPEG.replace(b"\xff\xc0", b"\xff\xc5", 1), "hierarchical"),
    ],
)
def test_kinds_of_jpeg_that_are_not_read_are_named(data: bytes, name: str) -> None:
    for attempt in (lambda: probe(BytesIO(data), LIMITS), lambda: decode_one(data, LIMITS)):
        with pytest.raises(UnsupportedEncoding, match=name):
            attempt()


def test_a_jpeg_of_many_scans_is_too_costly() -> None:
    """Each is a pass over the whole picture, and takes a hundred bytes."""
    last = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]

    with pytest.raises(TooCostly, match="101 scans"):
        decode_one(PROGRESSIVE[:-2] + last * 30_000 + b"\xff\xd9", LIMITS)


def test_a_large_jpeg_has_fewer_scans() -> None:
    height = PROGRESSIVE.index(b"\xff\xc2") + 5
    large = PROGRESSIVE[:height] + struct.pack(">HH", 8000, 8000) + PROGRESSIVE[height + 4 :]
    last = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]

    with pytest.raises(TooCostly, match="32 scans or more; for 64000000 pixels at most 31"):
        decode_one(large[:-2] + last * 40 + b"\xff\xd9", LIMITS)


def test_segments_without_end_are_too_costly_to_walk() -> None:
    with pytest.raises(TooCostly, match="segments"):
        probe(BytesIO(b"\xff\xd8" + b"\xff\xfe\0\x02" * 1_000_000), LIMITS)
