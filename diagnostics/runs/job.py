"""One call of `run`: an encoder and its controls through extraction and measures, then the results in one move."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from diagnostics.activations.budget import WANTED, parse_budget
from diagnostics.activations.extract import extract
from diagnostics.activations.folder import check_room, lock
from diagnostics.activations.observe import observe
from diagnostics.activations.plan import Precision, plan
from diagnostics.activations.results import CONTROLS, ENCODER, Omission, merge_results, open_results, read_index
from diagnostics.activations.store import Store
from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.probeable import unprobeable_targets
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.evaluating import random_kept
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, StorageError, describe
from diagnostics.measures.apply import Measured, against_control, measure_all
from diagnostics.measures.base import Measure
from diagnostics.progress import Cost, Watch, silent
from diagnostics.registry import offered
from diagnostics.runs.controls import kinds as control
from diagnostics.runs.options import check_options, check_out, chosen_poolings, listed
from diagnostics.runs.provenance import describe_call, describe_subject
from diagnostics.runs.run import Run
from diagnostics.runs.suites import SUITES, chosen_measures
from diagnostics.specs import build


@random_kept()
def run(
    encoder: str | Encoder,
    dataset: str | Dataset,
    *,
    out: str | Path | None = None,
    taps: str | Sequence[str] | None = None,
    measures: str | Sequence[str] | None = None,
    controls: bool = True,
    control_draws: int = 1,
    device: str | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    token_budget: str | int | None = None,
    pooling: str | Sequence[str] | None = None,
    precision: Precision = "float32",
    seed: int = 0,
    report: bool = True,
    fresh: bool = False,
    trust_code: bool = False,
    watch: Watch = silent,
) -> Run:
    """Extracts the activations of an encoder on a dataset, measures them at every tap, and writes the report.

    A run's folder keeps what earlier calls measured: results of the measures and controls of this call are replaced, the
    rest stays.

    Parameters
    ----------
    encoder, dataset: a name as on the command line (`fracast`, `timm:...`, `file.py:build`), or the object itself.
    out: folder of the run; `runs/<encoder>-<dataset>` by default. An interrupted run goes on from there.
    taps: names of the taps; all by default. The output tap is always among them.
    measures: names (a list, or one text with commas), `standard` (the default; see docs/measures.md) or `all`; those whose needs are met are done.
    controls: whether encoders that should know nothing are measured beside it.
    control_draws: how often fresh and permuted weights are drawn; an encoder beats them where it beats every draw.
    device: `cuda` when there is one, else `cpu`. Device, batch size and workers never decide what is stored.
    token_budget: room for the tokens of each encoder, with a unit, like "256MB" or "2GB", or 0; pooled activations are stored
        for all samples. By default what 256 MB hold, at least 64 samples where 2 GB hold them, and never fewer than 8.
    pooling: how tokens are pooled, `mean`, `last`, `prefix`, side by side; all that the encoder has by default. Runs can be
        compared when they pool alike.
    precision: of the stored tokens.
    seed: of the controls and of the bootstrap; the splits are the dataset's.
    fresh: whether the folder's results are dropped, and its activations where they are not those asked for now.
    trust_code: whether a Python file that a saved encoder names is run to build it.

    Raises
    ------
    DiagnosticsError: for what a user can cause, in one sentence that says what to do.
    """
    check_options(batch_size, workers, precision, seed, control_draws)
    budget = parse_budget(token_budget)
    taps, measures, pooling = listed(taps), listed(measures), listed(pooling)
    asked, unusable = chosen_measures(measures)
    model = build("encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else encoder
    data = build("dataset", dataset) if isinstance(dataset, str) else dataset
    for given, wanted in ((model, Encoder), (data, Dataset)):
        if not isinstance(given, wanted):
            raise DiagnosticsError(
                f"run was given a {type(given).__name__}: give a name or a diagnostics.{wanted.__name__}"
                f"{' (see TorchEncoder)' if wanted is Encoder else ''}."
            )
    if model.modality != data.modality:
        raise DiagnosticsError(
            f"{model.name} reads {model.modality} samples, but {data.name} holds {data.modality} samples: "
            f"choose a dataset of {model.modality} samples."
        )
    check_rate(model, data)
    where = usable_device(device)
    path = Path(out) if out is not None else default_path(encoder, dataset)
    check_out(path)
    unprobeable = unprobeable_targets(data)
    if asked and all(_reads_none_but(measure, data, unprobeable) for measure in asked):
        raise DiagnosticsError(f"Nothing can be measured on {data.name}: {' '.join(unprobeable.values())}")
    with lock(path.resolve()):
        try:
            model = model.sized_for(data[0])
        except DiagnosticsError as error:
            raise DiagnosticsError(f"Samples of {data.name} do not fit {model.name}: {error}") from error
        except Exception as error:
            raise DiagnosticsError(
                f"Samples of {data.name} cannot be read for {model.name}: {describe(error)}"
            ) from error
        # Tokens at one place of samples of unequal length have nothing in common.
        budget = 0 if data.ragged else budget
        job = _Job(path.resolve(), path, data, _chosen_taps(model, taps), budget, precision, where)
        job.poolings = chosen_poolings(pooling, model)
        job.options = {"batch_size": batch_size, "workers": workers}
        job.watch, job.asked, job.unusable = watch, frozenset(measures or ()) - set(SUITES), unusable
        job.unprobeable, job.fresh = unprobeable, fresh
        job.call = describe_call(seed, {"device": where, **job.options})
        if not fresh:
            _refuse_other_seed(path, seed)
        try:
            about = describe_subject(encoder, dataset, model, data) | {"seed": seed}
            job.do(model, asked, control_draws if controls else 0, seed, about)
            found = Run(path)
            if report:
                found.report()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted; what is done is kept in {path}: give the same command again to go on."
            ) from None
    return found


def _reads_none_but(measure: Measure, data: Dataset, unprobeable: Collection[str]) -> bool:
    """Whether a measure reads targets, and of this dataset only such as cannot be probed."""
    kinds = {target.kind for name, target in data.targets.items() if name not in unprobeable}
    theirs = {data.targets[name].kind for name in unprobeable}
    return bool(measure.kinds) and not kinds & set(measure.kinds) and bool(theirs & set(measure.kinds))


class _Job:
    """One call of `run`: the encoder and its controls through the same extraction and the same measures."""

    options: dict[str, Any]
    poolings: list[str] | None
    watch: Watch
    asked: frozenset[str]
    unusable: dict[str, str]
    unprobeable: dict[str, str]
    fresh: bool
    call: dict[str, Any]

    def __init__(
        self,
        path: Path,
        shown: Path,
        data: Dataset,
        taps: list[Tap],
        budget: int | None,
        precision: Precision,
        device: str,
    ) -> None:
        self.path, self.shown, self.data, self.taps = path, shown, data, taps
        self.budget, self.device = budget, device
        self.precision: Precision = precision

    def do(self, model: Encoder, measures: Sequence[Measure], draws: int, seed: int, about: dict[str, Any]) -> None:
        """Extraction and measures of the encoder, then of each control (none at 0 draws), then the results in one move."""
        by_place = [m for m in measures if m.needs != "pooled"] if self.data.ragged else []
        measures = [m for m in measures if m not in by_place]
        makers = control.control_encoders(model, self.data, seed, draws) if draws else {}
        like_it = 1 + sum(control.control_of(name) in control.WEIGHTS for name in makers)
        store = self._extract(model, self.path, self.taps, about, like_it)
        store.set_attrs(seed=seed)
        self._observe(model, store, measures)
        targets = store.targets()
        readable = {name: target for name, target in targets.items() if name not in self.unprobeable}
        main = measure_all(measures, store, readable, seed, asked=self.asked, what=model.name, watch=self.watch)
        unequal = f"{self.data.name} holds samples of unequal length, whose tokens have no common places"
        main.skipped.update({measure.name: unequal for measure in by_place})
        for measure in measures:
            for name, why in self.unprobeable.items():
                # One that fails to say so is left out already.
                if measure.kinds and measure.name not in main.failed and measure.reads(targets[name]):
                    main.skipped[f"{measure.name}/{name}"] = why
        self._refuse_nothing(main, model)
        found: dict[str, Measured] = {}
        omissions: list[Omission] = []
        for name, make in makers.items():
            has_weights = control.control_of(name) in control.WEIGHTS
            wanted = [m for m in measures if not m.pairwise and (m.kinds or has_weights)]
            if not wanted:
                continue
            try:
                other = make() if has_weights else make().sized_for(self.data[0])
                taps = self.taps if has_weights else list(other.taps)
                # Test units can only be paired where the same samples keep their tokens.
                stored = self._extract(other, self.path / "controls" / name, taps, {}, 0, store.token_samples)
            except StorageError:
                raise
            except DiagnosticsError as error:
                omissions.append(Omission(str(error), control=name))
                continue
            except Exception as error:  # whatever a strange module does when it is copied or drawn afresh
                reason = f"it cannot be made from {model.name}: {describe(error)}."
                omissions.append(Omission(reason, control=name))
                continue
            if has_weights:
                self._observe(other, stored, wanted)
            known = {key: value for key, value in stored.targets().items() if key in readable}
            found[name] = measure_all(wanted, stored, known, seed, what=name, watch=self.watch)
            for data in found[name].results.values() if has_weights else ():
                data.attrs |= {"redrawn": other.redrawn, "note": other.note}
        if draws:
            shuffled = {name: control.shuffled(target, store.split, seed) for name, target in readable.items()}
            probes = [m for m in measures if m.kinds]
            name = "shuffled_labels"
            found[name] = measure_all(probes, store, shuffled, seed, what=name, watch=self.watch)
        omissions += [
            Omission(why, key, failed=key in main.failed) for key, why in (main.skipped | self.unusable).items()
        ]
        for name, measured in found.items():
            broken = [key for key in measured.failed if key in main.results]
            omissions += [Omission(measured.skipped[key], key, name, failed=True) for key in sorted(broken)]
        self._write(main, found, omissions, measures + by_place, [*makers, *found])
        if self.fresh:  # without their results nobody reads them
            for left in {*(self.path / "controls").glob("*/")} - {self.path / "controls" / name for name in makers}:
                shutil.rmtree(left, ignore_errors=True)

    def _refuse_nothing(self, main: Measured, model: Encoder) -> None:
        """Raises where measures were asked for by name and none gives anything."""
        if not self.asked or main.results:
            return
        nothing = f"gives nothing for {model.name} on {self.data.name}"
        missing = [f"{name} {nothing}: {_reasons(main, name)}" for name in sorted(self.asked)]
        raise DiagnosticsError(" ".join(missing))

    def _extract(
        self,
        encoder: Encoder,
        path: Path,
        taps: Sequence[Tap],
        about: dict[str, Any],
        announced: int,
        with_tokens: int | None = None,
    ) -> Store:
        # What controls without the encoder give has one token and one pooling.
        poolings = [name for name in self.poolings or () if name in encoder.poolings] or None
        wanted = plan(encoder, taps, len(self.data), self.budget, self.precision, poolings, with_tokens)

        def before_first_byte(seconds: float) -> None:
            if announced:
                cost = Cost(
                    encoder.name, self.data.name, wanted.samples, len(taps), announced * wanted.pooled_bytes,
                    announced * wanted.token_bytes, wanted.token_samples, announced * seconds * wanted.samples,
                    announced, str(self.shown),
                    0 if wanted.token_samples >= min(WANTED, wanted.samples) else announced * WANTED * wanted.token_bytes_per_sample,
                    tuple(self.unprobeable.values()),
                )  # fmt: skip
                self.watch(cost)
                check_room(path, cost.pooled_bytes + cost.token_bytes)

        with encoder.on(self.device):
            store = extract(
                encoder, self.data, path, wanted, device=self.device, about=about, fresh=self.fresh, watch=self.watch,
                before_first_byte=before_first_byte, **self.options,
            )  # fmt: skip
        store.device = self.device
        return store

    def _observe(self, encoder: Encoder, store: Store, measures: Sequence[Measure]) -> None:
        with encoder.on(self.device):
            observe(encoder, self.data, store, measures, device=self.device, watch=self.watch, **self.options)

    def _write(
        self,
        main: Measured,
        found: dict[str, Measured],
        omissions: list[Omission],
        measures: Sequence[Measure],
        controls: Sequence[str],
    ) -> None:
        """The results of this call among those that are there, with the margins over every control's."""
        names = [measure.name for measure in measures]
        results = {name: measured.results for name, measured in found.items()}
        for name, theirs in (self._kept_results(controls, names) | results).items():
            for key in set(main.results) & set(theirs):
                main.results[key] = against_control(main.results[key], theirs[key], name, self.call["seed"])
        merge_results(
            self.path, {ENCODER: main.results, **results}, omissions, self.call, measures=[*names, *self.unusable],
            pairwise={m.name for m in measures if m.pairwise}, controls=controls, order=list(offered("measure")),
            fresh=self.fresh,
        )  # fmt: skip

    def _kept_results(self, controls: Sequence[str], measures: Sequence[str]) -> dict[str, dict[str, xr.Dataset]]:
        """Results of these measures of controls that this call does not make, by control."""
        index = None if self.fresh else read_index(self.path)
        if index is None or not (kept := [name for name in index.controls if name not in controls]):
            return {}
        tree = open_results(self.path)
        return {
            name: {
                key: tree[f"{CONTROLS}/{name}/{key}"].to_dataset()
                for key in index.names(name)
                if key.partition("/")[0] in measures
            }
            for name in kept
        }


