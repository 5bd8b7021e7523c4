"""The nonlinear control without a model, held against closed forms, scikit-learn and planted targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import KernelCenterer
from torch import nn
from torch.utils.data import default_collate

import diagnostics as dx
from diagnostics import Dataset, Encoder, Grid, Site, Tap, Target, TorchEncoder
from diagnostics.activations.extract import extract
from diagnostics.activations.plan import plan
from diagnostics.datasets.target import pad_series
from diagnostics.measures.apply import measure_all
from diagnostics.measures.probes.linear import BANDWIDTHS, LANDMARKS, LEAST_TRAIN, KernelFeatures
from diagnostics.runs.controls.kinds import control_encoders
from diagnostics.runs.controls.names import NAMES
from diagnostics.runs.controls.raw_input import RawKernel
from diagnostics.runs.setup import select_measures
from diagnostics.specs import build
from tests.support.refusals import refusal
from tests.support.tiny import LENGTH, tiny_dataset, tiny_encoder, tiny_image_encoder

Floats = NDArray[np.float64]


def splits(n: int) -> list[str]:
    return [("train", "val", "train", "test", "train")[i % 5] for i in range(n)]


def dataset(samples: Any, targets: dict[str, Target], modality: Any = "series") -> Dataset:
    n = len(samples)
    return Dataset("planted", modality, samples, [f"s{i}" for i in range(n)], splits(n), targets)


def two_amplitudes(n: int, seed: int = 0) -> tuple[np.ndarray, Floats, Floats]:
    """Series a sin + b cos under little noise, and a and b, independent and symmetric about 0."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-1, 1, (2, n))
    angle = 2 * np.pi * np.arange(LENGTH) / LENGTH
    noise = 0.02 * rng.standard_normal((n, LENGTH))
    return (a[:, None] * np.sin(angle) + b[:, None] * np.cos(angle) + noise).astype(np.float32), a, b


def read(
    data: Dataset,
    path: Path,
    control: str = "raw_input_kernel",
    encoder: Encoder | None = None,
    by: str = "linear_probe",
) -> dict[str, xr.Dataset]:
    """What a probe finds in one control: target -> result."""
    control_encoder = control_encoders(encoder or tiny_encoder(), data, 0)[control]()
    store = extract(
        control_encoder, data, path / control, plan(control_encoder, control_encoder.taps, len(data), 10**8, "float32")
    )
    measured = measure_all(select_measures([by])[0], store, store.targets(), asked=[by])
    return {key.partition("/")[2]: result for key, result in measured.results.items()}


def best(result: xr.Dataset) -> float:
    return result["score"].sel(tap=result.attrs["chosen_tap"]).item()


# The features


@pytest.mark.parametrize("share", BANDWIDTHS)
def test_distances_of_features_are_those_of_the_gaussian_kernel(share: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 5)) * [1, 2, 3, 4, 100] + 7
    z = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    kernel = np.exp(-cdist(z, z, "sqeuclidean") / (2 * (share * np.median(pdist(z))) ** 2))
    given = torch.from_numpy(rows).float()
    control_encoder = KernelFeatures(rows, 0)(given[:, None])[share][:, 0].double().numpy()
    np.testing.assert_allclose(cdist(control_encoder, control_encoder, "sqeuclidean"), 2 - 2 * kernel, atol=1e-3)
    # All vary alike, so that a probe may standardise them.
    np.testing.assert_allclose(control_encoder.std(axis=0), control_encoder.std(axis=0).mean(), rtol=1e-2)
    # Of samples with several rows, with the mean kernel over all pairs of rows.
    control_encoder = KernelFeatures(rows, 0)(given.reshape(6, 10, 5))[share][:, 0].double().numpy()
    means = kernel.reshape(6, 10, 6, 10).mean(axis=(1, 3))
    expected = np.diag(means)[:, None] + np.diag(means) - 2 * means
    np.testing.assert_allclose(cdist(control_encoder, control_encoder, "sqeuclidean"), expected, atol=1e-3)


def test_values_that_never_vary_and_equal_rows_give_finite_features() -> None:
    rows = np.tile(np.array([[1.0, 1e6, 0.0]]), (40, 1))
    for result in KernelFeatures(rows, 0)(torch.ones(3, 1, 3)).values():
        assert result.isfinite().all()


def test_many_rows_are_held_against_some_of_them() -> None:
    rows = np.random.default_rng(0).standard_normal((LANDMARKS + 300, 3))
    assert KernelFeatures(rows, 0)(torch.zeros(2, 1, 3))[0.25].shape == (2, 1, LANDMARKS)


# What the control reaches


def test_it_reads_what_no_linear_map_of_the_raw_values_holds(tmp_path: Path) -> None:
    series, a, b = two_amplitudes(300)
    targets = {
        "product": Target("value", a * b),
        "square": Target("value", a**2),
        "level": Target("value", a),
        "sign": Target("label", (a * b > 0).astype(np.int64)),
    }
    data = dataset(series, targets)
    linear, kernel = (read(data, tmp_path, name) for name in ("raw_input", "raw_input_kernel"))
    for name in ("product", "square"):
        assert best(linear[name]) < 0.1, name
        assert best(kernel[name]) > 0.9, name
    assert best(linear["sign"]) < 0.65
    assert best(kernel["sign"]) > 0.85
    assert best(linear["level"]) > 0.9
    assert best(kernel["level"]) > 0.9


