"""Arrays, tables and other libraries' datasets where a dataset is asked for: what is inferred, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets as hub
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, random_split

import diagnostics as dx
from diagnostics.errors import DiagnosticsError
from diagnostics.progress import Cost
from tests.support.masked import masked_encoder
from tests.support.refusals import refusal
from tests.support.tiny import LENGTH, SIDE, tiny_dataset, tiny_encoder, tiny_image_encoder

RNG = np.random.default_rng(0)
N = 40
SERIES = RNG.standard_normal((N, LENGTH)).astype(np.float32)
LEVEL = SERIES.mean(axis=1)
SICK = np.where(LEVEL > 0, "yes", "no")
MACHINES = np.repeat(np.arange(N // 4), 4)
PIXELS = RNG.integers(0, 256, (N, SIDE, SIDE, 3), np.uint8)
CODES = np.arange(N) % 3


class Pairs(torch.utils.data.Dataset[Any]):
    """Images and classes, as torchvision's datasets have them; `reads` counts items."""

    def __init__(self, listed: bool) -> None:
        self.reads, self.classes = 0, ["ant", "bee", "cat"]
        if listed:
            self.targets = CODES.tolist()

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.reads += 1
        return torch.as_tensor(PIXELS[index]).permute(2, 0, 1) / 255, int(CODES[index])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


def values(data: dx.Dataset, name: str) -> list[Any]:
    """Known entries of a target by name of the class, or as numbers."""
    target = data.targets[name]
    return [target.classes[code] for code in target.values] if target.kind == "label" else target.values.tolist()


def test_a_target_by_place_of_unequal_lengths_is_named_before_anything_is_extracted(tmp_path: Path) -> None:
    rows = [row[: LENGTH - i % 3] for i, row in enumerate(SERIES)]
    by_step = dx.Target("token_value", [np.arange(len(row), dtype=float) for row in rows])
    alone, both = dx.dataset(rows, {"step": by_step}), dx.dataset(rows, {"step": by_step, "level": LEVEL})
    with refusal("no-target", "step"):
        dx.run(tiny_encoder(), alone, out=tmp_path / "alone", measures="linear_probe", controls=False)
    assert not (tmp_path / "alone").exists()
    events = list[Any]()
    options = {"measures": "linear_probe", "controls": False, "out": tmp_path / "both"}
    run = dx.run(masked_encoder(LENGTH), both, watch=events.append, **options)
    (why,) = next(event.unprobeable for event in events if isinstance(event, Cost))
    assert "step" in why and run.skipped["linear_probe/step"] == why


def test_an_array_on_disk_is_one_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", SERIES)
    mapped = dx.dataset(np.load(tmp_path / "x.npy", mmap_mode="r"), SICK)
    assert mapped.fingerprint == dx.dataset(SERIES, SICK).fingerprint


def test_splits_of_arrays_are_drawn_by_group_and_exchangeable() -> None:
    data = dx.dataset(SERIES, SICK, MACHINES)
    assert data.modality == "series" and data.exchangeable is True and data.groups[4] == "1"
    assert all(len(set(data.split[data.groups == group])) == 1 for group in set(data.groups))
    assert data.ids[0] == "sample-000000" and data.fingerprint == dx.dataset(SERIES, SICK, MACHINES).fingerprint
    assert values(data, "label") == SICK.tolist() and "given in Python" in data.about
    given = dx.dataset(SERIES, SICK, splits=["train"] * 20 + ["validation"] * 10 + ["test"] * 10)
    assert given.exchangeable is False and given.counts() == {"train": 20, "val": 10, "test": 10}
    assert dx.dataset(SERIES, SICK, splits=["train"] * 30 + ["test"] * 10).exchangeable == "fit"
    for i in range(10):
        once = dx.dataset(SERIES, np.where(np.arange(N) == i, "once", SICK))
        assert once.split[i] == "train" and once.counts() == dx.dataset(SERIES, SICK).counts()


