"""Known answers of geometry."""

import math

import numpy as np
from scipy.special import ive

from diagnostics.measures import geometry
from diagnostics.measures.known_answers import Case, centred_axes, normal, rotation

RANKME = "Garrido et al. 2023 (2210.02885), eq. 1 and 2"
ROY = "Roy and Vetterli 2007"
LIDAR = "Thilak et al. 2023 (2312.04000)"
ALPHA = "Agrawal et al. 2022"
FACCO = "Facco et al. 2017"
LEVINA = "Levina and Bickel 2004; MacKay and Ghahramani 2005"
SKEAN = "Skean et al. 2025 (2502.02013)"
HOSSEINI = "Hosseini and Fedorenko 2023 (2311.04930)"
DIME = "Skean et al. 2023 (2301.08164)"
CHEN = "SimCLR, Chen et al. 2020 (2002.05709)"
WANG = "Wang and Isola 2020 (2005.10242)"
GAO = "Gao et al. 2017 (bioRxiv 214262)"


def _spectrum(*values: float, n: int = 24) -> np.ndarray:
    """Centred data with these singular values, turned so that no axis is special."""
    count = len(values)
    return centred_axes(n, count) * np.array(values) @ rotation(count, 0)


def _eigenvalues(*values: float) -> np.ndarray:
    return _spectrum(*np.sqrt(values))


def _cube(d: int, draws: int) -> float:
    """Mean TwoNN of 1000 uniform points in a unit cube."""
    return float(np.mean([geometry.two_nn(np.random.default_rng(i).random((1000, d))) for i in range(draws)]))


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


def _rankme_with_zeros(count: int) -> float:
    shares = [0.75 + 1e-7, 0.25 + 1e-7] + [1e-7] * count
    return math.exp(-sum(p * math.log(p) for p in shares))


