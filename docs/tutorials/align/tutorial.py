# %% [markdown]
# # Lift a layer to the output
#
# An encoder that hides something can be trained a little further, so that its output shows what a middle layer holds. No labels are needed: the layer
# itself is the teacher. This tutorial does it in miniature, with the control that such a claim needs, and reads off what it bought and what it cost.

# %% [markdown]
# ## 1. Does it hide something?
#
# A small forecaster of Lorenz series, trained for a moment. The run says what it hides: on 30 test series, nothing that is shown. So there is nothing to recover
# here, and that is worth seeing once: what do the commands say then?

# %% language="bash"
# diagnostics train objectives --data 'lorenz?n=200&length=256' --objective forecast --steps 80 --batch 32 --width 32 --depth 4 --out models
# diagnostics run models/forecast --data 'lorenz?n=150&length=256' --measures linear_probe --no-controls --token-budget 0 --out runs/base

# %% [markdown]
# ## 2. Align its output to its best layer
#
# `--to best-tap --for hidden_z` finds the layer that reads `hidden_z` best, on validation series, and trains a copy of the encoder until its output
# resembles that layer. Beside it trains a *control*: another copy, in the same way and on the same series, whose teacher is the encoder's own output. What the control
# gains comes from training on, not from the layer.

# %% language="bash"
# diagnostics align tap --encoder models/forecast --to best-tap --for hidden_z --data 'lorenz?n=200&length=256' \
#   --steps 60 --batch 32 --out models/aligned

# %% [markdown]
# ## 3. What it bought and what it cost

# %% language="bash"
# set -e
# for name in aligned aligned-control; do
#   diagnostics run models/$name --data 'lorenz?n=150&length=256' --measures linear_probe --no-controls --token-budget 0 \
#     --out runs/$name > /dev/null
# done
# diagnostics compare runs/base runs/aligned runs/aligned-control --similarity none | head -n 24

# %% [markdown]
# The verdict is that no difference is shown. The aligned encoder's output has followed the first block, as the cosine above says, and reads `hidden_z` no better for it; the control is where the
# base was. Without the control and the intervals, one number that happened to rise would have looked like a success.
#
# Where a gap is shown, the comparison also has these columns:
#
# - **recovered** is the share of the hidden gap that the output now shows. It is printed only for targets whose gap is shown to be above 0.
# - **kept** is the share of what the output knew before that it still knows: the price.
# - **output - control's** is what the layer brought beyond training on. Only where its interval lies above 0 is the target said to be lifted by the layer.
#
# On a real encoder there is more to see: DINOv2 hides depth, and [the study of alignment](../../studies/alignment/index.md) lifts it to the output, above its control, with three seeds.
#
# `--keep 0.3` adds the encoder's own output as a second teacher, which lowers the price.
# [Train and align encoders](../../how-to/training.md#aligning) says what else there is.
