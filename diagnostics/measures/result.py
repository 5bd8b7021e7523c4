"""Names of the attributes of a result, and reading and writing of two of them: intervals and reasons.

Measures state most of them; `apply` adds those of the selection and of the target; profiles, pages and comparisons read
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diagnostics.measures.statistics import Interval, Losses

if TYPE_CHECKING:
    import xarray as xr

# What a measure states of how it computed.
FUNCTIONAL = "functional"
"""What the score is, as a formula or in words."""
POOLING = "pooling"
"""Which activations were read."""
CENTRING = "centring"
INTERVAL = "interval"
"""How the interval was computed, of a measure without losses."""
INTERVALS = "intervals"
"""The same of a probe, whose intervals `apply` computes."""
SEED = "seed"
FEATURES = "n_features"
"""Features of the widest tap, of a probe of pooled activations."""
N = "n"
"""Samples read."""
UNITS_TRAIN = "units_train"
"""Independent groups of samples in a probe's train split."""
UNITS_VAL = "units_val"
FITTED_ON = "fitted_on"
"""The split that a readout is fitted on alone; without it, both train and val."""
CHOSEN_ON = "chosen_on"
"""fit: losses out of fold on train and val choose taps and penalties; val: those on val."""
OLDER = "older"
"""Present where a run of an older version did not choose out of fold."""
REASON = "reason"
"""Why taps have no value or no interval: see `store_reasons`."""

# What the class of a measure declares of its numbers; see `Measure`.
LOSSES = "losses"
"""counts, squares or resampled, of a probe."""
LEAST = "least"
"""Below which no drawn score can be; absent where there is no such number."""
CHANCE = "chance"
"""The score of knowing nothing; absent where it depends on the data."""
SCORE_NAME = "score_name"
METRIC = "metric"
UNIT = "unit"
READOUT = "readout"

# What a similarity states beside.
ALIKE = "alike"
"""Which values are more alike: "larger" or "smaller"."""
TAU = "tau"
"""What the most alike pair of taps passes by chance once in 20 times."""
NULL = "null"
"""What was permuted for it."""
PERMUTATIONS = "permutations"
NO_NULL = "no_null"
"""Why there is neither `TAU` nor a p-value."""

# What `apply` adds to every result.
MEASURE = "measure"
SOURCE = "source"
FAMILY = "family"
HIGHER_IS_BETTER = "higher_is_better"
"""yes, no or neither."""
TARGET = "target"
"""The target's name; "" of a measure without one."""
UNITS = "units"
"""The target's units."""
ABOUT = "about"
"""What the target is, or the question that a measure without one answers."""
OUTPUT_TAP = "output_tap"
TOKEN_SAMPLES = "token_samples"
"""Samples whose tokens are stored, of a measure that reads tokens."""

# What `apply` adds to the result of a probe.
CHOSEN_TAP = "chosen_tap"
"""The tap to use, by the rule of `tap_choice.choose_tap`."""
BEST_TAP = "best_tap"
"""The best tap other than the output, by the losses that choose."""
TAP_SET = "tap_set"
"""The taps that are not shown to be worse than the best, by the losses that choose."""
HIDDEN_GAP = "hidden_gap"
"""By how much the best tap beats the output tap on test, an interval."""
CHOSEN_GAP_LOW = "chosen_gap_low"
"""The lower end, at 90 % on one side, of the same of the chosen tap; absent where that is the output."""
GAP_BOUND = "gap_bound"
"""The upper end of the largest gap over all taps."""
MARGIN = "margin"
"""The gap that matters, where a user named it."""
FEWER = "fewer_samples"
"""Of a control that passed fewer samples than the encoder: their number."""
OVER = "over_"
"""Begins `over_CONTROL`: by how much the chosen tap beats the chosen tap of a control, an interval."""


BY_GROUPS = "95 % bootstrap over groups"


def state_attributes(
    functional: str,
    *,
    pooling: str,
    centring: str,
    reasons: Iterable[tuple[str, str]],
    n: int,
    seed: int,
    interval: str = BY_GROUPS,
    **more: Any,
) -> dict[str, Any]:
    """The attributes of a measure without losses; `reasons` are pairs (tap, reason), as of `store_reasons`."""
    return {
        FUNCTIONAL: functional,
        POOLING: pooling,
        CENTRING: centring,
        INTERVAL: interval,
        **more,
        REASON: store_reasons(reasons),
        N: n,
        SEED: seed,
    }


def sets_of(data: xr.Dataset) -> Iterator[tuple[str, list[str], int, Interval, Interval]]:
    """Name, taps, number of features, score and gain of each set of taps; none of a measure of single taps."""
    for name in map(str, data["set"].values) if "set_gain" in data else ():
        of = data.sel(set=name)
        score, gain = (
            Interval(*(float(of[f"set_{kind}"]) for kind in ends))
            for ends in (("score", "low", "high"), ("gain", "gain_low", "gain_high"))
        )
        held = [str(tap) for tap in data["tap"].values[of["member"].values.astype(bool)]]
        yield name, held, int(of["set_width"]), score, gain


