"""Trained backbones to int8 for OpenVINO, and the parity file that every engine is held to when it loads.

Post-training quantisation with NNCF: ranges from calibration images, weights in int8 per output channel, activations in
int8 per tensor, channels evened out first (training/bundle/cross_layer_equalization.py). Heads stay in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import keras
import numpy as np
import openvino as ov
from numpy.typing import NDArray

from shared.cpu import this_cpu
from shared.errors import ConfigError
from shared.imaging.preprocess import InputSpec
from shared.inference.bundle import Bundle, EngineFiles
from shared.inference.engine import REFERENCE
from shared.inference.engines import make_engine
from shared.inference.heads import HeadNetwork
from shared.inference.openvino_engine import precision
from shared.inference.openvino_graph import build_backbone
from shared.inference.parity import Reference
from training.bundle.cross_layer_equalization import cross_layer_equalization
from training.bundle.export import stored

CALIBRATION = 300  # images; more change nothing
PARITY_FILE = "parity.safetensors"


def quantize(
    backbone: keras.Model, images: NDArray[np.uint8], out: Path, name: str, keep: Collection[str] = ()
) -> EngineFiles:
    """Write NAME-int8.xml and NAME-int8.bin: the backbone in int8, for prepared pixels (N, size, size).

    `images` are training images of everything that the backbone will see: at most CALIBRATION of them, evenly spread,
    set the ranges. The convolutions named in `keep` stay in floating point, at a cost in speed. The same backbone and
    images give the same files. Raises ConfigError without images, ModelError for a backbone that cannot be built.
    """
    if not len(images):
        raise ConfigError("int8 needs calibration images")
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    chosen = images[np.linspace(0, len(images) - 1, min(CALIBRATION, len(images))).astype(int)]
    quantized = nncf.quantize(
        even_backbone(backbone, images.shape[1]),
        nncf.Dataset([image[np.newaxis] for image in chosen]),
        subset_size=len(chosen),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=sorted(keep)),
        # The widest range seen, not its mean over images: a few CT slices drive the maps beyond the usual, and cut off
        # they would be other images.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        ),
    )
    # OpenVINO numbers what has no name through the whole process; here the same network gets the same names.
    for number, node in enumerate(quantized.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
    files = EngineFiles(model=f"{name}-int8.xml", weights=f"{name}-int8.bin")
    ov.save_model(quantized, out / files.model, compress_to_fp16=False)
    return files


def int8_maps(out: Path, files: EngineFiles) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return what the files compute: prepared pixels (N, size, size) to maps (N, h, w, channels)."""
    core = ov.Core()
    # As the serving engine does: what is not quantised runs in bfloat16 where the CPU can.
    options = {"INFERENCE_PRECISION_HINT": precision("openvino-int8", this_cpu())}
    network = core.compile_model(core.read_model(out / files.model, out / files.weights), "CPU", options)
    return lambda images: np.array(network(images)[0], np.float32)


def even_backbone(backbone: keras.Model, size: int) -> ov.Model:
    """Return the backbone with the weights that its bundle will carry, its channels evened out."""
    description: dict[str, Any] = keras.saving.serialize_keras_object(backbone)
    weights = {variable.path: stored(variable.path, variable.numpy()) for variable in backbone.weights}
    return build_backbone(
        description, cross_layer_equalization(description, weights), InputSpec(size, channels=backbone.input_shape[-1])
    )


def write_parity(bundle: Bundle, images: NDArray[np.uint8]) -> str:
    """Write the bundle's parity file for these images (K, size, size); returns its name, for the card.

    A few dozen, of every class and modality that the bundle knows: they are stored, so they must be ones that may be
    passed on. Their answers are those of TensorFlow in float32.
    """
    maps = make_engine(REFERENCE, bundle).feature_maps(images, bundle.card.backbones.keys())
    answers = {name: HeadNetwork.load(bundle, head).predict(maps) for name, head in bundle.heads.items()}
    (bundle.path / PARITY_FILE).write_bytes(Reference(images, answers).dump())
    return PARITY_FILE
