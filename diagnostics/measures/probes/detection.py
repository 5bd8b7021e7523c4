"""Detection: boxes around objects by a linear head on single tokens, scored by average precision.

The head is that of FCOS (Tian et al. 2019, 1904.01355) without its layers: at each token the class of the object whose
box it lies in, or background, and the distances to the four sides of that box. Both are linear readers, so that sums of
tokens are enough to fit them: those of all tokens for the classes, those of tokens in boxes for the distances.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.datasets.boxes import ASIDE, CLASS, there
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import over_taps
from diagnostics.measures.base import Case
from diagnostics.measures.probes.average_precision import (
    AREAS,
    IOUS,
    MOST_FOUND,
    Curves,
    Found,
    Matches,
    match,
    pack_matches,
    precision_draws,
    require_pycocotools,
    summary,
    unpack_matches,
)
from diagnostics.measures.probes.dense import (
    DenseRows,
    Judged,
    Streamed,
    Sums,
    TokenMap,
    Values,
    digest_of_bytes,
    result_of_sums,
)
from diagnostics.measures.probes.least_squares import PENALTIES, Moments
from diagnostics.measures.probes.protocol import KEEP_TOKENS, Probe, rows_of
from diagnostics.measures.probes.segmentation import Classes
from diagnostics.measures.probes.stored_sums import join_taps, read_stored
from diagnostics.measures.result import CENTRING, CHOSEN_ON, FUNCTIONAL, LEAST, POOLING, REASON, SEED, store_reasons

CENTRE = 1.5
"""Cells from a box's centre up to which its tokens stand for it, as in FCOS."""
MOST_CANDIDATES = 300
"""Boxes of an image that suppression chooses from, those of the highest scores."""
# A side that is nearer than this share of a cell counts as so near: its logarithm says little else.
_NEAREST = 1 / 16


@dataclass(frozen=True)
class BoxRows(DenseRows):
    """The tokens that detection reads.

    `values` are 0 for background, 1 + the class of the box that a token stands for, and -1 in boxes that count neither
    way; `sides` float32 [sample, token, 4] the logarithms of the distances to that box's left, top, right and bottom,
    in shares of what the grid covers.
    """

    sides: np.ndarray

    @classmethod
    def of(cls, measure: str, activations: Activations, target: StoredTarget) -> BoxRows:
        """Raise where no tap has a grid, or a split no sample with tokens, or no token of train lies in a box."""
        require_pycocotools()
        grids, grid = grids_of(activations, target)
        values, sides = assign(target.values[: activations.token_samples], grid.shape)
        known = (values >= 0) & (activations.split[: len(values)] != "")[:, None]
        rows = rows_of(activations, target.name, np.asarray(known.any(axis=1)), KEEP_TOKENS)
        if not (values[rows.train] > 0).any():
            raise DiagnosticsError(
                f"Boxes of {target.name} hold the centre of no token on a grid of {grid}: use larger images.",
                code="too-few",
            )
        return cls(measure, activations, target, grid, values, known, rows=rows, reads=tuple(grids), sides=sides)

    @cached_property
    def digest(self) -> str:
        values = np.where(self.known, self.values, 0)
        return digest_of_bytes(self.mask_digest.encode(), b"boxes", values.tobytes(), self.sides.tobytes())

    @cached_property
    def foreground(self) -> BoxRows:
        """The tokens that stand for a box alone."""
        return replace(self, known=self.known & (self.values > 0))

    @cached_property
    def side_means(self) -> np.ndarray:
        """Of train and val, [4]."""
        return self.sides[self.mask(self.rows.fit) & (self.values > 0)].mean(axis=0, dtype=np.float64)

    @cached_property
    def is_test(self) -> np.ndarray:
        """Test for a row of test, bool [sample]."""
        return np.isin(np.arange(len(self.values)), self.rows.test)

    @property
    def truth(self) -> np.ndarray:
        """Boxes [sample, 1 + box, column]."""
        return self.target.values

    @cached_property
    def most(self) -> int:
        """One more than the last class."""
        return 1 + int(np.nanmax(self.truth[:, :, CLASS]))

    def attributes(self) -> dict[str, Any]:
        """Numbers of boxes that there are, and of those that are not fitted or not read."""
        boxes, counts = self.truth[: len(self.values), 1:], self.truth[: len(self.values), 1:, ASIDE] == 0
        fitted = np.unique(self.values[self.rows.fit])
        tested = np.unique(boxes[self.rows.test][counts[self.rows.test]][:, CLASS]).astype(int)
        names = self.target.classes
        unseen = [names[c] if c < len(names) else str(c) for c in tested.tolist() if c + 1 not in fitted]
        return {
            "boxes_fitted": int(counts[self.rows.fit].sum()),
            "boxes_test": int(counts[self.rows.test].sum()),
            "boxes_aside": int((there(self.truth[: len(self.values)]) & ~counts).sum()),
            "tokens_in_boxes": int((self.values[self.rows.fit] > 0).sum()),
            "classes_only_in_test": ", ".join(unseen),
        }