@pytest.mark.parametrize(
    ("y", "kind", "first"),
    [
        (SICK, "label", SICK[0]),
        (SICK.astype(object), "label", SICK[0]),
        (pd.Series(SICK).astype("category"), "label", SICK[0]),
        (LEVEL > 0, "label", str(LEVEL[0] > 0)),
        (CODES, "label", "0"),
        (torch.as_tensor(CODES + 1), "label", "1"),
        (np.where(LEVEL > 0, 1, -1), "label", "1" if LEVEL[0] > 0 else "-1"),
        (LEVEL[:, None], "value", LEVEL[0]),
        (torch.as_tensor(LEVEL).bfloat16(), "value", float(torch.as_tensor(LEVEL).bfloat16()[0])),
        (np.where(np.arange(N) == 3, np.nan, LEVEL), "value", LEVEL[0]),
        (np.arange(N) * 7.0, "value", 0.0),
        ((np.arange(N) / 4).astype(object), "value", 0.0),
        (dx.Target("value", np.arange(N)), "value", 0.0),
    ],
)
def test_kinds_and_class_names_follow_from_the_entries(y: Any, kind: str, first: Any) -> None:
    data = dx.dataset(SERIES, y)
    assert list(data.targets) == [kind] and data.targets[kind].kind == kind
    assert values(data, kind)[0] == pytest.approx(first) if kind == "value" else values(data, kind)[0] == first


@pytest.mark.parametrize(
    "y",
    [
        [None if i == 7 else name for i, name in enumerate(SICK)],
        pd.Series(SICK).astype("category").where(np.arange(N) != 7),
        [None if i == 7 else int(code) for i, code in enumerate(CODES)],
        [None if i == 7 else bool(level > 0) for i, level in enumerate(LEVEL)],
    ],
)
def test_a_missing_class_is_unknown_as_in_tables(y: Any) -> None:
    target, whole = (dx.dataset(SERIES, each).targets["label"] for each in (y, [*y[:7], y[8], *y[8:]]))
    assert target.values[7] == -1 and target.classes == whole.classes
    np.testing.assert_array_equal(np.delete(target.values, 7), np.delete(whole.values, 7))


def test_several_targets_by_name() -> None:
    for y in ({"sick": SICK, "level": LEVEL}, pd.DataFrame({"sick": SICK, "level": LEVEL})):
        assert [target.kind for target in dx.dataset(SERIES, y).targets.values()] == ["label", "value"]


def test_the_samples_say_their_modality() -> None:
    for X, modality in (
        (PIXELS, "image"),
        (PIXELS[..., 0], "image"),
        (PIXELS[:, None], "video"),
        (PIXELS[..., 0] / 255.0, "series"),
        (PIXELS / 255.0, "image"),
        (list(PIXELS), "image"),
        ([f"text {i}" for i in range(N)], "text"),
        ([Image.fromarray(each).convert("P") for each in PIXELS], "image"),
        (SERIES[..., None], "series"),
    ):
        assert dx.dataset(X).modality == modality
    first = dx.dataset([Image.fromarray(each).convert("P") for each in PIXELS])[0]
    assert first.shape == (SIDE, SIDE, 3), "a palette's colours"
    np.testing.assert_array_equal(dx.dataset(PIXELS.transpose(0, 3, 1, 2))[0], PIXELS[0])
    whole = dx.dataset(PIXELS.astype(np.int64))
    assert whole[0].dtype == np.uint8 and dx.dataset(SERIES > 0)[0].dtype == np.float32
    assert dx.dataset(SERIES, modality="audio").modality == "audio"


def test_equal_texts_are_said_to_be_one_group() -> None:
    with refusal("bad-sample", "equal texts"):
        dx.dataset(["one", "other"] * 30)
    with refusal("too-few", "equal texts"):
        dx.split_groups(["one", "other"] * 30, seed=0)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_images_of_more_than_8_bits_are_not_cut_to_white(kind: type) -> None:
    with refusal("bad-sample", "An image has pixels"):
        dx.dataset([Image.fromarray(each[..., 0].astype(kind) * 100) for each in PIXELS])


@pytest.mark.parametrize("odd", [300, -3])
def test_whole_numbers_beyond_a_byte_are_refused_and_not_wrapped(odd: int) -> None:
    pixels = PIXELS.astype(np.int64)
    pixels[5, 0, 0, 0] = odd
    with refusal("bad-sample", odd):
        list(dx.dataset(pixels))


def test_series_of_unequal_length_are_padded_and_equal_texts_are_a_group() -> None:
    data = dx.dataset([SERIES[i, : 8 + i % 5] for i in range(N)], LEVEL)
    assert data.ragged and np.isnan(data[0][0]) and data[4][-1] == SERIES[4, 11]
    texts = dx.dataset([f"text {i // 2}" for i in range(N)], SICK)
    assert all(texts.split[i] == texts.split[i + 1] for i in range(0, N, 2))


