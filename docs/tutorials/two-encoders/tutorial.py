# %% [markdown]
# # Are two encoders alike?
#
# Two encoders each have a stack of layers. Which layer of one resembles which layer of the other? CKA (centred kernel alignment) measures the
# similarity of two representations by a number between 0 and 1.
#
# With many features and few samples, CKA is high even for unrelated representations. So this tutorial compares it with its value under chance.

# %% [markdown]
# ## 1. Run both encoders on the same samples

# %%
import diagnostics as dx

data = "digits?n=200"
options = {"measures": "linear_probe", "controls": False, "token_budget": 0}
one = dx.run("wheel:efficientnet-lite0", data, out="cnn", **options)
other = dx.run("wheel:dinov2-small?size=112", data, out="vit", **options)

# %% [markdown]
# ## 2. Compute CKA for every pair of layers
#
# Each layer at which activations are read is a [*tap*](../../explanation/words.md#tap).

# %%
found = one.similarity_with(other)
matrix = found["matrix"]
at = matrix.argmax(...)
print(dict(matrix.sizes))
pair = matrix[at]
print(f"most alike: {pair['tap'].item()} and {pair['tap_other'].item()}")
print(f"CKA {float(pair):.2f}")

# %% [markdown]
# ## 3. Compare with chance
#
# To find the value under chance, the samples of one encoder are permuted, so that the two no longer correspond, and CKA is computed again. This is repeated
# many times. `tau` is the value that the most similar pair of layers exceeds by chance in 1 of 20 permutations. `calibrated` rescales CKA: 0 is `tau`
# and 1 is the maximum.

# %%
tau, above = found.attrs["tau"], float(found["calibrated"][at])
print(f"tau {tau:.2f}; the most alike pair lies {above:.2f} above it")
pairs = int((matrix <= tau).sum())
print(f"{pairs} of {matrix.size} pairs are no more alike than chance")

# %% [markdown]
# ## 4. Plot all pairs

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
image = axes.imshow(found["calibrated"], vmin=0, vmax=1, aspect="auto")
axes.set_xlabel("DINOv2, from embedding to output")
axes.set_ylabel("EfficientNet, from embedding to output")
figure.colorbar(image, label="CKA above chance")
plt.close(figure)
figure

# %% [markdown]
# Every pair is more similar than chance, because both encoders process the same images. So the useful question is not whether the encoders are alike, but which
# layers are, and how much. The embeddings are nearly the same, since both still resemble the pixels. The other bright cells are pairs of later layers
# that resemble each other although the two networks have different architectures and training. `diagnostics compare` draws this map for any
# number of runs.
