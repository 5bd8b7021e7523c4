"""Unsupervised object discovery from the tokens of an image: LOST, TokenCut and CorLoc."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, check_known, naming
from diagnostics.measures.arrays import ShortRepr, as_tensor, centre, eigh, rescale, token_samples, unit_rows
from diagnostics.measures.base import Case
from diagnostics.measures.locality.blocks import lengths, plane
from diagnostics.measures.locality.masks import (
    as_array,
    box_iou,
    jaccard,
    masks_of,
    result_without_fit,
    rows_to_score,
    tokens_of,
)
from diagnostics.measures.probes.protocol import Probe
from diagnostics.measures.result import store_reasons

MOST_SAMPLES = 500
"""Images read of val and of test."""
MOST_TOKENS = 4096
"""Tokens of an image from which TokenCut's affinities [token, token] are not held."""
HIT = 0.5
"""Intersection over union from which a box counts as found (PASCAL VOC)."""
WEAK = 1e-5
"""Affinity of tokens that are not alike (TokenCut)."""
LOST = "Siméoni et al. 2021 (2109.14279)"
_ZERO = 1e-12
"""Products below this share of both lengths are rounding error, neither positive nor negative."""
_BLOCK = 1024


@dataclass(frozen=True, repr=False)
class FoundObject(ShortRepr):
    """An object that tokens mark out: `box` (x, y, x, y), first and last pixel on either axis.

    `mask` bool [y, x] on the grid; `seed`, the token that it grew from. Nothing found: box NaN, mask empty, seed -1.

    Examples:
        >>> from diagnostics.measures.locality import lost
        >>> found = lost([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], grid=(1, 3), cell=16)
        >>> found.mask.tolist(), found.seed, found.box.tolist()
        ([[True, False, False]], 0, [0.0, 0.0, 15.0, 15.0])
    """

    box: np.ndarray
    mask: np.ndarray
    seed: int


@dataclass(frozen=True, repr=False)
class Discovered(ShortRepr):
    """The largest `iou` of each sample's box with an object's, and whether it is a `hit`, 1 or 0.

    They are floats where the tokens had no sample axis, and NaN for samples without an object. `corloc`: mean of the
    hits.

    Examples:
        >>> from diagnostics.measures.locality import object_discovery
        >>> tokens = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
        >>> found = object_discovery(tokens, (1, 3), [[1, 1, 1]])
        >>> round(found.iou, 4), found.hit  # a third of the object
        (0.3333, 0.0)
    """

    iou: Any
    hit: Any
    corloc: float


def lost(features: Any, grid: Sequence[int], *, seeds: int = 100, cell: float | Sequence[float] = 1.0) -> FoundObject:
    """LOST (Simeoni et al. 2021, 2109.14279, section 3): the object that grows from the least connected token.

    The degree of a token is the number of tokens that it has a positive inner product with; the seed has the lowest
    (the first of equals). It is joined by those of the `seeds` tokens of lowest degree whose product with it is
    positive; the object is the connected part (4 neighbours), with the seed in it, of the tokens whose products with
    these add up to more than 0.

    Parameters
    ----------
    features: [token, feature] in raster order; the paper takes the keys of the last layer, not centred.
    grid: cells along y and x.
    cell: length of a cell in pixels, the same along y and x or one each, for the box.

    Turning and scaling all features together changes nothing; a component common to all does. Tokens of length zero are
    never seeds. Products are taken block by block. Raises DiagnosticsError where features do not fill the grid or are
    not finite, or `seeds` is below 1.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import lost
        >>> mask = np.zeros((6, 6), dtype=int)
        >>> mask[1:3, 2:5] = 1
        >>> tokens = np.eye(2)[mask.ravel()]  # one direction inside, another outside
        >>> lost(tokens, (6, 6)).box.tolist()
        [2.0, 1.0, 4.0, 2.0]
    """
    grid, cell = plane(grid, "an image"), lengths(cell, 2)
    x = _features(features, grid)
    if seeds < 1:
        raise DiagnosticsError(f"lost got {seeds} seeds: give at least 1.", code="bad-value")
    length = x.norm(dim=1)
    if not bool((length > 0).any()):
        return _nothing(grid)
    # Directions have the signs of the products, and one threshold.
    unit = unit_rows(x)
    degree = torch.cat([(part @ unit.T > _ZERO).sum(dim=1) for part in unit.split(_BLOCK)])
    degree = torch.where(length > 0, degree, len(x) + 1)
    order = degree.argsort(stable=True)[:seeds]
    seed = order[0]
    friends = order[unit[order] @ unit[seed] > _ZERO]
    together = x[friends].sum(dim=0)
    reach = _ZERO * length * length[friends].sum()
    return _grow((x @ together > reach).cpu().numpy(), int(seed), grid, cell)


