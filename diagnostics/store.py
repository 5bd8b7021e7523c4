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

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors
from zarr.codecs import Crc32cCodec

from diagnostics.activations import Activations, StoredTarget
from diagnostics.dataset import DENSE
from diagnostics.disk import damaged, unwritable
from diagnostics.errors import DiagnosticsError, StorageError
from diagnostics.plans import plan_from_attrs
from diagnostics.shards import ShardBuffer, ShardReader
from diagnostics.taps import SAFE_NAME, Seen, Tap

FORMAT = 1
COVERED = "covered"
"""Key of masks: not on a grid, but the part of the sample that the grid covers."""
# Of samples and targets every chunk is written, so that one that is not there is damage even where all of it is unknown.
EMPTY_TOO: Any = {"write_empty_chunks": True}


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
            raise damaged(path, "zarr.json") from error
        if attrs.get("diagnostics_format") != FORMAT:
            raise DiagnosticsError(
                f"{path} is a Zarr group but not a run of this version (format {FORMAT}): run `diagnostics run` anew."
            )
        self.attrs: dict[str, Any] = attrs
        self.plan = plan_from_attrs(attrs["plan"])
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
            raise damaged(self.path, f"observed/{name}") from error

    def _column(self, name: str) -> np.ndarray:
        return self._read(f"samples/{name}", (slice(None),), holes=True).astype(object)

    def _tap(self, name: str) -> Tap:
        return next(tap for tap in self.taps if tap.name == name)

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            try:
                found = self.root[name]
            except (KeyError, ValueError, zarr.errors.BaseZarrError) as error:
                raise damaged(self.path, name) from error
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
            raise damaged(self.path, name) from error
        if not holes and np.isnan(values.sum(dtype=np.float64)):
            raise damaged(self.path, name)
        return values

    def check_whole(self) -> None:
        """Raises when the extraction did not finish, or when files of it are gone since."""
        missing = [shard for shard in range(self.plan.shards) if not self.done(shard)]
        if self.attrs["complete"] and missing:
            raise damaged(self.path, f"shard {missing[0]} of {self.plan.shards}")
        if not self.attrs["complete"]:
            raise DiagnosticsError(
                f"The extraction into {self.path} was interrupted after {self.plan.shards - len(missing)} of "
                f"{self.plan.shards} shards: give the same `diagnostics run` command again to finish it."
            )

    def done(self, shard: int) -> bool:
        """Whether the files of all arrays with rows in this shard exist."""
        return all((self.path / "taps" / name / f"c.{shard}.0.0").is_file() for name in self.plan.arrays(shard))

    # Writing

    def write(self, shard: int, buffers: Mapping[str, Mapping[str, ShardBuffer]]) -> None:
        """One whole shard of all taps: tap -> kind -> its bytes."""
        rows = self.plan.rows(shard)
        try:
            for tap in self.taps:
                for kind, buffer in buffers[tap.name].items():
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


def is_run(path: Path) -> bool:
    """Whether a folder is a run, of whatever version and in whatever state: what may be dropped where that is asked for."""
    try:
        return b"diagnostics_format" in (path / "zarr.json").read_bytes()
    except OSError:
        return False


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
                f"{store.path} holds other activations, its {key} differs ({shown}): choose another --out, or "
                "--fresh, which drops them."
            )
