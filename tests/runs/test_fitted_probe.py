"""The probe behind a score: it predicts on test what the run recorded, in the target's own terms, and refusals."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import diagnostics as dx
from diagnostics import Dataset, DiagnosticsError, Run, Target
from diagnostics.activations.contract import StoredTarget
from diagnostics.measures import load_bundled
from diagnostics.measures.probes.protocol import sum_by_unit
from diagnostics.measures.probes.samples import SampleProbe
from diagnostics.measures.statistics import scores
from diagnostics.runs.derived import _default_probe
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

PERIOD = 24.0
N = 90
NAMES = [
    "linear_probe/kind",
    "knn_probe/kind",
    "linear_probe/number",
    "linear_probe/level",
    "linear_probe/hour",
    "linear_probe/ahead",
    "forecast_probe/ahead",
]


def dataset() -> Dataset:
    """Beside `kind` and `level`: classes without names and with gaps between, a target that goes round, three horizons."""
    base, rng = tiny_dataset(N, group_size=2), np.random.default_rng(1)
    level = base.targets["level"].values
    ahead = level[:, None] * [1.0, 2.0, 3.0] + 0.1 * rng.standard_normal((N, 3))
    hour = (6 + 4 * level) % PERIOD
    hour[:5] = np.nan
    targets = {
        **base.targets,
        "number": Target("label", np.where(level > 0, 7, np.where(level > -0.5, 2, -1))),
        "hour": Target("state", hour, units="h", period=PERIOD),
        "ahead": Target(
            "future", ahead, units="m", naive=np.where(np.arange(N)[:, None] == 3, np.nan, np.zeros((N, 3)))
        ),
    }
    return Dataset("many", "series", base.samples, base.ids, list(base.split), targets, groups=list(base.groups))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = {"measures": ["linear_probe", "knn_probe", "forecast_probe"], "controls": False}
    return dx.run(tiny_encoder(), dataset(), out=tmp_path_factory.mktemp("probes") / "run", report=False, **options)


def truth(name: str, part: np.ndarray) -> np.ndarray:
    """A target's values on some samples, with the names of its classes."""
    target = dataset().targets[name]
    values = target.values[part]
    return np.array(target.classes)[values] if target.classes else values


def score(name: str, predicted: np.ndarray, run: Run) -> float:
    """The score of predictions on test, from its definition."""
    measure, _, target = name.partition("/")
    data = dataset()
    true = truth(target, data.split == "test")
    if data.targets[target].kind == "label":
        known = np.array([value != -1 for value in true])
        return float((predicted == true)[known].mean())
    fitted = truth(target, data.split != "test")
    if measure == "forecast_probe":
        return float((1 - np.abs(predicted - true).mean(axis=0) / np.abs(true).mean(axis=0)).mean())
    if target == "hour":
        # The angle is all that is predicted; so its error is held against the one recorded.
        away = np.abs(predicted - true)
        return float(np.minimum(away, PERIOD - away).mean())
    spread = ((true - fitted.mean(axis=0)) ** 2).sum(axis=0)
    return float((1 - ((predicted - true) ** 2).sum(axis=0) / spread).mean())


@pytest.mark.parametrize("name", NAMES)
def test_its_predictions_on_test_give_the_recorded_score(run: Run, name: str) -> None:
    measure, _, target = name.partition("/")
    profile = run.profile(name)
    for tap in profile.taps:
        probe = run.probe(target, measure, tap)
        predicted = probe.predict(run.features(tap, split="test"))
        key = "angular_error" if target == "hour" else "score"
        assert score(name, predicted, run) == pytest.approx(float(profile.data[key].sel(tap=tap)), abs=1e-6)
        assert probe.score.value == float(profile.data["score"].sel(tap=tap))
        # Wrong answers are seen: the same predictions in another order score otherwise.
        assert score(name, np.roll(predicted, 1, axis=0), run) != pytest.approx(
            float(profile.data[key].sel(tap=tap)), abs=1e-3
        )
    assert run.probe(target, measure).tap == (run.recommend(target, measure).tap or profile.best_tap)


@pytest.mark.parametrize("choose_on", ["val", "fit"])
def test_its_readout_gives_the_losses_of_the_score_to_the_last_digit(tmp_path: Path, choose_on: str) -> None:
    """Of the rows of test, in the order in which the measure read them."""
    options = {"measures": ["linear_probe", "knn_probe", "forecast_probe"], "controls": False, "report": False}
    run = dx.run(tiny_encoder(), dataset(), out=tmp_path / "run", choose_on=choose_on, **options)
    for name in NAMES:
        measure, _, target = name.partition("/")
        probe, result = load_bundled()[measure](), run.results[name]
        assert isinstance(probe, SampleProbe)
        task = probe.task(run.store, run.store.targets()[target], 0)
        test = task.rows.test
        readouts = {tap: run.probe(target, measure, tap).readout for tap in run.profile(name).taps}
        read = [readout.predict(run.store.pooled(tap)[test]) for tap, readout in readouts.items()]
        lost = np.stack([sum_by_unit(task.lost(each, test), task.rows) for each in read]).reshape(result["loss"].shape)
        np.testing.assert_array_equal(lost, result["loss"].values)
        np.testing.assert_array_equal(scores(lost, result["reference_loss"].values), result["score"].values)


