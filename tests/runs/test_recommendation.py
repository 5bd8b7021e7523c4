"""What a run recommends: the sentence and its reasons, that test chooses nothing, and what cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics.activations.contract import StoredTarget, shuffle
from diagnostics.errors import DiagnosticsError
from diagnostics.measures import load_bundled
from diagnostics.measures.apply import against_control, measure_all
from diagnostics.measures.base import Arrays
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.result import choosing_scores
from diagnostics.measures.statistics import Interval, Losses
from diagnostics.measures.verdict import Verdict
from diagnostics.report.page import Table
from diagnostics.runs.pages.answer_in_words import answer_blocks
from diagnostics.runs.results.profile import Profile
from diagnostics.runs.results.recommendation import Recommendation, by_verdict, first_probes, recommend
from diagnostics.sklearn import TapFeatures
from diagnostics.vocabulary import ChooseOn
from tests.support import profiles
from tests.support.commands import diagnose, refused
from tests.support.planted import planted_image_encoder, planted_images, planted_series, planted_series_encoder
from tests.support.refusals import refusal
from tests.support.tiny import Trunk, tiny_dataset, tiny_encoder, tiny_image_encoder

N = 300
SPLIT = np.resize(["train", "train", "train", "val", "test"], N)


def recommendation(
    kind: str, strengths: tuple[float, ...], seed: int = 0, choose_on: ChooseOn = "val", controls: bool = True
) -> Recommendation:
    """Of an encoder whose taps hold a target this strongly, each beside noise of its own."""
    rng = np.random.default_rng(seed)
    values = rng.integers(3, size=N) if kind == "label" else rng.standard_normal(N)
    signal = np.eye(3)[values] if kind == "label" else values[:, None]
    taps = {f"t{i}": x * np.pad(signal, ((0, 0), (0, 5))) for i, x in enumerate(strengths)}
    taps = {name: x + rng.standard_normal(x.shape) for name, x in taps.items()}
    activations, target = Arrays(taps, list(SPLIT)), StoredTarget("y", kind, values)  # type: ignore[arg-type]  # a kind by its name
    activations.choose_on, activations.seed = choose_on, seed
    key = "linear_probe/y"
    result, control = (
        measure_all([LinearProbe()], activations, each).results[key]
        for each in ({"y": target}, shuffle(activations, {"y": target}))
    )
    if controls:
        result = against_control(result, control, "shuffled_labels")
    return recommend(Profile.of("linear_probe", "y", result, {"shuffled_labels": control} if controls else {}))


@pytest.mark.parametrize(
    ("kind", "choose_on", "chosen_on"), [("label", "fit", "train and val, out of fold"), ("value", "val", "val")]
)
def test_the_planted_tap_is_recommended_with_its_reasons(kind: str, choose_on: ChooseOn, chosen_on: str) -> None:
    advice = recommendation(kind, (0.2, 4.0, 1.0, 0.5), choose_on=choose_on)
    assert (advice.tap, advice.best_tap, advice.output_tap, advice.pooling) == ("t1", "t1", "t3", "mean")
    assert (advice.confidence, advice.verdict, advice.chosen_on) == ("shown", Verdict.SHOWN, chosen_on)
    assert advice.score is not None and advice.score.value > advice.output.value + 0.2
    name = "accuracy" if kind == "label" else "R2"
    assert str(advice).startswith(f"For y use t1 (mean): {name} {advice.score.value:.3f} [")
    assert "; shown: hidden by the output (+" in str(advice) and str(advice).endswith(" at t1).")
    assert (advice.best_control, advice.also) == ("shuffled_labels", ())
    shown = json.loads(json.dumps(advice.to_json()))
    assert shown["score"]["value"] == advice.score.value
    assert (shown["tap"], shown["verdict"], shown["confidence"]) == ("t1", "shown", "shown")


def test_the_output_is_recommended_where_nothing_is_hidden() -> None:
    advice = recommendation("value", (0.2, 0.5, 1.0, 4.0), controls=False)
    assert advice.at_output and advice.best_tap == "t2" and advice.best_control is None
    assert str(advice).startswith("For y use t3, the output (mean): R2 0.9")
    assert str(advice).endswith("; no gap: gaps above 0.000 are excluded.")


def test_taps_that_are_alike_are_named_beside_the_one_chosen() -> None:
    advice = recommendation("value", (0.2, 50.0, 50.0, 1.0))
    assert {advice.tap, *advice.also} == {"t1", "t2"}
    assert str(advice).endswith(f"; {advice.also[0]} not shown to be worse.")
    many = replace(advice, also=tuple(f"blocks.{i}" for i in range(49)))
    assert str(many).endswith("; 49 other taps not shown to be worse.") and len(many.to_json()["also"]) == 49


@pytest.mark.parametrize("controls", [True, False], ids=["controls", "no controls"])
@pytest.mark.parametrize("kind", ["label", "value"])
def test_of_what_was_not_planted_nothing_is_shown(kind: str, controls: bool) -> None:
    drawn = [recommendation(kind, (0.0,) * 4, seed, controls=controls) for seed in range(10)]
    assert all(advice.tap for advice in drawn), "there is always a best guess"
    claims = [advice for advice in drawn if advice.confidence not in ("undecided", "at chance")]
    assert len(claims) <= 1, "5 % of draws are let through, and 10 were made"


def test_without_a_score_to_choose_by_there_is_nothing_to_recommend() -> None:
    made = profiles.planted("y", gap=0.1)
    attrs = {key: value for key, value in made.data.attrs.items() if key not in ("chosen_tap", "best_tap", "tap_set")}
    advice = recommend(Profile("linear_probe", "y", made.data.drop_attrs().assign_attrs(attrs), {}))
    assert str(advice) == "For y there is nothing to recommend: no tap has a score by which to choose."
    assert (advice.tap, advice.to_json()["score"]) == (None, None)


def test_a_run_recommends_for_every_target_and_says_which_there_are(tmp_path: Path) -> None:
    run = dx.run(tiny_encoder(), tiny_dataset(), out=tmp_path / "run", report=False, controls=False)
    targets = {profile.target for profile in run.profiles() if profile.is_probe and profile.target}
    # In the order of the first screen, of the picture and of the card.
    table, recommended = answer_blocks(run)[0], [advice.target for advice in run.recommendations()]
    assert isinstance(table, Table)
    assert targets and recommended == [str(row.cells[0]).split()[1] for row in table.rows]
    assert recommended == [p.target for p in by_verdict(list(first_probes(run.profiles()).values()))]
    assert recommended != list(dict.fromkeys(p.target for p in run.profiles() if p.is_probe)), "not that of the run"
    again = dx.open_run(tmp_path / "run")
    for target in targets:
        assert again.recommend(target) == run.recommend(target), "the same from disk"
    assert run.to_json()["recommendations"] == [advice.to_json() for advice in run.recommendations()]
    with refusal("unknown-name", "'nothing'"):
        run.recommend("nothing")
    with refusal("unknown-name", "probe of"):
        run.recommend(next(iter(targets)), measure="cka")


@pytest.mark.parametrize("exchangeable", [True, False])
def test_no_test_sample_enters_what_a_run_chooses(tmp_path: Path, exchangeable: bool) -> None:
    """The run's own taps and those of its controls, where test has other samples and permuted targets."""
    chosen: list[dict[str, str]] = []
    for name in ("own", "other"):
        data = tiny_dataset(80, "image", seed=3)
        data.exchangeable = exchangeable
        test = np.flatnonzero(np.array(data.split) == "test")
        if name == "other":
            rng, samples = np.random.default_rng(0), np.array(data.samples)
            samples[test] = rng.integers(0, 256, samples[test].shape)
            data = dx.Dataset(
                data.name, data.modality, samples, data.ids, list(data.split), data.targets, exchangeable=exchangeable
            )
            order = rng.permutation(test)
            for target in data.targets.values():
                target.values[test] = target.values[order]
        run = dx.run(tiny_image_encoder(), data, out=tmp_path / name, measures="linear_probe,knn_probe", report=False)
        chosen.append(
            {
                f"{p.name} of {of or 'the encoder'}: {key}": str(data.attrs.get(key))
                for p in run.profiles()
                for of, data in {"": p.data, **p.controls}.items()
                for key in ("chosen_tap", "best_tap", "tap_set")
            }
        )
    # Four probes of targets, of the encoder and at least four controls.
    assert len(chosen[0]) >= 4 * 5 * 3
    assert chosen[0] == chosen[1]