def tokencut(
    features: Any, grid: Sequence[int], *, threshold: float = 0.2, cell: float | Sequence[float] = 1.0
) -> FoundObject:
    """TokenCut (Wang et al. 2022, 2202.11539, section 3): the smaller side of the normalised cut of an image's tokens.

    Affinity W is 1 for a cosine above `threshold` and 1e-5 otherwise; the cut parts the second smallest eigenvector of
    (D - W) y = lambda D y at its mean. Foreground is the side of the largest |y|, which is the seed, and the object the
    foreground's connected part (4 neighbours) with the seed in it.

    Parameters as `lost`. Where that eigenvector is not the only one (all tokens alike, or none like another) no cut is
    better than others and nothing is found. Raises DiagnosticsError as `lost`, and above 4096 tokens.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import tokencut
        >>> mask = np.zeros((6, 6), dtype=int)
        >>> mask[1:3, 2:5] = 1
        >>> tokens = np.eye(2)[mask.ravel()]  # one direction inside, another outside
        >>> np.array_equal(tokencut(tokens, (6, 6)).mask, mask)
        True
    """
    grid, cell = plane(grid, "an image"), lengths(cell, 2)
    x = _features(features, grid)
    if len(x) > MOST_TOKENS:
        raise DiagnosticsError(
            f"features has shape {tuple(x.shape)}: tokencut holds all pairs of tokens, at most {MOST_TOKENS} tokens; use "
            "lost, or a smaller image.",
            code="too-large",
        )
    unit = unit_rows(x)
    vector = _second_eigenvector((unit @ unit.T > threshold).to(x.dtype).clamp(min=WEAK))
    if vector is None:
        return _nothing(grid)
    size = np.abs(vector)
    # Equal entries differ by rounding, which must not choose among them.
    seed = int(np.flatnonzero(size >= size.max() * (1 - 1e-9))[0])
    return _grow((vector > vector.mean()) == (vector[seed] > vector.mean()), seed, grid, cell)


def corloc(boxes: Any, truths: Sequence[Any]) -> float:
    """Correct localisation (Deselaers et al. 2010).

    It is the share of images whose box has an IoU of at least .5 with any object's.

    Parameters
    ----------
    boxes: [image, 4], (x, y, x, y) with first and last pixel, as `lost` gives them (VOC's rule, see `box_iou`); NaN
    where
        nothing was found, which is a miss.
    truths: for each image its objects' boxes [object, 4].

    Raises DiagnosticsError for another shape, and for an image without objects.

    Examples:
        >>> from diagnostics.measures.locality import corloc
        >>> truths = [[[0, 0, 9, 9]], [[5, 0, 14, 9]]]  # one object in each image
        >>> corloc([[0, 0, 9, 9], [0, 0, 9, 9]], truths)  # IoU 1, and 1/3: a miss
        0.5
    """
    guesses = as_array(boxes).astype(np.float64)
    if guesses.ndim != 2 or guesses.shape[1] != 4 or len(guesses) != len(truths) or len(guesses) == 0:
        raise DiagnosticsError(
            f"boxes has shape {guesses.shape} beside the objects of {len(truths)} images: give one box (x, y, x, y) "
            f"per image.",
            code="bad-shape",
        )
    hits = 0
    for i, (box, objects) in enumerate(zip(guesses, truths, strict=True)):
        wanted = as_array(objects).astype(np.float64)
        if wanted.ndim != 2 or wanted.shape[1] != 4 or len(wanted) == 0:
            raise DiagnosticsError(
                f"Image {i} has objects' boxes of shape {wanted.shape}: give [object, 4]; leave out images without "
                f"objects.",
                code="bad-shape",
            )
        hits += _best_iou(box, wanted) >= HIT
    return hits / len(guesses)


