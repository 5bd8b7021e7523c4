"""Several taps of tokens side by side: half of the truth in each of two, or all in one; streamed, stored, and in launches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import diagnostics as dx
from diagnostics import Dataset, Grid, Run, Site, Tap, Target, TorchEncoder
from diagnostics.activations.parts import Launch
from diagnostics.measures.probes.dense_sets import evenly_spaced, joined_taps
from diagnostics.measures.probes.least_squares import PENALTIES
from diagnostics.measures.probes.protocol import Rows, folds
from diagnostics.runs.extraction import extract_parts
from diagnostics.runs.options import Request

N, SIDE, WIDTH, NOISE = 80, 4, 6, 3
CHANNELS = 2 + 5 * NOISE
OPTIONS: dict[str, Any] = {
    "measures": ["tap_set"],
    "controls": False,
    "report": False,
    "dense": "streamed",
    "choose_on": "fit",
    "watch": dx.silent,
}


class Some(nn.Module):
    """The channels of the input from `first` on, over several features, and noise that they have of their own."""

    def __init__(self, first: int, count: int, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        weights = np.zeros((CHANNELS, WIDTH))
        weights[first : first + count] = 3 * rng.standard_normal((count, WIDTH))
        own = 2 + NOISE * (seed % 5)
        weights[own : own + NOISE] = rng.standard_normal((NOISE, WIDTH))
        self.weights = nn.Buffer(torch.from_numpy(weights).float())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights


class Halves(nn.Module):
    """Taps t0 ... of which t1 holds channel 0 and t3 channel 1, or t1 both; the others noise."""

    def __init__(self, halves: bool, taps: int) -> None:
        super().__init__()
        held = {1: (0, 1 if halves else 2), 3: (1, 1 if halves else 0)}
        self.taps = nn.ModuleList([Some(*held.get(i, (0, 0)), seed=i) for i in range(taps)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        return torch.stack([tap(tokens) for tap in self.taps]).sum(dim=0)


def encoder(halves: bool = True, taps: int = 5, behind: int = 0) -> TorchEncoder:
    """Without a preparation: samples are arrays [y, x, channel]; the last `behind` taps lie behind the output."""
    last = taps - 1 - behind
    all_ = [
        Tap(
            f"t{i}",
            i / last,
            "trunk" if i <= last else "head",
            WIDTH,
            Grid((SIDE, SIDE), ("y", "x")),
            Site(f"taps.{i}"),
        )
        for i in range(taps)
    ]
    model = Halves(halves, taps)
    return TorchEncoder(
        "halves",
        "image",
        model,
        all_,
        f"t{last}",
        lambda x: torch.from_numpy(x).float() / 64 - 2,
        np.zeros((SIDE, SIDE, CHANNELS), dtype=np.uint8),
    )


def images(n: int = N, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, SIDE, SIDE, CHANNELS)).clip(-1.9, 1.9)
    samples = (64 * (x + 2)).round().astype(np.uint8)
    total = (samples[..., :2] / 64 - 2).sum(axis=3) + 0.3 * rng.standard_normal((n, SIDE, SIDE))
    targets = {
        "sum": Target("token_value", total),
        "sign": Target("token_label", (total > 0).astype(int), classes=("-", "+")),
    }
    split = np.resize(["train", "train", "train", "val", "test"], n).tolist()
    return Dataset("sums", "image", samples, [f"s{i}" for i in range(n)], split, targets)


def measure(out: Path, of: TorchEncoder | None = None, n: int = N, **options: Any) -> Run:
    return dx.run(of or encoder(), images(n), out=out, **OPTIONS | options)


def folds_of(data: Dataset) -> np.ndarray:
    """The block of each sample; -1 for test."""
    split = {name: np.flatnonzero(data.split == name) for name in ("train", "val", "test")}
    rows, block = Rows.of(split, np.array(data.ids)), np.full(N, -1)
    block[rows.fit] = folds(rows, None, 0)
    return block


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measure(tmp_path_factory.mktemp("sets") / "run")


@pytest.mark.parametrize("target", ["sum", "sign"])
@pytest.mark.parametrize("dense", ["streamed", "stored"])
def test_two_taps_with_half_of_the_truth_each_are_chosen_and_shown_to_gain(
    run: Run, tmp_path: Path, dense: Any, target: str
) -> None:
    data = (run if dense == "streamed" else measure(tmp_path, dense=dense)).profile(f"tap_set/{target}").data
    greedy = data.sel(set="greedy")
    assert greedy["member"].sel(tap=["t1", "t3"]).values.all()
    assert float(greedy["set_gain_low"]) > 0
    assert data.attrs["chosen_set"] != "single" and data.attrs["gain_low"] > 0
    # The same at the width of one tap.
    alike = data.sel(set="greedy.narrow")
    assert int(alike["set_width"]) == WIDTH and float(alike["set_gain_low"]) > 0
    # Stored or streamed, tokens are read alike.
    streamed = run.profile(f"tap_set/{target}").data
    np.testing.assert_allclose(data["set_score"], streamed["set_score"], atol=1e-4 if target == "sum" else 0.01)
    assert data.attrs["tokens"] == dense and list(data["set"].values[::2]) == [
        "greedy",
        "evenly_spaced",
        "last_4",
        "all",
    ]


def test_one_tap_with_all_of_the_truth_leaves_no_gain_to_any_set(tmp_path: Path) -> None:
    data = measure(tmp_path, encoder(halves=False)).profile("tap_set/sum").data
    assert (data.attrs["single"], data.attrs["chosen_set"]) == ("t1", "single")
    holds = data["member"].sel(tap="t1").values & (data["set_width"].values > WIDTH)
    assert holds.sum() >= 2
    assert (abs(data["set_gain"].values[holds]) < 0.02).all() and (data["set_gain_low"].values <= 0).all()


def test_a_set_is_read_as_ridge_regression_of_its_tokens_side_by_side(run: Run) -> None:
    data, of = images(), encoder()
    y = data.targets["sum"].values.reshape(N, -1)
    x = np.concatenate([of.transform(data, tap=f"t{i}", tokens=True) for i in range(1, 5)], axis=2)
    block = folds_of(data)

    def predict(penalty: float, fitted: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        scale, truth = StandardScaler().fit(x[fitted].reshape(-1, x.shape[2])), y[fitted].ravel()
        model = Ridge(alpha=penalty * len(truth)).fit(scale.transform(x[fitted].reshape(-1, x.shape[2])), truth)
        return model.predict(scale.transform(x[wanted].reshape(-1, x.shape[2]))).reshape(-1, y.shape[1])

    fit, test = block >= 0, block < 0
    errors = {
        penalty: sum(((predict(penalty, fit & (block != b), block == b) - y[block == b]) ** 2).sum() for b in range(5))
        for penalty in PENALTIES
    }
    penalty = min(errors, key=errors.__getitem__)
    expected = 1 - ((predict(penalty, fit, test) - y[test]) ** 2).sum() / ((y[test] - y[fit].mean()) ** 2).sum()
    assert float(run.profile("tap_set/sum").data["set_score"].sel(set="last_4")) == pytest.approx(expected, abs=1e-5)


def test_launches_read_sets_as_one_process_does_to_the_last_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))
    for launch in ("1/2", "2/2", "1/2", "2/2"):
        asked = {key: value for key, value in OPTIONS.items() if key not in ("report", "watch")}
        request = Request(encoder=encoder(), dataset=images(300), out=tmp_path / "run", **asked)
        left = extract_parts(request, Launch.of(launch), dx.silent)
    assert left["halves"] == {"parts": 8, "missing": [], "unjudged": []}
    shared = measure(tmp_path / "run", n=300)
    plain = measure(tmp_path / "plain", n=300)
    for target in ("sum", "sign"):
        one, other = (each.profile(f"tap_set/{target}").data for each in (plain, shared))
        for name in ("set_score", "set_gain", "set_width", "member", "score"):
            np.testing.assert_array_equal(one[name], other[name])


def test_the_same_command_again_passes_nothing_and_more_measures_go_on(tmp_path: Path) -> None:
    first = measure(tmp_path).profile("tap_set/sum").data.load()
    steps: list[str] = []
    more = measure(
        tmp_path, measures=["tap_set", "linear_probe"], watch=lambda news: steps.append(getattr(news, "step", ""))
    )
    again = more.profile("tap_set/sum").data
    assert steps and not any(step.startswith("summing") for step in steps)
    np.testing.assert_array_equal(first["set_score"], again["set_score"])
    # The tap by itself is read as the linear probe of streamed tokens reads it.
    np.testing.assert_array_equal(again["score"], more.profile("linear_probe/sum").data["score"])
    assert again.attrs["single"] == more.profile("linear_probe/sum").chosen_tap


def test_of_many_taps_eight_are_named_before_the_pass_and_none_behind_the_output() -> None:
    of = encoder(taps=16, behind=2)
    joined = joined_taps(of.taps, of.output_tap)
    assert len(joined) == 8 and {"t13", "t12", "t11", "t10"} < {tap.name for tap in joined}
    assert not {"t14", "t15"} & {tap.name for tap in joined}
    assert (
        [tap.name for tap in evenly_spaced(joined)]
        == [tap.name for tap in evenly_spaced(of.taps[:14])]
        == ["t3", "t6", "t10", "t13"]
    )
    assert joined_taps(of.taps[:1], of.output_tap) == ()


def test_tokens_of_a_block_without_known_places_are_read_all_the_same(tmp_path: Path) -> None:
    data = images()
    fold = folds_of(data)
    values = data.targets["sum"].values.copy()
    values[fold == 2] = np.nan
    sparse = Dataset(
        "sparse", "image", data.samples, data.ids, list(data.split), {"sum": Target("token_value", values)}
    )
    for dense in ("stored", "streamed"):
        found = dx.run(encoder(), sparse, out=tmp_path / dense, **OPTIONS | {"dense": dense})
        assert float(found.profile("tap_set/sum").data["set_gain"].max()) > 0.1
