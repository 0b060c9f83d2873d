"""What a CPU is taken to be able to do, with some of it masked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.cpu import MASKS, this_cpu


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    this_cpu.cache_clear()
    yield
    this_cpu.cache_clear()


@pytest.mark.parametrize("variable", MASKS)
@pytest.mark.parametrize("isa", ["AVX2", "avx2_vnni", "AVX"])
def test_one_mask_alone_takes_bfloat16_away(variable: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO goes on to name it under oneDNN's, and fails when it is used."""
    for name in MASKS:
        monkeypatch.delenv(name, raising=False)
    unmasked = this_cpu()
    this_cpu.cache_clear()
    monkeypatch.setenv(variable, isa)
    masked = this_cpu()
    assert not masked.has_bfloat16
    assert "INT8" in masked.precisions
    assert masked.features - unmasked.features == {f"{variable}={isa}"}
