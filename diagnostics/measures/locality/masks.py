"""Agreement of masks and of boxes, and labels that tokens carry through a video.

Masks agree by region and boundary, as in DAVIS, boxes as in VOC.

Also helpers of the measures that compare tokens with objects' masks without fitting: rows to read, and the result.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, naming, refuse_values
from diagnostics.measures.arrays import ShortRepr, as_tensor, token_samples, unit_rows
from diagnostics.measures.base import Case
from diagnostics.measures.locality.blocks import plane
from diagnostics.measures.probes.protocol import Probe, Rows, probe_result, sum_by_unit
from diagnostics.measures.result import store_reasons
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
        raise DiagnosticsError(
            f"tolerance is {tolerance}: give a share of the image's diagonal, from 0 to below 1.", code="bad-value"
        )
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

    # Boundaries are lines: a search tree over them is faster than dilating whole images. The bound itself is left out
    # of the search, and squared distances of pixels are whole numbers.
    distance, _ = KDTree(others).query(points, distance_upper_bound=math.sqrt(reach**2 + 0.5))
    return float(np.isfinite(distance).mean())


def _pair(prediction: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    guess, wanted = _mask(prediction, "prediction"), _mask(truth, "truth")
    if guess.shape != wanted.shape:
        raise DiagnosticsError(
            f"prediction and truth have shapes {guess.shape} and {wanted.shape}: give equal shapes.", code="bad-shape"
        )
    return guess, wanted


def _mask(x: Any, name: str) -> np.ndarray:
    array = as_array(x)
    refuse_values(
        (array.ndim != 2 or 0 in array.shape, f"{name} has shape {array.shape}: give one mask as [y, x].", "bad-shape"),
        (
            array.dtype != bool and not np.isin(array, (0, 1)).all(),
            f"{name} of shape {array.shape} holds more than 0 and 1: compare one object at a time, as masks == object.",
        ),
    )
    return array.astype(bool)


def _box(x: Any) -> np.ndarray:
    box = as_array(x).astype(np.float64)
    if box.shape != (4,):
        raise DiagnosticsError(f"A box has shape {box.shape}: give four numbers (x, y, x, y).", code="bad-shape")
    if (box[2:] < box[:2]).any():
        raise DiagnosticsError(
            f"The box {box.tolist()} ends before it begins: give (x, y, x, y), smaller ends first.", code="bad-value"
        )
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
            f"{masks.shape}: choose a dataset of {'videos' if 't' in axes else 'still images'} for it.",
            code="bad-target",
        )
    return masks


def rows_to_score(
    measure: str, activations: Activations, target: str, known: np.ndarray, most: int, of_val: int | None = None
) -> Rows:
    """Up to `most` rows of test, and as many or `of_val` of val, that are `known` [row, of those with tokens].

    None of train, since nothing is fitted; raises where val or test has none.
    """
    split = activations.split[: len(known)]
    of_val = most if of_val is None else of_val
    val, test = (np.flatnonzero(known & (split == name))[:n] for name, n in (("val", of_val), ("test", most)))
    for name, rows in (("val", val), ("test", test)):
        if len(rows) == 0:
            raise DiagnosticsError(
                f"{measure} finds no object of target {target} in any {name} sample whose tokens are kept: use more "
                "samples or raise the token budget (--token-budget).",
                code="too-few",
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


def result_without_fit(
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
    """A probe's dataset from loss and reference loss [tap, row] of the activations' rows.

    They are 0 in rows that are not read. `units_train` and `units_val` are 0, so that no interval is widened for a
    training set's share.
    """
    of_test, reference_of_test = (sum_by_unit(x[:, rows.test].T, rows).T for x in (loss, reference))
    val_loss, val_reference = (sum_by_unit(x[:, rows.val].T, rows, "val").T for x in (loss, reference))
    val = Losses(val_loss, val_reference)
    return probe_result(
        activations, rows, of_test, reference=reference_of_test, val=val, extra=extra, functional=functional, centring="none", seed=seed,
        reasons=reasons, units_train=0, units_val=0, pooling="none: grid tokens", **attrs,
    )  # fmt: skip


MOST_VIDEOS, MOST_VAL_VIDEOS = 100, 15
"""Videos read of test and of val, which chooses only: 12 taps then take under three minutes on a CPU at 8 frames of 14 x 14 tokens."""
LEAST_FRAMES = 3
DAVIS = "Perazzi et al. 2016 (DAVIS)"
_ENTRIES = 2**22
"""Most affinities held at a time."""
_TIE = 1e-9
"""Cosines and labels nearer than this are equal; rounding must choose neither among neighbours nor among labels."""


@dataclass(frozen=True, repr=False)
class RegionAndBoundary(ShortRepr):
    """J, F and their mean, averaged over frames and then over objects; `by_object` [object, (J, F)].

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import j_and_f
        >>> video = np.zeros((3, 20, 20), dtype=int)
        >>> video[:, 5:15, 0:10] = 1
        >>> round(j_and_f(np.roll(video, 5, axis=2), video).j, 4)  # 50 of 150 pixels
        0.3333
    """

    j: float
    f: float
    mean: float
    by_object: np.ndarray


def label_propagation(
    tokens: Any,
    grid: Sequence[int],
    first_mask: Any,
    *,
    neighbours: int = 5,
    window: int = 12,
    memory: int = 7,
    temperature: float = 0.1,
) -> np.ndarray:
    """Masks of a video from the mask of its first frame (Jabri et al. 2020, 2006.14613; protocol of DINO, 2104.14294).

    A token takes the labels of its `neighbours` most similar tokens (by cosine) in the first frame and the `memory`
    frames before it, weighted by exp(cosine / temperature); only tokens at most `window` cells away on either axis
    count. Labels stay soft, on the grid; the first frame's are those at the cells' centres. For the masks they are
    brought to the mask's size bilinearly, scaled to 0..1 over the frame for each label, and the largest wins (the first
    of equals, the background before all).

    Parameters
    ----------
    tokens: [frame, token, feature], grid tokens in raster order.
    grid: cells along y and x.
    first_mask: int [y, x] at any size, or [frame, y, x] of which only frame 0 is read; 0 background, from 1 objects, -1
        unknown (hands no label on).

    Returns int [frame, y, x], frame 0 as given. Bilinear maps round corners, so that only masks of the grid's own size
    (or of straight edges along its cells) come back to the pixel. Equally similar neighbours count all, also beyond
    `neighbours`, so that the order of tokens decides nothing. Float64. Raises DiagnosticsError for tokens that do not
    fill the grid or are not finite, for a mask without an object, and for parameters below their least.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import label_propagation
        >>> truth = np.zeros((4, 6, 6), dtype=int)
        >>> for frame in range(4):
        ...     truth[frame, 2:4, frame : frame + 2] = 1  # it moves to the right
        >>> tokens = np.eye(2)[truth].reshape(4, 36, 2)  # one direction for each label
        >>> np.array_equal(label_propagation(tokens, (6, 6), truth[0]), truth)
        True
    """
    grid = plane(grid, "a frame")
    x, single = token_samples(tokens, "The array of tokens", grid)
    refuse_values(
        (single, f"tokens has shape {tuple(x.shape[1:])}: give [frame, token, feature].", "bad-shape"),
        (
            neighbours < 1 or window < 0 or memory < 0 or not temperature > 0,
            f"label_propagation got neighbours {neighbours}, window {window}, memory {memory} and temperature "
            f"{temperature}: give at least 1, 0, 0 and a temperature above 0.",
        ),
    )
    given = as_array(first_mask)
    if given.ndim not in (2, 3) or 0 in given.shape or given.dtype.kind not in "iub":
        raise DiagnosticsError(
            f"first_mask is {given.dtype} of shape {given.shape}: give int [y, x] or [frame, y, x].", code="bad-shape"
        )
    given = (given if given.ndim == 2 else given[0]).astype(np.int64)
    objects = np.unique(given[given > 0])
    if len(objects) == 0:
        raise DiagnosticsError(
            f"first_mask of shape {given.shape} shows no object in frame 0: leave that video out.", code="bad-target"
        )
    labels = np.concatenate([[0], objects])
    soft = x.new_zeros((len(x), x.shape[1], len(labels)))
    # The first frame's labels are those of the pixels at the cells' centres.
    rows, columns = (
        ((np.arange(cells) + 0.5) * extent // cells).astype(np.int64)
        for cells, extent in zip(grid, given.shape, strict=True)
    )
    soft[0] = torch.from_numpy(given[np.ix_(rows, columns)].ravel()[:, None] == labels).to(x)
    unit = unit_rows(x)
    carried = np.empty((len(x), *given.shape), dtype=np.int64)
    carried[0] = given
    for frame in range(1, len(x)):
        sources = [0, *range(max(1, frame - memory), frame)]
        soft[frame] = _carry(
            unit[frame],
            unit[sources],
            soft[sources],
            grid=grid,
            neighbours=neighbours,
            window=window,
            temperature=temperature,
        )
        carried[frame] = labels[_largest(soft[frame], grid, given.shape).cpu().numpy()]
    return carried


def j_and_f(prediction: Any, truth: Any) -> RegionAndBoundary:
    """Region similarity J and boundary accuracy F of one video's masks, int [frame, y, x], 0 background, -1 unknown.

    For each object of the truth's first frame the mean over frames, the first (it was given) and the last left out as
    in DAVIS's semi-supervised evaluation; then the mean over objects. Places unknown in the truth count for nothing.
    Raises DiagnosticsError for shapes that differ, fewer than 3 frames, and no object in the first frame.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import j_and_f
        >>> video = np.zeros((3, 20, 20), dtype=int)
        >>> video[:, 5:15, 0:10] = 1
        >>> score = j_and_f(video, video)
        >>> score.j, score.f, score.mean
        (1.0, 1.0, 1.0)
    """
    guess, wanted = as_array(prediction), as_array(truth)
    if guess.shape != wanted.shape or guess.ndim != 3:
        raise DiagnosticsError(
            f"prediction and truth have shapes {guess.shape} and {wanted.shape}: give both as [frame, y, x] of one size.",
            code="bad-shape",
        )
    if len(guess) < LEAST_FRAMES:
        raise DiagnosticsError(
            f"prediction has shape {guess.shape}: give at least {LEAST_FRAMES} frames; the first and the last are left out.",
            code="too-few",
        )
    objects = np.unique(wanted[0][wanted[0] > 0])
    if len(objects) == 0:
        raise DiagnosticsError(
            f"truth of shape {wanted.shape} shows no object in frame 0: leave that video out.", code="bad-target"
        )
    known = wanted != -1
    by_object = np.zeros((len(objects), 2))
    for row, number in enumerate(objects):
        masks = [((guess[t] == number) & known[t], wanted[t] == number) for t in range(1, len(guess) - 1)]
        by_object[row] = np.mean([(jaccard(*pair), boundary_f(*pair)) for pair in masks], axis=0)
    j, f = by_object.mean(axis=0)
    return RegionAndBoundary(float(j), float(f), float((j + f) / 2), by_object)


def _carry(
    target: Tensor,
    sources: Tensor,
    soft: Tensor,
    grid: tuple[int, int],
    neighbours: int,
    window: int,
    temperature: float,
) -> Tensor:
    """Soft labels [token, label] of a frame [token, feature] from those of others [frame, token, label]."""
    height, width = grid
    frames, _, features = sources.shape
    device = target.device
    across = torch.arange(width, device=device)
    beside = (across[:, None] - across).abs() <= window
    labels = soft.shape[2]
    sources, soft = sources.view(frames, height, width, features), soft.view(frames, height, width, labels)
    out = target.new_empty((height * width, labels))
    # Only rows of cells within the window of a band of target rows are multiplied with it.
    band = max(1, _ENTRIES // (width * width * frames * min(height, 2 * window + 1)))
    for top in range(0, height, band):
        bottom = min(height, top + band)
        low, high = max(0, top - window), min(height, bottom + window)
        down, up = torch.arange(top, bottom, device=device), torch.arange(low, high, device=device)
        near = ((down[:, None] - up).abs() <= window)[:, None, :, None] & beside[:, None]
        places = slice(top * width, bottom * width)
        cosine = target[places] @ sources[:, low:high].reshape(-1, features).T
        cosine = cosine.view(bottom - top, width, frames, high - low, width)
        cosine = cosine.masked_fill_(~near[:, :, None], -math.inf).flatten(2).flatten(0, 1)
        best = cosine.topk(min(neighbours, cosine.shape[1]), dim=1).values
        cosine.masked_fill_(cosine < best[:, -1:] - _TIE, -math.inf)
        # The largest exponent is taken out of all: it cancels, and no temperature overflows.
        weight = cosine.sub_(best[:, :1]).div_(temperature).exp_()
        out[places] = weight @ soft[:, low:high].reshape(-1, labels) / weight.sum(dim=1, keepdim=True)
    return out


def _largest(soft: Tensor, grid: tuple[int, int], shape: tuple[int, ...]) -> Tensor:
    """The label [y, x] that is largest at the mask's size, from [token, label] on the grid."""
    maps = torch.nn.functional.interpolate(
        soft.T.reshape(1, -1, *grid), size=shape, mode="bilinear", align_corners=False
    )[0]
    low, high = (end(dim=(1, 2), keepdim=True) for end in (maps.amin, maps.amax))
    # A label that is the same everywhere, rounding aside, cannot be scaled and stays.
    scaled = torch.where(high - low > _TIE, (maps - low) / (high - low), maps)
    return (scaled >= scaled.amax(dim=0) - _TIE).int().argmax(dim=0)


