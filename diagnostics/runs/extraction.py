"""The extraction of one call of `run`, or of one launch of it: the encoder and its controls, into their stores."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from diagnostics.activations.batches import Passed, pass_batch
from diagnostics.activations.bucket import Place, open_place
from diagnostics.activations.contract import StoredTarget, shuffle
from diagnostics.activations.extract import LONG, Deal, OnGrids, extract, refuse_other_folder, seconds_when_warm
from diagnostics.activations.folder import Folder, check_room, reading, writing
from diagnostics.activations.observe import InPass, observe
from diagnostics.activations.parts import Launch, Share, refuse_mixture, scratch_of, units
from diagnostics.activations.plan import Plan, in_ranges, plan, ranges_of
from diagnostics.activations.prepare import find_difference
from diagnostics.activations.run_files import CONTROLS, ENCODER
from diagnostics.activations.store import Store, is_run
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.attention.kernel_choice import attention_in, explain_attention
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import BATCH, computing, random_kept
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, StorageError, describe, explaining
from diagnostics.measures.base import Measure
from diagnostics.measures.threads import one_thread
from diagnostics.progress import Progress, Watch, silent
from diagnostics.registry import plugin_entries
from diagnostics.report.progress_bars import watching
from diagnostics.runs.controls.kinds import control_encoders
from diagnostics.runs.controls.names import WEIGHTS, control_of
from diagnostics.runs.cost import cost_of
from diagnostics.runs.options import Request
from diagnostics.runs.processes.passes import Batch, Held, Passing, by_names, outline_of, setup_of, threads, threads_of
from diagnostics.runs.processes.workers import Submits, Workers
from diagnostics.runs.results.record import Call, Provenance, refuse_other_seed
from diagnostics.runs.setup import Setup, read_tokens, targets_to_stream
from diagnostics.runs.streaming.block_sums import AlongExtraction, HeldTokens, tokens_read
from diagnostics.runs.streaming.stream import stream_share
from diagnostics.vocabulary import Compute

LOG = logging.getLogger("diagnostics")
MOST_PARTS = 10**6
WORTH = 0.9
"""Share of the time from which on another number format is not worth telling of."""
LONG_BYTES = 2**26
"""Of an encoder's activations from which its measures take so long that other processes start at once."""
AHEAD_BYTES = 2**30
"""Tokens of batches that other processes have passed and this one has not taken."""


@random_kept()
def extract_parts(request: Request, launch: Launch, watch: Watch | None = None) -> dict[str, Any]:
    """The parts of one launch of a run that several extract together; nothing is measured.

    Returns what is there of each store, the encoder's and the controls' by name: `parts` and those that are `missing`,
    numbered from 1, and of streamed targets those that are `unjudged`. Raises DiagnosticsError where the run is
    another than the one asked for, and WaitingError where this launch can go on only when others are done.
    """
    return _extract_parts(Setup(request), launch, watch)


def _extract_parts(setup: Setup, launch: Launch, watch: Watch | None) -> dict[str, Any]:
    refuse_unshareable(setup)
    with writing(setup.out):
        if isinstance(setup.folder, Path):
            setup.folder.parent.mkdir(parents=True, exist_ok=True)
    with watching(watch) as shown, share_of(setup, launch, finishes=False) as share:
        folder = open_place(setup.folder)
        with reading(setup.out):
            refuse_other_seed(folder, setup.request.seed)
        try:
            return Extraction(setup, folder, shown, share).do_parts()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Interrupted: give launch {launch} again to continue.") from None


