"""Files that are none of ours, by their first bytes: a refusal says what it was that came, and what to do."""

from __future__ import annotations

import re

#: Offset, magic bytes and what they begin; the first that fits is taken.
SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000 codestream"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL codestream"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftyphevc", "HEIC sequence"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF sequence"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF sequence"),
    (4, b"ftypqt", "QuickTime film"),
    (4, b"ftyp", "MP4 film"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"DDS ", "DirectDraw surface"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"\xd7\xcd\xc6\x9a", "Windows metafile"),
    (0, b"\0\0\x01\0", "Windows icon"),
    (0, b"n+1\0", "NIfTI-1"),
    (344, b"n+1\0", "NIfTI-1"),
    (344, b"ni1\0", "NIfTI-1 header"),
    (4, b"n+2\0\r\n\x1a\n", "NIfTI-2"),
    (4, b"ni2\0\r\n\x1a\n", "NIfTI-2 header"),
    (0, b"NRRD000", "NRRD"),
    (0, b"ObjectType = Image", "MetaImage"),
    (0, b"MATRIX7", "ECAT"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"MATLAB 5.0 MAT-file", "MATLAB"),
    (0, b"\x93NUMPY", "NumPy array"),
    (0, b"%PDF-", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"PK\x03\x04", "ZIP archive (or a document made of one)"),
    (0, b"PK\x05\x06", "empty ZIP archive"),
    (0, b"\x1f\x8b", "gzip file"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (0, b"Rar!\x1a\x07", "RAR archive"),
    (257, b"ustar", "tar archive"),
    (0, b"BZh", "bzip2 file"),
    (0, b"\xfd7zXZ\0", "xz file"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard file"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Microsoft Office document"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM film"),
    (0, b"RIFF", "RIFF file (sound or film)"),
    (0, b"\x7fELF", "program"),
    (0, b"MZ", "program"),
    (0, b"SQLite format 3\0", "SQLite database"),
    (0, b"<?xml", "XML document"),
    (0, b"<svg", "SVG"),
    (0, b"<!DOCTYPE html", "web page"),
    (0, b"<html", "web page"),
    (0, b"{", "JSON document"),
)
#: So many bytes of a file are enough to tell.
LONGEST = max(offset + len(magic) for offset, magic, _ in SIGNATURES)


#: Those that begin with a vowel, as they are said.
AN = re.compile(r"[AEO]|HDF|M4|MNG|MP4|NRRD|RAR|RIFF|SQL|SVG|XML|empty|xz")


def name_of(start: bytes) -> str | None:
    """Return what a file is that begins like this, with its article; None when nobody knows."""
    name = next((name for offset, magic, name in SIGNATURES if start.startswith(magic, offset)), None)
    return name and f"{'an' if AN.match(name) else 'a'} {name}"
