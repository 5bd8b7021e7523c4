# %% [markdown]
# # A measure of your own in twenty lines
#
# A measure computes a number from the activations at each [*tap*](../../explanation/words.md#tap), a place in the encoder where activations are
# read. This tutorial adds a measure that the package does not have, runs it together with others, and shows how to make it a plugin.

# %% [markdown]
# ## 1. Write the measure
#
# The measure is the *sparsity* of a layer: the share of a sample's features that are close to zero. `compute` returns a score and its confidence
# interval for each tap. `answers` is the question that the report prints, `family` is the section of the report, and `attrs` document how the numbers
# were computed.

# %%
import numpy as np
import xarray as xr

import diagnostics as dx


class Sparsity(dx.Measure):
    name = "sparsity"
    answers = "Which share of the features is next to zero?"
    source = "Share of features"
    family = "geometry"
    higher_is_better = None  # neither way is better by itself

    def compute(self, activations, target, seed):
        taps = [tap.name for tap in activations.taps]
        shares = []
        for tap in taps:
            x = activations.pooled(tap, "mean").astype(np.float64)
            # root mean square of each sample
            size = np.sqrt((x**2).mean(axis=1, keepdims=True))
            shares.append((abs(x) < 0.05 * size).mean(axis=1))
        mean = np.array([share.mean() for share in shares])
        spread = np.std(shares, axis=1, ddof=1)
        reach = 1.96 * spread / np.sqrt(len(shares[0]))
        return xr.Dataset(
            {
                "score": ("tap", mean),
                "low": ("tap", mean - reach),
                "high": ("tap", mean + reach),
            },
            coords={"tap": taps},
            attrs={
                "functional": "share of features under 5 % of the size",
                "pooling": "mean",
                "centring": "none",
                "interval": "95 %, normal, over samples",
                "n": len(shares[0]),
                "seed": seed,
            },
        )


# %% [markdown]
# ## 2. Run it
#
# The argument `measures` takes measures and names of measures. The results of both are stored in the run.

# %%
run = dx.run(
    "fracast",
    "lorenz?n=60",
    measures=[Sparsity(), "rankme"],
    controls=False,
    token_budget=0,
)
print(run.results["sparsity"]["score"].to_series().round(3))

# %%
run.profile("sparsity").plot()

# %% [markdown]
# ## 3. Test it
#
# Test the measure with an input whose answer you know. In this module, the second block sets three of eight features to zero.

# %%
import torch
from torch import nn


class ThreeOfEight(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(8, 8), nn.Linear(8, 8, bias=False)]
        self.blocks = nn.ModuleList(layers)
        with torch.no_grad():
            self.blocks[1].weight[:3] = 0

    def forward(self, series):  # [sample, time]
        tokens = series.unflatten(1, (-1, 8))
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


series = dx.build("dataset", "lorenz?n=60&length=64")
table = dx.measure(ThreeOfEight(), series, measures=Sparsity())
print(table["score"].squeeze("measure").to_series().round(3))

# %% [markdown]
# The score of the last tap must be at least 3/8 = 0.375. It is a little higher because other features happen to be small for some series. A stricter
# test would exclude that. If a measure has exact answers, return them from `known_answers`; `diagnostics selftest` then checks them on every machine.
#
# ## 4. Make it a plugin
#
# A plugin gives the measure a name on the command line. It needs one line in the hook `measures`.
# [Write an encoder, a dataset or a measure](../../how-to/plugins.md) explains this. It also explains what a probe has to return: a probe is a
# measure of a [target](../../explanation/words.md#target), with intervals and [controls](../../explanation/words.md#control).
