"""The activation store: layout, budget, resume, identity and integrity.

    samples/                id, split, group [sample]; targets/<name> [sample], or targets/<name>/<grid> [sample, token]
    taps/<tap>/pooled       [sample, pooling, feature] float32
    taps/<tap>/tokens       [token_sample, token, feature], and prefix [token_sample, prefix, feature] where there are any
    observed/<name>/<tap>   [row, ...] float32: what an observation (attention, gradients) saw for the first rows, or why not
    controls/<name>/        the same for an encoder that should know nothing
    results/                what the measures found

Rows are in a random order fixed by the sample count, so the token rows, the first `token_samples`, are a random subset.
Every array is cut along samples at the same `shard` rows. One shard of all taps is one step of an extraction: it is done
when the files of all its arrays exist, and each file appears whole or not at all (written beside and renamed).
Every chunk carries a CRC-32C, so damaged bytes are noticed when they are read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np
import zarr
import zarr.errors
from torch import Tensor
from zarr.codecs import Crc32cCodec, ZstdCodec

from diagnostics.activations import Activations, StoredTarget
from diagnostics.dataset import DENSE, Dataset, Target
from diagnostics.errors import DiagnosticsError, StorageError
from diagnostics.progress import size
from diagnostics.shards import ShardBuffer, ShardReader
from diagnostics.taps import SAFE_NAME, Encoder, Grid, Seen, Tap

FORMAT = 1
Precision = Literal["float32", "float16"]
MAX_SHARD = 64
SHARD_BYTES = 128 * 2**20
CHUNK_BYTES = 2**20
COVERED = "covered"
"""Key of masks: not on a grid, but the part of the sample that the grid covers."""
# Of samples and targets every chunk is written, so that one that is not there is damage even where all of it is unknown.
EMPTY_TOO: Any = {"write_empty_chunks": True}


@dataclass(frozen=True)
class Plan:
    """What a store will hold: decided before the first byte, the same for the same encoder, dataset and options."""

    samples: int
    token_samples: int
    shard: int
    precision: Precision
    poolings: tuple[str, ...]
    taps: tuple[Tap, ...]
    output_tap: str

    @property
    def shards(self) -> int:
        """Number of steps of an extraction."""
        return math.ceil(self.samples / self.shard)

    def rows(self, shard: int) -> slice:
        """The rows of a shard."""
        return slice(shard * self.shard, min((shard + 1) * self.shard, self.samples))

    @property
    def pooled_bytes(self) -> int:
        """Size of the pooled activations."""
        return self.samples * len(self.poolings) * 4 * sum(tap.features for tap in self.taps)

    @property
    def token_bytes(self) -> int:
        """Size of the kept tokens."""
        return self.token_samples * _token_bytes(self.taps, self.precision)

    def arrays(self, shard: int) -> list[str]:
        """Names below `taps/` of the arrays that have rows in a shard."""
        kinds = ["pooled"]
        if self.rows(shard).start < self.token_samples:
            kinds.append("tokens")
        return [f"{tap.name}/{kind}" for tap in self.taps for kind in kinds] + [
            f"{tap.name}/prefix" for tap in self.taps if tap.grid.prefix and "tokens" in kinds
        ]


def plan(encoder: Encoder, taps: Sequence[Tap], samples: int, token_budget: int, precision: Precision) -> Plan:
    """Shard rows so that one shard of all taps fits in memory, and as many token rows as `token_budget` bytes hold."""
    each = _token_bytes(taps, precision)
    shard = 2 ** int(math.log2(max(1, min(MAX_SHARD, SHARD_BYTES // each))))
    affordable = token_budget // each
    token_samples = samples if affordable >= samples else affordable // shard * shard
    return Plan(samples, token_samples, shard, precision, encoder.poolings, tuple(taps), encoder.output_tap)


def _token_bytes(taps: Sequence[Tap], precision: Precision) -> int:
    return np.dtype(precision).itemsize * sum(tap.tokens * tap.features for tap in taps)


def row_order(samples: int) -> np.ndarray:
    """The dataset index behind each row of a store."""
    # A stream of its own: one that also drew the splits would sort the rows by split.
    return np.random.default_rng([samples, 0x726F7773]).permutation(samples)


def identity(encoder: Encoder, dataset: Dataset, plan: Plan) -> dict[str, str]:
    """What the activations depend on: never device, batch size or number of workers."""
    return {
        **encoder.identity,
        "dataset": f"{dataset.name} {dataset.fingerprint}",
        "taps": "; ".join(
            f"{tap.name} {tap.site} {tap.grid} {tap.features} {tap.depth:.6f} {tap.part}" for tap in plan.taps
        ),
        "output tap": plan.output_tap,
        "pooling": " and ".join(plan.poolings),
        "precision": plan.precision,
        "tokens": f"{plan.token_samples} samples in shards of {plan.shard}",
    }


class Store(Activations):
    """A store on disk, for reading; with `writable` also for an extraction."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self.unobserved: dict[str, str] = {}
        """Observations that failed in a way that may not come again, and why; never written."""
        not_a_run = DiagnosticsError(f"{path} is not a run: give the folder that `diagnostics run` wrote.")
        if not path.is_dir():
            raise not_a_run
        try:
            self.root = zarr.open_group(path, mode="r+" if writable else "r", zarr_format=3)
            attrs: Any = self.root.attrs.asdict()
        except (zarr.errors.GroupNotFoundError, FileNotFoundError) as error:
            raise not_a_run from error
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(path, "zarr.json") from error
        if attrs.get("diagnostics_format") != FORMAT:
            raise DiagnosticsError(
                f"{path} is a Zarr group but not a run of this version (format {FORMAT}): run `diagnostics run` anew."
            )
        self.attrs: dict[str, Any] = attrs
        self.plan = _plan_from_attrs(attrs["plan"])
        self.identity: dict[str, str] = attrs["identity"]
        self.taps, self.output_tap, self.poolings = self.plan.taps, self.plan.output_tap, self.plan.poolings
        self.token_samples = self.plan.token_samples
        self.ids, self.split, self.groups = (self._column(name) for name in ("id", "split", "group"))

    # Reading

    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        values = self._read(f"taps/{tap}/pooled", (slice(None),)).astype(np.float64)
        return values.reshape(len(values), -1) if pooling is None else values[:, self.poolings.index(pooling)]

    def token_blocks(self, tap: str) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, self.token_samples, self.plan.shard):
            rows = slice(start, min(start + self.plan.shard, self.token_samples))
            yield rows, self._read(f"taps/{tap}/tokens", (rows,)).astype(np.float32)

    def feature_blocks(self, tap: str) -> Iterator[np.ndarray]:
        grid = self._tap(tap).grid
        for kind in ("tokens", "prefix") if grid.prefix else ("tokens",):
            array = self._array(f"taps/{tap}/{kind}")
            shards = ShardReader(array)
            # Whole chunks, so that nothing is read twice.
            for chunk, start in enumerate(range(0, array.shape[1], array.chunks[1])):
                block = shards.read(chunk)
                if block is None:
                    block = self._read(f"taps/{tap}/{kind}", (slice(None), slice(start, start + array.chunks[1])))
                yield block.reshape(len(block), -1)

    def targets(self) -> dict[str, StoredTarget]:
        """All stored targets by name, in the dataset's order."""
        return {name: self._target(name, about) for name, about in self.attrs["targets"].items()}

    def _target(self, name: str, about: Mapping[str, Any]) -> StoredTarget:
        dense: dict[tuple[int, ...], np.ndarray] = {}
        values = np.empty(0)
        if COVERED in about["grids"]:
            values = self._read(f"samples/targets/{name}/{COVERED}", (slice(None),), holes=True)
        elif about["kind"] in DENSE:  # perhaps on no grid at all
            for key in about["grids"]:
                shape = tuple(int(n) for n in key.split("x"))
                dense[shape] = self._read(f"samples/targets/{name}/{key}", (slice(None),), holes=True)
        else:
            values = self._read(f"samples/targets/{name}", (slice(None),), holes=True)
        naive = self._read(f"samples/naive/{name}", (slice(None),), holes=True) if about["naive"] else None
        return StoredTarget(
            name, about["kind"], values, about["units"], about["about"], tuple(about["classes"]), about["family"], dense,
            about["period"], naive,
        )  # fmt: skip

    def observed(self, name: str) -> Seen:
        about = self._observation(name)
        if about is None:
            raise DiagnosticsError(self.unobserved.get(name, f"No {name} was recorded."))
        if about["reason"]:
            raise DiagnosticsError(about["reason"])
        arrays = {tap: self._read(f"observed/{name}/{tap}", (slice(None),), holes=True) for tap in about["taps"]}
        return Seen(arrays, about["left_out"])

    def has_observed(self, name: str, samples: int, state: Mapping[str, str]) -> bool:
        """Whether an observation of that many samples is there, or that in this `state` of the code there is none.

        What was seen holds on any device and with any torch; but another observation, or version of it, may have recorded
        other numbers under that name.
        """
        about = self._observation(name)
        if about is None:
            return False
        if about["reason"]:
            return about["state"] == state
        return about["samples"] >= samples and all(about["state"].get(key) == state[key] for key in ("by", "version"))

    def _observation(self, name: str) -> dict[str, Any] | None:
        if not SAFE_NAME.fullmatch(name) or not (self.path / "observed" / name).is_dir():
            return None
        try:
            about: Any = self.root[f"observed/{name}"].attrs.asdict()
            return {key: about[key] for key in ("samples", "reason", "left_out", "state", "taps")}
        except (KeyError, ValueError, TypeError, AttributeError, zarr.errors.BaseZarrError) as error:
            raise _damaged(self.path, f"observed/{name}") from error

    def _column(self, name: str) -> np.ndarray:
        return self._read(f"samples/{name}", (slice(None),), holes=True).astype(object)

    def _tap(self, name: str) -> Tap:
        return next(tap for tap in self.taps if tap.name == name)

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            try:
                found = self.root[name]
            except (KeyError, ValueError, zarr.errors.BaseZarrError) as error:
                raise _damaged(self.path, name) from error
            assert isinstance(found, zarr.Array)
            self._arrays[name] = found
        return self._arrays[name]

    def _read(self, name: str, selection: tuple[slice, ...], *, holes: bool = False) -> np.ndarray:
        """Values as stored; raises where bytes are damaged or missing. Activations are never NaN, so a NaN is a hole;
        with `holes`, NaN is data and the chunks are counted instead.
        """
        array = self._array(name)
        try:
            values = np.asarray(array[selection])
            if holes and array.nchunks_initialized < array.nchunks:
                raise OSError("a chunk is missing")
        except (ValueError, RuntimeError, OSError, AssertionError, IndexError) as error:
            raise _damaged(self.path, name) from error
        if not holes and np.isnan(values.sum(dtype=np.float64)):
            raise _damaged(self.path, name)
        return values

    def check_whole(self) -> None:
        """Raises when the extraction did not finish, or when files of it are gone since."""
        missing = [shard for shard in range(self.plan.shards) if not self.done(shard)]
        if self.attrs["complete"] and missing:
            raise _damaged(self.path, f"shard {missing[0]} of {self.plan.shards}")
        if not self.attrs["complete"]:
            raise DiagnosticsError(
                f"The extraction into {self.path} was interrupted after {self.plan.shards - len(missing)} of "
                f"{self.plan.shards} shards: give the same `diagnostics run` command again to finish it."
            )

    def done(self, shard: int) -> bool:
        """Whether the files of all arrays with rows in this shard exist."""
        return all((self.path / "taps" / name / f"c.{shard}.0.0").is_file() for name in self.plan.arrays(shard))

    # Writing

    def write(self, shard: int, filled: Filling) -> None:
        """One whole shard of all taps."""
        rows = self.plan.rows(shard)
        try:
            for tap in self.taps:
                for kind, buffer in filled.buffers[tap.name].items():
                    if kind == "pooled" or rows.start < self.token_samples:
                        buffer.write(self._array(f"taps/{tap.name}/{kind}"), shard, rows.stop - rows.start)
        except OSError as error:
            raise unwritable(self.path, error, f"after {shard} of {self.plan.shards} shards; ") from error

    def put_observed(self, name: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """An observation by tap, in place of an earlier one of that name; whole or not at all."""
        partial, final = self.path / "observed" / f".{name}.partial", self.path / "observed" / name
        try:
            self.root.require_group("observed")
            shutil.rmtree(partial, ignore_errors=True)
            group = zarr.open_group(partial, mode="w-", zarr_format=3, attributes={**about, "taps": list(arrays)})
            for tap, values in arrays.items():
                group.create_array(
                    tap, data=np.ascontiguousarray(values), chunks=values.shape, compressors=Crc32cCodec(),
                    fill_value=np.nan, config=EMPTY_TOO,
                    dimension_names=("sample", *(f"{tap}_{i}" for i in range(1, values.ndim))),
                )  # fmt: skip
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError):
                raise unwritable(self.path, error, f"while writing {name}; ") from error
            raise
        self._arrays = {key: array for key, array in self._arrays.items() if not key.startswith(f"observed/{name}/")}

    def finish(self) -> None:
        """Marks the extraction as complete: from now on a missing file is damage."""
        self.set_attrs(complete=True)

    def set_attrs(self, **attrs: Any) -> None:
        """Adds to the attributes, on disk and here."""
        try:
            self.root.attrs.update(attrs)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.attrs.update(attrs)


