# %% [markdown]
# # What does a forecaster know that it does not say?
#
# A forecasting model receives one variable of a system and predicts its future. To predict well, it may have to infer variables that it never
# receives. This tutorial looks for them in the model's layers and explains every number of the result.
#
# The system is the Lorenz system. It has three variables, x, y and z, of which the model receives only x. The model is Fracast, which was
# pretrained on other series and has ten blocks. `pip install -e '.[demo]'` installs it with its weights.

# %% [markdown]
# ## 1. Data with a known hidden state
#
# A [*target*](../../explanation/words.md#target) is what we try to predict from the model's activations. The dataset `lorenz` is simulated, so its
# targets are known exactly.

# %%
import diagnostics as dx

data = dx.build("dataset", "lorenz?n=180")
print(len(data), "series of", len(data[0]), "steps")
for name, target in data.targets.items():
    print(f"{name}: {target.about}")

# %% [markdown]
# `hidden_z` is the variable z at the last time step. `rho` is a constant of the system that differs from series to series.
#
# ## 2. Measure every layer
#
# `dx.run` reads the activations at 12 [*taps*](../../explanation/words.md#tap): the embedding, the ten blocks and the final norm. At each tap it fits
# the same ridge regression, called a *probe*, for each target. The penalty is chosen [out of fold](../../explanation/words.md#out-of-fold) on train and
# validation series. The score is R² on test series: 1 is perfect, and 0 is no better than predicting the mean.

# %%
run = dx.run(
    "fracast", data, out="lorenz", measures="linear_probe", token_budget=0
)
print(run)

# %% [markdown]
# A [*profile*](../../explanation/words.md#profile) is the score of one target as a function of depth. This is the profile of `hidden_z`:

# %%
profile = run.profile("linear_probe/hidden_z")
profile.plot()

# %% [markdown]
# ## 3. The numbers

# %%
print("chosen tap:         ", profile.chosen_tap)
print("its score on test:  ", profile.score)
print("the output's score: ", profile.output)
print("best tap:           ", profile.best_tap)
print("hidden gap:         ", profile.hidden_gap)

# %% [markdown]
# - [**chosen tap**](../../explanation/words.md#chosen-tap): the tap to use, chosen out of fold on the train and validation series. The test series have no
#   part in this choice.
# - **its score on test**: R² at the chosen tap, on the test series. The brackets are a 95 % confidence interval over series: it shows how much the score
#   may change with other test series.
# - **the output's score**: R² at the [output tap](../../explanation/words.md#output-tap), here the final norm. These are the features that users
#   of the model normally get.
# - [**best tap**](../../explanation/words.md#best-tap): the best tap other than the output. Here it is the chosen tap. If the rule chooses the output, the
#   two differ.
# - [**hidden gap**](../../explanation/words.md#hidden-gap): the best tap's score minus the output's, on the same test series, with its own interval.
#
# The interval of the hidden gap is above 0. This is what "hidden" means here: a linear probe reads z at `block.2`, but less well at the output. It does
# not mean that z is gone from the output: step 5 says what a nonlinear readout still finds there. A likely reason for the gap is that the last blocks no
# longer need z to forecast x.
#
# ## 4. Could something simpler score as well?
#
# A high score does not prove that the model is needed. [Controls](../../explanation/words.md#control) are baselines that are measured in the
# same way. This table shows the model (`none`) and each control, at its own chosen tap:

# %%
table = run.to_dataframe()
chosen = table[(table["target"] == "hidden_z") & table["chosen"]]
chosen = chosen[["control", "tap", "score", "low", "high"]]
print(chosen.fillna("none").round(2).to_string(index=False))

# %% [markdown]
# - **fresh weights**: the same architecture, untrained. It scores 0, so the score of the model comes from training.
# - **permuted weights**: the trained weights, shuffled within each tensor.
# - **raw input**: a linear regression on the last values of the series.
# - **raw input kernel**: a kernel regression on the raw values. If it scores as well as the model, you do not need the model for this target. Here
#   it scores lower.
# - **summary statistics**: moments, quantiles and autocorrelations of the series.
# - **shuffled labels**: the model's own features with the targets shuffled. It must stay near 0.
#
# ## 5. The recommendations

# %%
for recommendation in run.recommendations():
    print(recommendation)

# %% [markdown]
# Each line names the tap to use, its score, and the score of the output if that is another tap. Then it says how sure this is:
#
# - `shown: hidden by the output` means that the interval of the hidden gap is above 0. `undecided` means that the data cannot tell.
# - `not shown to beat` names the controls that may score as well. For these targets, no score shows that you need this model.
# - `a kernel reads 0.53 of 0.85 from the output` compares [a nonlinear readout](../../explanation/statistics.md#hidden-or-harder-to-read) of the output with
#   the same readout of the best tap. For `hidden_z` it does not close the gap.
# - `block.3 not shown to be worse` names the other taps that train and validation series do not distinguish from the chosen one.
