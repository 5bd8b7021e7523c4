"""Stored activations as labelled arrays: of the right samples in the dataset's order, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import diagnostics as dx
from diagnostics import Grid, Run
from diagnostics.runs.run import features
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder


def passed(encoder: dx.TorchEncoder, dataset: dx.Dataset, tap: str) -> np.ndarray:
    """All tokens of a tap in the dataset's order, by one pass of its own."""
    batch = default_collate([encoder.preprocess(dataset[i]) for i in range(len(dataset))])
    return encoder.capture(batch, [tap])[tap].numpy()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("images") / "run"
    options = {"measures": ["rankme"], "controls": False, "report": False, "token_budget": "20KB"}
    return dx.run(tiny_image_encoder(), tiny_dataset(40, "image", group_size=2), out=out, **options)


def test_features_are_those_of_the_samples_in_the_datasets_order(images: Run) -> None:
    dataset = tiny_dataset(40, "image", group_size=2)
    tokens = passed(tiny_image_encoder(), dataset, "blocks.1")
    features = images.features("blocks.1")
    assert features.dims == ("sample", "feature")
    assert features.dtype == np.float32
    assert list(features["sample"].values) == dataset.ids
    assert list(features["split"].values) == list(dataset.split)
    assert list(features["group"].values) == list(dataset.groups)
    assert list(features["pooling"].values) == ["mean"] * 8 + ["prefix"] * 8
    wanted = np.concatenate([tokens[:, 2:].mean(axis=1), tokens[:, 0]], axis=1)
    np.testing.assert_allclose(features.values, wanted, rtol=1e-5, atol=1e-5)
    # The store's own order is another one.
    assert list(images.store.ids) != dataset.ids
    np.testing.assert_array_equal(images.features("blocks.1", pooling="prefix"), features[:, 8:])
    np.testing.assert_array_equal(images.features("blocks.1", pooling=["prefix", "mean"]), features)


def test_several_taps_stand_side_by_side_stored_and_anew(images: Run) -> None:
    taps = ["blocks.1", "norm"]
    both = images.features(taps, split="test")
    each = [images.features(tap, split="test") for tap in taps]
    np.testing.assert_array_equal(both, np.concatenate(each, axis=1))
    assert list(both["tap"].values) == [tap for tap, one in zip(taps, each, strict=True) for _ in range(one.shape[1])]
    assert list(both["sample"].values) == list(each[0]["sample"].values)
    encoder, data = tiny_image_encoder(), tiny_dataset(40, "image", group_size=2)
    new = encoder.transform(data[data.split == "test"], tap=taps)
    np.testing.assert_allclose(new, both, rtol=1e-5, atol=1e-5)
    step = dx.sklearn.TapFeatures(encoder, tap=taps).fit(data.samples)
    assert len(step.get_feature_names_out()) == new.shape[1]
    np.testing.assert_array_equal(step.transform(data[data.split == "test"]), new)
    for wrong, code in (([], "bad-value"), (["norm", "norm"], "bad-value"), (["norm", "other"], "unknown-name")):
        with refusal(code):
            images.features(wrong)
        with refusal(code):
            encoder.transform(data[:2], tap=wrong)


def test_tokens_of_taps_on_unequal_grids_do_not_stand_side_by_side(images: Run) -> None:
    encoder, data = tiny_image_encoder(), tiny_dataset(4, "image")
    both = encoder.transform(data, tap=["blocks.1", "norm"], tokens=True)
    assert both.shape[2] == sum(encoder.tap(tap).features for tap in ("blocks.1", "norm"))
    coarse = [replace(tap, grid=Grid((2, 2), ("y", "x"), 2)) if tap.name == "norm" else tap for tap in encoder.taps]
    with refusal("no-grid"):
        encoder.replace(taps=coarse).transform(data, tap=["blocks.1", "norm"], tokens=True)
    with refusal("no-grid"):
        features(images.store.with_other(taps=coarse), ["blocks.1", "norm"], tokens=True)


def test_a_split_is_its_samples_in_the_datasets_order(images: Run) -> None:
    features, test = images.features("norm"), images.features("norm", split="test")
    assert len(test) == images.n["test"]
    np.testing.assert_array_equal(test, features[features["split"] == "test"])


def test_tokens_are_those_of_the_samples_that_keep_them_with_their_places(images: Run) -> None:
    dataset = tiny_dataset(40, "image", group_size=2)
    tokens = images.features("blocks.1", tokens=True)
    assert tokens.dims == ("sample", "token", "feature")
    assert 0 < len(tokens) == images.store.token_samples < 40
    at = [dataset.ids.index(sample) for sample in tokens["sample"].values]
    assert at == sorted(at)
    wanted = passed(tiny_image_encoder(), dataset, "blocks.1")[at, 2:]
    np.testing.assert_allclose(tokens, wanted, rtol=1e-5, atol=1e-5)
    assert [int(tokens[axis][6]) for axis in ("y", "x")] == [1, 2]
    train = images.features("blocks.1", split="train", tokens=True)
    np.testing.assert_array_equal(train, tokens[tokens["split"] == "train"])


def test_what_is_not_stored_is_refused_in_a_sentence(images: Run, tmp_path: Path) -> None:
    bare = dx.run(
        tiny_encoder(),
        tiny_dataset(20),
        out=tmp_path / "bare",
        measures=["rankme"],
        controls=False,
        report=False,
        token_budget=0,
        taps=["blocks.1"],
    )
    with refusal("no-tokens", "tap blocks.1", "mean and last", "--token-budget"):
        bare.features("blocks.1", tokens=True)
    with refusal("unknown-name", "blocks.2", "--taps"):
        bare.features("blocks.2")
    with refusal("unknown-name", "split 'tests'"):
        images.features("norm", split="tests")
    with refusal("unknown-name", "pooling 'last'"):
        images.features("norm", pooling="last")
    with refusal("conflict", "tokens=True"):
        images.features("norm", pooling="mean", tokens=True)


def test_tokens_in_half_precision_come_back_as_float32(tmp_path: Path) -> None:
    options = {"measures": ["self_similarity"], "controls": False, "report": False, "precision": "float16"}
    run = dx.run(tiny_encoder(), tiny_dataset(20), out=tmp_path / "half", **options)
    tokens = run.features("norm", tokens=True)
    assert tokens.dtype == np.float32
    at = [tiny_dataset(20).ids.index(sample) for sample in tokens["sample"].values]
    wanted = passed(tiny_encoder(), tiny_dataset(20), "norm")[at]
    np.testing.assert_array_equal(tokens, torch.from_numpy(wanted).half().float())
