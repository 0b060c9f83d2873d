"""Numbers of TIFF: tags and their values (TIFF 6.0, its technical notes, and libtiff's registry), read and refused."""

from __future__ import annotations

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
ORIENTATION, SAMPLES, ROWS_PER_STRIP, PLANAR, PREDICTOR = 274, 277, 278, 284, 317
TILE_WIDTH, TILE_HEIGHT, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING = 322, 323, 332, 338, 339, 530
COLOR_MAP, JPEG_TABLES, REFERENCE_BLACK_WHITE, IMAGE_DEPTH, LERC_PARAMETERS = 320, 347, 532, 32997, 50674
# (offsets, byte counts) of strips and of tiles; a page has one of the two pairs.
STRIPS, TILES = (273, 279), (324, 325)

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
#: Samples that make the colour, by photometric interpretation; what follows them is alpha or somebody's own.
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
OTHER_COLOURS = {
    4: "transparency mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "colour filter array",
    32844: "LogL", 32845: "LogLuv", 34892: "linear raw", 51177: "depth map",
}  # fmt: skip

NONE, LZW, JPEG, PACKBITS, LERC = 1, 5, 7, 32773, 34887
DEFLATES = frozenset({8, 32946})
#: Codecs that undo differences between neighbours (libtiff's tif_predict.c is part of these alone).
PREDICTED = DEFLATES | {LZW, 34925, 34926, 50000}
JPEG_2000 = frozenset({33003, 33004, 33005, 34712})
#: Codecs of pictures, which know their own size and depth.
PICTURES = JPEG_2000 | {JPEG, LERC, 34927, 50001, 50002, 52546}
#: The compressions that are read, as docs/reference/formats.md calls them.
COMPRESSIONS = {
    NONE: "none", LZW: "LZW", JPEG: "JPEG", 8: "deflate", 32946: "deflate", PACKBITS: "PackBits", 33003: "JPEG 2000",
    33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", LERC: "LERC", 34925: "LZMA", 34926: "Zstandard",
    34927: "WebP", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
#: Those that are known, and refused by name. The decoders of fax make up what a strip lacks, and do not say so.
REFUSED_COMPRESSIONS = {
    2: "CCITT modified Huffman", 3: "CCITT T.4 fax", 4: "CCITT T.6 fax", 6: "old-style JPEG", 9: "JBIG T.85",
    10: "JBIG T.43", 32766: "NeXT", 32771: "CCITT RLE/W", 32809: "ThunderScan",
    32895: "IT8 CT padded", 32896: "IT8 linework", 32897: "IT8 monochrome", 32898: "IT8 binary line art",
    32908: "Pixar film", 32909: "Pixar log", 32947: "DCS", 33007: "JPEG of Alpha Innotech", 34661: "JBIG",
    34676: "SGI log", 34677: "SGI log 24", 34892: "lossy JPEG of DNG", 34933: "PNG", 34934: "JPEG XR",
    22610: "JPEG XR", 48124: "Jetraw", 50013: "Pixtiff",
}  # fmt: skip
DEPTHS = frozenset({1, 2, 4, 6, 8, 10, 12, 14, 16})
REFUSED_SAMPLE_FORMATS = {2: "signed integers", 3: "floating point", 5: "complex integers", 6: "complex floating point"}
UNSIGNED = frozenset({1, 4})  # 4 is "undefined", which readers take for unsigned
