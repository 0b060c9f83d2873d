"""Decoders for pydicom: JPEG through OpenCV or libjpeg-turbo (imagecodecs), JPEG 2000 through OpenCV or OpenJPEG.

pydicom would give them to GDCM, which ends the process, or corrupts its memory, over damaged codestreams; these raise.
The names `is_available` and `DECODER_DEPENDENCIES` are those of pydicom's plugin interface.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
from imagecodecs import jpeg8_decode
from openjpeg.utils import decode_pixel_data
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
)

ADOBE = b"Adobe"
JPEG_PLUGIN, JPEG_LOSSLESS_PLUGIN, JPEG2000_PLUGIN = "thoraq-opencv", "thoraq-imagecodecs", "thoraq-openjpeg"
DECODER_DEPENDENCIES: dict[UID, tuple[str, ...]] = {
    JPEGBaseline8Bit: ("opencv",),
    JPEGExtended12Bit: ("opencv",),
    JPEGLossless: ("imagecodecs",),
    JPEGLosslessSV1: ("imagecodecs",),
    JPEG2000Lossless: ("openjpeg",),
    JPEG2000: ("openjpeg",),
}


def is_available(uid: str) -> bool:
    """The libraries are requirements, so every syntax of the table is."""
    return uid in DECODER_DEPENDENCIES


def decode_jpeg(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode a frame, grey or colour, which becomes RGB; raises ValueError or RuntimeError when it is damaged."""
    if runner.bits_stored > 8:
        return decode_jpeg_lossless(src, runner)  # OpenCV's codec knows 8 bits only
    if runner.samples_per_pixel == 1:
        return _through_opencv(src, runner, cv2.IMREAD_GRAYSCALE)
    is_rgb = runner.photometric_interpretation == PhotometricInterpretation.RGB
    frame = _through_opencv(_with_transform(src, 0 if is_rgb else 1), runner, cv2.IMREAD_COLOR_RGB)
    runner.set_option("photometric_interpretation", PhotometricInterpretation.RGB)
    runner.set_option("planar_configuration", 0)
    return frame


def decode_jpeg_lossless(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode a lossless frame, or one of 12 bits; raises RuntimeError or ValueError when it is damaged."""
    picture = jpeg8_decode(src)
    if picture.size != runner.rows * runner.columns * runner.samples_per_pixel:
        raise ValueError("The frame does not have the size that its header says.")
    runner.set_option("bits_allocated", 8 * picture.itemsize)
    return bytearray(picture.tobytes())


def _with_transform(src: bytes, transform: int) -> bytes:
    """The codestream with an Adobe segment that says whether its colours are YCbCr (1) or RGB (0), if it has none.

    A JFIF segment goes before it, and means YCbCr. Without either, libjpeg would guess by the names of the components;
    in DICOM the photometric interpretation says it (PS3.5, 8.2.1).
    """
    if ADOBE in src[:2000]:
        return src
    segment = b"\xff\xee" + struct.pack(">H5sHHHB", 14, ADOBE, 100, 0, 0, transform)
    return src[:2] + segment + src[2:]


def decode_jpeg2000(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode a frame; OpenJPEG undoes the colour transform and chooses 8 or 16 bits by the codestream's precision.

    Raises ValueError or RuntimeError when it is damaged.
    """
    precision = runner.get_option("j2k_precision", runner.bits_stored)
    if runner.samples_per_pixel == 1 and precision >= 8 and not runner.get_option("j2k_is_signed", False):
        # OpenCV has the same OpenJPEG inside, and lets go of the interpreter: a frame takes a hundred milliseconds,
        # in which no other thread of a worker would move. It reads neither signed nor shallower samples.
        return _through_opencv(src, runner, cv2.IMREAD_UNCHANGED)
    frame = decode_pixel_data(src, version=2)
    runner.set_option("bits_allocated", 8 if precision <= 8 else 16)
    if runner.photometric_interpretation in (PhotometricInterpretation.YBR_ICT, PhotometricInterpretation.YBR_RCT):
        runner.set_option("photometric_interpretation", PhotometricInterpretation.RGB)
    return bytearray(frame)


def _through_opencv(src: bytes, runner: DecodeRunner, flags: int) -> bytearray:
    # An orientation in an EXIF segment is none of the frame's: DICOM has its own elements for it.
    picture = cv2.imdecode(np.frombuffer(src, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None or picture.size != runner.rows * runner.columns * runner.samples_per_pixel:
        raise ValueError("OpenCV cannot decode the frame.")
    runner.set_option("bits_allocated", 8 * picture.itemsize)
    return bytearray(picture.tobytes())


for _syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
    get_decoder(_syntax).add_plugin(JPEG_PLUGIN, (__name__, decode_jpeg.__name__))
for _syntax in (JPEGLossless, JPEGLosslessSV1):
    get_decoder(_syntax).add_plugin(JPEG_LOSSLESS_PLUGIN, (__name__, decode_jpeg_lossless.__name__))
for _syntax in (JPEG2000Lossless, JPEG2000):
    get_decoder(_syntax).add_plugin(JPEG2000_PLUGIN, (__name__, decode_jpeg2000.__name__))
