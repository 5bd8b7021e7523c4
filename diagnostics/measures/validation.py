"""Validation of what a measure returns, before it is used or stored.

A measure may come from any plugin. One that returns a wrong variable, axis, attribute or type is left out of the run with a
sentence that says so, and the other measures are not affected.
"""

import json
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations.contract import Activations
from diagnostics.measures.base import Measure
from diagnostics.measures.result import (
    BEST_TAP,
    CHOSEN_GAP_LOW,
    CHOSEN_TAP,
    GAP_BOUND,
    HIDDEN_GAP,
    MARGIN,
    OVER,
    TAP_SET,
    UNITS_TRAIN,
    UNITS_VAL,
    is_probe,
)
from diagnostics.vocabulary import SAFE_NAME

# What a measure has to give, by kind: variables with their axes. See `Measure`.
PAIRWISE = {"matrix": ("tap", "tap_other")}
PROBE = {"loss": ("tap", "unit"), "reference_loss": ("tap", "unit"), "val_score": ("tap",)}
DRAWN = {"drawn": ("tap", "draw"), "unit": ("unit",), "val_score": ("tap",)}
SCORE = {"score": ("tap",), "low": ("tap",), "high": ("tap",)}
COMPUTED = (CHOSEN_TAP, BEST_TAP, TAP_SET, HIDDEN_GAP, CHOSEN_GAP_LOW, GAP_BOUND, MARGIN, OVER)
"""How attributes begin that `apply` computes from what a measure gives."""

LONGEST_NAME = 200
"""Of what becomes a folder; most systems take 255 bytes."""


def misfit(result: Any, measure: Measure, activations: Activations) -> str:
    """Why a result cannot be read (a variable, axis, attribute or tap is missing) or stored, in one sentence; "" where it can."""
    if not isinstance(result, xr.Dataset):
        return f"Measure {measure.name} gives a {type(result).__name__}: return an xarray.Dataset."
    # A probe may need no target, as one of places does not.
    gives_losses = is_probe(result) or (measure.kinds and "score" not in result)
    if gives_losses and (missing := measure.undeclared()):
        return f"Measure {measure.name} gives losses and does not declare {missing}"
    probe = DRAWN if measure.losses == "resampled" else PROBE
    wanted = PAIRWISE if measure.pairwise else probe if gives_losses else SCORE
    for name, axes in wanted.items():
        if name not in result or not set(axes) <= set(result[name].dims):
            given = ", ".join(f"{key} {_axes(v.dims)}" for key, v in result.data_vars.items()) or "no variables"
            return f"Measure {measure.name} gives {given}, and no {name} {_axes(axes)}: return {', '.join(wanted)} by these names."
    if missing := [name for name in (UNITS_TRAIN, UNITS_VAL) if wanted is probe and name not in result.attrs]:
        return f"Measure {measure.name} does not state {' and '.join(missing)}: give these attributes."
    taps = [tap.name for tap in activations.taps]
    if not measure.pairwise and ("tap" not in result.coords or list(result["tap"].values) != taps):
        return f"Measure {measure.name} gives other taps than it was given: return a value (NaN for none) for each, by name."
    return _odd_variable(result, measure, wanted) or _odd_attribute(result, measure)


def _odd_variable(result: xr.Dataset, measure: Measure, wanted: Mapping[str, tuple[str, ...]]) -> str:
    # They become folders and files.
    for name in dict.fromkeys([*result.variables, *result.dims]):
        if not isinstance(name, str) or not SAFE_NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            return f"Measure {measure.name} names a variable or axis {_short(name)}: use letters, digits, '_', '-' and '.', {LONGEST_NAME} at most."
    for name, variable in result.variables.items():
        axes = ("tap",) if name == "depth" or str(name).startswith("line_") else wanted.get(str(name))
        if axes is not None and set(variable.dims) - ({"part"} if "unit" in axes else set()) != set(axes):
            return f"Measure {measure.name} gives {name} {_axes(variable.dims)}: return it as {_axes(axes)}."
        is_numeric = variable.dtype.kind in "biuf" and variable.dtype.itemsize <= 8
        texts = axes in (None, ("unit",))
        if not (is_numeric or (texts and _is_text(variable))):
            kinds = "numbers or texts" if texts else "numbers"
            return f"Measure {measure.name} gives {name} of type {variable.dtype}: return {kinds}, of 64 bits at most."
    return ""


def _axes(names: Iterable[Hashable]) -> str:
    return f"[{', '.join(map(str, names))}]"


def _is_text(variable: xr.Variable) -> bool:
    texts = variable.values.flat if variable.dtype.kind in "UTO" else [None]
    return all(isinstance(text, str) and _writable(text) for text in texts)


def _odd_attribute(result: xr.Dataset, measure: Measure) -> str:
    for key, value in result.attrs.items():
        if not isinstance(key, str) or not _writable({key: plain(value)}):
            return (
                f"Measure {measure.name} gives an attribute {_short(key)} of type {type(value).__name__}, which cannot be written "
                "as JSON: use plain numbers, texts, lists and mappings."
            )
    return ""


def _writable(value: Any) -> bool:
    """Whether JSON holds it: no lone surrogate, no circle, and no key that would come back as a text."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
        return _has_text_keys(value)
    except (TypeError, ValueError, RecursionError):
        return False


def _has_text_keys(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _has_text_keys(inner) for key, inner in value.items())  # pyright: ignore[reportUnknownVariableType]
    return not isinstance(value, (list, tuple)) or all(map(_has_text_keys, value))  # pyright: ignore[reportUnknownArgumentType]


def _short(name: object) -> str:
    return f"{name!r:.60}"


def plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def bare(result: xr.Dataset) -> xr.Dataset:
    """A copy without encodings and attributes of variables (fill values and scales, which xarray would apply when reading),
    and without the attributes that `apply` computes."""
    bare = result.copy().drop_encoding()
    for variable in bare.variables.values():
        variable.attrs = {}
    bare.attrs = {key: value for key, value in bare.attrs.items() if not str(key).startswith(COMPUTED)}
    return bare
