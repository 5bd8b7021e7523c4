# %% [markdown]
# # What does a forecaster know that it does not say?
#
# A forecasting model sees one variable of a system and predicts its future. To do that well it may have to work out what it never sees. This tutorial looks for that
# knowledge, layer by layer, and explains every number of the result.
#
# The system is Lorenz's: three variables, x, y and z, of which the model gets only x. The model is Fracast, pretrained on other series; it has
# ten blocks. `pip install -e '.[demo]'` brings it.

# %% [markdown]
# ## 1. Data whose truth is known

# %%
import diagnostics as dx

data = dx.build("dataset", "lorenz?n=180")
print(len(data), "series of", len(data[0]), "steps")
for name, target in data.targets.items():
    print(f"{name:12} {target.kind:8} {target.about}")

# %% [markdown]
# `hidden_z` is the variable z at the last step, which the model never sees. `rho` is a constant of the system that differs from series to series.
#
# ## 2. Read every layer
#
# For each target, the same linear regression is fitted at each block. Its penalty is chosen on validation series and its score, R², is read on
# test series: 1 is perfect, 0 is no better than the mean.

# %%
run = dx.run("fracast", data, out="lorenz", measures="linear_probe", token_budget=0)
print(run)

# %%
profile = run.profile("linear_probe/hidden_z")
profile.plot()

# %% [markdown]
# ## 3. Number by number

# %%
print("best tap, chosen on val: ", profile.best_tap)
print("its score on test:       ", profile.best)
print("the output's score:      ", profile.output)
print("hidden gap:              ", profile.hidden_gap)

# %% [markdown]
# The brackets are 95 % intervals over series: with other test series the number would probably lie within. An interval of the *gap* that lies above 0 says that the
# model knows z better in the middle than at its output. That is what "hidden" means here: the knowledge is there, and the output does not show it, because
# forecasting x did not need it any more.
#
# ## 4. Could something simpler do it?
#
# A high score is no proof that the model is clever. The same regression was fitted on other features of the same series:

# %%
table = run.to_dataframe()
chosen = table[(table["target"] == "hidden_z") & table["best"]]
print(chosen[["control", "tap", "score", "low", "high"]].fillna("none").round(2).to_string(index=False))

# %% [markdown]
# - **fresh weights**: the same architecture, untrained. If training brought the knowledge, this must be lower.
# - **raw input kernel**: a kernel regression on the raw values, with no model at all. If it does as well, you do not need the model for this target,
#   however high the score is.
#
# ## 5. The answer

# %%
for recommendation in run.recommendations():
    print(recommendation)
