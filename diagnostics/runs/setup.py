"""What a request comes to: the encoder and dataset that it names, and its taps and measures, checked before any work."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, get_args

from diagnostics.activations.plan import Precision, parse_budget
from diagnostics.activations.prepare import fit
from diagnostics.datasets.dataset import Dataset, unprobeable_targets
from diagnostics.encoders.attention.kernels import check_kernel
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import check_compute, usable_device
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, describe, unknown
from diagnostics.measures.base import Measure
from diagnostics.measures.verdict import check_margin
from diagnostics.runs.folder import default_folder
from diagnostics.runs.given import given
from diagnostics.runs.request import Request
from diagnostics.runs.suites import SUITES, chosen_measures
from diagnostics.vocabulary import ChooseOn, ControlMeasures


class Setup:
    """What a request comes to. Raises DiagnosticsError for what cannot be.

    encoder: sized for the samples of the dataset.
    out: folder of the run, as it was given; `folder`: the same as an absolute path without links.
    taps: in order of execution, the output tap among them.
    poolings: in the encoder's order; None for all that it has.
    measures: in the order in which they are listed; `named`: those that were named one by one, and not by a suite.
    unusable: measures of a suite that cannot be made, and why.
    unprobeable: targets of the dataset that no probe can read, and why.
    draws: how often fresh and permuted weights are drawn; 0 for no controls at all.
    token_budget: bytes for the tokens of each encoder; None for the default rule (see `activations.plan`).
    choose_on: see `Activations`.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        _check(request)
        self.device = usable_device(request.device)
        check_compute(request.compute, self.device)
        budget = parse_budget(request.token_budget)
        asked = [request.measures] if isinstance(request.measures, Measure) else listed(request.measures)
        self.measures, self.unusable = chosen_measures(asked)
        self.named = frozenset(one if isinstance(one, str) else one.name for one in asked or ()) - set(SUITES)
        fed = {"mean": request.mean, "std": request.std, "size": request.size}
        model, data = given("run", request.encoder, request.dataset, fed, trust_code=request.trust_code)
        self.encoder, self.dataset = fit(model, data), data
        typed = [one if isinstance(one, str) else "" for one in (request.encoder, request.dataset)]
        names = typed[0] or self.encoder.name, typed[1] or data.name
        self.out = Path(request.out) if request.out is not None else default_folder(*names)
        self.folder = _resolved(self.out)
        _check_redraws(request, data)
        self.unprobeable = unprobeable_targets(data)
        if self.measures and all(_reads_only(measure, data, self.unprobeable) for measure in self.measures):
            raise DiagnosticsError(f"Nothing can be measured on {data.name}: {' '.join(self.unprobeable.values())}")
        self.encoder_spec, self.dataset_spec = typed[0] or self.encoder.spec, typed[1]
        self.taps = chosen_taps(self.encoder, listed(request.taps))
        self.poolings = _chosen_poolings(self.encoder, listed(request.pooling))
        self.draws = request.control_draws if request.controls else 0
        # Tokens at one place of samples of unequal length have nothing in common.
        self.token_budget = 0 if data.ragged else budget
        self.choose_on: ChooseOn = request.choose_on or ("fit" if data.exchangeable else "val")


def listed(names: str | Sequence[Any] | None) -> list[Any] | None:
    """Names as a list, from one text with commas too."""
    if isinstance(names, str):
        return [name.strip() for name in names.split(",") if name.strip()]
    return None if names is None else list(names)


def _check(request: Request) -> None:
    for wrong, sentence in (
        (
            request.control_draws < 1,
            f"The number of draws of a control is {request.control_draws}: give 1 or more, or --no-controls.",
        ),
        (request.redraws < 0, f"The number of redraws is {request.redraws}: give 0 or more."),
        (request.seed < 0, f"Seed {request.seed} is below 0: give 0 or more."),
        (request.batch_size is not None and request.batch_size < 1, f"Batch size {request.batch_size} is below 1."),
        (request.workers < 0, f"The number of workers is {request.workers}: give 0 or more."),
    ):
        if wrong:
            raise DiagnosticsError(sentence)
    if request.precision not in get_args(Precision):
        raise unknown("precision", request.precision, get_args(Precision))
    check_kernel(request.attention)
    check_margin(request.margin)
    if request.choose_on is not None and request.choose_on not in get_args(ChooseOn):
        raise unknown("way to choose (--choose-on)", request.choose_on, get_args(ChooseOn))
    if request.control_measures not in get_args(ControlMeasures):
        what = "choice of measures of controls (--control-measures)"
        raise unknown(what, request.control_measures, get_args(ControlMeasures))


def _check_redraws(request: Request, data: Dataset) -> None:
    if request.redraw_controls and not request.redraws:
        raise DiagnosticsError("--redraw-controls redraws nothing without --redraws N: give both.")
    if request.redraws and data.exchangeable is not True:
        given_splits = "test split of {} is" if data.exchangeable else "splits of {} are"
        raise DiagnosticsError(
            f"The split cannot be redrawn, since the {given_splits.format(data.name)} given: leave out --redraws, or give "
            "data without splits, which are then drawn (in Python, Dataset(exchangeable=True) says that yours were)."
        )


def _resolved(path: Path) -> Path:
    """The absolute path of the run's folder, without links; refuses the folder that one is in and those around it."""
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
    return whole


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
