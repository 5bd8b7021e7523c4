"""Probes that read tokens, handed over: they predict on test what the run recorded, on new samples what was planted; refusals."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics import Dataset, DiagnosticsError, Grid, Run, Site, Tap, Target, TorchEncoder
from diagnostics.activations.run_files import remove_tokens
from diagnostics.measures.probes import confusion, mean_iou
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

N, SIDE, CELLS = 60, 16, 4
SCENES = ("dark", "never", "bright", "grey")
NAMES = [
    "linear_probe/height",
    "segmentation_probe/scene",
    "attentive_probe/kind",
    "attentive_probe/level",
    "attentive_probe/hour",
]
OPTIONS: dict[str, Any] = {"controls": False, "report": False}


def images(n: int = N, seed: int = 0) -> Dataset:
    """Beside `height`, `kind` and `level`: `scene`, one of three classes in each quarter, which its blue tells; `hour`."""
    base, rng = tiny_dataset(n, "image", seed=seed, group_size=2), np.random.default_rng(seed + 1)
    quarter = rng.integers(0, 3, (n, 2, 2))
    # One class never occurs.
    scene = np.array([0, 3, 2])[quarter].repeat(SIDE // 2, 1).repeat(SIDE // 2, 2)
    samples = base.samples.copy()
    samples[..., 2] = 68 + 60 * quarter.repeat(SIDE // 2, 1).repeat(SIDE // 2, 2)
    scene[:, 0, :2] = -1
    targets = {
        **base.targets,
        "scene": Target("token_label", scene, classes=SCENES),
        "hour": Target("state", (6 + 4 * base.targets["level"].values) % 24, units="h", period=24.0),
    }
    return Dataset("scenes", "image", samples, base.ids, list(base.split), targets, groups=list(base.groups))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    measures = ["linear_probe", "segmentation_probe", "attentive_probe"]
    out = tmp_path_factory.mktemp("probes") / "run"
    return dx.run(tiny_image_encoder(), images(), out=out, measures=measures, **OPTIONS)


def cells(maps: np.ndarray, cells: int = CELLS) -> np.ndarray:
    """Pixels [sample, y, x] as [sample, token, pixel of the cell]."""
    size = SIDE // cells
    return maps.reshape(len(maps), cells, size, cells, size).swapaxes(2, 3).reshape(len(maps), cells**2, -1)


def score(name: str, predicted: np.ndarray, data: Dataset) -> float:
    """The score of predictions on test, from its definition."""
    target = name.partition("/")[2]
    values, test = data.targets[target].values, data.split == "test"
    if target == "height":
        truth = cells(values).mean(axis=2)
        return float(1 - ((predicted - truth[test]) ** 2).sum() / ((truth[test] - truth[~test].mean()) ** 2).sum())
    if target == "scene":
        # Half of the corner's cells is unknown, and the rest of one class.
        truth = np.array([[max(cell) for cell in image] for image in cells(values[test])])
        return mean_iou(confusion(np.vectorize(SCENES.index)(predicted), truth, len(SCENES)))
    if target == "kind":
        return float((predicted == np.array(data.targets["kind"].classes)[values[test]]).mean())
    if target == "hour":
        away = np.abs(predicted - values[test])
        return float(np.minimum(away, 24 - away).mean())
    return float(1 - ((predicted - values[test]) ** 2).sum() / ((values[test] - values[~test].mean()) ** 2).sum())


@pytest.mark.parametrize("name", NAMES)
def test_its_predictions_on_test_give_the_recorded_score(run: Run, name: str) -> None:
    measure, _, target = name.partition("/")
    key, data = "angular_error" if target == "hour" else "score", images()
    for tap in ("embed", "blocks.2"):
        probe = run.probe(target, measure, tap)
        predicted = probe.predict(run.features(tap, split="test", tokens=True))
        recorded = float(run.profile(name).data[key].sel(tap=tap))
        assert score(name, predicted, data) == pytest.approx(recorded, abs=1e-5)
        assert probe.score.value == float(run.profile(name).data["score"].sel(tap=tap))
        # Wrong answers are seen.
        assert score(name, np.roll(predicted, 3, axis=0), data) != pytest.approx(recorded, abs=1e-3)
        assert probe.pooling == () and probe.grid == Grid((4, 4), ("y", "x"), 2)
        assert probe.on == (None if measure == "attentive_probe" else probe.grid)
    assert run.probe(target, measure).tap == (run.recommend(target, measure).tap or run.profile(name).best_tap)


def test_new_samples_get_what_was_planted_in_them(run: Run) -> None:
    new, encoder = images(20, seed=5), tiny_image_encoder()
    probe = run.probe("scene", "segmentation_probe", "embed")
    assert probe.classes == ("dark", "bright", "grey") and "at embed (tokens): " in str(probe)
    predicted = probe.predict(encoder.transform(new, tap=probe.tap, tokens=True))
    assert predicted.shape == (20, CELLS**2)
    truth = np.array(SCENES)[cells(new.targets["scene"].values).max(axis=2)]
    assert (predicted == truth).mean() > 0.95
    # Of images that are all alike it says the same everywhere.
    blank = np.full_like(new.samples, 128)
    assert len(np.unique(probe.predict(encoder.transform(blank, tap="embed", tokens=True)))) == 1
    height = run.probe("height", tap="embed").predict(encoder.transform(new, tap="embed", tokens=True))
    assert height.shape == (20, CELLS**2) and height.dtype == np.float64


def test_tokens_of_new_samples_are_those_that_a_run_stores(run: Run) -> None:
    encoder, stored = tiny_image_encoder(), run.features("blocks.1", tokens=True)
    for size in (7, None):
        tokens = encoder.transform(images(), tap="blocks.1", tokens=True, batch_size=size)
        assert tokens.dtype == np.float32 and tokens.shape == (N, CELLS**2, 8)
        np.testing.assert_allclose(tokens, stored.values, atol=1e-5)
    # Prefix tokens stand before them, and a block may overwrite what it was given.
    assert not np.allclose(encoder.transform(images(), tap="embed", tokens=True), tokens, atol=0.1)
    assert encoder.transform(images().samples[:0], tokens=True).shape == (0, CELLS**2, 8)
    with refusal("conflict", "'mean'"):
        encoder.transform(images(), pooling="mean", tokens=True)


class Halving(nn.Module):
    """Patches of 4 pixels, their means in twos by twos, and a token for the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.halve, self.whole = nn.Conv2d(3, 8, 4, 4), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(self.halve(self.cut(x)))


