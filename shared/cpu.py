"""The CPU that this process computes on, as far as the choice of an engine asks: read in one place, `this_cpu`.

To see what Thoraq does on a lesser CPU, set OpenVINO's OV_CPU_MAX_ISA and oneDNN's ONEDNN_MAX_CPU_ISA, both to the same
value (AVX2, AVX512_CORE, AVX512_CORE_VNNI, ...): each masks one half of OpenVINO's kernels. Of oneDNN's alone OpenVINO
takes no notice when it says what it can, and fails then in bfloat16: here it counts. TensorFlow heeds
ONEDNN_MAX_CPU_ISA.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path

MASKS = ("OV_CPU_MAX_ISA", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
#: Values of oneDNN's masks under which it has no kernel of bfloat16, not even an emulated one.
WITHOUT_BFLOAT16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI"})


@dataclass(frozen=True)
class Cpu:
    """A CPU: its maker's name for it, its features, and the precisions that OpenVINO computes in on it."""

    model: str
    features: frozenset[str] = frozenset()
    #: As OpenVINO names them: FP32 and INT8 everywhere, BF16 and FP16 where the CPU has instructions for them.
    precisions: frozenset[str] = frozenset()

    @property
    def has_bfloat16(self) -> bool:
        """Whether OpenVINO computes in bfloat16 here."""
        return "BF16" in self.precisions


@functools.cache
def this_cpu() -> Cpu:
    """Return the CPU of this machine, less what the environment masks."""
    masks = {f"{name}={os.environ[name]}" for name in MASKS if name in os.environ}
    if importlib.util.find_spec("openvino") is None:
        return Cpu(platform.processor() or platform.machine(), _flags() | masks)
    import openvino as ov

    core = ov.Core()
    precisions = frozenset(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    if any(os.environ.get(name, "").upper() in WITHOUT_BFLOAT16 for name in MASKS):
        precisions -= {"BF16"}
    return Cpu(core.get_property("CPU", "FULL_DEVICE_NAME"), _flags() | masks, precisions)


def _flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the features that Linux names; none elsewhere, where the model says as much (Apple's M1, M2, ...)."""
    if not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:  # on x86-64, on arm64
            return frozenset(value.split())
    return frozenset()
