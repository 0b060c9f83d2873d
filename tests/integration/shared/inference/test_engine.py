"""Engines: the same maps from each, the fastest chosen, and none that answers otherwise than the bundle should."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray
from openvino import opset13 as ops
from safetensors.numpy import save
from structlog.testing import capture_logs

from shared.config import Settings, parse
from shared.cpu import Cpu, this_cpu
from shared.errors import EngineError, ModelError
from shared.imaging.decode import Limits, decode_one
from shared.imaging.preprocess import prepare
from shared.inference import engines, openvino_engine
from shared.inference.bundle import CARD, Bundle, EngineFiles, MemoryNeed
from shared.inference.engine import ENGINES, Engine, EngineName, buckets, run_in_buckets
from shared.inference.engine_comparison import Comparison, Comparisons, Timer, batch_seconds, key_of
from shared.inference.engines import candidates, choose_engine, make_engine, open_engine
from shared.inference.heads import HeadNetwork
from shared.inference.keras_networks import rebuild
from shared.inference.openvino_engine import OpenVinoEngine, parts_of, precision
from shared.inference.parity import Reference, disagreement
from tests.support.bundles.brightness import SIZE, tiny_bundle
from training.bundle.quantize import quantize, write_parity

ROOT = Path(__file__).parents[4]
SHIPPED = ROOT / Settings.model_fields["model_dir"].default
#: How far maps may be from TensorFlow's, as a share of their deviation.
CLOSE = {"openvino-int8": 0.1, "openvino-bf16": 0.02, "openvino-float32": 1e-4, "tensorflow-float16": 0.02}
#: CPUs as the choice of an engine sees them.
AVX2 = Cpu("AVX2", frozenset({"avx2"}), frozenset({"FP32", "INT8"}))
AMX = Cpu("AMX", frozenset({"avx512_bf16", "amx_bf16", "amx_int8"}), frozenset({"FP32", "INT8", "BF16"}))
#: The engine after int8 in the order of speed, on this machine.
SECOND: EngineName = "openvino-bf16" if this_cpu().has_bfloat16 else "openvino-float32"


def recard(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with another card, which pins what is in the folder now."""
    hashes = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in bundle.path.iterdir() if file.name != CARD
    }
    card = bundle.card.model_copy(update=changes | {"files": hashes})
    (bundle.path / CARD).write_text(card.model_dump_json(), encoding="utf-8")
    return Bundle.open(bundle.path)


def pictures(count: int, seed: int = 1) -> NDArray[np.uint8]:
    """Pictures of all brightnesses, so that the tiny heads give answers of all kinds."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(10, 240, count)[:, np.newaxis, np.newaxis]
    return np.clip(levels + rng.normal(0, 20, (count, SIZE, SIZE)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny bundle with int8 files and a parity file."""
    bundle = tiny_bundle(tmp_path_factory.mktemp("models") / "tiny")
    backbones = {name: rebuild(bundle, backbone) for name, backbone in bundle.card.backbones.items()}
    files = {name: quantize(backbone, pictures(16), bundle.path, name) for name, backbone in backbones.items()}
    bundle = recard(bundle, engines={"openvino-int8": files})
    return recard(bundle, parity=write_parity(bundle, pictures(12)))


