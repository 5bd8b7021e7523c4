"""What this plugin offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from diagnostics import hookimpl

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
def encoders() -> Mapping[str, Callable[..., Encoder]]:
    """`fracast`, with the weights of its wheel, and schemes for models of other packages: `chronos:FOLDER`."""
    return {
        "fracast": _fracast,
        "chronos:": _chronos,
        "tirex:": _tirex,
        "mantis:": _mantis,
        "timesfm3:": _timesfm3,
        "moment:": _moment,
        "moirai:": _moirai,
        "granite:": _granite,
    }