def test_a_table_names_its_columns() -> None:
    table = pd.DataFrame(SERIES, index=pd.Index([f"r{i}" for i in range(N)])).assign(
        sick=SICK, level=LEVEL, machine=MACHINES
    )
    data = dx.dataset(table, ["sick", "level"], groups="machine")
    np.testing.assert_allclose(data[3], SERIES[3])
    assert data.ids[:2] == ["r0", "r1"] and list(data.targets) == ["sick", "level"] and len(set(data.groups)) == 10
    texts = pd.DataFrame({"text": [f"text {i}" for i in range(N)], "sick": SICK, "split": data.split})
    read = dx.dataset(texts, "sick", splits="split")
    assert read.modality == "text" and read.split.tolist() == data.split.tolist() and read[7].item() == "text 7"
    assert list(dx.dataset(table[list(range(LENGTH))], table["sick"]).targets) == ["sick"]


def test_torch_datasets_are_read_on_demand() -> None:
    listed, unlisted = Pairs(True), Pairs(False)
    data, other = dx.dataset(listed), dx.dataset(unlisted)
    assert listed.reads < 5 < N <= unlisted.reads and data.modality == "image"
    np.testing.assert_allclose(data[5], PIXELS[5] / 255, rtol=1e-6)
    assert values(data, "label")[:3] == values(other, "label")[:3] == ["ant", "bee", "cat"]
    part, _ = random_split(Pairs(True), [30, 10])
    assert len(dx.dataset(part)) == 30
    assert dx.dataset(TensorDataset(torch.as_tensor(SERIES), torch.as_tensor(LEVEL))).targets["value"].kind == "value"


def test_hugging_face_datasets_name_samples_targets_and_splits() -> None:
    features = hub.Features(
        {"image": hub.Image(), "label": hub.ClassLabel(names=["ant", "bee", "cat"]), "who": hub.Value("int64")}
    )
    rows = hub.Dataset.from_dict(
        {"image": [Image.fromarray(p) for p in PIXELS], "label": CODES, "who": MACHINES}, features
    )
    data = dx.dataset(rows, groups="who")
    assert values(data, "label")[:3] == ["ant", "bee", "cat"] and len(set(data.groups)) == 10
    np.testing.assert_array_equal(data[5], PIXELS[5])
    parts = hub.DatasetDict({"train": rows.select(range(30)), "test": rows.select(range(30, N))})
    split = dx.dataset(parts)
    assert split.counts()["test"] == 10 and split.exchangeable == "fit" and split.split[0] in ("train", "val")
    texts = hub.Dataset.from_dict({"text": [f"text {i}" for i in range(N)], "stars": LEVEL})
    assert dx.dataset(texts, "stars").modality == "text" and dx.dataset(texts, "stars").targets["stars"].kind == "value"
    lists = hub.Dataset.from_dict({"x": SERIES.tolist(), "text": SICK.tolist()})
    np.testing.assert_allclose(dx.dataset(lists, "text")[2], SERIES[2], rtol=1e-6)


WORDS = [f"text {i}" for i in range(N)]


