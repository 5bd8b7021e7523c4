# %% [markdown]
# # Watch layers while you train
#
# Which layer learns what, and when? `dx.LayerProfiles` measures every layer during your own training loop, between two steps and without
# changing the training. It draws the scores by step and depth. The model is a small forecaster of time series:

# %%
import torch
from torch import nn

import diagnostics as dx


class Forecaster(nn.Module):
    def __init__(self, patch=16, width=32, depth=3):
        super().__init__()
        self.patch, self.embed = patch, nn.Linear(patch, width)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 4, 64, batch_first=True) for _ in range(depth))
        self.head = nn.Linear(width, patch)

    def forward(self, series):  # [sample, time]
        tokens = self.embed(series.unflatten(1, (-1, self.patch)))
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens)


# %% [markdown]
# ## 1. Add it to a training loop
#
# A [*target*](../../explanation/words.md#target) is what a probe predicts from a layer. With `every=20`, a linear probe of each target is fitted at each
# layer at steps 20, 40, and so on. It always uses the same 80 series. Inside the loop, one line is new: `watch.step(step)`.

# %%
torch.manual_seed(0)
model = Forecaster()
data = dx.build("dataset", "lorenz?n=150&length=256")
series = torch.stack([torch.as_tensor(data[i]) for i in range(len(data))])
train = torch.from_numpy((data.split == "train").nonzero()[0])
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
watch = dx.LayerProfiles(model, data, every=20, samples=80, measures="linear_probe")

for step in range(1, 121):
    batch = series[train[torch.randint(len(train), (32,))]]
    loss = (model(batch)[:, :-1] - batch.unflatten(1, (-1, 16))[:, 1:]).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    watch.step(step)
print(f"loss {loss.item():.2f}")

# %% [markdown]
# ## 2. Scores by step and depth
#
# The target `hidden_z` is a variable of the simulated system that the model never receives. The score is R².

# %%
watch.plot("linear_probe/hidden_z")

# %%
print(watch.profiles["score"].sel(measure="linear_probe/hidden_z").to_pandas().round(2))

# %% [markdown]
# Each row is a step of the training, and each column is a [*tap*](../../explanation/words.md#tap), a place in the model where activations are read.
# The training gives bitwise the same result as without these measurements.
#
# ## 3. Write to your own log
#
# `log=` takes an object with `add_scalar`, such as TensorBoard's writer, or a function of a dict, such as `wandb.log`. For a `Trainer` of transformers or
# of Lightning, use `watch.for_transformers()` or `watch.for_lightning()`.
