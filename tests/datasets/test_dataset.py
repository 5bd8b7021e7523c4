"""The dataset contract: what breaks it is said in a sentence; splits keep groups together; fingerprints see content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics import Dataset, DiagnosticsError, LazySamples, Question, Target, complete_splits, split_groups
from diagnostics.datasets.dataset import subset, unprobeable_targets
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

SPLIT = ["train", "train", "val", "test"]


def new_dataset(**changed: Any) -> Dataset:
    """Four samples; `changed` replaces parts of them."""
    parts: dict[str, Any] = {
        "name": "mine",
        "modality": "series",
        "samples": np.arange(12, dtype=np.float32).reshape(4, 3),
        "ids": ["a", "b", "c", "d"],
        "split": SPLIT,
        "targets": {"y": Target("value", np.arange(4.0))},
    }
    return Dataset(**(parts | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": np.empty((0, 3)), "ids": [], "split": [], "targets": {}}, "Dataset mine is empty."),
        (
            {"modality": "text", "samples": ["a", "b", " ", "d"]},
            "Text 3 of mine (c) is empty: fill it in or remove it.",
        ),
        ({"ids": ["a", "b", "c"]}, "Dataset mine has 4 samples but 3 ids."),
        ({"split": [*SPLIT, "test"]}, "Dataset mine has 4 samples but 5 split."),
        (
            {"ids": ["a", "b\udcff", "c", "d"]},
            r"Dataset mine has 'b\udcff' as an id or group, which cannot be written as UTF-8.",
        ),
        (
            {"targets": {"y": Target("value", np.arange(4, dtype=np.longdouble))}},
            f"Target y of mine is of kind value, but its values are {np.dtype(np.longdouble)}: give 64 bits at most.",
        ),
        ({"groups": ["g"]}, "Dataset mine has 4 samples but 1 groups."),
        ({"ids": ["a", "b", "a", "d"]}, "Dataset mine gives the same id to several samples."),
        ({"ids": [1, "1", 2, 3]}, "Dataset mine gives the same id to several samples."),
        (
            {"split": ["train", "train", "val", "val"]},
            "Dataset mine has no test samples: it needs train, val and test.",
        ),
        (
            {"split": ["train", "val", "test", "holdout"]},
            "Dataset mine has splits ['holdout'] beside train, val and test.",
        ),
        (
            {"groups": ["g", "h", "g", "i"]},
            "Dataset mine has group g in train and in val: keep each group in one split.",
        ),
        ({"targets": {"y": Target("score", np.zeros(4))}}, "Target y of mine has unknown kind 'score'."),
        ({"targets": {"y": Target("value", np.zeros(3))}}, "Target y of mine has 3 values for 4 samples."),
    ],
)
def test_a_broken_contract_is_said_in_a_sentence(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DiagnosticsError) as caught:
        new_dataset(**changed)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("event", np.array([[0, 2], [0, 1], [1, 1], [0, 0]])), "it holds other values than 0 and 1"),
        (Target("event", np.full((4, 2), -1)), "it holds other values than 0 and 1"),
        (Target("value", np.zeros(4), period=np.inf), "it has a period of inf"),
    ],
)
def test_values_that_do_not_fit_their_kind_are_refused(target: Target, message: str) -> None:
    with pytest.raises(DiagnosticsError, match=f"Target y of mine is of kind {target.kind}, but {message}"):
        new_dataset(targets={"y": target})
    new_dataset(targets={"y": Target("event", np.array([[0, 1], [np.nan, 1], [0, 0], [1, 1]]))})


@pytest.mark.parametrize("name", ["a/b", "../y", "", ".", "..", "zarr.json"])
def test_target_names_that_are_no_safe_folder_names_are_refused(name: str) -> None:
    with refusal("bad-target", "arget"):
        new_dataset(targets={name: Target("value", np.zeros(4))})


def test_a_sample_is_its_own_group_by_default_and_samples_may_share_one_within_a_split() -> None:
    assert list(new_dataset().groups) == ["a", "b", "c", "d"]
    assert list(new_dataset(groups=["g", "g", "h", "i"]).groups) == ["g", "g", "h", "i"]


def test_samples_by_index_and_counts() -> None:
    data = new_dataset(samples=[np.array([1.0]), np.array([2.0]), [3.0], np.array([4.0])])
    assert len(data) == 4
    assert data[2].tolist() == [3.0]
    assert data.counts() == {"train": 2, "val": 1, "test": 1}


INDICES: list[Any] = [
    slice(1, 3),
    slice(None, None, -1),
    slice(-2, None),
    np.array([True, False, True, False]),
    [True, False, False, True],
    [3, -1, 0],
    np.array([], dtype=int),
]


@pytest.mark.parametrize("kind", ["array", "list", "lazy"])
def test_samples_are_indexed_as_numpy_indexes_an_axis(kind: str) -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    read: list[int] = []

    def lazily(i: int) -> np.ndarray:
        read.append(i)
        return values[i]

    data = new_dataset(samples={"array": values, "list": list(values), "lazy": LazySamples(4, lazily)}[kind])
    np.testing.assert_array_equal(data[-1], values[-1])
    np.testing.assert_array_equal(data[np.int64(2)], values[2])
    for index in INDICES:
        read.clear()
        some = data[index]
        assert len(some) == len(values[index]) and not read
        for sample, wanted in zip(some, values[index], strict=True):
            np.testing.assert_array_equal(sample, wanted)
    np.testing.assert_array_equal(data[1:][-2:][[1]], values[1:][-2:][[1]])
    for beyond in (4, -5, [0, 4], np.array([True, False]), np.array([[0, 1]]), "a"):
        with pytest.raises(IndexError):
            data[beyond]  # type: ignore[call-overload]  # what a user may give


# Splits


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 40), st.integers(1, 4), st.integers(0, 1000))
def test_splits_keep_groups_together_and_none_is_empty(groups: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    of = rng.permutation(np.repeat(np.arange(groups), rng.integers(1, most + 1, groups)))
    split = split_groups(of, seed)
    assert split.shape == of.shape
    assert set(split) == {"train", "val", "test"}
    assert all(len(set(split[of == group])) == 1 for group in range(groups))


def test_splits_are_seeded_by_group_and_not_by_the_order_of_samples() -> None:
    groups = [f"g{i % 20}" for i in range(60)]
    split = split_groups(groups, 1)
    assert list(split) == list(split_groups(groups, 1))
    assert list(split) != list(split_groups(groups, 2))
    backwards = split_groups(groups[::-1], 1)
    assert list(split) == list(backwards[::-1])


def test_shares_hold_over_groups() -> None:
    split = split_groups(range(100), 0)
    assert [int((split == name).sum()) for name in ("train", "val", "test")] == [60, 20, 20]
    split = split_groups(range(100), 0, (0.2, 0.5, 0.3))
    assert [int((split == name).sum()) for name in ("train", "val", "test")] == [20, 50, 30]
    sizes = [90, *[1] * 9]
    split = split_groups(np.repeat(np.arange(10), sizes), 0)
    assert len({(g, s) for g, s in zip(np.repeat(np.arange(10), sizes), split, strict=True) if s == "train"}) == 6


@pytest.mark.parametrize("fractions", [(0.98, 0.01, 0.01), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)])
def test_extreme_shares_leave_no_split_empty(fractions: tuple[float, float, float]) -> None:
    assert set(split_groups(range(10), 0, fractions)) == {"train", "val", "test"}


def test_train_shows_each_class_and_other_draws_stay() -> None:
    """Of 200 draws a class of one sample is in train in 60 % by chance, and those draws are as without targets."""
    groups, codes, parts = [f"g{i // 2}" for i in range(60)], np.arange(60) % 3, ["train"] * 48 + ["test"] * 12
    codes[31], codes[50] = 3, -1
    targets = {"label": Target("label", codes, classes=("a", "b", "c", "alone"))}
    many = {"name": Target("label", np.arange(60) // 2, classes=tuple(map(str, range(30))))}
    kept = 0
    for seed in range(200):
        for of in ([""] * 60, parts):
            plain, changed = complete_splits(of, groups, seed, "x"), complete_splits(of, groups, seed, "x", targets)
            assert changed[1:] == plain[1:] and Counter(changed[0]) == Counter(plain[0]) and changed[0][31] == "train"
            assert len(dict(zip(groups, changed[0], strict=True))) == len({*zip(groups, changed[0], strict=True)})
            assert plain[0] == changed[0] or plain[0][31] != "train"
            assert of != parts or changed[0][48:] == ["test"] * 12
            assert complete_splits(of, groups, seed, "x", many) == plain, "half of train cannot show them"
        kept += list(split_groups(groups, seed)) == list(split_groups(groups, seed, targets=targets))
    assert 100 < kept < 140


@pytest.mark.parametrize("groups", [[], ["a"], ["a", "b", "a", "b"]])
def test_fewer_than_three_groups_cannot_be_split(groups: list[str]) -> None:
    with refusal("too-few", len(set(groups))):
        split_groups(groups, 0)


# Fingerprints


def one_value(data: Dataset) -> None:
    data.samples[3][5, 6, 1] ^= 1


def one_id(data: Dataset) -> None:
    data.ids[7] = "renamed"


def one_split(data: Dataset) -> None:
    data.split[0] = "val"


def one_group(data: Dataset) -> None:
    data.groups[0] = "other"


def one_label(data: Dataset) -> None:
    data.targets["kind"].values[23] = 0


def one_place(data: Dataset) -> None:
    data.targets["height"].values[2, 3, 4] += 1e-9


def target_name(data: Dataset) -> None:
    data.targets["loudness"] = data.targets.pop("level")


def target_kind(data: Dataset) -> None:
    data.targets["level"] = Target("state", data.targets["level"].values)


def class_name(data: Dataset) -> None:
    data.targets["kind"] = Target("label", data.targets["kind"].values, classes=("slow", "middle", "quick"))


def dtype_of_samples(data: Dataset) -> None:
    data.samples = data.samples.astype(np.int16)


def exchanged_samples(data: Dataset) -> None:
    data.samples = data.samples[[1, 0, *range(2, 24)]]


CHANGES = [
    one_value,
    one_id,
    one_split,
    one_group,
    one_label,
    one_place,
    target_name,
    target_kind,
    class_name,
    dtype_of_samples,
    exchanged_samples,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_fingerprint_sees(change: Callable[[Dataset], None]) -> None:
    data = tiny_dataset(modality="image")
    change(data)
    assert data.fingerprint != tiny_dataset(modality="image").fingerprint


def test_the_same_content_has_the_same_fingerprint_however_it_lies_in_memory() -> None:
    data, other = tiny_dataset(modality="image"), tiny_dataset(modality="image")
    other.samples = list(np.asfortranarray(other.samples))
    other.targets = dict(reversed(other.targets.items()))
    assert data.fingerprint == other.fingerprint
    assert data.fingerprint == data.fingerprint


def test_values_cannot_move_between_neighbouring_columns_unseen() -> None:
    assert new_dataset(ids=["a", "b", "c", "de"]).fingerprint != new_dataset(ids=["a", "b", "cd", "e"]).fingerprint


def test_texts_are_digested_by_content_and_not_by_their_place_in_memory() -> None:
    def written(last: str) -> str:
        texts = np.array(["".join(["text ", i]) for i in ("a", "b", "c", last)], dtype=object)
        return Dataset("mine", "text", texts, list("abcd"), ["train", "val", "test", "test"], {}).fingerprint

    held = written("d"), written("d"), written("e")
    assert held[0] == held[1]
    assert held[0] != held[2]


def test_a_given_fingerprint_is_taken() -> None:
    assert new_dataset(fingerprint="revision 3").fingerprint == "revision 3"


# The helpers that other tests lean on


@pytest.mark.parametrize(("modality", "make"), [("series", tiny_encoder), ("image", tiny_image_encoder)])
def test_tiny_datasets_fit_tiny_encoders_and_hold_a_planted_linear_target(modality: str, make: Any) -> None:
    data, encoder = tiny_dataset(60, modality), make()
    assert data.modality == encoder.modality
    assert encoder.sized_for(data[0]).preprocess(data[0]).isfinite().all()
    mean = np.array([sample.mean() for sample in data.samples])
    assert np.corrcoef(mean, data.targets["level"].values)[0, 1] > 0.9
    assert set(data.split[data.targets["kind"].values == 1]) == {"train", "val", "test"}
    assert set(data.targets) == {"kind", "level"} | ({"height"} if modality == "image" else set())


def test_tiny_heights_are_planted_in_the_pixels() -> None:
    data = tiny_dataset(modality="image")
    height = data.targets["height"].values
    pixels = np.stack([sample.mean(axis=2) for sample in data.samples])
    each = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(pixels, height, strict=True)]
    assert np.median(each) > 0.8


def test_tiny_groups_share_a_split() -> None:
    data = tiny_dataset(group_size=3)
    assert len(set(data.groups)) == 8
    assert data.counts() == {"train": 15, "val": 6, "test": 3}


@pytest.mark.parametrize("error", [ValueError("two\nlines"), MemoryError(), StopIteration(), SystemExit(3)])
def test_a_sample_that_cannot_be_read_for_the_fingerprint_is_named(error: BaseException) -> None:
    class Samples(list[np.ndarray]):
        def __getitem__(self, index: Any) -> Any:
            if index == 2:
                raise error
            return super().__getitem__(index)

    dataset = new_dataset(samples=Samples(np.zeros((4, 3))))
    with refusal("foreign-error", "Sample c of mine") as caught:
        _ = dataset.fingerprint
    assert "\n" not in str(caught.value)


# Texts and questions


def test_a_caption_is_the_answer_to_nothing_asked() -> None:
    data = new_dataset(texts=["a cat", "a dog", "a cat", "a cow"])
    assert data.texts == ("a cat", "a dog", "a cat", "a cow")
    assert data.questions == tuple((Question("caption", text, ("",)),) for text in data.texts)
    assert new_dataset().texts == new_dataset().questions == ()


def test_questions_stand_beside_captions_and_all_of_them_decide_the_fingerprint() -> None:
    cat, dog = (Question("animal", name, ("which animal?",)) for name in ("cat", "dog"))
    asked = [(cat,), (), (dog, cat), (dog,)]
    data = new_dataset(texts=list("rstu"), questions=asked)
    assert data.questions == tuple(asked) and data.texts == tuple("rstu")
    few = subset(data, 3, 0)
    rows = [data.ids.index(i) for i in few.ids]
    assert few.texts == tuple("rstu"[i] for i in rows) and few.questions == tuple(asked[i] for i in rows)
    prints = [
        new_dataset(**columns).fingerprint
        for columns in (
            {},
            {"texts": list("rstu")},
            {"texts": list("rstv")},
            {"texts": list("rstu"), "questions": asked},
            {"questions": asked},
            {"questions": asked[::-1]},
        )
    ]
    assert len(set(prints)) == len(prints)


def test_texts_may_be_read_on_demand() -> None:
    texts, seen = list("rstu"), list[int]()

    def read(i: int) -> str:
        seen.append(i)
        return texts[i]

    data = new_dataset(texts=LazySamples(4, read))
    assert not seen and data.texts[2] == "t" and data.questions[3] == (Question("caption", "u"),)
    assert seen == [2, 3]
    assert data.fingerprint == new_dataset(texts=texts).fingerprint


def test_what_plugins_alone_read_stays_with_a_subset() -> None:
    data = new_dataset(extras={"text_survives": ("mirror",)})
    assert data.extras == subset(data, 3, 0).extras == {"text_survives": ("mirror",)} and not new_dataset().extras


@pytest.mark.parametrize("column", [{"texts": ["one"]}, {"questions": [()]}])
def test_a_column_of_another_length_is_refused(column: Any) -> None:
    with refusal("bad-shape", next(iter(column))):
        new_dataset(**column)


def test_a_question_has_a_wording() -> None:
    with refusal("missing-option", "colour"):
        Question("colour", "red", ())


MAPS = [np.arange(n * 4).reshape(n, 4) % 3 for n in (2, 3, 4, 5)]


def maps_of(values: Any, kind: Any = "token_label", **options: Any) -> Dataset:
    return new_dataset(targets={"parts": Target(kind, values, **options)})


def test_maps_of_unequal_extents_are_kept_apart_and_read_one_by_one() -> None:
    read = list[int]()
    lazy = LazySamples(4, lambda i: (read.append(i), MAPS[i])[1])
    data = maps_of(lazy)
    assert read == [0]  # what it is, is seen of the first
    for i, each in enumerate(maps_of(MAPS).targets["parts"].values):
        np.testing.assert_array_equal(each, MAPS[i])
    assert [maps.shape for maps in data.targets["parts"].blocks()] == [(1, n, 4) for n in (2, 3, 4, 5)]
    assert data.fingerprint == maps_of(MAPS).fingerprint != maps_of([*MAPS[:3], MAPS[3] + 1]).fingerprint
    read.clear()
    assert unprobeable_targets(data) == {} and sorted(set(read)) == [0, 2, 3]  # two classes are in the first of train
    few = subset(data, 3, 0).targets["parts"]
    assert [np.shape(each) for each in few.values][1:] == [(4, 4), (5, 4)]


def test_maps_of_unequal_extents_that_tell_nothing_are_named() -> None:
    constant = maps_of([np.zeros((n, 4), int) for n in (2, 3, 4, 5)])
    assert "only one class in its 2 train samples" in unprobeable_targets(constant)["parts"]
    unknown = maps_of([*MAPS[:3], np.full((5, 4), -1)])
    assert "known for no test sample" in unprobeable_targets(unknown)["parts"]
    metres = maps_of([np.full((n, 4), np.nan if n == 4 else n) for n in (2, 3, 4, 5)], "token_value")
    assert "known for no val sample" in unprobeable_targets(metres)["parts"]
    assert unprobeable_targets(maps_of([np.full((n, 4), float(n)) for n in (2, 3, 4, 5)], "token_value")) == {}
    large = {name: Target("value", np.array([1.0, 2.0, 3.0, x])) for name, x in (("whole", 1e100), ("lost", -1e200))}
    assert [*unprobeable_targets(new_dataset(targets=large))] == ["lost"]


def test_maps_that_do_not_fit_are_refused() -> None:
    with refusal("bad-target", "parts", "mine", "token_label"):
        maps_of([labels + 0.5 for labels in MAPS])


def test_a_later_map_that_does_not_fit_is_named_when_it_is_read() -> None:
    data = maps_of([*MAPS[:3], MAPS[3][:, 0]])
    with refusal("bad-target", "3", "token_label"):
        list(data.targets["parts"].blocks())
