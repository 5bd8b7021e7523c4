# %% [markdown]
# # A measure of your own in twenty lines
#
# A measure gets the activations of every tap and gives a number for each. This tutorial adds one that the package does not have, runs it beside the others, and says what
# it takes to make it a plugin.

# %% [markdown]
# ## 1. The measure
#
# How many features of a layer are *dead*: their standard deviation over samples is next to nothing. `answers` is the question that the report shows,
# `family` decides where it stands, and `attrs` say how the number came about.

# %%
import numpy as np
import xarray as xr

import diagnostics as dx


class DeadFeatures(dx.Measure):
    name = "dead_features"
    answers = "How many features never vary?"
    source = "Share of features"
    family = "geometry"
    higher_is_better = False

    def compute(self, activations, target, seed):
        taps = [tap.name for tap in activations.taps]
        spreads = [activations.pooled(tap, "mean").std(axis=0) for tap in taps]
        shares = [float((spread < 0.01 * np.median(spread)).mean()) for spread in spreads]
        return xr.Dataset(
            {"score": ("tap", shares)},
            coords={"tap": taps},
            attrs={
                "functional": "share of features whose standard deviation is below a hundredth of the median",
                "pooling": "mean",
                "centring": "by feature",
                "n": len(activations.pooled(taps[0], "mean")),
                "seed": seed,
            },
        )


# %% [markdown]
# ## 2. Run it
#
# It stands beside names of measures, and its results lie in the run as theirs do.

# %%
run = dx.run("fracast", "lorenz?n=100", measures=[DeadFeatures(), "rankme"], controls=False, token_budget=0)
print(run.results["dead_features"]["score"].to_series().round(3))

# %%
run.profile("dead_features").plot()

# %% [markdown]
# ## 3. Is it right?
#
# A number for which nothing can be wrong proves nothing. Give the measure an input whose answer you know, and one on which it must fail: here, an encoder with
# three features out of eight switched off.

# %%
import torch
from torch import nn


class Dead(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        with torch.no_grad():
            self.blocks[1].weight[:3] = 0

    def forward(self, series):  # [sample, time]
        tokens = series.unflatten(1, (-1, 8))
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


series = dx.build("dataset", "lorenz?n=60&length=64")
table = dx.measure(Dead(), series, measures=DeadFeatures())
print(table["score"].squeeze("measure").to_series())

# %% [markdown]
# Three of eight is 0.375, at the last tap and nowhere else.
#
# ## 4. For everybody
#
# A plugin gives it a name on the command line: one line in the hook `measures`. [Write an encoder, a dataset or a measure](../../how-to/plugins.md) says how, and what a probe
# (a measure of a target, with intervals and controls) has to return.