def object_discovery(
    tokens: Any, grid: Sequence[int], masks: Any, *, method: Literal["lost", "tokencut"] = "lost"
) -> Discovered:
    """Agreement of the object that the tokens mark out with those of the image: IoU of boxes, hits and CorLoc.

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], grid tokens in raster order.
    grid: cells along y and x.
    masks: int [sample, y, x] or [y, x] at any size that the grid covers; objects from 1, 0 background, -1 unknown.
    method: `lost` or `tokencut`.

    Boxes count both border pixels (VOC's rule). Nothing found is a miss. Raises DiagnosticsError as `lost`, for masks
    of another rank or number, and where none shows an object.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import object_discovery
        >>> masks = np.zeros((1, 6, 6), dtype=int)
        >>> masks[0, 1:3, 2:5] = 1
        >>> found = object_discovery(np.eye(2)[masks.reshape(1, 36)], (6, 6), masks)
        >>> found.iou.tolist(), found.corloc
        ([1.0], 1.0)
    """
    check_known("method", method, _METHODS)
    grid = plane(grid, "an image")
    x, single = token_samples(tokens, "The array of tokens", grid)
    given = as_array(masks)
    if given.ndim != (2 if single else 3) or (not single and len(given) != len(x)) or given.dtype.kind not in "iub":
        wanted = "[y, x]" if single else f"[sample, y, x] for {len(x)} samples"
        raise DiagnosticsError(
            f"masks is {given.dtype} of shape {given.shape}: give integers {wanted}.", code="bad-shape"
        )
    given = given[None] if single else given
    iou = np.array([_iou(_METHODS[method], x[i], grid, mask, _boxes(mask)) for i, mask in enumerate(given)])
    if np.isnan(iou).all():
        raise DiagnosticsError(
            f"masks of shape {given.shape} show no object: give samples with objects from 1.", code="bad-target"
        )
    hit = np.where(np.isnan(iou), np.nan, iou >= HIT)
    if single:
        return Discovered(float(iou[0]), float(hit[0]), float(hit[0]))
    return Discovered(iou, hit, float(np.nanmean(hit)))


_METHODS: dict[str, Callable[..., FoundObject]] = {"lost": lost, "tokencut": tokencut}


def _features(features: Any, grid: tuple[int, int]) -> Tensor:
    x, single = token_samples(features, "The array of features", grid)
    if not single:
        raise DiagnosticsError(
            f"features of {len(x)} samples on a grid of {grid}: give one image's, [token, feature], on a grid of y and x.",
            code="bad-shape",
        )
    return rescale(x[0])


def _nothing(grid: tuple[int, int]) -> FoundObject:
    return FoundObject(np.full(4, np.nan), np.zeros(grid, dtype=bool), -1)


def _grow(inside: np.ndarray, seed: int, grid: tuple[int, int], cell: Sequence[float]) -> FoundObject:
    """The connected part of the places `inside` [token] that holds the seed, and its box."""
    from scipy.ndimage import find_objects, label

    labelled: Any = label(inside.reshape(grid))
    parts = labelled[0]
    number = int(parts.ravel()[seed])
    if number == 0:
        return _nothing(grid)
    rows, columns = find_objects(parts)[number - 1]
    high, wide = cell
    box = [columns.start * wide, rows.start * high, columns.stop * wide - 1, rows.stop * high - 1]
    return FoundObject(np.array(box, dtype=float), parts == number, seed)


def _second_eigenvector(affinity: Tensor) -> np.ndarray | None:
    """y of the second smallest lambda of (D - W) y = lambda D y, for W [token, token]; None where it is not unique."""
    if len(affinity) < 3:
        return None
    root = affinity.sum(dim=1).sqrt()
    # With z = sqrt(D) y this is the ordinary problem of D^-1/2 W D^-1/2, whose largest values are the smallest lambdas.
    # All pairs are asked for: LAPACK's way to a few of them finds none where many values are equal.
    values, vectors = eigh(affinity / root / root[:, None])
    if float(values[-2] - values[-3]) < 1e-10:
        return None
    return (vectors[:, -2] / root).cpu().numpy()


def _boxes(mask: np.ndarray) -> np.ndarray:
    """Boxes [object, 4] of the objects of a mask int [y, x]."""
    from scipy.ndimage import find_objects

    places = [place for place in find_objects(np.maximum(mask, 0).astype(np.int64)) if place is not None]
    return np.array([(x.start, y.start, x.stop - 1, y.stop - 1) for y, x in places], dtype=float).reshape(-1, 4)


def _best_iou(box: np.ndarray, wanted: np.ndarray) -> float:
    return max(box_iou(box, other) for other in wanted)


def _iou(
    method: Callable[..., FoundObject], tokens: Any, grid: tuple[int, ...], mask: np.ndarray, wanted: np.ndarray
) -> float:
    """The largest IoU of the box found with an object's; NaN where there is no object."""
    if len(wanted) == 0:
        return math.nan
    cell = tuple(extent / cells for extent, cells in zip(mask.shape, grid, strict=True))
    return _best_iou(method(tokens, grid, cell=cell).box, wanted)


def _planted_square() -> tuple[np.ndarray, np.ndarray]:
    """Tokens [token, feature] of an 8 x 8 grid with a square of one direction, and its mask [y, x]."""
    mask = np.zeros((8, 8), dtype=int)
    mask[2:5, 3:6] = 1
    # The rest shares a direction that the object has nothing of.
    return np.eye(2)[mask.ravel()], mask


