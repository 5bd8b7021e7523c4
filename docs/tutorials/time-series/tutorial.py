# %% [markdown]
# # Which layer for my time series?
#
# You have labelled time series in a CSV file, and a pretrained forecasting model. Do the model's features help to classify the series, and which
# layer should the classifier use? The model is Fracast. `pip install -e '.[demo,files]'` installs it with its weights, and the package `aeon` with the example data.

# %% [markdown]
# ## 1. The CSV file
#
# The file has one row for each series. The columns `0`, `1`, ... are its values over time, and one more column is its label. This code writes GunPoint as
# an example: 200 recordings of a hand that draws a gun or points a finger.

# %%
import numpy as np
import pandas as pd

import diagnostics as dx

recordings = dx.build("dataset", "ucr:GunPoint")
table = pd.DataFrame(np.stack(list(recordings)).round(4))
names = np.array(["gun", "point"])
table["movement"] = names[recordings.targets["label"].values]
table.to_csv("movements.csv", index=False)
print(table.iloc[:3, [0, 1, 2, -2, -1]])

# %% [markdown]
# ## 2. Which layer?

# %% language="bash"
# diagnostics run fracast --data series:movements.csv \
#   --measures linear_probe --token-budget 0 --out movements

# %% [markdown]
# A [*tap*](../../explanation/words.md#tap) is a place in the model where activations are read. A probe, here a linear classifier, is
# fitted at each tap. The [chosen tap](../../explanation/words.md#chosen-tap), below `use`, is chosen on the 160 train and validation series. All scores
# are accuracies on the 40 test series. The screen answers two questions:
#
# - **Which layer?** The [output](../../explanation/words.md#output-tap), `norm`: no other layer is better on the train and validation series by more than
#   one standard error. The mark `?` says that 40 test series cannot tell whether another layer is a little better: gaps up to 0.06 are possible. All 40
#   are classified correctly at the output, so little can be gained.
# - **Do you need the model?** No score shows it. [Controls](../../explanation/words.md#control) are baselines without the trained model. The line below the row names the
#   best one that the model is not shown to beat: a kernel regression on the raw values is right for all test series too. So you can classify these
#   recordings with a classical method and without a foundation model.
#
# The result may differ for your own series. A score is a reason to use the model only if no control is named below it.

# %% [markdown]
# ## 3. A classifier on that layer
#
# This code fits a scikit-learn classifier on the features of the layer that the run recommends. It need not reach the probe's score: boosted trees are
# another classifier.

# %%
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline

data = dx.build("dataset", "series:movements.csv")
train, test = data.split == "train", data.split == "test"
labels = data.targets["movement"].values

classifier = make_pipeline(
    dx.sklearn.TapFeatures("fracast", run="movements", target="movement"),
    HistGradientBoostingClassifier(random_state=0),
)
classifier.fit(data[train], labels[train])
right = classifier.score(data[test], labels[test])
print(f"{right:.2f} of {test.sum()} test series are classified correctly")

# %% [markdown]
# The pipeline takes raw series as input. If you save it with `joblib`, the file contains the model's name and not its weights, so it stays small.