class Filling:
    """One shard of all taps in memory, filled batch by batch; the same memory serves every shard."""

    def __init__(self, plan: Plan) -> None:
        self.rows = 0
        self.buffers = {
            tap.name: {
                kind: ShardBuffer(plan.shard, count, tap.features, block, dtype)
                for kind, count, block, dtype in _arrays(tap, plan)
            }
            for tap in plan.taps
        }

    def put_tokens(self, tap: Tap, tokens: Tensor) -> None:
        """A batch's tokens [row, prefix + token, feature] behind the rows that are there."""
        self.buffers[tap.name]["tokens"].put(self.rows, tokens[:, tap.grid.prefix :])
        if tap.grid.prefix:
            self.buffers[tap.name]["prefix"].put(self.rows, tokens[:, : tap.grid.prefix])

    def recent(self, tap: Tap, count: int) -> np.ndarray:
        """The tokens of the last `count` rows put, as they will be stored, [row, token, feature]."""
        kinds = [buffer for kind, buffer in self.buffers[tap.name].items() if kind != "pooled"]
        return np.concatenate([buffer.rows(self.rows + count)[self.rows :] for buffer in kinds], axis=1)

    def put_pooled(self, tap: Tap, pooled: Tensor) -> None:
        """A batch's pooled values [row, pooling, feature] behind the rows that are there."""
        self.buffers[tap.name]["pooled"].put(self.rows, pooled)