def test_predictions_are_in_the_targets_own_terms(run: Run) -> None:
    test = {tap.name: run.features(tap.name, split="test") for tap in run.store.taps}

    def predicted(target: str) -> np.ndarray:
        probe = run.probe(target)
        return probe.predict(test[probe.tap])

    assert set(predicted("kind")) <= {"slow", "middle", "fast"}
    assert set(predicted("number").tolist()) <= {2, 7}
    hours = predicted("hour")
    assert hours.min() >= 0 and hours.max() < PERIOD
    assert predicted("ahead").shape == (run.n["test"], 3)
    assert run.probe("ahead").units == "m" and run.probe("kind").classes == ("slow", "middle", "fast")
    assert "linear_probe of kind at " in str(run.probe("kind"))


def test_it_is_ridge_with_the_stored_penalty_on_train_and_val(run: Run) -> None:
    """Against scikit-learn, from the samples themselves."""
    data, probe = dataset(), run.probe("level", tap="blocks.1")
    features = tiny_encoder().transform(data, tap="blocks.1").astype(np.float64)
    fit = data.split != "test"
    penalty = float(run.profile("linear_probe/level").data["penalty"].sel(tap="blocks.1"))
    scaler = StandardScaler().fit(features[fit])
    oracle = Ridge(alpha=fit.sum() * penalty, solver="svd").fit(scaler.transform(features[fit]), truth("level", fit))
    new = features[~fit]
    np.testing.assert_allclose(probe.predict(new), oracle.predict(scaler.transform(new)), rtol=1e-4, atol=1e-4)
    assert probe.pooling == ("mean", "last")
    np.testing.assert_array_equal(probe.predict(torch.from_numpy(new)), probe.predict(new))


def test_it_survives_a_pickle(run: Run) -> None:
    for measure in ("linear_probe", "knn_probe"):
        probe = run.probe("kind", measure)
        features = run.features(probe.tap)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(probe)).predict(features), probe.predict(features))  # noqa: S301  (just made)


def test_features_of_another_tap_or_width_are_refused(run: Run) -> None:
    probe = run.probe("level", tap="blocks.1")
    with refusal("bad-tap", "blocks.1", "norm", "level", "linear_probe"):
        probe.predict(run.features("norm"))
    with refusal("bad-shape", "(18, 8)"):
        probe.predict(run.features("blocks.1", split="test", pooling="mean"))
    with refusal("not-finite"):
        probe.predict(np.full((1, 16), np.nan))


def test_a_probe_that_was_not_fitted_is_refused_in_a_sentence(run: Run, tmp_path: Path) -> None:
    with refusal("not-measured", "knn_probe", "linear_probe of it"):
        run.probe("level", "knn_probe")
    with refusal("unknown-name", "'levels'"):
        run.probe("levels")
    with refusal("unknown-name", "blocks.9"):
        run.probe("level", tap="blocks.9")
    for measure, says in (
        ("position_probe", "its targets are places: call diagnostics.measures.locality.position_probe"),
        ("label_propagation", "it fits nothing: call diagnostics.measures.locality.label_propagation"),
        ("object_discovery", "it fits nothing: call diagnostics.measures.locality.object_discovery"),
        ("caption_probe", "it predicts embeddings of captions, and no caption: fit diagnostics.measures.probes.ridge"),
        ("rankme", "it hands over no readout: fit one of your own on run.features"),
    ):
        with pytest.raises(DiagnosticsError, match=f"^{measure} of level cannot be fitted again here, since {says}"):
            run.probe("level", measure)
    options = {"measures": ["rankme"], "controls": False, "report": False}
    bare = dx.run(tiny_encoder(), tiny_dataset(20), out=tmp_path / "bare", **options)
    with refusal("not-measured", "linear_probe", "no probe"):
        bare.probe("level")


@pytest.mark.parametrize(
    ("kind", "measure"), [("value", "linear_probe"), ("token_label", "segmentation_probe"), ("event", "event_probe")]
)
def test_a_target_that_no_probe_read_has_the_first_probe_of_its_kind(kind: Any, measure: str) -> None:
    unread: Any = SimpleNamespace(
        store=SimpleNamespace(targets=lambda: {"y": StoredTarget("y", kind, np.zeros(3))}), recommendations=list
    )
    assert _default_probe(unread, "y") == measure
