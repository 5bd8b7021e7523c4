"""Tables of CSV, JSON lines and Parquet as columns, and columns as targets."""

import csv
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import DiagnosticsError, Target
from diagnostics_files.errors import need, warn

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
Columns = dict[str, list[Any]]
"""Name -> an entry for each row; None where it is not known."""

_WHOLE = re.compile(r"[+-]?\d+")


def read_table(path: Path) -> Columns:
    """The columns of a table: `.csv` and `.tsv` with a header, `.jsonl` of one object a line, `.parquet`.

    Empty cells, null and NaN are None. CSV has no types: a column of whole numbers becomes int, of other numbers float.
    """
    if not path.is_file():
        raise DiagnosticsError(f"There is no table {path}: give the path of a .csv, .jsonl or .parquet file.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DiagnosticsError(f"{path} is not one of {', '.join(SUFFIXES)}: save the table as one of these.")
    try:
        if suffix in (".csv", ".tsv"):
            columns = _csv(path, "," if suffix == ".csv" else "\t")
        elif suffix == ".parquet":
            columns = _parquet(path)
        else:
            columns = _json_lines(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DiagnosticsError(
            f"{path} cannot be read as UTF-8 text of a table ({error}): save it as UTF-8."
        ) from error
    if not columns or not next(iter(columns.values())):
        raise DiagnosticsError(f"{path} holds no rows: give a table with a header and one row for each sample.")
    return columns


def column(columns: Columns, name: str, path: Path, option: str = "") -> list[Any]:
    """The column of that name, or the sentence that says which there are."""
    if name not in columns:
        remedy = f"name yours with ?{option}=" if option else f"add a column {name}"
        raise DiagnosticsError(f"{path} has no column '{name}' but {', '.join(columns)}: {remedy}.")
    return columns[name]


def texts_of(columns: Columns, name: str, default: Sequence[str]) -> list[str]:
    """The entries of a column as texts, and the default of a row where there is none."""
    entries = columns.get(name, [None] * len(default))
    return [text if entry is None else str(entry) for text, entry in zip(default, entries, strict=True)]


def targets_of(
    columns: Mapping[str, Sequence[Any]], values: str, path: object, skip: Collection[str] = ()
) -> tuple[dict[str, Target], str]:
    """Columns as targets, and in words which were left out and why.

    Text, whole numbers and true or false make a `label`, other numbers a `value`; `values` names, with commas between,
    columns of whole numbers that are quantities. None is unknown. Left out: a label with one class, one with more classes than
    half of its known samples (it names samples, not kinds), a value that is always the same.
    """
    quantities = {name.strip() for name in values.split(",") if name.strip()}
    if missing := quantities - set(columns):
        raise DiagnosticsError(
            f"{path} has no column '{sorted(missing)[0]}' but {', '.join(columns)}: correct ?values=."
        )
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
            raise DiagnosticsError(f"Two columns of {path} would both be target {safe}: rename one of them.")
        targets[safe] = parsed
    note = f"not a target: {', '.join(left_out)}" if left_out else ""
    if note:
        warn(f"{path}: {note}.")
    return targets, note


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
                f"Column {name} of {path} is infinite in row {row}: leave it empty where it is not known."
            )
        return "it is always the same" if len(set(known)) == 1 else Target("value", numbers, about=name)
    if quantity:
        raise DiagnosticsError(f"Column {name} of {path} holds text, so it is no quantity: take it out of ?values=.")
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
            raise DiagnosticsError(f"The cells of {path} are separated by {other!r}, not {delimiter!r}: save it so.")
        cells: list[list[str]] = []
        for row in filter(None, rows):
            if len(row) != len(header):
                raise DiagnosticsError(
                    f"Line {rows.line_num} of {path} has {len(row)} cells and the header {len(header)}: correct that line."
                )
            cells.append([cell.strip() for cell in row])
    return {name: _typed([row[i] for row in cells]) for i, name in enumerate(header)}


def _typed(cells: Sequence[str]) -> list[Any]:
    known = [cell for cell in cells if cell and cell.lower() != "nan"]
    convert: Any = str
    if all(_WHOLE.fullmatch(cell) for cell in known):
        convert = int
    else:
        try:
            for cell in known:
                float(cell)
            convert = float
        except ValueError:
            pass
    return [convert(cell) if cell and cell.lower() != "nan" else None for cell in cells]


def _json_lines(path: Path) -> Columns:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DiagnosticsError(f"Line {number} of {path} is not JSON ({error}): correct that line.") from error
            if not isinstance(row, dict):
                raise DiagnosticsError(
                    f'Line {number} of {path} is not a JSON object: write {{"name": value, ...}} on each line.'
                )
            rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [_known(row.get(name)) for row in rows] for name in names}


def _parquet(path: Path) -> Columns:
    parquet = need("pyarrow.parquet", "pyarrow", f"Reading {path.name}")
    try:
        table = parquet.read_table(path)
    except Exception as error:
        raise DiagnosticsError(f"{path} cannot be read as Parquet ({type(error).__name__}): write it again.") from error
    _check_names(table.column_names, path)
    return {name: [_known(entry) for entry in table.column(name).to_pylist()] for name in table.column_names}


def _known(entry: Any) -> Any:
    return None if entry == "" or (isinstance(entry, float) and math.isnan(entry)) else entry


def _check_names(names: Sequence[str], path: Path) -> None:
    if len(set(names)) != len(names) or "" in names:
        raise DiagnosticsError(
            f"Columns of {path} have no or the same name ({', '.join(names)}): name each differently."
        )
