"""Tables and arrays of files, and the datasets of series and texts that are in them."""

import csv
import fnmatch
import hashlib
import io
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diagnostics.plugin import Dataset, DiagnosticsError, LazySamples, Target, complete_splits, explaining, pad_series
from diagnostics_files.folder import (
    DataError,
    check_bytes,
    damaged,
    file,
    join_notes,
    need,
    pad_left,
    safe_name,
    tell,
)

# Tables of CSV, JSON lines and Parquet as columns, and columns as targets.

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
Columns = dict[str, list[Any]]
"""Name -> an entry for each row; None where it is not known."""

_WHOLE = re.compile(r"[+-]?\d+")
_MISSING = ("na", "n/a", "#n/a", "null", "?")
"""What R, spreadsheets and archives write among numbers for one that is not known."""


def read_table(path: Path) -> Columns:
    """The columns of a table: `.csv` and `.tsv` with a header, `.jsonl` of one object a line, `.parquet`.

    Empty cells, null and NaN are None, and so is `_MISSING` among the numbers of CSV. CSV has no types: a column of
    whole numbers becomes int, of other numbers float.
    """
    if not path.is_file():
        raise DiagnosticsError(
            f"There is no table {path}: give the path of a .csv, .jsonl or .parquet file.", code="missing-file"
        )
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DiagnosticsError(
            f"{path} is not one of {', '.join(SUFFIXES)}: save the table as one of these.", code="unsupported"
        )
    with explaining(
        f"{path} cannot be read as UTF-8 text of a table",
        "save it as UTF-8",
        "unreadable",
        (UnicodeDecodeError, csv.Error),
    ):
        if suffix in (".csv", ".tsv"):
            columns = _csv(path, "," if suffix == ".csv" else "\t")
        else:
            columns = _parquet(path) if suffix == ".parquet" else _json_lines(path)
    if not columns or not next(iter(columns.values())):
        raise DiagnosticsError(
            f"{path} holds no rows: give a table with a header and one row for each sample.", code="bad-sample"
        )
    return columns


def column(columns: Columns, name: str, path: Path, option: str = "") -> list[Any]:
    """The column of that name, or the sentence that says which there are."""
    if name not in columns:
        remedy = f"name yours with ?{option}=" if option else f"add a column {name}"
        why = f"no column '{name}' but {', '.join(columns)}: {remedy}" if columns else "no columns: give a table"
        raise DiagnosticsError(f"{path} has {why}.", code="unknown-name")
    return columns[name]


def in_roles(columns: Columns, roles: Mapping[str, str], path: Path) -> Columns:
    """The columns, with those that an option names for a role (`id`, `group`) under the name of that role."""
    found = {role: column(columns, name, path, role) for role, name in roles.items() if name}
    return {name: entries for name, entries in columns.items() if name not in roles.values()} | found


def texts_of(columns: Columns, name: str, default: Sequence[str]) -> list[str]:
    """The entries of a column as texts, and the default of a row where there is none."""
    entries = columns.get(name, [None] * len(default))
    return [text if entry is None else str(entry) for text, entry in zip(default, entries, strict=True)]


def targets_of(
    columns: Mapping[str, Sequence[Any]], values: str, path: object, skip: Collection[str] = ()
) -> tuple[dict[str, Target], str]:
    """Columns as targets, and in words which were left out and why.

    Text, whole numbers and true or false make a `label`, other numbers a `value`; `values` names, with commas between,
    columns of whole numbers that are quantities. None is unknown. Left out: a label with one class, one with more
    classes than half of its known samples (it names samples, not kinds), a value that is always the same.
    """
    quantities = {name.strip() for name in values.split(",") if name.strip()}
    if missing := quantities - set(columns):
        raise DataError(f"{path} has no column '{sorted(missing)[0]}' but {', '.join(columns)}: correct ?values=.")
    targets: dict[str, Target] = {}
    left_out: list[str] = []
    for name, entries in columns.items():
        if name in skip:
            continue
        parsed = target(entries, name, name in quantities, path)
        if isinstance(parsed, str):
            left_out.append(f"{name} ({parsed})")
            continue
        safe = re.sub(r"[^A-Za-z0-9_.\-]+", "_", name).strip("_.") or "column"
        if safe in targets:
            raise DiagnosticsError(
                f"Two columns of {path} would both be target {safe}: rename one of them.", code="duplicate"
            )
        targets[safe] = parsed
    return targets, tell(path, f"not a target: {', '.join(left_out)}" if left_out else "")


