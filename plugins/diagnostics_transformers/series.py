"""Time series: values as they are; the models normalise them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Tap
from diagnostics_transformers.prepared import Arguments, Prepared, setting, whole
from diagnostics_transformers.towers import arguments

_MOST = 100_000


def prepare_series(tower: nn.Module, name: str, length: int | None) -> Prepared:
    """Series [time] or [time, variate], missing steps NaN, as `values` (missing steps 0) and `observed`."""
    config: Any = tower.config
    takes = arguments(tower)
    if "past_time_features" in takes:
        steps, variates, patch = _lagged(config, name, length)
    elif "freq" in takes or "past_values_padding" in takes:
        steps, variates, patch = _any_length(config, name, length)
    else:
        steps, variates, patch = _fixed(config, name, length)
    # Those whose layers are given a mask.
    can_miss = "past_values_padding" in takes
    lags = sorted(config.lags_sequence) if "past_time_features" in takes else [0]
    reach, middle = lags[-1], lags[(len(lags) - 1) // 2]

    def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
        values = np.asarray(sample, dtype=np.float32)
        values = values[:, None] if values.ndim == 1 else values
        if values.shape != (steps, variates):
            shape = f"[{steps}]" if variates == 1 else f"[{steps}, {variates}]"
            raise DiagnosticsError(
                f"{name} reads series of shape {shape}, not {list(np.shape(sample))}: cut them to {steps} steps, or ask for "
                "another ?length= where the model takes any."
            )
        observed = np.isfinite(values)
        if not observed.all() and not can_miss:
            raise DiagnosticsError(
                f"{name} attends to missing steps as to any others: fill the gaps, and cut all series to one length."
            )
        return {
            "values": torch.from_numpy(np.where(observed, values, 0.0).astype(np.float32)),
            "observed": torch.from_numpy(observed.astype(np.float32)),
        }

    if "past_time_features" in takes:
        of_model: Arguments = partial(_time_features, config, takes=takes)
    elif can_miss:
        of_model = partial(_univariate, takes=takes)
    else:
        mask = "past_observed_mask" if "past_observed_mask" in takes else "observed_mask"
        of_model = partial(_observed, mask=mask)

    def valid(batch: Mapping[str, Tensor], tap: Tap) -> Tensor | None:
        """Tokens all of whose steps are observed, from the first on that is."""
        observed = batch["observed"][:, reach:] > 0
        count = tap.grid.shape[-1]
        if bool(observed.all()) or tap.grid.axes[-1] != "t" or (steps - reach) % count or tap.grid.tokens % count:
            return None
        known = observed.unflatten(1, (count, -1)).all(2).mT  # [B, variate, token]
        return known.flatten(1) if "v" in tap.grid.axes else known.all(1)

    together = "past_time_features" in takes or can_miss
    extents = {"t": steps} if together else {"v": variates, "t": steps}
    places = {"v": variates, "t": patch}
    noise = np.random.default_rng(0).standard_normal((steps, variates))
    return Prepared(
        "series",
        preprocess,
        noise[:, 0] if variates == 1 else noise,
        extents,
        places=[tuple(places[axis] for axis in extents)],
        description=f"{steps} steps" + (f" of {variates} variates" if variates > 1 else ""),
        arguments=of_model,
        # A token is told of steps before its own: it stands for the one of its middle lag.
        covers=(lambda shape: ((float(reach - middle), float(steps - middle)),)) if reach else whole,
        valid=valid,
        reach=reach,
        any_length=can_miss,
    )


def _fixed(config: Any, name: str, length: int | None) -> tuple[int, int, int]:
    """PatchTST and kin: steps, variates, patches."""
    steps = int(config.context_length)
    if length not in (None, steps):
        raise DiagnosticsError(
            f"{name} reads {steps} steps and no other number, so length={length} cannot be: leave it out."
        )
    size, stride = int(config.patch_length), int(setting(config, "patch_stride", default=config.patch_length))
    return steps, int(config.num_input_channels), (max(steps, size) - size) // stride + 1


def _any_length(config: Any, name: str, length: int | None) -> tuple[int, int, int]:
    """TimesFM: any number of patches; steps, variates, patches."""
    size, most = int(config.patch_length), int(config.context_length)
    steps = length or min(most, 512)
    if steps % size or not 0 < steps <= most:
        raise DiagnosticsError(
            f"{name} reads up to {most} steps, {size} at a time, so not {steps}: choose another ?length=."
        )
    return steps, 1, steps // size


def _lagged(config: Any, name: str, length: int | None) -> tuple[int, int, int]:
    """TimeSeriesTransformer and kin: context and the steps before it that its lags reach; steps, variates, tokens."""
    context = int(setting(config, "context_length", default=config.prediction_length))
    steps = context + max(config.lags_sequence)
    if length not in (None, steps):
        raise DiagnosticsError(
            f"{name} reads {context} steps and {steps - context} before them that its lags reach, so length={length} cannot "
            "be: leave it out."
        )
    return steps, int(config.input_size), context


def _univariate(batch: Mapping[str, Tensor], takes: tuple[str, ...]) -> dict[str, Any]:
    padding = (1 - batch["observed"][..., 0]).to(batch["values"].dtype)
    given: dict[str, Any] = {"past_values": batch["values"][..., 0], "past_values_padding": padding}
    if "freq" in takes:
        given["freq"] = torch.zeros((len(batch["values"]), 1), dtype=torch.int32, device=batch["values"].device)
    return given


def _observed(batch: Mapping[str, Tensor], mask: str) -> dict[str, Any]:
    return {"past_values": batch["values"], mask: batch["observed"].bool()}


def _time_features(config: Any, batch: Mapping[str, Tensor], takes: tuple[str, ...]) -> dict[str, Any]:
    """Calendar features of a series without a calendar: zeros; and a future of zeros, which no encoder sees."""
    values, observed = batch["values"], batch["observed"]
    ahead = int(config.prediction_length)
    future = values.new_zeros((len(values), ahead, values.shape[2]))
    given: dict[str, Any] = {"past_values": values, "past_observed_mask": observed, "future_values": future}
    if int(config.input_size) == 1:
        given = {key: series[..., 0] for key, series in given.items()}
    for key, steps in (("past_time_features", values.shape[1]), ("future_time_features", ahead)):
        given[key] = values.new_zeros((len(values), steps, int(config.num_time_features)))
    for kind, dtype in (("categorical", torch.long), ("real", values.dtype)):
        if count := int(setting(config, f"num_static_{kind}_features", default=0)):
            given[f"static_{kind}_features"] = values.new_zeros((len(values), count), dtype=dtype)
    return {key: value for key, value in given.items() if key in takes}
