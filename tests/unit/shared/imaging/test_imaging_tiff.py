"""TIFF in every layout that is read, written by tifffile; what is refused by name; strips that are not all there."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from imagecodecs import bitorder_decode, jpeg8_encode, lerc_encode
from numpy.typing import NDArray

from shared.errors import CorruptImage, ImageError, ImageTooLarge, TooCostly, UnsupportedEncoding
from shared.imaging.decode import Limits, decode_one, frames, probe
from shared.imaging.tiff.tags import COMPRESSIONS, REFUSED_COMPRESSIONS

LIMITS = Limits()
BLOBS = np.random.default_rng(3).integers(0, 256, (7, 9), dtype=np.uint8)
GREY = np.asarray(cv2.resize(BLOBS, (83, 61), interpolation=cv2.INTER_CUBIC), np.uint8)
DEEP = GREY.astype(np.uint16) * 257
COLOUR = np.dstack([GREY, np.roll(GREY, 9, axis=1), 255 - GREY])
LUMA = np.asarray(cv2.cvtColor(COLOUR, cv2.COLOR_RGB2GRAY), np.uint8)
ALPHA = np.dstack([COLOUR, np.roll(GREY, 3, axis=0)])
INKS = np.dstack([255 - COLOUR, np.zeros_like(GREY)])


def tiff(picture: Any, **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, picture, **{"metadata": None, **options})
    return file.getvalue()


def with_tags(data: bytes, values: Mapping[int, int]) -> bytes:
    """The first value of some tags of the first page changed; SHORT or LONG, in the entry itself."""
    changed = bytearray(data)
    with tifffile.TiffFile(BytesIO(data)) as file:
        order, found = file.byteorder, {tag.code: tag for tag in file.pages.first.tags}
    for code, value in values.items():
        tag = found[code]
        struct.pack_into(order + {3: "H", 4: "I"}[tag.dtype], changed, tag.valueoffset, value)
    return bytes(changed)


def planes(picture: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(picture, 2, 0))


SIXTEEN_GREYS = [level * 17 * 257 for level in range(16)] * 3
RGB_TAGS = {"photometric": "rgb"}
LAYOUTS: dict[str, tuple[bytes, NDArray[Any], int]] = {
    "one strip": (tiff(GREY), GREY, 0),
    "rows": (tiff(GREY, rowsperstrip=1), GREY, 0),
    "strips that do not divide": (tiff(GREY, rowsperstrip=17), GREY, 0),
    "tiles": (tiff(GREY, tile=(16, 32)), GREY, 0),
    "a tile beyond the picture": (tiff(GREY, tile=(256, 256)), GREY, 0),
    "big endian": (tiff(DEEP, byteorder=">"), GREY, 0),
    "big endian with differences": (tiff(DEEP, byteorder=">", compression="zlib", predictor=2), GREY, 0),
    "BigTIFF of big endian in tiles": (tiff(DEEP, byteorder=">", bigtiff=True, tile=(32, 32)), GREY, 0),
    "colour": (tiff(COLOUR, **RGB_TAGS), LUMA, 0),
    "colour of 16 bits": (tiff(COLOUR.astype(np.uint16) * 257, **RGB_TAGS), LUMA, 1),
    "colour in planes": (tiff(planes(COLOUR), planarconfig="separate", **RGB_TAGS), LUMA, 0),
    "colour in planes of tiles": (tiff(planes(COLOUR), planarconfig="separate", tile=(16, 16), **RGB_TAGS), LUMA, 0),
    "16 bits in planes of strips": (
        tiff(planes(COLOUR.astype(np.uint16) * 257), planarconfig="separate", rowsperstrip=7, **RGB_TAGS), LUMA, 1,
    ),
    "planes with differences": (
        tiff(planes(COLOUR), planarconfig="separate", compression="lzw", predictor=2, **RGB_TAGS), LUMA, 0,
    ),
    "colour with differences": (tiff(COLOUR, compression="lzw", predictor=2, **RGB_TAGS), LUMA, 0),
    "colour and alpha": (tiff(ALPHA, extrasamples=["unassalpha"], **RGB_TAGS), LUMA, 0),
    "alpha in its plane": (
        tiff(planes(ALPHA), planarconfig="separate", extrasamples=["assocalpha"], **RGB_TAGS), LUMA, 0,
    ),
    "grey and alpha": (tiff(np.dstack([GREY, LUMA]), photometric="minisblack", extrasamples=["unassalpha"]), GREY, 0),
    "grey and something": (
        tiff(np.dstack([GREY, LUMA, LUMA]), photometric="minisblack", extrasamples=["unspecified"] * 2), GREY, 0,
    ),
    "inks": (tiff(INKS, photometric="separated"), LUMA, 1),
    "YCbCr, not subsampled": (
        with_tags(tiff(COLOUR, photometric="rgb", extratags=[(530, 3, 2, (1, 1), True)]), {262: 6}), GREY, 0,
    ),
    "white is zero": (tiff(255 - GREY, photometric="miniswhite"), GREY, 0),
    "white is zero of 16 bits": (tiff(65535 - DEEP, photometric="miniswhite"), GREY, 0),
    "one bit": (tiff(GREY > 127, photometric="minisblack"), ((GREY > 127) * 255).astype(np.uint8), 0),
    "one bit, white is zero": (tiff(GREY > 127, photometric="miniswhite"), ((GREY <= 127) * 255).astype(np.uint8), 0),
    "four bits": (tiff(GREY >> 4, bitspersample=4), (GREY >> 4) * 17, 0),
    "twelve bits": (tiff((GREY.astype(np.uint16) << 4) + 15, bitspersample=12), GREY, 1),
    "palette": (
        tiff(GREY, photometric="palette", colormap=np.tile(np.arange(256, dtype=np.uint16)[::-1] * 257, (3, 1))),
        255 - GREY, 0,
    ),
    "palette of 8 bits": (
        tiff(GREY, photometric="palette", colormap=np.tile(np.arange(256, dtype=np.uint16), (3, 1))), GREY, 0,
    ),
    "palette of 16 colours": (
        with_tags(tiff(GREY >> 4, bitspersample=4, extratags=[(320, 3, 48, SIXTEEN_GREYS, True)]), {262: 3}),
        (GREY >> 4) * 17, 0,
    ),
    "LZW": (tiff(GREY, compression="lzw"), GREY, 0),
    "deflate": (tiff(GREY, compression="zlib", rowsperstrip=20), GREY, 0),
    "Adobe's deflate": (tiff(GREY, compression="deflate"), GREY, 0),
    "PackBits": (tiff(GREY, compression="packbits"), GREY, 0),
    "Zstandard with differences": (tiff(DEEP, compression="zstd", predictor=2, tile=(16, 16)), GREY, 0),
    "LZMA": (tiff(GREY, compression="lzma"), GREY, 0),
    "LERC": (tiff(GREY, compression="lerc"), GREY, 0),
    "WebP": (tiff(COLOUR, compression="webp", compressionargs={"lossless": True}, **RGB_TAGS), LUMA, 1),
    "JPEG XL": (tiff(DEEP, compression="jpegxl", compressionargs={"lossless": True}), GREY, 0),
    "JPEG 2000": (tiff(DEEP, compression="jpeg2000", tile=(32, 32)), GREY, 0),
    "JPEG 2000 of colour": (tiff(COLOUR, compression="jpeg2000", **RGB_TAGS), LUMA, 1),
    "JPEG": (tiff(GREY, compression="jpeg", compressionargs={"level": 98}), GREY, 6),
    "JPEG of colour": (tiff(COLOUR, compression="jpeg", compressionargs={"level": 98}, **RGB_TAGS), LUMA, 12),
    "JPEG in tiles": (tiff(GREY, compression="jpeg", tile=(32, 32), compressionargs={"level": 98}), GREY, 6),
    "JPEG of RGB": (
        tiff(iter([bytes(jpeg8_encode(COLOUR, level=98, colorspace="RGB", outcolorspace="RGB"))]), shape=COLOUR.shape,
             dtype="uint8", compression="jpeg", **RGB_TAGS), LUMA, 8,
    ),
    "samples of no format": (tiff(GREY, extratags=[(339, 3, 1, 4, True)]), GREY, 0),
    "longer strips than they must be": (
        with_tags(tiff(GREY) + b"more", {279: GREY.size + 4}), GREY, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "wanted", "levels"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_has_the_pixels_that_were_written(data: bytes, wanted: NDArray[Any], levels: int) -> None:
    info = probe(BytesIO(data), LIMITS)
    found = decode_one(data, LIMITS)

    assert (info.width, info.height) == (83, 61)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= levels


@pytest.mark.parametrize("number", range(1, 9))
def test_orientation_is_honoured(number: int) -> None:
    """TIFF 6.0, Orientation: where the first row and the first column lie."""
    turned = [GREY, np.fliplr(GREY), np.rot90(GREY, 2), np.flipud(GREY)]
    turned += [GREY.T, np.rot90(GREY, -1), np.rot90(GREY, 2).T, np.rot90(GREY)]

    found = decode_one(tiff(GREY, extratags=[(274, 3, 1, number, True)]), LIMITS)

    assert np.array_equal(found, turned[number - 1])


@pytest.mark.parametrize("compression", ["none", "lzw", "packbits"])
def test_bits_may_come_the_lowest_first(compression: str) -> None:
    # tifffile writes no FillOrder: it becomes one out of a tag of its own that sorts beside it.
    written = tiff(GREY, compression=compression, extratags=[(267, 3, 1, 1, True)])
    plain = written.replace(struct.pack("<HHI", 267, 3, 1), struct.pack("<HHI", 266, 3, 1))
    with tifffile.TiffFile(BytesIO(plain)) as file:
        page = file.pages.first
        offset, size = page.dataoffsets[0], page.databytecounts[0]
    changed = bytearray(with_tags(plain, {266: 2}))
    changed[offset : offset + size] = bitorder_decode(plain[offset : offset + size])

    assert np.array_equal(decode_one(bytes(changed), LIMITS), GREY)


def test_a_predictor_that_the_compression_does_not_have_is_passed_over() -> None:
    """As libtiff does: PackBits and uncompressed strips hold values, whatever the tag says."""
    data = tiff(GREY, compression="packbits", extratags=[(317, 3, 1, 2, True)])

    assert np.array_equal(decode_one(data, LIMITS), GREY)


REFUSED: dict[str, tuple[bytes, str]] = {
    "floating point": (tiff(GREY.astype(np.float32)), "floating point"),
    "signed": (tiff(GREY.astype(np.int16)), "signed integers"),
    "complex": (tiff(GREY.astype(np.complex64)), "complex"),
    "32 bits": (tiff(GREY.astype(np.uint32)), "32 bits"),
    "CIE L*a*b*": (tiff(COLOUR, photometric="cielab"), r"CIE L\*a\*b\*"),
    "colour filter array": (tiff(GREY, photometric="cfa"), "colour filter array"),
    "transparency mask": (tiff(GREY > 127, photometric="mask"), "transparency mask"),
    "subsampled YCbCr": (with_tags(tiff(COLOUR, **RGB_TAGS), {262: 6}), "subsampled"),
    "unequal depths": (
        with_tags(tiff(np.dstack([GREY, GREY]), photometric="minisblack", extrasamples=["unspecified"]), {258: 4}),
        "unequal depth",
    ),
    "JPEG of 12 bits": (
        tiff(iter([bytes(jpeg8_encode(DEEP >> 4, bitspersample=12))]), shape=GREY.shape, dtype="uint16",
             compression="jpeg"), "12 bits",
    ),
    "inks in JPEG": (tiff(INKS, photometric="separated", compression="jpeg"), "4 samples|CMYK"),
    "a volume": (tiff(np.stack([GREY] * 16), volumetric=True, tile=(16, 16, 16)), "volumes"),
    **{
        f"compression {number}": (with_tags(tiff(GREY), {259: number}), f"compression {number} .{name}")
        for number, name in REFUSED_COMPRESSIONS.items()
    },
    "unknown compression": (with_tags(tiff(GREY), {259: 4711}), "4711 .unknown"),
    "unknown photometric": (with_tags(tiff(GREY), {262: 4711}), "4711 .unknown"),
    "LERC that is compressed once more": (
        tiff(GREY, compression="lerc", compressionargs={"compression": "zstd"}), "compressed once more",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "name"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_read_is_refused_by_name_at_the_first_look(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedEncoding, match=name):
        probe(BytesIO(data), LIMITS)
    with pytest.raises(UnsupportedEncoding, match=name):
        decode_one(data, LIMITS)


def test_no_compression_is_both_read_and_refused() -> None:
    assert not set(COMPRESSIONS) & set(REFUSED_COMPRESSIONS)


@pytest.mark.parametrize(
    "compression", ["none", "lzw", "zlib", "packbits", "zstd", "lzma", "lerc", "jpegxl", "jpeg2000"]
)
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_a_strip_or_tile_that_is_cut_short_is_corrupt(compression: str, tile: tuple[int, int] | None) -> None:
    """Its byte count says less than the codec needs: what is missing would be memory, black or grey."""
    data = tiff(GREY, compression=compression, tile=tile)
    with tifffile.TiffFile(BytesIO(data)) as file:
        counts = file.pages.first.tags[325 if tile else 279]
    first, layout = counts.value[0], {3: "<H", 4: "<I", 16: "<Q"}[counts.dtype]
    for share in (2, 3, 10):
        cut = bytearray(data)
        struct.pack_into(layout, cut, counts.valueoffset, first - first // share - 1)
        with pytest.raises(CorruptImage):
            decode_one(bytes(cut), LIMITS)


def test_a_jpeg_strip_that_ends_early_and_says_so_properly_is_corrupt() -> None:
    whole = cv2.imencode(".jpg", GREY)[1].tobytes()
    data = tiff(iter([whole[: len(whole) * 2 // 3] + b"\xff\xd9"]), shape=GREY.shape, dtype="uint8", compression="jpeg")

    with pytest.raises(CorruptImage, match="premature end"):
        decode_one(data, LIMITS)


@pytest.mark.parametrize("value", [0, 1 << 30])
@pytest.mark.parametrize("tag", [273, 279])
def test_a_strip_that_is_missing_or_beyond_the_end_is_corrupt(tag: int, value: int) -> None:
    data = tiff(GREY, rowsperstrip=61)

    with pytest.raises(CorruptImage):
        decode_one(with_tags(data, {tag: value}), LIMITS)


def test_fewer_strips_than_the_picture_needs_are_corrupt() -> None:
    data = with_tags(tiff(GREY, rowsperstrip=61), {278: 10})

    with pytest.raises(CorruptImage, match="1 of the 7 strips"):
        decode_one(data, LIMITS)


def test_tiles_that_are_mostly_outside_of_the_picture_are_too_costly() -> None:
    """Each is decoded whole for a corner of it, on each of two thousand pages."""
    data = tiff(GREY[:16, :16], tile=(16, 16))
    wide = with_tags(data, {322: 65520, 323: 4096})

    for attempt in (lambda: probe(BytesIO(wide), LIMITS), lambda: decode_one(wide, LIMITS)):
        with pytest.raises(TooCostly, match="65520 x 4096"):
            attempt()


def test_directories_of_more_entries_than_any_program_writes_are_too_costly() -> None:
    directory = struct.pack("<H", 60_000) + b"".join(struct.pack("<HHII", n, 3, 1, 1) for n in range(60_000))

    with pytest.raises(TooCostly, match="60000 directory entries"):
        probe(BytesIO(b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0)), LIMITS)


def test_only_as_many_values_are_read_as_a_page_has() -> None:
    """Two thousand directories, each of whose entries points at the same million values: read once each, it takes a
    minute. The file object counts what is asked of it."""
    count, values = 500, 1_000_000
    tags = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, values, 0), (273, 4, values, 0), (277, 3, 1, 1),
            (279, 4, values, 0), (339, 3, values, 0)]  # fmt: skip
    size = 2 + 12 * len(tags) + 4
    start = 8 + count * size
    directories = []
    for number in range(count):
        entries = b"".join(struct.pack("<HHII", t, k, n, start if n > 1 else v) for t, k, n, v in tags)
        following = 8 + (number + 1) * size if number + 1 < count else 0
        directories.append(struct.pack("<H", len(tags)) + entries + struct.pack("<I", following))

    class Counting(BytesIO):
        asked = 0

        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            self.asked += len(found)
            return found

    file = Counting(b"II*\0" + struct.pack("<I", 8) + b"".join(directories) + struct.pack("<H", 1) * (2 * values))
    assert probe(file, LIMITS).frames == count
    assert file.asked < 2 * count * size


def test_pages_of_a_tiff_are_read_one_after_the_other() -> None:
    """Each once: with OpenCV the way to a page was through all before it."""
    pages = [np.full((8, 8), level % 256, np.uint8) for level in range(2000)]
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in pages:
            writer.write(page, metadata=None, contiguous=False)

    found = list(frames(file.getvalue(), LIMITS))

    assert [int(page[0, 0]) for page in found] == [level % 256 for level in range(2000)]


def test_bigtiff_with_offsets_of_another_size_is_named() -> None:
    with pytest.raises(UnsupportedEncoding, match="BigTIFF"):
        probe(BytesIO(b"II+\0" + struct.pack("<HHQ", 16, 0, 16)), LIMITS)


def test_bigtiff_offsets_beyond_the_end_are_corrupt() -> None:
    for offset in (1 << 40, (1 << 64) - 1):
        with pytest.raises(CorruptImage):
            probe(BytesIO(b"II+\0" + struct.pack("<HHQ", 8, 0, offset)), LIMITS)


def test_lerc_pixels_that_are_left_out_are_not_made_up() -> None:
    mask = np.ones_like(GREY, dtype=bool)
    mask[10:20, 10:20] = False
    blob = bytes(lerc_encode(GREY, masks=mask))
    data = tiff(iter([blob]), shape=GREY.shape, dtype="uint8", compression="lerc")

    with pytest.raises(CorruptImage, match="leaves pixels out"):
        decode_one(data, LIMITS)


@pytest.mark.parametrize("size", [(0, 61), (83, 0), (1 << 20, 1 << 12)])
def test_sizes_are_held_to_the_limits(size: tuple[int, int]) -> None:
    changed = with_tags(tiff(GREY, extratags=[]), dict(zip((256, 257), size, strict=True)))

    with pytest.raises(ImageError) as raised:
        probe(BytesIO(changed), LIMITS)
    assert isinstance(raised.value, CorruptImage | ImageTooLarge)
