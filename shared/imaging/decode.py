"""File bytes to display grey: the one door to every format.

`probe` looks at headers only and is what the HTTP edge calls; `frames` and `decode_one` decode and are what the
worker and training call. The format is told by magic bytes; names and content types that came with a file are not
looked at. Every fault is one of the `ImageError`s.

Display grey is 8 bits, 0 black. Colour is weighted to luma by the codec. Pictures of 16 bits are scaled by the full
range of the smallest even depth, at least 8, that holds their brightest pixel: detectors have 10, 12, 14 or 16 bits,
and exports often store such values unscaled in 16. EXIF orientation is honoured, as every viewer does.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import EmptyFile, UnsupportedImage
from shared.imaging import jpeg, png, signatures
from shared.imaging.dicom import reader as dicom
from shared.imaging.dicom.file import START_BYTES, dataset_start
from shared.imaging.headers import PNG_SIGNATURE, Header, jpeg_header, png_header
from shared.imaging.info import ImageInfo, Limits, MediaType, Picture
from shared.imaging.tiff import reader as tiff
from shared.imaging.tiff import tags as tiff_tags
from shared.imaging.tiff.page import Page

__all__ = ["ImageInfo", "Limits", "MediaType", "Picture", "decode_one", "frames", "pictures", "probe"]

# OpenCV would write about damaged files on stderr; they become errors with a name here instead.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

#: A picture of more pixels takes too long for a process that others wait for.
MOST_PIXELS_HERE = 25_000_000
# See `_reduction`.
_REDUCTIONS = (8, 4, 2)
_REDUCTION_MARGIN = 8


def probe(file: BinaryIO, limits: Limits) -> ImageInfo:
    """Read the header of a seekable file, from its start, and hold it to the limits.

    No pixel is decoded, and memory stays flat whatever the file's size, so a body that is cut short is found
    only by decoding. Raises EmptyFile, UnsupportedImage, CorruptImage (the header itself is damaged),
    ImageTooLarge, NoPixelData or UnsupportedDicom.
    """
    media_type = _media_type(file)
    if media_type is MediaType.DICOM:
        return dicom.probe(file, limits)
    if media_type is MediaType.TIFF:
        pages = _tiff_pages(file, limits)
        return ImageInfo(media_type, pages[0].width, pages[0].height, frames=len(pages))
    header = png_header(file) if media_type is MediaType.PNG else jpeg_header(file)
    limits.check(header.width, header.height)
    if media_type is MediaType.JPEG:
        jpeg.check_readable(header)
    return ImageInfo(media_type, header.width, header.height)


def wants_sandbox(data: bytes) -> bool:
    """Whether it is to be decoded in a process of its own; raises EmptyFile and UnsupportedImage.

    DICOM and TIFF go to codecs that have crashed on damaged files. PNG and JPEG go to libpng, Rust's png and
    libjpeg-turbo, which browsers hold out against what the web sends them; among these, all that takes more than a
    moment.
    """
    file = BytesIO(data)
    match _media_type(file):
        case MediaType.PNG:
            header = png_header(file)
            return header.width * header.height > MOST_PIXELS_HERE or png.is_interlaced(data)
        case MediaType.JPEG:
            header = jpeg_header(file)
            return header.width * header.height > MOST_PIXELS_HERE or not jpeg.is_sequential(header)
    return True


def pictures(data: bytes, limits: Limits, target: int | None = None, threads: int = 1) -> Iterator[Picture]:
    """As `frames`, with what is known about each frame's window."""
    if _media_type(BytesIO(data)) is MediaType.DICOM:
        yield from dicom.pictures(data, limits)
    else:
        yield from map(Picture, frames(data, limits, target, threads))


