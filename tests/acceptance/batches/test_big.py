"""Five thousand real images through `thoraq batch`: every one answered once, each with its own answer."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.imaging.decode import Limits, decode_one
from shared.imaging.preprocess import InputSpec, prepare
from standalone.process import ROOT
from standalone.stack import Stack
from tests.support.files.many_images import many_images

IMAGES = 5000
CHECKED = 50  # every so manieth answer is compared with the picture

pytestmark = [pytest.mark.big, pytest.mark.timeout(3600)]


def test_five_thousand_images_are_answered_once_each(stand_in_stack: Stack, tmp_path: Path) -> None:
    files = many_images(tmp_path / "export", IMAGES)
    out, errors = tmp_path / "results.csv", tmp_path / "errors.csv"
    options = ["--modality", "xray", "--out", str(out), "--errors", str(errors)]
    given = {"THORAQCTL_URL": stand_in_stack.url, "THORAQCTL_KEY": stand_in_stack.key, "XDG_STATE_HOME": str(tmp_path)}
    command = [str(Path(sys.executable).with_name("thoraq")), "batch", str(tmp_path / "export"), *options]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = _rows(out)
    assert [int(row["item"]) for row in rows] == list(range(IMAGES))
    assert [row["member"] for row in rows] == [str(file.relative_to(tmp_path)) for file in files]
    assert len({row["job_id"] for row in rows}) == IMAGES
    assert {row["status"] for row in rows} == {"succeeded"}
    assert _rows(errors) == []
    for row, file in list(zip(rows, files, strict=True))[::CHECKED]:
        # The stand-in answers with the brightness of what the engine is given.
        assert float(row["probability_covid19"]) == pytest.approx(_brightness(file), abs=1e-3)
    doctor = subprocess.run(
        [sys.executable, "-m", "admin", "doctor"],
        cwd=ROOT,
        env=stand_in_stack.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _brightness(file: Path) -> float:
    spec = InputSpec()
    picture = decode_one(file.read_bytes(), Limits(), target=spec.size)
    return float(prepare(picture, spec).mean()) / 255
