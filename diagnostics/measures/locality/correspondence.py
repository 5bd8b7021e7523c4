"""Correspondence: where a point of one view of a sample finds itself in another, by tokens alone; nothing is fitted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import grid_sample

from diagnostics.activations.contract import Activations, Observation, StoredTarget
from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.matches import LENGTH, crop_matches
from diagnostics.encoders.encoder import Captured, Encoder
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import as_tensor, unit_rows
from diagnostics.measures.base import Case
from diagnostics.measures.locality.blocks import plane
from diagnostics.measures.locality.masks import result_without_fit, rows_to_score
from diagnostics.measures.probes.protocol import Probe

SHARES = (0.1, 0.05)
"""Of a length, up to which a point that is found counts as right; the first is the score."""
DISTANCES = ("near", "middle", "far")
"""Thirds of the test pairs by how far their points lie apart on average, in shares of the view."""
_PLACES = 48
"""Of a side, over which the share of places that are near enough is counted."""


def find_points(first: Any, second: Any, grid: Sequence[int], points: Any) -> np.ndarray:
    """The place of the most similar token of a view for each point of another.

    A point's features are those of the tokens around it, interpolated; they are compared by cosine with all tokens of
    the other view, and the centre of the most similar one is the place.

    Parameters
    ----------
    first, second: [sample, token, feature] of two views, grid tokens in raster order.
    grid: cells along y and x, of both.
    points: [sample, point, 2], x and y in the first view, in shares of what the grid covers.

    Returns float64 [sample, point, 2], x and y in the second view, in shares.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality.correspondence import find_points
        >>> tokens = np.eye(16)[None]  # each place has a direction of its own
        >>> moved = np.roll(tokens.reshape(1, 4, 4, 16), 1, axis=2).reshape(1, 16, 16)  # a cell to the right
        >>> find_points(tokens, moved, (4, 4), [[[0.125, 0.375]]]).tolist()
        [[[0.375, 0.375]]]
    """
    x, y, at = as_tensor(first), as_tensor(second), as_tensor(points)
    height, width = plane(grid, "an image")
    if x.ndim != 3 or x.shape != y.shape or x.shape[1] != height * width or at.shape[::2] != (len(x), 2):
        raise DiagnosticsError(
            f"Views of shapes {tuple(x.shape)} and {tuple(y.shape)} on a grid of {height} x {width}, with points of "
            f"shape {tuple(at.shape)}, do not fit: give [sample, token, feature] twice and [sample, point, 2].",
            code="bad-shape",
        )
    return _nearest(_sampled(x, (height, width), at), y, (height, width)).cpu().numpy()


def _sampled(tokens: Tensor, grid: tuple[int, int], points: Tensor) -> Tensor:
    """Features [sample, point, feature] at points [sample, point, (x, y)] between the centres of cells."""
    maps = tokens.mT.reshape(len(tokens), -1, *grid)
    # A point that is unknown reads the middle, and is not judged.
    at = torch.nan_to_num(points, nan=0.5).to(tokens)[:, None] * 2 - 1
    return grid_sample(maps, at, padding_mode="border", align_corners=False)[:, :, 0].mT


def _nearest(features: Tensor, tokens: Tensor, grid: tuple[int, int], valid: Tensor | None = None) -> Tensor:
    """The centres [sample, point, (x, y)] of the tokens most similar to features [sample, point, feature]."""
    cosine = unit_rows(features) @ unit_rows(tokens).mT
    if valid is not None:
        cosine = cosine.masked_fill(~valid[:, None].to(cosine.device), -2)
    best = cosine.argmax(dim=2)
    return torch.stack([(best % grid[1] + 0.5) / grid[1], (best // grid[1] + 0.5) / grid[0]], dim=2).double()


def _on_plane(tap: Tap) -> str:
    return "" if tap.grid.axes == ("y", "x") and tap.grid.tokens > 1 else f"a grid of {tap.grid}, not of y and x"


class Views(Observation):
    """Points of each tap that stand for those of a target `matches` in the other view, [sample, match, (x, y)].

    See `find_points`.
    """

    name = "views"
    samples = 1024

    def reads(self, dataset: Dataset) -> bool:
        return any(target.kind == "matches" for target in dataset.targets.values())

    def load(self, encoder: Encoder, dataset: Dataset, sample: int) -> Any:
        targets = [target.values[[sample]] for target in dataset.targets.values() if target.kind == "matches"]
        if len(targets) > 1:
            raise DiagnosticsError(
                f"{dataset.name} has {len(targets)} targets of matches, and its views are passed once: give one.",
                code="unsupported",
            )
        points = crop_matches(targets[0], encoder.covers)[0, 1:, :2]
        views = dataset[sample], np.array(dataset.views[sample])
        stated = tuple(targets[0][0, 0, [3, 2]].astype(int).tolist())
        if views[1].shape[:2] != stated:
            raise DiagnosticsError(
                f"The view of sample {dataset.ids[sample]} of {dataset.name} is {views[1].shape[:2]} in height and "
                f"width, and its matches say {stated}: give the extents that it has.",
                code="bad-target",
            )
        return {"views": [encoder.preprocess(view) for view in views], "points": points}

    def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
        left_out = {name: why for name in taps if (why := _on_plane(encoder.tap(name)))}
        read = [name for name in taps if name not in left_out]
        (first, second), points = batch["views"], batch["points"]

        def grid_tokens(tap: Tap, tokens: Tensor) -> tuple[Tensor, tuple[int, int]]:
            return tokens[:, tap.grid.prefix :].float(), plane(tap.grid.shape, "an image")

        def look(tap: Tap, tokens: Tensor) -> Tensor:
            return _sampled(*grid_tokens(tap, tokens), points.to(tokens.device))

        def find(tap: Tap, tokens: Tensor) -> Tensor:
            return _nearest(features[tap.name], *grid_tokens(tap, tokens), encoder.valid(second, tap)).float()

        features = encoder.capture(first, read, look)
        return Captured({name: of.cpu() for name, of in encoder.capture(second, read, find).items()}, left_out)


def _hits(found: np.ndarray, truth: np.ndarray, share: float) -> np.ndarray:
    """Mask of the points that were found near enough, bool [..., match].

    Places [..., match, 2] are in shares of the view, and matches are [..., 1 + match, column].
    """
    size = truth[..., :1, 2:4]
    away = np.linalg.norm((found - truth[..., 1:, 2:4]) * size, axis=-1)
    return away <= share * truth[..., 1:, LENGTH]


def pck(found: Any, matches: Any, share: float = SHARES[0]) -> float:
    """The share of points that are found within `share` of their length: PCK (Yang and Ramanan 2013; SPair-71k).

    found: [sample, match, 2], x and y in shares of the view. matches: [sample, 1 + match, 5] as of `pad_matches`, with
    points in shares; NaN where there are fewer. NaN without a match.

    Examples:
        >>> from diagnostics.measures.locality.correspondence import pck
        >>> matches = [[[100, 100, 100, 100, 0], [0.5, 0.5, 0.5, 0.5, 100], [0.5, 0.5, 0.2, 0.2, 100]]]
        >>> pck([[[0.55, 0.5], [0.4, 0.2]]], matches)  # 5 and 20 pixels off, of 100
        0.5
    """
    places, truth = np.asarray(found, dtype=np.float64), np.asarray(matches, dtype=np.float64)
    known = np.isfinite(truth[:, 1:, LENGTH])
    return float(_hits(places, truth, share)[known].mean()) if known.any() else float("nan")


def _moved(off: float) -> float:
    """PCK at .1 of a point that is found so many pixels of 100 off."""
    return pck([[[0.5 + off / 100, 0.5]]], [[[100, 100, 100, 100, 0], [0.5, 0.5, 0.5, 0.5, 100]]])


SPAIR = "Min et al. 2019 (SPair-71k, 1908.10543)"


class Correspondence(Probe):
    """PCK of the points that each tap finds in another view of the sample; nothing is fitted.

    `pck_05` is PCK at .05, `near`, `middle` and `far` that at .1 of the `DISTANCES`. `line_chance` is of a place drawn
    evenly, `line_same_place` of a point that is looked for where it was; `ceiling` of the cell that holds the truth.
    """

    name = "correspondence"
    answers = "Does a token find itself in another view of the same thing?"
    source = f"nearest token by cosine; PCK: Yang and Ramanan 2013, {SPAIR}"
    invariant_to = ("rotation", "each token's own scale")
    family = "spatial"
    needs = "views"
    kinds = ("matches",)
    standard = False
    losses, score_name = "squares", "PCK@.1"
    observation = Views()
    instead = (
        "it fits nothing: call diagnostics.measures.locality.correspondence.find_points on the tokens of two views"
    )
    known_answers = (
        Case("PCK@.1 of a point 9 pixels off, of 100", 1, SPAIR, lambda: _moved(9)),
        Case("PCK@.1 of a point 11 pixels off, of 100", 0, SPAIR, lambda: _moved(11)),
    )

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        observed = activations.observation_arrays(Views.name)
        left_out = observed.left_out if isinstance(observed, Captured) else {}
        n = max((len(values) for values in observed.values()), default=0)
        truth = target.values[:n]
        known = np.isfinite(truth[:, 1:, LENGTH])
        rows = rows_to_score(self.name, activations, target.name, np.asarray(known.any(axis=1)), n)
        count, test = len(activations.taps), rows.test
        apart = np.linalg.norm(truth[:, 1:, 2:4] - truth[:, 1:, :2], axis=2)
        far = np.array([of[some].mean() if some.any() else np.nan for of, some in zip(apart, known, strict=True)])
        thirds = np.digitize(far, np.quantile(far[test], (1 / 3, 2 / 3)))
        wrong = np.full((count, n), np.nan)
        beside = {name: np.full(count, np.nan) for name in ("pck_05", *DISTANCES, "ceiling")}
        ceilings = dict[tuple[int, ...], float]()
        for i, tap in enumerate(activations.taps):
            if tap.name not in observed:
                continue
            found = observed[tap.name].astype(np.float64)
            right = _hits(found, truth, SHARES[0]) & known
            wrong[i] = known.sum(axis=1) - right.sum(axis=1)
            beside["pck_05"][i] = pck(found[test], truth[test], SHARES[1])
            for third, name in enumerate(DISTANCES):
                of = test[thirds[test] == third]
                beside[name][i] = pck(found[of], truth[of])
            if tap.grid.shape not in ceilings:
                cells = np.array(tap.grid.shape[::-1])
                centres = (np.floor(truth[test, 1:, 2:4].clip(0, 1 - 1e-9) * cells) + 0.5) / cells
                ceilings[tap.grid.shape] = pck(centres, truth[test])
            beside["ceiling"][i] = ceilings[tap.grid.shape]
        lines = {"line_chance": _chance(truth[test]), "line_same_place": pck(truth[test, 1:, :2], truth[test])}
        return result_without_fit(
            activations,
            rows,
            wrong,
            reference=np.broadcast_to(known.sum(axis=1), wrong.shape).astype(np.float64),
            extra=beside | {name: np.full(count, value) for name, value in lines.items()},
            functional="PCK@.1: share of points whose most similar token of the other view, by cosine, lies within .1 of "
            "the length that the target gives",
            seed=seed,
            reasons=left_out.items(),
            matches=int(known[test].sum()),
            distances=np.quantile(far[test], (1 / 3, 2 / 3)).round(4).tolist(),
        )


def _chance(truth: np.ndarray) -> float:
    """PCK of places drawn evenly over the view."""
    of, match = np.nonzero(np.isfinite(truth[:, 1:, LENGTH]))
    side = (np.arange(_PLACES) + 0.5) / _PLACES
    size, at, length = truth[of, 0, 2:4], truth[of, 1 + match, 2:4], truth[of, 1 + match, LENGTH]
    across, down = (((side - at[:, [axis]]) * size[:, [axis]]) ** 2 for axis in (0, 1))
    near = [a[:, None] + b <= (SHARES[0] * reach) ** 2 for a, b, reach in zip(across, down, length, strict=True)]
    return float(np.mean([each.mean() for each in near]))