def grids_of(activations: Activations, target: StoredTarget) -> tuple[dict[str, Grid], Grid]:
    """The grids of the taps that boxes lie on, by name, and the one that all are scored on; raises without any."""
    grids = {tap.name: tap.grid for tap in activations.taps if tap.grid.tokens > 1 and len(tap.grid.shape) == 2}
    if not grids:
        raise DiagnosticsError(
            f"Boxes of {target.name} lie on no tap's grid: choose taps of several tokens (--taps).", code="no-grid"
        )
    return grids, grids.get(activations.output_tap, list(grids.values())[-1])


def assign(boxes: np.ndarray, shape: tuple[int, ...], centre: float = CENTRE) -> tuple[np.ndarray, np.ndarray]:
    """Assign boxes to each token of a grid, as `BoxRows` has it: int16 [sample, token], float32 [sample, token, side].

    A token stands for the smallest of the boxes that hold its centre, and whose own centre is within `centre` cells.
    """
    (y, x), cell = centres_of(shape), 1 / np.array(shape, dtype=np.float64)
    codes = np.zeros((len(boxes), len(y)), dtype=np.int16)
    sides = np.zeros((len(boxes), len(y), 4), dtype=np.float32)
    for rows, code, side in zip(boxes, codes, sides, strict=True):
        rows = rows[1:][~np.isnan(rows[1:, CLASS])]
        x0, y0, x1, y1 = rows[:, :4].T
        away = np.stack([x[:, None] - x0, y[:, None] - y0, x1 - x[:, None], y1 - y[:, None]], axis=2)
        inside, counts = np.asarray((away > 0).all(axis=2)), rows[:, ASIDE] == 0
        code[inside[:, ~counts].any(axis=1)] = -1
        middle = np.abs(away[:, :, :2] - away[:, :, 2:]) / 2 < centre * cell[::-1]
        area = np.where(inside & middle.all(axis=2) & counts, (x1 - x0) * (y1 - y0), np.inf)
        held = np.flatnonzero(np.isfinite(area).any(axis=1))
        if len(held):
            of = area[held].argmin(axis=1)
            code[held] = 1 + rows[of, CLASS]
            side[held] = np.log(np.maximum(away[held, of], _NEAREST * np.tile(cell[::-1], 2)))
    return codes, sides


def centres_of(shape: tuple[int, ...]) -> np.ndarray:
    """y and x of the tokens of a grid, [2, token], in shares of what it covers."""
    return np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")).reshape(2, -1)


def corners_of(sides: Tensor, dense: DenseRows) -> Tensor:
    """x0, y0, x1, y1 [..., token, 4] of the boxes that tokens stand for, from the logarithms of distances to sides."""
    y, x = torch.as_tensor(centres_of(dense.grid.shape)).float()
    reach = sides.float().clamp(max=0).exp()
    return (torch.stack([x, y, x, y], dim=1) + reach * torch.tensor([-1.0, -1.0, 1.0, 1.0])).clamp(0, 1)


