# %% [markdown]
# # Watch layers while you train
#
# When does which layer learn what? `dx.LayerProfiles` measures every layer between two steps of your own training loop, without disturbing it, and draws steps
# against depth.

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
# ## 1. A training loop with one line more
#
# `every=20` measures at steps 20, 40, and so on: a linear probe of each target at each layer, on 80 series that stay the same.

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
# ## 2. Steps against depth

# %%
watch.plot("linear_probe/hidden_z")

# %%
print(watch.profiles["score"].sel(measure="linear_probe/hidden_z").to_pandas().round(2))

# %% [markdown]
# Each row is a moment of the training. The training itself goes on to the bit as it would have without being watched.
#
# ## 3. In your own log
#
# `log=` takes anything with `add_scalar`, such as TensorBoard's writer, or a function of a dict, such as `wandb.log`. For a `Trainer` of transformers or Lightning:
# `watch.for_transformers()` and `watch.for_lightning()`.
