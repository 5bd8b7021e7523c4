"""Known answers of similarities."""

import math

import numpy as np

from diagnostics.measures import similarity
from diagnostics.measures.known_answers import Arrays, Case, centred_axes, normal, rotation
from diagnostics.measures.similarity.dissimilarity import Comparison
from diagnostics.measures.similarity.minibatch import BATCH, MinibatchAlignment

KORNBLITH = "Kornblith et al. 2019 (1905.00414)"
SONG = "Song et al. 2012, eq. 5"
NGUYEN = "Nguyen et al. 2021 (2010.15327)"
_RDMS: dict[Comparison, float] = {"pearson": 0.5, "spearman": 0.5, "kendall": 1 / 3, "cosine": 13 / 14}
HUH = "Huh et al. 2024 (2405.07987)"
WILLIAMS = "Williams et al. 2021 (2110.14739)"


def _col(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)[:, None]


def _shared_axes() -> tuple[np.ndarray, np.ndarray]:
    """Kernels with the same eigenvectors and eigenvalues (3, 2, 1) against (1, 2, 3)."""
    axes = centred_axes(8, 3)
    return axes * np.sqrt([3.0, 2.0, 1.0]), axes * np.sqrt([1.0, 2.0, 3.0])


def _overlapping() -> tuple[np.ndarray, np.ndarray]:
    """Two blocks of 6 orthonormal columns that share 2."""
    axes = centred_axes(24, 10)
    return axes[:, :6], axes[:, 4:10]


def _inflated(n: int, p: int, draws: int) -> float:
    """Mean biased CKA of independent Gaussian features [n, p]."""
    pairs = [(normal(n, p, seed=i), normal(n, p, seed=i + 1000)) for i in range(draws)]
    return float(np.mean([similarity.cka(*pair, unbiased=False) for pair in pairs]))


def _null_spread(n: int, draws: int = 60) -> float:
    """Standard deviation of debiased CKA of independent features times n."""
    values = [similarity.cka(normal(n, 24, seed=i), normal(n, 24, seed=i + 1000)) for i in range(draws)]
    return n * float(np.std(values))


def _one_shared_component(n: int = 500) -> float:
    """SVCCA where the strongest component, 100 times the variance of each of 20 others, is all that is shared."""
    shared = normal(n, 1, seed=0) * 10
    return similarity.svcca(np.hstack([shared, normal(n, 20, seed=1)]), np.hstack([shared, normal(n, 20, seed=2)]))


def _minibatch_of_taps() -> float:
    x, y = normal(BATCH + 6, 4, seed=8), normal(BATCH + 6, 3, seed=9)
    taps = Arrays({"x": x, "y": y + x[:, :3]}, ["train"] * len(x))
    matrix = MinibatchAlignment().compute(taps, None, 0)["matrix"]
    return float(matrix.sel(tap="x", tap_other="y")) - similarity.minibatch_cka(x, y + x[:, :3], batch_size=BATCH)


