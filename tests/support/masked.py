"""An encoder of series in which some steps stand for no data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics import Grid, Site, Tap, TorchEncoder
from tests.support.tiny import tiny_dataset


def masked_encoder(length: int) -> TorchEncoder:
    """Tokens are steps; a step that is missing is 1000 in the input, and its token stands for no data."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(1, 4), nn.Linear(4, 4)

        def forward(self, values: Tensor, mask: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(values[..., None])))

    torch.manual_seed(0)
    grid = Grid((length,), ("t",))
    taps = [
        Tap("first", 0.0, "embedding", 4, grid, Site("first")),
        Tap("second", 1.0, "trunk", 4, grid, Site("second")),
    ]

    def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
        values = torch.as_tensor(np.asarray(sample, dtype=np.float32))
        return {"values": values.nan_to_num(1000.0), "mask": values.isfinite()}

    return TorchEncoder(
        "masked",
        "series",
        Model(),
        taps,
        "second",
        preprocess,
        np.linspace(0, 1, length),
        forward=lambda model, batch: model(batch["values"], batch["mask"]),
        valid=lambda batch, tap: batch["mask"],
    )


def ragged_dataset(n: int = 40) -> tuple[dx.Dataset, list[np.ndarray]]:
    whole = tiny_dataset(n)
    rng = np.random.default_rng(0)
    cut = [np.asarray(s)[-int(rng.integers(20, 33)) :] for s in whole.samples]
    return dx.Dataset(
        "cut", "series", dx.pad_series(cut), whole.ids, list(whole.split), whole.targets, ragged=True
    ), cut