def target(entries: Sequence[Any], name: str, quantity: bool = False, path: object = "the table") -> Target | str:
    """One column as a target, or why it cannot be one."""
    known = [entry for entry in entries if entry is not None]
    if not known:
        return "nothing is known"
    kinds = {type(entry) for entry in known}
    if kinds <= {int, float} and (float in kinds or quantity):
        numbers = np.array([math.nan if entry is None else float(entry) for entry in entries])
        if np.isinf(numbers).any():
            row = int(np.isinf(numbers).argmax()) + 1
            raise DiagnosticsError(
                f"Column {name} of {path} is infinite in row {row}: leave it empty where it is not known.",
                code="not-finite",
            )
        return "it is always the same" if len(set(known)) == 1 else Target("value", numbers, about=name)
    if quantity:
        raise DataError(f"Column {name} of {path} holds text, so it is no quantity: take it out of ?values=.")
    if not kinds <= {int, str, bool} or len(kinds) > 1:
        return "it mixes types" if kinds <= {int, float, str, bool} else "it is neither text nor numbers"
    numbered = str in kinds and all(_WHOLE.fullmatch(entry) for entry in known)
    classes: list[Any] = sorted(set(known), key=int if numbered else None)
    if len(classes) == 1:
        return f"one class only, {classes[0]}"
    if 2 * len(classes) > len(known) and len(known) > 4:
        return "more classes than half the samples"
    number = {entry: i for i, entry in enumerate(classes)}
    codes = np.array([-1 if entry is None else number[entry] for entry in entries])
    return Target("label", codes, about=name, classes=tuple(map(str, classes)))


def _csv(path: Path, delimiter: str) -> Columns:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(rows, [])]
        _check_names(header, path)
        if len(header) == 1 and (other := next((mark for mark in ";\t|," if mark in header[0]), "")):
            raise DataError(f"The cells of {path} are separated by {other!r}, not {delimiter!r}: save it so.")
        cells: list[list[str]] = []
        for row in filter(None, rows):
            if len(row) != len(header):
                raise DataError(
                    f"Line {rows.line_num} of {path} has {len(row)} cells and the header {len(header)}: "
                    f"correct that line."
                )
            cells.append([cell.strip() for cell in row])
    return {name: _convert([row[i] for row in cells]) for i, name in enumerate(header)}


def _convert(cells: Sequence[str]) -> list[Any]:
    """Numbers where all that is known is one; words for what is missing may be names in a column of text."""
    entries = [None if cell.lower() in ("", "nan") else cell for cell in cells]
    known = [None if entry is None or entry.lower() in _MISSING else entry for entry in entries]
    convert = int if all(entry is None or _WHOLE.fullmatch(entry) for entry in known) else float
    try:
        return [None if entry is None else convert(entry) for entry in known]
    except ValueError:
        return entries


def _json_lines(path: Path) -> Columns:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DiagnosticsError(
                    f"Line {number} of {path} is not JSON ({error}): correct that line.", code="unreadable"
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f'Line {number} of {path} is not a JSON object: write {{"name": value, ...}} on each line.'
                )
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [_known(row.get(name)) for row in rows] for name in names}


def _parquet(path: Path) -> Columns:
    parquet = need("pyarrow.parquet", "pyarrow", f"Reading {path.name}")
    with explaining(f"{path} cannot be read as Parquet", "write it again", "unreadable"):
        table = parquet.read_table(path)
    _check_names(table.column_names, path)
    return {name: [_known(entry) for entry in table.column(name).to_pylist()] for name in table.column_names}


def _known(entry: Any) -> Any:
    return None if entry == "" or (isinstance(entry, float) and math.isnan(entry)) else entry


def _check_names(names: Sequence[str], path: Path) -> None:
    if len(set(names)) != len(names) or "" in names:
        raise DataError(f"Columns of {path} have no or the same name ({', '.join(names)}): name each differently.")


# Series and their columns: from tables, a series or a step a row; from the arrays of `.npz` and Zarr.

_STEP = re.compile(r"t?(\d+)")


