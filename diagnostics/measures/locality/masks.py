"""Agreement of masks (region and boundary, as DAVIS) and of boxes (intersection over union, as VOC), and helpers of the
measures that compare tokens with objects' masks without fitting: rows to read, and the result."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.probes.protocol import Rows, probe_result, sum_by_unit
from diagnostics.measures.statistics import Losses

TOLERANCE = 0.008
"""Share of the image's diagonal within which two boundaries match (DAVIS)."""


def jaccard(prediction: Any, truth: Any) -> float:
    """Region similarity J (Perazzi et al. 2016, DAVIS, section 4): intersection over union of two masks [y, x].

    Two empty masks agree that nothing is there: 1, as in DAVIS's own evaluation. Raises DiagnosticsError for anything
    but two masks of one shape that hold only 0 and 1.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import jaccard
        >>> mask = np.zeros((20, 20), dtype=bool)
        >>> mask[5:15, 0:10] = True
        >>> round(jaccard(np.roll(mask, 5, axis=1), mask), 4)  # 50 of 150 pixels
        0.3333
    """
    guess, wanted = _pair(prediction, truth)
    union = int((guess | wanted).sum())
    return int((guess & wanted).sum()) / union if union else 1.0


def boundary_f(prediction: Any, truth: Any, *, tolerance: float = TOLERANCE) -> float:
    """Boundary accuracy F of two masks [y, x] (Perazzi et al. 2016, DAVIS, section 4; Martin et al. 2004).

    A boundary pixel differs from its right, lower or lower right neighbour, so that the image's border is no boundary.
    Precision is the share of the prediction's boundary pixels that lie within r pixels (Euclidean, which is dilation by
    a disk) of the truth's, recall the reverse, F their harmonic mean; r = ceil(`tolerance` x diagonal in pixels), 8 at
    480 x 854. Both boundaries empty: 1; one of them: 0.

    Raises DiagnosticsError as `jaccard`, and for a tolerance outside 0..1.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import boundary_f
        >>> mask = np.zeros((40, 40), dtype=bool)
        >>> mask[10:20, 10:20] = True
        >>> boundary_f(np.roll(mask, 1, axis=1), mask)  # off by one pixel, within r = 1
        1.0
        >>> boundary_f(np.roll(mask, 15, axis=1), mask)
        0.0
    """
    guess, wanted = _pair(prediction, truth)
    if not 0 <= tolerance < 1:
        raise DiagnosticsError(f"tolerance is {tolerance}: give a share of the image's diagonal, from 0 to below 1.")
    reach = math.ceil(tolerance * math.hypot(*guess.shape))
    ours, theirs = _boundary(guess), _boundary(wanted)
    if len(ours) == 0 or len(theirs) == 0:
        return float(len(ours) == len(theirs))
    precision, recall = _near(ours, theirs, reach), _near(theirs, ours, reach)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def box_of(mask: Any) -> np.ndarray:
    """The smallest box around a mask [y, x]: first and last pixel on either axis, float [4] as (x, y, x, y).

    Both border pixels belong to the box, as in VOC. NaN for an empty mask.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import box_of
        >>> mask = np.zeros((4, 6), dtype=bool)
        >>> mask[1:3, 2:5] = True
        >>> box_of(mask).tolist()
        [2.0, 1.0, 4.0, 2.0]
    """
    array = _mask(mask, "mask")
    if not array.any():
        return np.full(4, np.nan)
    rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float64)