def store_interval(key: str, interval: Interval) -> dict[str, float]:
    """The attributes of an interval: `key` for its value, `key_low` and `key_high`."""
    return {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}


def read_interval(attrs: Mapping[str, Any], key: str) -> Interval | None:
    """The interval under a key; None where there is none."""
    return Interval(attrs[key], attrs[f"{key}_low"], attrs[f"{key}_high"]) if key in attrs else None


def choosing_score(data: xr.Dataset) -> float:
    """The score by which its own tap was chosen; the same for all where no tap is chosen."""
    if CHOSEN_TAP not in data.attrs:
        return -math.inf
    at = [str(tap) for tap in data["tap"].values].index(data.attrs[CHOSEN_TAP])
    score = float(choosing_scores(data)[at])
    return score if math.isfinite(score) else -math.inf


def is_probe(result: xr.Dataset) -> bool:
    """Test for the result of a probe: losses, or the scores of drawn units."""
    return "loss" in result or "drawn" in result


def losses_of(result: xr.Dataset, unit: str) -> Losses:
    """The losses of a probe [tap, unit] or [tap, unit, part].

    They are those on test (`unit`), on val (`val_unit`), out of fold (`fit_unit`).
    """
    *names, drawn = {
        "unit": ("loss", "reference_loss", "drawn"),
        "val_unit": ("val_loss", "val_reference", "val_drawn"),
        "fit_unit": ("oof_loss", "oof_reference", "oof_drawn"),
    }[unit]
    if drawn in result:
        ones = np.ones((result.sizes["tap"], result.sizes[unit]))
        scores = result[drawn].transpose("tap", ...).values
        return Losses(ones, ones, drawn=scores, least=result.attrs.get(LEAST, -np.inf))
    loss, reference = (result[name].transpose("tap", unit, ...).values for name in names)
    return Losses(loss, reference, result.attrs[LOSSES] == "counts")


def choosing_losses(result: xr.Dataset) -> Losses | None:
    """The losses by which a probe's tap is chosen: out of fold on train and val, else on val.

    None where it gives neither.
    """
    unit = next((unit for unit in ("fit_unit", "val_unit") if unit in result.sizes), None)
    return losses_of(result, unit) if unit else None


def choosing_scores(result: xr.Dataset) -> np.ndarray:
    """The scores [tap] by which a probe's tap is chosen."""
    losses = choosing_losses(result)
    return np.asarray(result["val_score"].values) if losses is None else losses.scores


def units_fitted(result: xr.Dataset) -> int:
    """Groups on which a probe's readout was fitted, those of train and val or of train alone; 0 where nothing was."""
    val = 0 if result.attrs.get(FITTED_ON) == "train" else result.attrs[UNITS_VAL]
    return int(result.attrs[UNITS_TRAIN] + val)


def store_reasons(reasons: Iterable[tuple[str, str]]) -> str:
    """The text "tap: reason; tap: reason" of pairs (tap, reason), as the items of a mapping; a tap may have several.

    A pair without a reason is left out; one without a tap is the reason alone.
    """
    return "; ".join(f"{tap}: {reason}" if tap else reason for tap, reason in reasons if reason)


def read_reasons(text: str, taps: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs (tap, reason) of a stored text; the tap is "" where the text begins with none of `taps`.

    A reason may itself hold "; ": only a part that begins with the name of a tap begins a reason.
    """
    pairs: list[tuple[str, str]] = []
    for part in filter(None, (part.strip() for part in text.split("; "))):
        tap = max((tap for tap in taps if part.startswith(f"{tap}: ")), key=len, default="")
        if tap:
            pairs.append((tap, part[len(tap) + 2 :]))
        elif pairs:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]}; {part}")
        else:
            pairs.append(("", part))
    return pairs


def taps_by_reason(reasons: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Reason -> the taps that have it, in the order of the pairs (tap, reason)."""
    taps: dict[str, list[str]] = {}
    for tap, reason in reasons:
        taps.setdefault(reason, []).append(tap)
    return taps


def merge_reasons(text: str, taps: Sequence[str]) -> str:
    """A stored text in which a reason of more than two taps stands once: "tap and 3 others: reason"."""
    shortened: list[tuple[str, str]] = []
    for reason, those in taps_by_reason(read_reasons(text, taps)).items():
        names = those if len(those) <= 2 else [f"{those[0]} and {len(those) - 1} others"]
        shortened.extend((name, reason) for name in names)
    return store_reasons(shortened)
