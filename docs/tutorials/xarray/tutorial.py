# %% [markdown]
# # Read a run with xarray, plot it yourself, and export it
#
# A run is a folder, and everything in it is a labelled array. This tutorial takes one apart.

# %%
import diagnostics as dx

run = dx.run("fracast", "lorenz?n=100", out="run", measures="linear_probe,rankme", controls=False, token_budget=0)
print(*run.results["linear_probe"].children, "rankme", sep=", ")

# %% [markdown]
# `run.results` is an `xarray.DataTree`: one node for each measure of each target. A node has a score for each tap, and the losses of every test series behind it.

# %%
node = run.results["linear_probe/hidden_z"].to_dataset()
print(node["score"].to_series().round(2))
print({key: node.attrs[key] for key in ("functional", "pooling", "seed") if key in node.attrs})

# %% [markdown]
# ## Losses by series
#
# Every interval comes from these losses, and so can any other statistic of yours, for instance the series that the best layer reads worst:

# %%
best = node["score"].to_series().idxmax()
loss = node["loss"].sel(tap=best).to_series().sort_values()
print(loss.tail(3).round(2))

# %% [markdown]
# ## A plot of your own

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for name in ("hidden_z", "hidden_y", "rho"):
    scores = run.profile(f"linear_probe/{name}")
    axes.plot(run.results[f"linear_probe/{name}"]["score"], marker="o", label=name)
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

# %% language="bash"
# diagnostics show run --format csv | head -3
# diagnostics show run --json | head -c 200
