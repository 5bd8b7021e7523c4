"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diagnostics import hookimpl
from diagnostics.hookspecs import Entry

if TYPE_CHECKING:
    from diagnostics import Encoder

PACKAGES = {
    "fracast": "fracast", "chronos-forecasting": "chronos", "tirex-ts": "tirex", "mantis-tsfm": "mantis",
    "timesfm": "timesfm3", "momentfm": "momentfm", "uni2ts": "uni2ts", "granite-tsfm": "tsfm_public",
}  # fmt: skip
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


def _fracast(path: str | None = None) -> Encoder:
    from diagnostics_timeseries.fracast import build

    return build(path)


def _chronos(model: str, pretrained: bool = True, seed: int = 0) -> Encoder:
    from diagnostics_timeseries.chronos import build

    return build(model, pretrained, seed)


def _tirex(model: str, pretrained: bool = True, seed: int = 0) -> Encoder:
    from diagnostics_timeseries.tirex import build

    return build(model, pretrained, seed)


def _mantis(model: str, pretrained: bool = True, seed: int = 0) -> Encoder:
    from diagnostics_timeseries.mantis import build

    return build(model, pretrained, seed)


def _timesfm3(model: str, pretrained: bool = True, seed: int = 0) -> Encoder:
    from diagnostics_timeseries.timesfm3 import build

    return build(model, pretrained, seed)


def _moment(model: str, pretrained: bool = True, seed: int = 0) -> Encoder:
    from diagnostics_timeseries.moment import build

    return build(model, pretrained, seed)


def _moirai(model: str, pretrained: bool = True, seed: int = 0, patch_size: int = 32) -> Encoder:
    from diagnostics_timeseries.moirai import build

    return build(model, pretrained, seed, patch_size)


def _granite(model: str, pretrained: bool = True, seed: int = 0) -> Encoder:
    from diagnostics_timeseries.granite import build

    return build(model, pretrained, seed)


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """`fracast`, with the weights of its wheel, and schemes for models of other packages: `chronos:FOLDER`."""
    return {
        "fracast": Entry(_fracast, "Fracast-0, with the weights of its wheel.", ("series",)),
        "chronos:": Entry(_chronos, "Chronos-T5, Chronos-Bolt or Chronos-2.", ("series",)),
        "tirex:": Entry(_tirex, "TiRex: sLSTM blocks over patches.", ("series",)),
        "mantis:": Entry(_mantis, "Mantis 1 or 2.", ("series",)),
        "timesfm3:": Entry(_timesfm3, "TimesFM 3.", ("series",)),
        "moment:": Entry(_moment, "MOMENT.", ("series",)),
        "moirai:": Entry(_moirai, "Moirai 1.", ("series",)),
        "granite:": Entry(_granite, "TTM, TSPulse, FlowState or PatchTST-FM.", ("series",)),
    }
