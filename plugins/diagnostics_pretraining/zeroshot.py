"""A pair of towers on a dataset: which samples and texts are compared, and what comes of it."""

import copy
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diagnostics.plugin import (
    Dataset,
    DiagnosticsError,
    LazySamples,
    TorchEncoder,
    build,
    check_known,
    few,
    frames_of,
    profile_intervals,
    recall_hits,
    refuse_values,
)
from diagnostics_pretraining.recipe import ZeroshotJob
from diagnostics_pretraining.text_encoder import Vocabulary, vocabulary_in
from diagnostics_pretraining.towers import Pair, Towers, encoders_of, load_pair

# Zero-shot classification and retrieval by embeddings, with intervals over independent groups and chance beside each.

AT = (1, 5, 10)


@dataclass(frozen=True)
class Score:
    """A share with its 95 % interval over groups; ends are NaN for a single group. chance: what guessing gives."""

    value: float
    low: float
    high: float
    chance: float


def classification(images: np.ndarray, classes: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> Score:
    """The share of images whose own class is nearest by cosine; of equally near ones, one by chance.

    images [image, feature], classes [class, feature]: embeddings of any length; labels [image]: which class is right.
    Chance is one in so many classes.
    """
    hits = _hits(images, classes, labels, np.arange(len(classes)), (1,))
    return _scores(hits, np.full(hits.shape, 1 / len(classes)), groups, seed)[0]


def retrieval(
    images: np.ndarray, texts: np.ndarray, wanted: np.ndarray, groups: np.ndarray, gallery: int, seed: int
) -> dict[str, dict[int, Score]]:
    """Recall at each of `AT` both ways, `image_to_text` and `text_to_image`.

    images, texts: embeddings [pair, feature], partners in the same row; rows with the same number in `wanted` [pair]
    (equal texts) are all partners. Pairs are `dealt` into galleries of `gallery`: recall falls as one grows. Chance is
    that of a random order with the same partners.
    """
    galleries = dealt(len(wanted), gallery, seed)
    hits: dict[str, list[np.ndarray]] = {"image_to_text": [], "text_to_image": []}
    chances: list[np.ndarray] = []
    for rows in galleries:
        _, same = np.unique(wanted[rows], return_inverse=True)
        sides = {"image_to_text": (images[rows], texts[rows]), "text_to_image": (texts[rows], images[rows])}
        for way, (queries, offered) in sides.items():
            hits[way].append(_hits(queries, offered, same, same, AT))
        chances.append(chance_of_recall(np.bincount(same)[same], gallery))
    chance = np.concatenate(chances, axis=1)
    return {
        way: dict(
            zip(AT, _scores(np.concatenate(of_galleries, axis=1), chance, groups[galleries.ravel()], seed), strict=True)
        )
        for way, of_galleries in hits.items()
    }


def dealt(count: int, gallery: int, seed: int) -> np.ndarray:
    """Pairs of each gallery, drawn at random from so many, int [gallery, its pair].

    What fills none is left out.
    """
    return np.random.default_rng([seed, count]).permutation(count)[: count // gallery * gallery].reshape(-1, gallery)


def chance_of_recall(partners: np.ndarray, gallery: int) -> np.ndarray:
    """Recall [k, query] at each of `AT` in a random order of a gallery.

    It holds so many partners [query] of each query: 1 - C(gallery - partners, k) / C(gallery, k), where the
    last term is a product of k shares.
    """
    before = np.arange(max(AT))
    # A share of 0 comes first where there are fewer others than k.
    missed = np.cumprod((gallery - partners[:, None] - before) / np.maximum(gallery - before, 1), axis=1)
    return 1 - missed[:, np.array(AT) - 1].T


def _hits(
    queries: np.ndarray, gallery: np.ndarray, wanted: np.ndarray, offered: np.ndarray, at: Sequence[int]
) -> np.ndarray:
    x, y = (torch.from_numpy(np.asarray(side, dtype=np.float64)) for side in (queries, gallery))
    return recall_hits(x, y, wanted, offered, at)


def _scores(hits: np.ndarray, chance: np.ndarray, groups: np.ndarray, seed: int) -> list[Score]:
    """From hits and their chances [score, query]."""
    _, unit = np.unique(groups.astype(str), return_inverse=True)
    wrong, asked = (np.stack([np.bincount(unit, row) for row in rows]) for rows in (1 - hits, np.ones_like(hits)))
    ends = profile_intervals(wrong, asked, 0, seed, share=True)
    return [Score(*map(float, one)) for one in zip(*ends, chance.mean(axis=1), strict=True)]


TEMPLATES = ("{}", "a {}", "a photo of a {}")
"""The prompts of a class unless others are given, but for those with a word that the vocabulary lacks; the embeddings
of a class's prompts are averaged."""
SPLITS = ("val", "test")
_ARTICLE = re.compile(r"\ba \{\}")


@dataclass(frozen=True)
class Classification:
    """`commonest`: the share of samples of the class that is commonest in train.

    `strange`: classes of whose words the vocabulary lacks some.
    """

    target: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    n: int
    groups: int
    accuracy: Score
    commonest: float
    strange: tuple[str, ...]


@dataclass(frozen=True)
class Retrieval:
    """Recall both ways by number of neighbours.

    `alike`: pairs whose text another pair has too; `cut`: texts longer than the context; `repeated`: samples that stand
    there twice, of which the first counts.
    """

    n: int
    groups: int
    gallery: int
    galleries: int
    image_to_text: dict[int, Score]
    text_to_image: dict[int, Score]
    alike: int
    cut: int
    repeated: int


@dataclass(frozen=True)
class Result:
    """Scores that were asked for and could be had: classification with a target, retrieval with texts."""

    encoder: str
    data: str
    split: str
    classification: Classification | None
    retrieval: Retrieval | None


def zeroshot(job: ZeroshotJob) -> Result:
    """Classifies by prompts of class names, and retrieves texts by images and images by texts, on one split.

    Nothing is fitted and no prompt is chosen. Raises DiagnosticsError for a folder without its text tower, data of
    another modality, an unknown target, and data with neither a target nor texts.
    """
    _check(job)
    return score(load_pair(job.folder, trust_code=job.trust_code), build("dataset", job.data), job)


EVALUATED = 1_000
"""Samples that are scored while towers are trained, at equal distances."""


def scores_on(data: str, device: str | None) -> Callable[[Towers], dict[str, float]]:
    """A function from towers to what they reach on the val split of some data.

    Recall at 1 both ways, and the accuracy of the first label; with chance beside each.
    """
    dataset: Dataset = build("dataset", data)
    labels = [name for name, target in dataset.targets.items() if target.kind == "label"]
    job = ZeroshotJob(folder="", data=data, target=next(iter(labels), None), split="val", device=device)

    def scores(towers: Towers) -> dict[str, float]:
        # Copies, since an encoder takes its module to another device.
        found = score(encoders_of(copy.deepcopy(towers), "towers"), dataset, job, EVALUATED)
        each: dict[str, Score] = {}
        if found.retrieval is not None:
            ways = ("image_to_text", "text_to_image")
            each |= {f"recall_{way}": getattr(found.retrieval, way)[1] for way in ways}
        if found.classification is not None:
            each["accuracy"] = found.classification.accuracy
        return {name: one.value for name, one in each.items()} | {
            f"{name}_chance": one.chance for name, one in each.items()
        }

    return scores


def score(pair: Pair, dataset: Dataset, job: ZeroshotJob, most: int | None = None) -> Result:
    """Score a pair of encoders on a dataset, of whose split at most so many samples are seen."""
    image = _image_encoder(pair, dataset, job.frames)
    if job.target is None and not dataset.texts:
        raise DiagnosticsError(
            f"{dataset.name} has no texts, so that nothing can be retrieved: name a target with --for, or give data "
            f"with captions.",
            code="no-target",
        )
    labels, classes = (None, ()) if job.target is None else labels_of(dataset, job.target)
    rows = np.flatnonzero(dataset.split == job.split)
    rows = rows if most is None else rows[:: -(-len(rows) // most)]
    seen = _Seen(dataset[rows])
    embedded = _embed(image, seen, job.device)
    return Result(
        pair.image.name,
        job.data,
        job.split,
        None
        if labels is None
        else _classify(
            pair=pair, dataset=dataset, rows=rows, embedded=embedded, labels=labels, classes=classes, job=job
        ),
        _retrieve(pair, dataset, rows, embedded, seen.first_of_each(), job) if dataset.texts else None,
    )


def labels_of(dataset: Dataset, target: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The class of each sample (-1: unknown) and the classes' names.

    Of a label, or of a question, whose answers are the classes.
    """
    labels = {name: known for name, known in dataset.targets.items() if known.kind == "label"}
    questions = {question.name for asked in dataset.questions for question in asked} - {"caption"}
    if target in labels:
        known = labels[target]
        names = known.classes or tuple(map(str, range(int(known.values.max()) + 1)))
        return np.asarray(known.values), tuple(name.replace("_", " ") for name in names)
    check_known("label or question", target, {*labels, *questions})
    answers = [
        next((question.answer for question in asked if question.name == target), None) for asked in dataset.questions
    ]
    names = sorted({answer for answer in answers if answer is not None})
    return np.array([-1 if answer is None else names.index(answer) for answer in answers]), tuple(names)


def prompts_of(name: str, templates: Sequence[str]) -> list[str]:
    """A class in each template, with the article that its name needs."""
    vowel = name[:1].lower() in tuple("aeiou")
    return [(_ARTICLE.sub("an {}", template) if vowel else template).replace("{}", name) for template in templates]


def _all_known(text: str, vocabulary: Vocabulary) -> bool:
    return vocabulary.unknown is None or vocabulary.unknown not in vocabulary.encode([text])[0]


def _classify(
    pair: Pair,
    dataset: Dataset,
    rows: np.ndarray,
    embedded: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    job: ZeroshotJob,
) -> Classification:
    known = np.flatnonzero(labels[rows] >= 0)
    if len(classes) < 2 or not len(known):
        raise DiagnosticsError(
            f"Target {job.target} of {dataset.name} has {len(classes)} class(es) and is known of {len(known)} "
            f"{job.split} samples: give one of at least two.",
            code="too-few",
        )
    vocabulary = vocabulary_in(pair.text)[1]
    templates = job.template or tuple(t for t in TEMPLATES if _all_known(t.replace("{}", ""), vocabulary))
    prompts = [prompt for name in classes for prompt in prompts_of(name, templates)]
    each = _unit(_embed(pair.text, prompts, job.device)).reshape(len(classes), len(templates), -1)
    of_rows, groups = labels[rows][known], dataset.groups[rows][known]
    train = labels[dataset.split == "train"]
    commonest = int(np.bincount(train[train >= 0], minlength=len(classes)).argmax())
    strange = tuple(name for name in classes if not _all_known(name, vocabulary))
    return Classification(
        target=job.target or "",
        classes=classes,
        templates=templates,
        n=len(known),
        groups=len(set(groups)),
        accuracy=classification(embedded[known], each.mean(axis=1), of_rows, groups, job.seed),
        commonest=float((of_rows == commonest).mean()),
        strange=strange,
    )


def _retrieve(
    pair: Pair, dataset: Dataset, rows: np.ndarray, embedded: np.ndarray, first: np.ndarray, job: ZeroshotJob
) -> Retrieval:
    texts = [dataset.texts[int(row)] for row in rows[first]]
    gallery = len(texts) if job.gallery is None else job.gallery
    if gallery > len(texts):
        raise DiagnosticsError(
            f"{dataset.name} has {len(texts)} different {job.split} samples, too few for a gallery of {gallery}: give "
            f"a smaller --gallery, or more data.",
            code="too-few",
        )
    _, wanted, counts = np.unique(np.array(texts), return_inverse=True, return_counts=True)
    groups = dataset.groups[rows[first]]
    galleries = dealt(len(texts), gallery, job.seed)
    ways = retrieval(embedded[first], _embed(pair.text, texts, job.device), wanted, groups, gallery, job.seed)
    return Retrieval(
        galleries.size,
        len(set(groups[galleries.ravel()])),
        gallery,
        len(galleries),
        **ways,
        alike=int((counts[wanted] > 1).sum()),
        cut=vocabulary_in(pair.text)[1].encode(texts)[1],
        repeated=len(rows) - len(first),
    )


class _Seen(LazySamples):
    """Samples that are read once, by what embeds them.

    They are known again afterwards by their pixels: reading them may be all the work.
    """

    def __init__(self, samples: Sequence[np.ndarray] | np.ndarray) -> None:
        self._samples, self._digests = samples, dict[int, bytes]()
        super().__init__(len(samples), self._note)

    def _note(self, place: int) -> np.ndarray:
        pixels = np.ascontiguousarray(self._samples[place])
        self._digests[place] = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
        return pixels

    def first_of_each(self) -> np.ndarray:
        """Places of the samples that did not stand there before: a table of captions names an image once for each."""
        first: dict[bytes, int] = {}
        for place in range(len(self)):
            first.setdefault(self._digests[place], place)
        return np.array(list(first.values()))


def _image_encoder(pair: Pair, dataset: Dataset, frames: int) -> TorchEncoder:
    if dataset.modality == "video":
        return frames_of(pair.image, frames)
    if dataset.modality != "image":
        raise DiagnosticsError(
            f"{pair.image.name} reads images (and frames of videos), and {dataset.name} holds {dataset.modality} "
            f"samples: give such data.",
            code="other-modality",
        )
    return pair.image


def _embed(encoder: TorchEncoder, samples: Any, device: str | None) -> np.ndarray:
    """Embeddings [sample, feature]; of a clip the mean of its frames'."""
    return encoder.transform(samples, tap="head", pooling="mean", device=device).astype(np.float64)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-300)


def _check(job: ZeroshotJob) -> None:
    check_known("split", job.split, SPLITS, "Towers were trained on train.")
    if bad := [template for template in job.template if "{}" not in template]:
        raise DiagnosticsError(
            f"Template {few(bad)!r} has no place for the class: write {{}} there, as 'a photo of a {{}}'.",
            code="bad-value",
        )
    refuse_values(
        (
            job.gallery is not None and job.gallery < 2,
            f"A gallery of {job.gallery} has nothing to choose from: give --gallery 2 or more.",
        ),
        (job.seed < 0, f"There is no seed {job.seed}: give --seed 0 or more."),
    )