def box_iou(a: Any, b: Any, *, plus_one: bool = True) -> float:
    """Intersection over union of two boxes (x, y, x, y).

    `plus_one` counts both border pixels, so that a box from 0 to 9 is 10 wide: the rule of PASCAL VOC, right for boxes
    in whole pixels such as those of `box_of`. Without it coordinates are edges and that box is 9 wide. A box of NaN is
    no box and meets nothing: 0. Raises DiagnosticsError where a box has not four numbers or ends before it begins.

    Examples:
        >>> from diagnostics.measures.locality import box_iou
        >>> round(box_iou([0, 0, 9, 9], [5, 0, 14, 9]), 4)  # 50 of 150 pixels
        0.3333
    """
    first, second = _box(a), _box(b)
    if np.isnan(first).any() or np.isnan(second).any():
        return 0.0
    more = 1.0 if plus_one else 0.0
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]) + more
    shared = float(np.maximum(sides, 0.0).prod())
    union = sum(float((box[2:] - box[:2] + more).prod()) for box in (first, second)) - shared
    return shared / union if union > 0 else 0.0


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Places of the pixels that differ from a neighbour to the right, below, or both, int [pixel, axis]."""
    # Repeating the last row and column makes nothing differ across the border.
    wider = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = wider[:-1, :-1]
    return np.argwhere((here != wider[:-1, 1:]) | (here != wider[1:, :-1]) | (here != wider[1:, 1:]))


def _near(points: np.ndarray, others: np.ndarray, reach: float) -> float:
    """Share of the points within `reach` of any other one."""
    from scipy.spatial import KDTree

    # Boundaries are lines: a search tree over them is faster than dilating whole images. The bound itself is left out of
    # the search, and squared distances of pixels are whole numbers.
    distance, _ = KDTree(others).query(points, distance_upper_bound=math.sqrt(reach**2 + 0.5))
    return float(np.isfinite(distance).mean())


def _pair(prediction: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    guess, wanted = _mask(prediction, "prediction"), _mask(truth, "truth")
    if guess.shape != wanted.shape:
        raise DiagnosticsError(f"prediction and truth have shapes {guess.shape} and {wanted.shape}: give equal shapes.")
    return guess, wanted


def _mask(x: Any, name: str) -> np.ndarray:
    array = as_array(x)
    if array.ndim != 2 or 0 in array.shape:
        raise DiagnosticsError(f"{name} has shape {array.shape}: give one mask as [y, x].")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise DiagnosticsError(
            f"{name} of shape {array.shape} holds more than 0 and 1: compare one object at a time, as masks == object."
        )
    return array.astype(bool)


def _box(x: Any) -> np.ndarray:
    box = as_array(x).astype(np.float64)
    if box.shape != (4,):
        raise DiagnosticsError(f"A box has shape {box.shape}: give four numbers (x, y, x, y).")
    if (box[2:] < box[:2]).any():
        raise DiagnosticsError(f"The box {box.tolist()} ends before it begins: give (x, y, x, y), smaller ends first.")
    return box


def as_array(x: Any) -> np.ndarray:
    """numpy, a tensor on any device, or nested numbers as a numpy array: masks are compared on the CPU."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)


def masks_of(measure: str, target: StoredTarget, axes: Sequence[str]) -> np.ndarray:
    """The target's masks, int [sample, *axes]; raises where it has other axes."""
    masks = np.asarray(target.values)
    if masks.ndim != 1 + len(axes):
        raise DiagnosticsError(
            f"{measure} needs masks [sample, {', '.join(axes)}], and target {target.name} has masks of shape "
            f"{masks.shape}: choose a dataset of {'videos' if 't' in axes else 'still images'} for it."
        )
    return masks


def scored_rows(measure: str, activations: Activations, target: str, known: np.ndarray, most: int) -> Rows:
    """Up to `most` rows of val and of test that are `known` [row, of those with tokens], none of train, since nothing is
    fitted; raises where val or test has none."""
    split = activations.split[: len(known)]
    val, test = (np.flatnonzero(known & (split == name))[:most] for name in ("val", "test"))
    for name, rows in (("val", val), ("test", test)):
        if len(rows) == 0:
            raise DiagnosticsError(
                f"{measure} finds no object of target {target} in any {name} sample whose tokens are kept: use more "
                "samples or raise the token budget (--token-budget)."
            )
    return Rows.of({"train": np.zeros(0, dtype=np.int64), "val": val, "test": test}, activations.groups)


def tokens_of(activations: Activations, tap: str, rows: Rows) -> Iterator[tuple[int, np.ndarray]]:
    """(row, float32 [grid token, feature]) of val's and test's rows, in order."""
    wanted = np.sort(np.concatenate([rows.val, rows.test]))
    for block, tokens in activations.token_blocks(tap):
        first, last = np.searchsorted(wanted, (block.start, block.start + len(tokens)))
        yield from ((int(row), tokens[row - block.start]) for row in wanted[first:last])
        if last == len(wanted):
            return


def unfitted_result(
    activations: Activations,
    rows: Rows,
    loss: np.ndarray,
    reference: np.ndarray,
    extra: Mapping[str, Any],
    functional: str,
    seed: int,
    *,
    reasons: Iterable[tuple[str, str]],
    **attrs: Any,
) -> xr.Dataset:
    """A probe's dataset from loss and reference loss [tap, row] of the activations' rows (0 in rows that are not read), with
    `units_train` and `units_val` 0, so that no interval is widened for a training set's share."""
    of_test, reference_of_test = (sum_by_unit(x[:, rows.test].T, rows).T for x in (loss, reference))
    val_loss, val_reference = (sum_by_unit(x[:, rows.val].T, rows, "val").T for x in (loss, reference))
    val = Losses(val_loss, val_reference)
    return probe_result(
        activations, rows, of_test, reference_of_test, val, extra, functional, "none", seed,
        reasons=reasons, units_train=0, units_val=0, pooling="none: grid tokens", **attrs,
    )  # fmt: skip
