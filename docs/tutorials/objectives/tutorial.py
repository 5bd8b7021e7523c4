# %% [markdown]
# # Train four objectives and compare their layers
#
# This tutorial trains the same network four times on the same data for the same number of steps. Only the training objective differs. Which layers
# then represent what? It is a small version of [the study](../../studies/objectives-across-depth/index.md): small enough to run here, and too small for
# conclusions.
#
# `pip install -e '.[training]'` installs what the training needs.

# %% [markdown]
# ## 1. Train four encoders
#
# `lorenz` simulates series of a chaotic system with three variables, of which the encoder receives only x. Each objective is a task that needs no labels:
#
# - `forecast`: predict the next patch of the series.
# - `reconstruct`: reconstruct hidden patches from visible ones.
# - `contrastive`: recognise which two views come from the same series.
# - `jepa`: predict a teacher's features of hidden patches.

# %% language="bash"
# diagnostics train objectives --data 'lorenz?n=200&length=256' \
#   --objective forecast,reconstruct,contrastive,jepa --steps 60 --batch 32 \
#   --width 32 --depth 4 --out models

# %% [markdown]
# ## 2. Measure each encoder on the same series

# %% language="bash"
# set -e
# for objective in forecast reconstruct contrastive jepa; do
#   diagnostics run models/$objective --data 'lorenz?n=150&length=256' \
#     --measures linear_probe --no-controls --token-budget 0 \
#     --out runs/$objective > /dev/null
# done
# diagnostics runs runs

# %% [markdown]
# ## 3. Compare them across depth
#
# `compare` reports three numbers for each [target](../../explanation/words.md#target), which is what a probe predicts from the activations:
# here the other variables (`hidden_z`, `hidden_y`), a constant of the system (`rho`), and the future. A
# [*tap*](../../explanation/words.md#tap) is a place in the encoder where they are read.
#
# - **score**: that of the [chosen tap](../../explanation/words.md#chosen-tap), the one to use. It is chosen without the test series and scored on them.
# - **output**: the score at the [output tap](../../explanation/words.md#output-tap).
# - [**hidden gap**](../../explanation/words.md#hidden-gap): the score of the [best tap](../../explanation/words.md#best-tap), the best one other than the output, minus the output's.

# %% language="bash"
# diagnostics compare runs/forecast runs/reconstruct runs/contrastive \
#   runs/jepa --similarity none | head -n 20

# %%
import diagnostics as dx

names = ("forecast", "reconstruct", "contrastive", "jepa")
comparison = dx.compare([f"runs/{n}" for n in names], similarity=None)
comparison.plot()

# %% [markdown]
# The first lines answer the question: 30 test series cannot tell whether the objectives differ. The table continues for every target; `head` cuts it
# here. The HTML page that `compare` writes contains all of it.
#
# In the figure, each curve is one objective. The horizontal axis is the [relative depth](../../explanation/words.md#depth), from the
# embedding to the output.
#
# With one seed per objective, the intervals do not include the variation between seeds. `--seeds 3` trains three encoders per objective,
# and the comparison then includes it.
