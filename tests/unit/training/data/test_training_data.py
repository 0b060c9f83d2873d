"""Patients never cross parts, and an index that is wrong says so."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.imaging.preprocess import InputSpec
from training.data.images import Record, Warp, augment, folds, load_images, partition, read_index
from training.tasks import class_numbers


def records_of(patients: list[int], labels: int = 2) -> list[Record]:
    return [Record(Path(f"{row}.png"), f"label{row % labels}", f"p{number}") for row, number in enumerate(patients)]


# At least ten images of either label, of at least ten patients, as folds need them.
MANY = st.lists(st.integers(0, 30), min_size=0, max_size=80).map(lambda more: [*range(20), *more])


@given(MANY, st.integers(0, 5))
def test_a_patient_is_in_one_fold_only_and_every_image_in_exactly_one(patients: list[int], seed: int) -> None:
    records = records_of(patients)
    parts = folds(records, count=5, seed=seed)
    owners = [{records[row].patient for row in part} for part in parts]
    assert sum(len(owner) for owner in owners) == len(set(patients))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(records)))


@given(MANY)
def test_train_val_and_test_share_no_patient(patients: list[int]) -> None:
    records = records_of(patients)
    parts = partition(records)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(records)))
    owners = [{records[row].patient for row in part} for part in parts.values()]
    assert not owners[0] & owners[1]
    assert not owners[0] & owners[2]
    assert not owners[1] & owners[2]


def test_the_same_seed_gives_the_same_folds_and_another_gives_others() -> None:
    records = records_of(list(range(60)))
    first, again, other = (folds(records, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_published_split_is_kept() -> None:
    records = [Record(Path("x.png"), "a", "p", split) for split in ("val", "train", "test", "train")]
    assert {part: rows.tolist() for part, rows in partition(records).items()} == {
        "train": [1, 3],
        "val": [0],
        "test": [2],
    }


def test_an_index_is_read_with_its_optional_columns(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("file,label,patient,split,license\na.png,normal,p1,test,CC0\n")
    assert read_index(tmp_path) == [Record(tmp_path / "a.png", "normal", "p1", "test", "unnamed", "CC0")]


@pytest.mark.parametrize("text", [None, "", "file,label\na.png,normal\n"])
def test_an_index_that_is_missing_or_incomplete_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "index.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"index\.csv"):
        read_index(tmp_path)


def test_pixels_come_prepared_and_in_order(tmp_path: Path) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((40, 60), 50 * number, np.uint8))
    records = [Record(tmp_path / f"{number}.png", "normal", "p") for number in (2, 0, 3)]
    images = load_images(records, InputSpec(size=32))
    assert images.shape == (3, 32, 32)
    assert images[:, 0, 0].tolist() == [100, 0, 150]


def test_a_still_warp_changes_nothing_but_perhaps_the_side() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    still = Warp(zoom=(1, 1), degrees=0, shift=0, contrast=0)
    seen = [augment(image, np.random.default_rng(seed), still, 8) for seed in range(20)]
    assert all(np.array_equal(view, image) or np.array_equal(view, image[:, ::-1]) for view in seen)
    assert len({view.tobytes() for view in seen}) == 2


def test_a_small_view_is_a_crop_at_the_scale_of_the_image() -> None:
    image = np.tile(np.arange(100, dtype=np.uint8), (100, 1))
    view = augment(image, np.random.default_rng(3), Warp(zoom=(1, 1), degrees=0, shift=0, contrast=0), 40)
    assert view.shape == (40, 40)
    assert np.abs(np.diff(view[0].astype(int))).max() == 1


def test_labels_find_their_class_and_unknown_ones_none() -> None:
    labels = ["covid19", "normal", "non_covid19", "oedema"]
    assert class_numbers(labels, ("covid19", "not_covid19")).tolist() == [0, 1, 1, -1]
    assert class_numbers(labels, ("normal", "pneumonia", "covid19")).tolist() == [2, 0, -1, -1]
