# %% [markdown]
# # A measure of your own in twenty lines
#
# A measure gets the activations of every tap and gives a number for each. This tutorial adds one that the package does not have, runs it beside the others, and says what
# it takes to make it a plugin.

# %% [markdown]
# ## 1. The measure
#
# How *sparse* is a layer: which share of its features is next to zero, for one sample? `answers` is the question that the report shows, `family` decides where
# it stands there, and `attrs` say how the number came about. A measure gives a score and its interval for each tap.

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
        pooled = [activations.pooled(tap, "mean").astype(np.float64) for tap in taps]
        shares = [(abs(x) < 0.05 * np.sqrt((x**2).mean(axis=1, keepdims=True))).mean(axis=1) for x in pooled]
        mean = np.array([share.mean() for share in shares])
        reach = np.array([1.96 * share.std(ddof=1) / np.sqrt(len(share)) for share in shares])
        return xr.Dataset(
            {"score": ("tap", mean), "low": ("tap", mean - reach), "high": ("tap", mean + reach)},
            coords={"tap": taps},
            attrs={
                "functional": "share of features below a twentieth of the sample's root mean square",
                "pooling": "mean",
                "centring": "none",
                "interval": "95 %, normal, over samples",
                "n": len(pooled[0]),
                "seed": seed,
            },
        )


# %% [markdown]
# ## 2. Run it
#
# It stands beside names of measures, and its results lie in the run as theirs do.

# %%
run = dx.run("fracast", "lorenz?n=60", measures=[Sparsity(), "rankme"], controls=False, token_budget=0)
print(run.results["sparsity"]["score"].to_series().round(3))

# %%
run.profile("sparsity").plot()

# %% [markdown]
# ## 3. Is it right?
#
# Give the measure an input whose answer you know. In this module the second block sets three of eight features to zero.

# %%
import torch
from torch import nn


class ThreeOfEight(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8, bias=False)])
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
# The last tap has at least 3 of 8, which is 0.375; what lies above are features that happen to be small for some series. A stricter test would make that impossible:
# a measure whose answer is known exactly says so in `known_answers`, and `diagnostics selftest` then checks it on every machine.
#
# ## 4. For everybody
#
# A plugin gives it a name on the command line: one line in the hook `measures`. [Write an encoder, a dataset or a measure](../../how-to/plugins.md) says how, and what
# a probe (a measure of a target, with intervals and controls) has to return.