def _arrays(tap: Tap, plan: Plan) -> list[tuple[str, int, int, str]]:
    """A tap's arrays: name, extent of the middle axis, how much of it an inner chunk holds, and type on disk.

    An inner chunk holds all rows of some tokens, so that a block of features of all samples is read without waste.
    """
    found = [("pooled", len(plan.poolings), len(plan.poolings), "float32")]
    if plan.token_samples:
        each = plan.shard * tap.features * np.dtype(plan.precision).itemsize
        for kind, count in (("tokens", tap.grid.tokens), ("prefix", tap.grid.prefix)):
            if count:
                found.append((kind, count, max(1, min(count, CHUNK_BYTES // each)), plan.precision))
    return found


def create(
    path: Path,
    plan: Plan,
    identity: Mapping[str, str],
    dataset: Dataset,
    dense: Mapping[str, Mapping[str, np.ndarray]],
    about: Mapping[str, Any],
) -> Store:
    """An empty store, made beside `path` and renamed, so that it is there whole or not at all.

    `dense` holds the targets that are stored on grids: name -> grid key -> [sample, token] in the dataset's order.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        root = zarr.open_group(partial, mode="w-", zarr_format=3)
        _write_samples(root.create_group("samples"), plan, dataset, dense)
        taps = root.create_group("taps")
        for tap in plan.taps:
            facts = {"depth": tap.depth, "part": tap.part, "pooling": list(plan.poolings), "grid": str(tap.grid)}
            _create_arrays(taps.create_group(tap.name, attributes=facts), tap, plan)
        targets = {name: _target_attrs(target, dense.get(name, {})) for name, target in dataset.targets.items()}
        root.attrs.update(
            {
                "diagnostics_format": FORMAT,
                "identity": dict(identity),
                "plan": dataclasses.asdict(plan),
                "targets": targets,
                "complete": False,
                **about,
            }
        )
        partial.rename(path)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise
    return Store(path, writable=True)


def _create_arrays(group: zarr.Group, tap: Tap, plan: Plan) -> None:
    axes = {"pooled": ("sample", "pooling"), "tokens": ("token_sample", "token"), "prefix": ("token_sample", "prefix")}
    for kind, count, block, dtype in _arrays(tap, plan):
        rows, features = plan.samples if kind == "pooled" else plan.token_samples, tap.features
        group.create_array(
            kind, shape=(rows, count, features), chunks=(plan.shard, block, features),
            shards=(plan.shard, math.ceil(count / block) * block, features), dtype=dtype,
            dimension_names=(*axes[kind], "feature"), compressors=Crc32cCodec(), fill_value=np.nan,
            chunk_key_encoding={"name": "default", "separator": "."},
        )  # fmt: skip


def _write_samples(
    group: zarr.Group, plan: Plan, dataset: Dataset, dense: Mapping[str, Mapping[str, np.ndarray]]
) -> None:
    order = row_order(plan.samples)
    columns = {"id": np.asarray(dataset.ids, dtype=object), "split": dataset.split, "group": dataset.groups}
    for name, values in columns.items():
        array = group.create_array(
            name, shape=(plan.samples,), chunks=(plan.samples,), dtype=str, dimension_names=("sample",),
            compressors=Crc32cCodec(), config=EMPTY_TOO,
        )  # fmt: skip
        array[:] = values[order]
    group.create_group("targets")
    for name, target in dataset.targets.items():
        arrays = {f"targets/{name}/{key}": values for key, values in dense.get(name, {}).items()}
        if not arrays and not target.dense:
            arrays[f"targets/{name}"] = target.values
        if target.naive is not None:
            arrays[f"naive/{name}"] = np.asarray(target.naive, dtype=np.float64)
        for path, values in arrays.items():
            # Maps of objects and classes are mostly alike: they shrink to little.
            squeezed = (ZstdCodec(level=1),) if values.dtype.kind in "iu" and values.ndim > 1 else ()
            group.create_array(
                path, data=np.ascontiguousarray(values[order]), chunks=values.shape,
                compressors=(*squeezed, Crc32cCodec()), fill_value=_fill(values), config=EMPTY_TOO,
                dimension_names=("sample", *(f"{name}_{i}" for i in range(1, values.ndim))),
            )  # fmt: skip


def _fill(values: np.ndarray) -> Any:
    return np.nan if values.dtype.kind == "f" else -1


def _target_attrs(target: Target, grids: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        "kind": target.kind, "units": target.units, "about": target.about, "classes": list(target.classes),
        "family": target.family, "grids": list(grids), "period": target.period, "naive": target.naive is not None,
    }  # fmt: skip


def _plan_from_attrs(attrs: Mapping[str, Any]) -> Plan:
    taps = tuple(
        Tap(
            tap["name"], tap["depth"], tap["part"], tap["features"],
            Grid(tuple(tap["grid"]["shape"]), tuple(tap["grid"]["axes"]), tap["grid"]["prefix"]),
        )
        for tap in attrs["taps"]
    )  # fmt: skip
    rest = {key: attrs[key] for key in ("samples", "token_samples", "shard", "precision", "output_tap")}
    return Plan(taps=taps, poolings=tuple(attrs["poolings"]), **rest)


def refuse_other_identity(store: Store, wanted: Mapping[str, str]) -> None:
    """Raises when a store holds other activations than the ones wanted, and says in what they differ."""
    for key in {**store.identity, **wanted}:
        old, new = store.identity.get(key, "nothing"), wanted.get(key, "nothing")
        if old != new:
            olds, news = (value.split("; ") for value in (old, new))
            there = next((x for x in olds if x not in news), "fewer")
            now = next((x for x in news if x not in olds), "fewer")
            shown = f"{there[:60]} there, {now[:60]} now"
            raise StorageError(
                f"{store.path} holds other activations, its {key} differs ({shown}): choose another --out or remove it."
            )


@contextlib.contextmanager
def lock(path: Path) -> Generator[None]:
    """Holds a run for this process; refused when another process holds it. Freed by the system if the process dies."""
    holder = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(holder, timeout=0)
        held.acquire()
    except filelock.Timeout as error:
        raise StorageError(
            f"Another process is writing {path}: wait for it, or choose another folder with --out."
        ) from error
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        if not path.exists():
            holder.unlink(missing_ok=True)  # nothing was written, so nothing stays
        held.release()


def check_room(path: Path, needed: int) -> None:
    """Raises when the disk has less room than a run needs."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StorageError(
            f"{path.parent} has {size(free)} free and the run needs {size(needed)}: "
            "free some, lower --token-budget, or choose another --out."
        )


def unwritable(path: Path, error: OSError, when: str = "") -> StorageError:
    """The error for a folder that cannot be written, by its cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"No space left for {path}, {when}free some and give the same command again: it goes on from there."
        )
    return StorageError(f"{path} cannot be written ({error.strerror or error}): choose another folder with --out.")


def _damaged(path: Path, what: str) -> StorageError:
    return StorageError(
        f"{path} is damaged or was copied in part, {what} cannot be read: copy it again, or remove it and run anew."
    )
