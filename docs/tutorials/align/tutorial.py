# %% [markdown]
# # Align the output with a better layer
#
# An encoder may represent something well in a middle layer but not at its output. You can train such an encoder a little further, until
# its output resembles that layer. This is called alignment. It needs no labels, because the layer itself is the teacher.
#
# This tutorial aligns a very small encoder. It also trains the control that shows whether the teacher made the difference, and measures the gain and
# the cost.

# %% [markdown]
# ## 1. Does the output hide something?
#
# The encoder is a small forecaster, trained for 80 steps. It receives only the variable x of a simulated Lorenz system. A [*tap*](../../explanation/words.md#tap) is a place in the encoder where
# activations are read. For each
# [target](../../explanation/words.md#target), such as the variable z (`hidden_z`), a probe is fitted at each tap. The
# [hidden gap](../../explanation/words.md#hidden-gap) is the score of the [best tap](../../explanation/words.md#best-tap) minus that of the
# [output](../../explanation/words.md#output-tap).
#
# This encoder is so small, and 30 test series are so few, that they cannot tell whether the output hides `hidden_z`. So a gain may not be shown
# either. The tutorial shows what the commands report in this case.

# %% language="bash"
# diagnostics train objectives --data 'lorenz?n=200&length=256' \
#   --objective forecast --steps 80 --batch 32 --width 32 --depth 4 \
#   --out models
# diagnostics run models/forecast --data 'lorenz?n=150&length=256' \
#   --measures linear_probe --no-controls --token-budget 0 --out runs/base

# %% [markdown]
# ## 2. Align the output with the best layer
#
# `--to best-tap --for hidden_z` finds the layer to use for `hidden_z`, by [the same rule](../../explanation/statistics.md#which-tap-to-use) as a run. It
# then trains a copy of the encoder until its output resembles that layer. It measures the layers on series of its own, so it may choose another layer
# than the run in step 1.
#
# The command also trains a [*control*](../../explanation/words.md#control): a second copy, trained in the same way on the same series, whose
# teacher is the encoder's own output. A gain of the control comes from the further training and not from the layer.

# %% language="bash"
# diagnostics align tap --encoder models/forecast --to best-tap \
#   --for hidden_z --data 'lorenz?n=200&length=256' --steps 60 --batch 32 \
#   --out models/aligned

# %% [markdown]
# ## 3. Measure the gain and the cost

# %% language="bash"
# set -e
# for name in aligned aligned-control; do
#   diagnostics run models/$name --data 'lorenz?n=150&length=256' \
#     --measures linear_probe --no-controls --token-budget 0 \
#     --out runs/$name > /dev/null
# done
# diagnostics compare runs/base runs/aligned runs/aligned-control \
#   --similarity none | head -n 23

# %% [markdown]
# The first lines report that no difference is shown. The output of the aligned encoder has become similar to the first block: its cosine to that block
# rose in step 2. But a probe is not shown to predict `hidden_z` better from it; on these series it scores lower. The control scores like the original
# encoder. Without the control and the intervals, a number that happened to rise would have looked like a success.
#
# Further down, which `head` cuts here, the comparison has a table of shares:
#
# - **recovered** is the [recovered share](../../explanation/words.md#recovered-share): how much of the hidden gap the output has gained. It is printed only for
#   targets whose hidden gap is shown to be above 0.
# - **kept** is the [kept share](../../explanation/words.md#kept-share): how much of the original score above chance is left, at the chosen tap and at the
#   output. The rest is the cost.
# - **cut** is what you get without any training, by reading the original encoder at that layer.
# - **output - control's** is the output's score minus that of the control's output. The layer is shown to lift a target only if the interval of this
#   difference is above 0.
#
# [The study of alignment](../../studies/alignment/index.md) does this with real encoders, and asks whether it is worth more than cutting them at that
# layer.
#
# `--keep 0.3` adds the encoder's own output as a second teacher, which lowers the cost. [Train and align encoders](../../how-to/training.md#aligning)
# describes the other options.
