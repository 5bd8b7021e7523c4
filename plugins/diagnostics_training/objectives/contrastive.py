"""Contrast of two views (SimCLR).

Chen et al., A simple framework for contrastive learning of visual representations, arXiv 2002.05709.

InfoNCE over two augmented views of each sample: normalised projections, temperature 0.1, all other views of the batch
(over all processes) as negatives. With `positives=temporal`, for series and clips: Yue et al., TS2Vec (arXiv
2106.10466, section 3.2): two overlapping crops, in which a token's positive is the same moment seen within the other
crop; instance-wise and temporal contrast of plain dot products, at every scale of max pooling over time by two. Apart
from TS2Vec, tokens are patches, no moments are masked, each crop has positions of its own, and the projector stands
between; a moment of a clip is the mean over its projected patches.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics_training.models.encoder import EncoderObjective, Head, Model, Projector, Sizes
from diagnostics_training.trainer.objective import Batch, gathered, own

TEMPERATURE = 0.1
PROJECTED = 128
"""Features of the projection at most."""


class Contrastive(EncoderObjective):
    """Views `x` and `y` of each sample, or one view `x` of which two crops are taken.

    `model`'s head is the projector.
    """

    options = ("positives",)
    compares_samples = True

    def __init__(self, model: Model, sizes: Sizes, *options: Any) -> None:
        super().__init__(model, sizes, *options)
        self.pairs = sizes.positives == "views"

    @classmethod
    def head(cls, sizes: Sizes) -> Head:
        return Projector(sizes.width, min(PROJECTED, sizes.width), each=sizes.positives == "temporal")

    def draws(self, rng: np.random.Generator, count: int) -> dict[str, Any]:
        """The same crops for a whole batch: where each begins and ends, as shares of the series."""
        return {} if self.pairs else {"crops": np.tile(rng.random(4), (count, 1))}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.pairs:
            # One pass for both views, as data parallelism wants it.
            both = self.model(torch.cat([batch["x"], batch["y"]])).float()
            x, y = nn.functional.normalize(both, dim=-1).chunk(2)
            return {"loss": info_nce(x, y, gathered(x), gathered(y), own(len(x)), TEMPERATURE)}
        x, patch = batch["x"], self.model.backbone.patches.size[0]
        first, start, stop, last = crops(batch["crops"][0].tolist(), x.shape[2] // patch)
        left = self.moments(x[:, :, first * patch : stop * patch])[:, start - first :]
        right = self.moments(x[:, :, start * patch : last * patch])[:, : stop - start]
        return {"loss": hierarchical(left, right)}

    def moments(self, x: Tensor) -> Tensor:
        """Projections [B, T, F] of the moments of x [B, C, t, ...]."""
        return self.model(x).float().unflatten(1, (x.shape[2] // self.model.backbone.patches.size[0], -1)).mean(2)


def crops(drawn: list[float], tokens: int) -> tuple[int, int, int, int]:
    """first <= start < stop <= last: one crop is first to stop, the other start to last, and they share start to stop.

    They share at least two tokens, and at least a quarter.
    """
    shared = max(2, tokens // 4)
    shared += int(drawn[0] * (tokens - shared + 1))
    shared = min(shared, tokens)
    start = int(drawn[1] * (tokens - shared + 1))
    stop = start + shared
    return int(drawn[2] * (start + 1)), start, stop, stop + int(drawn[3] * (tokens - stop + 1))


def info_nce(a: Tensor, b: Tensor, all_a: Tensor, all_b: Tensor, rows: slice, temperature: float) -> Tensor:
    """Mean over anchors a and b [..., n, F] of -log softmax of the positive among all other views [..., m, F].

    Row i of a is row `rows.start + i` of all_a, and its positive that of all_b. Similarity is the dot product over
    `temperature`.
    """
    # Products of 1 to 10 over a temperature of 0.1 lose too much in bfloat16, to which autocast would take them.
    with torch.autocast(a.device.type, enabled=False):
        losses = [_one_way(*sides, rows, temperature) for sides in ((a, all_a, all_b), (b, all_b, all_a))]
        return torch.stack(losses).mean()


def _one_way(anchors: Tensor, same: Tensor, other: Tensor, rows: slice, temperature: float) -> Tensor:
    places = torch.arange(rows.start, rows.stop, device=anchors.device)
    beside = anchors @ same.mT / temperature
    itself = places[:, None] == torch.arange(same.shape[-2], device=anchors.device)
    beside = beside.masked_fill(itself, -torch.inf)
    logits = torch.cat([anchors @ other.mT / temperature, beside], dim=-1).log_softmax(-1)
    return -logits.gather(-1, places[:, None].expand(*logits.shape[:-1], 1)).mean()


def hierarchical(left: Tensor, right: Tensor) -> Tensor:
    """TS2Vec's loss of two crops' shared tokens [B, T, F]: half instance-wise, half temporal, mean over scales."""
    losses: list[Tensor] = []
    rows = own(len(left))
    while True:
        times = left.shape[1]
        a, b, all_a, all_b = (part.transpose(0, 1) for part in (left, right, gathered(left), gathered(right)))
        instance = info_nce(a, b, all_a, all_b, rows, 1.0)
        if times == 1:
            return torch.stack([*losses, instance / 2]).mean()
        losses.append((instance + info_nce(left, right, left, right, slice(0, times), 1.0)) / 2)
        left, right = (nn.functional.max_pool1d(part.mT, 2).mT for part in (left, right))
