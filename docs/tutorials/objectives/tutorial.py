# %% [markdown]
# # What does the training objective change?
#
# The same network, the same data, the same number of steps; only the objective differs. Which layers end up holding what? This is a miniature of
# [the study](../../studies/objectives-across-depth/index.md): small enough to run here, too small for conclusions.
#
# `pip install -e '.[training]'` brings what training needs.

# %% [markdown]
# ## 1. Train four encoders

# %% language="bash"
# diagnostics train objectives --data 'lorenz?n=200&length=256' --objective forecast,reconstruct,contrastive,jepa \
#   --steps 60 --batch 32 --width 32 --depth 4 --out models

# %% [markdown]
# ## 2. Measure each on the same series

# %% language="bash"
# set -e
# for objective in forecast reconstruct contrastive jepa; do
#   diagnostics run models/$objective --data 'lorenz?n=150&length=256' --measures linear_probe --no-controls \
#     --token-budget 0 --out runs/$objective > /dev/null
# done
# diagnostics runs runs

# %% [markdown]
# ## 3. Compare them across depth

# %% language="bash"
# diagnostics compare runs/forecast runs/reconstruct runs/contrastive runs/jepa --similarity none | head -n 22

# %%
import diagnostics as dx

comparison = dx.compare(["runs/forecast", "runs/reconstruct", "runs/contrastive", "runs/jepa"], similarity=None)
comparison.plot()

# %% [markdown]
# The table goes on for every target (`head` cuts it here), and the page that `compare` writes has all of it. Each curve is one objective; the axis is depth, from the embedding to the output. With one seed each, nothing is said about how much another seed would have changed;
# `--seeds 3` trains three of each, and the comparison then counts that in its intervals.