def from_table(columns: Columns, where: Path, steps: str) -> tuple[list[np.ndarray], Columns]:
    """Series and their columns, in the layout that the column names show.

    `series`, `id` and `time`, or steps, like `steps` if given.
    """
    if "series" in columns and not steps:
        return [listed(entry, i, where) for i, entry in enumerate(columns["series"], 1)], _without(columns, {"series"})
    if "time" in columns and not steps:
        return _long(columns, where)
    names = fnmatch.filter(columns, steps) if steps else [name for name in columns if _STEP.fullmatch(name)]
    # By their number, since a table may have v10 before v2.
    names.sort(key=lambda name: int((re.findall(r"\d+", name) or ["0"])[-1]))
    if len(names) < 2:
        raise DiagnosticsError(
            f"{where} shows no series{f' in columns like {steps}' if steps else ''}: give steps as columns 0, 1, 2, "
            f"... (one series per row), or of other names, as ?steps=v*; columns id and time (one step per row), or "
            f"lists in a column series.",
            code="unclear",
        )
    for text, row in ((n, row) for n in names for row, entry in enumerate(columns[n], 1) if isinstance(entry, str)):
        raise DataError(
            f"Column {text} of {where} holds text, {columns[text][row - 1]!r} in row {row}, not the numbers of a step: "
            f"correct it."
        )
    values = np.array([[np.nan if entry is None else entry for entry in columns[n]] for n in names], dtype=np.float64)
    return list(values.T), _without(columns, set(names))


def _long(columns: Columns, where: Path) -> tuple[list[np.ndarray], Columns]:
    """A step a row: what is the same in all steps of every series belongs to the series, what changes is a variate."""
    if "id" not in columns:
        raise DataError(f"{where} has a column time and no column id: say with id which series a row belongs to.")
    rows_of: dict[Any, list[int]] = {}
    for row, key in enumerate(columns["id"]):
        rows_of.setdefault(key, []).append(row)
    times = columns["time"]
    if None in rows_of or None in times:
        raise DataError(f"{where} has rows without id or time: fill them in or remove them.")
    for key, rows in rows_of.items():
        rows.sort(key=lambda row: times[row])
        if len({times[row] for row in rows}) < len(rows):
            raise DiagnosticsError(
                f"Series {key} of {where} has two rows of one time: keep one of them.", code="duplicate"
            )
    rest = [name for name in columns if name not in ("id", "time")]
    changing = [n for n in rest if any(len({columns[n][row] for row in rows}) > 1 for rows in rows_of.values())]
    if odd := [
        n for n in changing if n in ("id", "group", "split") or any(isinstance(entry, str) for entry in columns[n])
    ]:
        raise DiagnosticsError(
            f"Column {odd[0]} of {where} changes within a series and is no number: give one for each series.",
            code="bad-value",
        )
    if not changing:
        raise DiagnosticsError(
            f"No column of {where} changes within a series: give at least one column of values.", code="too-few"
        )
    values = np.array([[np.nan if e is None else e for e in columns[n]] for n in changing], dtype=np.float64).T
    of_series = {n: [columns[n][rows[0]] for rows in rows_of.values()] for n in rest if n not in changing}
    return [values[rows] for rows in rows_of.values()], {"id": list(rows_of), **of_series}


def listed(entry: Any, row: int, where: object) -> np.ndarray:
    """A list of numbers, or of lists of a number for each variate, as [time] or [time, variate]."""
    try:
        steps = [
            [np.nan if v is None else v for v in s] if isinstance(s, list) else np.nan if s is None else s
            for s in entry
        ]
        series = np.array(steps, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"Row {row} of {where} holds no list of numbers: correct it.") from error
    if series.ndim not in (1, 2):
        raise DiagnosticsError(
            f"The series in row {row} of {where} has {series.ndim} axes: give [time] or [time, variate].",
            code="bad-shape",
        )
    return series


def _without(columns: Columns, names: set[str]) -> Columns:
    return {name: entries for name, entries in columns.items() if name not in names}


_HEADER = 2**14
"""Bytes that hold the header of a `.npy`: NumPy takes none above 10,000."""


def read_npz(path: Path) -> tuple[list[np.ndarray], Columns]:
    """Series, and other arrays as their columns; raises for pickles and for what would not fit in memory."""
    try:
        check_bytes(_declared(path), f"{path} unpacked", "split it into several files, or store it as Zarr")
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {str(safe_name(name, str(path))): archive[name] for name in archive.files}
    except DiagnosticsError:
        raise
    except Exception as error:
        why = "it holds a pickle, which could run anything" if "allow_pickle" in str(error) else error
        raise damaged(str(path), why, skip=False) from error
    series, columns = _series_and_columns(arrays, path)
    return list(series), columns


