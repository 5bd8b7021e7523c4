# %% [markdown]
# # From a CSV file of series to the layer for a classifier
#
# You have labelled time series in a CSV file, and a forecasting model that somebody pretrained. Does it help to classify them, and
# which layer should the classifier read? The model is Fracast, whose weights arrive by `pip install -e '.[demo]'`.

# %% [markdown]
# ## 1. The file
#
# One row for each series: its steps in the columns `0`, `1`, ..., and its label in a column of its own. This cell writes GunPoint, 200
# recordings of a hand that draws a gun or points a finger, from the archive that comes with the package.

# %%
import numpy as np
import pandas as pd

import diagnostics as dx

recordings = dx.build("dataset", "ucr:GunPoint")
table = pd.DataFrame(np.stack([recordings[i] for i in range(len(recordings))]).round(4))
table["movement"] = np.array(["gun", "point"])[recordings.targets["label"].values]
table.to_csv("movements.csv", index=False)
print(table.iloc[:3, [0, 1, 2, -2, -1]])

# %% [markdown]
# ## 2. Which layer?

# %% language="bash"
# diagnostics run fracast --data series:movements.csv --measures linear_probe --token-budget 0 --out movements

# %% [markdown]
# Two things to read here:
#
# - **Does a layer beat the output?** The interval of the hidden gap holds 0, so 40 test series do not show one, and the last line says to read the output.
# - **Is the model needed?** Under the row stand the controls that do as well: an untrained copy of the model, the raw values with a kernel regression, and a handful of
#   summary statistics. They are all there. On these recordings a classical classifier needs no foundation model.
#
# That is an answer worth a minute of computing. On your own series it may be another one: a score is a reason to use the model only where no control stands under it.

# %% [markdown]
# ## 3. A classifier on that layer

# %%
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline

run = dx.open_run("movements")
best = run.recommend("movement")
data = dx.build("dataset", "series:movements.csv")
train, test = data.split == "train", data.split == "test"
labels = data.targets["movement"].values

classifier = make_pipeline(
    dx.sklearn.TapFeatures("fracast", tap=best.tap or best.best_tap), HistGradientBoostingClassifier(random_state=0)
)
classifier.fit(data[train], labels[train])
print(f"{classifier.score(data[test], labels[test]):.2f} of {test.sum()} test series are classified correctly")

# %% [markdown]
# The pipeline takes raw series. Saved with `joblib`, it holds the model's name and not its weights, so that it stays small.
