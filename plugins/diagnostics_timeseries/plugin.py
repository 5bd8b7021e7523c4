"""The encoders of this plugin."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module

import diagnostics as dx
from diagnostics.plugin import Entry, hookimpl

PACKAGES = {
    "fracast": "fracast",
    "chronos-forecasting": "chronos",
    "tirex-ts": "tirex",
    "mantis-tsfm": "mantis",
    "timesfm": "timesfm3",
    "momentfm": "momentfm",
    "uni2ts": "uni2ts",
    "granite-tsfm": "tsfm_public",
}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


def _build(module: str, builder: str, *options: object) -> dx.Encoder:
    return getattr(import_module(f"diagnostics_timeseries.{module}"), builder)(*options)


def _scheme(module: str, builder: str, model: str, pretrained: bool = True, seed: int = 0) -> dx.Encoder:
    return _build(module, builder, model, pretrained, seed)


def _fracast(path: str | None = None) -> dx.Encoder:
    return _build("representations", "fracast", path)


def _moirai(model: str, pretrained: bool = True, seed: int = 0, patch_size: int = 32) -> dx.Encoder:
    return _build("forecasters", "moirai", model, pretrained, seed, patch_size)


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """`fracast`, with the weights of its wheel, and schemes for models of other packages: `chronos:FOLDER`."""
    return {
        "fracast": Entry(_fracast, "Fracast-0, with the weights of its wheel.", ("series",)),
        "chronos:": Entry(
            partial(_scheme, "forecasters", "chronos"), "Chronos-T5, Chronos-Bolt or Chronos-2.", ("series",)
        ),
        "tirex:": Entry(partial(_scheme, "forecasters", "tirex"), "TiRex: sLSTM blocks over patches.", ("series",)),
        "mantis:": Entry(partial(_scheme, "representations", "mantis"), "Mantis 1 or 2.", ("series",)),
        "timesfm3:": Entry(partial(_scheme, "forecasters", "timesfm3"), "TimesFM 3.", ("series",)),
        "moment:": Entry(partial(_scheme, "representations", "moment"), "MOMENT.", ("series",)),
        "moirai:": Entry(_moirai, "Moirai 1.", ("series",)),
        "granite:": Entry(
            partial(_scheme, "representations", "granite"), "TTM, TSPulse, FlowState or PatchTST-FM.", ("series",)
        ),
    }