def _two_squares() -> tuple[np.ndarray, np.ndarray]:
    """Two 10 x 10 squares, one shifted by 5."""
    a, b = np.zeros((2, 30, 30), dtype=bool)
    a[5:15, 5:15] = True
    b[5:15, 10:20] = True
    return a, b


def _upper(rows: int) -> np.ndarray:
    """The upper rows of a frame of 480 x 854."""
    return np.repeat(np.arange(480)[:, None] < rows, 854, axis=1)


def _followed() -> RegionAndBoundary:
    """Two squares that move over an 8 x 8 grid, a cell a pixel, by tokens that name the object."""
    masks = np.zeros((5, 8, 8), dtype=int)
    for t in range(5):
        masks[t, 1:3, t : t + 2] = 1
        masks[t, 5:7, 6 - t : 8 - t] = 2
    return j_and_f(label_propagation(np.eye(3)[masks.reshape(5, -1)], (8, 8), masks[0]), masks)


class LabelPropagation(Probe):
    """J and F of the objects of a video's first frame, followed by each tap's tokens; nothing is fitted.

    `line_still` is for the first mask kept in every frame, `line_uniform` for tokens that are all alike.
    """

    name = "label_propagation"
    answers = "Do tokens follow an object through a video?"
    source = "Jabri et al. 2020 (2006.14613); protocol of DINO (2104.14294) and DAVIS 2017"
    invariant_to = ("rotation", "each token's own scale")
    family = "spatial"
    needs = "tokens"
    kinds = ("masks",)
    losses, score_name = "squares", "J&F"
    instead = "it fits nothing: call diagnostics.measures.locality.label_propagation on the tokens of a video"
    known_answers = (
        Case("10 x 10 squares shifted by 5", 1 / 3, DAVIS, lambda: jaccard(*_two_squares()), measure="jaccard"),
        Case("a mask with itself", 1, DAVIS, lambda: boundary_f(_two_squares()[0], _two_squares()[0]), measure="boundary_f"),
        *(
            Case(f"edge off by {off} px at 480 x 854, tolerance 8 px", value, DAVIS, lambda off=off: boundary_f(_upper(240), _upper(240 + off)), measure="boundary_f")
            for off, value in ((8, 1), (9, 0))
        ),
        Case("J, features that name the object", 1, DAVIS, lambda: _followed().j),
        Case("F, features that name the object", 1, DAVIS, lambda: _followed().f),
    )  # fmt: skip

    def reads(self, target: StoredTarget) -> bool:
        # In a still image nothing is followed.
        return super().reads(target) and np.ndim(target.values) == 4

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        masks = masks_of(self.name, target, ("t", "y", "x"))
        reasons = {tap.name: _lacks(tap, masks.shape[1:]) for tap in activations.taps}
        taps = [(i, tap) for i, tap in enumerate(activations.taps) if not reasons[tap.name]]
        if not taps:
            raise DiagnosticsError(
                f"{self.name} follows masks of shape {masks.shape} of target {target.name} through frames, and no tap "
                f"has them ({store_reasons(reasons.items())}): choose an encoder of videos, or other taps (--taps).",
                code="no-grid",
            )
        kept = activations.token_samples
        frames = {tap.grid.shape[0]: _frames(masks.shape[1], tap.grid.shape[0]) for _, tap in taps}
        known = np.any([(masks[:kept, chosen[0]] > 0).any(axis=(1, 2)) for chosen in frames.values()], axis=0)
        rows = rows_to_score(self.name, activations, target.name, known, MOST_VIDEOS, MOST_VAL_VIDEOS)
        numbers = np.full((len(activations.taps), kept, 3), np.nan)
        lines = np.full((len(activations.taps), 2), np.nan)
        of_grid: dict[tuple[int, ...], np.ndarray] = {}
        for i, tap in taps:
            chosen = frames[tap.grid.shape[0]]
            numbers[i] = 0.0
            for row, tokens in tokens_of(activations, tap.name, rows):
                with naming(f"{self.name} at tap {tap.name}"):
                    numbers[i, row] = _of_video(tokens, tap.grid.shape, masks[row, chosen], activations.device)
            if tap.grid.shape not in of_grid:
                of_grid[tap.grid.shape] = _lines(masks[rows.test][:, chosen], tap.grid.shape, activations.device)
            lines[i] = of_grid[tap.grid.shape]
        objects = numbers[:, rows.test, 2].sum(axis=1)
        with np.errstate(invalid="ignore"):  # a tap whose first frame shows no object has no score
            j, f = (numbers[:, rows.test, k].sum(axis=1) / objects for k in (0, 1))
        return result_without_fit(
            activations,
            rows,
            numbers[:, :, 2] - numbers[:, :, :2].mean(axis=2),
            reference=numbers[:, :, 2],
            extra={"j": j, "f": f, "objects": objects, "line_still": lines[:, 0], "line_uniform": lines[:, 1]},
            functional="mean of J and F over objects, first and last frame left out; first frame's labels carried on by the 5 most "
            "similar tokens within 12 cells, of the first and the 7 frames before",
            seed=seed,
            reasons=reasons.items(),
            frames="of masks with several frames a grid step, the middle one (the earlier of two)",
        )


