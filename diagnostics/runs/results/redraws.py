"""Redraws of the split: probes fitted again on other random splits of the same stored activations.

They show how much scores, gaps and the choice of a tap depend on the one draw of the split that a run reports. The pass
over the data is not repeated. Draws share their samples, so their spread is no interval.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations, StoredTarget, shuffle
from diagnostics.datasets.dataset import split_groups
from diagnostics.measures import result as attribute
from diagnostics.measures.apply import Measured, measure_all
from diagnostics.measures.base import Measure
from diagnostics.report.numbers import format_number, number
from diagnostics.vocabulary import SPLITS

SCORE, GAP, TAP = "redraw_score", "redraw_gap", "redraw_tap"
"""Of each draw the scores on its test [redraw, tap], best tap minus output there [redraw], and the tap to use
[redraw].
"""
SPREAD = "Redraws are other random splits of the same samples: mean (lowest to highest), a spread and no interval."
NO_REDRAWS = "no_redraws"
"""Attribute: why a probe, or some of its draws, has no value."""
STREAMED = "its tokens are streamed: give --dense stored, and a --token-budget that holds those of all samples"


def redraw_splits(groups: np.ndarray, split: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Other random splits [sample] that keep groups whole, each split with as many groups as it has in `split`.

    The first of them do not depend on `count`.
    """
    first = np.unique(groups.astype(str), return_index=True)[1]
    train, val, test = ((split[first] == name).mean() for name in SPLITS)
    seeds = np.random.SeedSequence(seed).generate_state(count)
    return [split_groups(groups.tolist(), int(each), (train, val, test)) for each in seeds]


def add_redraws(
    measured: Measured,
    measures: Sequence[Measure],
    activations: Activations,
    targets: Mapping[str, StoredTarget],
    count: int,
    *,
    what: str,
    permute: bool = False,
    measure: Callable[..., Measured] = measure_all,
) -> None:
    """Add `SCORE`, `GAP` and `TAP` of `count` draws to the results of probes of a target that read what is stored.

    Those of tokens read the samples that have them, whatever split a draw gives these. `measured` is what `measures`
    gave for `activations` and `targets`. `permute`: whether targets are shuffled within each drawn split. A draw in
    which a probe has no value (a class that its train lacks) is NaN, and its tap "".
    """
    probes = {key: each for key, each in measured.results.items() if attribute.is_probe(each) and "/" in key}
    streamed = {key for key, result in probes.items() if result.attrs.get("tokens") == "streamed"}
    for key in streamed:
        measured.results[key] = probes[key].assign_attrs({NO_REDRAWS: STREAMED})
    stored = probes.keys() - streamed
    again = [measure for measure in measures if any(key.startswith(f"{measure.name}/") for key in stored)]
    read = {name: target for name, target in targets.items() if any(key.endswith(f"/{name}") for key in stored)}
    draws: list[Measured] = []
    for i, split in enumerate(redraw_splits(activations.groups, activations.split, count, activations.seed)):
        there = activations.with_other(split=split)
        asked = shuffle(there, read) if permute else read
        draws.append(measure(again, there, asked, what=f"{what}, redraw {i + 1} of {count}"))
    for key in stored:
        measured.results[key] = _with_draws(probes[key], key, draws)


def _with_draws(result: xr.Dataset, key: str, draws: Sequence[Measured]) -> xr.Dataset:
    """The result of a probe with what its draws gave."""
    nothing = xr.Dataset({"score": ("tap", np.full(result.sizes["tap"], np.nan))})
    found = [draw.results.get(key, nothing) for draw in draws]
    gap = [each.attrs.get(attribute.HIDDEN_GAP, np.nan) for each in found]
    tap = np.array([each.attrs.get(attribute.CHOSEN_TAP, "") for each in found], dtype=object)
    missing = [draw.skipped[key] for draw in draws if key in draw.skipped]
    score = np.stack([each["score"].values for each in found])
    return result.assign({SCORE: (("redraw", "tap"), score), GAP: ("redraw", gap), TAP: ("redraw", tap)}).assign_attrs(
        {NO_REDRAWS: missing[0]} if missing else {}
    )


class Spread(NamedTuple):
    """Mean, lowest and highest over draws."""

    mean: float
    low: float
    high: float

    def format(self, sign: str = "") -> str:
        """As `0.90 (0.86 to 0.94)`."""
        low, high = (format_number(end, ".2f") for end in (self.low, self.high))
        return f"{format_number(self.mean, f'{sign}.2f')} ({low} to {high})"


def spread_of(values: np.ndarray) -> Spread:
    """Over the draws that have a value; NaN where none has."""
    known = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([np.nan])
    return Spread(float(known.mean()), float(known.min()), float(known.max()))


@dataclass(frozen=True)
class Redraws:
    """Findings of redraws of the split: `count` draws have a value, of those that were `asked` for.

    `score` is that of the tap that each draw chose, `gap` of its best tap against the output, both on the draw's own
    test; `choices` counts the draws that chose each tap. `raw_input` is the mean score of that control in the same
    draws, NaN without it.
    """

    count: int
    asked: int
    score: Spread
    gap: Spread
    choices: Counter[str]
    raw_input: float

    @property
    def line(self) -> str:
        """The draws in words."""
        tap, times = self.choices.most_common(1)[0]
        gap = "" if np.isnan(self.gap.mean) else f", gap {self.gap.format('+')}"
        control = "" if np.isnan(self.raw_input) else f", raw input {format_number(self.raw_input, '.2f')}"
        draws = f"{self.count} redraws" if self.count == self.asked else f"{self.count} of {self.asked} redraws"
        return f"{draws}: {self.score.format()}{gap}, {tap} in {times}{control}"

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; None for what has no value."""
        score, gap = ({key: number(end) for key, end in each._asdict().items()} for each in (self.score, self.gap))
        choices, raw_input = dict(self.choices.most_common()), number(self.raw_input)
        return {**vars(self), "score": score, "gap": gap, "choices": choices, "raw_input": raw_input}


def redraws_of(data: xr.Dataset, raw_input: xr.Dataset | None = None) -> Redraws | None:
    """The redraws that a probe's result holds, beside those of the control `raw_input`.

    None where no draw has a value.
    """
    if SCORE not in data or not (chosen := data[TAP].values != "").any():
        return None
    control = _scores_of_choice(raw_input) if raw_input is not None and SCORE in raw_input else np.empty(0)
    return Redraws(
        int(chosen.sum()),
        len(chosen),
        spread_of(_scores_of_choice(data)),
        spread_of(data[GAP].values),
        Counter(map(str, data[TAP].values[chosen])),
        spread_of(control).mean,
    )


def _scores_of_choice(data: xr.Dataset) -> np.ndarray:
    """[redraw], the score of the tap that each draw chose; NaN where it chose none."""
    score, taps = data[SCORE].transpose("redraw", "tap").values, [str(tap) for tap in data["tap"].values]
    return np.array([score[i, taps.index(tap)] if tap else np.nan for i, tap in enumerate(map(str, data[TAP].values))])
