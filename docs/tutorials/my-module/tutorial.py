# %% [markdown]
# # Measure my own torch module
#
# You have a `torch.nn.Module`, trained by you, and no wish to rewrite it. This tutorial reads its layers as it is, checks that they are
# read right, and ends with a plugin package, so that your model has a name on the command line for you and your colleagues.

# %% [markdown]
# ## 1. The module
#
# Here is a small vision transformer in a file of its own. Yours loads trained weights; this one draws them, so expect modest scores.

# %%
from pathlib import Path

Path("my_vit.py").write_text("""
import torch
from torch import nn


class ViT(nn.Module):
    def __init__(self, side=32, patch=8, width=48, depth=4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(0.1 * torch.randn((side // patch) ** 2, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, norm_first=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels):  # [sample, channel, y, x]
        tokens = self.patches(pixels).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


def vit():
    torch.manual_seed(0)
    return ViT()
""")

# %% [markdown]
# ## 2. Its layers are discovered
#
# The package runs the module, finds its stack of blocks, and sees which token stands where in the image. What it cannot know is how
# pixels become the numbers that your model was trained on, so `mean` and `std` are asked for.

# %%
from my_vit import vit

import diagnostics as dx

data = dx.build("dataset", "shapes?n=150&size=32")
encoder = dx.encoder_of(vit(), data, mean=0.5, std=0.25)
for tap in encoder.taps:
    print(f"{tap.name:10} depth {tap.depth:.2f}  {tap.features} features on a grid of {tap.grid.shape}")

# %% [markdown]
# `depth` is 0 after the embedding and 1 at the output. The grid says that 4 x 4 tokens lie in the image.
#
# ## 3. Are they read right?
#
# `diagnostics check` tries what must hold of a layer that is read correctly: that a change in one corner of the image changes the token in that
# corner first, that the batch makes no difference, that a second call gives the same numbers, and so on.

# %% language="bash"
# diagnostics check 'my_vit.py:vit?modality=image&size=32&mean=0.5&std=0.25'

# %% [markdown]
# ## 4. Which layer holds what?

# %%
run = dx.run(encoder, data, out="first", measures="linear_probe", controls=False)
for target in ("label", "count", "depth"):
    print(run.recommend(target))

# %% [markdown]
# ## 5. A name of its own
#
# A plugin is a small package that gives your encoder a name. This command writes one that works, with an encoder, a dataset, and tests; replace the model in it by
# yours and install it with `pip install -e my-vit`. From then on `diagnostics run my-vit --data ...` works in every folder, and so does
# `diagnostics list`.

# %% language="bash"
# diagnostics new-plugin my-vit

# %% [markdown]
# The file to change is the one that holds the encoder. [Write an encoder, a dataset or a measure](../../how-to/plugins.md) explains every line of it.
