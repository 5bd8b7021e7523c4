"""Measures of several views of one thing; in a run, samples of one group are its views (frames of a video)."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from diagnostics.activations.contract import Activations
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.geometry import views
from diagnostics.measures.geometry.entropies import dime
from diagnostics.measures.geometry.pooled import PooledMeasure, TapNumbers
from diagnostics.measures.known_answers import Case, centred_axes, column, normal
from diagnostics.measures.target_free_intervals import bootstrap_mean_interval, group_blocks, jackknife_interval

THILAK = "Thilak et al. 2023 (2312.04000)"
WANG = "Wang and Isola 2020 (2005.10242)"
CHEN = "Chen et al. 2020 (2002.05709)"
SKEAN = "Skean et al. 2023 (2301.08164)"
BLOCKS = 10
TEMPERATURE = 0.1


class _Views(PooledMeasure):
    """A measure of groups with at least two samples; one sample a group is no view of anything."""

    standard = False
    groups_needed: ClassVar[int] = 2

    def rows(self, activations: Activations) -> np.ndarray:
        _, of_row, sizes = np.unique(activations.groups.astype(str), return_inverse=True, return_counts=True)
        if (count := int((sizes >= 2).sum())) < self.groups_needed:
            raise DiagnosticsError(
                f"{self.name} compares samples of one group, and {count} of {len(sizes)} groups have two samples or more: it "
                f"needs {self.groups_needed}; give the dataset `groups` (video, subject, scene) whose samples are views of one "
                "thing."
            )
        return np.flatnonzero(sizes[of_row] >= 2)


class _Pairs(_Views):
    """A measure of the first two samples of each group: all first ones, then all second ones."""

    most_pairs: ClassVar[int] = 1024

    def rows(self, activations: Activations) -> np.ndarray:
        by_group: dict[str, list[int]] = {}
        for row in super().rows(activations):
            by_group.setdefault(str(activations.groups[row]), []).append(int(row))
        groups = list(by_group.values())[: self.most_pairs]
        return np.array([rows[0] for rows in groups] + [rows[1] for rows in groups])

    def beside(self, n: int) -> str:
        return f"{n} samples: the first two of each of {n // 2} groups"

    def of_tap(self, x: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        half = len(x) // 2
        return self.of_pairs(x[:half], x[half:], groups[:half], seed)

    @abstractmethod
    def of_pairs(self, x: Tensor, y: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        """The numbers of one tap from two views [pair, feature] of as many groups."""


def _simplex(classes: int) -> np.ndarray:
    """[class, view, feature]: equally far apart means, views of isotropic spread around them."""
    spread = np.concatenate([np.eye(classes), -np.eye(classes)]) * 0.1
    return np.eye(classes)[:, None] * 10 + spread[None]


def _between(*eigenvalues: float) -> np.ndarray:
    """[class, view, feature] whose between-class spread has these eigenvalues and whose within-class spread is isotropic."""
    d = len(eigenvalues)
    means = 100 * centred_axes(16, d) * np.sqrt(eigenvalues)
    spread = np.concatenate([np.eye(d), -np.eye(d)])
    return means[:, None] + spread[None]


def _crossed() -> np.ndarray:
    """[class, view, feature]: means (2, 1), (2, -1), (-2, 1), (-2, -1), views 1 to either side of them along the first axis."""
    means = np.array([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
    return means[:, None] + np.array([[1.0, 0.0], [-1.0, 0.0]])


class Lidar(_Views):
    name = "lidar"
    answers = "In how many directions do groups differ by more than their samples do?"
    source = THILAK
    invariant_to = ("rotation", "shift")
    functional = (
        f"LiDAR: exp of the entropy of lambda / sum(lambda) + 1e-7, eigenvalues of the between-group covariance whitened by "
        f"the within-group one plus {views.DELTA:g}; groups with at least two samples, all weighing the same"
    )
    centring = "group means centred over groups, samples over their group"
    interval = f"95 % delete-a-group jackknife on the logarithm, at most {BLOCKS} blocks of groups"
    about: ClassVar[Mapping[str, str]] = {
        "line_shuffled": "the value once samples are dealt to the groups at random",
        "line_ceiling": "the smaller of groups less one and features",
    }
    groups_needed = 3
    known_answers = (
        # 2.2763 of the squared eigenvalues.
        Case("eigenvalues (4, 2, 1, 1): 2^1.75", 3.363586, THILAK, lambda: views.lidar(_between(4, 2, 1, 1)), 1e-3),
        *(Case(f"{c} equally distant means: c - 1", c - 1, THILAK, lambda c=c: views.lidar(_simplex(c)), 1e-3) for c in (3, 6)),
        Case("between (4, 1), within (1, 0), delta 1: eigenvalues (2, 1)", 3 / 2 ** (2 / 3), THILAK, lambda: views.lidar(_crossed(), delta=1.0), 2e-6),
    )  # fmt: skip

    def rows(self, activations: Activations) -> np.ndarray:
        return super().rows(activations)[: self.most_rows]

    def beside(self, n: int) -> str:
        return f"{n} samples of groups with two samples or more"

    def of_tap(self, x: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        # A group whose other samples lie beyond the most rows has no spread of its own here.
        _, of_row, sizes = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
        kept = sizes[of_row] >= 2
        x, groups = x[torch.from_numpy(np.flatnonzero(kept)).to(x.device)], groups[kept]
        count = int((sizes >= 2).sum())
        score = _lidar(x, groups)
        shuffled = groups[np.random.default_rng(seed).permutation(len(groups))]
        lines = {"line_shuffled": _lidar(x, shuffled), "line_ceiling": float(min(count - 1, x.shape[1]))}
        if math.isnan(score):
            return TapNumbers(lines, "all groups have one mean")
        ends = _jackknife(
            lambda rows: _lidar(x[rows], groups[rows.cpu().numpy()]), score, groups, x, seed, logarithm=True
        )
        return TapNumbers({"score": score, "low": ends[0], "high": ends[1], **lines})


def _lidar(x: Tensor, groups: np.ndarray) -> float:
    _, classes = np.unique(groups.astype(str), return_inverse=True)
    return views.lidar_of_classes(x, torch.from_numpy(classes).to(x.device))


def _jackknife(
    value: Callable[[Tensor], float], score: float, groups: np.ndarray, x: Tensor, seed: int, *, logarithm: bool
) -> tuple[float, float]:
    """The interval of a score from its value for the rows (bool [row], where x lies) that leave out a block of groups."""
    blocks = group_blocks(groups, BLOCKS, seed)
    numbers, sizes = np.unique(blocks, return_counts=True)
    left_out = [value(torch.from_numpy(blocks != number).to(x.device)) for number in numbers]
    return jackknife_interval(score, np.array(left_out), sizes, logarithm=logarithm)


class Alignment(_Pairs):
    name = "alignment"
    answers = "How near are two samples of a group to each other?"
    source = WANG
    invariant_to = ("rotation", "each sample's own scale")
    functional = "alignment: mean squared distance of two samples of a group, at length 1"
    centring = "none; samples scaled to length 1"
    interval = "95 % bootstrap over groups"
    about: ClassVar[Mapping[str, str]] = {"line_unpaired": "the same for samples of different groups"}
    known_answers = (
        Case("identical views", 0, WANG, lambda: views.alignment(normal(20, 4, seed=2), normal(20, 4, seed=2))),
        Case("orthogonal views", 2, WANG, lambda: views.alignment(np.eye(6)[:3], np.eye(6)[3:])),
    )  # fmt: skip

    def of_pairs(self, x: Tensor, y: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        u, v, kept = views.paired_directions(x, y)
        if len(u) < 2:
            return TapNumbers({}, f"{len(u)} of {len(x)} pairs have two samples of length above zero")
        apart = views.distances(u, v, 2.0).cpu().numpy()
        low, high = bootstrap_mean_interval(apart[:, None], groups[kept.cpu().numpy()], seed)
        others = 2 - 2 * views.unpaired_cosine(u, v)
        numbers = {"score": float(apart.mean()), "low": float(low[0]), "high": float(high[0]), "line_unpaired": others}
        lost = len(x) - len(u)
        return TapNumbers(numbers, f"{lost} of {len(x)} pairs have a sample of length zero" if lost else "")


class _Recomputed(_Pairs):
    """A function of all pairs at once, with an interval from leaving blocks of groups out."""

    interval = f"95 % delete-a-group jackknife, at most {BLOCKS} blocks of groups"
    groups_needed = 3
    lacks: ClassVar[str]
    """Why there is no value."""

    @abstractmethod
    def value(self, x: Tensor, y: Tensor, seed: int) -> float:
        """From two views [pair, feature]."""

    @abstractmethod
    def lines(self, x: Tensor, y: Tensor, score: float) -> dict[str, float]:
        """Reference lines."""

    def of_pairs(self, x: Tensor, y: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        score = self.value(x, y, seed)
        lines = self.lines(x, y, score)
        if math.isnan(score):
            return TapNumbers(lines, self.lacks)
        ends = _jackknife(lambda rows: self.value(x[rows], y[rows], seed), score, groups, x, seed, logarithm=False)
        return TapNumbers({"score": score, "low": ends[0], "high": ends[1], **lines})


class InfoNce(_Recomputed):
    name = "infonce"
    answers = "Does a sample find its partner among the other groups' samples?"
    source = f"{CHEN}, eq. 1"
    invariant_to = ("rotation", "each sample's own scale")
    functional = f"InfoNCE (NT-Xent), in nats, cosine at temperature {TEMPERATURE:g}, 2N - 2 negatives for N groups"
    centring = "none; samples scaled to length 1"
    about: ClassVar[Mapping[str, str]] = {
        "line_unpaired": "the mean once each sample is given any other group's as partner",
        "line_alike": "log(2N - 1), all samples alike",
    }
    lacks = "fewer than two pairs have two samples of length above zero"
    known_answers = (
        Case("4 orthonormal samples, temperature 0.1", 0.000272, f"SimCLR, {CHEN}", lambda: views.infonce(np.eye(4), np.eye(4), temperature=0.1)),
        Case("8 orthonormal samples, temperature 0.5", 1.062879, f"SimCLR, {CHEN}", lambda: views.infonce(np.eye(8), np.eye(8), temperature=0.5)),
        Case("8 equal samples: ln 15", 2.708050, f"SimCLR, {CHEN}", lambda: views.infonce(np.ones((8, 3)), np.ones((8, 3)))),
    )  # fmt: skip

    def value(self, x: Tensor, y: Tensor, seed: int) -> float:
        return views.infonce(x, y, temperature=TEMPERATURE)

    def lines(self, x: Tensor, y: Tensor, score: float) -> dict[str, float]:
        u, v, _ = views.paired_directions(x, y)
        if len(u) < 2:
            return {}
        # A view meets the same others whichever of them is its partner, so that only the partner's cosine changes.
        gained = (float((u * v).sum()) / len(u) - views.unpaired_cosine(u, v)) / TEMPERATURE
        return {"line_unpaired": score + gained, "line_alike": math.log(2 * len(u) - 1)}


class Dime(_Recomputed):
    name = "dime"
    answers = "How much do two samples of a group share?"
    source = SKEAN
    invariant_to = ("rotation", "scale", "shift")
    functional = (
        "DiME, in nats: mean joint matrix-based entropy of order 1 over 20 permutations of the second samples, minus that of "
        "the pairs; Gaussian kernels, bandwidth the median distance"
    )
    centring = "none needed: distances between samples"
    most_pairs = 256
    lacks = "all first or all second samples are equal"
    about: ClassVar[Mapping[str, str]] = {"line_unpaired": "0, views that share nothing"}
    known_answers = (
        Case("two pairs of identical samples, all 24 permutations: 2/3 ln 2", 0.462098, SKEAN, lambda: dime(column(0, 0, 1e3, 1e3), column(0, 0, 1e3, 1e3), bandwidth=1.0)),
    )  # fmt: skip

    def value(self, x: Tensor, y: Tensor, seed: int) -> float:
        return dime(x, y, seed=seed)

    def lines(self, x: Tensor, y: Tensor, score: float) -> dict[str, float]:
        return {"line_unpaired": 0.0}
