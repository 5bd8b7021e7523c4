"""Measuring in memory, once or every so many steps of a training: as a run, without store and controls."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr
from torch import nn

from diagnostics.activations.in_memory import read_into_memory
from diagnostics.activations.prepare import fit
from diagnostics.datasets.dataset import subset, unprobeable_targets
from diagnostics.encoders.bare_module import Numbers
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import device_of, random_kept
from diagnostics.encoders.taps import Tap
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, check_known, importing, refuse_values
from diagnostics.measures import result as attribute
from diagnostics.measures.apply import measure_all
from diagnostics.measures.base import Measure
from diagnostics.report.page import StepsFigure
from diagnostics.runs.inputs import Data, resolve_inputs
from diagnostics.runs.setup import as_list, read_tokens, select_measures, select_taps

if TYPE_CHECKING:
    import plotly.graph_objects as go


MEASURES = ("linear_probe", "rankme")
SAMPLES = 256


def measure(
    encoder: str | Encoder | nn.Module,
    dataset: Data,
    *,
    taps: str | Sequence[str] | None = None,
    measures: str | Measure | Sequence[str | Measure] = MEASURES,
    samples: int = SAMPLES,
    seed: int = 0,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: int | None = None,
) -> xr.Dataset:
    """Measures a model at every tap, in memory: nothing is written, and the model stays as it was.

    The numbers are those of `run` on the same samples, without controls. It runs where the model is; a torch module
    keeps its modes, `requires_grad`, gradients, buffers, hooks, device and random state.

    Parameters
    ----------
    encoder, dataset: a bare torch module, and arrays (X, y), too (see `encoder_of`, `dataset`).
    taps, measures: names or a suite, as in `run`. Measures that compare taps, or need attention or gradients, need a
    run.
    samples: of the dataset are read at most: a random subset in which splits keep their shares and train shows every
    class.
    seed: of that subset and of the bootstrap.
    mean, std, size: of a bare module, see `encoder_of`: how the pixels of its images become numbers, and to what size
    they are brought.

    Returns
    -------
    xarray.Dataset: `score`, `low` and `high` over (tap, measure), measures named `measure/target`; with `depth` of each
    tap, and
        `score_name`, `functional`, `pooling`, `centring`, `n` and `chosen_tap` (chosen without test; "" where none is)
        of each measure. Its attributes say encoder, dataset, output tap, samples and seed, and `left_out` why measures
        are missing.

    Raises
    ------
    DiagnosticsError: for what a user can cause, and where nothing can be measured.

    Examples:
        >>> import diagnostics as dx
        >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
        >>> table = dx.measure(encoder, "lorenz?n=200", measures="linear_probe")
        >>> column = table.sel(measure="linear_probe/hidden_z")
        >>> print(column["score"].to_series().round(2))
        tap
        embed            0.00
        blocks.0         0.56
        blocks.1         0.91
        blocks.2         0.90
        blocks.3         0.92
        blocks.4         0.93
        blocks.5         0.77
        norm             0.59
        head.forecast    0.55
        Name: score, dtype: float64
        >>> print(column["chosen_tap"].item(), table.attrs["output_tap"])
        blocks.3 norm
    """
    return InMemoryRequest("measure", **locals()).measure()


class InMemoryRequest:
    """The checked arguments of `measure`, which can be measured again when the weights have changed.

    `dataset` is the subset that is read, and `left_out` says why measures of a suite cannot be done here. Raises
    DiagnosticsError for what cannot be.
    """

    def __init__(
        self,
        caller: str,
        encoder: str | Encoder | nn.Module,
        dataset: Data,
        *,
        taps: str | Sequence[str] | None,
        measures: str | Measure | Sequence[str | Measure],
        samples: int,
        seed: int,
        **fed: Any,
    ) -> None:
        if seed < 0:
            raise DiagnosticsError(f"Seed {seed} is below 0: give 0 or more.", code="bad-value")
        asked = ([measures] if isinstance(measures, Measure) else as_list(measures)) or []
        chosen, self.left_out = select_measures(asked)
        for each in chosen:
            if why := _needs_a_run(each):
                self.left_out[each.name] = why
                if each in asked or each.name in asked:
                    raise DiagnosticsError(
                        f"{each.name} {why}: diagnostics.run(..., measures=[{each.name!r}]).", code="unsupported"
                    )
        with random_kept():
            model, data = resolve_inputs(caller, encoder, dataset, fed)
            self.encoder = fit(model, data)
        self.dataset, self.seed = subset(data, samples, seed), seed
        self.measures = [each for each in chosen if each.name not in self.left_out]
        self.taps = select_taps(self.encoder, as_list(taps))
        self.unprobeable = unprobeable_targets(self.dataset)

    @random_kept()
    def measure(self) -> xr.Dataset:
        """The measures of the model as it is now."""
        at = device_of(self.encoder.module) if isinstance(self.encoder, TorchEncoder) else None
        # Other accelerators have no float64, which measures compute in.
        device = str(at) if at is not None and at.type == "cuda" else "cpu"
        tokens, probes = read_tokens(self.measures, self.dataset, "stored")
        tokens = tokens and not self.dataset.ragged
        activations, targets = read_into_memory(
            self.encoder, self.dataset, self.taps, device, tokens=tokens, probes=probes
        )
        measured = measure_all(
            self.measures,
            activations.with_other(seed=self.seed),
            {name: target for name, target in targets.items() if name not in self.unprobeable},
            asked=[each.name for each in self.measures],
            what=self.encoder.name,
        )
        unread = {
            f"{each.name}/{name}": why
            for name, why in self.unprobeable.items()
            for each in self.measures
            if each.kinds and each.name not in measured.failed and each.reads(targets[name])
        }
        left_out = {**self.left_out, **measured.skipped, **unread}
        if not measured.results:
            reasons = dict.fromkeys(f"{name}: {why}" for name, why in left_out.items())
            raise DiagnosticsError(
                f"Nothing can be measured for {self.encoder.name} on {len(self.dataset)} samples of "
                f"{self.dataset.name}: {'; '.join(reasons)}",
                code="bad-sample",
            )
        return _table(measured.results, self.taps).assign_attrs(
            encoder=self.encoder.name,
            dataset=self.dataset.name,
            output_tap=self.encoder.output_tap,
            samples=len(self.dataset),
            seed=self.seed,
            left_out="; ".join(f"{key}: {why}" for key, why in left_out.items()),
        )


def _needs_a_run(measure: Measure) -> str:
    if measure.pairwise:
        return "compares pairs of taps, which a run stores"
    return f"needs {measure.needs}, which a run records" if measure.observation is not None else ""


def _table(results: Mapping[str, xr.Dataset], taps: Sequence[Tap]) -> xr.Dataset:
    """Results by `measure/target` side by side, [tap, measure]."""
    names = [tap.name for tap in taps]
    columns = [result.reindex(tap=names) for result in results.values()]
    stated = {
        key: ("measure", np.array([str(column.attrs.get(key, "")) for column in columns], dtype=object))
        for key in (
            attribute.SCORE_NAME,
            attribute.FUNCTIONAL,
            attribute.POOLING,
            attribute.CENTRING,
            attribute.CHOSEN_TAP,
        )
    }
    return xr.Dataset(
        {
            key: (("tap", "measure"), np.stack([column[key].values.astype(np.float64) for column in columns], axis=1))
            for key in ("score", "low", "high")
        },
        coords={
            "tap": names,
            "measure": list(results),
            "depth": ("tap", [tap.depth for tap in taps]),
            **stated,
            # Samples that a score rests on: those of test, of a probe.
            "n": ("measure", [int(each.attrs.get(attribute.N, each.attrs.get("n_test", 0))) for each in columns]),
        },
    )


class ScalarLog(Protocol):
    """A log that takes scalars one by one, as TensorBoard's `SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> Any: ...


