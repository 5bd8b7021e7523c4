"""A request, resolved and checked before any work: encoder, dataset, taps and measures, and what it will write."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, get_args

import numpy as np
import torch
from torch.utils.data import default_collate

from diagnostics.activations.bucket import open_place
from diagnostics.activations.place import Address, Location, locate
from diagnostics.activations.plan import Precision, parse_budget, plan, row_order
from diagnostics.activations.prepare import fit
from diagnostics.activations.run_files import CONTROLS
from diagnostics.activations.store import Store
from diagnostics.datasets import questions
from diagnostics.datasets.boxes import AREA, CLASS
from diagnostics.datasets.dataset import Dataset, at_rows, subset, unprobeable_targets
from diagnostics.datasets.target import LazySamples, Target
from diagnostics.encoders.bare_module import is_bare
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.flops import count_flops
from diagnostics.encoders.hooks import tensors_in
from diagnostics.encoders.modules import BATCH, check_compute, select_poolings, usable_device
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, check_known, explaining, join_names, refuse_values
from diagnostics.measures import CATALOGUE
from diagnostics.measures.arrays import svd
from diagnostics.measures.base import Measure
from diagnostics.measures.probes.grounding import EMBEDDED_BY, count_words
from diagnostics.measures.probes.input_scaling import InputScaling
from diagnostics.measures.verdict import check_margin
from diagnostics.registry import plugin_entries
from diagnostics.runs.controls.names import WEIGHTS
from diagnostics.runs.inputs import resolve_inputs
from diagnostics.runs.machine import default_workers
from diagnostics.runs.options import Request, default_folder
from diagnostics.specs import build
from diagnostics.vocabulary import BY_PLACE, DENSE, KERNELS, SAFE_NAME, ChooseOn, ControlMeasures, DenseTokens

DEAR = 10**14
"""Operations of a pass over all samples, about half an hour of one core, above which controls pass fewer by default."""
LEAST_OF_CONTROLS = 1000
"""Samples that controls pass then at least."""


class Setup:
    """Resolves a request. Raises DiagnosticsError for what cannot be.

    encoder: sized for the samples of the dataset.
    out: place of the run, as it was given; `folder`: the same, a path as an absolute one without links.
    taps: in order of execution, the output tap among them.
    poolings: in the encoder's order; None for all that it has.
    measures: in the order in which they are listed; `named`: those that were named one by one, and not by a suite.
    unusable: measures of a suite that cannot be made, and why.
    unprobeable: targets of the dataset that no probe can read, and why.
    draws: how often fresh and permuted weights are drawn; 0 for no controls at all.
    token_budget: bytes for the tokens of each encoder; None for the default rule (see `activations.plan`).
    token_samples: how many samples' tokens the budget holds where probes read them.
    dense: how dense targets are read.
    choose_on: see `Activations`.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        _check(request)
        given_out = None if request.out is None else _check_place(request.out, request.fresh)
        self.device = usable_device(request.device)
        check_compute(request.compute, self.device)
        budget = parse_budget(request.token_budget)
        asked = [request.measures] if isinstance(request.measures, Measure) else as_list(request.measures)
        self.measures, self.unusable = select_measures(asked)
        self.named = frozenset(one if isinstance(one, str) else one.name for one in asked or ()) - set(SUITES)
        fed = {"mean": request.mean, "std": request.std, "size": request.size}
        model, data = resolve_inputs("run", request.encoder, request.dataset, fed, trust_code=request.trust_code)
        data = with_questions(data)
        if request.text_encoder is not None:
            data = embed_phrases(data, request.text_encoder)
        self.encoder, self.dataset = fit(model, data), data
        typed = [one if isinstance(one, str) else "" for one in (request.encoder, request.dataset)]
        names = typed[0] or self.encoder.name, typed[1] or data.name
        self.out = given_out or default_folder(*names)
        self.folder = _resolve(self.out)
        _check_redraws(request, data)
        self.unprobeable = unprobeable_targets(data)
        if request.dense == "none":
            left_out = {name: target for name, target in data.targets.items() if target.dense}
            self.unprobeable |= {name: f"Target {name} is left out (--dense none)." for name in left_out}
        if self.measures and all(_reads_only(measure, data, self.unprobeable) for measure in self.measures):
            raise DiagnosticsError(
                f"Nothing can be measured on {data.name}: {' '.join(self.unprobeable.values())}", code="no-target"
            )
        self.encoder_spec, self.dataset_spec = typed[0] or self.encoder.spec, typed[1]
        self.taps = select_taps(self.encoder, as_list(request.taps))
        poolings = as_list(request.pooling)
        self.poolings = None if poolings is None else select_poolings(poolings, self.encoder.poolings)
        self.draws = request.control_draws if request.controls else 0
        if self.draws and is_bare(self.encoder) and all(one.name != InputScaling.name for one in self.measures):
            self.measures += [InputScaling()] * any(each.kind in InputScaling.kinds for each in data.targets.values())
        # Tokens at one place of samples of unequal length have nothing in common.
        self.token_budget = 0 if data.ragged else budget
        self.choose_on: ChooseOn = request.choose_on or ("fit" if data.exchangeable else "val")
        rule = (self.encoder, self.taps, len(data), self.token_budget, request.precision)
        self.token_samples = plan(*rule).token_samples
        stored = data.ragged or self.token_samples == len(data)
        self.dense: DenseTokens = request.dense or ("stored" if stored else "streamed")
        _check_control_samples(self)

    @cached_property
    def workers(self) -> int:
        """Processes that prepare samples: on a GPU, which waits for them, as many as this machine allows."""
        if self.request.workers is not None or not self.device.startswith("cuda"):
            return self.request.workers or 0
        prepared = tensors_in(default_collate([self.encoder.preprocess(self.encoder.example())]))
        return default_workers((self.request.batch_size or BATCH["cuda"]) * sum(each.nbytes for each in prepared))

    @property
    def unread(self) -> tuple[str, ...]:
        """The targets that no measure of the standard suite reads, where it was asked for, in a sentence."""
        read = {kind for measure in self.measures for kind in measure.kinds}
        others = {kind: name for name, row in reversed(CATALOGUE.items()) for kind in row["kinds"] if kind not in read}
        kinds = {name: of.kind for name, of in self.dataset.targets.items() if name not in self.unprobeable}
        unread = [f"{name} ({others[kind]})" for name, kind in kinds.items() if kind in others]
        if self.request.measures not in (None, "standard") or not unread:
            return ()
        return (f"No measure of the standard suite reads {join_names(unread)}: add what does by --measures.",)

    @cached_property
    def control_samples(self) -> int | None:
        """The number of samples that controls with other weights pass: by default fewer where a pass is `DEAR`."""
        request, samples = self.request, len(self.dataset)
        few = max(LEAST_OF_CONTROLS, fewest_of_controls(samples))
        if request.control_samples is not None or few >= samples or not self.draws or request.redraw_controls:
            return request.control_samples
        with suppress(DiagnosticsError):
            # What an earlier call has is gone on with.
            if not request.fresh:
                return Store(open_place(self.folder).inside(f"{CONTROLS}/{WEIGHTS[0]}")).plan.samples
        return few if samples * count_flops(self.encoder).get("", 0) > DEAR else None

    @cached_property
    def control_positions(self) -> np.ndarray:
        """The positions of the samples that controls with other weights pass, ascending."""
        wanted, data = self.control_samples, self.dataset
        ids = data.ids if wanted is None else subset(data, wanted, self.request.seed).ids
        return np.flatnonzero(np.isin(np.asarray(data.ids, dtype=object)[row_order(len(data))], ids))

    @cached_property
    def control_dataset(self) -> Dataset:
        """Those samples, so ordered that their positions among themselves are those among all."""
        positions, data = self.control_positions, self.dataset
        if len(positions) == len(data):
            return data
        rows = np.empty(len(positions), dtype=np.int64)
        rows[row_order(len(positions))] = row_order(len(data))[positions]
        return at_rows(data, rows)

    @property
    def fewer(self) -> str:
        """That controls with other weights pass fewer samples, in words; "" where they pass all."""
        few, samples = len(self.control_positions), len(self.dataset)
        return (
            f"on {few:,} of {samples:,} samples, on which the encoder is fitted again for the comparison"
            if few < samples
            else ""
        )