def test_a_run_holds_the_encoder_against_it(tmp_path: Path) -> None:
    series, a, b = two_amplitudes(300)
    data = dataset(series, {"product": Target("value", a * b)})
    run = dx.run(tiny_encoder(), data, out=tmp_path / "run", measures="linear_probe", taps=["embed"], report=False)
    profile = run.profile("linear_probe/product")
    result, over = profile.control("raw_input_kernel"), profile.over("raw_input_kernel")
    assert list(profile.controls) == list(NAMES)
    assert profile.score is not None
    assert result is not None
    assert over is not None
    assert profile.score.value > 0.5, "the encoder reads it too"
    assert result.value > 0.9
    assert over.value == pytest.approx(profile.score.value - result.value)
    assert profile.reading.endswith("and raw input kernel"), "and neither fresh nor permuted weights"
    assert profile.to_json()["controls"]["raw_input_kernel"] == pytest.approx(result.value)


def test_what_the_input_does_not_hold_stays_at_chance(tmp_path: Path) -> None:
    series, _, _ = two_amplitudes(200)
    rng = np.random.default_rng(1)
    data = dataset(series, {f"noise{i}": Target("value", rng.standard_normal(200)) for i in range(20)})
    result = list(read(data, tmp_path).values())
    assert len(result) == 20
    assert np.mean([best(one) for one in result]) < 0.02
    assert sum(one["low"].sel(tap=one.attrs["chosen_tap"]) > 0 for one in result) <= 3  # .5 expected


@pytest.mark.slow
def test_val_alone_chooses_the_bandwidth(tmp_path: Path) -> None:
    series, a, _ = two_amplitudes(500)
    values = {"slow": a, "fast": np.sin(9 * a)}
    data = dataset(series, {name: Target("value", value) for name, value in values.items()})
    chosen = {name: result.attrs["chosen_tap"] for name, result in read(data, tmp_path / "one").items()}
    width = {name: float(tap.partition("_x")[2]) for name, tap in chosen.items()}
    assert width["fast"] < width["slow"]
    # Whatever the test samples say of it afterwards.
    noise = np.random.default_rng(0).standard_normal(500)
    other = {name: Target("value", np.where(data.split == "test", noise, value)) for name, value in values.items()}
    again = read(dataset(series, other), tmp_path / "other")
    assert chosen == {name: result.attrs["chosen_tap"] for name, result in again.items()}


@pytest.mark.slow
def test_it_agrees_with_kernel_ridge_regression_of_scikit_learn(tmp_path: Path) -> None:
    data = build("dataset", "lorenz")
    result = read(data, tmp_path, encoder=tiny_encoder(length=512))
    x = np.stack([data[i][-64:] for i in range(len(data))]).astype(np.float64)
    train, val, test = (np.flatnonzero(data.split == name) for name in ("train", "val", "test"))
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    fit, width = np.concatenate([train, val]), np.median(pdist(x[train]))

    def left(y: Floats, rows: np.ndarray, new: np.ndarray, gamma: float, penalty: float) -> float:
        centring = KernelCenterer()
        kernel = centring.fit_transform(rbf_kernel(x[rows], gamma=gamma))
        model = KernelRidge(kernel="precomputed", alpha=penalty).fit(kernel, y[rows] - y[rows].mean())
        new_kernel = centring.transform(rbf_kernel(x[new], x[rows], gamma=gamma))
        return float(((model.predict(new_kernel) + y[rows].mean() - y[new]) ** 2).sum())

    penalties = np.geomspace(1e-6, 1e2, 25)
    for target, share in (
        ("hidden_z", 0.5),
        ("hidden_z", 1.0),
        ("hidden_y", 0.5),
        ("hidden_y", 1.0),
        ("log_switch", 0.5),
    ):
        y, gamma = data.targets[target].values, 1 / (2 * (share * width) ** 2)
        errors = [left(y, train, val, gamma, penalty) for penalty in penalties]
        away = ((y[test] - y[fit].mean()) ** 2).sum()
        theirs = 1 - left(y, fit, test, gamma, penalties[int(np.argmin(errors))]) / away
        # Theirs also holds samples against those of val, on which it is fitted again.
        assert float(result[target]["score"].sel(tap=f"last_x{share:g}")) == pytest.approx(theirs, abs=0.04)


