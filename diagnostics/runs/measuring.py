"""Measuring in memory: what a run measures, on a few samples, without a store, a folder or controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from diagnostics.activations.extract import read_into_memory
from diagnostics.activations.prepare import fit
from diagnostics.datasets.dataset import subset, unprobeable_targets
from diagnostics.encoders.bare_module import Numbers
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import device_of, random_kept
from diagnostics.encoders.taps import Tap
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError
from diagnostics.measures import result as attribute
from diagnostics.measures.apply import measure_all
from diagnostics.measures.base import Measure
from diagnostics.runs.given import Data, given
from diagnostics.runs.setup import chosen_taps, listed
from diagnostics.runs.suites import chosen_measures, read_tokens

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

    The numbers are those of `run` on the same samples, without controls. It runs where the model is; a torch module keeps
    its modes, `requires_grad`, gradients, buffers, hooks, device and random state.

    Parameters
    ----------
    encoder, dataset: a bare torch module, and arrays (X, y), too (see `encoder_of`, `dataset`).
    taps, measures: names or a suite, as in `run`. Measures that compare taps, or need attention or gradients, need a run.
    samples: of the dataset are read at most: a random subset in which splits keep their shares and train shows every class.
    seed: of that subset and of the bootstrap.
    mean, std, size: of a bare module, see `encoder_of`: how the pixels of its images become numbers, and to what size they are brought.

    Returns
    -------
    xarray.Dataset: `score`, `low` and `high` over (tap, measure), measures named `measure/target`; with `depth` of each tap, and
        `score_name`, `functional`, `pooling`, `centring`, `n` and `chosen_tap` (chosen without test; "" where none is) of each measure.
        Its attributes say encoder, dataset, output tap, samples and seed, and `left_out` why measures are missing.

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
    return InMemoryRequest("measure", **locals()).measured()


class InMemoryRequest:
    """The checked arguments of `measure`, which can be measured again when the weights have changed.

    `dataset` is the subset that is read, and `left_out` says why measures of a suite cannot be done here. Raises DiagnosticsError
    for what cannot be.
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
            raise DiagnosticsError(f"Seed {seed} is below 0: give 0 or more.")
        asked = ([measures] if isinstance(measures, Measure) else listed(measures)) or []
        chosen, self.left_out = chosen_measures(asked)
        for each in chosen:
            if why := _needs_a_run(each):
                self.left_out[each.name] = why
                if each in asked or each.name in asked:
                    raise DiagnosticsError(f"{each.name} {why}: diagnostics.run(..., measures=[{each.name!r}]).")
        with random_kept():
            model, data = given(caller, encoder, dataset, fed)
            self.encoder = fit(model, data)
        self.dataset, self.seed = subset(data, samples, seed), seed
        self.measures = [each for each in chosen if each.name not in self.left_out]
        self.taps = chosen_taps(self.encoder, listed(taps))
        self.unprobeable = unprobeable_targets(self.dataset)

    @random_kept()
    def measured(self) -> xr.Dataset:
        """The measures of the model as it is now."""
        at = device_of(self.encoder.module) if isinstance(self.encoder, TorchEncoder) else None
        # Other accelerators have no float64, which measures compute in.
        device = str(at) if at is not None and at.type == "cuda" else "cpu"
        tokens, probes = read_tokens(self.measures, self.dataset)
        tokens = tokens and not self.dataset.ragged
        activations, targets = read_into_memory(
            self.encoder, self.dataset, self.taps, device, tokens=tokens, probes=probes
        )
        readable = {name: target for name, target in targets.items() if name not in self.unprobeable}
        measured = measure_all(
            self.measures, activations, readable, self.seed, asked=[each.name for each in self.measures],
            what=self.encoder.name,
        )  # fmt: skip
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
                f"Nothing can be measured for {self.encoder.name} on {len(self.dataset)} samples of {self.dataset.name}: "
                f"{'; '.join(reasons)}"
            )
        return _table(measured.results, self.taps).assign_attrs(
            encoder=self.encoder.name, dataset=self.dataset.name, output_tap=self.encoder.output_tap,
            samples=len(self.dataset), seed=self.seed, left_out="; ".join(f"{key}: {why}" for key, why in left_out.items()),
        )  # fmt: skip


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
            attribute.SCORE_NAME, attribute.FUNCTIONAL, attribute.POOLING, attribute.CENTRING, attribute.CHOSEN_TAP
        )
    }  # fmt: skip
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
            "n": ("measure", [_count(column) for column in columns]),
        },
    )


def _count(result: xr.Dataset) -> int:
    """Samples that a score rests on: those of test, of a probe."""
    return int(result.attrs.get(attribute.N, result.attrs.get("n_test", 0)))