def as_list(names: str | Sequence[Any] | None) -> list[Any] | None:
    """Names as a list, from one text with commas too."""
    if isinstance(names, str):
        return [name.strip() for name in names.split(",") if name.strip()]
    return None if names is None else list(names)


def _check(request: Request) -> None:
    flags = {
        field.name: getattr(request, field.name)
        for field in dataclasses.fields(request)
        if isinstance(field.default, bool)
    }
    refuse_values(
        *((not isinstance(flag, bool), f"{name} is {flag!r}: give True or False.") for name, flag in flags.items()),
        (
            request.control_draws < 1,
            f"The number of draws of a control is {request.control_draws}: give 1 or more, or --no-controls.",
        ),
        (request.redraws < 0, f"The number of redraws is {request.redraws}: give 0 or more."),
        (request.seed < 0, f"Seed {request.seed} is below 0: give 0 or more."),
        (request.batch_size is not None and request.batch_size < 1, f"Batch size {request.batch_size} is below 1."),
        (
            request.workers is not None and request.workers < 0,
            f"The number of workers is {request.workers}: give 0 or more.",
        ),
        (request.jobs is not None and request.jobs < 1, f"The number of jobs is {request.jobs}: give 1 or more."),
    )
    for what, value, known in (
        ("precision", request.precision, get_args(Precision)),
        ("attention kernel", request.attention, KERNELS),
        ("way to choose (--choose-on)", request.choose_on, get_args(ChooseOn)),
        ("choice of measures of controls (--control-measures)", request.control_measures, get_args(ControlMeasures)),
        ("way to read dense targets (--dense)", request.dense, get_args(DenseTokens)),
    ):
        check_known(what, value, known)
    if request.force and not request.fresh:
        raise DiagnosticsError(
            "--force is for --fresh, without which nothing is discarded: leave it out.", code="no-effect"
        )
    check_margin(request.margin)