@random_kept()
def submit_parts(request: Request, executor: Submits, watch: Watch | None = None) -> None:
    """Has an executor extract what is missing of a run, one task a part or a range of parts; nothing is measured.

    Raises DiagnosticsError where encoder or dataset is no name, which alone can be sent, and where a task fails.
    """
    setup = Setup(request)
    request = by_names(request, setup.folder)
    # Of streamed targets a first pass gathers sums, and a second judges by them.
    for key in ("missing", "unjudged"):
        # A launch beyond all parts makes the stores, joins sums, and says what is missing.
        stores = _extract_parts(setup, Launch(MOST_PARTS, MOST_PARTS + 1), watch)
        dealt = {name: units(of["parts"], _streams(setup)) for name, of in stores.items()}
        count = max(map(len, dealt.values()))
        missing = {
            i
            for name, of in stores.items()
            for i, parts in enumerate(dealt[name])
            if {part + 1 for part in parts} & {*of.get(key, ())}
        }
        with watching(watch) as shown:
            try:
                submitted = [executor.submit(extract_part, request, f"{i + 1}/{count}") for i in sorted(missing)]
                for done, task in enumerate(submitted):
                    shown(Progress("extracting parts by the executor", done, len(submitted)))
                    task.result()
            except DiagnosticsError:
                raise
            except Exception as error:  # of any engine
                raise DiagnosticsError(
                    f"The executor failed on a part ({describe(error)}): what is done is kept, so mend that and give "
                    f"the same call again.",
                    code="process-ended",
                ) from error


@random_kept()
def extract_part(request: Request, launch: str) -> None:
    """A task of an executor, in whatever process: a launch whose encoder stays for the next one."""
    _extract_parts(setup_of(request), Launch.of(launch), silent)


@contextlib.contextmanager
def share_of(setup: Setup, launch: Launch, *, finishes: bool) -> Generator[Share]:
    """The share of a command in a shared run; see `Share`."""
    request = setup.request
    about = {
        "device": kind_of(setup.device),
        "kernel": request.attention,
        "threads": torch.get_num_threads(),
        "versions": Call.now(request.seed, {}).versions,
    }
    # What is in hand is gone on with in the same way alone: a part's record tells of one.
    way = f"{'the rest' if finishes else launch} {request.batch_size} {about}"
    with scratch_of(setup.folder, way) as scratch:
        yield Share(launch, scratch, about, finishes, _streams(setup), request.exact)


def _streams(setup: Setup) -> bool:
    return setup.dense == "streamed" and bool(targets_to_stream(setup))