def test_every_probe_of_a_target_gives_val_losses_that_make_its_val_score(tmp_path: Path) -> None:
    names = [name for name, measure in load_bundled().items() if measure.kinds]
    seen: set[str] = set()
    for encoder, dataset in ((planted_image_encoder(), planted_images()), (planted_series_encoder(), planted_series())):
        run = dx.run(
            encoder,
            dataset,
            out=tmp_path / dataset.name,
            taps=[tap.name for tap in encoder.taps[1:3]],
            measures=names,
            report=False,
            controls=False,
        )
        for profile in (profile for profile in run.profiles() if profile.is_probe):
            data = profile.data
            val = Losses(*(data[key].transpose("tap", "val_unit", ...).values for key in ("val_loss", "val_reference")))
            np.testing.assert_allclose(val.scores, data["val_score"].values, rtol=1e-9, err_msg=profile.name)
            assert set(data["val_unit"].values) <= set(run.store.groups[run.store.split == "val"])
            seen.add(profile.measure)
    # Which read videos, more samples than these, boxes, phrases, questions, matches, have no losses, or are no probes; of the first five this holds by the same function.
    assert seen == set(names) - {
        "label_propagation",
        "kernel_probe",
        "detection_probe",
        "grounding_probe",
        "question_probe",
        "correspondence",
        "tap_set",
        "tap_attention",
        "label_efficiency",
        "input_scaling",
        "logme",
    }