def _check_redraws(request: Request, data: Dataset) -> None:
    if request.redraw_controls and not request.redraws:
        raise DiagnosticsError("--redraw-controls redraws nothing without --redraws N: give both.", code="no-effect")
    if request.redraws and data.exchangeable is not True:
        given_splits = "test split of {} is" if data.exchangeable else "splits of {} are"
        raise DiagnosticsError(
            f"The split cannot be redrawn, since the {given_splits.format(data.name)} given: leave out "
            f"--redraws, or give data without splits, which are then drawn (in Python, Dataset(exchangeable=True) says "
            f"that yours were).",
            code="bad-splits",
        )


def fewest_of_controls(samples: int) -> int:
    """The samples whose interval is at most half wider than that of all: widths fall with the root of their number."""
    return math.ceil(samples / 1.5**2)


def _check_control_samples(setup: Setup) -> None:
    few, samples = setup.request.control_samples, len(setup.dataset)
    if few is not None and few < (least := fewest_of_controls(samples)):
        raise DiagnosticsError(
            f"With {few:,} of {samples:,} samples (--control-samples) intervals of controls are more than half wider "
            f"than the encoder's: give {least:,} or more.",
            code="bad-value",
        )
    if few is not None and setup.request.redraw_controls:
        raise DiagnosticsError(
            "--redraw-controls fits controls on other splits of all samples, so that it cannot be given with "
            "--control-samples: leave one of them out.",
            code="conflict",
        )


def _check_place(out: str | PurePath, fresh: bool) -> Location:
    """The place of a run to be; refuses a bucket that cannot be asked, before anything is built."""
    place = locate(out)
    if isinstance(place, Address):
        replaced = (
            f"--fresh replaces no run in a bucket: choose another --out, or remove all objects below {place} first."
        )
        whole = f"--out {place} is a whole bucket: name a prefix of its own in it, like --out {place}/runs/mine."
        refuse_values((fresh, replaced), (len(place.parts) < 3, whole))
        open_place(place).is_occupied()
    return place


def _resolve(path: Location) -> Location:
    """The absolute path of the run's folder, without links; refuses the folder that one is in and those around it."""
    if isinstance(path, Address):
        return path
    with explaining(f"--out {str(path)!r} cannot be a folder", "choose another", "unwritable", (OSError, RuntimeError)):
        whole = path.resolve()
        if whole.is_symlink():
            whole.stat()  # it is a loop, at which Python 3.13 raises nothing before
    if whole == Path.cwd() or whole in Path.cwd().parents:
        raise DiagnosticsError(
            f"--out {str(path)!r} is the folder that you are in, or one around it: name a folder of its own, like "
            f"--out runs/mine.",
            code="occupied",
        )
    return whole


def _reads_only(measure: Measure, data: Dataset, unprobeable: Collection[str]) -> bool:
    """True if a measure reads targets, and of this dataset only such as cannot be probed."""
    read = {name for name, target in data.targets.items() if target.kind in measure.kinds}
    return bool(read) and read <= set(unprobeable)


def select_taps(model: Encoder, names: Sequence[str] | None) -> list[Tap]:
    if names is None:
        return list(model.taps)
    wanted = {model.tap(name).name for name in names} | {model.output_tap}
    return [tap for tap in model.taps if tap.name in wanted]


