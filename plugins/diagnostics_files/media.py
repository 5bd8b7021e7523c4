"""Images, videos, sounds and texts of a folder, with classes of folders or of a table.

Also rows of a dataset of Hugging Face.
"""

import functools
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diagnostics.plugin import Dataset, DiagnosticsError, LazySamples, Target, complete_splits, explaining
from diagnostics_files.decode import (
    FASTEST,
    SOUNDS,
    VIDEOS,
    Sound,
    Video,
    index_sound,
    index_video,
    one_rate,
    picture,
    read_sound,
    read_video,
)
from diagnostics_files.folder import (
    PICTURES,
    File,
    FileDataset,
    Unusable,
    check_regular,
    check_tree,
    classes,
    damaged,
    decoding,
    find,
    folder,
    join_notes,
    need,
    pad_left,
    sentence,
    usable,
    warn,
)
from diagnostics_files.tables import (
    Columns,
    column,
    dataset,
    in_roles,
    listed,
    read_table,
    target,
    targets_of,
    texts_of,
)

# Images, videos, sounds and texts of a folder, with classes of folders or of a table.


# Folders of files with one sample or several from each: classes from folders, targets from a table.


@dataclass(frozen=True)
class Labels:
    """Sources of the splits, groups and targets of files, besides their folders; see `plugin.images`."""

    table: str
    key: str
    group: str
    values: str
    seed: int
    on_error: str


@dataclass(frozen=True)
class Labelled:
    """The files of a folder that are samples, with their splits, groups and targets.

    `about` says where these come from.
    """

    name: str
    files: list[File]
    split: list[str]
    groups: list[str]
    targets: dict[str, Target]
    about: str
    left_out: dict[str, Unusable]
    exchangeable: bool | Literal["fit"]
    """As in `Dataset`."""

    def dataset(
        self,
        modality: str,
        samples: LazySamples,
        ids: list[str],
        owner: Sequence[int],
        about: str,
        options: str,
        **more: Any,
    ) -> FileDataset:
        """Samples as a dataset; the i-th comes from file `owner[i]`. For `options` and `more` see `FileDataset`."""
        rows = np.asarray(owner, dtype=int)
        return FileDataset(
            self.name,
            modality,
            samples,
            ids,
            [self.split[i] for i in rows],
            {name: replace(target, values=target.values[rows]) for name, target in self.targets.items()},
            groups=[self.groups[i] for i in rows],
            about=join_notes(about, self.about),
            files={file.name: file.path for file in self.files},
            options=options,
            exchangeable=self.exchangeable,
            left_out=self.left_out,
            **more,
        )

    def whole_files(self, modality: str, kind: str, read: Callable[[File], np.ndarray]) -> FileDataset:
        """Each file as one sample."""
        files = self.files
        samples = LazySamples(len(files), lambda i: read(files[i]))
        about = f"{len(files)} {kind} of a folder"
        return self.dataset(modality, samples, [f.name for f in files], range(len(files)), about, options="")


def labelled(
    every: Sequence[File],
    check: Callable[[File], object],
    root: Path,
    source: str,
    labels: Labels,
    index: Callable[[File], object] = lambda file: None,
    group: Callable[[File], str] = lambda file: file.name,
) -> Labelled:
    """The files that can be used, with what folders and table say about them.

    `check` decodes a file (see `usable`), `index` reads its header. The folder of a file is its `label`. The table
    names files in the column `key`; columns `split` and `group` are used as such, all others become targets. A file
    that the table does not name has unknown targets, and a name that is no file raises. Without a column `group` every
    file is one, or what `group` says of it.
    """
    kept, left_out = usable([file.name for file in every], lambda i: check(every[i]), labels.on_error, source)
    files = [every[i] for i in kept]
    for file in files:
        index(file)
    given: list[Any] = [file.split for file in files]
    groups = [group(file) for file in files]
    targets: dict[str, Target] = {}
    notes: list[str] = []
    if (of_file := classes(files)) is not None:
        label = target(of_file, "label")
        if isinstance(label, str):
            notes.append(f"no label: {label}")
            warn(f"{source} has no target label: {label}.")
        else:
            targets["label"] = label
    if labels.table:
        path = _table_path(labels.table, root)
        columns = in_roles(read_table(path), {"group": labels.group}, path)
        columns = _join(columns, every, kept, labels.key, path)
        if any(entry is not None for entry in columns.get("split", ())):
            given = columns["split"]
        groups = texts_of(columns, "group", groups)
        more, note = targets_of(columns, labels.values, path, ("split", "group"))
        if clash := set(more) & set(targets):
            raise DiagnosticsError(
                f"{path} has a column {clash.pop()}, and class folders give that too: rename the column.",
                code="duplicate",
            )
        targets |= more
        notes.append(note)
    elif labels.group:
        raise DiagnosticsError(
            f"{source} has no table, and group={labels.group} names a column of one: add ?table=.", code="no-effect"
        )
    split, how, exchangeable = complete_splits(given, groups, labels.seed, source, targets)
    about = join_notes(how, *notes, sentence(left_out, len(every)))
    return Labelled(
        root.resolve().name, files, split, groups, targets, about=about, left_out=left_out, exchangeable=exchangeable
    )


