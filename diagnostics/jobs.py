"""One call of `run`: an encoder and its controls through extraction and measures, then the results in one move."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import diagnostics
from diagnostics import controls as control
from diagnostics.dataset import Dataset
from diagnostics.disk import check_room, lock
from diagnostics.errors import DiagnosticsError, StorageError, said, unknown
from diagnostics.extract import extract
from diagnostics.measures.base import Measure
from diagnostics.measuring import SUITES, Measured, against_control, chosen_measures, measure_all
from diagnostics.observe import observe
from diagnostics.plans import Precision, plan
from diagnostics.progress import Cost, Watch, silent
from diagnostics.registry import build
from diagnostics.results import write_results
from diagnostics.runs import Run
from diagnostics.store import Store
from diagnostics.taps import Encoder, Tap

TOKEN_BUDGET = 256 * 10**6
# Distributions, with the module of each, whose code may be an encoder's: named in a run that imported them.
ENCODER_PACKAGES = {
    "timm": "timm", "transformers": "transformers", "fracast": "fracast", "chronos-forecasting": "chronos",
    "tirex-ts": "tirex", "mantis-tsfm": "mantis", "timesfm": "timesfm3", "momentfm": "momentfm", "uni2ts": "uni2ts",
    "granite-tsfm": "tsfm_public", "onnxruntime": "onnxruntime",
}  # fmt: skip


def run(
    encoder: str | Encoder,
    dataset: str | Dataset,
    *,
    out: str | Path | None = None,
    taps: str | Sequence[str] | None = None,
    measures: str | Sequence[str] | None = None,
    controls: bool = True,
    device: str | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    token_budget: int = TOKEN_BUDGET,
    pooling: str | Sequence[str] | None = None,
    precision: Precision = "float32",
    seed: int = 0,
    report: bool = True,
    watch: Watch = silent,
) -> Run:
    """Extracts the activations of an encoder on a dataset, measures them at every tap, and writes the report.

    Parameters
    ----------
    encoder, dataset: a name as on the command line (`fracast`, `timm:...`, `file.py:build`), or the object itself.
    out: folder of the run; `runs/<encoder>-<dataset>` by default. An interrupted run goes on from there.
    taps: names of the taps; all by default. The output tap is always among them.
    measures: names (a list, or one text with commas), `standard` (the default; see docs/measures.md) or `all`; those whose needs are met are done.
    controls: whether encoders that should know nothing are measured beside it.
    device: `cuda` when there is one, else `cpu`. Device, batch size and workers never decide what is stored.
    token_budget: bytes for all tokens of each encoder; pooled activations are stored for all samples.
    pooling: how tokens are pooled, `mean`, `last`, `prefix`, side by side; all that the encoder has by default. Runs can be
        compared when they pool alike.
    precision: of the stored tokens.
    seed: of the controls and of the bootstrap; the splits are the dataset's.

    Raises
    ------
    DiagnosticsError: for what a user can cause, in one sentence that says what to do.
    """
    _check_options(batch_size, workers, token_budget, precision, seed)
    taps, measures, pooling = _listed(taps), _listed(measures), _listed(pooling)
    asked, unusable = chosen_measures(measures)
    model = build("encoder", encoder) if isinstance(encoder, str) else encoder
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
    path = Path(out) if out else default_path(encoder, dataset)
    with lock(path.resolve()):
        try:
            model = model.sized_for(data[0])
        except DiagnosticsError as error:
            raise DiagnosticsError(f"Samples of {data.name} do not fit {model.name}: {error}") from error
        except Exception as error:
            raise DiagnosticsError(f"Samples of {data.name} cannot be read for {model.name}: {said(error)}") from error
        # Tokens at one place of samples of unequal length have nothing in common.
        budget = 0 if data.ragged else token_budget
        pooling = _poolings(pooling, model)
        job = _Job(path.resolve(), path, data, _chosen_taps(model, taps), budget, precision, where)
        job.poolings = pooling
        job.options = {"batch_size": batch_size, "workers": workers}
        job.watch, job.asked, job.unusable = watch, frozenset(measures or ()) - set(SUITES), unusable
        about = _about(encoder, dataset, model, data, seed)
        if controls:
            _refuse_controls_of_other_seed(path, seed)
        try:
            job.do(model, asked, controls, seed, about)
            found = Run(path)
            if report:
                found.report()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted; what is done is kept in {path}: give the same command again to go on."
            ) from None
    return found


class _Job:
    """One call of `run`: the encoder and its controls through the same extraction and the same measures."""

    options: dict[str, Any]
    poolings: list[str] | None
    watch: Watch
    asked: frozenset[str]
    unusable: dict[str, str]

    def __init__(
        self, path: Path, shown: Path, data: Dataset, taps: list[Tap], budget: int, precision: Precision, device: str
    ) -> None:
        self.path, self.shown, self.data, self.taps = path, shown, data, taps
        self.budget, self.device = budget, device
        self.precision: Precision = precision

    def do(
        self, model: Encoder, measures: Sequence[Measure], with_controls: bool, seed: int, about: dict[str, Any]
    ) -> None:
        """Extraction and measures of the encoder, then of each control, then the results in one move."""
        by_place = [m for m in measures if m.needs != "pooled"] if self.data.ragged else []
        measures = [m for m in measures if m not in by_place]
        makers = control.control_encoders(model, self.data, seed) if with_controls else {}
        store = self._extract(model, self.path, self.taps, about, 1 + len(set(makers) & set(control.WEIGHTS)))
        self._observe(model, store, measures)
        model.to("cpu")
        targets = store.targets()
        main = measure_all(measures, store, targets, seed, asked=self.asked, what=model.name, watch=self.watch)
        unequal = f"{self.data.name} holds samples of unequal length, whose tokens have no common places"
        main.skipped.update({measure.name: unequal for measure in by_place})
        for name in self.asked:
            if not any(key.partition("/")[0] == name for key in main.results):
                why = "; ".join(why for key, why in main.skipped.items() if key.partition("/")[0] == name)
                raise DiagnosticsError(f"{name} gives nothing for {model.name} on {self.data.name}: {why}")
        found: dict[str, Measured] = {}
        skipped = dict(main.skipped) | self.unusable
        for name, make in makers.items():
            try:
                other = make().sized_for(self.data[0]) if name in control.INPUTS else make()
                taps = list(other.taps) if name in control.INPUTS else self.taps
                stored = self._extract(other, self.path / "controls" / name, taps, {}, 0)
            except StorageError:
                raise
            except DiagnosticsError as error:
                skipped[name] = str(error)
                continue
            except Exception as error:  # whatever a strange module does when it is copied or drawn afresh
                skipped[name] = f"it cannot be made from {model.name}: {said(error)}."
                continue
            wanted = [m for m in measures if not m.pairwise and (m.kinds or name in control.WEIGHTS)]
            if name in control.WEIGHTS:
                self._observe(other, stored, wanted)
            found[name] = measure_all(
                wanted, stored, stored.targets(), seed, asked=self.asked, what=name, watch=self.watch
            )
        if with_controls:
            shuffled = {name: control.shuffled(target, store.split, seed) for name, target in targets.items()}
            probes = [m for m in measures if m.kinds]
            found["shuffled_labels"] = measure_all(
                probes, store, shuffled, seed, asked=self.asked, what="shuffled_labels", watch=self.watch
            )
        for name, measured in found.items():
            for key in set(main.results) & set(measured.results):
                main.results[key] = against_control(main.results[key], measured.results[key], name, seed)
        self._write(store, main, found, skipped, {m.name for m in measures if m.pairwise}, about)

    def _extract(
        self, encoder: Encoder, path: Path, taps: Sequence[Tap], about: dict[str, Any], announced: int
    ) -> Store:
        # What controls without the encoder give has one token and one pooling.
        poolings = [name for name in self.poolings or () if name in encoder.poolings] or None
        wanted = plan(encoder, taps, len(self.data), self.budget, self.precision, poolings)

        def before_first_byte(seconds: float) -> None:
            if announced:
                cost = Cost(
                    encoder.name, self.data.name, wanted.samples, len(taps), announced * wanted.pooled_bytes,
                    announced * wanted.token_bytes, wanted.token_samples, announced * seconds * wanted.samples,
                    announced, str(self.shown),
                )  # fmt: skip
                self.watch(cost)
                check_room(path, cost.pooled_bytes + cost.token_bytes)

        store = extract(
            encoder, self.data, path, wanted, device=self.device, about=about, watch=self.watch,
            before_first_byte=before_first_byte, **self.options,
        )  # fmt: skip
        store.device = self.device
        return store

    def _observe(self, encoder: Encoder, store: Store, measures: Sequence[Measure]) -> None:
        observe(encoder, self.data, store, measures, device=self.device, watch=self.watch, **self.options)

    def _write(
        self,
        store: Store,
        main: Measured,
        found: dict[str, Measured],
        skipped: dict[str, str],
        pairwise: set[str],
        about: dict[str, Any],
    ) -> None:
        keys = list(main.results)
        # Until all are in their place there are no results, so that no reader sees old ones beside new ones.
        store = Store(self.path, writable=True)
        store.set_attrs(found=None, **about)
        write_results(self.path, main)
        for name, measured in found.items():
            write_results(self.path / "controls" / name, measured)
        store.set_attrs(
            found={
                "profiles": [key for key in keys if key.partition("/")[0] not in pairwise],
                "similarity": [key for key in keys if key.partition("/")[0] in pairwise],
                "controls": {name: list(measured.results) for name, measured in found.items()},
                "skipped": skipped,
            }
        )


def _refuse_controls_of_other_seed(path: Path, seed: int) -> None:
    """Raises before any work where the controls that are there were drawn from another seed."""
    if not (path / "controls" / "fresh_weights").is_dir() and not (path / "controls" / "permuted_weights").is_dir():
        return
    drawn = Store(path).attrs["provenance"]["seed"]
    if drawn != seed:
        raise StorageError(f"{path} has controls of seed {drawn}, not {seed}: choose another --out, or that seed.")


def _poolings(names: list[str] | None, model: Encoder) -> list[str] | None:
    """Those of the encoder's poolings that were asked for, in its order."""
    if names is None:
        return None
    for name in names:
        if name not in model.poolings:
            raise unknown("pooling", name, model.poolings)
    if not names:
        raise DiagnosticsError(f"--pooling names nothing: give {', '.join(model.poolings)}, or leave it out.")
    return [name for name in model.poolings if name in names]


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    """Names as a list, from one text with commas too."""
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    return None if names is None else list(names)