SUITES = ("standard", "first-look", "perception", "all")
FIRST_LOOK = ("linear_probe", "logme", "tap_set")
"""The suite `first-look`: which layer, and whether several gain (docs/how-to/new-encoder.md)."""
PERCEPTION = (
    "linear_probe",
    "segmentation_probe",
    "detection_probe",
    "grounding_probe",
    "question_probe",
    "label_propagation",
    "correspondence",
)
"""The suite `perception`: the tasks that Perception Encoder was judged by (2504.13181)."""


def select_measures(chosen: Sequence[str | Measure] | None) -> tuple[list[Measure], dict[str, str]]:
    """The measures of these names, and of a suite's measures that cannot be made the reasons, by name.

    A name may be a suite: `standard` (also where `chosen` is None or empty), `first-look`, `perception` or `all`. A
    measure itself stands behind those that are named. Raises DiagnosticsError for an unknown name, where a measure that
    is named itself cannot be made, and for a measure whose name another one has.
    """
    own = [one for one in chosen or () if isinstance(one, Measure)]
    asked = [one for one in chosen or () if isinstance(one, str)] or ([] if own else ["standard"])
    known = plugin_entries("measure")
    _check_own(own, known)
    for name in asked:
        check_known("measure", name, [*SUITES, *known], "See `diagnostics list measures`.")
    measures: dict[str, Measure] = {}
    unusable: dict[str, str] = {}
    named = [name for name in asked if name not in SUITES]
    # Those named first, so that the first of them that fails is the one that is reported.
    for name in dict.fromkeys([*named, *known] if set(asked) & set(SUITES) else named):
        plugin, make = known[name]
        try:
            measure = _make(plugin.name, name, make)
        except DiagnosticsError as error:
            if name in named:
                raise
            unusable[name] = str(error)
        else:
            of = {
                "all": True,
                "standard": measure.standard,
                "first-look": name in FIRST_LOOK,
                "perception": name in PERCEPTION,
            }
            if name in named or any(of[suite] for suite in asked if suite in of):
                measures[name] = measure
    # In the order in which they are listed, whatever the order they were asked for.
    return [*(measures[name] for name in known if name in measures), *own], unusable


def read_tokens(measures: Sequence[Measure], dataset: Dataset, dense: DenseTokens) -> tuple[bool, bool]:
    """Tells whether any of the measures reads stored tokens of a dataset, and whether a probe may.

    For a probe more samples count.

    A target for every place has such probes, whether or not they are among the measures: others may follow in the same
    run.
    """
    targets: Iterable[Any] = dataset.targets.values()
    kinds = {target.kind for target in targets}
    otherwise = {m.name: {"stored": (), "streamed": m.streams, "none": DENSE}[dense] for m in measures}
    # What is observed with the model at hand reads no stored tokens.
    stored = {
        m.name: {target.kind for target in targets if m.reads(target)} - set(otherwise[m.name])
        for m in measures
        if m.observation is None
    }
    probes = any(of & set(BY_PLACE) or (m.needs == "tokens" and of) for m in measures if (of := stored.get(m.name)))
    return probes or any(m.needs == "tokens" and not m.kinds for m in measures), probes or bool(
        kinds & {*BY_PLACE} - {"matches"}
    )


def _check_own(own: Sequence[Measure], known: Collection[str]) -> None:
    names = [measure.name for measure in own]
    for name in names:
        if name in known or names.count(name) > 1:
            raise DiagnosticsError(f"There is another measure {name}: give yours a name of its own.", code="duplicate")
        _check_name(name, "A measure is called")


def _make(plugin: str, name: str, make: Callable[..., Any]) -> Measure:
    with explaining(f"Plugin {plugin} failed to make the measure {name}"):
        measure = make()
    if not isinstance(measure, Measure):
        raise DiagnosticsError(f"Plugin {plugin} offers {name}, which is not a diagnostics.Measure.", code="bad-type")
    if measure.name != name:
        raise DiagnosticsError(
            f"Plugin {plugin} offers {name!r}, whose measure calls itself {measure.name!r}: give both one name.",
            code="conflict",
        )
    _check_name(name, f"Plugin {plugin} offers")
    return measure


def _check_name(name: str, what: str) -> None:
    if not SAFE_NAME.fullmatch(name) or name == CONTROLS:
        raise DiagnosticsError(
            f"{what} {name!r}: give it a name of letters, digits, '_', '-' and '.', other than {CONTROLS}, since "
            f"results are stored under it.",
            code="bad-value",
        )


def targets_to_stream(setup: Setup) -> dict[str, Target]:
    """The targets that measures can read from sums, by name."""
    kinds = {kind for measure in setup.measures for kind in measure.streams}
    there = {name: target for name, target in setup.dataset.targets.items() if name not in setup.unprobeable}
    return {name: target for name, target in there.items() if target.kind in kinds}


