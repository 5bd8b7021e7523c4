# %% [markdown]
# # Read a run with xarray, plot it yourself, and export it
#
# A [*run*](../../explanation/words.md#run) is a folder with the results of one encoder on one dataset. All results are labelled arrays. This tutorial
# shows where they are and how to use them. The example is the forecaster Fracast (`pip install -e '.[demo]'`) on series of the Lorenz system.

# %%
import diagnostics as dx

run = dx.run(
    "fracast",
    "lorenz?n=100",
    out="run",
    measures="linear_probe,rankme",
    controls=False,
    token_budget=0,
)
print(*run.results["linear_probe"].children, "rankme", sep=", ")

# %% [markdown]
# `run.results` is an `xarray.DataTree` with one node per measure and [target](../../explanation/words.md#target) (what a probe predicts). A node contains a
# score for each [*tap*](../../explanation/words.md#tap) (a place in the encoder where activations are read) and the loss of every test series.

# %%
node = run.results["linear_probe/hidden_z"].to_dataset()
print(node["score"].to_series().round(2))
print(node.attrs["functional"], node.attrs["pooling"], sep="; ")

# %% [markdown]
# ## The loss of each series
#
# All confidence intervals are computed from these losses. You can compute other statistics from them. For example, these are the three series
# with the largest loss at the [chosen tap](../../explanation/words.md#chosen-tap), the one to use:

# %%
loss = node["loss"].sel(tap=node.attrs["chosen_tap"]).to_series()
print(loss.sort_values().tail(3).round(2))

# %% [markdown]
# ## A plot of your own

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for name in ("hidden_z", "hidden_y", "rho"):
    scores = run.profile(f"linear_probe/{name}")
    axes.plot(scores.data["score"], marker="o", label=name)
axes.set_xticks(range(len(scores.taps)), scores.taps, rotation=60)
axes.set_ylabel("R2 on test series")
axes.legend()
plt.close(figure)  # the last line shows it
figure

# %% [markdown]
# ## Export

# %%
table = run.to_dataframe()
table.to_csv("scores.csv", index=False)
print(table.columns.tolist())

# %% [markdown]
# The command line exports the same numbers:

# %% language="bash"
# diagnostics show run --csv | cut -d, -f 2,6,8 | head -3
# diagnostics show run --json -o run.json
