"""The records of a run beside its results: encoder, dataset and seed in the store's attributes, each call and its page.

The page is printed again without what measures and draws: what depends on where the run lies, and on what else lies
there, is added when it is shown. The runs below a folder are listed by what they record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from diagnostics import __version__
from diagnostics.activations.bucket import Place, open_place
from diagnostics.activations.place import Location, locate
from diagnostics.activations.run_files import (
    Index,
    disk_use,
    index_of_finished,
    read_index,
    read_page,
    token_bytes,
    write_page,
)
from diagnostics.activations.store import Store, is_run
from diagnostics.errors import DiagnosticsError, StorageError, damage_error, join_names
from diagnostics.options import decode
from diagnostics.progress import size
from diagnostics.registry import plugins
from diagnostics.report.numbers import nowrap
from diagnostics.report.page import Block, Note, Notes, Page, page_of, page_values

if TYPE_CHECKING:
    from diagnostics.datasets.dataset import Dataset
    from diagnostics.encoders.encoder import Encoder

DISTRIBUTION = "encoder-diagnostics"
"""The distribution of this package, under which its version is recorded."""


@dataclass(frozen=True)
class EncoderRecord:
    """The encoder of a run. `asked` is the name that was typed, "" for an object made in Python."""

    name: str
    asked: str
    modality: str
    output_tap: str
    lineage: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What made its weights (a training's base, target, seed), as the encoder states it."""
    maker_names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tap -> what its makers call what stands there."""


@dataclass(frozen=True)
class DatasetRecord:
    """The dataset of a run. `n` counts the samples of each split, `groups` the independent groups of samples."""

    name: str
    asked: str
    about: str
    fingerprint: str
    n: Mapping[str, int]
    groups: int


@dataclass(frozen=True)
class Provenance:
    """The encoder, data and seed of a run: written when a store is made, and read wherever a run is shown or compared.

    `unrepeatable` says what differed when samples were prepared and passed twice, and `beware` what else these passes
    showed (padding that counts as data, an output that no tap reads); "" where nothing. `mixture` says in which ways
    the parts of a shared run were computed, "" where all in one. `sample` is the shape of the first sample, for which
    the encoder was sized; () of a text, and where it was not recorded.
    """

    encoder: EncoderRecord
    dataset: DatasetRecord
    seed: int
    unrepeatable: str = ""
    beware: str = ""
    mixture: str = ""
    sample: tuple[int, ...] = ()

    @classmethod
    def of(cls, encoder: Encoder, dataset: Dataset, seed: int, *, encoder_spec: str, dataset_spec: str) -> Self:
        """The provenance of a run that begins now."""
        lineage, groups = dict(encoder.lineage), len(set(dataset.groups))
        return cls(
            EncoderRecord(
                encoder.name, encoder_spec, encoder.modality, encoder.output_tap, lineage, dict(encoder.maker_names)
            ),
            DatasetRecord(dataset.name, dataset_spec, dataset.about, dataset.fingerprint, dataset.counts(), groups),
            seed,
            sample=np.shape(dataset[0]),
        )

    def to_attrs(self) -> dict[str, Any]:
        """The same as attributes of a store: plain JSON values."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value not in ("", ())}

    @classmethod
    def read(cls, store: Store) -> Self:
        """The provenance that a store holds; raises StorageError where it holds none."""
        try:
            return decode(cls, store.attrs)
        except (KeyError, TypeError, ValueError) as error:
            raise damage_error(store.path, "its provenance") from error


_TYPED: ContextVar[tuple[str, Mapping[str, Any]]] = ContextVar("_TYPED", default=("", {}))


@contextlib.contextmanager
def record_command(command: str, config: Mapping[str, Any]) -> Generator[None]:
    """Within this context a call records the command line that made it, and what its configuration file said."""
    before = _TYPED.set((command, config))
    try:
        yield
    finally:
        _TYPED.reset(before)