def _declared(path: Path) -> int:
    """Bytes that the arrays of an `.npz` take by their own headers, which NumPy goes by.

    A small file may unpack to any size.
    """
    total = 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                start = io.BytesIO(member.read(_HEADER))
            version = np.lib.format.read_magic(start)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(start)
            if min(shape, default=0) < 0:
                raise ValueError(f"{info.filename} has the shape {list(shape)}")
            total += math.prod(shape) * max(dtype.itemsize, 4)  # series become float32
    return total


def read_zarr(path: Path) -> tuple[Any, Columns]:
    """The array `series`, unread, and other arrays as its columns."""
    import zarr

    with explaining(f"{path} cannot be read as a Zarr group", "write it again", "unreadable"):
        return _series_and_columns(dict(zarr.open_group(path, mode="r").arrays()), path)


def _series_and_columns(arrays: dict[str, Any], path: Path) -> tuple[Any, Columns]:
    key = "X" if "X" in arrays and "series" not in arrays else "series"
    if key not in arrays:
        raise DiagnosticsError(
            f"{path} has no array series or X but {', '.join(arrays) or 'nothing'}: store [sample, time] or [sample, "
            f"time, variate] under one of these names.",
            code="bad-sample",
        )
    series = arrays.pop(key)
    if series.dtype.kind not in "fiu" or series.ndim not in (2, 3) or 0 in series.shape:
        raise DiagnosticsError(
            f"Array {key} of {path} is {series.dtype} of shape {list(series.shape)}: give numbers as "
            f"[sample, time] or [sample, time, variate].",
            code="bad-shape",
        )
    columns: Columns = {}
    for name, array in arrays.items():
        if array.shape != (series.shape[0],) or array.dtype.kind not in "fiubUST":
            raise DiagnosticsError(
                f"Array {name} of {path} is {array.dtype} of shape {list(array.shape)}: give one number or text for "
                f"each of the {series.shape[0]} series, or take it out.",
                code="bad-shape",
            )
        entries = [entry.decode() if isinstance(entry, bytes) else entry for entry in np.asarray(array[:]).tolist()]
        # As scikit-learn's splitters call it, beside X and y.
        name = "group" if (key, name) == ("X", "groups") and "group" not in arrays else name
        columns[name] = [None if entry != entry or entry == "" else entry for entry in entries]
    return series, columns


# Rows of files: their ids, groups, splits and targets, for all kinds of samples; and texts, a row or a line each.
#
# Splits are those given, completed by `complete_splits`; in archives they are drawn by each sample's id.

SPECIAL = ("id", "group", "split")
"""Columns with a meaning of their own; all others become targets."""


def by_id(ids: Iterable[str], seed: int, name: str) -> tuple[list[str], str, bool | Literal["fit"]]:
    """The split of each sample, a function of its id and the seed alone; the rest as `complete_splits` gives it.

    So what is added or left out, as archives are, moves no other sample to another split: nothing that was trained on
    is tested on. A few samples of which some split would be empty are split as by `complete_splits`.
    """
    digests = bytearray()
    for sample in ids:
        digests += hashlib.blake2b(f"{seed} {sample}".encode(), digest_size=6).digest()
    numbers = np.frombuffer(digests, np.uint8).reshape(-1, 6).astype(np.int64) @ 256 ** np.arange(5, -1, -1)
    drawn = np.searchsorted([*_SHARES.values()], numbers / 256**6, "right")
    if seed < 0 or len(np.unique(drawn)) < len(_SHARES):
        return complete_splits([""] * len(drawn), list(ids), seed, name)
    splits = np.array([*_SHARES], object)[drawn].tolist()
    return splits, "the split of each drawn by its id", True


_SHARES = {"train": 0.6, "val": 0.8, "test": 1.0}
"""Up to which share of all numbers each split goes."""


