"""Forecasting: a causal encoder predicts the next patch from each patch and those before it.

Quantile likelihood: the pinball loss (Koenker and Bassett, Regression quantiles, 1978) over levels 0.1 to 0.9, as in
time-series foundation models (Chronos-Bolt, TiRex). Gaussian likelihood: mean and log variance of each value. The next
patch of an image is that in raster order, of a clip too with time first, each normed to mean 0 and deviation 1 as AIM
(El-Nouby et al., arXiv 2401.08541, section 3) predicts it; patches of a series are predicted as they are.
"""

import torch
from torch import Tensor, nn

from diagnostics_training.models.encoder import EncoderObjective, Head, Linear, Sizes
from diagnostics_training.objectives.reconstruct import normed_patches
from diagnostics_training.trainer.objective import Batch

LEVELS = tuple(i / 10 for i in range(1, 10))
"""Quantile levels."""
LEAST_LOG_VARIANCE = -10.0


class Forecast(EncoderObjective):
    """A forecast of the next patch.

    `model` has a causal backbone and a head that gives, for each value of the next patch, its quantiles or moments.
    """

    causal = True
    options = ("likelihood",)
    # Noise would have to be predicted too.
    noise = False

    @classmethod
    def head(cls, sizes: Sizes) -> Head:
        each = len(LEVELS) if sizes.likelihood == "quantile" else 2
        return Linear("forecast", sizes.width, sizes.patches.values * each)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = batch["x"]
        predicted = self.model(x)[:, :-1]
        patches = self.model.backbone.patches.cut(x)[:, 1:]
        following = patches if self.sizes.modality == "series" else normed_patches(patches)
        predicted = predicted.float().unflatten(-1, (following.shape[-1], -1))
        return {"loss": (pinball if self.sizes.likelihood == "quantile" else gaussian)(predicted, following)}


def pinball(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean over values and `LEVELS` of max(q e, (q - 1) e), e = true - predicted.

    Predicted [..., level], true [...].
    """
    levels = torch.tensor(LEVELS, dtype=predicted.dtype, device=predicted.device)
    error = true[..., None] - predicted
    return torch.maximum(levels * error, (levels - 1) * error).mean()


def gaussian(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean negative log likelihood without its constant; predicted [..., 2] holds mean and log variance."""
    mean, log_variance = predicted.unbind(-1)
    log_variance = log_variance.clamp_min(LEAST_LOG_VARIANCE)
    return nn.functional.gaussian_nll_loss(mean, true, log_variance.exp(), eps=0.0)
