"""What is found of the planted encoder: choice, verdict, controls, cautions, and redraws."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.checks.selftest.planted import PLANTED, SEED, Planted, encoder, profile, results, target
from diagnostics.measures import apply, result
from diagnostics.measures import result as attribute
from diagnostics.measures.statistics import Interval
from diagnostics.runs import redraws
from diagnostics.runs.profile import Profile, first_probes
from diagnostics.runs.recommendation import recommend


def ends(interval: Interval | None) -> list[float] | None:
    """An interval as three numbers."""
    return interval and [interval.value, interval.low, interval.high]


def choice(name: str, choose_on: Any = "fit") -> list[Any]:
    """The tap to use, the best one, the set, the gap, the bound, and the lower end of the gap on one side."""
    made = profile(name, 0, choose_on)
    return [
        made.chosen_tap,
        made.best_tap,
        made.tap_set,
        ends(made.hidden_gap),
        made.gap_bound,
        made.data.attrs.get(attribute.CHOSEN_GAP_LOW),
    ]


def finding(name: str) -> list[Any]:
    """Verdict and confidence, with the numbers behind them, and the scores of all taps."""
    made, said = profile(name), recommend(profile(name))
    numbers = [
        made.margin,
        made.floor,
        made.units_needed,
        said.at_output,
        made.ceiling,
        ends(said.score),
        ends(said.output),
        [ends(made.at(tap)) for tap in made.taps],
    ]
    return [
        said.verdict.value,
        said.confidence,
        said.tap,
        list(said.also),
        made.few,
        made.reading[:8],
        made.token_samples,
        sorted(made.beside),
        sorted(made.lines),
        made.chosen_on,
        *numbers,
    ]


def controls(name: str) -> list[Any]:
    """By how much the chosen tap beats controls, what they reach, and which do as well or nearly."""
    made, names = profile(name), ("fresh_weights", "raw_input", "shuffled_labels")
    best, spreads = made.best_control, [made.spread(each) for each in names]
    return [
        [ends(made.over(each)) for each in names],
        [ends(made.control(each)) for each in names],
        made.rivals,
        made.near,
        best and best[0],
        made.rival and made.rival[0],
        made.needless,
        spreads,
    ]


def changed(
    name: str, variables: Mapping[str, Any] = {}, attrs: Mapping[str, Any] = {}, without: str = "none"
) -> Profile:
    """A planted profile with other variables and attributes, and without the attributes that name something."""
    data = profile(name).data.assign(variables)
    data.attrs = {key: value for key, value in data.attrs.items() if without not in key} | dict(attrs)
    return Profile("planted", name, data, {})


def cautions() -> list[Any]:
    """Skew of train and val and never of test, few tokens, readability and remarks, and the margin that a user named."""
    few, loss = np.where(np.arange(120) < 6, 25.2, 1.0), profile("hidden").data["loss"]
    even = {name: xr.ones_like(profile("hidden").data[name]) for name in ("oof_loss", "oof_reference")}
    skewed = [
        changed("hidden", {"oof_reference": even["oof_reference"] * few, "oof_loss": even["oof_loss"]}),
        changed(
            "hidden", {"oof_reference": even["oof_reference"] * (few * 0.85).clip(1), "oof_loss": even["oof_loss"]}
        ),
        changed("hidden", even),
        changed("hidden", even | {"loss": loss * 0 + np.where(np.arange(80) < 2, 1e3, 1.0)}),
    ]
    of_class = [
        changed("class"),
        changed("class", attrs={"over_shuffled_labels_low": -0.1}),
        changed("class", without="shuffled"),
        changed("class", {"line_chance": ("tap", np.full(6, -np.inf))}, without="shuffled"),
        changed("class", {"line_chance": ("tap", np.full(6, 0.9))}),
    ]
    twice = changed(
        "hidden",
        attrs=result.store_interval("over_a", Interval(0.3, 0.1, 0.4))
        | result.store_interval("over_a.2", Interval(0.3, 0.0, 0.9)),
    )
    stated = ["Clopper" in profile(name).data.attrs[attribute.INTERVALS] for name in ("class", "hidden")]
    low = [
        changed(name, {"low": ("tap", np.full(6, x))}).readability
        for name, x in (("hidden", 0.05), ("hidden", 0.0), ("class", 0.39), ("class", 0.41))
    ]
    high = [
        bool(changed(name, {"high": ("tap", np.full(6, x))}).is_at_chance)
        for name, x in (("hidden", 0.049), ("hidden", 0.051), ("class", 0.429), ("class", 0.431))
    ]
    margins = [
        changed("class", attrs={"over_shuffled_labels_low": 0.05}).is_readable,
        changed(
            "late", attrs={f"over_{each}_low": 0.05 for each in ("fresh_weights", "fresh_weights.2", "raw_input")}
        ).rivals,
        changed("hidden", attrs={"hidden_gap_low": 0.0}).verdict.value,
        ends(
            changed(
                "hidden",
                attrs=result.store_interval("over_a", Interval(0.3, 0.1, 0.4))
                | result.store_interval("over_a.2", Interval(0.3, np.nan, 0.9)),
            ).over("a")
        ),
    ]
    own = profile("hidden").controls["fresh_weights"]
    blind, untaken = (
        own.assign(score=own["score"] * 0, oof_loss=own["oof_loss"] * np.nan),
        own.assign(score=own["score"] * 0),
    )
    untaken.attrs = {key: value for key, value in own.attrs.items() if key != "chosen_tap"}
    drawn = [
        Profile.of("planted", "hidden", own, {"fresh_weights": each, "fresh_weights.2": own}).control("fresh_weights")
        for each in (blind, untaken)
    ]
    levels = [
        changed("class", {"line_commonest": ("tap", np.full(6, 0.6))}).floor,
        changed("hidden", {"score": ("tap", np.full(6, np.nan))}).margin,
        *(ends(each) == ends(profile("hidden").control("fresh_weights")) for each in drawn),
    ]
    fitted = [changed("hidden", attrs={"units_train": n, "units_val": 0}).few[:6] for n in (0, 1, 9, 10)]
    sparse = [changed("hidden", attrs={"token_samples": n}) for n in (19, 20)]
    return [
        [each.skewed[:8] for each in skewed],
        [each.readability for each in of_class],
        [len(each.remarks) for each in of_class],
        ends(twice.over("a")),
        stated,
        [(each.token_samples, bool(each.sparse), len(each.cautions)) for each in sparse],
        changed("hidden", attrs={"margin": 0.2}).margin,
        low,
        high,
        margins,
        fitted,
        levels,
        list(changed("hidden", without="units_").units.values()),
    ]


def drawn_again() -> list[Any]:
    """Scores, gaps and choices on other splits, and their spread."""
    made, read = encoder("perhaps", PLANTED["perhaps"].errors, 0), {"perhaps": target("perhaps")}
    measured = apply.measure_all([Planted()], made, read, SEED)
    redraws.add_redraws(measured, [Planted()], made, read, 3, SEED, what="planted")
    data = measured.results["planted/perhaps"]
    found, bare = redraws.redraws_of(data, data), redraws.redraws_of(data)
    counts = [
        [int((split == each).sum()) for each in ("train", "val", "test")]
        for split in redraws.redraw_splits(made.groups, made.split, 3, SEED)
    ]
    return [
        data[redraws.SCORE].values.tolist(),
        data[redraws.GAP].values.tolist(),
        data[redraws.TAP].values.tolist(),
        found and found.to_json(),
        counts,
        redraws.redraws_of(profile("perhaps").data) is None,
        bare and bare.raw_input,
    ]


def several() -> list[Any]:
    """One tap for several targets, and for one with few units; the first probe of a target; a target that no measure reads."""
    three = [results(name).results[f"planted/{name}"] for name in ("hidden", "late", "alike")]
    both = apply.measure_all(
        [Planted()],
        encoder("young", PLANTED["young"].errors, 0),
        {name: target(name) for name in ("young", "alike")},
        SEED,
    )
    none = [
        list(
            apply.measure_all([Planted()], encoder("young", PLANTED["young"].errors, 0), {}, SEED, asked=asked).skipped
        )
        for asked in ((), ("planted",))
    ]
    lower = type("Lower", (Planted,), {"higher_is_better": False})
    ways = [
        apply.measure_all([kind()], encoder("ten", PLANTED["ten"].errors, 0), {"ten": target("ten")}, SEED)
        .results["planted/ten"]
        .attrs[attribute.HIGHER_IS_BETTER]
        for kind in (Planted, lower)
    ]
    unsure, other = results("unsure").results["planted/perhaps"], results("ten").results["planted/ten"]
    favours = [
        apply.choose_taps({"p": unsure.assign_attrs(units_train=n, units_val=0), "q": three[0]}, SEED)["p"].attrs[
            "chosen_tap"
        ]
        for n in (0, 1, 9, 10)
    ]
    untaken = unsure.copy()
    untaken.attrs = {key: value for key, value in unsure.attrs.items() if key != "chosen_tap"}
    beside = [
        "over_c" in apply.against_control(*pair, "c", SEED).attrs
        for pair in ((unsure, unsure), (untaken, unsure), (unsure, untaken), (unsure, other))
    ]
    firsts = first_probes(
        [
            profile("hidden"),
            Profile("other", "hidden", three[0], {}),
            Profile("cka", None, three[0].drop_vars("loss"), {}),
        ]
    )
    return [
        apply.common_tap(three),
        apply.common_tap([]),
        [both.results[f"planted/{name}"].attrs["chosen_tap"] for name in ("young", "alike")],
        none,
        [each.measure for each in firsts.values()],
        ways,
        favours,
        beside,
    ]
