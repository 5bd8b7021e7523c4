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
table = pd.DataFrame(np.stack([recordings[i] for i in range(len(recordings))]).round(4))
table["movement"] = np.array(["gun", "point"])[recordings.targets["label"].values]
table.to_csv("movements.csv", index=False)
print(table.iloc[:3, [0, 1, 2, -2, -1]])

# %% [markdown]
# ## 2. Which layer?

# %% language="bash"
# diagnostics run fracast --data series:movements.csv --measures linear_probe --token-budget 0 --out movements

# %% [markdown]
# A [*tap*](../../explanation/words.md#tap) is a place in the model where activations are read. A probe, here a linear classifier, is
# fitted at each tap. The [best tap](../../explanation/words.md#best-tap) has the highest score on the 40 validation series. All scores are
# accuracies on the 40 test series. The table answers two questions:
#
# - **Is an earlier layer better than the output?** The [hidden gap](../../explanation/words.md#hidden-gap) is the score of the best tap minus
#   that of the [output](../../explanation/words.md#output-tap). Its 95 % confidence interval includes 0. So 40 test series do not show that an
#   earlier layer is better, and the last line recommends the output.
# - **Do you need the model?** [Controls](../../explanation/words.md#control) are baselines without the trained model. The line below the
#   row names those that score about as well: the untrained model, the model with permuted weights, a kernel regression on the raw values,
#   and a few summary statistics. So you can classify these recordings with a classical method and without a foundation model.
#
# The result may differ for your own series. A score is a reason to use the model only if no control is named below it.

# %% [markdown]
# ## 3. A classifier on that layer
#
# This code fits a scikit-learn classifier on the features of the recommended layer:

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
# The pipeline takes raw series as input. If you save it with `joblib`, the file contains the model's name and not its weights, so it stays small.
