"""The `thoraq` command against the whole running system, with the samples that the project ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from standalone.stack import Stack

SAMPLES = Path(__file__).parents[2] / "samples"
COMMAND = Path(sys.executable).with_name("thoraq")


def thoraq(stack: Stack, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"THORAQCTL_URL": stack.url, "THORAQCTL_KEY": stack.key} | environment
    command = [str(COMMAND), *map(str, arguments)]
    return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=False)


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def samples() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    return listed


def one_file(suffix: str) -> Path:
    return SAMPLES / next(str(sample["files"][0]) for sample in samples() if sample["files"][0].endswith(suffix))


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: str(sample["files"][0]))
def test_samples_are_submitted_waited_for_and_answered(whole_stack: Stack, sample: dict[str, Any]) -> None:
    files = [SAMPLES / name for name in sample["files"]]
    modality = ["--modality", sample["modality"]] if sample["modality"] else []
    for classifier in sample["classifiers"]:
        options = ["--classifier", classifier, *modality, "--priority", "stat"]
        done = thoraq(whole_stack, "submit", *files, "--study", *options, "--wait", "--json")
        assert done.returncode == 0, done.stderr
        (line,) = lines(done)
        assert (line["status"], line["classifier"]) == ("succeeded", classifier)
        assert line["files"] == [str(file) for file in files]
        assert len(line["result"]["images"]) == line["image_count"] >= len(files)
        assert line["result"]["prediction"] in line["result"]["probabilities"]


def test_a_job_can_be_left_and_picked_up_again(whole_stack: Stack) -> None:
    (left,) = lines(thoraq(whole_stack, "submit", one_file(".png"), "--modality", "xray", "--json"))
    picked = thoraq(whole_stack, "results", left["id"], "--wait")
    assert picked.returncode == 0, picked.stderr
    assert left["id"] in picked.stdout
    assert "not a medical device" in picked.stdout
    assert [line["status"] for line in lines(thoraq(whole_stack, "status", left["id"], "--json"))] == ["succeeded"]
    late = thoraq(whole_stack, "cancel", left["id"], "--json")
    assert late.returncode == 4
    assert [line["problem"]["type"] for line in lines(late)] == ["conflict"]


def test_heatmaps_are_saved_beside_each_other(whole_stack: Stack, tmp_path: Path) -> None:
    views = [SAMPLES / "xray-two-views-1.jpg", SAMPLES / "xray-two-views-2.jpg"]
    (sent,) = lines(thoraq(whole_stack, "submit", *views, "--study", "--modality", "xray", "--wait", "--json"))
    done = thoraq(whole_stack, "heatmap", sent["id"], "--out", tmp_path / "maps")
    assert done.returncode == 0, done.stderr
    saved = [tmp_path / "maps" / f"{sent['id']}-{file}-0.png" for file in (0, 1)]
    assert done.stdout.split() == [str(path) for path in saved]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in saved)


def test_a_bad_file_is_told_apart_from_the_good_ones(whole_stack: Stack, tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    good = one_file(".png")
    done = thoraq(whole_stack, "submit", good, empty, "--modality", "xray", "--wait", "--json")
    by_file = {line["files"][0]: line for line in lines(done)}
    assert by_file[str(good)]["status"] == "succeeded"
    # Refused at the door or failed as a job: either way it says why, and scripts see it.
    why = by_file[str(empty)].get("problem") or by_file[str(empty)]["error"]
    assert why["detail"]
    assert done.returncode in {1, 4}


def test_jobs_are_listed_by_label(whole_stack: Stack) -> None:
    file = SAMPLES / "ct-slice.dcm"
    (sent,) = lines(thoraq(whole_stack, "submit", file, "--external-id", "cli-label", "--json"))
    listed = lines(thoraq(whole_stack, "jobs", "--external-id", "cli-label", "--json"))
    assert [job["id"] for job in listed] == [sent["id"]]


def test_the_serving_model_is_listed(whole_stack: Stack) -> None:
    done = thoraq(whole_stack, "models", "--json")
    assert done.returncode == 0, done.stderr
    assert any(model["serving"] for model in lines(done))


def test_scripts_can_tell_a_refusal_from_a_missing_server(whole_stack: Stack) -> None:
    assert thoraq(whole_stack, "status", "no-such-job").returncode == 4
    assert thoraq(whole_stack, "jobs", THORAQCTL_KEY="tq_wrong").returncode == 4
    ct = SAMPLES / "ct-slice.dcm"
    assert thoraq(whole_stack, "submit", ct, "--classifier", "ensemble").returncode == 4
    assert thoraq(whole_stack, "jobs", THORAQCTL_URL="http://127.0.0.1:1").returncode == 3
