"""Decoders for pydicom: JPEG by simplejpeg, lossless JPEG and RLE by imagecodecs, JPEG 2000 by OpenCV or imagecodecs.

pydicom would give them to GDCM, which ends the process, or corrupts its memory, over damaged codestreams; these raise.
None of them fills in what a frame lacks. The names `is_available` and `DECODER_DEPENDENCIES` are those of pydicom's
plugin interface.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from imagecodecs import jpeg2k_decode, jpeg8_decode, packbits_decode
from numpy.typing import NDArray
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    RLELossless,
)

from shared.imaging.jpeg import decode_stream, with_transform

JPEG_PLUGIN, JPEG_LOSSLESS_PLUGIN, JPEG2000_PLUGIN = "thoraq-jpegturbo", "thoraq-imagecodecs", "thoraq-openjpeg"
RLE_PLUGIN = "thoraq-packbits"
DECODER_DEPENDENCIES: dict[UID, tuple[str, ...]] = {
    JPEGBaseline8Bit: ("simplejpeg",),
    JPEGExtended12Bit: ("simplejpeg", "imagecodecs"),
    JPEGLossless: ("imagecodecs",),
    JPEGLosslessSV1: ("imagecodecs",),
    RLELossless: ("imagecodecs",),
    JPEG2000Lossless: ("imagecodecs",),
    JPEG2000: ("imagecodecs",),
    HTJ2KLossless: ("imagecodecs",),
    HTJ2KLosslessRPCL: ("imagecodecs",),
    HTJ2K: ("imagecodecs",),
}
#: Entropy-coded bytes of no meaning; none is FF, which would begin a marker.
_MORE_CODES = bytes(range(0x11, 0xFF, 7)) * 4


def is_available(uid: str) -> bool:
    """Return True: the libraries are requirements, so every syntax of the table is available."""
    return uid in DECODER_DEPENDENCIES


def decode_jpeg(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode a frame, grey or colour, which becomes RGB; raises CorruptImage or RuntimeError when it is damaged."""
    if runner.bits_stored > 8:
        return decode_jpeg_lossless(src, runner)  # the 8-bit codec knows no more
    if runner.samples_per_pixel == 1:
        return _decoded(decode_stream(src, "GRAY"), runner)
    # In DICOM the photometric interpretation says what the colours are, where the stream does not (PS3.5, 8.2.1).
    is_rgb = runner.photometric_interpretation == PhotometricInterpretation.RGB
    frame = _decoded(decode_stream(with_transform(src, 0 if is_rgb else 1), "RGB"), runner)
    runner.set_option("photometric_interpretation", PhotometricInterpretation.RGB)
    return frame


def decode_jpeg_lossless(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode a lossless frame, or one of 12 bits; raises RuntimeError or ValueError when it is damaged.

    libjpeg fills up what is missing with grey and only warns, which imagecodecs does not pass on. Codes behind the
    last one change nothing in a frame that is whole, and the picture of one that is not.
    """
    picture = jpeg8_decode(src)
    end = src.rfind(b"\xff\xd9")
    if end < 0 or not np.array_equal(picture, jpeg8_decode(src[:end] + _MORE_CODES + src[end:])):
        raise ValueError("The frame ends early.")
    return _decoded(picture, runner)


def _decoded(picture: NDArray[Any], runner: DecodeRunner) -> bytearray:
    """Return a picture (H, W) or (H, W, samples) as pydicom takes it."""
    if picture.size != runner.rows * runner.columns * runner.samples_per_pixel:
        raise ValueError("The frame does not have the size that its header says.")
    runner.set_option("bits_allocated", 8 * picture.itemsize)
    runner.set_option("planar_configuration", 0)  # the header speaks of uncompressed pixels (PS3.5 8.2)
    return bytearray(picture.tobytes())


def decode_rle(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode a frame of RLE segments (PS3.5, annex G); raises ValueError or RuntimeError unless each fits the frame."""
    rows, columns, samples = runner.rows, runner.columns, runner.samples_per_pixel
    sample_bytes = runner.bits_allocated // 8
    # (sample, pixel, byte): the segments are the samples' bytes, the most significant first.
    planes = np.empty((samples, rows * columns, sample_bytes), np.uint8)
    for index, segment in enumerate(_rle_segments(src, samples * sample_bytes)):
        decoded = np.frombuffer(packbits_decode(segment), np.uint8)
        # A byte that makes the segment even may be read as one more; a whole row or column is another picture.
        if not 0 <= decoded.size - rows * columns < max(2, min(rows, columns)):
            raise ValueError("A segment does not have the frame's size.")
        sample, byte = divmod(index, sample_bytes)
        planes[sample, :, sample_bytes - 1 - byte] = decoded[: rows * columns]
    runner.set_option("planar_configuration", 1)
    return bytearray(planes.tobytes())


def _rle_segments(src: bytes, expected: int) -> Iterator[bytes]:
    number, *offsets = struct.unpack_from("<16I", src)
    if number != expected:
        raise ValueError("The frame does not have a segment for each byte of its samples.")
    bounds = [*offsets[:number], len(src)]
    if bounds[0] < 64 or any(start >= end for start, end in pairwise(bounds)):
        raise ValueError("The segments' offsets are damaged.")
    return (src[start:end] for start, end in pairwise(bounds))


#: SOC and SIZ (ISO/IEC 15444-1, A.4 and A.5): what every codestream begins with.
JPEG2000_CODESTREAM = b"\xff\x4f\xff\x51"


def decode_jpeg2000(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode a frame; OpenJPEG undoes the colour transform and chooses 8 or 16 bits by the codestream's precision.

    Raises ValueError or RuntimeError when it is damaged.
    """
    precision = runner.get_option("j2k_precision", runner.bits_stored)
    grey = runner.samples_per_pixel == 1 and precision >= 8 and not runner.get_option("j2k_is_signed", False)
    # A codestream, as DICOM wants it (PS3.5 A.4.4): OpenCV's OpenJPEG 2.5.3 reads JP2 headers with CVE-2025-54874.
    if grey and src.startswith(JPEG2000_CODESTREAM):
        # In half of imagecodecs' time; it reads neither signed nor shallower samples.
        return _through_opencv(src, runner)
    picture = jpeg2k_decode(src)
    if picture.itemsize > 2:
        raise ValueError("The frame has more than 16 bits.")
    frame = _decoded(picture, runner)
    if runner.photometric_interpretation in (PhotometricInterpretation.YBR_ICT, PhotometricInterpretation.YBR_RCT):
        runner.set_option("photometric_interpretation", PhotometricInterpretation.RGB)
    return frame


def _through_opencv(src: bytes, runner: DecodeRunner) -> bytearray:
    picture = cv2.imdecode(np.frombuffer(src, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("OpenCV cannot decode the frame.")
    return _decoded(picture, runner)


for _syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
    get_decoder(_syntax).add_plugin(JPEG_PLUGIN, (__name__, decode_jpeg.__name__))
for _syntax in (JPEGLossless, JPEGLosslessSV1):
    get_decoder(_syntax).add_plugin(JPEG_LOSSLESS_PLUGIN, (__name__, decode_jpeg_lossless.__name__))
for _syntax in (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K):
    get_decoder(_syntax).add_plugin(JPEG2000_PLUGIN, (__name__, decode_jpeg2000.__name__))
get_decoder(RLELossless).add_plugin(RLE_PLUGIN, (__name__, decode_rle.__name__))