def described(
    columns: Columns, ids: Sequence[str], groups: Sequence[str] | None, values: str, seed: int, source: object
) -> tuple[list[str], dict[str, Any], str]:
    """Ids of rows; their split, targets and groups as `Dataset` takes them; and how these came about.

    `ids` and `groups` (the ids by default) are those of rows for which the columns have none.
    """
    ids = texts_of(columns, "id", ids)
    if len(set(ids)) < len(ids):
        raise DiagnosticsError(
            f"{source} gives the id {Counter(ids).most_common(1)[0][0]} to several samples: make ids unique.",
            code="bad-sample",
        )
    groups = texts_of(columns, "group", groups or ids)
    targets, note = targets_of(columns, values, source, SPECIAL)
    split, how, exchangeable = complete_splits(
        columns.get("split", [None] * len(ids)), groups, seed, str(source), targets
    )
    rows = {"split": split, "targets": targets, "groups": groups, "exchangeable": exchangeable}
    return ids, rows, join_notes(how, note)


def texts(path: str, text: str, group: str, values: str, seed: int) -> Dataset:
    """See `plugin.texts`."""
    source = file(path, "texts", (*SUFFIXES, ".txt"))
    columns: Columns = {}
    if source.suffix.lower() == ".txt":
        with explaining(f"{source} is not UTF-8 text", "save it as UTF-8", "unreadable", UnicodeDecodeError):
            entries: list[Any] = source.read_text(encoding="utf-8-sig").splitlines()
    else:
        columns = read_table(source)
        entries = column(columns, text, source, "text")
        del columns[text]
    columns = in_roles(columns, {"group": group}, source)
    texts = [None if entry is None else str(entry) for entry in entries]
    if not texts:
        raise DiagnosticsError(f"{source} is empty: give one text per line.", code="too-few")
    # The same words in train and test would be a test of memory.
    ids, units = [f"text-{i:06d}" for i in range(len(texts))], [text or "" for text in texts]
    ids, rows, about = described(columns, ids, units, values, seed, source)
    samples, about = np.array(texts, dtype=object), join_notes(f"{len(texts)} texts", about)
    return Dataset(source.resolve().stem, "text", samples, ids, **rows, about=about)


# Files of series: arrays (`.npz`, Zarr), tables (CSV, Parquet, JSON lines), and `.ts` files of the UCR and UEA
# archives.

_ROWS = 256


def series(path: str, values: str, steps: str, roles: Mapping[str, str], seed: int) -> Dataset:
    """See `plugin.series`."""
    source = file(path, "series", (*SUFFIXES, ".npz", ".zarr"))
    suffix = source.suffix.lower()
    if suffix in (".npz", ".zarr") and (steps or any(roles.values())):
        raise DiagnosticsError(
            f"{source} holds arrays and no columns: leave out ?steps=, ?id= and ?group=.", code="no-effect"
        )
    if suffix == ".zarr":
        array, columns = read_zarr(source)
        return _from_zarr(source, array, columns, values, seed)
    if suffix == ".npz":
        rows, columns = read_npz(source)
    else:
        rows, columns = from_table(in_roles(read_table(source), roles, source), source, steps)
    return dataset(source.resolve().stem, rows, columns, values, seed, source)


def dataset(name: str, rows: Sequence[np.ndarray], columns: Columns, values: str, seed: int, where: object) -> Dataset:
    """Series [time] or [time, variate], each with its entries in the columns, as a dataset in memory."""
    ids, more, about = described(columns, [f"series-{i:06d}" for i in range(len(rows))], None, values, seed, where)
    series = [trimmed(row, key, where) for row, key in zip(rows, ids, strict=True)]
    if len({row.shape[1:] for row in series}) > 1:
        raise DiagnosticsError(
            f"Series of {where} have different numbers of variates: give all the same.", code="bad-shape"
        )
    lengths = [len(row) for row in series]
    about = _about(ids, [len(row) for row in rows], lengths, where, about)
    return Dataset(name, "series", pad_series(series), ids, **more, about=about, ragged=len(set(lengths)) > 1)


def trimmed(series: np.ndarray, name: str, where: object) -> np.ndarray:
    """A series without the steps before its first and after its last known value, float32.

    Refuses infinity and nothing.

    NaN in between is a gap and stays.
    """
    values = np.asarray(series, dtype=np.float32)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if np.isinf(values).any():
        raise DiagnosticsError(
            f"Series {name} of {where} is infinite somewhere: leave a gap (NaN) where nothing is known.",
            code="not-finite",
        )
    known = np.flatnonzero(~np.isnan(values).all(axis=tuple(range(1, values.ndim))))
    if len(known) == 0:
        raise DataError(f"Series {name} of {where} has no known value: remove it.")
    return values[known[0] : known[-1] + 1]