def _overlap(method: Callable[..., FoundObject]) -> float:
    """Intersection over union of the mask found with the planted square."""
    tokens, mask = _planted_square()
    return jaccard(method(tokens, (8, 8)).mask, mask == 1)


class ObjectDiscovery(Probe):
    """CorLoc of LOST on tokens in place of keys; nothing is fitted.

    `centred` is the same once each image's mean token is removed, `iou` the mean IoU of the best box,
    `line_whole_image` the CorLoc of the whole image as a box, and `line_centre` that of a box in its middle with half
    its sides.
    """

    name = "object_discovery"
    answers = "Do tokens separate an object from the background without labels?"
    source = "LOST, Simeoni et al. 2021 (2109.14279)"
    invariant_to = ("rotation", "scale")
    family = "spatial"
    needs = "tokens"
    kinds = ("masks",)
    losses, score_name = "counts", "CorLoc"
    instead = "it fits nothing: call diagnostics.measures.locality.object_discovery on run.features(tap, tokens=True)"
    standard = False
    known_answers = (
        Case("boxes of 10 px shifted by half, both border pixels counted", 1 / 3, "PASCAL VOC", lambda: box_iou([0, 0, 9, 9], [5, 0, 14, 9]), measure="box_iou"),
        Case("IoU of a planted square", 1, LOST, lambda: _overlap(lost), measure="lost"),
        Case("IoU of a planted square", 1, "Wang et al. 2022 (2202.11539)", lambda: _overlap(tokencut), measure="tokencut"),
        Case("CorLoc of a planted square", 1, LOST, lambda: object_discovery(_planted_square()[0], (8, 8), _planted_square()[1]).corloc),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        masks = masks_of(self.name, target, ("y", "x"))
        reasons = [(tap.name, _lacks(tap)) for tap in activations.taps]
        taps = [(i, tap) for i, tap in enumerate(activations.taps) if not reasons[i][1]]
        if not taps:
            raise DiagnosticsError(
                f"{self.name} grows an object on a grid of y and x, and no tap has one ({store_reasons(reasons)}): "
                f"choose other taps (--taps).",
                code="no-grid",
            )
        kept = activations.token_samples
        boxes = [_boxes(mask) for mask in masks[:kept]]
        known = np.array([len(of_image) > 0 for of_image in boxes], dtype=bool)
        rows = rows_to_score(self.name, activations, target.name, known, MOST_SAMPLES)
        shape = (len(activations.taps), kept)
        reference, iou, centred = (np.full(shape, np.nan) for _ in range(3))
        for i, tap in taps:
            reference[i], iou[i], centred[i] = 0.0, 0.0, 0.0
            for row, tokens in tokens_of(activations, tap.name, rows):
                reference[i, row] = 1.0
                with naming(f"{self.name} at tap {tap.name}"):
                    x = as_tensor(tokens).to(activations.device)
                    iou[i, row] = _iou(lost, x, tap.grid.shape, masks[row], boxes[row])
                    centred[i, row] = _iou(lost, centre(x), tap.grid.shape, masks[row], boxes[row])
        fitting = np.isfinite(reference[:, 0])

        def mean(values: np.ndarray) -> np.ndarray:
            return np.where(fitting, values[:, rows.test].mean(axis=1), np.nan)

        high, wide = masks.shape[1:]
        lines = {
            "line_whole_image": [0, 0, wide - 1, high - 1],
            "line_centre": [wide / 4, high / 4, 3 * wide / 4 - 1, 3 * high / 4 - 1],
        }
        of_test = [boxes[row] for row in rows.test]
        lines = {name: np.where(fitting, corloc([box] * len(of_test), of_test), np.nan) for name, box in lines.items()}
        return result_without_fit(
            activations,
            rows,
            np.where(fitting[:, None], reference * (iou < HIT), np.nan),
            reference=reference,
            extra={"iou": mean(iou), "centred": mean((centred >= HIT).astype(float)), **lines},
            functional="CorLoc: share of images whose box, by LOST on tokens (the paper takes keys), has an IoU of at least .5 with "
            "an object's; boxes count both border pixels (VOC)",
            seed=seed,
            reasons=reasons,
        )


def _lacks(tap: Tap) -> str:
    """The reason why no object can grow at a tap, in words; nothing where one can."""
    if tap.grid.axes != ("y", "x"):
        return f"a grid of {tap.grid}, not of y and x"
    return "one token" if tap.grid.tokens < 2 else ""
