"""Every bundled measure points at the tap where what it measures was planted, and nowhere where nothing was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import diagnostics as dx
from diagnostics import Run
from diagnostics.activations.contract import StoredTarget, shuffle
from diagnostics.measures import load_bundled
from diagnostics.measures.apply import measure_all
from diagnostics.measures.similarity.base import Similarity
from tests.support.memory import MemoryActivations
from tests.support.planted import (
    CELLS,
    CONSTANT,
    FEATURES,
    GROUPS,
    SIDE,
    STRIPE,
    planted_image_encoder,
    planted_images,
    planted_series,
    planted_series_encoder,
)


@dataclass(frozen=True)
class Claim:
    """What a variable of a profile must say at some taps."""

    kind: str
    taps: tuple[str, ...]
    of: str = "score"
    value: float = math.nan
    within: float = math.nan

    def check(self, data: xr.Dataset) -> None:
        """Raise AssertionError where the profile says something else."""
        result = dict(zip(data["tap"].values.tolist(), data[self.of].values.tolist(), strict=True))
        here = [result[tap] for tap in self.taps]
        others = [v for tap, v in result.items() if tap not in self.taps and math.isfinite(v)]
        message = f"{self} of {data.attrs['measure']}: {result}"
        if self.kind == "value":
            assert np.allclose(here, self.value, rtol=0, atol=self.within), message
            return
        assert others, message
        # By more than a twentieth of what the profile spans, so that rounding points at nothing.
        gap = min(here) - max(others) if self.kind == "highest" else min(others) - max(here)
        assert gap > 0.05 * (max(here + others) - min(here + others)) > 0, message


def highest(*taps: str, of: str = "score") -> Claim:
    """These taps alone have the largest values."""
    return Claim("highest", taps, of)


def lowest(*taps: str, of: str = "score") -> Claim:
    """These taps alone have the smallest values."""
    return Claim("lowest", taps, of)


def value(tap: str, number: float, within: float, of: str = "score") -> Claim:
    """This tap has this value."""
    return Claim("value", (tap,), of, number, within)


GONE = ("erased", "collapsed", "noise")
NO_PLACE = ("scrambled", "noise")
ALIKE = math.log(2 * GROUPS - 1)
"""InfoNCE of samples that all point one way."""
_AT = np.stack(np.divmod(np.arange(CELLS), SIDE), axis=1)
UNIFORM = float(np.sqrt(((_AT[:, None] - _AT) ** 2).sum(axis=2)).mean())
"""Mean distance of two cells."""

# Profiles of the image run: what each must say, and so which tap it points at.
EXPECTED: dict[str, tuple[Claim, ...]] = {
    # What was erased is gone there, and nowhere else but where nothing or two other directions are left.
    "linear_probe/kind": (lowest(*GONE), value("rotated", 1, 0.01)),
    "linear_probe/value": (lowest(*GONE), value("rotated", 1, 0.01)),
    # Each tap alone, beside the sets.
    "tap_set/kind": (lowest(*GONE), value("rotated", 1, 0.01)),
    "tap_set/value": (lowest(*GONE), value("rotated", 1, 0.01)),
    "tap_set/depth": (lowest(*NO_PLACE), value("noise", 0, 0.02)),
    "tap_set/thing": (lowest("scrambled", "collapsed", "noise"),),
    "tap_attention/kind": (lowest(*GONE), value("rotated", 1, 0.01)),
    "tap_attention/value": (lowest(*GONE), value("rotated", 1, 0.01)),
    "label_efficiency/kind": (lowest(*GONE),),
    "label_efficiency/value": (lowest(*GONE),),
    "logme/kind": (lowest(*GONE),),
    "logme/value": (lowest(*GONE),),
    "mlp_probe/kind": (lowest(*GONE),),
    "mlp_probe/value": (lowest(*GONE),),
    "input_scaling/kind": (lowest(*GONE),),
    "input_scaling/value": (lowest(*GONE),),
    "linear_probe/depth": (lowest(*NO_PLACE), value("noise", 0, 0.02), value("collapsed", 0.975, 0.02)),
    "knn_probe/kind": (lowest(*GONE), value("rotated", 0.95, 0.05)),
    "attentive_probe/kind": (lowest(*GONE), value("rotated", 1, 0.05)),
    "attentive_probe/value": (lowest(*GONE), value("rotated", 1, 0.05)),
    "caption_probe/caption": (lowest("collapsed", "noise"), value("erased", 1, 0.05)),
    # In `everywhere` the object is still there, beside a mean that differs among samples and is larger.
    "segmentation_probe/thing": (
        lowest("scrambled", "collapsed", "noise"),
        value("things", 1, 0.01),
        value("everywhere", 1, 0.01),
    ),
    "object_discovery/object": (highest("things"), value("things", 1, 0.01), highest("things", of="centred")),
    "position_probe": (
        lowest("scrambled", "collapsed", "noise"),
        value("noise", 0, 0.01),
        value("rotated", 0.95, 0.03),
    ),
    # Spectra: two directions, all directions, and one that is much larger than the others.
    "rankme": (value("collapsed", 2, 0.05), lowest("collapsed"), highest("noise")),
    "effective_rank": (value("collapsed", 2, 0.05), lowest("collapsed"), highest("noise")),
    "participation_ratio": (value("collapsed", 2, 0.1), lowest("collapsed"), highest("noise")),
    "nesum": (value("collapsed", 1.8, 0.2), lowest("collapsed"), highest("noise")),
    "stable_rank": (lowest("offset", "striped", "things", "collapsed"), value("offset", 1, 0.1), highest("noise")),
    "two_nn": (value("collapsed", 2, 0.4), lowest("collapsed"), highest("noise")),
    "mle_dimension": (value("collapsed", 2, 0.4), lowest("collapsed"), highest("noise")),
    "uniformity": (highest("offset", "striped"), lowest("noise")),
    "mean_cosine": (highest("offset", "striped"), value("noise", 0, 0.01)),
    "massive_activations": (
        highest("offset"),
        value("offset", CONSTANT, 0, of="feature"),
        highest("striped", of="peak"),
    ),
    "matrix_entropy": (highest("noise"), lowest("striped", "offset", "everywhere")),
    "curvature": (highest(*NO_PLACE), value("noise", 2 * math.pi / 3, 0.02)),
    # Two samples of a scene have nothing in common in noise.
    "lidar": (lowest("collapsed"), highest("noise"), value("collapsed", 2, 0.1)),
    "alignment": (value("noise", 2, 0.06), lowest("offset", "striped")),
    "infonce": (highest("collapsed", "noise"), value("offset", ALIKE, 0.3)),
    "dime": (lowest("noise"), value("noise", 0, 0.01)),
    # The grid.
    "self_similarity": (
        lowest(*NO_PLACE, "offset", "everywhere"),
        value("scrambled", 0, 0.02),
        value("noise", 0, 0.02),
        lowest(*NO_PLACE, of="lds_centred"),
    ),
    "morans_i": (lowest(*NO_PLACE), value("scrambled", -1 / (CELLS - 1), 0.01), value("noise", -1 / (CELLS - 1), 0.01)),
    "neighbour_consistency": (lowest(*NO_PLACE), value("scrambled", 0.104, 0.01), value("noise", 0.104, 0.01)),
    "outlier_tokens": (
        highest("striped"),
        value("striped", 1 / SIDE, 0.001),
        value("rotated", 0, 0),
        highest("striped", of="bimodality"),
    ),
    # Heads: everywhere, at the right neighbour, at global tokens.
    "attention_distance": (
        highest("everywhere"),
        value("everywhere", UNIFORM, 1e-4),
        lowest("things"),
        value("things", 1 - 1 / SIDE, 1e-4),
    ),
    "attention_entropy": (
        highest("everywhere"),
        value("everywhere", math.log(CELLS), 1e-4),
        lowest("things"),
        value("things", 0, 1e-4),
    ),
    "global_token_mass": (
        highest("offset"),
        value("offset", 0.45, 1e-4),
        highest("offset", of="top_key"),
        value("everywhere", 1 / (CELLS + 1), 1e-4),
    ),
    "attention_peak": (highest("things"), value("things", 1, 1e-4), value("everywhere", 1 / CELLS, 1e-4)),
    "attention_logit": (highest("things"), value("things", 0, 1e-4), value("everywhere", -math.log(CELLS + 1), 1e-4)),
    # A hundredth of 64 keys is .64 of the one that receives most: of its own query all, of the others .8.
    "attention_received": (
        highest("offset"),
        value("offset", (0.01 + 0.64 * (0.8 * 63 + 1) / 64) / 2, 1e-4),
        value("everywhere", 0.01, 1e-4),
    ),
    "receptive_field": (highest("scrambled", "everywhere"), value("rotated", 0, 1e-6)),
}

# Pairwise measures: the taps that are the same as `rotated` for them, beside `embed`; noise is like no other.
SAME: dict[str, tuple[str, ...]] = {
    "cka": ("offset",),
    "cka_rbf": ("offset",),
    "minibatch_cka": ("offset",),
    "torch_cka": ("offset",),
    "mutual_knn": ("scrambled",),
    "cknna": ("scrambled",),
    # Directions that are left out do not count against the smaller side.
    "cca": ("erased", "scrambled", "offset", "collapsed", "things", "everywhere"),
    "svcca": ("erased", "scrambled", "offset", "collapsed", "things", "everywhere"),
    "pwcca": ("erased", "scrambled", "offset", "collapsed", "things", "everywhere"),
    "rsa": ("scrambled", "everywhere"),
}
PAIRWISE = {name: measure for name, measure in load_bundled().items() if issubclass(measure, Similarity)}
# Of pooled features, which these taps only turn, shift or scale.
SAME |= {
    name: ("scrambled", "offset", "things", "everywhere")
    for name, measure in PAIRWISE.items()
    if name not in SAME and measure.needs == "pooled" and {"rotation", "scale", "shift"} <= set(measure.invariant_to)
}
DISTANCES = {name for name, measure in PAIRWISE.items() if measure.distance}

SERIES: dict[str, tuple[Claim, ...]] = {
    "straightness": (highest("line"), value("line", 1, 1e-4), value("restless", -0.5, 0.05)),
    # A line goes on as it went, whatever its steps.
    "linear_predictability": (highest("rotor", "line"), value("rotor", 0.96, 0.03), value("restless", 0, 0.05)),
    "event_probe/event": (lowest("eventless", "rotor", "line", "restless"), value("held", 1, 0.02)),
    "forecast_probe/ahead": (lowest("futureless", "rotor", "line", "restless"), value("held", 0.95, 0.05)),
}
# Those that neither run can show: a spectrum of 100 ranks, a video, a kernel from 100 samples, boxes and questions (tests of their own).
IN_MEMORY = {
    "alpha_req",
    "label_propagation",
    "kernel_probe",
    "detection_probe",
    "grounding_probe",
    "question_probe",
    "correspondence",
}

# What turning all features together may change: these look at features, or at variance beside a constant.
NOT_TURNED = {"massive_activations", "lidar", "mlp_probe/kind", "mlp_probe/value"}
# Ridge regression penalises features that are standardised each by itself, which turning changes; with one scale for all
# features it reads the same. That counts with fewer labels than features, as here where 16 are of `embed` .14, and of
# `rotated` .70: those curves are compared from as many labels as features on.
CURVES = ("label_efficiency",)
# Settings are chosen among few: a little more or less is found.
FITTED = (
    "linear_probe",
    "tap_set",
    "tap_attention",
    "label_efficiency",
    "knn_probe",
    "attentive_probe",
    "segmentation_probe",
    "caption_probe",
    "position_probe",
)


def test_every_bundled_measure_is_in_one_list() -> None:
    lists = [{key.partition("/")[0] for key in EXPECTED}, set(SAME), {k.partition("/")[0] for k in SERIES}, IN_MEMORY]
    assert set().union(*lists) == set(load_bundled())
    assert sum(map(len, lists)) == len(load_bundled())


def _run(encoder: dx.Encoder, data: dx.Dataset, path: Path, measures: list[str]) -> Run:
    return dx.run(encoder, data, out=path / encoder.name, measures=measures, controls=False, report=False)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _run(planted_image_encoder(), planted_images(), tmp_path_factory.mktemp("images"), ["all"])


@pytest.fixture(scope="module")
def not_planted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _run(planted_image_encoder(planted=False), planted_images(), tmp_path_factory.mktemp("not"), ["all"])


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Run:
    names = [key.partition("/")[0] for key in SERIES]
    return _run(planted_series_encoder(), planted_series(), tmp_path_factory.mktemp("series"), names)


@pytest.mark.slow
def test_nothing_is_left_out_but_for_a_reason(images: Run) -> None:
    # No tap has a hundred directions, so alpha_req has no value anywhere.
    assert set(images.skipped) == {
        "straightness",
        "linear_predictability",
        "alpha_req",
        "kernel_probe/kind",
        "kernel_probe/value",
    }
    assert "no tap has a value" in images.skipped["alpha_req"] and "23 eigenvalues" in images.skipped["alpha_req"]
    profiles = {f"{p.measure}/{p.target}" if p.target else p.measure for p in images.profiles()}
    assert profiles <= set(EXPECTED)


@pytest.mark.parametrize("key", EXPECTED)
def test_points_at_the_planted_tap(images: Run, key: str) -> None:
    for claim in EXPECTED[key]:
        claim.check(images.profile(key).data)


@pytest.mark.parametrize("key", [key for key in EXPECTED if key not in NOT_TURNED])
def test_does_not_point_at_the_tap_that_is_only_turned(images: Run, key: str) -> None:
    data = images.profile(key).data
    result = data["curve"].sel(labels=slice(FEATURES, None)) if key.startswith(CURVES) else data["score"]
    within = 0.05 if key.startswith(FITTED) else 1e-3
    np.testing.assert_allclose(result.sel(tap="embed"), result.sel(tap="rotated"), rtol=within, atol=within)


def test_outliers_are_in_the_column_where_they_were_planted(images: Run) -> None:
    by_place = images.profile("outlier_tokens").data["share_by_place"].sel(tap="striped").values.reshape(SIDE, SIDE)
    assert (by_place[:, STRIPE] == 1).all() and by_place.sum() == SIDE


def test_heads_are_told_apart(images: Run) -> None:
    by_head = images.profile("global_token_mass").data["by_head"].sel(tap="offset").values
    np.testing.assert_allclose(by_head, [0.9, 0], atol=1e-4)


@pytest.mark.parametrize("name", SAME)
@pytest.mark.slow
def test_pairs_that_are_alike_are_found_and_noise_is_like_none(images: Run, name: str) -> None:
    (result,) = [s for s in images.similarity() if s.attrs["measure"] == name]
    matrix = result["matrix"]
    best = 0.0 if name in DISTANCES else 1.0
    row = matrix.sel(tap="rotated")
    taps = set(matrix["tap"].values.tolist())
    # Correlation of features is not that of turned features.
    same = {"rotated", *SAME[name]} | ({"embed"} if name != "rsa" else set())
    for tap in taps:
        near = abs(float(row.sel(tap_other=tap)) - best) < (5e-3 if name == "torch_cka" else 5e-4)
        assert near == (tap in same), (tap, row.values)
    least = np.argmax(row.values) if name in DISTANCES else np.argmin(row.values)
    assert str(row["tap_other"].values[least]) == "noise"
    if "p" in result and np.isfinite(result["p"]).any():
        p = result["p"].sel(tap="rotated")
        assert (p.sel(tap_other=sorted(same - {"rotated"})) <= 0.05).all()
        assert p.sel(tap_other="noise") > 0.05


@pytest.mark.parametrize("key", EXPECTED)
def test_points_nowhere_where_nothing_is_planted(not_planted: Run, key: str) -> None:
    result = not_planted.profile(key).data["score"].values
    known = result[np.isfinite(result)]
    assert len(known) >= 3
    np.testing.assert_allclose(known, known[0], rtol=1e-5, atol=1e-6)
    for claim in EXPECTED[key]:
        if claim.kind != "value" and set(claim.taps) <= set(not_planted.profile(key).taps):
            with pytest.raises(AssertionError):
                claim.check(not_planted.profile(key).data)


@pytest.mark.parametrize("name", SAME)
def test_all_pairs_are_alike_where_nothing_is_planted(not_planted: Run, name: str) -> None:
    (result,) = [s for s in not_planted.similarity() if s.attrs["measure"] == name]
    np.testing.assert_allclose(result["matrix"], 0.0 if name in DISTANCES else 1.0, atol=2e-3)


@pytest.mark.parametrize(
    ("key", "most"),
    [
        ("linear_probe/kind", 0.6),
        ("linear_probe/value", 0.3),
        ("linear_probe/depth", 0.1),
        ("knn_probe/kind", 0.6),
        ("attentive_probe/kind", 0.6),
        ("attentive_probe/value", 0.3),
        ("caption_probe/caption", 0.2),
        ("segmentation_probe/thing", 0.46),
    ],
)
def test_shuffled_targets_are_not_read_out(not_planted: Run, key: str, most: float) -> None:
    data = _shuffled(not_planted, key)
    assert (data["score"] < most).all(), data["score"].values
    assert float(not_planted.profile(key).data["score"].min()) > most + 0.2


@pytest.mark.parametrize("name", ["alignment", "infonce", "dime", "lidar"])
def test_views_that_share_nothing_are_at_the_line_of_unpaired_ones(images: Run, name: str) -> None:
    data = images.profile(name).data
    line = data["line_shuffled" if name == "lidar" else "line_unpaired"]
    inside = dict(
        zip(data["tap"].values.tolist(), ((data["low"] <= line) & (line <= data["high"])).values, strict=True)
    )
    assert inside["noise"] and inside["collapsed"] and not inside["rotated"]


def test_places_that_are_dealt_out_anew_are_not_read_out(images: Run) -> None:
    np.testing.assert_allclose(images.profile("position_probe").data["line_shuffled"], 0, atol=0.01)


def test_shuffled_masks_are_not_found(images: Run) -> None:
    assert float(_shuffled(images, "object_discovery/object")["score"].sel(tap="things")) < 0.3


def _shuffled(run: Run, key: str) -> xr.Dataset:
    name, _, target = key.partition("/")
    dealt = shuffle(run.store, {target: run.store.targets()[target]})
    measured = measure_all([load_bundled()[name]()], run.store, dealt, asked=[name])
    assert not measured.skipped
    return measured.results[key]


@pytest.mark.parametrize("key", SERIES)
def test_points_at_the_planted_tap_in_time(series: Run, key: str) -> None:
    for claim in SERIES[key]:
        claim.check(series.profile(key).data)


def test_time_points_nowhere_where_nothing_is_planted_and_shuffled_targets_are_not_read_out(tmp_path: Path) -> None:
    names = [key.partition("/")[0] for key in SERIES]
    run = _run(planted_series_encoder(planted=False), planted_series(), tmp_path, names)
    for key in SERIES:
        result = run.profile(key).data["score"].values
        np.testing.assert_allclose(result, result[0], rtol=1e-6)
    assert (abs(_shuffled(run, "event_probe/event")["score"] - 0.5) < 0.1).all()
    assert (_shuffled(run, "forecast_probe/ahead")["score"] < 0.1).all()


def test_decay_of_the_spectrum_points_at_the_tap_where_it_was_changed() -> None:
    rng = np.random.default_rng(0)
    n, d = 400, 120
    drawn = rng.standard_normal((n, d))
    basis = np.linalg.qr(drawn - drawn.mean(axis=0))[0]
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    rank = np.arange(1, d + 1)
    taps = {"slow": basis * rank**-0.5, "turned": 7 * (basis * rank**-0.5) @ turn + 1e4, "fast": basis * rank**-1.0}
    measured = measure_all(
        [load_bundled()["alpha_req"]()], MemoryActivations({k: x[:, None] for k, x in taps.items()}), {}
    )
    result = measured.results["alpha_req"]["score"].values
    np.testing.assert_allclose(result, [1, 1, 2], atol=1e-6)


def test_objects_are_followed_where_their_tokens_know_them_and_lost_in_noise() -> None:
    rng = np.random.default_rng(0)
    n, frames = 10, 4
    masks = np.zeros((n, frames, SIDE, SIDE), dtype=np.int64)
    for video in masks:
        for t, frame in enumerate(video):
            frame[2:5, 1 + t : 4 + t] = 1
    known = np.eye(2)[masks.reshape(n, -1)]
    grid = (frames, SIDE, SIDE)
    taps = {"known": known, "noise": rng.standard_normal((n, frames * CELLS, 8)), "again": 5 * known}
    activations = MemoryActivations(taps, dict.fromkeys(taps, grid))
    target = StoredTarget("object", "masks", masks)
    measure = load_bundled()["label_propagation"]()
    result = measure_all([measure], activations, {"object": target}, asked=[measure.name]).results
    data = result["label_propagation/object"]
    np.testing.assert_allclose(data["score"].sel(tap=["known", "again"]), 1, atol=1e-6)
    assert data["score"].sel(tap="noise") < data["line_still"].sel(tap="noise") + 0.1