MOST_DIRECTIONS = 64
"""Of an embedding, those of largest variance over the texts of train, that are stored."""
_NO_DIRECTION = 1e-6
"""Of the largest standard deviation, below which rounding alone makes a direction."""
QUESTIONS = "questions"
"""The target that is made of a dataset's questions."""


def with_questions(dataset: Dataset) -> Dataset:
    """The dataset with a target of its questions, embedded as counts of words, if it has images that are asked of."""
    asked = dataset.questions
    if dataset.modality != "image" or not len(asked) or isinstance(asked, LazySamples) or QUESTIONS in dataset.targets:
        return dataset
    # Captions are the answers to nothing.
    if not any(text.strip() for of in asked for each in of for text in each.wordings):
        return dataset
    values, classes, texts = questions.pad_questions(asked, dataset.split)
    told = copy.copy(dataset)
    about = "answers to questions"
    fitted = fitted_texts(dataset, values)
    embedded = count_words(texts, fitted, MOST_WORDS)
    target = Target("questions", behind(values, embedded, fitted), about=about, classes=classes)
    told.targets = {**dataset.targets, QUESTIONS: target}
    return told


MOST_WORDS = 512
"""Words of questions that are counted, the most frequent ones."""


def fitted_texts(dataset: Dataset, values: np.ndarray, text: int = questions.TEXT) -> np.ndarray:
    """The numbers of the texts of train, ascending, of values [sample, item, column] whose column `text` has them."""
    numbers = values[np.asarray(dataset.split) == "train"][..., text]
    return np.unique(numbers[numbers >= 0]).astype(int)


def behind(values: np.ndarray, embedded: Any, fitted: np.ndarray, text: int = questions.TEXT) -> np.ndarray:
    """Values [sample, item, column] with the embedding of each item's text behind them.

    embedded: [text, feature], of which at most `MOST_DIRECTIONS` are kept, by the texts of the numbers `fitted` alone.
    """
    away = np.asarray(embedded, dtype=np.float64)
    away = away - away[fitted].sum(axis=0) / max(len(fitted), 1)
    _, sizes, directions = (each.numpy() for each in svd(torch.from_numpy(away[fitted])))
    directions = directions[:MOST_DIRECTIONS][sizes[:MOST_DIRECTIONS] > _NO_DIRECTION * sizes.max(initial=0)]
    placed = np.full((*values.shape[:2], len(directions)), np.nan)
    known = values[..., text] >= 0
    placed[known] = (away @ directions.T)[values[..., text][known].astype(int)]
    return np.concatenate([values, placed], axis=2)


def embed_phrases(dataset: Dataset, name: str) -> Dataset:
    """The dataset whose phrases and questions have behind each the embedding of its text by the encoder called so.

    Raises DiagnosticsError for a dataset without either, an encoder of anything but texts, and texts that it cannot
    embed.
    """
    told = copy.copy(dataset)
    told.targets = {key: target for key, target in dataset.targets.items() if target.kind in ("phrases", "questions")}
    if not told.targets:
        raise DiagnosticsError(
            f"{dataset.name} has no phrases or questions that {name} could embed: leave --text-encoder out.",
            code="no-effect",
        )
    encoder = build("encoder", name)
    if encoder.modality != "text":
        raise DiagnosticsError(
            f"{name} reads {encoder.modality} samples and no phrases: give --text-encoder an encoder of texts.",
            code="other-modality",
        )
    for key, target in told.targets.items():
        if target.kind == "phrases":
            bare, fitted = target.values, fitted_texts(dataset, target.values, CLASS)
            values = behind(bare, encoder.transform(list(target.classes)), fitted, CLASS)
            values[:, 0, AREA + 1 :] = 0
        else:
            bare, _, texts = questions.pad_questions(dataset.questions, dataset.split)
            fitted = fitted_texts(dataset, bare)
            values = behind(bare, encoder.transform(list(texts)), fitted)
        if values.shape[2] == bare.shape[2] and len(fitted) > 1:
            raise DiagnosticsError(
                f"{name} embeds all {len(fitted)} texts of {key} in train alike, so that it tells none from another: "
                f"give --text-encoder one that knows their language.",
                code="no-effect",
            )
        told.targets[key] = dataclasses.replace(target, values=values, about=f"{target.about}{EMBEDDED_BY}{name}")
    told.targets = dataset.targets | told.targets
    identity = f"{dataset.fingerprint} phrases by {sorted(encoder.identity.items())}"
    told._fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    return told