@dataclass(frozen=True)
class Call:
    """One call of `run`: when, with which seed and options, by which versions, on what kind of machine.

    `command` is the command line as it was typed, "" of a call from Python, and `config` what its configuration file
    said; `seconds` is how long extraction and measures took (None where it was not recorded).
    """

    created: str
    seed: int
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    python: str
    machine: str
    command: str = ""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seconds: float | None = None

    @classmethod
    def now(cls, seed: int, options: Mapping[str, Any]) -> Self:
        """A call that begins now.

        Its versions are those of the libraries that measure, and of every package that a plugin names as code of its
        encoders and that this process has imported.
        """
        declared = {name: module for plugin in plugins() for name, module in plugin.packages.items()}
        imported = sorted(name for name, module in declared.items() if module in sys.modules)
        command, config = _TYPED.get()
        names = (DISTRIBUTION, "torch", "numpy", "scikit-learn", "zarr", "xarray", *imported)
        return cls(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seed=seed,
            options=dict(options),
            versions={name: version for name in names if (version := _version(name))},
            python=platform.python_version(),
            machine=f"{platform.system()} {platform.machine()}",
            command=command,
            config=dict(config),
        )

    @property
    def version(self) -> str:
        """The version of this package that made the call; "" where it was not installed."""
        return self.versions.get(DISTRIBUTION, "")

    def to_attrs(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return dataclasses.asdict(self)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def refuse_other_seed(folder: Place, seed: int) -> None:
    """Raise before any work where what is there was drawn and resampled with another seed."""
    if folder.head("zarr.json") is None or (store := Store(folder)).older:
        return
    index = read_index(store)
    # Without results yet, controls may have been drawn.
    calls = [decode(Call, call) for call in index.calls] if index else []
    seeds = {call.seed for call in calls} or {Provenance.read(store).seed}
    if seeds != {seed}:
        raise StorageError(
            f"{folder.path} holds results and controls of seed {min(seeds)}, not {seed}: choose another --out, that "
            f"seed, or --fresh, which drops them.",
            code="other-run",
        )


def store_page(store: Store, index: Index, page: Page, target: str | None, left_out: int) -> None:
    """Keep a page, without its figures; see `with_folder` for the rest."""
    values = {"page": page_values(page), "target": target, "left_out": left_out, "version": __version__}
    write_page(store, index, values)


def load_page(path: Location) -> Page | None:
    """The page of a run's results; None where this version has kept none.

    Raises where it is no run, or is not whole.
    """
    store = Store(path)
    kept = read_page(store, index_of_finished(store))
    if kept is None or kept.get("version") != __version__:
        return None
    try:
        page, target, left_out = page_of(kept["page"]), kept["target"], int(kept["left_out"])
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(page, Page):
        return None
    return with_folder(page, path, disk_use(store), target and str(target), left_out)


def with_folder(page: Page, path: Location, disk: tuple[int, int], target: str | None, left_out: int) -> Page:
    """A page with what depends on the run's folder: commands that name it, and its bytes.

    `disk`: bytes of tokens and of all. `target`: the one that the example reads; `left_out`: how many results are, but
    for what failed.
    """
    return replace(page, closing=closing_blocks(path, disk, target, left_out))


def closing_blocks(path: Location, disk: tuple[int, int], target: str | None, left_out: int) -> tuple[Block, ...]:
    """The places of the features, the report and the rest, and how many results are only there."""
    tokens, whole = disk
    named, quoted = shlex.quote(str(path)), json.dumps(str(path), ensure_ascii=False)
    read = f"dx.open_run({quoted}).features(target={json.dumps(target, ensure_ascii=False)})"
    lines = {
        "features": nowrap(read) if target else "",
        "report": nowrap(f"diagnostics {'open' if isinstance(path, Path) else 'report -o report.html'} {named}"),
        f"why, and {left_out} left out" if left_out else "why": nowrap(f"diagnostics show {named} --full"),
        "disk": f"{size(tokens)} of {size(whole)} are tokens: {nowrap(f'diagnostics clean --tokens {named}')}"
        if tokens
        else size(whole),
    }
    return (Notes(tuple(Note(text, name) for name, text in lines.items() if text), "quiet", lead="  "),)


DEEPEST = 4
"""Levels of folders in which runs are looked for."""


def list_runs(below: str | PurePath) -> list[dict[str, Any]]:
    """A row for each run below a place, and for each folder in it that holds none; raises where there is none."""
    folder = locate(below)
    if not (folder.is_dir() if isinstance(folder, Path) else open_place(folder).has_folder("")):
        raise DiagnosticsError(
            f"There is no folder {folder}: name the one in which your runs lie, or make a run (`diagnostics run "
            f"--help`).",
            code="missing-file",
        )
    if is_run(open_place(folder)):
        return [_row(folder)]
    rows: list[dict[str, Any]] = []
    for name in open_place(folder).folders():
        found = list(_runs_below(folder / name, DEEPEST))
        rows += [_row(path) for path in found] or [_bare_row(folder / name) | {"state": "not a run"}]
    return rows


def find_runs(folders: Sequence[str | PurePath]) -> tuple[list[Location], dict[str, str]]:
    """The finished runs that lie in folders or are these, each once, and of others why they are left out.

    Raises DiagnosticsError where none is finished.
    """
    rows = {row["run"]: row for folder in folders for row in list_runs(folder)}
    finished = [locate(name) for name, row in rows.items() if row["finished"]]
    left_out = {name: row["state"] for name, row in rows.items() if not row["finished"] and row["encoder"] is not None}
    if not finished:
        raise DiagnosticsError(
            f"There is no finished run in {join_names(map(str, folders))}: `diagnostics runs` lists what a folder "
            f"contains.",
            code="missing-file",
        )
    return finished, left_out


def _runs_below(folder: Location, levels: int) -> Iterator[Location]:
    if is_run(open_place(folder)):
        yield folder
    elif levels > 1 and not (isinstance(folder, Path) and folder.is_symlink()):
        for name in open_place(folder).folders():
            yield from _runs_below(folder / name, levels - 1)


def _bare_row(path: Location) -> dict[str, Any]:
    """A row of which nothing is known but where it lies and how large it is."""
    unknown: dict[str, Any] = dict.fromkeys(("encoder", "dataset", "n", "measures", "when"))
    return {"run": str(path), **unknown, "bytes": open_place(path).size(), "token_bytes": None, "finished": False}


def _row(path: Location) -> dict[str, Any]:
    row = _bare_row(path)
    try:
        store = Store(path)
        record = Provenance.read(store)
        row |= {"encoder": record.encoder.name, "dataset": record.dataset.name, "n": sum(record.dataset.n.values())}
        row["token_bytes"] = token_bytes(store)
        index = index_of_finished(store)
    except DiagnosticsError as error:
        return row | {"state": str(error)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        # Whatever stands in a folder that only looks like a run.
        return row | {"state": f"{path} cannot be read ({type(error).__name__}): remove it or copy it again."}
    measures = {name.partition("/")[0] for name in index.names()}
    remarks = {", without tokens": store.tokens_removed, ", older, not resumed": store.older}
    return row | {
        "measures": len(measures),
        "when": index.calls[-1]["created"],
        "finished": True,
        "state": "finished" + "".join(remark for remark, true in remarks.items() if true),
    }