class ListedTexts(torch.utils.data.Dataset[str]):  # of torch: what it holds is read on demand
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> str:
        return "" if i == 3 else WORDS[i]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"y": SICK[:30]}, r"X has 40 samples, and y has shape \[30\]: give one entry for each sample"),
    ({"groups": MACHINES[:3]}, r"X has 40 samples, and groups has shape \[3\]"),
    ({"splits": ["train"] * 5}, r"X has 40 samples, and splits has shape \[5\]"),
    ({"y": np.where(np.arange(N) == 7, np.nan, CODES)}, r"3 different whole numbers as floats and nothing for 1 samples"),
    ({"y": [{"a": 1}] * N}, r"y holds dict: give names, or numbers, of one type"),
    ({"y": np.array([1, "a"] * (N // 2), dtype=object)}, r"y holds number and str: give names, or numbers, of one type"),
    ({"y": np.arange(N) * 3}, r"40 different whole numbers, which may be classes or a quantity: give y\.astype\(int\)\.astype\(str\)"),
    ({"y": CODES - 1}, r"3 different whole numbers, which may be classes or a quantity"),
    ({"y": {"age": CODES.astype(float)}}, r"y\['age'\] holds 3 different whole numbers as floats.*Target\('value', y\['age'\]\)"),
    ({"y": np.eye(3)[CODES]}, r"y has shape \[40, 3\]: give one entry for each sample, several targets by name"),
    ({"y": np.where(np.arange(N) == 7, np.inf, LEVEL)}, r"y is infinite for a sample: give NaN"),
    ({"groups": np.arange(N) // 20, "splits": ["train", "val", "test", "test"] * 10}, r"has group 0 in train and in val: keep each group in one split"),
    ({"groups": np.where(np.arange(N) == 7, np.nan, MACHINES)}, r"groups is not known for sample 7"),
    ({"splits": ["train", "holdout"] * 20}, r"X has a split named holdout: name splits train, val and test"),
    ({"modality": "picture"}, r"Unknown modality 'picture': there are audio, image, series, text, video"),
    ({"modality": "video"}, r"Sample 0 of X is float32 of shape \[32\], and video samples are \[t, y, x, channel\]"),
    ({"X": SERIES[:3], "y": SICK[:3]}, r"X has 3 samples of 3 groups, of which train, val and test cannot be drawn: .* give 5 groups or more"),
    ({"X": SERIES[:, 0]}, r"Sample 0 of X is float32 of shape \[\], and series samples are \[time\] or"),
    ({"X": [{"x": 1}] * N}, r"Sample 0 of X is object of shape \[\]"),
    ({"X": np.array([SERIES[0], None] * 6, dtype=object)}, r"Sample 1 of X is object of shape \[\], and series samples are \[time\] or"),
    ({"X": []}, r"X is empty"),
    ({"X": [*WORDS[:6], " ", *WORDS[7:]]}, r"Text 7 of arrays \(sample-000006\) is empty"),
    ({"X": np.array([*WORDS[:6], "", *WORDS[7:]])}, r"Text 7 of arrays \(sample-000006\) is empty"),
    ({"X": [None, *WORDS[1:]]}, r"Text 1 of arrays \(sample-000000\) is missing"),
    ({"X": ListedTexts()}, r"Text 4 of arrays \(sample-000003\) is empty"),
    ({"X": pd.DataFrame({"text": ["c", np.nan, *WORDS[2:]]})}, r"Text 2 of arrays \(sample-000001\) is missing"),
    ({"y": "sick"}, r"Unknown column of X 'sick': there are none"),
    ({"X": {"a": SERIES}}, r"X is a dict, whose samples have no numbers: give an array"),
    ({"X": DataLoader(TensorDataset(torch.as_tensor(SERIES)))}, r"X is a DataLoader, .*loader\.dataset"),
    ({"X": Stream()}, r"X is a Stream, whose samples have no numbers"),
    ({"X": pd.DataFrame(SERIES).assign(name=SICK)}, r"Column name of X holds no numbers, .*: name what is no sample as y=, groups= or splits=, or drop it"),
    ({"X": pd.DataFrame(SERIES), "y": "sik"}, r"Unknown column of X 'sik'"),
    ({"X": pd.DataFrame(SERIES), "y": pd.Series(SICK, index=range(1, N + 1))}, r"Rows of X and y have other indexes: align them, y = y\.loc\[X\.index\]"),
    ({"X": "lorenz", "y": SICK}, r"has targets and splits of its own: give X alone"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "sentence"), WRONG)
def test_what_is_wrong_is_said_in_one_sentence(given: dict[str, Any], sentence: str) -> None:
    arguments: dict[str, Any] = {"X": SERIES, **given}
    with pytest.raises(DiagnosticsError, match=sentence) as raised:
        dx.dataset(**arguments)
    text = str(raised.value)
    assert text.count(". ") <= text.count("`"), "one sentence"


def test_a_run_takes_arrays_and_names_their_modality_by_the_encoder(tmp_path: Path) -> None:
    like = tiny_dataset(N)
    X, y = np.stack([like[i] for i in range(N)]), like.targets["level"].values
    options: dict[str, Any] = {"measures": "linear_probe", "controls": False, "report": False}
    run = dx.run(tiny_encoder(), (X, y, MACHINES), out=tmp_path / "run", **options)
    assert run.dataset == "arrays" and run.record.dataset.groups == 10 and run.recommend("value").tap
    again = dx.run(tiny_encoder(), dx.dataset(X, y, MACHINES), out=tmp_path / "again", **options)
    np.testing.assert_array_equal(run.profiles()[0].data["score"], again.profiles()[0].data["score"])
    assert "linear_probe/level" in dx.measure(tiny_encoder().module, (X, {"level": y}))["measure"]
    assert dx.LayerProfiles(tiny_encoder().module, (X, y), every=1).step(1) is not None
    grey = tiny_dataset(N, "image")
    pixels = np.stack([grey[i] for i in range(N)]).astype(np.float32) / 255
    assert dx.encoder_of(tiny_image_encoder().module, (pixels, CODES)).modality == "image"
    sound = tiny_encoder().replace(modality="audio")
    assert "linear_probe/value" in dx.measure(sound, (X, y))["measure"]


def test_names_give_typed_encoders_and_datasets() -> None:
    assert isinstance(dx.encoder("objectives:lorenz-forecast"), dx.Encoder)
    data = dx.dataset("lorenz?n=40")
    assert len(data) == 40 and dx.dataset(data) is data