@pytest.fixture
def own(whole: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the whole bundle, to be changed."""
    return Bundle.open(Path(shutil.copytree(whole.path, tmp_path / "tiny")))


@pytest.mark.parametrize("name", ["openvino-int8", SECOND, "openvino-float32", "tensorflow"])
def test_every_engine_gives_tensorflows_feature_maps(whole: Bundle, name: EngineName) -> None:
    assert_close(make_engine(name, whole, 4), whole, tensorflows_feature_maps(whole))


def tensorflows_feature_maps(whole: Bundle) -> dict[str, NDArray[np.float32]]:
    return make_engine("tensorflow", whole, 4).feature_maps(pictures(7, seed=2), whole.card.backbones)


def assert_close(engine: Engine, bundle: Bundle, wanted: dict[str, NDArray[np.float32]]) -> None:
    engine.warm_up()
    found = engine.feature_maps(pictures(7, seed=2), bundle.card.backbones)
    for backbone, maps in wanted.items():
        assert found[backbone].shape == maps.shape == (7, 7, 7, 4)
        assert found[backbone].dtype == np.float32
        assert np.abs(found[backbone] - maps).max() < CLOSE.get(engine.name, 1e-5) * maps.std()


def test_tensorflows_float16_which_is_for_gpus_gives_its_float32_maps(whole: Bundle) -> None:
    """In a process of its own, without oneDNN: its kernels of float16 are not there on every CPU; TensorFlow's are."""
    code = (
        "import sys; from pathlib import Path; from shared.inference.bundle import Bundle; "
        "from shared.inference.engines import make_engine; "
        "from tests.integration.shared.inference.test_engine import assert_close, tensorflows_feature_maps; "
        "bundle = Bundle.open(Path(sys.argv[1])); engine = make_engine('tensorflow-float16', bundle, 4); "
        "assert_close(engine, bundle, tensorflows_feature_maps(bundle)); print(engine.name)"
    )
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(whole.path)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "tensorflow-float16"
    assert "tensorflow-float16" not in candidates(whole, "auto", AMX)


@pytest.mark.parametrize(
    ("cpu", "order"),
    [
        (AVX2, ["openvino-int8", "openvino-float32", "tensorflow"]),
        (AMX, ["openvino-int8", "openvino-bf16", "openvino-float32", "tensorflow"]),
    ],
)
def test_the_order_of_the_engines_follows_from_the_cpu(whole: Bundle, cpu: Cpu, order: list[str]) -> None:
    assert candidates(whole, "auto", cpu) == order


def test_engines_that_are_not_installed_are_not_offered(whole: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert candidates(whole, "auto", AMX) == ["tensorflow"]


def test_a_cpu_without_bfloat16_refuses_it_with_the_reason(whole: Bundle) -> None:
    assert candidates(whole, "openvino-bf16", AVX2) == ["openvino-bf16"]
    with pytest.raises(ModelError, match="this CPU does not compute in bfloat16"):
        OpenVinoEngine(whole, "openvino-bf16", cpu=AVX2)


def test_bfloat16_by_name_serves_or_is_refused_as_this_cpu_has_it(whole: Bundle) -> None:
    if this_cpu().has_bfloat16:
        assert choose_engine(whole, "openvino-bf16").engine.name == "openvino-bf16"
    else:
        with pytest.raises(ModelError, match="openvino-bf16: this CPU does not compute in bfloat16"):
            choose_engine(whole, "openvino-bf16")


@pytest.mark.parametrize(
    ("cpu", "name", "wanted"),
    [
        (AVX2, "openvino-int8", "f32"),
        (AMX, "openvino-int8", "bf16"),
        (AMX, "openvino-bf16", "bf16"),
        (AMX, "openvino-float32", "f32"),
    ],
)
def test_what_is_not_quantised_runs_in_what_the_cpu_has(cpu: Cpu, name: EngineName, wanted: str) -> None:
    assert precision(name, cpu) == wanted


@pytest.mark.parametrize(
    ("mask", "able"), [("AVX2", False), ("AVX512_CORE", False), ("AVX512_CORE_VNNI", False), ("", None)]
)
def test_a_masked_cpu_is_seen_as_the_lesser_one(mask: str, able: bool | None) -> None:
    """How to try Thoraq as on another CPU: both halves of OpenVINO are masked."""
    masks = {"OV_CPU_MAX_ISA", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"}
    environment = {name: value for name, value in os.environ.items() if name not in masks}
    if mask:
        environment |= {"OV_CPU_MAX_ISA": mask, "ONEDNN_MAX_CPU_ISA": mask}
    code = "from shared.cpu import this_cpu; cpu = this_cpu(); print(cpu.has_bfloat16, sorted(cpu.features))"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    if able is not None:
        assert run.stdout.startswith(f"{able} ")
        assert f"OV_CPU_MAX_ISA={mask}" in run.stdout
    else:
        assert "MAX_ISA" not in run.stdout


@pytest.fixture(params=["tensorflow", SECOND])
def engine(request: pytest.FixtureRequest, whole: Bundle) -> Engine:
    return make_engine(request.param, whole, 4)


def test_an_image_gets_the_same_maps_alone_and_in_a_batch(engine: Engine) -> None:
    images = pictures(6)
    together = engine.feature_maps(images, ["vgg16"])["vgg16"]
    alone = np.concatenate([engine.feature_maps(image[np.newaxis], ["vgg16"])["vgg16"] for image in images])
    np.testing.assert_allclose(alone, together, atol=1e-3)


@pytest.mark.parametrize("name", ["openvino-int8", SECOND])
def test_an_image_of_a_full_batch_gets_the_same_maps_as_beside_few(whole: Bundle, name: EngineName) -> None:
    """A full batch is cut into parts, side by side; what is left of the images goes another way."""
    engine = make_engine(name, whole, 16, threads=2)
    images = pictures(35)
    together = engine.feature_maps(images, ["vgg16"])["vgg16"]
    alone = np.concatenate([engine.feature_maps(image[np.newaxis], ["vgg16"])["vgg16"] for image in images])
    np.testing.assert_allclose(alone, together, atol=0.02 * together.std())
    again = engine.feature_maps(images[:16], ["vgg16"])["vgg16"]
    np.testing.assert_array_equal(again, together[:16])


def test_lanes_side_by_side_give_the_same_maps_as_one_call_after_the_other(whole: Bundle) -> None:
    engine = make_engine(SECOND, whole, 16, threads=2)
    assert engine.lanes == 2
    asked = [pictures(count) for count in (8, 3, 8, 1, 8, 5) * 4]
    alone = [engine.feature_maps(images, ["vgg16"])["vgg16"] for images in asked]
    with ThreadPoolExecutor(engine.lanes) as lanes:
        beside = list(lanes.map(lambda images: engine.feature_maps(images, ["vgg16"], beside=True)["vgg16"], asked))
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_allclose(one, other, atol=0.02 * one.std())


@pytest.mark.parametrize(
    ("batch", "cores", "parts"),
    [
        (16, 1, (1, 16)),
        (16, 2, (2, 8)),
        (16, 3, (1, 16)),
        (16, 6, (2, 8)),
        (16, 64, (4, 4)),
        (20, 5, (5, 4)),
        (3, 8, (1, 3)),
    ],
)
def test_no_core_and_no_image_is_left_over(batch: int, cores: int, parts: tuple[int, int]) -> None:
    assert parts_of(batch, cores) == parts


def test_only_the_asked_backbones_answer_and_no_image_gives_no_row(engine: Engine) -> None:
    found = engine.feature_maps(np.empty((0, SIZE, SIZE), np.uint8), ["vgg16"])
    assert {name: maps.shape for name, maps in found.items()} == {"vgg16": (0, 7, 7, 4)}


def test_an_unknown_backbone_and_wrong_pixels_are_refused(engine: Engine) -> None:
    with pytest.raises(ModelError, match="no backbone nonsense"):
        engine.feature_maps(np.zeros((1, SIZE, SIZE), np.uint8), ["nonsense"])
    for wrong in (np.zeros((1, 9, 9), np.uint8), np.zeros((1, SIZE, SIZE), np.float32)):
        with pytest.raises(ValueError, match=f"takes \\(N, {SIZE}, {SIZE}\\) uint8"):
            engine.feature_maps(wrong, ["vgg16"])  # type: ignore[arg-type]


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (5, (1, 2, 4, 5)), (16, (1, 2, 4, 8, 16))])
def test_devices_see_few_batch_sizes(most: int, sizes: tuple[int, ...]) -> None:
    assert buckets(most) == sizes
    seen = []

    def means(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(len(images))
        return np.asarray(images.mean((1, 2)), np.float32)

    images = pictures(23)
    found = run_in_buckets(images, {"means": means}, sizes)
    np.testing.assert_allclose(found["means"], images.mean((1, 2)), rtol=1e-5)
    assert set(seen) <= set(sizes)


def taking(**seconds: float) -> Timer:
    """A measurement that finds these seconds for a batch, by the end of an engine's name."""
    return lambda engines, _, __: {engine.name: seconds[engine.name.rpartition("-")[2]] for engine in engines}


INT8_FASTER = taking(int8=1.0, bf16=1.1, float32=1.1)
INT8_SLOWER = taking(int8=1.2, bf16=1.0, float32=1.0)


def unmeasured(*_: object) -> dict[str, float]:
    raise AssertionError("it was measured again")


def test_int8_is_chosen_where_it_is_faster_and_agrees(whole: Bundle) -> None:
    with capture_logs() as logs:
        engine, why = choose_engine(whole, threads=1, timer=INT8_FASTER)
    assert (engine.name, why) == ("openvino-int8", f"{SECOND} not taken: 14.6 images/s, openvino-int8 16.0")
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("engine.ready", "info"),
        ("engine.compared", "info"),
    ]
    assert logs[1]["images_per_second"] == {"openvino-int8": 16.0, SECOND: 14.55}


def test_int8_that_is_slower_than_what_is_more_exact_does_not_answer(whole: Bundle) -> None:
    with capture_logs() as logs:
        engine, why = choose_engine(whole, threads=1, timer=INT8_SLOWER)
    assert (engine.name, why) == (SECOND, f"openvino-int8 not taken: 13.3 images/s, {SECOND} 16.0")
    assert (logs[-1]["event"], logs[-1]["log_level"]) == ("engine.compared", "warning")
    assert logs[-1]["reason"] == f"{SECOND} is 1.20 times as fast as openvino-int8 on this CPU"


def test_int8_is_compared_with_the_next_engine_that_passes(whole: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU may say that it has bfloat16, and its engine be refused all the same."""
    monkeypatch.setattr(engines, "candidates", lambda *_: list(ENGINES[:3]))
    monkeypatch.setattr(openvino_engine, "this_cpu", lambda: AVX2)
    engine, why = choose_engine(whole, threads=1, timer=INT8_SLOWER)
    assert engine.name == "openvino-float32"
    assert why.startswith("openvino-int8 not taken: 13.3 images/s, openvino-float32 16.0; openvino-bf16: this CPU")


def test_a_worker_measures_once(whole: Bundle, tmp_path: Path) -> None:
    known = Comparisons(tmp_path)
    assert choose_engine(whole, threads=1, known=known, timer=INT8_SLOWER).engine.name == SECOND
    with capture_logs() as logs:
        engine, why = choose_engine(whole, threads=1, known=known, timer=unmeasured)
    assert (engine.name, why) == (SECOND, f"openvino-int8 not taken: 13.3 images/s, {SECOND} 16.0")
    assert [entry["event"] for entry in logs] == ["engine.compared", "engine.ready"]
    assert logs[0]["measured_before"] is True
    with pytest.raises(AssertionError, match="measured again"):  # another size of batches is another comparison
        choose_engine(whole, max_batch=8, threads=1, known=known, timer=unmeasured)


def test_what_was_found_before_is_checked_again_and_passed_over_if_it_fails(own: Bundle, tmp_path: Path) -> None:
    known = Comparisons(tmp_path)
    confused = recard(own, engines={"openvino-int8": {"vgg16": constant_backbone(own.path)}})
    found = Comparison("openvino-int8", {"openvino-int8": 2.0, SECOND: 1.0})
    known.keep(key_of(this_cpu(), confused, 16, 1, ("openvino-int8", SECOND)), found, this_cpu())
    engine, why = choose_engine(confused, threads=1, known=known, timer=unmeasured)
    assert engine.name == SECOND
    assert why.startswith("openvino-int8: ")
    assert "images/s" not in why  # what was measured of an engine that is refused now says nothing


def test_a_named_engine_is_not_compared(whole: Bundle) -> None:
    assert choose_engine(whole, "openvino-int8", threads=1, timer=unmeasured).engine.name == "openvino-int8"


def test_without_memory_for_two_engines_they_are_not_compared(own: Bundle) -> None:
    need = MemoryNeed(one_image=1000, each_more=0)
    bundle = recard(own, memory_needed={"openvino-int8": need})
    with capture_logs() as logs:
        engine, why = choose_engine(bundle, threads=1, room=1500, timer=unmeasured)
    assert (engine.name, why) == ("openvino-int8", "not compared with a more exact engine: no memory for two engines")
    assert logs[-1]["event"] == "engine.not_compared"


def test_a_real_measurement_finds_a_time_for_each(whole: Bundle) -> None:
    engines = [make_engine(name, whole, 4, threads=1) for name in ("openvino-int8", "openvino-float32")]
    found = batch_seconds(engines, pictures(4), whole.card.backbones.keys())
    assert found.keys() == {"openvino-int8", "openvino-float32"}
    assert all(0 < seconds < float("inf") for seconds in found.values())


@pytest.mark.parametrize("wanted", ["tensorflow", SECOND, "openvino-int8"])
def test_the_setting_names_an_engine(whole: Bundle, wanted: str) -> None:
    variables = {"DATABASE_URL": "postgresql://-", "REDIS_URL": "redis://-", "SECRET_KEY": "k" * 32, "ENGINE": wanted}
    settings = parse({f"THORAQ_{name}": value for name, value in variables.items()})
    assert open_engine(whole, settings).engine.name == wanted


def test_an_engine_that_answers_otherwise_is_passed_over_and_said_so(own: Bundle) -> None:
    files = own.card.engines["openvino-int8"]
    confused = {"vgg16": files["vgg16"], "densenet201": constant_backbone(own.path)}
    bundle = recard(own, engines={"openvino-int8": confused})
    with capture_logs() as logs:
        engine, why = choose_engine(bundle, timer=unmeasured)
    assert engine.name == SECOND
    assert "openvino-int8: " in why
    assert "another label for" in why
    assert [(entry["event"], entry["engine"]) for entry in logs] == [
        ("engine.refused", "openvino-int8"),
        ("engine.ready", SECOND),
    ]
    assert "another label for" in logs[0]["reason"]
    with pytest.raises(ModelError, match=r"no engine runs model bundle tiny as it should: openvino-int8: "):
        choose_engine(bundle, "openvino-int8")


def constant_backbone(folder: Path, value: float = 0.0) -> EngineFiles:
    """Files of a backbone that sees the same in everything."""
    pixels = ops.parameter([-1, SIZE, SIZE], np.uint8, name="pixels")
    mean = ops.reduce_mean(ops.convert(pixels, np.float32), ops.constant([1, 2]), keep_dims=True)
    maps = ops.multiply(ops.unsqueeze(mean, ops.constant([3])), ops.constant(np.full((1, 7, 7, 4), value, np.float32)))
    ov.save_model(ov.Model([ops.result(maps)], [pixels], "constant"), folder / "constant.xml")
    return EngineFiles(model="constant.xml", weights="constant.bin")


@pytest.mark.parametrize("damage", [b"", b"<net/>", b"\x00" * 64])
def test_files_that_openvino_cannot_read_are_refused(own: Bundle, damage: bytes) -> None:
    (own.path / own.card.engines["openvino-int8"]["vgg16"].model).write_bytes(damage)
    with pytest.raises(ModelError, match="OpenVINO cannot load the backbone vgg16"):
        make_engine("openvino-int8", recard(own))


def test_a_device_that_fails_is_an_engine_error(own: Bundle) -> None:
    """A backbone that is made for one image at a time, given three."""
    files = own.card.engines["openvino-int8"]["vgg16"]
    graph = ov.Core().read_model(own.read(files.model), own.read(files.weights))
    graph.reshape([1, SIZE, SIZE])
    ov.save_model(graph, own.path / files.model, compress_to_fp16=False)
    engine = make_engine("openvino-int8", recard(own))
    assert len(engine.feature_maps(pictures(1), ["vgg16"])["vgg16"]) == 1
    with pytest.raises(EngineError):
        engine.feature_maps(pictures(3), ["vgg16"])


def test_a_bundle_without_int8_files_has_no_int8_engine(own: Bundle) -> None:
    bundle = recard(own, engines={})
    assert "openvino-int8" not in candidates(bundle, "auto")
    with pytest.raises(ModelError, match="no int8 files"):
        make_engine("openvino-int8", bundle)


def test_without_reference_answers_only_tensorflow_serves(own: Bundle) -> None:
    bundle = recard(own, parity=None)
    assert choose_engine(bundle).engine.name == "tensorflow"
    with pytest.raises(ModelError, match="no engine runs"):
        choose_engine(bundle, SECOND)


def test_answers_that_no_engine_gives_leave_none(own: Bundle) -> None:
    reference = Reference.read(own)
    assert reference is not None
    turned = {name: np.roll(part, 1, axis=1) for name, part in reference.probabilities.items()}
    (own.path / "parity.safetensors").write_bytes(Reference(reference.images, turned).dump())
    with pytest.raises(ModelError, match="no engine runs model bundle tiny"):
        choose_engine(recard(own))


def test_maps_that_are_no_numbers_are_refused(own: Bundle) -> None:
    files = constant_backbone(own.path, np.nan)
    bundle = recard(own, engines={"openvino-int8": own.card.engines["openvino-int8"] | {"vgg16": files}})
    with capture_logs() as logs, pytest.raises(ModelError, match="no engine runs"):
        choose_engine(bundle, "openvino-int8")
    assert logs[0]["reason"] == "vgg16: maps that are not finite numbers"


def test_probabilities_that_drift_are_refused_although_the_labels_stay(own: Bundle) -> None:
    reference = Reference.read(own)
    assert reference is not None
    surer = {name: part**8 / (part**8).sum(1, keepdims=True) for name, part in reference.probabilities.items()}
    (own.path / "parity.safetensors").write_bytes(Reference(reference.images, surer).dump())
    with capture_logs() as logs, pytest.raises(ModelError, match="no engine runs"):
        choose_engine(recard(own), SECOND)
    assert "probabilities are off by" in logs[0]["reason"]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"images": np.zeros((2, 9, 9), np.uint8)},
        {"images": np.zeros((2, SIZE, SIZE), np.uint8), "binary-xray": np.zeros((2, 2), np.float32)},
    ],
)
def test_a_parity_file_that_does_not_fit_is_refused(own: Bundle, content: dict[str, NDArray[Any]]) -> None:
    (own.path / "parity.safetensors").write_bytes(save(content))
    with pytest.raises(ModelError, match=r"^parity\.safetensors: "):
        Reference.read(recard(own))


def test_openvino_serves_without_tensorflow(whole: Bundle) -> None:
    code = (
        "import sys; from pathlib import Path; from shared.inference.bundle import Bundle; "
        "from shared.inference.engines import choose_engine; "
        "name = choose_engine(Bundle.open(Path(sys.argv[1]))).engine.name; "
        "print(name.partition('-')[0], 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(whole.path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "openvino False"


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.open(SHIPPED)


@pytest.fixture(scope="module")
def samples(shipped: Bundle) -> NDArray[np.uint8]:
    """A COVID-19 X-ray, a normal one."""
    files = ("xray-covid19.jpg", "xray-normal.png")
    decoded = [decode_one((ROOT / "samples" / file).read_bytes(), Limits()) for file in files]
    return np.stack([prepare(grey, shipped.input) for grey in decoded])


@pytest.fixture(scope="module")
def expected(shipped: Bundle, samples: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    return make_engine("tensorflow", shipped).feature_maps(samples, shipped.card.backbones)


def test_the_shipped_backbones_compute_on_openvino_what_they_do_on_tensorflow(
    shipped: Bundle, samples: NDArray[np.uint8], expected: dict[str, NDArray[np.float32]]
) -> None:
    found = make_engine("openvino-float32", shipped).feature_maps(samples, shipped.card.backbones)
    for name, maps in expected.items():
        assert np.abs(found[name] - maps).max() < 1e-3 * maps.std()


@pytest.fixture(scope="module")
def shipped_int8(shipped: Bundle) -> Engine:
    return make_engine("openvino-int8", shipped, 16, threads=2)


def test_int8_of_the_shipped_bundle_answers_as_it_was_measured(shipped: Bundle, shipped_int8: Engine) -> None:
    """On every CPU: without VNNI, sums of int8 products saturate, and labels stay what they are nevertheless."""
    reference = Reference.read(shipped)
    assert reference is not None
    assert disagreement(shipped_int8, shipped, reference) is None


def test_how_many_came_with_an_image_is_nothing_to_its_answer(shipped_int8: Engine, samples: NDArray[np.uint8]) -> None:
    """In int8, another way through the same backbone would round otherwise: probabilities were apart by up to 0.16."""
    alone = shipped_int8.feature_maps(samples, ["densenet201"])["densenet201"]
    together = shipped_int8.feature_maps(np.tile(samples, (8, 1, 1)), ["densenet201"])["densenet201"]
    np.testing.assert_allclose(together, np.tile(alone, (8, 1, 1, 1)), atol=1e-3 * alone.std())


def test_the_covid19_sample_scores_above_the_normal_one(
    shipped: Bundle, expected: dict[str, NDArray[np.float32]]
) -> None:
    for name in ("binary-xray", "ensemble-xray"):
        head = shipped.heads[name]
        sick, well = HeadNetwork.load(shipped, head).predict(expected)[:, head.classes.index("covid19")]
        assert sick > well