def check_rate(encoder: Encoder, data: Dataset) -> None:
    """Raises where audio or video was sampled at another rate than the encoder was trained at."""
    if encoder.rate is not None and data.rate is not None and encoder.rate != data.rate:
        raise DiagnosticsError(
            f"{encoder.name} takes {encoder.rate:g} samples a second, {data.name} holds {data.rate:g}: resample the data "
            f"(?rate={encoder.rate:g} where the dataset has that option)."
        )


def _check_options(batch_size: int | None, workers: int, token_budget: int, precision: str, seed: int) -> None:
    if seed < 0:
        raise DiagnosticsError(f"Seed {seed} is below 0: give 0 or more.")
    if batch_size is not None and batch_size < 1:
        raise DiagnosticsError(f"Batch size {batch_size} is below 1.")
    if workers < 0:
        raise DiagnosticsError(f"The number of workers is {workers}: give 0 or more.")
    if token_budget < 0:
        raise DiagnosticsError(f"A token budget of {token_budget} bytes is below 0.")
    if precision not in ("float32", "float16"):
        raise unknown("precision", precision, ("float32", "float16"))


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


def _about(encoder: str | Encoder, dataset: str | Dataset, model: Encoder, data: Dataset, seed: int) -> dict[str, Any]:
    used = [name for name, module in ENCODER_PACKAGES.items() if module in sys.modules]
    versions = {
        name: _version(name)
        for name in ("encoder-diagnostics", "torch", "numpy", "scikit-learn", "zarr", "xarray", *used)
    }
    return {
        "encoder": {
            "name": model.name,
            "asked": encoder if isinstance(encoder, str) else model.spec,
            "modality": model.modality,
            "output_tap": model.output_tap,
            "lineage": dict(model.lineage),
        },
        "dataset": {
            "name": data.name,
            "asked": dataset if isinstance(dataset, str) else "",
            "about": data.about,
            "fingerprint": data.fingerprint,
            "n": data.counts(),
            "groups": len(set(data.groups)),
        },
        "provenance": {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {name: version for name, version in versions.items() if version},
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "seed": seed,
        },
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return diagnostics.__version__ if name == "encoder-diagnostics" else ""
