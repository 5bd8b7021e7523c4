# %% [markdown]
# # Measure my own torch module
#
# You have trained a `torch.nn.Module` and do not want to rewrite it. This tutorial reads the activations of its layers without changing it, checks
# that they are read correctly, and measures them. It ends with a plugin package, which gives your model a name on the command line.

# %% [markdown]
# ## 1. The module
#
# The example is a small vision transformer in its own file. Your module would load trained weights. This one has random weights, so expect low
# scores.

# %%
from pathlib import Path

_ = Path("my_vit.py").write_text("""
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
# ## 2. The layers are discovered
#
# The package runs the module once, finds its stack of blocks, and works out which token belongs to which part of the image. It cannot know how you
# normalised the pixels for training, so you have to give `mean` and `std`. `shapes` is a dataset of rendered scenes. Each place where activations
# are read is a [*tap*](../../explanation/words.md#tap).

# %%
from my_vit import vit

import diagnostics as dx

data = dx.build("dataset", "shapes?n=150&size=32")
encoder = dx.encoder_of(vit(), data, mean=0.5, std=0.25)
for tap in encoder.taps:
    print(f"{tap.name:10} depth {tap.depth:.2f}  {tap.features} features on a grid of {tap.grid.shape}")

# %% [markdown]
# The [relative depth](../../explanation/words.md#depth) is 0 after the embedding and 1 at the output. The
# [grid](../../explanation/words.md#grid) shows that the tokens cover the image in 4 rows and 4 columns.
#
# ## 3. Are they read correctly?
#
# `diagnostics check` tests properties that must hold if the layers are read correctly. For example, a change in one corner of the image
# must change the token of that corner most, other samples in the batch must make no difference, and a second pass must return the same numbers.

# %% language="bash"
# diagnostics check 'my_vit.py:vit?modality=image&size=32&mean=0.5&std=0.25'

# %% [markdown]
# ## 4. Which layer to use?
#
# A [*target*](../../explanation/words.md#target) is what a probe predicts from a layer. Three targets of `shapes` are the class of the image
# (`label`), the number of its objects (`count`), and the distance from the camera at each token (`depth`).

# %%
run = dx.run(encoder, data, out="first", measures="linear_probe", controls=False)
for target in ("label", "count", "depth"):
    print(run.recommend(target))

# %% [markdown]
# `count` is at chance at every layer, as expected of random weights. For `label`, 30 test images cannot tell whether it can be read. For `depth`, the
# interval of the [hidden gap](../../explanation/words.md#hidden-gap) lies above 0: a linear readout of the embedding is better than one of the output.
# The full result is in the report, `first/report.html`.
#
# ## 5. A name on the command line
#
# A plugin is a small package that gives your encoder a name. This command writes a working one, with an encoder, a dataset and tests:

# %% language="bash"
# diagnostics new-plugin my-vit

# %% [markdown]
# Replace the model in `my-vit/my_vit/encoder.py` by yours. After `pip install -e my-vit` you can use `diagnostics run my-vit --data ...` in every
# folder, and `diagnostics list` shows the name. [Write an encoder, a dataset or a measure](../../how-to/plugins.md) explains every line of the
# package.