def find_boxes(said: Tensor, dense: BoxRows) -> Iterator[Found]:
    """The boxes of each sample by what a head says [row, token, column].

    A score of each of `dense.classes`, the four sides, and the intersection over union above which the box of the lower
    score goes.
    """
    from torchvision.ops import batched_nms

    count = len(dense.classes)
    shares = said[..., :count].float().softmax(dim=-1)[..., torch.as_tensor(dense.classes > 0)]
    numbers = torch.as_tensor(dense.classes[dense.classes > 0] - 1).long()
    corners = corners_of(said[..., count : count + 4], dense)
    highest, at = shares.flatten(1).topk(min(MOST_CANDIDATES, shares[0].numel()))
    for boxes, scores, places in zip(corners, highest, at, strict=True):
        boxes, of = boxes[places // len(numbers)], numbers[places % len(numbers)]
        kept = batched_nms(boxes, scores, of, float(said[0, 0, -1]))[:MOST_FOUND]
        kept = kept[scores[kept] > 0]
        yield Found(boxes[kept].numpy(), scores[kept].numpy(), of[kept].numpy())


def match_rows(dense: BoxRows, said: Tensor, rows: np.ndarray) -> np.ndarray:
    """`Matches` of rows [row], in all `AREAS` for those of test."""
    matches = np.empty(len(rows), dtype=object)
    for i, (row, found) in enumerate(zip(rows, find_boxes(said.cpu(), dense), strict=True)):
        matches[i] = match(found, dense.truth[row], dense.most, len(AREAS) if dense.is_test[row] else 1)
    return matches


class Sides(Values):
    """The distances to the sides of the box that a token stands for, by ridge regression of their logarithms."""

    def columns(self, dense: DenseRows, rows: np.ndarray) -> np.ndarray:
        assert isinstance(dense, BoxRows)
        return (dense.sides[rows] - dense.side_means).astype(np.float32)

    def origin(self, dense: DenseRows) -> np.ndarray:
        assert isinstance(dense, BoxRows)
        return dense.side_means


class WithSides(Sums):
    """A reader whose second part is `Sides`; the number that its variants differ in is the readout's last column."""

    second_penalty = "side_penalty"

    def second(self, dense: DenseRows) -> tuple[DenseRows, Sums]:
        assert isinstance(dense, BoxRows)
        return dense.foreground, Sides()

    def join(self, first: TokenMap, second: TokenMap) -> TokenMap:
        weights = np.concatenate([first.weights, second.weights, np.zeros((len(first.mean), 1))], axis=1)
        sides = second.bias[0] + (first.mean - second.mean) @ second.weights
        (numbers,) = self.variants.values()
        return TokenMap(first.mean, weights, np.array([[*first.bias[0], *sides, number] for number in numbers]))


class Boxes(WithSides, Classes):
    """Boxes by `Classes` on all tokens and `Sides` on those in boxes."""

    variants: ClassVar = {"nms_iou": (0.3, 0.5, 0.7)}

    def rows(self, measure: str, activations: Activations, target: StoredTarget) -> BoxRows:
        return BoxRows.of(measure, activations, target)

    def solve(self, dense: DenseRows, moments: Moments, penalty: float) -> TokenMap:
        # With the classes' shares as they are: scores are then probabilities.
        return super().solve(dense, moments, penalty).at(-1)

    def judge(self, dense: DenseRows, readout: TokenMap, said: Tensor, rows: np.ndarray) -> Judged:
        assert isinstance(dense, BoxRows)
        return {"matches": match_rows(dense, said, rows)}

    def pack(self, judged: Judged) -> dict[str, np.ndarray]:
        return pack_matches(judged["matches"].tolist())

    def unpack(self, arrays: Mapping[str, np.ndarray]) -> Judged:
        return {"matches": unpack_matches(arrays)}

    def score(self, judged: Sequence[Judged]) -> float:
        matches = np.concatenate([each["matches"] for each in judged]).tolist()
        return Curves(matches).mean(np.ones(len(matches)))

    def attributes(self, dense: DenseRows) -> dict[str, Any]:
        assert isinstance(dense, BoxRows)
        return {
            FUNCTIONAL: "mean over classes and over intersections over union of .5 to .95 of COCO's average precision, on "
            "what the encoder's grid covers of the images; linear discriminant for classes and ridge for sides on tokens",
            "penalties": list(PENALTIES),
            **dense.attributes(),
        }


COCO = "Lin et al. 2014 (1405.0312): 101 recalls from 0 to 1"


def _matches(*right: bool) -> Matches:
    """Of an image with two boxes, what is found of one class, likeliest first."""
    bits = np.packbits(np.tile(right, (1, len(IOUS), 1)), axis=1)
    scores = np.linspace(1, 0.5, len(right))
    return Matches(scores, np.zeros(len(right), dtype=int), bits, np.zeros_like(bits), np.array([[2]]))


class BoxProbe(Probe):
    """A probe that reads stored tokens from sums, as `runs.streaming` reads those that are not stored."""

    needs = "tokens"
    standard = False

    def at_tap(self, activations: Activations, target: StoredTarget, tap: Tap, seed: int) -> Any:
        sums = self.sums(target)
        return read_stored(sums.rows(self.name, activations, target), sums, tap)

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        sums = self.sums(target)
        dense = sums.rows(self.name, activations, target)
        found, tokens = dense.streamed, "streamed"
        if found is None:
            found = join_taps(self.find_at(activations, target, tap, seed) for tap in dense.taps)
            tokens = "stored"
        return self.result(dense, sums, found, seed, tokens)

    def result(self, dense: Any, sums: Any, found: Streamed, seed: int, tokens: str) -> xr.Dataset:
        """The result of what was chosen and judged at each tap, of `tokens` that are streamed or stored."""
        return result_of_sums(dense, sums, found, seed, tokens)


class DetectionProbe(BoxProbe):
    """Average precision of boxes that a linear head finds at each tap's grid tokens; see `Boxes`.

    `ap_50`, `ap_75`, `ap_small`, `ap_medium`, `ap_large` and `recall` (of at most 100 boxes an image) stand beside it,
    as COCO prints them; `line_chance` is that of a head that sees a token's place alone. All taps are scored on one
    grid; see `DenseRows`.
    """

    name = "detection_probe"
    answers = "Does each token know whose box it lies in, and how far the sides are?"
    source = "FCOS's head (Tian et al. 2019, 1904.01355) without layers; average precision: Lin et al. 2014 (1405.0312)"
    kinds = streams = ("boxes",)
    losses, score_name, metric = "resampled", "AP", "mean_average_precision"
    known_answers = (
        Case(
            "AP where a wrong box stands between the two that are right",
            (51 + 50 * 2 / 3) / 101,
            COCO,
            lambda: Curves([_matches(True, False, True)]).mean(np.ones(1)),
        ),
        Case(
            "AP where one of two images is drawn twice, and the other never",
            1.0,
            COCO,
            lambda: Curves([_matches(True, True), _matches(False)]).mean(np.array([2.0, 0.0])),
        ),
    )
    instead = "its boxes are decoded from all tokens of an image together"

    def sums(self, target: StoredTarget) -> Boxes:
        return Boxes()

    def result(self, dense: Any, sums: Any, found: Streamed, seed: int, tokens: str) -> xr.Dataset:
        return _result(dense, sums, found, seed, tokens)


def _place_alone(dense: BoxRows) -> float:
    """The average precision on test of a head that sees a token's place alone.

    It knows the shares of classes and the mean sides there, each with one token of the whole's.
    """
    codes, sides = dense.values[dense.rows.fit], dense.sides[dense.rows.fit]
    held = (codes > 0)[..., None]
    counts = np.stack([(codes == number).sum(axis=0) for number in dense.classes], axis=1)
    shares = counts + counts.sum(axis=0) / counts.sum()
    mean = ((sides * held).sum(axis=0) + dense.side_means) / (held.sum(axis=0) + 1)
    said = np.concatenate([np.log(np.maximum(shares, 1e-12)), mean, np.full((len(mean), 1), 0.5)], axis=1)
    (found,) = find_boxes(torch.as_tensor(said)[None], dense)
    matches = [match(found, dense.truth[row], dense.most, 1) for row in dense.rows.test]
    return Curves(matches).mean(np.ones(len(matches)))


def _result(dense: BoxRows, sums: Boxes, found: Streamed, seed: int, tokens: str) -> xr.Dataset:
    """The result of what was chosen and matched at each tap."""
    chosen, judged = found
    rows, activations = dense.rows, dense.activations
    whole = activations.choose_on == "fit"
    places, groups = (
        {"drawn": rows.test, "oof_drawn" if whole else "val_drawn": rows.fit if whole else rows.val},
        activations.groups,
    )
    curves: dict[str, list[Curves | None]] = {name: [] for name in places}
    numbers: dict[str, np.ndarray] = {"val_score": np.full(len(activations.taps), np.nan)}
    for i, tap in enumerate(activations.taps):
        of: dict[int, Matches] = {}
        for at, each in judged.get(tap.name, ()):
            of |= zip(at.tolist(), each["matches"], strict=True)
        for name, some in places.items():
            curves[name].append(Curves([of[row] for row in some]) if of else None)
        if of:
            numbers["val_score"][i] = Curves([of[row] for row in rows.val]).mean(np.ones(len(rows.val)))
            for name, value in {**chosen[tap.name], **summary([of[row] for row in rows.test])}.items():
                numbers.setdefault(name, np.full(len(activations.taps), np.nan))[i] = value
    numbers["line_chance"] = np.full(len(activations.taps), _place_alone(dense))
    variables: dict[str, Any] = dict(numbers)
    units = {"unit": rows.units, "fit_unit" if whole else "val_unit": rows.fit_units if whole else rows.val_units}
    for name, some in places.items():
        variables[name] = (("tap", "draw"), precision_draws(curves[name], groups[some]))
    by_split: dict[str, np.ndarray] = {"train": rows.train, "val": rows.val, "test": rows.test}
    dense_attrs = dense.attrs()
    attrs = {
        POOLING: dense_attrs["pooling"],
        CENTRING: "features standardised with the tokens fitted",
        **{f"n_{name}": len(some) for name, some in by_split.items()},
        **{f"units_{name}": len(set(groups[some])) for name, some in by_split.items()},
        SEED: seed,
        LEAST: 0.0,
        CHOSEN_ON: "fit" if whole else "val",
        REASON: store_reasons(dense_attrs["reasons"]),
        **sums.attributes(dense),
        **({"tokens": tokens} if tokens == "streamed" else {}),
    }
    return over_taps(
        activations, variables | dense.counts(), attrs, **{name: of.astype(object) for name, of in units.items()}
    )