def _reasons(measured: Measured, measure: str) -> str:
    """Why a measure gives nothing, of all its targets; equal reasons once."""
    why = [reason for key, reason in measured.skipped.items() if key.partition("/")[0] == measure]
    return " ".join(dict.fromkeys(why)) or "it says no reason."


def _refuse_other_seed(path: Path, seed: int) -> None:
    """Raises before any work where what is there was drawn and resampled with another seed."""
    if not (path / "zarr.json").is_file():
        return
    index = read_index(path)
    # Without results yet, controls may have been drawn.
    seeds = {call["seed"] for call in index.calls} if index else {Store(path).attrs["seed"]}
    if seeds != {seed}:
        raise StorageError(
            f"{path} holds results and controls of seed {min(seeds)}, not {seed}: choose another --out, that seed, or --fresh, "
            "which drops them."
        )


def check_rate(encoder: Encoder, data: Dataset) -> None:
    """Raises where audio or video was sampled at another rate than the encoder was trained at."""
    if encoder.rate is not None and data.rate is not None and encoder.rate != data.rate:
        raise DiagnosticsError(
            f"{encoder.name} takes {encoder.rate:g} samples a second, {data.name} holds {data.rate:g}: resample the data "
            f"(?rate={encoder.rate:g} where the dataset has that option)."
        )


def _chosen_taps(model: Encoder, names: Sequence[str] | None) -> list[Tap]:
    if names is None:
        return list(model.taps)
    wanted = {model.tap(name).name for name in names} | {model.output_tap}
    return [tap for tap in model.taps if tap.name in wanted]


def usable_device(device: str | None) -> str:
    """The device asked for, or the best there is; raises when it is not there."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device).cpu()  # `meta` holds nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DiagnosticsError(
            f"Device '{device}' is not there ({str(error).splitlines()[0]}): use --device cpu."
        ) from error
    return device


def default_path(encoder: str | Encoder, dataset: str | Dataset) -> Path:
    """`runs/<encoder>-<dataset>`, with everything that a folder name should not hold replaced."""
    names = [x if isinstance(x, str) else x.name for x in (encoder, dataset)]
    short = [re.sub(r"^.*/(?=[^/]*\.py:)", "", name) for name in names]
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(short)).strip("-.")
    return Path("runs") / slug[:150]
