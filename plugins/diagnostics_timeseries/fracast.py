"""Fracast-0: ten calls of one shared causal block over a context of 2,048 steps.

The trained weights (85,001 parameters with the forecasting head, 25,536 in the encoder; Apache-2.0) arrive in the `fracast` wheel. A series is scaled to [0, 1] by its own
minimum and range and right-aligned in the context, as the package's own forecasting does; the padding on the left is
masked, and the taps hand over the tokens of real steps only. NaN is masked too: on the left (series padded to one length)
it is the model's own padding, and pooling leaves out the tokens of steps that were not observed.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from diagnostics.plugin import DiagnosticsError, Grid, Site, Tap, TorchEncoder, importing
from diagnostics_timeseries.series import check_files

# The package refuses fewer observed steps, since their range says nothing.
FEWEST_STEPS = 8


def build(path: str | None = None) -> TorchEncoder:
    """The encoder for series of the full context; `sized_for` a sample it hands over that sample's steps."""
    with importing("Fracast needs", "pip install fracast"):
        from fracast import FracastModel
    if path is not None:
        if not Path(path).is_dir():
            raise DiagnosticsError(f"There is no folder {path}: give a Fracast release directory, or leave ?path= out.")
        check_files(Path(path))
    model = FracastModel.from_pretrained(path, weights="fp32")
    core: nn.Module = model.core.eval()
    context = model.context_length
    stages = len(core.dilations())  # pyright: ignore
    if getattr(core, "block", None) is None or getattr(core, "scale", None) is None:
        raise DiagnosticsError("This Fracast release does not share one scaled block: only Fracast-0 is known here.")

    def fresh() -> nn.Module:
        import fracast

        folder = Path(path) if path else Path(fracast.__file__).parent / "weights"
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return type(core)({key: config[key] for key in ("model", "pyramid")})

    def for_length(length: int) -> TorchEncoder:
        def sized_for(sample: np.ndarray) -> TorchEncoder:
            return for_length(len(_checked(sample, context)))

        def preprocess(sample: np.ndarray) -> dict[str, torch.Tensor]:
            series = _checked(sample, context)
            if len(series) != length:
                raise DiagnosticsError(f"it has {len(series)} steps among series of {length}: cut all to one length.")
            return _in_context(series, context)

        def valid(batch: dict[str, torch.Tensor], tap: Tap) -> torch.Tensor | None:
            observed = batch["mask"][:, 0, context - length :]
            return None if bool(observed.all()) else observed

        return TorchEncoder(
            "fracast",
            "series",
            core,
            _taps(stages, core.d, context, length),  # pyright: ignore
            "norm",
            preprocess,
            example=np.random.default_rng(0).standard_normal(length).cumsum(),
            forward=lambda core, batch: core(batch["values"], batch["mask"], batch["mask"].float()),
            fresh=fresh,
            configuration=f"series of {length} steps in a context of {context}",
            sized_for=sized_for,
            valid=valid,
        )

    return for_length(context)


def _taps(stages: int, width: int, context: int, length: int) -> list[Tap]:
    grid = Grid((length,), ("t",))
    padding = context - length
    # The residual stream before the first block is what `scale` takes first: projection plus periodic phase.
    taps = [Tap("embed", 0.0, "embedding", width, grid, Site("scale", 0, stages, "before", padding=padding))]
    for i in range(stages):
        site = Site("block", i, stages, padding=padding)
        taps.append(Tap(f"block.{i}", (i + 1) / stages, "trunk", width, grid, site))
    return [*taps, Tap("norm", 1.0, "trunk", width, grid, Site("norm", padding=padding))]


def _checked(sample: np.ndarray, context: int) -> np.ndarray:
    series = np.asarray(sample, dtype=np.float32)
    if series.ndim == 2 and series.shape[1] == 1:
        series = series[:, 0]
    if series.ndim != 1:
        raise DiagnosticsError(f"Fracast reads one variate [time], not a sample of shape {np.shape(sample)}.")
    if len(series) > context:
        raise DiagnosticsError(f"A series of {len(series)} steps exceeds Fracast's context of {context}: cut it first.")
    if np.isfinite(series).sum() < FEWEST_STEPS:
        raise DiagnosticsError(f"Fracast needs at least {FEWEST_STEPS} finite steps in a series of {len(series)}.")
    return series


def _in_context(series: np.ndarray, context: int) -> dict[str, torch.Tensor]:
    """`values` in [0, 1] and `mask` of observed steps, both [1, context], right-aligned; gaps (NaN) are masked."""
    observed = np.isfinite(series)
    low = np.float64(series[observed].min())
    span = max(np.float64(series[observed].max()) - low, 1e-5)
    values = np.zeros((1, context), dtype=np.float32)
    mask = np.zeros((1, context), dtype=bool)
    values[0, context - len(series) :] = np.where(observed, (series - low) / span, 0.0)
    mask[0, context - len(series) :] = observed
    return {"values": torch.from_numpy(values), "mask": torch.from_numpy(mask)}
