"""Hugging Face `datasets` saved to disk: images, audio, series or texts with their other columns as targets."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import Dataset, DiagnosticsError, LazySamples, Target, complete_splits
from diagnostics_files.decode.media import Sound, index_sound, one_rate, picture, read_sound
from diagnostics_files.decode.tables import Columns, listed, targets_of
from diagnostics_files.folder import (
    FileDataset,
    Unusable,
    check_tree,
    damaged,
    find,
    folder,
    join_notes,
    need,
    pad_left,
    sentence,
    usable,
)
from diagnostics_files.series import dataset as of_series


def _entries(parts: dict[str, Any], column: str) -> list[Any]:
    """A column of the rows of all splits, one after another."""
    return [entry for part in parts.values() for entry in part[column]]


def build(path: str, input: str | None, values: str, rate: int | None, seed: int, on_error: str) -> Dataset:
    """See `plugin.datasets_on_disk`."""
    scheme = f"datasets:{path}"
    root = folder(path, "datasets")
    library = need("datasets", "datasets", f"Reading {scheme}")
    check_tree(root)
    try:
        loaded = library.load_from_disk(str(root))
    except Exception as error:
        raise DiagnosticsError(
            f"{root} cannot be loaded as a saved dataset ({type(error).__name__}): write it with save_to_disk."
        ) from error
    parts: dict[str, Any] = dict(loaded) if isinstance(loaded, library.DatasetDict) else {"": loaded}
    features = next(iter(parts.values())).features
    column, modality = _input(features, input, scheme, library)
    if modality in ("image", "audio"):  # the bytes as they are: decoding is ours, so that errors name the row
        kind = (library.Image if modality == "image" else library.Audio)(decode=False)
        parts = {name: part.cast_column(column, kind) for name, part in parts.items()}
    samples = {name: part.select_columns([column]) for name, part in parts.items()}
    places = [(name, i) for name, part in parts.items() for i in range(len(part))]
    if not places:
        raise DiagnosticsError(f"{scheme} holds no rows: save a dataset that has some.")
    targets, groups, note = _targets(parts, features, column, values, scheme, library)
    ids = [f"{name or 'row'}-{i:06d}" for name, i in places]
    given = [name for name, _ in places]
    if modality == "series":
        columns: Columns = {"id": list(ids), "split": [s or None for s in given], "group": groups or [None] * len(ids)}
        steps = [listed(entry, i, scheme) for i, entry in enumerate(_entries(samples, column), 1)]
        base = of_series(root.resolve().name, steps, columns, "", seed, scheme)
        return Dataset(
            base.name, "series", base.samples, base.ids, base.split.tolist(), targets, groups=base.groups.tolist(),
            about=join_notes(base.about, note), ragged=base.ragged, exchangeable=base.exchangeable,
        )  # fmt: skip

    def entry(row: int) -> Any:
        name, i = places[row]
        return samples[name][i][column]

    def sound(row: int) -> Sound:
        path = str((entry(row) or {}).get("path") or ".wav")
        return index_sound(lambda: _bytes(entry(row), ids[row]), f"{ids[row]}{Path(path).suffix}")

    def sample(row: int) -> Any:
        if modality == "text":
            return _text(entry(row), ids[row])
        if modality == "image":
            return picture(_bytes(entry(row), ids[row]), ids[row])
        heard = sound(row)
        return read_sound(heard, rate or heard.rate)

    kept, left_out = usable(ids, sample, on_error, scheme)
    units = groups or (_entries(samples, column) if modality == "text" else ids)
    split, how, exchangeable = complete_splits([given[i] for i in kept], [units[i] for i in kept], seed, scheme)
    hertz, lengths = None, {0}
    if modality == "audio":
        sounds = [sound(i) for i in kept]
        hertz = rate or one_rate(sounds, scheme)
        lengths = {each.length_at(hertz) for each in sounds}
    longest = max(lengths)
    return FileDataset(
        root.resolve().name,
        modality,
        LazySamples(
            len(kept), lambda i: pad_left(sample(kept[i]), longest) if modality == "audio" else sample(kept[i])
        ),
        [ids[i] for i in kept],
        split,
        {name: replace(target, values=target.values[kept]) for name, target in targets.items()},
        groups=[str(units[i]) for i in kept],
        about=join_notes(f"{len(kept)} rows, {column} read as {modality}", how, note, sentence(left_out, len(ids))),
        rate=None if hertz is None else float(hertz),
        ragged=len(lengths) > 1,
        files={f.name: f.path for f in find(root, (".arrow",), "Arrow files")},
        options=f"input={column} rate={hertz}",
        left_out=left_out,
        exchangeable=exchangeable,
    )


def _input(features: Any, wanted: str | None, scheme: str, library: Any) -> tuple[str, Any]:
    """The column that is the sample, and its modality."""
    kinds = {name: kind for name, feature in features.items() if (kind := _modality(feature, library))}
    if wanted is not None:
        if wanted not in kinds:
            raise DiagnosticsError(
                f"Column {wanted} of {scheme} is no image, audio, list of numbers or text; these are: {', '.join(kinds) or 'none'}: "
                "correct ?input=."
            )
        return wanted, kinds[wanted]
    chosen = [n for n, kind in kinds.items() if kind != "text"] or [n for n in kinds if n == "text"] or list(kinds)
    if len(chosen) != 1:
        raise DiagnosticsError(
            f"{scheme} has {len(chosen)} columns that could be samples ({', '.join(chosen)}): say which with ?input=."
        )
    return chosen[0], kinds[chosen[0]]


def _modality(feature: Any, library: Any) -> str:
    if isinstance(feature, library.Image):
        return "image"
    if isinstance(feature, library.Audio):
        return "audio"
    if isinstance(feature, library.Array2D):
        return "series"
    if isinstance(feature, (library.List, library.LargeList)):
        inner: Any = feature.feature
        inner = inner.feature if isinstance(inner, library.List) else inner
        return "series" if isinstance(inner, library.Value) and inner.dtype.startswith(("float", "int")) else ""
    return "text" if isinstance(feature, library.Value) and feature.dtype in ("string", "large_string") else ""


def _targets(
    parts: dict[str, Any], features: Any, column: str, values: str, scheme: str, library: Any
) -> tuple[dict[str, Target], list[str] | None, str]:
    """Targets from the other plain columns, groups from a column `group`, and what was left out."""
    columns: Columns = {}
    targets: dict[str, Target] = {}
    for name, feature in features.items():
        if name == column or not isinstance(feature, (library.Value, library.ClassLabel)):
            continue
        entries = _entries(parts, name)
        if isinstance(feature, library.ClassLabel) and len(set(entries)) > 1:
            codes = np.array([-1 if entry is None else entry for entry in entries])
            targets[name] = Target("label", codes, about=name, classes=tuple(feature.names))
        else:
            columns[name] = [None if entry is None or entry != entry else entry for entry in entries]
    groups = [str(entry) for entry in columns.pop("group")] if "group" in columns else None
    more, note = targets_of(columns, values, scheme)
    return targets | more, groups, note


def _text(entry: Any, name: str) -> np.ndarray:
    if not isinstance(entry, str) or not entry.strip():
        raise damaged(name, "it is an empty text")
    return np.asarray(entry)


def _bytes(entry: Any, name: str) -> io.BytesIO:
    if entry is None:
        raise damaged(name, "it is empty")
    if entry.get("bytes") is None:
        why = f"names the file {Path(str(entry.get('path'))).name} outside the saved dataset"
        raise Unusable(f"Row {name}", why, "embed the bytes before save_to_disk", skip=False)
    return io.BytesIO(entry["bytes"])
