"""The dataset contract: samples with ids, splits, groups, targets and questions; and targets no probe can predict.

Splits are completed where only some are given, and drawn over groups where there is none; a subset keeps their shares.
The option `log` of every dataset reads targets as their logarithm.
"""

import copy
import dataclasses
import hashlib
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from types import MappingProxyType
from typing import Any, Literal, SupportsIndex, get_args, overload

import numpy as np

from diagnostics.datasets.boxes import why_no_boxes
from diagnostics.datasets.matches import why_no_matches
from diagnostics.datasets.questions import why_no_questions
from diagnostics.datasets.target import LazySamples, Target, extremes, misfit, one_by_one
from diagnostics.errors import DiagnosticsError, check_known, explaining, refuse_values
from diagnostics.vocabulary import BOXED, SAFE_NAME, SPLIT_OF, SPLITS, Kind, Modality

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a sample and its answer.

    Parameters
    ----------
    name: which question it is (`colour`), alike for all samples: scores are told apart by it.
    answer: one text.
    wordings: the question in one or several wordings; a wording of "" asks nothing, so that the answer is a caption.
    held_back: wordings that are never trained on, in which a test asks. Without any it asks in `wordings`.

    Raises DiagnosticsError without a wording.

    Examples:
        >>> import diagnostics as dx
        >>> question = dx.Question("colour", "red", ("which colour?", "name its colour."))
        >>> question.answer
        'red'

        Of a dataset that comes with its questions:

        >>> data = dx.build("dataset", "shapes?n=24&size=32")
        >>> {question.name: question.answer for question in data.questions[0]}
        {'shape': 'star', 'colour': 'red', 'count': 'two', 'upper_left': 'nothing'}
    """

    name: str
    answer: str
    wordings: tuple[str, ...] = ("",)
    held_back: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.wordings:
            raise DiagnosticsError(
                f"Question {self.name} has no wording: give one, or leave `wordings` out for a caption.",
                code="missing-option",
            )


def captioned(texts: tuple[str, ...] | LazySamples) -> tuple[tuple[Question, ...], ...] | LazySamples:
    """Captions [sample] as the answers to a question that asks nothing, read on demand as they are."""
    if isinstance(texts, LazySamples):
        return LazySamples(len(texts), lambda i: (Question("caption", texts[i]),))
    return tuple((Question("caption", text),) for text in texts)


class Dataset:
    """A map-style dataset, in memory or read on demand.

    Parameters
    ----------
    samples: a sequence of raw samples; `image`: uint8 [y, x] or [y, x, channel]; `video`: uint8 [t, y, x, channel];
        `series`: float [time] or [time, variate]; `audio`: float [time] from -1 to 1; `text`: a string. Missing values
        of a series are NaN.
    ids: stable and unique, one for each sample.
    split: `train`, `val` or `test` for each sample.
    targets: name -> `Target`.
    groups: the unit that each sample shares with others (video, subject, scene); by default each sample is its own. A
        group must lie within one split, and intervals resample groups.
    fingerprint: must change whenever any content does; by default a digest of everything.
    about: one line for `diagnostics list` and the report.
    rate: sampling rate (Hz) of audio, frames per second of video; None where it is not known.
    ragged: whether samples have unequal lengths, as of `pad_series`, so that tokens at the same place of two samples
        have nothing in common; only pooled activations are stored then. Always true for texts.
    texts: what is said of each sample, its caption; `LazySamples` of strings where they are read on demand.
    questions: what can be asked of each sample, with the answers; by default its caption is the answer to nothing.
    views: another view of each sample, in which a target `matches` finds the same points; read on demand.
    extras: what plugins alone read, by name, as `text_survives` of the training of image and text towers: the changes
        of an image under which the texts stay true.
    exchangeable: whether train and val are random parts of one pool, drawn over groups as by `split_groups`: layers and
        penalties are then chosen on both, out of fold, else on val alone. "fit" where test was given and is another
        pool: such splits are not drawn again (`--redraws`). No part of the fingerprint.

    Raises DiagnosticsError where lengths differ, ids repeat, a split is empty, a group lies in two splits, or a target
    does not fit its kind.

    Examples:
        >>> import numpy as np
        >>> import diagnostics as dx
        >>> series = np.random.default_rng(0).standard_normal((10, 64))
        >>> split = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
        >>> mean = dx.Target("value", series.mean(axis=1), about="mean of the series")
        >>> ids = [f"noise-{i}" for i in range(10)]
        >>> data = dx.Dataset("noise", "series", series, ids, split, {"mean": mean})
        >>> data
        <Dataset noise: 10 series samples, targets mean>
        >>> data.counts()
        {'train': 6, 'val': 2, 'test': 2}
        >>> len(data[data.split == "test"])
        2
    """

    modality: Modality
    texts: tuple[str, ...] | LazySamples
    """The caption of each sample; () where there are none."""
    questions: tuple[tuple[Question, ...], ...] | LazySamples
    """Of each sample what can be asked, with the answers, or the caption alone; () where there is neither."""
    views: Sequence[np.ndarray]
    """Another view of each sample; () where there is none."""
    extras: Mapping[str, Any]
    """What plugins alone read, by name."""
    exchangeable: bool | Literal["fit"]
    """Whether train and val are random parts of one pool; True where test is too, "fit" where it was given."""

    def __repr__(self) -> str:
        targets = ", ".join(self.targets) or "none"
        return f"<{type(self).__name__} {self.name}: {len(self)} {self.modality} samples, targets {targets}>"

    def __init__(
        self,
        name: str,
        modality: Modality,
        samples: Sequence[np.ndarray] | np.ndarray,
        ids: Sequence[str],
        split: Sequence[str],
        targets: Mapping[str, Target],
        *,
        groups: Sequence[str] | None = None,
        fingerprint: str | None = None,
        about: str = "",
        rate: float | None = None,
        ragged: bool = False,
        texts: Sequence[str] = (),
        questions: Sequence[Sequence[Question]] = (),
        views: Sequence[np.ndarray] = (),
        extras: Mapping[str, Any] = MappingProxyType({}),
        exchangeable: bool | Literal["fit"] = False,
    ) -> None:
        self.name, self.modality, self.about = name, modality, about
        self.rate, self.ragged = rate, ragged or modality == "text"
        self.exchangeable = exchangeable
        self.samples = samples
        self.ids = [str(i) for i in ids]
        self.split = np.asarray(split, dtype=object)
        self.groups = np.asarray(self.ids if groups is None else groups, dtype=object)
        self.targets = dict(targets)
        self.texts = texts if isinstance(texts, LazySamples) else tuple(texts)
        self.questions = tuple(map(tuple, questions)) if len(questions) else captioned(self.texts)
        self.views, self.extras = views, dict(extras)
        self._check()
        self._fingerprint = fingerprint

    def _check(self) -> None:
        n = len(self.samples)
        refuse_values((n == 0, f"Dataset {self.name} is empty.", "too-few"))
        columns = {"ids": self.ids, "split": self.split, "groups": self.groups}
        # Not every dataset has these.
        columns |= {name: column for name in ("texts", "questions", "views") if len(column := getattr(self, name))}
        for name, column in columns.items():
            if len(column) != n:
                raise DiagnosticsError(
                    f"Dataset {self.name} has {n} samples but {len(column)} {name}.", code="bad-shape"
                )
        texts = () if self.modality != "text" or isinstance(self.samples, LazySamples) else self.samples
        for i, text in enumerate(map(np.asarray, texts)):
            why = "missing" if text.dtype.kind not in "UT" else "" if str(text).strip() else "empty"
            why = why and f"Text {i + 1} of {self.name} ({self.ids[i]}) is {why}: fill it in or remove it."
            refuse_values((bool(why), why, "bad-sample"))
        if len(set(self.ids)) != n:
            raise DiagnosticsError(f"Dataset {self.name} gives the same id to several samples.", code="duplicate")
        if odd := [name for name in (*self.ids, *self.groups) if _SURROGATE.search(str(name))]:
            raise DiagnosticsError(
                f"Dataset {self.name} has {odd[0]!r:.80} as an id or group, which cannot be written as UTF-8.",
                code="bad-data",
            )
        for split in SPLITS:
            if not (self.split == split).any():
                raise DiagnosticsError(
                    f"Dataset {self.name} has no {split} samples: it needs train, val and test.", code="bad-splits"
                )
        if odd := set(self.split) - set(SPLITS):
            raise DiagnosticsError(
                f"Dataset {self.name} has splits {sorted(odd)} beside train, val and test.", code="bad-splits"
            )
        seen: dict[str, str] = {}
        for group, split in zip(self.groups, self.split, strict=True):
            if seen.setdefault(group, split) != split:
                raise DiagnosticsError(
                    f"Dataset {self.name} has group {group} in {seen[group]} and in {split}: keep each group "
                    f"in one split.",
                    code="bad-splits",
                )
        for name, target in self.targets.items():
            if not isinstance(target, Target):
                raise DiagnosticsError(
                    f"Target {name} of {self.name} is a {type(target).__name__}: give a diagnostics.Target.",
                    code="bad-type",
                )
            if not SAFE_NAME.fullmatch(name):
                raise DiagnosticsError(
                    f"Target name {name!r} of {self.name} cannot be stored: use letters, digits, '_', '-' and '.', "
                    "not starting with a dot.",
                    code="bad-target",
                )
            unknown = f"Target {name} of {self.name} has unknown kind '{target.kind}'."
            refuse_values((target.kind not in get_args(Kind), unknown, "bad-target"))
            wrong = misfit(target)
            if target.kind in (*BOXED, "matches") and self.modality != "image":
                wrong = wrong or f"only images have {target.kind}"
            if wrong:
                raise DiagnosticsError(
                    f"Target {name} of {self.name} is of kind {target.kind}, but {wrong}.", code="bad-target"
                )
            if target.kind == "matches" and not len(self.views):
                raise DiagnosticsError(
                    f"Target {name} of {self.name} matches points of two views, and the dataset has no `views`.",
                    code="bad-target",
                )
            if len(target.values) != n:
                raise DiagnosticsError(
                    f"Target {name} of {self.name} has {len(target.values)} values for {n} samples.", code="bad-shape"
                )

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: SupportsIndex) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> LazySamples: ...

    def __getitem__(self, index: Any) -> np.ndarray | LazySamples:
        """A sample, or the samples of a slice, a mask or several integers, as numpy indexes an axis."""
        try:
            one = operator.index(index)
        except TypeError:
            return LazySamples(len(self), self.__getitem__)[index]
        # From the end: what reads samples may not know how.
        sample = np.asarray(self.samples[one + len(self) if -len(self) <= one < 0 else one])
        # Torch warns of arrays that cannot be written to.
        return sample if sample.flags.writeable else sample.copy()

    @property
    def fingerprint(self) -> str:
        """Digest of samples, ids, splits, groups, targets, texts and questions."""
        if self._fingerprint is None:
            digest = hashlib.sha256(b"" if self.rate is None else f"{self.rate!r};".encode())
            for column in (self.ids, self.split, self.groups):
                digest.update("\x1f".join(map(str, column)).encode() + b"\x1e")
            for i in range(len(self)):
                with explaining(f"Sample {self.ids[i]} of {self.name} cannot be read, repair it or leave it out"):
                    sample = self[i]
                _digest_array(digest, sample)
            for name, target in sorted(self.targets.items()):
                facts = target.kind, target.classes, target.period, target.units, target.family
                digest.update(" ".join(map(str, (name, *facts))).encode())
                # Embeddings of questions, which follow, have other last digits elsewhere.
                for values in [] if target.kind == "questions" else target.blocks():
                    _digest_array(digest, values)
                if target.naive is not None:
                    _digest_array(digest, np.asarray(target.naive))
            for view in self.views:
                _digest_array(digest, np.asarray(view))
            digest.update("".join(f"\x1f{text}" for text in self.texts).encode())
            for asked in self.questions:
                digest.update(f"{[astuple(question) for question in asked]};".encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def counts(self) -> dict[str, int]:
        """Number of samples in each split."""
        return {split: int((self.split == split).sum()) for split in SPLITS}


def split_groups(
    groups: Sequence[Any],
    seed: int,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    targets: Mapping[str, Target] = MappingProxyType({}),
) -> np.ndarray:
    """A random split for each sample in which no group is in two splits: an object array of `train`, `val`, `test`.

    `fractions` are shares of the groups, not of the samples. With `targets`, a draw whose train would lack a class of a
    `label` is changed so that it shows each, where that takes up to half of its groups. Raises DiagnosticsError for
    fewer than 3 groups. Tell the `Dataset` of such a split that it is `exchangeable`.

    Examples:
        >>> import diagnostics as dx
        >>> video = ["a", "a", "a", "b", "c", "c", "d", "e"]
        >>> split = dx.split_groups(video, seed=0)
        >>> for name, part in zip(video, split):
        ...     print(name, part)
        a val
        a val
        a val
        b test
        c train
        c train
        d train
        e train
    """
    unique, inverse = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(unique) < 3:
        raise DiagnosticsError(
            f"{len(unique)} group(s) cannot fill train, val and test: give at least 3 (samples of one file, and equal "
            f"texts, are one group).",
            code="too-few",
        )
    order = np.random.default_rng(seed).permutation(len(unique))
    bounds = np.cumsum(fractions)[:2] * len(unique)
    first = min(max(1, round(bounds[0])), len(unique) - 2)
    second = min(max(first + 1, round(bounds[1])), len(unique) - 1)
    order = _with_classes(order, first, inverse, targets)
    of_group = np.full(len(unique), "test", dtype=object)
    of_group[order[:first]] = "train"
    of_group[order[first:second]] = "val"
    return of_group[inverse]


def _with_classes(
    order: np.ndarray, train: int, groups: np.ndarray, targets: Mapping[str, Target], rows: Any = slice(None)
) -> np.ndarray:
    """The order of groups, in which the first `train` show each class of the labels of `rows`.

    It is as given where they do already, and where more than half of them would be chosen so.
    """
    place, labels = np.argsort(order)[groups], [each.values[rows] for each in targets.values() if each.kind == "label"]
    first = {int(place[values == each].min()) for values in labels for each in np.unique(values[values >= 0])}
    if max(first, default=0) < train or 2 * len(first) > train:
        return order
    return np.concatenate([order[sorted(first)], np.delete(order, [*first])])


def _digest_array(digest: Any, array: np.ndarray) -> None:
    data = np.ascontiguousarray(array)
    if data.dtype.kind == "O":  # texts: the bytes of an object array are addresses
        data = data.astype(str)
    digest.update(f"{data.dtype.str} {data.shape};".encode())
    digest.update(data.tobytes())


def unprobeable_targets(dataset: Dataset) -> dict[str, str]:
    """Targets that no probe can predict, `{name: reason}`.

    It is unknown in a split, constant in train, too large, of classes that train lacks, or by place of unequal samples.
    """
    reasons = {name: _why_not(name, target, dataset) for name, target in dataset.targets.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _why_not(name: str, target: Target, dataset: Dataset) -> str:
    split = dataset.split
    if dataset.ragged and target.dense:
        far = f"Target {name} is by place, and samples of {dataset.name} have unequal lengths: their tokens are not"
        return f"{far} stored. Give samples of one length, or fit a readout on encoder.transform(..., tokens=True)."
    other = {"matches": why_no_matches, "questions": why_no_questions, **dict.fromkeys(BOXED, why_no_boxes)}
    if target.kind in ("masks", *other):  # what reads masks is not fitted
        return other[target.kind](name, target.values, split) if target.kind in other else ""
    lazy = target.values.dtype == object
    values = extremes(target, split) if lazy else target.values.reshape(len(target.values), -1)
    classes = target.kind.endswith("label")
    known = np.asarray(values >= 0 if classes else np.isfinite(values))
    # A map may be known in part; a value, a forecast or a caption only as a whole.
    rows: np.ndarray = np.asarray(known.any(axis=1) if target.dense else known.all(axis=1))
    remedy = "leave it out or use more samples"
    for part in SPLITS:
        if not rows[split == part].any():
            return f"Target {name} is known for no {part} sample: {remedy}."
    train = rows & (split == "train")
    seen = values[known & train[:, None]]
    if seen.min() == seen.max() and not (target.kind == "caption" and values.shape[1] > 1):
        constant = "only one class" if classes else f"the one value {seen.min():g}"
        return f"Target {name} has {constant} in its {int(train.sum())} train samples: {remedy}."
    if not classes and (most := float(np.abs(values[known]).max())) > 1e150:  # no sum of their squares is a number
        return f"Target {name} reaches {most:g}, too large to be squared: give other units, or mark it unknown (NaN)."
    if target.kind == "label":
        new = sorted(set(np.unique(values[rows]).tolist()) - set(np.unique(seen).tolist()))
        if new:
            return (
                f"Target {name} has no train sample of {_class_names(new, target)}: use more samples of it, leave it "
                f"out, or mark it unknown (-1)."
            )
    return ""


def _class_names(classes: list[int], target: Target) -> str:
    names = [target.classes[c] if c < len(target.classes) else str(c) for c in classes]
    more = f" and {len(names) - 5} others" if len(names) > 5 else ""
    return f"class{'es' if len(names) > 1 else ''} {', '.join(names[:5])}{more}"


VAL_SHARE = 0.2
"""Of the groups of train, where val is carved out of it."""


def complete_splits(
    given: Sequence[object],
    groups: Sequence[str],
    seed: int,
    name: str,
    targets: Mapping[str, Target] = MappingProxyType({}),
) -> tuple[list[str], str, bool | Literal["fit"]]:
    """Splits of the samples of data called `name`, how they came about in words, and `exchangeable` of `Dataset`.

    `given` holds names like `train`, `val`, `test`, or None or `""` for no split. With three splits they stay. With
    train and one other, that other is test, since what is reported must not have chosen anything, and a fifth of the
    groups of train becomes val. With one or none, all three are drawn over groups, as by `split_groups` with these
    `targets`. Raises DiagnosticsError where that cannot be done.

    Examples:
        >>> import diagnostics as dx
        >>> series = [f"series-{i}" for i in range(6)]
        >>> given = ["train"] * 4 + ["test"] * 2
        >>> split, how, exchangeable = dx.complete_splits(given, series, 0, "mine")
        >>> split, exchangeable
        (['train', 'train', 'val', 'train', 'test', 'test'], 'fit')
        >>> how
        'test is the given test, val a fifth of train'
    """
    if seed < 0:
        raise DiagnosticsError(f"Dataset {name} cannot have seed={seed}: give 0 or more.", code="bad-value")
    parts = [
        SPLIT_OF.get(text, text) for entry in given for text in ["" if entry is None else str(entry).strip().lower()]
    ]
    names = set(parts)
    if odd := names - {*SPLITS, ""}:
        raise DiagnosticsError(
            f"{name} has a split named {min(odd)}: name splits train, val and test.", code="bad-splits"
        )
    if "" in names and len(names) > 1:
        raise DiagnosticsError(
            f"Some samples of {name} have a split and others have none: give one to all or to none.", code="bad-splits"
        )
    if len(names) == 3:
        return parts, "splits as given", False
    if len(names) == 1:
        return [str(split) for split in split_groups(groups, seed, targets=targets)], "splits drawn over groups", True
    if "train" not in names:
        raise DiagnosticsError(
            f"{name} has {' and '.join(sorted(names))} and no train samples: add a train split.", code="bad-splits"
        )
    (other,) = names - {"train"}
    rows = np.array(parts) == "train"
    mine, of_rows = np.unique(np.asarray(groups, dtype=str)[rows], return_inverse=True)
    if len(mine) < 2:
        raise DiagnosticsError(
            f"The train split of {name} is one group, so no val can be carved out: add samples to it.",
            code="bad-splits",
        )
    order = np.random.default_rng(seed).permutation(len(mine))
    count = min(len(mine) - 1, max(1, round(VAL_SHARE * len(mine))))
    order = _with_classes(order[::-1], len(mine) - count, of_rows, targets, rows)
    val = {mine[i] for i in order[len(mine) - count :]}
    splits = [
        "test" if split == other else "val" if group in val else "train"
        for group, split in zip(groups, parts, strict=True)
    ]
    return splits, f"test is the given {other}, val a fifth of train", "fit"


def subset(dataset: Dataset, samples: int, seed: int) -> Dataset:
    """A random subset of a dataset, in its order; the dataset itself where it has no more samples than that.

    Splits keep their shares, at least one sample each. Of train, samples that show a class of a `label` target for the
    first time are taken before others, since a class that train lacks cannot be probed. Groups may be taken in part.

    Raises DiagnosticsError for fewer than 3 samples.
    """
    if samples < len(SPLITS):
        raise DiagnosticsError(f"{samples} sample(s) cannot fill train, val and test: give at least 3.", code="too-few")
    if samples >= len(dataset):
        return dataset
    rng = np.random.default_rng([seed, len(dataset), samples])
    chosen: list[np.ndarray] = []
    for split, count in _shares(dataset, samples).items():
        rows = rng.permutation(np.flatnonzero(dataset.split == split))
        chosen.append((_classes_first(dataset, rows) if split == "train" else rows)[:count])
    return at_rows(dataset, np.sort(np.concatenate(chosen)))


def at_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """Some samples of a dataset, in the order of `rows`."""
    targets = {
        name: dataclasses.replace(
            target, values=target.values[rows], naive=None if target.naive is None else np.asarray(target.naive)[rows]
        )
        for name, target in dataset.targets.items()
    }
    return Dataset(
        dataset.name,
        dataset.modality,
        dataset[rows],
        [dataset.ids[i] for i in rows],
        dataset.split[rows].tolist(),
        targets,
        groups=dataset.groups[rows].tolist(),
        about=dataset.about,
        rate=dataset.rate,
        ragged=dataset.ragged,
        texts=[dataset.texts[i] for i in rows if dataset.texts],
        questions=[dataset.questions[i] for i in rows if dataset.questions],
        views=LazySamples(len(rows), lambda i: dataset.views[rows[i]]) if len(dataset.views) else (),
        extras=dataset.extras,
        exchangeable=dataset.exchangeable,
    )


def _shares(dataset: Dataset, samples: int) -> dict[str, int]:
    """The number of samples of each split, by largest remainder."""
    exact = {split: samples * count / len(dataset) for split, count in dataset.counts().items()}
    counts = {split: max(1, int(share)) for split, share in exact.items()}
    while sum(counts.values()) != samples:
        step = 1 if sum(counts.values()) < samples else -1
        able = [split for split, count in counts.items() if count + step > 0]
        most = max(able, key=lambda split: step * (exact[split] - counts[split]))
        counts[most] += step
    return counts


def _classes_first(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """The rows with those in front that show a class first; the order is kept otherwise."""
    first = np.zeros(len(rows), dtype=bool)
    for target in dataset.targets.values():
        if target.kind == "label":
            values = target.values[rows]
            _, places = np.unique(values, return_index=True)
            first[places[values[places] >= 0]] = True
    return np.concatenate([rows[first], rows[~first]])


NUMBERS = ("value", "state", "future", "token_value")


def with_logarithms(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The dataset with `log_NAME`, the natural logarithm, in place of each named target.

    Raises DiagnosticsError for a target that the dataset lacks, whose values are no plain numbers, or are not all above
    0.
    """
    for name in names:
        check_known(f"target of {dataset.name}", name, dataset.targets)
        if f"log_{name}" in dataset.targets:
            raise DiagnosticsError(
                f"Dataset {dataset.name} has a target log_{name} already: leave out log={name}.", code="duplicate"
            )
    logged = copy.copy(dataset)
    logged.targets = {
        f"log_{name}" if name in names else name: _logarithm(name, dataset) if name in names else target
        for name, target in dataset.targets.items()
    }
    if dataset._fingerprint is not None:
        logged._fingerprint = hashlib.sha256(f"{dataset.fingerprint} log {sorted(names)}".encode()).hexdigest()
    return logged


def _logarithm(name: str, dataset: Dataset) -> Target:
    target = dataset.targets[name]
    if target.kind not in NUMBERS or target.period is not None:
        what = f"of kind {target.kind}" if target.period is None else f"periodic ({target.period:g})"
        raise DiagnosticsError(
            f"Target {name} of {dataset.name} is {what}: leave out log={name}, which takes numbers.", code="bad-target"
        )

    def log(values: Any) -> np.ndarray:
        if ((array := np.asarray(values)) <= 0).any():
            raise DiagnosticsError(
                f"Target {name} of {dataset.name} has values down to {np.nanmin(array):g}, but log={name} needs values "
                "above 0: leave it out, or mark those values as unknown.",
                code="bad-target",
            )
        return np.log(array)

    maps = LazySamples(len(target.values), lambda i: log(target.values[i]))
    return dataclasses.replace(
        target,
        values=one_by_one(maps) if target.values.dtype == object else log(target.values),
        naive=None if target.naive is None else log(target.naive),
        units=f"log {target.units}".rstrip(),
        about=f"natural logarithm of {target.about or name}",
    )