def _lacks(tap: Tap, extent: tuple[int, ...]) -> str:
    """The reason why objects cannot be followed at a tap, in words; nothing where they can."""
    if tap.grid.axes != ("t", "y", "x"):
        return f"a grid of {tap.grid}, not of t, y and x"
    frames = tap.grid.shape[0]
    if extent[0] % frames:
        return f"{frames} steps do not divide {extent[0]} frames"
    return f"fewer than {LEAST_FRAMES} steps" if frames < LEAST_FRAMES else ""


def _frames(frames: int, steps: int) -> np.ndarray:
    """The frame whose mask stands for each step of the grid: the middle one of a tubelet, the earlier of two."""
    each = frames // steps
    return np.arange(steps) * each + (each - 1) // 2


def _of_video(tokens: Any, grid: tuple[int, ...], masks: np.ndarray, device: str) -> tuple[float, float, int]:
    """Sums of J and of F over a video's objects, and their number.

    Tokens [step * cell, feature], masks [step, y, x].
    """
    if not (masks[0] > 0).any():
        return 0.0, 0.0, 0
    x = as_tensor(tokens).to(device).reshape(grid[0], grid[1] * grid[2], -1)
    # The last frame counts for nothing, and nothing follows from it.
    return _summed(np.concatenate([label_propagation(x[:-1], (grid[1], grid[2]), masks[0]), masks[-1:]]), masks)


def _lines(masks: np.ndarray, grid: tuple[int, ...], device: str) -> np.ndarray:
    """Score of keeping the first mask, and of tokens that are all alike, over videos [video, step, y, x]."""
    alike = np.ones((math.prod(grid), 1), dtype=np.float32)
    sums = np.zeros((2, 3))
    for video in masks:
        if (video[0] > 0).any():
            sums[0] += _summed(np.repeat(video[:1], len(video), axis=0), video)
            sums[1] += _of_video(alike, grid, video, device)
    with np.errstate(invalid="ignore"):
        return sums[:, :2].sum(axis=1) / (2 * sums[:, 2])


def _summed(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float, int]:
    by_object = j_and_f(prediction, truth).by_object
    return float(by_object[:, 0].sum()), float(by_object[:, 1].sum()), len(by_object)
