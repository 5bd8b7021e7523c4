"""A subset keeps the shares of splits, shows every class in train, and stays the same samples with the same answers."""

from __future__ import annotations

import numpy as np
import pytest

import diagnostics as dx
from diagnostics.datasets.dataset import subset
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset

CLASSES = 20


def many(n: int = 400, train: int = 300) -> dx.Dataset:
    """Class 0 for all but one train sample of each other class; a group for each two samples."""
    label = np.zeros(n, dtype=int)
    label[np.linspace(0, train - 1, CLASSES - 1).astype(int)] = np.arange(1, CLASSES)
    split = ["train"] * train + ["val"] * ((n - train) // 4 * 2)
    split += ["test"] * (n - len(split))
    numbers = np.arange(n, dtype=float)
    return dx.Dataset(
        "many",
        "series",
        numbers[:, None],
        [f"s{i}" for i in range(n)],
        split,
        {"rare": dx.Target("label", label), "number": dx.Target("future", numbers, naive=-numbers)},
        groups=[f"g{i // 2}" for i in range(n)],
        about="about",
        rate=2.0,
        ragged=True,
    )


def test_samples_keep_their_ids_answers_and_groups() -> None:
    data = many()
    few = subset(data, 40, seed=0)
    assert few.counts() == {"train": 30, "val": 5, "test": 5}
    numbers = few.targets["number"].values.astype(int)
    assert list(numbers) == sorted(set(numbers))
    assert few.ids == [f"s{i}" for i in numbers]
    assert [few[i].item() for i in range(40)] == list(numbers)
    np.testing.assert_array_equal(few.targets["number"].naive, -numbers)
    np.testing.assert_array_equal(few.targets["rare"].values, data.targets["rare"].values[numbers])
    assert list(few.groups) == [f"g{i // 2}" for i in numbers]
    assert (few.name, few.about, few.rate, few.ragged) == ("many", "about", 2.0, True)


def test_it_is_another_one_for_another_seed_and_the_same_for_the_same() -> None:
    drawn = [tuple(subset(many(), 40, seed).ids) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("seed", range(5))
def test_train_shows_every_class_where_it_can(seed: int) -> None:
    few = subset(many(), 40, seed)
    assert set(few.targets["rare"].values[few.split == "train"]) == set(range(CLASSES))
    assert len(set(subset(many(), 20, seed).targets["rare"].values)) < CLASSES


@pytest.mark.parametrize("samples", [3, 4, 7, 23])
@pytest.mark.parametrize("train", [2, 200, 396])
def test_every_split_has_a_sample_and_the_number_is_kept(samples: int, train: int) -> None:
    few = subset(many(train=train), samples, 0)
    counts = few.counts()
    assert len(few) == sum(counts.values()) == samples
    assert min(counts.values()) >= 1


def test_a_smaller_dataset_stays_as_it_is_and_fewer_than_three_samples_are_refused() -> None:
    data = tiny_dataset(24)
    assert subset(data, 24, 0) is data
    with refusal("too-few", "2"):
        subset(data, 2, 0)