def _table_path(text: str, root: Path) -> Path:
    """The table in the working directory, or else in the folder."""
    given = Path(text).expanduser()
    for path in (given, root / given):
        if path.is_file():
            return path
    if given.is_absolute():
        raise DiagnosticsError(f"There is no table {given}: correct ?table=.", code="missing-file")
    raise DiagnosticsError(
        f"There is no table {text}, neither in the working directory {Path.cwd()} nor in the folder {root}: correct "
        f"?table=.",
        code="missing-file",
    )


def _join(columns: Columns, every: Sequence[File], kept: Sequence[int], key: str, path: Path) -> Columns:
    """The columns but `key`, in the order of the kept files."""
    row_of: dict[str, int] = {}
    for row, entry in enumerate(column(columns, key, path, "file")):
        name = str(entry).replace("\\", "/").removeprefix("./")
        if name in row_of:
            raise DiagnosticsError(f"{path} names {name} twice: keep one row for each file.", code="duplicate")
        row_of[name] = row
    there = {file.name for file in every}
    if missing := [name for name in row_of if name not in there]:
        raise DiagnosticsError(
            f"{path} names {len(missing)} file(s) that are not in the folder, {missing[0]} first: write names "
            f"as they are below the folder, or add the files.",
            code="bad-value",
        )
    rows = [row_of.get(every[i].name) for i in kept]
    return {
        name: [None if row is None else entries[row] for row in rows]
        for name, entries in columns.items()
        if name != key
    }


# Folders of images, of texts, of videos cut into clips, and of sound files, whole or cut into windows.


def images(path: str, labels: Labels) -> FileDataset:
    """See `plugin.images`."""
    root = folder(path, "images")

    def read(file: File) -> np.ndarray:
        return picture(file.path, file.name)

    known = labelled(find(root, PICTURES, "images"), read, root, f"images:{path}", labels)
    return known.whole_files("image", "images", read)


LONGEST_TEXT = 10 * 2**20
"""Bytes of a file that is one text."""


def texts(path: str, labels: Labels) -> FileDataset:
    """See `plugin.texts`; equal texts are a group, since the same words in train and test would be a test of memory."""
    root = folder(path, "texts")

    def read(file: File) -> str:
        check_regular(file.path, file.name)
        if (length := file.path.stat().st_size) > LONGEST_TEXT:
            raise Unusable(file.name, f"has {length:,} bytes, more than the {LONGEST_TEXT:,} of a text", "split it")
        with decoding(file.name):
            text = file.path.read_text(encoding="utf-8-sig").strip()
        if not text:
            raise damaged(file.name, "it is empty")
        return text

    first: dict[bytes, str] = {}

    def group(file: File) -> str:
        return first.setdefault(hashlib.sha256(read(file).encode()).digest(), file.name)

    known = labelled(find(root, (".txt",), "texts"), read, root, f"texts:{path}", labels, group=group)
    return known.whole_files("text", "texts", lambda file: np.asarray(read(file)))


def videos(path: str, frames: int, every: int, clips: int | None, labels: Labels) -> FileDataset:
    """See `plugin.videos`."""
    root = folder(path, "videos")
    if frames < 1 or every < 1 or (clips is not None and clips < 1):
        raise DiagnosticsError(
            f"Dataset videos cannot have frames={frames}, every={every}, clips={clips}: give 1 or more.",
            code="bad-value",
        )
    span = (frames - 1) * every + 1

    @functools.cache
    def index(file: File) -> Video:
        video = index_video(file.path, file.name)
        if len(video.times) < span:
            why = f"has {len(video.times)} frames, and a clip spans {span}"
            raise Unusable(file.name, why, "give a smaller ?frames= or ?every=")
        return video

    def read(video: Video, start: int) -> np.ndarray:
        return read_video(video, range(start, start + span, every))

    def check(file: File) -> None:
        for start in index(file).starts(span, clips):
            read(index(file), start)

    known = labelled(find(root, VIDEOS, "videos"), check, root, f"videos:{path}", labels, index)
    indexed = [index(file) for file in known.files]
    cut = [(i, start) for i, video in enumerate(indexed) for start in video.starts(span, clips)]
    rates = {video.rate for video in indexed}
    rate = rates.pop() if len(rates) == 1 else None
    return known.dataset(
        "video",
        LazySamples(len(cut), lambda i: read(indexed[cut[i][0]], cut[i][1])),
        [f"{indexed[i].name}@{start:06d}" for i, start in cut],
        [i for i, _ in cut],
        f"{len(cut)} clips of {frames} frames from {len(indexed)} videos",
        f"frames={frames} every={every} clips={clips}",
        rate=rate / every if rate else None,
    )