def frames(data: bytes, limits: Limits, target: int | None = None, threads: int = 1) -> Iterator[NDArray[np.uint8]]:
    """Yield the display grey (H, W) of each frame, decoded one at a time.

    `target` is the size that `prepare` will be asked for: a large JPEG may then come back reduced, never below eight
    times that size. `threads`: how many of this process decode at once; a faster decoder that makes the others wait is
    for few of them. Raises the errors of `probe`, and CorruptImage when the pixels are truncated or damaged; for a
    file of many frames that may be after some of them were yielded.
    """
    file = BytesIO(data)
    match _media_type(file):
        case MediaType.DICOM:
            yield from (picture.grey for picture in dicom.pictures(data, limits))
        case MediaType.TIFF:
            yield from _tiff_frames(data, limits)
        case MediaType.PNG:
            yield _png(data, limits, threads)
        case MediaType.JPEG:
            yield _jpeg(data, limits, target)


def decode_one(data: bytes, limits: Limits, frame: int = 0, target: int | None = None) -> NDArray[np.uint8]:
    """Decode the display grey (H, W) of one frame, by index.

    As `frames`, and IndexError when there is no such frame.
    """
    if _media_type(BytesIO(data)) is MediaType.DICOM:
        return next(dicom.pictures(data, limits, first=frame)).grey
    if _media_type(BytesIO(data)) is MediaType.TIFF:
        return next(_tiff_frames(data, limits, only=frame))
    for index, picture in enumerate(frames(data, limits, target)):
        if index == frame:
            return picture
    raise IndexError(f"no frame {frame}")


def _media_type(file: BinaryIO) -> MediaType:
    """Tell the format by its magic bytes and rewind."""
    file.seek(0)
    start = file.read(max(START_BYTES, signatures.LONGEST))
    file.seek(0)
    if not start:
        raise EmptyFile
    if start.startswith(PNG_SIGNATURE):
        return MediaType.PNG
    if start.startswith(b"\xff\xd8\xff"):
        return MediaType.JPEG
    if dataset_start(start) is not None:  # before TIFF: the preamble may hold its header too (PS3.10 7.1)
        return MediaType.DICOM
    if start.startswith(tiff_tags.TIFF_SIGNATURES):
        return MediaType.TIFF
    if start.startswith(b"\xff\xd8"):  # what lies between its segments may lie before the first one, too
        return MediaType.JPEG
    raise UnsupportedImage(f"It is {name}." if (name := signatures.name_of(start)) else "")


def _png(data: bytes, limits: Limits, threads: int) -> NDArray[np.uint8]:
    header = png_header(BytesIO(data))
    limits.check(header.width, header.height)
    return png.decode(data, header, threads)


def _jpeg(data: bytes, limits: Limits, target: int | None) -> NDArray[np.uint8]:
    header = jpeg_header(BytesIO(data))
    limits.check(header.width, header.height)
    jpeg.check_readable(header)
    return jpeg.picture(data, header, 1 if target is None else _reduction(header, target))


def _reduction(header: Header, target: int) -> int:
    """Return the largest of 8, 4 and 2 that divides both sides and leaves `_REDUCTION_MARGIN` times the target, or 1.

    The codec drops high frequencies instead of averaging, and pads sides that it cannot divide, which would shift the
    picture. Under these two conditions 1,870 chest images came out of `prepare` with 999 pixels of 1,000 within one
    grey level, and at most 6 levels at the edges of burnt-in text; at half this margin it was two levels, and 14.
    """
    sides = (header.width, header.height)
    fits = (factor for factor in _REDUCTIONS if all(side % factor == 0 for side in sides)
            and min(sides) >= factor * target * _REDUCTION_MARGIN)  # fmt: skip
    return next(fits, 1)


def _tiff_pages(file: BinaryIO, limits: Limits, extents: bool = False) -> list[Page]:
    pages = tiff.pages(file, limits.max_frames, extents)
    for page in pages:
        limits.check(page.width, page.height, len(pages))
    return pages


def _tiff_frames(data: bytes, limits: Limits, only: int | None = None) -> Iterator[NDArray[np.uint8]]:
    from shared.imaging import tiff_pixels

    pages = _tiff_pages(BytesIO(data), limits, extents=True)
    return tiff_pixels.frames(data, pages if only is None else [pages[only]])
