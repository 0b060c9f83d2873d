"""Read and verify a model bundle: a directory with a card, architectures as JSON and weights as safetensors.

Nothing in a bundle is code, and nothing is read that its card does not pin by SHA-256. The card's own SHA-256
therefore names the whole bundle; every result carries it. No TensorFlow here: the API serves the card too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load

from shared.errors import ModelError
from shared.imaging.preprocess import InputSpec

CARD = "card.json"
# For people; never read by a program, so a corrected sentence does not make another bundle.
UNPINNED = frozenset({CARD, "README.md"})


def _plain_name(name: str) -> str:
    if name != Path(name).name or name in {"", ".", ".."} or name in UNPINNED:
        raise ValueError("a bundle's files lie in its own directory")
    return name


FileName = Annotated[str, AfterValidator(_plain_name)]


class _CardPart(BaseModel):
    # Cards say "trunk" where the code says "backbone": the key is part of the format that bundles are published in.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, serialize_by_alias=True)


class Backbone(_CardPart):
    """A network from pixels to a feature map; shared by heads."""

    architecture: FileName
    weights: FileName
    origin: str


class OperatingPoint(_CardPart):
    """A threshold on the probability of COVID-19, chosen on validation images for a sensitivity."""

    target_sensitivity: float
    threshold: float
    sensitivity: float
    specificity: float


class Head(_CardPart):
    """A classifier on top of one or two backbones' maps; its outputs are calibrated probabilities of `classes`."""

    classifier: Literal["binary", "ensemble"]
    modality: Literal["xray", "ct"]
    classes: tuple[str, ...]
    activation: Literal["sigmoid", "softmax"]
    # For the record: the weights of the last layer are already divided by it.
    temperature: float
    backbones: tuple[str, ...] = Field(alias="trunks")
    architecture: FileName
    weights: FileName
    # Between the two likeliest classes: an answer whose probabilities are closer than this wants a second look.
    review_margin: float = 0.0
    operating_points: tuple[OperatingPoint, ...] = ()
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        """How the card and the engine call it: binary-xray, binary-ct, ensemble-xray."""
        return f"{self.classifier}-{self.modality}"


class Gate(_CardPart):
    """What tells chest X-ray, chest CT slice and anything else apart, from one backbone's map."""

    backbone: str = Field(alias="trunk")
    weights: FileName
    metrics: dict[str, Any]


class EngineFiles(_CardPart):
    """A backbone as one engine reads it (OpenVINO: `model` is the .xml, `weights` the .bin)."""

    model: FileName
    weights: FileName


class MemoryNeed(_CardPart):
    """Bytes that a worker's process needs with one engine, as measured: for one image at a time, and for each more."""

    one_image: int = Field(gt=0)
    each_more: int = Field(ge=0)

    def of(self, images: int) -> int:
        """Bytes for so many images at once."""
        return self.one_image + self.each_more * (images - 1)


class Source(_CardPart):
    """Where training images came from."""

    name: str
    description: str
    licence: str
    images: dict[str, dict[str, int]]


class Card(_CardPart):
    """What a bundle is, what it was made from, how well it does and where it stops."""

    name: str
    version: str
    created: datetime
    preprocessing: InputSpec
    backbones: dict[str, Backbone] = Field(alias="trunks")
    heads: dict[str, Head]
    gate: Gate | None = None
    # Engine name to backbone name to files, for engines that do not start from the backbones' own weights.
    engines: dict[str, dict[str, EngineFiles]] = {}
    # Engine name to what it needs; an engine that is not in it was not measured.
    memory_needed: dict[str, MemoryNeed] = {}
    # Reference images and what TensorFlow in float32 answers on them: every engine is held to it when it loads.
    parity: FileName | None = None
    # Results of patient-wise cross-validation by classifier, as training measured them.
    cross_validation: dict[str, Any] = {}
    data: tuple[Source, ...]
    limits: tuple[str, ...]
    notice: str
    files: dict[FileName, str] = Field(description="SHA-256 (hex) of every file that may be read")

    @model_validator(mode="after")
    def _heads_are_whole(self) -> Self:
        for name, head in self.heads.items():
            if name != head.name:
                raise ValueError(f"head {name} is called {head.name}")
            if missing := set(head.backbones) - self.backbones.keys():
                raise ValueError(f"head {name} needs backbones that the bundle lacks: {', '.join(sorted(missing))}")
        if self.gate is not None and self.gate.backbone not in self.backbones:
            raise ValueError(f"the gate needs a backbone that the bundle lacks: {self.gate.backbone}")
        return self


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; `sha256` is that of card.json and stands for everything in it."""

    path: Path
    card: Card
    sha256: str

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> Bundle:
        """Read the card and, unless told otherwise, check every file of the directory against it.

        Raises ModelError naming the file that is missing, damaged or not listed.
        """
        raw = _read(path / CARD)
        try:
            card = Card.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ModelError(f"{CARD}: {where}: {first['msg']}") from error
        bundle = cls(path, card, hashlib.sha256(raw).hexdigest())
        if verify:
            bundle.verify()
        return bundle

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def version(self) -> str:
        return self.card.version

    @property
    def input(self) -> InputSpec:
        return self.card.preprocessing

    @property
    def heads(self) -> Mapping[str, Head]:
        return self.card.heads

    def head_for(self, classifier: str, modality: str) -> Head:
        """Return the head that answers for this classifier and modality; ModelError when the bundle has none."""
        try:
            return self.heads[f"{classifier}-{modality}"]
        except KeyError:
            raise ModelError(f"model bundle {self.name} has no {classifier} classifier for {modality}") from None

    def verify(self) -> None:
        """Raise ModelError unless the directory holds exactly the listed files with the listed SHA-256."""
        for unlisted in sorted({entry.name for entry in self.path.iterdir()} - self.card.files.keys() - UNPINNED):
            raise ModelError(f"{unlisted}: not listed in the bundle's {CARD}")
        for file in self.card.files:
            self.read(file)

    def read(self, file: str) -> bytes:
        """Return the bytes of a listed file; ModelError when they are not the ones that the card pins."""
        if file not in self.card.files:
            raise ModelError(f"{file}: not listed in the bundle's {CARD}")
        data = _read(self.path / file)
        if hashlib.sha256(data).hexdigest() != self.card.files[file]:
            raise ModelError(f"{file}: its SHA-256 is not the one in {CARD}")
        return data

    def load_architecture(self, file: str) -> dict[str, Any]:
        """Return a network's layers as Keras describes them."""
        return cast(dict[str, Any], json.loads(self.read(file)))

    def load_weights(self, file: str) -> dict[str, NDArray[np.floating[Any]]]:
        """Return a network's weights by layer and variable name, in the precision they are stored in."""
        try:
            return load(self.read(file))
        except SafetensorError as error:
            raise ModelError(f"{file}: not a safetensors file") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file.name}: cannot be read ({error.strerror})") from error