def _two_nn_by_hand(x: np.ndarray) -> float:
    """The paper's fit by loops: its slope through the origin, over the smallest nine tenths of log(r2 / r1)."""
    distances = [sorted(math.dist(a, b) for b in x) for a in x]
    mu = sorted(math.log(second / first) for _, first, second, *_ in distances)
    points = [(value, -math.log(1 - i / len(x))) for i, value in enumerate(mu[: len(x) * 9 // 10], 1)]
    return sum(a * b for a, b in points) / sum(a * a for a, _ in points)


def _circle(m: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(m) / m
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def cases() -> list[Case]:
    """All of them."""
    power = centred_axes(256, 120) * np.arange(1, 121) ** -0.65
    line = np.outer(np.arange(10.0), [1.0, 2.0, -1.0])
    signs = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    pairs = np.array([[0.0], [0.0], [1e3], [1e3]])
    return [
        Case("rankme", "singular values (3, 1)", 1.754765, RANKME, lambda: geometry.rankme(_spectrum(3, 1)), 2e-6 + 5e-6),
        Case("rankme", "6 equal singular values", 6, RANKME, lambda: geometry.rankme(_spectrum(*[2.0] * 6)), 2e-5),
        Case("rankme", "singular values (3, 1) and 198 of 0, each of which counts 1e-7", _rankme_with_zeros(198), RANKME, lambda: geometry.rankme(np.pad(_spectrum(3, 1, n=200), ((0, 0), (0, 198)))), 1e-7),
        Case("effective_rank", "singular values (3, 1)", math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))), ROY, lambda: geometry.effective_rank(_spectrum(3, 1))),
        Case("effective_rank", "5 equal singular values", 5, ROY, lambda: geometry.effective_rank(_spectrum(*[1.0] * 5))),
        Case("lidar", "eigenvalues (4, 2, 1, 1): 2^1.75", 3.363586, LIDAR, lambda: geometry.lidar(_between(4, 2, 1, 1)), 1e-3),
        *(Case("lidar", f"{c} equally distant means: c - 1", c - 1, LIDAR, lambda c=c: geometry.lidar(_simplex(c)), 1e-3) for c in (3, 6)),
        Case("lidar", "between (4, 1), within (1, 0), delta 1: eigenvalues (2, 1)", 3 / 2 ** (2 / 3), LIDAR, lambda: geometry.lidar(_crossed(), delta=1.0), 2e-6),
        Case("alpha_req", "eigenvalues i^-1.3", 1.3, ALPHA, lambda: geometry.alpha_req(power)),
        Case("alpha_req", "the same, asked a second time", 1.3, ALPHA, lambda: (geometry.alpha_req(power), geometry.alpha_req(power))[1]),
        Case("nesum", "eigenvalues (4, 2, 1, 1)", 2, "He and Ozay 2022", lambda: geometry.nesum(_eigenvalues(4, 2, 1, 1))),
        Case("participation_ratio", "eigenvalues (9, 1)", 1.219512, GAO, lambda: geometry.participation_ratio(_eigenvalues(9, 1))),
        Case("participation_ratio", "eigenvalues (4, 2, 1, 1)", 2.909091, GAO, lambda: geometry.participation_ratio(_eigenvalues(4, 2, 1, 1))),
        Case("participation_ratio", "the same, shifted by 1e4", 2.909091, GAO, lambda: geometry.participation_ratio(_eigenvalues(4, 2, 1, 1) + 1e4)),
        Case("stable_rank", "eigenvalues (4, 2, 1, 1)", 2, "Rudelson and Vershynin 2007", lambda: geometry.stable_rank(_eigenvalues(4, 2, 1, 1))),
        Case("two_nn", "unit cube of 2 dimensions, n = 1000 (mean of 8)", 1.97, FACCO, lambda: _cube(2, 8), 0.09),
        Case("two_nn", "unit cube of 5 dimensions, n = 1000 (mean of 8)", 4.65, FACCO, lambda: _cube(5, 8), 0.22),
        Case("two_nn", "unit cube of 10 dimensions, n = 1000 (mean of 8)", 8.49, FACCO, lambda: _cube(10, 8), 0.4),
        Case("two_nn", "the smallest nine tenths of 60 draws minus a fit by hand", 0, FACCO, lambda: geometry.two_nn(normal(60, 3, seed=5)) - _two_nn_by_hand(normal(60, 3, seed=5))),
        Case("two_nn", "each point twice minus once", 0, FACCO, lambda: geometry.two_nn(np.repeat(normal(300, 3, seed=0), 2, axis=0)) - geometry.two_nn(normal(300, 3, seed=0))),
        Case("mle_dimension", "Gaussian on a plane in 6 dimensions, n = 2000", 2, LEVINA, lambda: geometry.mle_dimension(normal(2000, 2, seed=1) @ rotation(6, 3)[:2]), 0.12),
        Case("uniformity", "orthonormal vectors", -4, WANG, lambda: geometry.uniformity(np.eye(32))),
        Case("uniformity", "unit circle: ln I0(4) - 4 (2000 points)", math.log(ive(0, 4)), WANG, lambda: geometry.uniformity(_circle(2000)), 2e-3),
        Case("alignment", "identical views", 0, WANG, lambda: geometry.alignment(normal(20, 4, seed=2), normal(20, 4, seed=2))),
        Case("alignment", "orthogonal views", 2, WANG, lambda: geometry.alignment(np.eye(6)[:3], np.eye(6)[3:])),
        Case("matrix_entropy", "16 orthonormal tokens: ln 16", math.log(16), SKEAN, lambda: geometry.matrix_entropy(np.eye(16))),
        Case("matrix_entropy", "tokens +, +, -, -: rank 1", 0, SKEAN, lambda: geometry.matrix_entropy(signs)),
        Case("matrix_entropy", "16 orthonormal tokens, normalised", 1, SKEAN, lambda: geometry.matrix_entropy(np.eye(16), normalised=True)),
        Case("curvature", "equally spaced points on a line", 0, HOSSEINI, lambda: geometry.curvature(line), 1e-6),
        Case("curvature", "regular polygon of 12: 2 pi / 12", 0.523599, HOSSEINI, lambda: geometry.curvature(np.vstack([_circle(12)] * 2)[:14])),
        Case("dime", "two pairs of identical samples, all 24 permutations: 2/3 ln 2", 0.462098, DIME, lambda: geometry.dime(pairs, pairs, bandwidth=1.0)),
        Case("infonce", "4 orthonormal samples, temperature 0.1", 0.000272, CHEN, lambda: geometry.infonce(np.eye(4), np.eye(4), temperature=0.1)),
        Case("infonce", "8 orthonormal samples, temperature 0.5", 1.062879, CHEN, lambda: geometry.infonce(np.eye(8), np.eye(8), temperature=0.5)),
        Case("infonce", "8 equal samples: ln 15", 2.708050, CHEN, lambda: geometry.infonce(np.ones((8, 3)), np.ones((8, 3)))),
        Case("mean_cosine", "orthonormal vectors", 0, "Ethayarajh 2019 (1909.00512)", lambda: geometry.mean_cosine(np.eye(8))),
        Case("mean_cosine", "the same vector", 1, "Ethayarajh 2019 (1909.00512)", lambda: geometry.mean_cosine(np.ones((8, 3)))),
        Case("massive_activations", "a feature of mean 10 and variance 4: mean squared over variance", 25, "Sun et al. 2024 (2402.17762)", lambda: float(geometry.massive_activations(np.array([[12.0, 1.0], [8.0, -1.0]])).ratio[0])),
    ]  # fmt: skip