def test_a_tap_of_another_grid_is_averaged_over_the_cells_that_were_scored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    taps = [
        Tap(name, depth, "trunk", 8, Grid((side, side), ("y", "x")), Site(name, layout="channels_first"))
        for name, depth, side in (("cut", 0.0, 4), ("halve", 0.5, 2), ("whole", 1.0, 1))
    ]
    base = tiny_image_encoder()
    encoder = TorchEncoder("halving", "image", Halving(), taps, "halve", base.preprocess, base.example())
    maps = dx.run(encoder, images(), out=tmp_path / "run", measures=["linear_probe", "segmentation_probe"], **OPTIONS)
    for measure, target in (("linear_probe", "height"), ("segmentation_probe", "scene")):
        fine, coarse = (maps.probe(target, measure, tap) for tap in ("cut", "halve"))
        assert fine.grid == Grid((4, 4), ("y", "x")) and fine.on == coarse.on == coarse.grid == Grid((2, 2), ("y", "x"))
        predicted = [probe.predict(maps.features(probe.tap, tokens=True)) for probe in (fine, coarse)]
        assert predicted[0].shape == predicted[1].shape == (N, 4)
        # The mean of a map of patches is what the next tap holds, and both were fitted on the same.
        if target == "height":
            np.testing.assert_allclose(*predicted, atol=1e-4)
        else:
            np.testing.assert_array_equal(*predicted)
        with refusal("no-grid", target, measure):
            maps.probe(target, measure, "whole")


