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
print(found["similarity"].sizes)
best = found["similarity"].to_series().idxmax()
print("most alike:", best, round(float(found["similarity"].max()), 2))

# %% [markdown]
# ## 3. What would chance give?
#
# The samples of one encoder are permuted, so that nothing corresponds any more, and the most alike pair of layers is taken again. Only what lies above most of these
# permutations is a resemblance.

# %%
print({key: value for key, value in found.attrs.items() if "chance" in key or "null" in key or key == "n"})
