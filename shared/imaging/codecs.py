"""Two decoders for pydicom: grey JPEG of 8 bits through OpenCV, and JPEG 2000 through OpenCV or OpenJPEG.

pydicom would give both to GDCM, which corrupts the process's memory over some damaged codestreams; these two raise.
The names `is_available` and `DECODER_DEPENDENCIES` are those of pydicom's plugin interface.
"""

from __future__ import annotations

import cv2
import numpy as np
from openjpeg.utils import decode_pixel_data
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import JPEG2000, UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGExtended12Bit

JPEG_PLUGIN, JPEG2000_PLUGIN = "thoraq-opencv", "thoraq-openjpeg"
DECODER_DEPENDENCIES: dict[UID, tuple[str, ...]] = {
    JPEGBaseline8Bit: ("opencv",),
    JPEGExtended12Bit: ("opencv",),
    JPEG2000Lossless: ("openjpeg",),
    JPEG2000: ("openjpeg",),
}


def is_available(uid: str) -> bool:
    """Both libraries are requirements, so every syntax of the table is."""
    return uid in DECODER_DEPENDENCIES


def decode_jpeg(src: bytes, runner: DecodeRunner) -> bytearray:
    """Decode a grey frame of 8 bits; raises ValueError when it is damaged."""
    return _through_opencv(src, runner, cv2.IMREAD_GRAYSCALE)


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
    if picture is None or picture.ndim != 2:
        raise ValueError("OpenCV cannot decode the frame.")
    runner.set_option("bits_allocated", 8 * picture.itemsize)
    return bytearray(picture.tobytes())


for _syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
    get_decoder(_syntax).add_plugin(JPEG_PLUGIN, (__name__, decode_jpeg.__name__))
for _syntax in (JPEG2000Lossless, JPEG2000):
    get_decoder(_syntax).add_plugin(JPEG2000_PLUGIN, (__name__, decode_jpeg2000.__name__))