# An output that cannot be read


class Pooled(Trunk):
    """A trunk whose output is one token, the mean of the others."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 4, 4), 8, 2)
        self.head = Mean()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(super().forward(x))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> dx.Run:
    whole = tiny_image_encoder()
    torch.manual_seed(0)
    grid = dx.Grid((4, 4), ("y", "x"))
    taps = [
        *dx.stack_taps("blocks", 2, 8, grid, norm="norm"),
        dx.Tap("head", 2.0, "head", 8, dx.Grid((1, 1), ("y", "x")), dx.Site("head")),
    ]
    encoder = dx.TorchEncoder("pooled", "image", Pooled(), taps, "head", whole.preprocess, whole.example())
    out = tmp_path_factory.mktemp("pooled") / "run"
    return dx.run(encoder, tiny_dataset(80, "image"), out=out, measures="linear_probe", controls=False)


def test_an_output_that_cannot_be_read_is_no_candidate_and_is_said(pooled: dx.Run) -> None:
    height = pooled.profile("linear_probe/height")
    assert np.isnan(height.output.value) and height.chosen_tap in ("blocks.0", "blocks.1", "norm", "embed")
    advice = pooled.recommend("height")
    assert (advice.tap, advice.confidence) == (height.chosen_tap, "undecided")
    assert "output -; undecided: the output has no value to compare with" in str(advice)
    printed = " ".join(diagnose("show", pooled.path).out.split())
    assert "The output has no score for height, so there is nothing to compare with." in printed
    for command in (("show", pooled.path, "--full"), ("show", pooled.path, "--json"), ("card", pooled.path)):
        assert diagnose(*command).status == 0
    features = pooled.features(target="height", tokens=True)
    np.testing.assert_array_equal(features, pooled.features(height.chosen_tap, tokens=True))


def test_features_without_a_tap_are_those_recommended(pooled: dx.Run) -> None:
    level = pooled.recommend("level")
    assert level.tap is not None
    np.testing.assert_array_equal(pooled.features(target="level"), pooled.features(level.tap))
    # One tap for all: of those that read both targets of pooled values and the dense one, the least mean loss.
    losses = []
    for profile in pooled.profiles():
        remaining = 1 - choosing_scores(profile.data)
        losses.append(remaining / np.nanmean(remaining))
    common = pooled.store.taps[int(np.nanargmin(np.mean(losses, axis=0)))].name
    assert pooled.tap_for() == common
    np.testing.assert_array_equal(pooled.features(), pooled.features(common))
    with refusal("unknown-name", "heigth"):
        pooled.features(target="heigth")


def test_where_no_probe_read_a_target_a_tap_has_to_be_named(tmp_path: Path) -> None:
    run = dx.run(
        tiny_encoder(), tiny_dataset(30), out=tmp_path / "run", measures="rankme", controls=False, report=False
    )
    with refusal("not-measured", "embed"):
        run.features()


# The margin, and features of new samples


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dx.Run:
    out = tmp_path_factory.mktemp("tiny") / "run"
    return dx.run(tiny_encoder(), tiny_dataset(80), out=out, measures="linear_probe", controls=False, report=False)


def test_a_user_names_the_gap_that_matters(tiny: dx.Run, tmp_path: Path) -> None:
    own = tiny.profile("linear_probe/level")
    less = 0.5 * own.gap_bound
    assert own.verdict is Verdict.EXCLUDED and 0 < less < own.margin
    again = dx.open_run(tiny.path, margin=less).profile("linear_probe/level")
    assert (again.margin, again.verdict) == (less, Verdict.UNDECIDED)
    excluded = f"level (gaps above {own.gap_bound:.3f} are excluded)"
    assert excluded in " ".join(diagnose("show", tiny.path).out.split())
    assert excluded not in " ".join(diagnose("show", tiny.path, "--margin", less).out.split())
    # What a run was given stays with it, and gives way to what is asked.
    options = {"measures": "linear_probe", "controls": False, "report": False}
    kept = dx.run(tiny_encoder(), tiny_dataset(80), out=tmp_path / "kept", margin=less, **options).path
    assert dx.open_run(kept).profile("linear_probe/level").verdict is Verdict.UNDECIDED
    assert dx.open_run(kept, margin=own.margin).profile("linear_probe/level").verdict is Verdict.EXCLUDED
    with refusal("bad-value", "margin is 0"):
        dx.run(tiny_encoder(), tiny_dataset(80), out=tmp_path / "none", margin=0, **options)
    assert refused("show", tiny.path, "--margin", "-0.1").startswith("The margin is -0.1: give")


def test_the_command_takes_a_margin(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tests.support.tiny import tiny_dataset, tiny_encoder\ndef data(): return tiny_dataset(40)\n"
    )
    options = ("--measures", "linear_probe", "--no-controls", "--margin", "0.3", "--json")
    names = f"{tmp_path}/mine.py:tiny_encoder", "--data", f"{tmp_path}/mine.py:data", "--out", tmp_path / "run"
    shown = json.loads(diagnose("run", *names, *options).out)
    assert [profile["margin"] for profile in shown["profiles"]] == [0.3, 0.3]


def test_features_of_new_samples_are_those_that_a_run_recommends(tiny: dx.Run) -> None:
    data, encoder = tiny_dataset(20, seed=9), tiny_encoder()
    step = TapFeatures(encoder, run=tiny.path, target="level").fit(data.samples)
    wanted = encoder.transform(data.samples, tap=tiny.recommend("level").tap)
    np.testing.assert_array_equal(step.transform(data.samples), wanted)
    common = TapFeatures(encoder, run=tiny.path).fit(data.samples).transform(data.samples)
    np.testing.assert_array_equal(common, encoder.transform(data.samples, tap=tiny.tap_for()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "level"}, "has a target, level, and no run that read it: give run="),
        ({"run": "RUN", "tap": "embed"}, "has a run, which names tap and pooling: leave out tap and pooling, or run"),
        ({"run": "RUN", "pooling": "mean"}, "has a run, which names tap and pooling"),
        ({"run": "RUN", "target": "levle"}, "Unknown target 'levle'"),
        ({"run": "RUN", "encoder": tiny_encoder(1)}, "with other weights than tiny: give a run of this encoder"),
    ],
)
def test_a_step_that_does_not_fit_a_run_is_refused(tiny: dx.Run, options: dict[str, object], sentence: str) -> None:
    given = {
        "encoder": tiny_encoder(),
        **{key: tiny.path if value == "RUN" else value for key, value in options.items()},
    }
    with pytest.raises(DiagnosticsError, match=sentence):
        TapFeatures(**given).fit(tiny_dataset(5).samples)


# The probe and the control that are named


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