def stripes(n: int, cells: int, side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of cells whose stripes lie or stand, dark or light first by chance; which they do, [sample, y, x]."""
    rng = np.random.default_rng(seed)
    stand = rng.integers(0, 2, (n, cells, cells))
    first = rng.integers(0, 2, (n, cells, cells))
    whole = np.repeat(np.repeat(np.stack([stand, first]), side, axis=2), side, axis=3)
    rows, columns = np.mgrid[: cells * side, : cells * side]
    light = (np.where(whole[0] == 1, columns, rows) // 2 + whole[1]) % 2
    noisy = 96 + 64 * light[..., None] + 5 * rng.standard_normal((*light.shape, 3))
    return noisy.round().astype(np.uint8), whole[0]


@pytest.mark.slow
def test_random_patches_see_a_texture_that_pixels_and_moments_do_not(tmp_path: Path) -> None:
    images, stand = stripes(300, 1, 16)
    data = dataset(images, {"stand": Target("label", stand[:, 0, 0])}, "image")
    for control in ("raw_input", "summary_statistics"):
        assert best(read(data, tmp_path, control, tiny_image_encoder())["stand"]) < 0.7, control
    result = read(data, tmp_path, encoder=tiny_image_encoder())["stand"]
    assert best(result) > 0.95
    assert float(result["score"].sel(tap="patches32")) > 0.95


def test_of_dense_targets_they_see_the_texture_of_each_cell(tmp_path: Path) -> None:
    images, stand = stripes(200, 4, 4)
    data = dataset(images, {"stand": Target("token_label", stand)}, "image")
    linear, kernel = (
        read(data, tmp_path, name, tiny_image_encoder(), "segmentation_probe")["stand"]
        for name in ("raw_input", "raw_input_kernel")
    )
    assert best(linear) < 0.6
    assert best(kernel) > 0.9
    assert kernel.attrs["chosen_tap"].startswith("cells")


# What it may look at


def test_below_a_hundred_training_samples_it_is_left_out(tmp_path: Path) -> None:
    run = dx.run(tiny_encoder(), tiny_dataset(160), out=tmp_path / "run", measures="linear_probe", report=False)
    assert run.skipped["raw_input_kernel"] == "the raw input kernel needs 100 training samples, and tiny-series has 96."
    assert not (run.path / "controls" / "raw_input_kernel").exists()
    assert run.profile("linear_probe/level").control("raw_input") is not None
    enough = dataset(two_amplitudes(166)[0], {})
    assert enough.counts()["train"] == LEAST_TRAIN
    RawKernel(tiny_encoder(), enough, 0)


def test_scales_and_bandwidths_come_from_training_samples_and_no_target() -> None:
    data = tiny_dataset(200)
    batch = default_collate([RawKernel(tiny_encoder(), data, 0).preprocess(data[i]) for i in range(4)])
    samples = data.samples.copy()
    samples[data.split != "train"] *= 100
    other = Dataset("other", "series", samples, data.ids, list(data.split), {})
    one, two = (RawKernel(tiny_encoder(), each, 0).capture(batch) for each in (data, other))
    assert list(one) == list(two)
    for name, values in one.items():
        torch.testing.assert_close(values, two[name], rtol=0, atol=0, msg=name)


def test_another_seed_is_another_control() -> None:
    data = tiny_dataset(200, "image")
    one, two = (RawKernel(tiny_image_encoder(), data, seed) for seed in (0, 1))
    assert one.identity != two.identity
    assert one.identity == RawKernel(tiny_image_encoder(), data, 0).identity
    batch = default_collate([one.preprocess(data[0])])
    assert not torch.equal(
        one.capture(batch, ["patches32"])["patches32"], two.capture(batch, ["patches32"])["patches32"]
    )


@pytest.mark.parametrize("modality", ["video", "audio", "text", "image", "series", "ragged"])
def test_every_modality_has_it(modality: str) -> None:
    rng = np.random.default_rng(0)
    n = 170
    samples: Any = {
        "video": lambda: rng.integers(0, 256, (n, 4, 8, 8, 3), dtype=np.uint8),
        "audio": lambda: rng.standard_normal((n, 800)).astype(np.float32),
        "text": lambda: np.array([" ".join(rng.choice(["a", "few", "words"], 5)) for _ in range(n)], dtype=object),
        "image": lambda: rng.integers(0, 256, (n, 8, 8), dtype=np.uint8),
        "series": lambda: rng.standard_normal((n, 100, 3)).astype(np.float32),
        "ragged": lambda: pad_series([rng.standard_normal(1 + i % 90).astype(np.float32) for i in range(n)]),
    }[modality]()
    kind: Any = "series" if modality == "ragged" else modality
    tap = Tap("here", 1.0, "trunk", 3, Grid((1,), ("t",)), Site("", layout="features"))
    encoder = TorchEncoder("mine", kind, nn.Identity(), [tap], "here", lambda sample: torch.zeros(3), samples[0])
    data = dataset(samples, {}, kind)
    control = control_encoders(encoder, data, 0)["raw_input_kernel"]()
    result = control.capture(default_collate([control.preprocess(data[i]) for i in range(8)]))
    assert list(result) == [tap.name for tap in control.taps]
    assert len(result) >= len(BANDWIDTHS)
    for tap in control.taps:
        assert result[tap.name].shape == (8, tap.tokens, tap.features)
        assert result[tap.name].isfinite().all()
        assert result[tap.name].std() > 0


def test_an_unknown_tap_of_it_is_named() -> None:
    control = RawKernel(tiny_encoder(), tiny_dataset(200), 0)
    with refusal("unknown-name", "last_x0.5"):
        control.capture(default_collate([control.preprocess(control.example())]), ["last_x0.6"])