def cases() -> list[Case]:
    """All of them."""
    x, y = normal(60, 8, seed=3), normal(60, 6, seed=7)
    shared, blocks = _shared_axes(), _overlapping()
    a, b = _col(1, 2, 4, 8), _col(1, 3, 2, 7)
    a5, b5 = _col(1, 2, 4, 8, 5), _col(1, 3, 2, 7, 6)
    u, v = _col(0, 1, 3), _col(1, 0, 3)
    strong = tuple(centred_axes(16, 3)[:, [0, other]] * [3.0, 1.0] for other in (1, 2))
    mixing = normal(8, 8, seed=5) + 3 * np.eye(8)
    unit, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    return [
        Case("cka", "rotated copy", 1, KORNBLITH, lambda: similarity.cka(x, x @ rotation(8, 0))),
        Case("cka", "biased, rotated copy", 1, KORNBLITH, lambda: similarity.cka(x, x @ rotation(8, 0), unbiased=False)),
        Case("cka", "scaled by 1e-4", 1, KORNBLITH, lambda: similarity.cka(x, 1e-4 * x)),
        *(
            Case("cka", f"scaled by 0.1 and shifted by {c:g}", 1, KORNBLITH, lambda c=c: similarity.cka(x, 0.1 * x + c))
            for c in (10.0, 100.0, 1e4)
        ),
        Case("cka", "both shifted by 1e4", 1, KORNBLITH, lambda: similarity.cka(x + 1e4, x + 1e4)),
        Case("cka", "biased, 6 orthonormal columns of which 2 are shared", 1 / 3, KORNBLITH, lambda: similarity.cka(*blocks, unbiased=False)),
        Case("cka", "biased, same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 10 / 14, KORNBLITH, lambda: similarity.cka(*shared, unbiased=False)),
        Case("cka", "biased, one feature each: squared correlation", 0.617347, KORNBLITH, lambda: similarity.cka(u, v, unbiased=False)),
        Case("cka", "biased, independent, n = 64, p = 4096: sqrt(pq / ((n+p)(n+q)))", 0.9846, KORNBLITH, lambda: _inflated(64, 4096, 2), 1e-3),
        Case("cka", "biased, independent, n = p = 256 (mean of 3 draws)", 0.5, KORNBLITH, lambda: _inflated(256, 256, 3), 3e-3),
        Case("cka", "biased, independent, n = 1024, p = 192", 0.1579, KORNBLITH, lambda: _inflated(1024, 192, 1), 3e-3),
        Case("hsic", "biased, one feature each: squared sum of products over (n - 1)^2", (11 / 3) ** 2 / 4, "Gretton et al. 2005, eq. 9", lambda: similarity.hsic(u, v, unbiased=False)),
        Case("hsic", "n = 4, ab", 2.333333, SONG, lambda: similarity.hsic(a, b)),
        Case("hsic", "n = 4, aa", 44.666667, SONG, lambda: similarity.hsic(a, a)),
        Case("hsic", "n = 4, bb", 12.666667, SONG, lambda: similarity.hsic(b, b)),
        Case("cka", "n = 4, rank-1 kernels", 0.098097, SONG, lambda: similarity.cka(a, b)),
        Case("hsic", "n = 5, ab", 28.9, SONG, lambda: similarity.hsic(a5, b5)),
        Case("hsic", "n = 5, aa", 38.5, SONG, lambda: similarity.hsic(a5, a5)),
        Case("hsic", "n = 5, bb", 44.366667, SONG, lambda: similarity.hsic(b5, b5)),
        Case("cka", "n = 5, rank-1 kernels", 0.699261, SONG, lambda: similarity.cka(a5, b5)),
        Case("cka", "biased, n = 5: squared correlation", 0.777363, KORNBLITH, lambda: similarity.cka(a5, b5, unbiased=False)),
        *(
            Case("cka", f"spread of independent features times n, n = {n} (60 draws): sqrt(2)", math.sqrt(2), "Song et al. 2012", lambda n=n: _null_spread(n), 0.45)
            for n in (64, 256)
        ),
        Case("cka_rbf", "biased, sigma 1", 0.985145, KORNBLITH, lambda: similarity.cka(u, v, kernel="rbf", sigma=1.0, unbiased=False)),
        Case("cka_rbf", "a large sigma minus linear", 0, "Alvarez 2022 (2112.09305)", lambda: similarity.cka(x[:, :4], x[:, 2:], kernel="rbf", sigma=1e4) - similarity.cka(x[:, :4], x[:, 2:])),
        Case("cka_rbf", "rotated copy, scaled by 3 and shifted by 5", 1, KORNBLITH, lambda: similarity.cka(x, 3 * x @ rotation(8, 0) + 5, kernel="rbf")),
        Case("cka_rbf", "independent, n = 256 (mean of 20 draws)", 0, SONG, lambda: float(np.mean([similarity.cka(normal(256, 8, seed=i), normal(256, 8, seed=i + 1000), kernel="rbf") for i in range(20)])), 4e-3),
        Case("cka", "arccos, same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 0.775193, WILLIAMS, lambda: math.acos(similarity.cka(*shared, unbiased=False))),
        Case("minibatch_cka", "one batch of all samples minus debiased CKA", 0, NGUYEN, lambda: similarity.minibatch_cka(x[:, :4], x[:, 2:], batch_size=60) - similarity.cka(x[:, :4], x[:, 2:])),
        Case("minibatch_cka", "shifted copy, batches of 8", 1, NGUYEN, lambda: similarity.minibatch_cka(x, 0.1 * x + 100, batch_size=8)),
        Case("minibatch_cka", "two batches of (1, 2, 4, 8) and (1, 3, 2, 7): sums, divided once", 0.098097, NGUYEN, lambda: similarity.minibatch_cka(np.vstack([a, a]), np.vstack([b, b]), batch_size=4)),
        Case("minibatch_cka", "batches of 5 and 4 samples: each weighs by its samples", (5 * 28.9 + 4 * 7 / 3) / math.sqrt((5 * 38.5 + 4 * 134 / 3) * (5 * 1331 / 30 + 4 * 38 / 3)), NGUYEN, lambda: similarity.minibatch_cka(np.vstack([a5, a]), np.vstack([b5, b]), batch_size=5)),
        Case("minibatch_cka", "of two taps, a full batch and one of 6 samples, minus the plain function", 0, NGUYEN, _minibatch_of_taps),
        Case("mutual_knn", "copy", 1, HUH, lambda: similarity.mutual_knn(x, x, k=5)),
        Case("mutual_knn", "independent, n = 1024, k = 10: k / (n - 1)", 0.009775, HUH, lambda: similarity.mutual_knn(normal(1024, 16, seed=0), normal(1024, 16, seed=1), k=10), 3e-3),
        Case("cknna", "copy", 1, HUH, lambda: similarity.cknna(x, x, k=5)),
        Case("cca", "invertible map", 1, "Raghu et al. 2017 (1706.05806)", lambda: similarity.cca(x, x @ mixing)),
        Case("cca", "6 orthonormal columns of which 2 are shared", 1 / 3, "Raghu et al. 2017 (1706.05806)", lambda: similarity.cca(*blocks)),
        Case("cca", "mean squared correlation, independent, n = 500, p = 20, q = 30: max(p, q) / (n - 1)", 0.0601, "measures: Wishart mean", lambda: float(np.mean(similarity.canonical_correlations(normal(500, 20, seed=0), normal(500, 30, seed=1)) ** 2)), 8e-3),
        Case("svcca", "only the strongest of 21 components shared", 0.2088, "Raghu et al. 2017 (1706.05806)", _one_shared_component, 0.05),
        Case("svcca", "singular values (3, 1), the first shared, 85 % of the variance kept: one component", 1, "Raghu et al. 2017 (1706.05806)", lambda: similarity.svcca(*strong, variance=0.85)),
        Case("svcca", "the same, 95 % kept: two components", 0.5, "Raghu et al. 2017 (1706.05806)", lambda: similarity.svcca(*strong, variance=0.95)),
        Case("pwcca", "singular values (3, 1), the first shared: 3 / (3 + 1)", 0.75, "Morcos et al. 2018 (1806.05759)", lambda: similarity.pwcca(*strong)),
        Case("pwcca", "invertible map", 1, "Morcos et al. 2018 (1806.05759)", lambda: similarity.pwcca(x, x @ mixing)),
        Case("pwcca", "x wider than y, y inside x", 1, "Morcos et al. 2018 (1806.05759)", lambda: similarity.pwcca(x[:, :3], x)),
        Case("procrustes", "rotated copy", 0, "Ding et al. 2021 (2108.01661)", lambda: similarity.procrustes(x, 3 * x @ rotation(8, 1) + 5)),
        Case("procrustes", "same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 0.422650, "Ding et al. 2021 (2108.01661)", lambda: similarity.procrustes(*shared)),
        Case("procrustes", "orthogonal subspaces", math.sqrt(2), "Ding et al. 2021 (2108.01661)", lambda: similarity.procrustes(centred_axes(16, 3), centred_axes(16, 6)[:, 3:])),
        Case("angular_distance", "same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 0.425860, WILLIAMS, lambda: similarity.angular_distance(*shared)),
        Case("angular_distance", "rotated copy", 0, WILLIAMS, lambda: similarity.angular_distance(x, x @ rotation(8, 2))),
        *(
            Case("rsa", f"RDMs (1, 2, 3) and (1, 3, 2), {method}", value, "Kriegeskorte et al. 2008", lambda m=method: similarity.compare_rdms([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], method=m))
            for method, value in _RDMS.items()
        ),
        Case("cknna", "all neighbours minus debiased CKA of rows of length 1", 0, HUH, lambda: similarity.cknna(x, y, k=59) - similarity.cka(unit, other)),
    ]  # fmt: skip
