"""One engine and one deployment a session; `make test-compose` runs this folder, `make test` does not."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import documented
from tests.compose import images as made
from tests.compose.deployment import PRIVATE, START_SECONDS, Deployment
from tests.compose.drill import Drill, running_drill
from tests.compose.engine import Engine, NoEngine, running_engine
from tests.compose.receiver import Receiver

MAY_BE_MISSING = "ALLOW_NO_ENGINE"
#: What every hospital sets whose receivers are in its own network.
RECEIVERS = {"THORAQ_WEBHOOK_ALLOW_HTTP": "true", "THORAQ_WEBHOOK_ALLOWED_NETWORKS": PRIVATE}


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A container engine; without one the tests fail, unless ALLOW_NO_ENGINE=1."""
    with ExitStack() as stays:
        try:
            engine = stays.enter_context(running_engine())
        except NoEngine as error:
            if os.environ.get(MAY_BE_MISSING) == "1":
                pytest.skip(f"{MAY_BE_MISSING}=1, and no container engine runs here: {error}")
            pytest.fail(f"no container engine runs here ({MAY_BE_MISSING}=1 goes on without these tests): {error}")
        yield engine


@pytest.fixture(scope="session")
def images(engine: Engine) -> dict[str, str]:
    """The images of this checkout, by the names that docker-compose.yml knows them by."""
    return made.ensure(engine)


@pytest.fixture(scope="session")
def deployment(
    engine: Engine, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The system as the documented lines start it, with a key as they make one."""
    deployment = Deployment(engine, images, tmp_path_factory.mktemp("thoraq"))
    secrets, profile, up, key = documented_lines()
    deployment.shell(secrets)
    deployment.shell(profile)
    deployment.settings(**RECEIVERS)
    try:
        deployment.shell(up)
        deployment.wait_healthy(START_SECONDS)
        deployment.key = deployment.shell(key).strip()
        yield deployment
    finally:
        deployment.remove()


def documented_lines() -> list[str]:
    """docs/operate/deploy.md's lines for a start with compose, without a GPU: secrets, profile, start, key."""
    block, *_ = documented.blocks(made.ROOT / "docs" / "operate" / "deploy.md", "console")
    lines = re.findall(r"^\$ (.*)$", block.replace("\\\n", ""), re.MULTILINE)
    # The images are built already, from the same Dockerfile and files; --build would only say so, for each service.
    return [line.partition("  #")[0].removesuffix(" --build") for line in lines]


@pytest.fixture(scope="session")
def drill(engine: Engine, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    """Another deployment, for what is broken."""
    with running_drill(engine, images, tmp_path_factory.mktemp("drill"), RECEIVERS) as drill:
        yield drill


@pytest.fixture(scope="session")
def receiver(deployment: Deployment, images: dict[str, str]) -> Iterator[Receiver]:
    """A webhook receiver in the network that reaches outside, with an endpoint for everything that ends."""
    with Receiver(deployment, images["thoraq-api"]) as receiver:
        yield receiver


@pytest.fixture(scope="session")
def xrays(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three hundred X-rays: the samples, each shifted, so that none is like another."""
    return made_xrays(tmp_path_factory.mktemp("xrays"), 300)


@pytest.fixture
def new_xrays(tmp_path: Path) -> list[Path]:
    """A hundred and fifty that no other test sends: what was answered before is not run again."""
    return made_xrays(tmp_path, 150)


#: How many were made so far: each has a shift of its own.
MADE = itertools.count()


def made_xrays(folder: Path, count: int) -> list[Path]:
    """So many X-rays in a folder, unlike all that were made before."""
    import cv2
    import numpy as np

    samples = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((made.ROOT / "samples").glob("*.jpg"))]
    # Half as large: what is tested here is not how fast JPEGs are read.
    small = [cv2.resize(image, (512, 512), interpolation=cv2.INTER_AREA) for image in samples if image is not None]
    paths = []
    for number in itertools.islice(MADE, count):
        image = np.roll(small[number % len(small)], divmod(number // len(small), 64), axis=(0, 1))
        path = folder / f"{number:04}.png"
        cv2.imwrite(str(path), image)
        paths.append(path)
    return paths
