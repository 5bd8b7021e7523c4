"""Known answers of locality."""

import math

import numpy as np

from diagnostics.measures import locality
from diagnostics.measures.known_answers import Case, normal

VIT = "Dosovitskiy et al. 2020 (2010.11929), fig. 7"
IREPA = "iREPA (2512.10794)"
MORAN = "Moran 1950"
DAVIS = "Perazzi et al. 2016 (DAVIS)"
LOST = "Siméoni et al. 2021 (2109.14279)"
TOKENCUT = "Wang et al. 2022 (2202.11539)"
DARCET = "Darcet et al. 2024 (2309.16588)"
LUO = "Luo et al. 2016 (1701.04128)"
SIDE = 16


def _uniform(tokens: int) -> np.ndarray:
    return np.full((1, tokens, tokens), 1 / tokens)


def _one_query(row: int, side: int) -> float:
    """Distance of one uniform query of a square grid of 16 px cells, from attention that stays put elsewhere."""
    attention = np.eye(side**2)[None].copy()
    attention[0, row] = 1 / side**2
    return side**2 * float(locality.attention_distance(attention, (side, side), cell=16)[0])


def _next_with_wrap(side: int) -> np.ndarray:
    attention = np.zeros((1, side**2, side**2))
    for i in range(side**2):
        attention[0, i, i - i % side + (i + 1) % side] = 1
    return attention


def _gaussian(side: int, cell: float, sigma: float) -> np.ndarray:
    places = np.stack(np.divmod(np.arange(side**2), side), axis=1) * cell
    square = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    weights = np.exp(-square / (2 * sigma**2))
    return (weights / weights.sum(axis=1, keepdims=True))[None]


def _tokens() -> dict[str, np.ndarray]:
    """[token, feature] of the patterns on a 16 x 16 grid."""
    y, x = (a.ravel() for a in np.indices((SIDE, SIDE)))
    angle = np.pi / 32 * x
    return {
        "one-hot tokens": np.eye(SIDE**2),
        "equal tokens": np.ones((SIDE**2, 3)),
        "checkerboard of signs": (-1.0) ** (y + x)[:, None],
        "phase ramp of pi / 32 a column": np.stack([np.cos(angle), np.sin(angle)], axis=1),
        "row and column one-hot": np.hstack([np.eye(SIDE)[y], np.eye(SIDE)[x]]),
    }


_COSINES = {
    "one-hot tokens": (0, 0, 0.998045),
    "equal tokens": (0, 0, 0),
    "checkerboard of signs": (-1.035797, -0.095238, 1),
    "phase ramp of pi / 32 a column": (0.224453, 0.013934, 0.434487),
    "row and column one-hot": (0.466979, 0.051021, 0.968246),
}


def _squares() -> tuple[np.ndarray, np.ndarray]:
    """Two 10 x 10 squares, one shifted by 5."""
    a, b = np.zeros((2, 30, 30), dtype=bool)
    a[5:15, 5:15] = True
    b[5:15, 10:20] = True
    return a, b


def _upper(rows: int) -> np.ndarray:
    """The upper rows of a frame of 480 x 854."""
    mask = np.zeros((480, 854), dtype=bool)
    mask[:rows] = True
    return mask


def _two_objects() -> np.ndarray:
    """Masks [frame, y, x] of two squares that move over an 8 x 8 grid, a cell a pixel."""
    masks = np.zeros((5, 8, 8), dtype=int)
    for t in range(5):
        masks[t, 1:3, t : t + 2] = 1
        masks[t, 5:7, 6 - t : 8 - t] = 2
    return masks


def _propagated() -> np.ndarray:
    masks = _two_objects()
    return locality.label_propagation(np.eye(3)[masks.reshape(5, -1)], (8, 8), masks[0])


def _planted_square() -> tuple[np.ndarray, np.ndarray]:
    """Tokens [token, feature] of an 8 x 8 grid with a square of one direction, and its mask."""
    mask = np.zeros((8, 8), dtype=int)
    mask[2:5, 3:6] = 1
    # The rest shares a direction that the object has nothing of.
    return np.eye(2)[mask.ravel()], mask


