"""Profiles of a model while it trains: measured every so many steps, in memory, logged and kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr
from torch import nn

from diagnostics.encoders.bare_module import Numbers
from diagnostics.encoders.encoder import Encoder
from diagnostics.errors import DiagnosticsError, unknown
from diagnostics.measures.base import Measure
from diagnostics.report.page import StepsFigure
from diagnostics.runs.given import Data
from diagnostics.runs.measuring import MEASURES, SAMPLES, InMemoryRequest

if TYPE_CHECKING:
    import plotly.graph_objects as go


class ScalarLog(Protocol):
    """What takes scalars one by one, as TensorBoard's `SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> Any: ...


Log = ScalarLog | Callable[[dict[str, float]], Any]


class LayerProfiles:
    """Measures a model in training at every tap, each `every` steps; the training goes on as if nobody had looked.

        watch = LayerProfiles(model, dataset, every=1000, log=SummaryWriter())
        for n, batch in enumerate(batches, 1):
            ...
            watch.step(n)

    A measurement that fails (activations that are not finite, as where training diverges) is a warning and never ends the
    training. `for_transformers` and `for_lightning` make it a callback of these trainers.

    Parameters
    ----------
    module: the module that trains, or an encoder of it (see `encoder_of`). Not what `torch.compile` made of it: its parts
        cannot be read, and it shares its weights with the module.
    dataset, taps, measures, samples, seed, mean, std, size: as in `measure`; the same samples at every step.
    every: steps from one measurement to the next.
    log: takes scalars named `measure/target/tap`: an object with `add_scalar(name, value, step)`, or a function of a dict, in
        which the step stands as `step`.

    Raises DiagnosticsError for what cannot be measured, before the training.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> import diagnostics as dx
        >>> def block(n, m):
        ...     return nn.Sequential(nn.Conv1d(n, m, 5, stride=2, padding=2), nn.ReLU())
        >>> model = nn.Sequential(block(1, 8), block(8, 16), block(16, 32))
        >>> data = dx.build("dataset", "lorenz?n=60&length=64")
        >>> x = torch.as_tensor(data.samples)[:, None]
        >>> y = torch.as_tensor(data.targets["x_future"].values, dtype=torch.float32)
        >>> optimiser = torch.optim.Adam(model.parameters(), 1e-3)
        >>> log = []
        >>> watch = dx.LayerProfiles(model, data, every=10, log=log.append)
        >>> for n in range(1, 21):
        ...     loss = (model(x).mean((1, 2)) - y).square().mean()
        ...     optimiser.zero_grad()
        ...     loss.backward()
        ...     optimiser.step()
        ...     measured = watch.step(n)
        >>> watch.profiles["score"].sizes["tap"], watch.profiles["step"].values
        (4, array([10, 20]))
        >>> [name for name in log[-1] if name.startswith("rankme")]
        ['rankme/embed', 'rankme/0', 'rankme/1', 'rankme/2']
        >>> watch.plot("linear_probe/hidden_z").write_html("steps.html")
        >>> watch.figure("linear_probe/hidden_z").score.shape  # [tap, step]
        (4, 2)
    """

    def __init__(
        self,
        module: str | Encoder | nn.Module,
        dataset: Data,
        *,
        every: int = 1000,
        log: Log | None = None,
        taps: str | Sequence[str] | None = None,
        measures: str | Measure | Sequence[str | Measure] = MEASURES,
        samples: int = SAMPLES,
        seed: int = 0,
        mean: Numbers | None = None,
        std: Numbers | None = None,
        size: int | None = None,
    ) -> None:
        if every < 1:
            raise DiagnosticsError(f"every={every} is no number of steps: give 1 or more.")
        if log is not None and not hasattr(log, "add_scalar") and not callable(log):
            raise DiagnosticsError(
                f"log is a {type(log).__name__}: give an object with add_scalar(name, value, step), or a function of a dict."
            )
        self.every, self.log = every, log
        options: dict[str, Any] = {"taps": taps, "measures": measures, "samples": samples, "seed": seed}
        self._request = InMemoryRequest("LayerProfiles", module, dataset, **options, mean=mean, std=std, size=size)
        self._measured: dict[int, xr.Dataset] = {}
        self._failed: dict[int, str] = {}

    def __repr__(self) -> str:
        of, done = self._request, f"{len(self._measured)} measured, {len(self._failed)} failed"
        return f"<{type(self).__name__} of {of.encoder.name} on {of.dataset.name}, every {self.every} steps: {done}>"

    def step(self, n: int) -> xr.Dataset | None:
        """Measures after step `n` where that is a multiple of `every`, once; what `measure` gives, or None."""
        if n % self.every or n in self._measured or n in self._failed:
            return None
        try:
            self._measured[n] = measured = self._request.measured()
        except DiagnosticsError as error:
            self._failed[n] = str(error).rstrip(".")
            warnings.warn(f"Step {n} is not measured: {error}", stacklevel=2)
            return None
        self._log(n, measured)
        return measured

    @property
    def profiles(self) -> xr.Dataset:
        """All measurements as of `measure`: `score`, `low`, `high` over (step, tap, measure), `chosen_tap` over (step, measure).

        NaN, and "", where a measure had no value at a step. The attribute `failed` says which steps could not be measured.

        Raises DiagnosticsError before the first measurement.
        """
        if not self._measured:
            why = f" ({'; '.join(f'{n}: {reason}' for n, reason in self._failed.items())})" if self._failed else ""
            raise DiagnosticsError(
                f"No step was measured yet{why}: call step(n), which measures every {self.every} steps."
            )
        steps = sorted(self._measured)
        names = list(dict.fromkeys(str(name) for n in steps for name in self._measured[n]["measure"].values))
        whole = [self._measured[n].reset_coords("chosen_tap").reindex(measure=names) for n in steps]
        # What a measure states of itself comes from whichever step has it.
        table = xr.concat(
            whole, xr.IndexVariable("step", steps), data_vars="all", coords="minimal", compat="no_conflicts", join="exact",
            combine_attrs="override",
        )  # fmt: skip
        table["chosen_tap"] = table["chosen_tap"].fillna("")
        return table.assign_attrs(failed="; ".join(f"{n}: {why}" for n, why in self._failed.items()))

    def figure(self, measure: str | None = None) -> StepsFigure:
        """What `plot` draws, as arrays."""
        profiles = self.profiles
        names = [str(name) for name in profiles["measure"].values]
        chosen = names[0] if measure is None else measure
        if chosen not in names:
            raise unknown("measure of these profiles", chosen, names)
        column = profiles.sel(measure=chosen)
        return StepsFigure(
            name=chosen,
            steps=[int(n) for n in column["step"].values],
            taps=[str(tap) for tap in column["tap"].values],
            depth=column["depth"].values,
            score=column["score"].transpose("tap", "step").values,
            chosen=[str(tap) for tap in column["chosen_tap"].values],
            output=str(profiles.attrs["output_tap"]),
        )

    def plot(self, measure: str | None = None) -> go.Figure:
        """One measure (`linear_probe/label`; the first by default) as a plotly heat map of steps x depth."""
        from diagnostics.report.plots import StillFigure, draw

        return StillFigure(draw(self.figure(measure)))

    def for_transformers(self) -> Any:
        """A `transformers.TrainerCallback` that calls `step` after each step of the optimiser."""
        from diagnostics.runs.callbacks import transformers_callback

        return transformers_callback(self.step)

    def for_lightning(self) -> Any:
        """A Lightning `Callback` that calls `step` after each step of the optimiser."""
        from diagnostics.runs.callbacks import lightning_callback

        return lightning_callback(self.step)

    def _log(self, n: int, measured: xr.Dataset) -> None:
        scores = measured["score"]
        scalars = {
            f"{name}/{tap}": float(score)
            for name, column in zip(scores["measure"].values, scores.values.T, strict=True)
            for tap, score in zip(scores["tap"].values, column, strict=True)
            if np.isfinite(score)
        }
        _hand_over(self.log, n, scalars)


def _hand_over(log: Log | None, n: int, scalars: Mapping[str, float]) -> None:
    add: Any = getattr(log, "add_scalar", None)
    if add is not None:
        for name, value in scalars.items():
            add(name, value, n)
    elif callable(log):
        log({**scalars, "step": n})
