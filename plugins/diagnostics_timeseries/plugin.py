"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module

import diagnostics as dx
from diagnostics.plugin import Entry, hookimpl

PACKAGES = {
    "fracast": "fracast", "chronos-forecasting": "chronos", "tirex-ts": "tirex", "mantis-tsfm": "mantis",
    "timesfm": "timesfm3", "momentfm": "momentfm", "uni2ts": "uni2ts", "granite-tsfm": "tsfm_public",
}  # fmt: skip
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


def _build(module: str, model: str, pretrained: bool = True, seed: int = 0) -> dx.Encoder:
    return import_module(f"diagnostics_timeseries.{module}").build(model, pretrained, seed)


def _fracast(path: str | None = None) -> dx.Encoder:
    return import_module("diagnostics_timeseries.fracast").build(path)


def _moirai(model: str, pretrained: bool = True, seed: int = 0, patch_size: int = 32) -> dx.Encoder:
    return import_module("diagnostics_timeseries.moirai").build(model, pretrained, seed, patch_size)


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """`fracast`, with the weights of its wheel, and schemes for models of other packages: `chronos:FOLDER`."""
    return {
        "fracast": Entry(_fracast, "Fracast-0, with the weights of its wheel.", ("series",)),
        "chronos:": Entry(partial(_build, "chronos"), "Chronos-T5, Chronos-Bolt or Chronos-2.", ("series",)),
        "tirex:": Entry(partial(_build, "tirex"), "TiRex: sLSTM blocks over patches.", ("series",)),
        "mantis:": Entry(partial(_build, "mantis"), "Mantis 1 or 2.", ("series",)),
        "timesfm3:": Entry(partial(_build, "timesfm3"), "TimesFM 3.", ("series",)),
        "moment:": Entry(partial(_build, "moment"), "MOMENT.", ("series",)),
        "moirai:": Entry(_moirai, "Moirai 1.", ("series",)),
        "granite:": Entry(partial(_build, "granite"), "TTM, TSPulse, FlowState or PatchTST-FM.", ("series",)),
    }