Log = ScalarLog | Callable[[dict[str, float]], Any]


class LayerProfiles:
    """Measures a model in training at every tap, each `every` steps, which leaves the training as it is.

        watch = LayerProfiles(model, dataset, every=1000, log=SummaryWriter())
        for n, batch in enumerate(batches, 1):
            ...
            watch.step(n)

    A measurement that fails (activations that are not finite, as where training diverges) is a warning and never ends
    the training. `for_transformers` and `for_lightning` make it a callback of these trainers.

    Parameters
    ----------
    module: the module that trains, or an encoder of it (see `encoder_of`). Not what `torch.compile` made of it: its
    parts
        cannot be read, and it shares its weights with the module.
    dataset, taps, measures, samples, seed, mean, std, size: as in `measure`; the same samples at every step.
    every: steps from one measurement to the next.
    log: takes scalars named `measure/target/tap`: an object with `add_scalar(name, value, step)`, or a function of a
    dict, in
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
        refuse_values(
            (
                not (isinstance(every, Integral) and every >= 1),
                f"every={every!r} is no number of steps: give 1 or more.",
            ),
            (
                log is not None and not hasattr(log, "add_scalar") and not callable(log),
                f"log is a {type(log).__name__}: give an object with add_scalar(name, value, step), or a "
                f"function of a dict.",
                "bad-type",
            ),
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
            self._measured[n] = measured = self._request.measure()
        except DiagnosticsError as error:
            self._failed[n] = str(error).rstrip(".")
            warnings.warn(f"Step {n} is not measured: {error}", stacklevel=2)
            return None
        self._log(n, measured)
        return measured

    @property
    def profiles(self) -> xr.Dataset:
        """All measurements as of `measure`.

        `score`, `low`, `high` over (step, tap, measure), `chosen_tap` over (step, measure).

        NaN, and "", where a measure had no value at a step. The attribute `failed` says which steps could not be
        measured.

        Raises DiagnosticsError before the first measurement.
        """
        if not self._measured:
            why = f" ({'; '.join(f'{n}: {reason}' for n, reason in self._failed.items())})" if self._failed else ""
            raise DiagnosticsError(
                f"No step was measured yet{why}: call step(n), which measures every {self.every} steps.",
                code="not-measured",
            )
        steps = sorted(self._measured)
        names = list(dict.fromkeys(str(name) for n in steps for name in self._measured[n]["measure"].values))
        # What a measure states of itself comes from whichever step has it.
        table = xr.concat(
            [self._measured[n].reset_coords("chosen_tap").reindex(measure=names) for n in steps],
            xr.IndexVariable("step", steps),
            data_vars="all",
            coords="minimal",
            compat="no_conflicts",
            join="exact",
            combine_attrs="override",
        )
        table["chosen_tap"] = table["chosen_tap"].fillna("")
        return table.assign_attrs(failed="; ".join(f"{n}: {why}" for n, why in self._failed.items()))

    def figure(self, measure: str | None = None) -> StepsFigure:
        """The picture that `plot` draws, as arrays."""
        profiles = self.profiles
        names = [str(name) for name in profiles["measure"].values]
        chosen = names[0] if measure is None else measure
        check_known("measure of these profiles", chosen, names)
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
        """A `transformers.TrainerCallback` that calls `step` after each step of the optimiser.

        Raises DiagnosticsError where transformers is not installed.
        """
        with importing("The callback needs", "pip install transformers"):
            from transformers import TrainerCallback

        step = self.step

        class AfterEachStep(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.is_world_process_zero:
                    step(int(state.global_step))

        return AfterEachStep()

    def for_lightning(self) -> Any:
        """A Callback of `lightning` or `pytorch_lightning` that calls `step` after each step of the optimiser.

        Raises DiagnosticsError where neither is installed.
        """
        for package in ("lightning.pytorch", "pytorch_lightning"):
            try:
                base: Any = importlib.import_module(package).Callback
                break
            except ImportError:
                continue
        else:
            raise DiagnosticsError("Lightning is not installed: pip install -e '.[lightning]'.", code="missing-package")

        step = self.step

        class AfterEachStep(base):
            def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
                # Batches whose gradients are accumulated repeat the step before them, which is measured once.
                if trainer.is_global_zero:
                    step(int(trainer.global_step))

        return AfterEachStep()

    def _log(self, n: int, measured: xr.Dataset) -> None:
        scores = measured["score"]
        scalars = {
            f"{name}/{tap}": float(score)
            for name, column in zip(scores["measure"].values, scores.values.T, strict=True)
            for tap, score in zip(scores["tap"].values, column, strict=True)
            if np.isfinite(score)
        }
        add: Any = getattr(self.log, "add_scalar", None)
        if add is not None:
            for name, value in scalars.items():
                add(name, value, n)
        elif callable(self.log):
            self.log({**scalars, "step": n})