def _planted_norms() -> np.ndarray:
    norms = np.abs(normal(2000, seed=0)) * 0.1 + 1
    norms[:40] = 10
    return norms


def _noise_r2(d: int, n: int) -> float:
    """Mean R2 of OLS from noise to places, n tokens fitted in each of 40 draws."""
    side = 10
    samples = n // side
    split = ["train"] * (samples - 1) + ["val"] + ["test"] * 20
    draws = [normal(samples + 20, side, d, seed=i) for i in range(40)]
    return float(np.mean([locality.position_probe(x, (side,), split, penalties=(1e-9,)).r2 for x in draws]))


def _stacked_ones(k: int) -> np.ndarray:
    """Response [y, x] of k convolutions of 3 x 3 ones to one place."""
    line = np.ones(1)
    for _ in range(k):
        line = np.convolve(line, np.ones(3))
    return np.pad(np.outer(line, line), 3)


def cases() -> list[Case]:
    """All of them."""
    tokens = _tokens()
    a, b = _squares()
    square, mask = _planted_square()
    norms = _planted_norms()
    grid = (SIDE, SIDE)
    ramp = np.indices(grid)[1].reshape(-1, 1).astype(np.float64)
    y, x = (axis.ravel() for axis in np.indices((8, 8)))
    code = np.stack([f(2 * np.pi * axis / 32 + 0.1) for axis in (y, x) for f in (np.sin, np.cos)], axis=1)
    code = np.hstack([code, y[:, None], x[:, None]])
    split = ["train", "val", "test"] * 3
    return [
        *(
            Case("attention_distance", f"uniform, {n} x {n} cells of {cell} px", value, VIT, lambda n=n, cell=cell: float(locality.attention_distance(_uniform(n * n), (n, n), cell=cell)[0]))
            for n, cell, value in ((14, 16, 116.492227), (16, 14, 116.565053), (24, 14, 175.041985), (7, 32, 115.502894))
        ),
        Case("attention_distance", "uniform query in a corner of 14 x 14 cells of 16 px", 161.030167, VIT, lambda: _one_query(0, 14), 1e-5),
        Case("attention_distance", "uniform query beside the centre of 14 x 14 cells of 16 px", 86.018933, VIT, lambda: _one_query(7 * 14 + 7, 14), 1e-5),
        Case("attention_distance", "every query attends to itself", 0, VIT, lambda: float(locality.attention_distance(np.eye(49)[None], (7, 7))[0])),
        Case("attention_distance", "right neighbour with wrap, 14 columns of 16 px", 29.714286, VIT, lambda: float(locality.attention_distance(_next_with_wrap(14), (14, 14), cell=16)[0])),
        Case("attention_distance", "the other of 2 rows of 6 cells, 3 high and 5 wide", 3, VIT, lambda: float(locality.attention_distance(np.roll(np.eye(12), 6, axis=1)[None], (2, 6), cell=(3.0, 5.0))[0])),
        Case("attention_distance", "Gaussian of 32 px on 14 x 14 cells of 16 px", 36.679733, VIT, lambda: float(locality.attention_distance(_gaussian(14, 16, 32), (14, 14), cell=16)[0])),
        Case("attention_distance", "uniform, 512 steps: (T^2 - 1) / 3T", 170.666016, VIT, lambda: float(locality.attention_distance(_uniform(512), (512,))[0])),
        Case("attention_distance", "uniform, 40 % of the mass on keys outside the grid", 116.492227, VIT, lambda: float(locality.attention_distance(0.6 * _uniform(196), (14, 14), cell=16)[0])),
        Case("attention_entropy", "uniform over 197 keys: ln 197", 5.283204, VIT, lambda: float(locality.attention_entropy(_uniform(197))[0])),
        Case("attention_entropy", "one key", 0, VIT, lambda: float(locality.attention_entropy(np.eye(9)[None])[0])),
        *(
            Case("self_similarity", f"{kind.upper()} of {name}, 16 x 16", value, IREPA, lambda n=name, k=kind: float(getattr(locality.self_similarity(tokens[n], grid), k)))
            for name, values in _COSINES.items()
            for kind, value in zip(("lds", "cds", "rmsc"), values, strict=True)
        ),
        Case("morans_i", "checkerboard", -1, MORAN, lambda: float(locality.morans_i(tokens["checkerboard of signs"], grid))),
        Case("morans_i", "column ramp, 16 x 16", 0.933333, MORAN, lambda: float(locality.morans_i(ramp, grid))),
        Case("morans_i", "noise, -1 / (T - 1) (mean of 2000 features)", -0.003922, MORAN, lambda: float(locality.morans_i(normal(SIDE**2, 2000, seed=0), grid)), 4e-3),
        Case("neighbour_consistency", "equal tokens minus chance", 0, "share of tokens within the radius", lambda: float(locality.neighbour_consistency(np.ones((64, 3)), (8, 8))) - locality.neighbour_chance((8, 8))),
        Case("neighbour_consistency", "points on a line, both neighbours, but for the ends", (2 * 0.5 + 14) / 16, "counted", lambda: float(locality.neighbour_consistency(np.stack([np.cos(np.arange(16) / 16), np.sin(np.arange(16) / 16)], axis=1), (16,), k=2))),
        Case("position_probe", "sine and cosine code with the places", 1, "read linearly", lambda: locality.position_probe(np.repeat(code[None], 9, axis=0), (8, 8), split).r2, 1e-4),
        Case("position_probe", "noise, OLS, n = 200, d = 100: -d / (n - d - 1) (mean of 40)", -1.01, "out-of-sample R2 of OLS", lambda: _noise_r2(100, 200), 0.1),
        Case("outlier_tokens", "2 % planted at ten times the median: share", 0.02, DARCET, lambda: locality.outlier_tokens(norms).share),
        Case("outlier_tokens", "recall of the planted", 1, DARCET, lambda: float(locality.outlier_tokens(norms).mask[:40].mean())),
        Case("outlier_tokens", "Gaussian norms", 0, DARCET, lambda: locality.outlier_tokens(10 + normal(5000, seed=1)).share),
        Case("jaccard", "10 x 10 squares shifted by 5", 1 / 3, DAVIS, lambda: locality.jaccard(a, b)),
        Case("boundary_f", "a mask with itself", 1, DAVIS, lambda: locality.boundary_f(a, a)),
        *(
            Case("boundary_f", f"edge off by {off} px at 480 x 854, tolerance 8 px", value, DAVIS, lambda off=off: locality.boundary_f(_upper(240), _upper(240 + off)))
            for off, value in ((8, 1), (9, 0))
        ),
        Case("label_propagation", "J, features that name the object", 1, DAVIS, lambda: locality.j_and_f(_propagated(), _two_objects()).j),
        Case("label_propagation", "F, features that name the object", 1, DAVIS, lambda: locality.j_and_f(_propagated(), _two_objects()).f),
        Case("box_iou", "boxes of 10 px shifted by half, both border pixels counted", 1 / 3, "PASCAL VOC", lambda: locality.box_iou([0, 0, 9, 9], [5, 0, 14, 9])),
        Case("lost", "IoU of a planted square", 1, LOST, lambda: locality.jaccard(locality.lost(square, (8, 8)).mask, mask == 1)),
        Case("tokencut", "IoU of a planted square", 1, TOKENCUT, lambda: locality.jaccard(locality.tokencut(square, (8, 8)).mask, mask == 1)),
        Case("object_discovery", "CorLoc of a planted square", 1, LOST, lambda: locality.object_discovery(square[None], (8, 8), mask[None]).corloc),
        *(
            Case("receptive_field", f"{k} convolutions of 3 x 3 ones, spread on an axis: sqrt(2 k / 3)", math.sqrt(2 * k / 3), LUO, lambda k=k: float(locality.receptive_field(_stacked_ones(k), (k + 3, k + 3)).sd[0]))
            for k in (1, 2, 3, 5)
        ),
        Case("global_token_mass", "uniform over 196 tokens and 1 class token", 1 / 197, DARCET, lambda: float(locality.global_token_mass(_uniform(197), 1).prefix[0])),
    ]  # fmt: skip