def test_events_are_told_in_each_step(tmp_path: Path) -> None:
    base, rng = tiny_dataset(N), np.random.default_rng(2)
    event = np.zeros((N, 32))
    event[np.arange(N), rng.integers(0, 32, N)] = 1
    event[0, :8] = np.nan
    samples = (base.samples + 6 * np.nan_to_num(event)).astype(np.float32)
    data = Dataset("clicks", "series", samples, base.ids, list(base.split), {"click": Target("event", event)})
    told = dx.run(tiny_encoder(), data, out=tmp_path / "run", measures=["event_probe"], **OPTIONS)
    probe = told.probe("click", "event_probe", "embed")
    predicted = probe.predict(told.features("embed", split="test", tokens=True))
    assert predicted.shape == (told.n["test"], 8) and probe.classes == (0, 1)
    truth = event[data.split == "test"].reshape(-1, 8, 4).max(axis=2)
    shares = [(predicted == truth)[truth == kind].mean() for kind in (0, 1)]
    recorded = float(told.profile("event_probe/click").data["score"].sel(tap="embed"))
    assert np.mean(shares) == pytest.approx(recorded, abs=1e-9) and recorded > 0.7
    assert np.mean([(predicted == np.roll(truth, 1, axis=1))[truth == kind].mean() for kind in (0, 1)]) < recorded - 0.1


def test_it_survives_a_pickle(run: Run) -> None:
    for name in NAMES[:3]:
        measure, _, target = name.partition("/")
        probe = run.probe(target, measure, "blocks.1")
        tokens = run.features("blocks.1", tokens=True)
        again = pickle.loads(pickle.dumps(probe))  # noqa: S301  (just made)
        np.testing.assert_array_equal(again.predict(tokens), probe.predict(tokens.values))


def test_other_features_are_refused_with_the_call_that_gives_tokens(run: Run) -> None:
    probe = run.probe("scene", "segmentation_probe", "blocks.1")
    says = (
        r"reads 16 tokens \(4 x 4 \(y, x\) \+ 2 prefix\) of 8 features at tap blocks\.1, prefix tokens left out, and was given shape "
        r"{}: give encoder\.transform\(samples, tap=probe\.tap, tokens=True\), or run\.features\(probe\.tap, tokens=True\)\.$"
    )
    for given, shape in (
        (run.features("blocks.1"), r"\(60, 16\)"),
        (np.zeros((3, 18, 8)), r"\(3, 18, 8\)"),
        (np.zeros((16, 8)), r"\(16, 8\)"),
    ):
        with pytest.raises(DiagnosticsError, match=says.format(shape)):
            probe.predict(given)
    with pytest.raises(DiagnosticsError, match=r'of norm: .*run\.probe\("scene", "segmentation_probe", "norm"\)'):
        probe.predict(run.features("norm", tokens=True))
    with pytest.raises(DiagnosticsError, match="holds NaN or infinity"):
        probe.predict(np.full((1, 16, 8), np.nan))


def test_once_tokens_are_removed_a_probe_says_how_to_get_them_again(tmp_path: Path) -> None:
    options = OPTIONS | {"measures": ["linear_probe", "segmentation_probe"]}
    cleaned = dx.run(tiny_image_encoder(), images(), out=tmp_path / "run", **options)
    wanted = cleaned.probe("scene", "segmentation_probe", "norm")
    tokens = cleaned.features("norm", tokens=True)
    remove_tokens(tmp_path / "run")
    cleaned = Run(tmp_path / "run")
    with refusal("no-tokens"):
        cleaned.probe("scene", "segmentation_probe", "norm")
    # What reads pooled values needs none.
    assert cleaned.probe("level", tap="norm").predict(cleaned.features("norm")).shape == (N,)
    again = dx.run(
        tiny_image_encoder(), images(), out=tmp_path / "run", **options | {"measures": [*options["measures"], "cka"]}
    )
    probe = again.probe("scene", "segmentation_probe", "norm")
    np.testing.assert_array_equal(probe.predict(tokens), wanted.predict(tokens))