def kind_of(device: str) -> str:
    """The kind of a device, as far as last digits may depend on it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device} {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else device


def refuse_unshareable(setup: Setup) -> None:
    """Raise for what launches cannot do part by part."""
    request = setup.request
    if request.fresh:
        raise DiagnosticsError(
            "--fresh cannot be given with --part, since each launch would drop what the others did: choose another "
            "--out.",
            code="conflict",
        )


class WaitingError(DiagnosticsError):
    """A launch can go on only when others have done their parts."""

    status = 3


class Extraction:
    """The encoder and its controls through the same extraction; with a `share`, a launch's parts of them."""

    def __init__(
        self, setup: Setup, folder: Place, watch: Watch, share: Share | None, workers: Workers | None = None
    ) -> None:
        self.setup, self.request, self.folder, self.watch = setup, setup.request, folder, watch
        self.share, self.launched = share, share is not None and not share.finishes
        # Parts that several launches did are the same to the bit, so that all pass on as many threads.
        self.workers = workers if setup.device == "cpu" and share is None else None
        self.made_beside: list[Folder] = []
        """The places of stores that were made beside them."""
        self.told = False
        """True after the cost was said."""
        self.streamed = False
        """True after a launch did something of what is streamed."""
        self.left_out: set[str] | None = None
        """Taps that an observation in the encoder's pass has not; None where it changes activations, or is unknown."""
        self.in_pass: InPass | None = None
        """An observation that was made along with the last extraction."""
        self.held: HeldTokens | None = None
        """Tokens of the last extraction, until they are judged."""
        self.stale = False
        """True if what is there was warned of: its cause may be gone where no identity shows it."""
        self.memory = np.empty(0, dtype=np.float32)
        """That of the tokens that were held last, for the next."""
        request, there = setup.request, self._store_there(folder)
        if request.dense is None and there and there.plan.token_samples == len(setup.dataset):
            setup.dense = "stored"  # of an earlier call with a larger budget
        self.version = Call.now(request.seed, {}).version
        options = {"device": setup.device, "batch_size": request.batch_size, "workers": setup.workers}
        self.passes: dict[str, Any] = {**options, "watch": watch}
        """How passes over the dataset are made, for `extract` and `observe`."""
        by_place = [m for m in setup.measures if m.needs != "pooled"] if setup.dataset.ragged else []
        self.by_names = self._by_names()
        self.passing = self.workers.jobs if self.by_names and self.workers else 1
        """Processes that pass."""
        self.threads = threads_of(self.passing) if self.passing > 1 else torch.get_num_threads()
        """Of a pass of an extraction."""
        self.options = {**options, "threads": self.threads}
        self.by_place: Sequence[Measure] = by_place
        """Measures over tokens, left out where samples of unequal length have no common places."""
        self.measures = [m for m in setup.measures if m not in by_place]
        self.controls: dict[str, Callable[[], Encoder]] = {}
        if setup.draws:
            self.controls = control_encoders(setup.encoder, setup.dataset, request.seed, setup.draws)

    def do_parts(self) -> dict[str, Any]:
        """This launch's parts of the encoder and of each control that can be made.

        None of a run that one command has alone.
        """
        name, done = self.setup.encoder.name, self._has_to_do(self.folder)
        store = self._extract_encoder()
        states = {name: self._state(self.setup.encoder, store, self.measures)}
        for name in self.controls if store.shared else ():
            try:
                if measures := self._measures_of(name):
                    done |= self._has_to_do(self.folder.inside(f"{CONTROLS}/{name}"))
                    encoder, of_control = self._extract_control(name, measures, store)
                    with self._making_control():
                        states[name] = self._state(encoder, of_control, measures, name)
            except NoControlError as error:
                LOG.info("%s is left to the command that measures: %s", name, error)
        lacking = [
            f"{name} lacks {in_ranges(part - 1 for part in of['missing'])} of {of['parts']}"
            for name, of in states.items()
            if "unjudged" in of and of["missing"]
        ]
        if lacking and not done and not self.streamed and self.share and self.share.ranges(store.plan.parts):
            raise WaitingError(
                f"The second pass over {self.setup.out} begins when all parts are there ({'; '.join(lacking)}): give "
                f"their launches (--part) again, and then this one.",
                code="unfinished",
            )
        return states

    def _has_to_do(self, place: Place) -> bool:
        """Test for parts of a store that are this launch's and missing."""
        there = self._store_there(place)
        assert self.share is not None
        return there is None or not {*there.missing_parts}.isdisjoint(self.share.parts(there.plan.parts))

    def _state(
        self, encoder: Encoder, store: Store, measures: Sequence[Measure], control: str = ENCODER
    ) -> dict[str, Any]:
        """State of a store, after this launch's share of what is streamed."""
        parts, missing = store.plan.parts, [] if store.complete else store.missing_parts
        state: dict[str, Any] = {"parts": parts, "missing": [part + 1 for part in missing]}
        if self.share is None or store.complete or self.setup.dense != "streamed":
            return state
        with self._passing(encoder, computed=control == ENCODER or control_of(control) in WEIGHTS):
            shared = stream_share(
                encoder,
                self._dataset_of(control),
                store,
                measures,
                self._targets(store, announced=encoder is self.setup.encoder),
                self.share,
                version=self.version,
                asked=self.request.dense is not None,
                **self.passes,
            )
        if shared is None:
            return state
        self.streamed |= shared[2]
        summed, judged = ({part for at in ranges for part in ranges_of(parts)[at]} for ranges in shared[:2])
        return state | {
            "missing": [part + 1 for part in sorted(summed | {*missing})],
            "unjudged": [part + 1 for part in sorted(judged)],
        }

    def _targets(self, store: Store, *, announced: bool) -> list[StoredTarget]:
        """Targets that measures may read from sums of a store; `announced`: of the encoder's."""
        setup = self.setup
        targets = {name: target for name, target in store.targets().items() if name not in setup.unprobeable}
        more = shuffle(store, targets) if announced and setup.draws else {}
        return [*targets.values(), *more.values()]

    def _extract_encoder(self) -> Store:
        request, setup = self.request, self.setup
        about = Provenance.of(
            setup.encoder,
            setup.dataset,
            request.seed,
            encoder_spec=setup.encoder_spec,
            dataset_spec=setup.dataset_spec,
        ).to_attrs()
        if self.share is not None:
            about |= {"seed": request.seed, CONTROLS: [*self.controls]}
        store = self._extract(setup.encoder, self.folder, setup.taps, about, self.measures, announced=True)
        self.folder = store.folder
        if self.launched:
            return store
        # Before any of them is there: what is not listed is never removed.
        store.set_attrs(
            seed=request.seed, **{CONTROLS: [*dict.fromkeys([*store.attrs.get(CONTROLS, ()), *self.controls])]}
        )
        self._observe(setup.encoder, store, self.measures)
        return store

    def _measures_of(self, control_name: str) -> list[Measure]:
        """The measures that apply to a control."""
        whole = self.request.control_measures == "all" and control_of(control_name) in WEIGHTS
        # What is observed is observed of the first samples, which are not those of fewer.
        observed = not (self.setup.fewer and control_of(control_name) in WEIGHTS)
        applies = [m for m in self.measures if not m.pairwise and m.of_controls and (m.kinds or whole)]
        return [m for m in applies if observed or m.observation is None or m.observation.block]

    def _extract_control(self, name: str, measures: Sequence[Measure], store: Store) -> tuple[Encoder, Store]:
        """A control encoder and its store, beside the encoder's; raises as `_measure_control`."""
        has_weights = control_of(name) in WEIGHTS
        with self._making_control():
            with one_thread():  # as other processes make it: what is drawn and fitted then has the same digits
                encoder = self.controls[name]()
                encoder = encoder if has_weights else encoder.sized_for(self.setup.dataset[0])
            # Test units can only be paired where the same samples keep their tokens.
            return encoder, self._extract(
                encoder,
                self.folder.inside(f"{CONTROLS}/{name}"),
                self.setup.taps if has_weights else encoder.taps,
                {},
                measures,
                token_samples=self._token_samples(name, store),
                computed=has_weights,
                control=name,
            )

    def _token_samples(self, control: str, store: Store) -> int:
        """Number of samples of a control that keep tokens: those that keep the encoder's."""
        kept = store.plan.token_samples
        return int((self.setup.control_positions < kept).sum()) if control_of(control) in WEIGHTS else kept

    @contextlib.contextmanager
    def _making_control(self) -> Generator[None]:
        """Turn an error of a control's encoder into the reason why there is no such control."""
        try:
            yield
        except StorageError:
            raise
        except DiagnosticsError as error:
            raise NoControlError(str(error)) from error
        except Exception as error:  # whatever a strange module does when it is copied or drawn afresh
            made = f"it cannot be made from {self.setup.encoder.name}: {describe(error)}."
            raise NoControlError(made) from error

    def _dataset_of(self, control: str) -> Dataset:
        return self.setup.control_dataset if control_of(control) in WEIGHTS else self.setup.dataset

    def _extract(
        self,
        encoder: Encoder,
        place: Place,
        taps: Sequence[Tap],
        about: Mapping[str, Any],
        measures: Sequence[Measure],
        *,
        announced: bool = False,
        token_samples: int | None = None,
        computed: bool = True,
        control: str = ENCODER,
    ) -> Store:
        """The store of an encoder's activations; `announced`: whether the cost of it and of its controls is told first.

        Tokens are kept where `measures` read them. `computed`: whether it is a model, whose pass is
        computed as was asked for; `control`: which one it is.
        """
        request, setup, dataset = self.request, self.setup, self._dataset_of(control)
        samples = len(dataset)
        # What controls without the encoder give has one token and one pooling.
        poolings = [name for name in setup.poolings or () if name in encoder.poolings] or None
        with_tokens, probes = read_tokens(measures, dataset, setup.dense)
        there = self._store_there(place)
        # Who names a budget wants the encoder's, but for those that were removed since.
        with_tokens = with_tokens or (announced and bool(setup.token_budget) and not (there and there.complete))
        rule = (encoder, taps, samples, setup.token_budget, request.precision, poolings)
        planned = plan(*rule, token_samples, probes)
        if there and there.plan.samples == samples and token_samples is None and setup.token_budget is None:
            # An earlier call may have kept more, of which measures without a probe read as many.
            planned = plan(*rule, max(planned.token_samples, there.plan.token_samples))
        if announced and self.workers and (planned if with_tokens else planned.without_tokens).bytes >= LONG_BYTES:
            self.workers.start()

        def before_first_byte(seconds: float, again: int, dense: OnGrids) -> None:
            if announced:
                self.told = not again
                measured = {name: self._measures_of(name) for name in self.controls}
                read = {
                    name: read_tokens(theirs, setup.dataset, setup.dense)[0]
                    for name, theirs in measured.items()
                    if theirs
                }
                kept = planned if with_tokens else planned.without_tokens
                cost = cost_of(setup, kept, read, seconds=seconds / self.passing, again=again, dense=dense)
                if compute == "float32" and setup.device.startswith("cuda") and cost.seconds > LONG and not again:
                    batch = kept.order[: request.batch_size or BATCH["cuda"]]
                    with computing("bf16", setup.device):
                        share = seconds_when_warm(encoder, dataset, kept, batch) / seconds
                    cost = replace(cost, seconds_in_bf16=cost.seconds * share if share < WORTH else 0.0)
                self.watch(cost)
                if not is_run(place):
                    check_room(place.path, cost.bytes)

        def streamed(new: Store) -> list[StoredTarget]:
            self._set_members(new, fewer=announced)
            return self._targets(new, announced=announced)

        summed = measures if setup.dense == "streamed" else ()
        along = AlongExtraction(
            encoder,
            summed,
            streamed,
            self.version,
            shared=self.share is not None,
            memory=self.memory,
            stored=tokens_read(planned) if with_tokens else 0,
        )
        self.memory = self.memory[:0].copy()
        compute: Compute = request.compute if computed else "float32"
        self.in_pass = self.held = None
        with threads(self.threads), encoder.on(setup.device), computing(compute, setup.device):
            if announced:
                self._explain_attention(encoder, taps)
                if request.fresh or not is_run(place):
                    refuse_other_folder(place)
                    with attention_in(request.attention):
                        first = self._in_pass(measures, dataset)
                        observed = functools.partial(first.try_on, encoder) if first else None
                        why, beware, alike = find_difference(encoder, setup.dataset, taps, compute, observed)
                    self.left_out = first.left_out if first and alike else None
                    with contextlib.suppress(StorageError):
                        before = Store(place).attrs if request.fresh and is_run(place) else {}
                        self.stale = any(before.get(key) for key in ("unrepeatable", "beware"))
                    about = {**about, "repeatable": not why, "unrepeatable": why, "beware": beware}
            if self.left_out is not None and computed:
                self.in_pass = self._in_pass(measures, dataset)
            with attention_in(request.attention if computed else "auto"):
                extracted = functools.partial(
                    extract,
                    encoder,
                    dataset,
                    place,
                    planned,
                    about=about,
                    fresh=request.fresh,
                    stale=self.stale,
                    with_tokens=with_tokens,
                    before_first_byte=before_first_byte,
                    along=along if summed else None,
                    compute=compute,
                    deal=self.dealing(encoder, control, self.in_pass),
                    in_pass=self.in_pass,
                    **self.passes,
                )
                store = extracted(share=self.share)
                if with_tokens and store.complete and store.tokens_removed and not self.launched:
                    # The launches left out what a measure of this command reads.
                    store = extracted()
                along.write()
                self.held = along.held
                self.memory = along.memory
        if request.exact and not self.launched:
            refuse_mixture(store)
        if isinstance(place, Folder) and store.path != place.path:
            self.made_beside.append(place)
        self._set_members(store, fewer=announced)
        return store

    def _set_members(self, store: Store, *, fewer: bool) -> None:
        """Give a store what it has of this call; `fewer`: the samples of controls too."""
        store.device, store.choose_on, store.seed = self.setup.device, self.setup.choose_on, self.request.seed
        if fewer and self.setup.fewer:
            passed = np.isin(np.arange(len(store.ids)), self.setup.control_positions)
            store.fewer = np.where(passed, store.split, "")

    def _in_pass(self, measures: Sequence[Measure], dataset: Dataset) -> InPass | None:
        """The observation that is made along with an extraction: on a GPU, in larger batches, it takes memory."""
        size = self.request.batch_size or BATCH["cpu"]
        seen = [m.observation for m in measures if m.observation and m.observation.in_pass]
        if self.share is not None or self.setup.device != "cpu" or size > BATCH["cpu"] or not seen:
            return None
        return InPass(seen[0], len(dataset), self.left_out)

    def _by_names(self) -> Request | None:
        """The request by which other processes pass too; None where this one does alone."""
        if self.workers is None or self.workers.jobs == 1:
            return None
        try:
            # Passes need no measures, which may be objects, and no embeddings.
            return replace(by_names(self.request, self.setup.folder), measures="standard", text_encoder=None)
        except DiagnosticsError as error:
            LOG.info("one process passes all samples: %s", error)
            return None

    def dealing(self, encoder: Encoder, control: str, in_pass: InPass | None = None) -> Deal | None:
        """The dealing of an encoder's batches to other processes; None where this one passes alone."""
        return functools.partial(self._deal, encoder, control, in_pass) if self.by_names else None

    def _deal(
        self,
        encoder: Encoder,
        control: str,
        in_pass: InPass | None,
        kept: Plan,
        batches: Sequence[np.ndarray],
        whole: bool,
    ) -> Generator[Passed]:
        """See `Deal`: what batches give, passed by all processes that build the same encoder."""
        dataset = self._dataset_of(control)

        def here(batch: Batch) -> Passed:
            return pass_batch(encoder, dataset, kept, batch.positions, batch.whole, batch.observation)

        names = [m.name for m in self.measures if in_pass and m.observation is in_pass.observation]
        measure = next((name for name in names if name in plugin_entries("measure")), "")
        items, done = [Batch(positions, whole, measure) for positions in batches], 0
        if self.by_names and self.workers and items:
            source = Passing(self.by_names, control, dict(encoder.identity), outline_of(dataset), kept, self.threads)
            size = len(batches[0]) * kept.token_bytes_per_sample
            ahead = max(
                1, min(2 * self.workers.jobs, AHEAD_BYTES // size if whole or kept.token_samples else MOST_PARTS)
            )
            hold = functools.partial(Held.of, self.by_names.dataset, self.setup.dataset)
            with contextlib.closing(self.workers.deal(items, here, lambda item: (source, item), ahead, hold)) as dealt:
                for found in dealt:
                    passed = found if isinstance(found, Passed) else found[0][1] if found else "it cannot be sent"
                    if isinstance(passed, str):
                        LOG.info("one process passes all samples of %s: %s", encoder.name, passed)
                        self.by_names = None
                        break
                    if isinstance(passed, Exception):
                        raise passed
                    yield passed
                    done += 1
        yield from map(here, items[done:])

    def _store_there(self, place: Place) -> Store | None:
        """The store that this call goes on with; None without one, or where it cannot be read, as is said later."""
        with contextlib.suppress(DiagnosticsError):
            return None if self.request.fresh else Store(place)
        return None

    def _explain_attention(self, encoder: Encoder, taps: Sequence[Tap]) -> None:
        """Raise where the kernel that was asked for cannot compute the encoder's attention.

        Logs which one `auto` comes to.
        """
        kernel = self.request.attention
        if kernel == "auto" and not LOG.isEnabledFor(logging.INFO):
            return
        with explaining(f"{encoder.name} fails on its own example"):
            batch, names = default_collate([encoder.preprocess(encoder.example())]), [tap.name for tap in taps]
            ran = explain_attention(
                kernel, lambda: encoder.capture(batch, names, lambda *_: None), encoder.name, "--compute bf16"
            )
        if ran:
            LOG.info("attention of %s: %s", encoder.name, ran)

    def _observe(self, encoder: Encoder, store: Store, measures: Sequence[Measure], control: str = ENCODER) -> None:
        # What is recorded of all samples can be read from their tokens, where these are stored.
        whole = store.token_samples == len(store.ids)
        observations = [seen for measure in measures if (seen := measure.observation) and not (whole and seen.block)]
        in_pass, self.in_pass = self.in_pass, None
        with self._passing(encoder):
            observe(
                encoder,
                self._dataset_of(control),
                store,
                observations,
                version=self.version,
                in_pass=in_pass,
                **self.passes,
            )

    @contextlib.contextmanager
    def _passing(self, encoder: Encoder, *, computed: bool = True) -> Generator[None]:
        """An encoder on the device, whose passes compute as was asked for; `computed`: as in `_extract`."""
        request, device = self.request, self.setup.device
        compute: Compute = request.compute if computed else "float32"
        with encoder.on(device), computing(compute, device), attention_in(request.attention if computed else "auto"):
            yield


class NoControlError(Exception):
    """Raised where a control cannot be measured; the run goes on without it."""
