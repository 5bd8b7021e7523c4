"""The validated arguments of one call of `run`, and the encoder and dataset that they name."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

from torch import nn

from diagnostics.activations.fit import fit
from diagnostics.activations.plan import Precision, parse_budget
from diagnostics.datasets.dataset import Dataset, unprobeable_targets
from diagnostics.encoders.attention.kernels import check_kernel
from diagnostics.encoders.devices import check_compute, usable_device
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, describe, unknown
from diagnostics.measures.base import Measure
from diagnostics.measures.verdict import check_margin
from diagnostics.runs.folder import default_folder
from diagnostics.runs.given import Data, given
from diagnostics.runs.suites import SUITES, chosen_measures
from diagnostics.vocabulary import ChooseOn, Compute, ControlMeasures, Kernel


@dataclass(frozen=True)
class Request:
    """One encoder on one dataset, with all that decides how it is measured; `Request.of` checks and makes it.

    Parameters
    ----------
    encoder: sized for the samples of the dataset.
    encoder_spec, dataset_spec: the names that were typed, "" for objects made in Python.
    out: folder of the run, as it was given.
    taps: in order of execution, the output tap among them.
    poolings: in the encoder's order; None for all that it has.
    measures: in the order in which they are listed.
    named: those of the measures that were named one by one, and not by a suite.
    unusable: measures of a suite that cannot be made, and why.
    unprobeable: targets of the dataset that no probe can read, and why.
    draws: how often fresh and permuted weights are drawn; 0 for no controls at all.
    control_measures: see `run`.
    redraws: how often the split is drawn again; `redraw_controls`: whether that is done for all controls.
    token_budget: bytes for the tokens of each encoder; None for the default rule (see `activations.plan`).
    choose_on: see `Activations`.
    margin: see `run`.
    fresh: whether what the folder holds of earlier calls is dropped.
    """

    encoder: Encoder
    dataset: Dataset
    encoder_spec: str
    dataset_spec: str
    out: Path
    taps: Sequence[Tap]
    poolings: Sequence[str] | None
    measures: Sequence[Measure]
    named: frozenset[str]
    unusable: Mapping[str, str]
    unprobeable: Mapping[str, str]
    draws: int
    control_measures: ControlMeasures
    redraws: int
    redraw_controls: bool
    token_budget: int | None
    choose_on: ChooseOn
    margin: float | None
    precision: Precision
    compute: Compute
    attention: Kernel
    device: str
    batch_size: int | None
    workers: int
    seed: int
    fresh: bool

    @classmethod
    def of(
        cls,
        encoder: str | Encoder | nn.Module,
        dataset: Data,
        *,
        out: str | Path | None,
        taps: str | Sequence[str] | None,
        measures: str | Measure | Sequence[str | Measure] | None,
        controls: bool,
        control_draws: int,
        control_measures: ControlMeasures,
        redraws: int,
        redraw_controls: bool,
        device: str | None,
        batch_size: int | None,
        workers: int,
        token_budget: str | int | None,
        pooling: str | Sequence[str] | None,
        choose_on: ChooseOn | None,
        margin: float | None,
        precision: Precision,
        compute: Compute,
        attention: Kernel,
        seed: int,
        fresh: bool,
        trust_code: bool,
        fed: Mapping[str, Any],
    ) -> Self:
        """The request that the arguments of `run` make; raises DiagnosticsError for what cannot be."""
        _check_numbers(batch_size, workers, precision, seed, control_draws, redraws)
        check_kernel(attention)
        check_margin(margin)
        if choose_on is not None and choose_on not in get_args(ChooseOn):
            raise unknown("way to choose (--choose-on)", choose_on, get_args(ChooseOn))
        if control_measures not in get_args(ControlMeasures):
            raise unknown(
                "choice of measures of controls (--control-measures)", control_measures, get_args(ControlMeasures)
            )
        where = usable_device(device)
        check_compute(compute, where)
        budget = parse_budget(token_budget)
        taps, pooling = listed(taps), listed(pooling)
        asked = [measures] if isinstance(measures, Measure) else listed(measures)
        chosen, unusable = chosen_measures(asked)
        model, data = given("run", encoder, dataset, fed, trust_code=trust_code)
        model = fit(model, data)
        names = encoder if isinstance(encoder, str) else model.name, dataset if isinstance(dataset, str) else data.name
        path = Path(out) if out is not None else default_folder(*names)
        _check_out(path)
        if redraw_controls and not redraws:
            raise DiagnosticsError("--redraw-controls redraws nothing without --redraws N: give both.")
        if redraws and data.exchangeable is not True:
            given_splits = "test split of {} is" if data.exchangeable else "splits of {} are"
            raise DiagnosticsError(
                f"The split cannot be redrawn, since the {given_splits.format(data.name)} given: leave out --redraws, or give "
                "data without splits, which are then drawn (in Python, Dataset(exchangeable=True) says that yours were)."
            )
        unprobeable = unprobeable_targets(data)
        if chosen and all(_reads_only(measure, data, unprobeable) for measure in chosen):
            raise DiagnosticsError(f"Nothing can be measured on {data.name}: {' '.join(unprobeable.values())}")
        return cls(
            encoder=model,
            dataset=data,
            encoder_spec=encoder if isinstance(encoder, str) else model.spec,
            dataset_spec=dataset if isinstance(dataset, str) else "",
            out=path,
            taps=chosen_taps(model, taps),
            poolings=_chosen_poolings(model, pooling),
            measures=chosen,
            named=frozenset(one if isinstance(one, str) else one.name for one in asked or ()) - set(SUITES),
            unusable=unusable,
            unprobeable=unprobeable,
            draws=control_draws if controls else 0,
            control_measures=control_measures,
            redraws=redraws,
            redraw_controls=redraw_controls,
            # Tokens at one place of samples of unequal length have nothing in common.
            token_budget=0 if data.ragged else budget,
            margin=margin,
            choose_on=choose_on or ("fit" if data.exchangeable else "val"),
            precision=precision,
            compute=compute,
            attention=attention,
            device=where,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
            fresh=fresh,
        )

    @property
    def folder(self) -> Path:
        """The folder of the run, as an absolute path without links."""
        return self.out.resolve()


def listed(names: str | Sequence[Any] | None) -> list[Any] | None:
    """Names as a list, from one text with commas too."""
    if isinstance(names, str):
        return [name.strip() for name in names.split(",") if name.strip()]
    return None if names is None else list(names)


def _check_numbers(batch_size: int | None, workers: int, precision: str, seed: int, draws: int, redraws: int) -> None:
    for wrong, sentence in (
        (draws < 1, f"The number of draws of a control is {draws}: give 1 or more, or --no-controls."),
        (redraws < 0, f"The number of redraws is {redraws}: give 0 or more."),
        (seed < 0, f"Seed {seed} is below 0: give 0 or more."),
        (batch_size is not None and batch_size < 1, f"Batch size {batch_size} is below 1."),
        (workers < 0, f"The number of workers is {workers}: give 0 or more."),
    ):
        if wrong:
            raise DiagnosticsError(sentence)
    if precision not in ("float32", "float16"):
        raise unknown("precision", precision, ("float32", "float16"))


def _check_out(path: Path) -> None:
    try:
        whole = path.resolve()
    except (OSError, RuntimeError) as error:
        raise DiagnosticsError(
            f"--out {str(path)!r} cannot be a folder ({describe(error)}): choose another."
        ) from error
    if whole == Path.cwd() or whole in Path.cwd().parents:
        raise DiagnosticsError(
            f"--out {str(path)!r} is the folder that you are in, or one around it: name a folder of its own, like --out runs/mine."
        )


def _reads_only(measure: Measure, data: Dataset, unprobeable: Collection[str]) -> bool:
    """Whether a measure reads targets, and of this dataset only such as cannot be probed."""
    read = {name for name, target in data.targets.items() if target.kind in measure.kinds}
    return bool(read) and read <= set(unprobeable)


def chosen_taps(model: Encoder, names: Sequence[str] | None) -> list[Tap]:
    if names is None:
        return list(model.taps)
    wanted = {model.tap(name).name for name in names} | {model.output_tap}
    return [tap for tap in model.taps if tap.name in wanted]


def _chosen_poolings(model: Encoder, names: Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    for name in names:
        if name not in model.poolings:
            raise unknown("pooling", name, model.poolings)
    if not names:
        raise DiagnosticsError(f"--pooling names nothing: give {', '.join(model.poolings)}, or leave it out.")
    return [name for name in model.poolings if name in names]
