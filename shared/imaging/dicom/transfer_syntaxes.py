"""Transfer syntaxes (PS3.5, section 10; PS3.6, annex A): which are read, with which decoder, and the others' names.

docs/reference/formats.md shows the same to readers, and tests/unit/shared/imaging/test_formats_dicom.py holds it
against this table.
"""

from __future__ import annotations

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
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

from shared.errors import UnsupportedDicom
from shared.imaging.dicom.codecs import JPEG2000_PLUGIN, JPEG_LOSSLESS_PLUGIN, JPEG_PLUGIN, RLE_PLUGIN
from shared.imaging.dicom.elements import element_name

#: One pydicom plugin per transfer syntax ("" needs none): the pixels must not depend on what else is installed.
PLUGINS: dict[UID, str] = {
    ImplicitVRLittleEndian: "",
    ExplicitVRLittleEndian: "",
    ExplicitVRBigEndian: "",
    DeflatedExplicitVRLittleEndian: "",
    RLELossless: RLE_PLUGIN,
    JPEGBaseline8Bit: JPEG_PLUGIN,
    JPEGExtended12Bit: JPEG_PLUGIN,
    JPEGLossless: JPEG_LOSSLESS_PLUGIN,
    JPEGLosslessSV1: JPEG_LOSSLESS_PLUGIN,
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: JPEG2000_PLUGIN,
    JPEG2000: JPEG2000_PLUGIN,
    HTJ2KLossless: JPEG2000_PLUGIN,
    HTJ2KLosslessRPCL: JPEG2000_PLUGIN,
    HTJ2K: JPEG2000_PLUGIN,
}
#: Registered, and newer than pydicom's dictionary.
NEWER_NAMES: dict[str, str] = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
#: Private, and met in archives all the same.
PRIVATE_NAMES: dict[str, str] = {"1.2.840.113619.5.2": "Implicit VR Big Endian (private, GE)"}


def registered_name(syntax: UID) -> str | None:
    """Return the name of a transfer syntax; None for one that nobody has registered."""
    known = NEWER_NAMES.get(syntax) or PRIVATE_NAMES.get(syntax)
    return known or (syntax.name if syntax.type == "Transfer Syntax" else None)


def check_supported(syntax: UID) -> None:
    """Raise UnsupportedDicom, with the syntax's registered name, for one that is not read."""
    if syntax in PLUGINS:
        return
    name = registered_name(syntax)
    if name is None:  # not quoted: a damaged file may have anything there
        raise UnsupportedDicom(f"{element_name('TransferSyntaxUID')} names no transfer syntax of the standard.")
    raise UnsupportedDicom(
        f"The transfer syntax {name} ({syntax}) is not read; convert it to Explicit VR Little Endian, "
        "or to JPEG, JPEG-LS, JPEG 2000 or RLE."
    )