def audio(path: str, rate: int | None, seconds: float | None, labels: Labels) -> FileDataset:
    """See `plugin.audio`."""
    scheme = f"audio:{path}"
    root = folder(path, "audio")
    if (rate is not None and not 1 <= rate <= FASTEST) or (seconds is not None and not 0 < seconds < np.inf):
        raise DiagnosticsError(
            f"Dataset audio cannot have rate={rate} and seconds={seconds}: give numbers above 0, and {FASTEST:,} "
            "samples a second at most.",
            code="bad-value",
        )

    @functools.cache
    def index(file: File) -> Sound:
        return index_sound(file.path, file.name)

    def check(file: File) -> None:
        read_sound(index(file), index(file).rate)

    known = labelled(find(root, SOUNDS, "sound files"), check, root, scheme, labels, index)
    indexed = [index(file) for file in known.files]
    hertz = rate if rate is not None else one_rate(indexed, scheme)
    pieces = [(i, start, stop) for i, sound in enumerate(indexed) for start, stop in sound.windows(hertz, seconds)]
    longest = max(stop - start for _, start, stop in pieces)

    def sample(i: int) -> np.ndarray:
        file, start, stop = pieces[i]
        return pad_left(read_sound(indexed[file], hertz, start, stop), longest)

    cut = seconds is not None
    return known.dataset(
        "audio",
        LazySamples(len(pieces), sample),
        [f"{indexed[i].name}@{start:09d}" if cut else indexed[i].name for i, start, _ in pieces],
        [i for i, _, _ in pieces],
        f"{len(pieces)} {'windows' if cut else 'recordings'} at {hertz} Hz of {len(indexed)} sound files",
        f"rate={hertz} seconds={seconds}",
        rate=float(hertz),
        ragged=any(stop - start < longest for _, start, stop in pieces),
    )


# Hugging Face `datasets` saved to disk: images, audio, series or texts with their other columns as targets.


def _entries(parts: dict[str, Any], column: str) -> list[Any]:
    """A column of the rows of all splits, one after another."""
    return [entry for part in parts.values() for entry in part[column]]


def datasets_on_disk(path: str, input: str | None, values: str, rate: int | None, seed: int, on_error: str) -> Dataset:
    """See `plugin.datasets_on_disk`."""
    scheme = f"datasets:{path}"
    root = folder(path, "datasets")
    library = need("datasets", "datasets", f"Reading {scheme}")
    check_tree(root)
    with explaining(f"{root} cannot be loaded as a saved dataset", "write it with save_to_disk", "unreadable"):
        loaded = library.load_from_disk(str(root))
    parts: dict[str, Any] = dict(loaded) if isinstance(loaded, library.DatasetDict) else {"": loaded}
    features = next(iter(parts.values())).features
    column, modality = _input(features, input, scheme, library)
    if modality in ("image", "audio"):  # the bytes as they are: decoding is ours, so that errors name the row
        kind = (library.Image if modality == "image" else library.Audio)(decode=False)
        parts = {name: part.cast_column(column, kind) for name, part in parts.items()}
    samples = {name: part.select_columns([column]) for name, part in parts.items()}
    places = [(name, i) for name, part in parts.items() for i in range(len(part))]
    if not places:
        raise DiagnosticsError(f"{scheme} holds no rows: save a dataset that has some.", code="too-few")
    targets, groups, note = _targets(parts, features, column, values, scheme, library)
    ids = [f"{name or 'row'}-{i:06d}" for name, i in places]
    given = [name for name, _ in places]
    if modality == "series":
        columns: Columns = {"id": list(ids), "split": [s or None for s in given], "group": groups or [None] * len(ids)}
        steps = [listed(entry, i, scheme) for i, entry in enumerate(_entries(samples, column), 1)]
        base = dataset(root.resolve().name, steps, columns, "", seed, scheme)
        return Dataset(
            base.name,
            "series",
            base.samples,
            base.ids,
            base.split.tolist(),
            targets,
            groups=base.groups.tolist(),
            about=join_notes(base.about, note),
            ragged=base.ragged,
            exchangeable=base.exchangeable,
        )

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
    read = {name: replace(target, values=target.values[kept]) for name, target in targets.items()}
    split, how, exchangeable = complete_splits([given[i] for i in kept], [units[i] for i in kept], seed, scheme, read)
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
        read,
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
                f"Column {wanted} of {scheme} is no image, audio, list of numbers or text; these are: "
                f"{', '.join(kinds) or 'none'}: correct ?input=.",
                code="unknown-name",
            )
        return wanted, kinds[wanted]
    chosen = [n for n, kind in kinds.items() if kind != "text"] or [n for n in kinds if n == "text"] or list(kinds)
    if len(chosen) != 1:
        raise DiagnosticsError(
            f"{scheme} has {len(chosen)} columns that could be samples ({', '.join(chosen)}): say which with ?input=.",
            code="unclear",
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
        raise damaged(name, "it is empty")
    return np.asarray(entry)


def _bytes(entry: Any, name: str) -> io.BytesIO:
    if entry is None:
        raise damaged(name, "it is empty")
    if entry.get("bytes") is None:
        why = f"names the file {Path(str(entry.get('path'))).name} outside the saved dataset"
        raise Unusable(f"Row {name}", why, "embed the bytes before save_to_disk", skip=False)
    return io.BytesIO(entry["bytes"])
