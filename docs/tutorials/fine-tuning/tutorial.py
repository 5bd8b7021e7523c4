# %% [markdown]
# # Did fine-tuning hide something?
#
# You have two checkpoints: an encoder before and after fine-tuning (also: finetune, adapt, continue training). What became of everything that you read from
# it? This tutorial measures both on the same samples and compares them, after minus before: each
# [target](../../explanation/words.md#target), a quantity that a probe predicts, is *lost*, *gained*, or one *cannot tell*.
#
# `pip install -e '.[training]'` installs what the encoder needs.

# %% [markdown]
# ## 1. Measure both on the same samples
#
# Two trained encoders of one architecture come with the package and stand for your checkpoints: `lorenz-jepa` as *before*, `lorenz-forecast` as *after*. They receive only the
# variable x of a Lorenz system. For your own, give two folders that [`dx.save_encoder`](../../how-to/saving.md) wrote, or two names with other weights.

# %% language="bash"
# set -e
# for pair in before=jepa after=forecast; do
#   diagnostics run objectives:lorenz-${pair#*=} --data 'lorenz?n=500' \
#     --measures linear_probe --no-controls --token-budget 0 \
#     --out runs/${pair%%=*} > /dev/null
# done

# %% [markdown]
# ## 2. After minus before

# %% language="bash"
# diagnostics compare before=runs/before after=runs/after \
#   --similarity none | head -n 9

# %%
import diagnostics as dx

pair = ["before=runs/before", "after=runs/after"]
comparison = dx.compare(pair, similarity=None)
for one in comparison.differences:
    ends = one.estimate.interval
    name = one.profile.removeprefix("linear_probe/")
    change = f"{ends.value:+.2f} [{ends.low:+.2f}, {ends.high:+.2f}]"
    print(f"{name:10} {one.quantity:10} {change}  {one.outcome}")

# %% [markdown]
# The table has every target, after minus before. The last column is corrected for their number: *gained*, *lost* or *cannot tell*, which is not "equal". Read three rows of a target:
#
# - **output**: what users of the output gained or lost.
# - **chosen tap**: the same at the layer to use (the [chosen tap](../../explanation/words.md#chosen-tap)). A target that is lost at the output, while a loss here is excluded, is still in the encoder.
# - [**hidden gap**](../../explanation/words.md#hidden-gap): if it *grew* and the target is lost at the output, the change hid it: an earlier layer is further ahead of the output than before.
#
# Here the future (`x_future`, `x_ahead`) is gained at both places. For `log_switch` one cannot tell: its hidden gap is 0.46 larger, with an interval above 0 by itself, but not after the
# correction for 18 differences. Nothing is shown to be lost or hidden.
#
# To get a hidden target back to the output, [align](../align/index.md) it; to use it as it is, take the features of the earlier layer, or
# [cut](../../how-to/saving.md) the encoder there. Tune with several seeds to know what another training would do ([comparing](../../how-to/comparing.md)).
