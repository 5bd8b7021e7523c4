# %% [markdown]
# # Are two encoders alike?
#
# Two encoders, two stacks of layers: which layer of one resembles which layer of the other? CKA, a similarity of representations, answers with a number between 0 and 1.
# The number means nothing by itself, because with many features and few samples CKA is high for unrelated representations. This tutorial reads it beside what chance gives.

# %% [markdown]
# ## 1. The same samples through both

# %%
import diagnostics as dx

data = "digits?n=200"
one = dx.run(
    "wheel:efficientnet-lite0", data, out="efficientnet", measures="linear_probe", controls=False, token_budget=0
)
other = dx.run(
    "wheel:dinov2-small?size=112", data, out="dinov2", measures="linear_probe", controls=False, token_budget=0
)

# %% [markdown]
# ## 2. Every pair of layers

# %%
found = one.similarity_with(other)
matrix = found["matrix"]
at = matrix.argmax(...)
print(dict(matrix.sizes))
print(
    f"most alike: {matrix['tap'].values[at['tap']]} and {matrix['tap_other'].values[at['tap_other']]}, CKA {float(matrix[at]):.2f}"
)

# %% [markdown]
# ## 3. What would chance give?
#
# The samples of one encoder are permuted, so that nothing corresponds any more, and CKA is computed again, many times. `tau` is what the most alike pair of layers
# passes by chance once in 20 times. `calibrated` is how far a value lies above that, as a share of what is left up to 1.

# %%
print(f"tau {found.attrs['tau']:.2f}; the most alike pair lies {float(found['calibrated'][at]):.2f} above it")
print(f"{int((matrix <= found.attrs['tau']).sum())} of {matrix.size} pairs are no more alike than chance")

# %% [markdown]
# ## 4. The map

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
image = axes.imshow(found["calibrated"], cmap="viridis", vmin=0, vmax=1, aspect="auto")
axes.set_xlabel("DINOv2, from embedding to output")
axes.set_ylabel("EfficientNet, from embedding to output")
figure.colorbar(image, label="CKA above chance")
plt.close(figure)
figure

# %% [markdown]
# Every pair is more alike than chance, because both encoders look at the same images: "are they alike?" has an easy answer, and "how much, and where?" is the question. The embeddings,
# which still look like the pixels, are nearly the same; bright cells further down are layers that resemble each other although the networks were built and trained differently. `diagnostics compare` draws the same map for any number of runs.