def _about(ids: Sequence[str], given: Sequence[int], lengths: Sequence[int], where: object, about: str) -> str:
    """Number and lengths of series in words, and which lost steps at their ends, also on stderr.

    Also what follows where only that makes lengths differ.
    """
    least, most = min(lengths), max(lengths)
    count = f"{len(lengths)} series of {least if least == most else f'{least} to {most}'} steps"
    shorter = [key for key, before, after in zip(ids, given, lengths, strict=True) if after < before]
    if not shorter:
        return join_notes(count, about)
    single = len(shorter) == 1
    note = (
        f"{len(shorter)} of {len(ids)} series ({shorter[0]}{'' if single else ' first'}) "
        f"{'begins or ends' if single else 'begin or end'} with unknown steps, which are left out"
    )
    if len(set(given)) == 1 < len(set(lengths)):
        note += ", and as lengths then differ, only pooled activations of all series are stored and no tokens"
    return join_notes(count, about, tell(where, note))


def _from_zarr(path: Path, array: Any, columns: Columns, values: str, seed: int) -> Dataset:
    """The same from a Zarr array, of which a few rows are in memory at a time."""
    ids, more, about = described(columns, [f"series-{i:06d}" for i in range(array.shape[0])], None, values, seed, path)
    lengths: list[int] = []
    block_bytes = min(_ROWS, array.shape[0]) * math.prod(array.shape[1:]) * max(array.dtype.itemsize, 4)
    check_bytes(block_bytes, f"{min(_ROWS, array.shape[0])} series of {path}", "store shorter series")
    for first in range(0, array.shape[0], _ROWS):
        block: Any = array[first : first + _ROWS]
        lengths += [len(trimmed(row, ids[first + i], path)) for i, row in enumerate(block)]
    longest = max(lengths)
    about = _about(ids, [array.shape[1]] * len(ids), lengths, path, about)
    samples = LazySamples(array.shape[0], lambda i: pad_left(trimmed(array[i], ids[i], path), longest))
    return Dataset(path.resolve().stem, "series", samples, ids, **more, about=about, ragged=min(lengths) < longest)


def ts(path: str, seed: int) -> Dataset:
    """See `plugin.ts`."""
    source = file(path, "ts", (".ts",))
    stem, _, part = source.stem.rpartition("_")
    if part not in ("TRAIN", "TEST"):
        return archive(source.stem, {"": source}, seed)
    both = {split: source.with_name(f"{stem}_{split.upper()}.ts") for split in ("train", "test")}
    for other in both.values():
        if not other.is_file():
            raise DiagnosticsError(
                f"{source} has no {other.name} beside it: add that, or rename the file to {stem}.ts.",
                code="missing-file",
            )
    return archive(stem, both, seed)


def archive(name: str, files: dict[str, Path], seed: int) -> Dataset:
    """Series of `.ts` files, split -> file (`""`: no split), as one dataset with the target `label` or `value`."""
    samples: list[np.ndarray] = []
    columns: Columns = {"id": [], "split": []}
    for split, path in files.items():
        series, answers, kind = _read(path)
        samples += series
        columns["id"] += [f"{split or 'series'}-{i:05d}" for i in range(len(series))]
        columns["split"] += [split or None] * len(series)
        columns.setdefault(kind, []).extend(answers)
    if len(columns) > 3 or any(len(entries) != len(samples) for entries in columns.values()):
        raise DataError(f"{name} has classes in one file and numbers in the other: give two files of one kind.")
    return dataset(name, samples, columns, "", seed, name)


def _read(path: Path) -> tuple[list[np.ndarray], list[Any], str]:
    loaders = need("aeon.datasets", "aeon", f"Reading {path.name}")
    with explaining(f"{path} cannot be read as .ts", "compare it with the format of the archives", "unreadable"):
        series, answers, facts = loaders.load_from_ts_file(str(path), return_meta_data=True)
    if len(series) == 0:
        raise DataError(f"{path} holds no series: they follow a line @data.")
    if not (facts["classlabel"] or facts["targetlabel"]):
        raise DataError(f"{path} has neither classes nor target values: its header must say which.")
    known = [None if answer != answer or answer == "?" else answer for answer in np.asarray(answers).tolist()]
    return [sample.T for sample in series], known, "label" if facts["classlabel"] else "value"
