"""What a run recommends: the sentence, its reasons, and that nothing is recommended where nothing is there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import diagnostics as dx
from diagnostics.activations.contract import StoredTarget, shuffled
from diagnostics.errors import DiagnosticsError
from diagnostics.measures import bundled
from diagnostics.measures.apply import against_control, measure_all
from diagnostics.measures.known_answers import Arrays
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.statistics import Interval, Losses
from diagnostics.report.numbers import format_share
from diagnostics.runs.profile import Profile, first_probes
from diagnostics.runs.recommendation import Recommendation, recommend

import profiles
from planted import planted_image_encoder, planted_images, planted_series, planted_series_encoder
from tiny import tiny_dataset, tiny_encoder

N = 300
SPLIT = np.resize(["train", "train", "train", "val", "test"], N)


def recommendation(kind: str, strengths: tuple[float, ...], seed: int = 0, controls: bool = True) -> Recommendation:
    """Of an encoder whose taps hold a target this strongly, each beside noise of its own."""
    rng = np.random.default_rng(seed)
    values = rng.integers(3, size=N) if kind == "label" else rng.standard_normal(N)
    signal = np.eye(3)[values] if kind == "label" else values[:, None]
    taps = {f"t{i}": x * np.pad(signal, ((0, 0), (0, 5))) for i, x in enumerate(strengths)}
    taps = {name: x + rng.standard_normal(x.shape) for name, x in taps.items()}
    activations, target = Arrays(taps, list(SPLIT)), StoredTarget("y", kind, values)  # type: ignore[arg-type]  # a kind by its name
    key = "linear_probe/y"
    result, control = (
        measure_all([LinearProbe()], activations, {"y": each}, seed).results[key]
        for each in (target, shuffled(target, activations.split, seed))
    )
    if controls:
        result = against_control(result, control, "shuffled_labels", seed)
    return recommend(Profile.of("linear_probe", "y", result, {"shuffled_labels": control} if controls else {}))


@pytest.mark.parametrize("kind", ["label", "value"])
def test_the_planted_tap_is_recommended_with_its_reasons(kind: str) -> None:
    advice = recommendation(kind, (0.2, 4.0, 1.0, 0.5))
    assert (advice.tap, advice.best_tap, advice.output_tap, advice.pooling) == ("t1", "t1", "t3", "mean")
    assert advice.score is not None and advice.score.value > advice.output.value + 0.2
    assert (advice.changed, advice.rival, advice.cost) == (0.0, None, 0.0)
    assert str(advice).startswith(f"For y use t1 (mean): {'accuracy' if kind == 'label' else 'R2'} 0.9")
    assert "hidden by the output; no resample of val chooses another tap." in str(advice)
    assert advice.to_json()["score"]["value"] == advice.score.value


def test_the_output_is_recommended_where_nothing_is_hidden() -> None:
    advice = recommendation("value", (0.2, 0.5, 1.0, 4.0))
    assert advice.tap == "t3" and advice.at_output
    assert str(advice).startswith("For y use the output, t3 (mean): R2 0.9")
    assert "no hidden gap shown" in str(advice)


def test_the_earliest_of_taps_that_are_alike_is_recommended() -> None:
    # Both hold it fully; which of them is best on val is chance, and the first does for either.
    advice = recommendation("value", (0.2, 50.0, 50.0, 1.0))
    assert advice.tap == "t1"
    if advice.best_tap == "t2":
        assert "the earliest that is as good on val as the best, t2" in str(advice)


@pytest.mark.parametrize("controls", [True, False], ids=["controls", "no controls"])
@pytest.mark.parametrize("kind", ["label", "value"])
def test_nothing_is_recommended_where_nothing_was_planted(kind: str, controls: bool) -> None:
    named = [recommendation(kind, (0.0,) * 4, seed, controls).tap for seed in range(10)]
    assert sum(tap is not None for tap in named) <= 1, "5 % of draws are let through, and 10 were made"
    nothing = recommendation(kind, (0.0,) * 4, named.index(None), controls)
    assert str(nothing) == "For y there is nothing to recommend: not shown to be readable at the tap chosen."
    assert nothing.to_json()["tap"] is None


def test_a_measure_without_val_losses_gives_its_best_tap_and_not_how_sure() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(N)
    taps = {f"t{i}": x * values[:, None] + rng.standard_normal((N, 3)) for i, x in enumerate((0.2, 4.0, 0.5))}
    done = measure_all([LinearProbe()], Arrays(taps, list(SPLIT)), {"y": StoredTarget("y", "value", values)}, 0)
    data = done.results["linear_probe/y"].drop_vars(["val_loss", "val_reference"])
    advice = recommend(Profile.of("linear_probe", "y", data, {}))
    assert (advice.tap, advice.changed, advice.rival, advice.cost) == ("t1", None, None, None)
    assert "resample" not in str(advice)


def test_a_run_recommends_for_every_target_and_says_which_there_are(tmp_path: Path) -> None:
    run = dx.run(tiny_encoder(), tiny_dataset(), out=tmp_path / "run", report=False, controls=False)
    targets = {profile.target for profile in run.profiles() if profile.is_probe and profile.target}
    assert targets and [advice.target for advice in run.recommendations()] == [
        target for target in dict.fromkeys(p.target for p in run.profiles() if p.is_probe) if target
    ]
    again = dx.open_run(tmp_path / "run")
    for target in targets:
        assert again.recommend(target) == run.recommend(target), "the same from disk"
    assert run.to_json()["recommendations"] == [advice.to_json() for advice in run.recommendations()]
    with pytest.raises(DiagnosticsError, match=r"^Unknown target 'nothing'"):
        run.recommend("nothing")
    with pytest.raises(DiagnosticsError, match="Unknown probe of"):
        run.recommend(next(iter(targets)), measure="cka")


def test_every_probe_of_a_target_gives_val_losses_that_make_its_val_score(tmp_path: Path) -> None:
    names = [name for name, measure in bundled().items() if measure.kinds]
    seen: set[str] = set()
    for encoder, dataset in ((planted_image_encoder(), planted_images()), (planted_series_encoder(), planted_series())):
        run = dx.run(
            encoder, dataset, out=tmp_path / dataset.name, taps=[tap.name for tap in encoder.taps[1:3]], measures=names,
            report=False, controls=False,
        )  # fmt: skip
        for profile in (profile for profile in run.profiles() if profile.is_probe):
            data = profile.data
            val = Losses(*(data[key].transpose("tap", "val_unit", ...).values for key in ("val_loss", "val_reference")))
            np.testing.assert_allclose(val.scores, data["val_score"].values, rtol=1e-9, err_msg=profile.name)
            assert set(data["val_unit"].values) <= set(run.store.groups[run.store.split == "val"])
            seen.add(profile.measure)
    # Which reads videos, and of which this holds by the same function.
    assert seen == set(names) - {"label_propagation"}


def test_the_line_at_the_end_of_a_run_has_the_interval_and_the_best_control() -> None:
    advice = recommendation("value", (0.2, 4.0, 1.0, 0.5), controls=True)
    assert advice.best_control == "shuffled_labels" and advice.best_control_score is not None
    assert re.fullmatch(
        r"y: t1 \(mean\), R2 0\.9\d+ \[0\.\d+,\s0\.\d+\], output 0\.\d+; best control shuffled labels -?0\.\d+",
        advice.line,
    )
    alone = recommendation("value", (0.2, 4.0, 1.0, 0.5), controls=False)
    assert alone.best_control is None and "control" not in alone.line
    unsure = replace(advice, changed=0.003, rival="t2", cost=0.01)
    assert unsure.line.endswith(
        "; under 1% of resamples of val choose another tap (most often t2), on average 0.010 lower on test"
    )
    nothing = recommendation(
        "value", (0.0,) * 4, next(s for s in range(10) if recommendation("value", (0.0,) * 4, s).tap is None)
    )
    assert nothing.line == "y: none, not shown to be readable at the tap chosen"


def test_a_share_that_is_not_0_is_never_written_as_0() -> None:
    assert [format_share(part) for part in (0.0, 0.0005, 0.005, 0.01, 0.214, 1.0)] == [
        "0%",
        "under 1%",
        "under 1%",
        "1%",
        "21%",
        "100%",
    ]


def test_the_best_control_is_the_one_that_reaches_most_and_one_without_a_value_is_none() -> None:
    def probe(controls: dict[str, float]) -> Profile:
        return profiles.profile("linear_probe", ["t0", "t1"], Interval(0.5, 0.4, 0.6), controls, probe=True, target="y")

    kept = probe({"raw_input": np.nan, "fresh_weights": -0.2, "raw_input_kernel": 0.7, "shuffled_labels": 0.1})
    name, score = kept.best_control or ("", None)
    assert (name, score and score.value) == ("raw_input_kernel", 0.7)
    assert probe({"raw_input": np.nan}).best_control is probe({}).best_control is None


def test_the_first_probe_of_a_target_is_the_one_that_recommends() -> None:
    def read(measure: str, target: str, is_probe: bool = True) -> Profile:
        return profiles.profile(measure, ["t0", "t1"], Interval(0.5, 0.4, 0.6), {}, probe=is_probe, target=target)

    first, second, other = read("knn_probe", "y"), read("linear_probe", "y"), read("linear_probe", "z")
    shared = read("mean_cosine", "", is_probe=False)
    assert first_probes([shared, first, other, second]) == {"y": first, "z": other}
