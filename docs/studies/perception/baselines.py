"""What classifiers with labels read from raw pixels, on the scenes of this study: `python baselines.py` keeps results/baselines.json.

They are fitted on the scenes that the trainings see, with the answers in place of captions; the penalty is chosen on val; the test scenes are
those of zero-shot, of pairs of colour and shape that are not in train. A score that they reach too needs no encoder. `trees` and `more_trees` are boosted
trees on the histograms, of the rows' scenes and of those of `scenes`.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from diagnostics_pretraining.zeroshot import labels_of
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from study import ASKED, DATA, HERE, MORE_DATA, interval, rounded

from diagnostics import Dataset, build

PENALTIES = (1.0, 10.0)
DRAWS = 2000


def thumbnails(images: np.ndarray, side: int = 16) -> np.ndarray:
    """Images [image, y, x, 3] averaged down to so many pixels a side, as rows."""
    factor = images.shape[1] // side
    blocks = images.reshape(len(images), side, factor, side, factor, 3)
    return blocks.mean((2, 4)).reshape(len(images), -1)


def histograms(images: np.ndarray, levels: int = 6) -> np.ndarray:
    """The root of each colour's share of an image's pixels, with so many levels a channel."""
    level = images.astype(np.int64) * levels // 256
    colours = (level[..., 0] * levels + level[..., 1]) * levels + level[..., 2]
    counts = [np.bincount(one.ravel(), minlength=levels**3) for one in colours]
    return np.sqrt(np.stack(counts) / colours[0].size)


def machines() -> list[Any]:
    """Support vector machines, one for each penalty."""
    return [make_pipeline(StandardScaler(), SVC(C=penalty)) for penalty in PENALTIES]


def trees() -> list[Any]:
    """Boosted trees as scikit-learn has them by default."""
    return [HistGradientBoostingClassifier(random_state=0)]


def score(
    read: Callable[[np.ndarray], np.ndarray], models: Sequence[Any], target: str, taught: Dataset, asked: Dataset
) -> dict[str, float | int]:
    """Accuracy on test with a 95 % interval over pairs of colour and shape, of the model that is best on val."""
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for data, split in ((taught, "train"), (taught, "val"), (asked, "test")):
        rows = np.flatnonzero(data.split == split)
        parts[split] = read(np.stack(list(data[rows]))), labels_of(data, target)[0][rows]
    fitted = [model.fit(*parts["train"]) for model in models]
    best = max(fitted, key=lambda one: one.score(*parts["val"]))
    hits = best.predict(parts["test"][0]) == parts["test"][1]
    pairs, at = np.unique(asked.groups[asked.split == "test"].astype(str), return_inverse=True)
    right, counts = np.bincount(at, hits), np.bincount(at)
    draws = np.random.default_rng(0).integers(len(pairs), size=(DRAWS, len(pairs)))
    low, high = np.percentile(right[draws].sum(1) / counts[draws].sum(1), [2.5, 97.5])
    return {
        "value": float(hits.mean()),
        "low": float(low),
        "high": float(high),
        "n": len(hits),
        "train": len(parts["train"][1]),
    }


def main() -> None:
    taught, more, asked = (build("dataset", data) for data in (DATA, MORE_DATA, ASKED))
    found = {
        name: {target: score(read, models(), target, data, asked) for target in ("colour", "shape")}
        for name, read, models, data in (
            ("thumbnails", thumbnails, machines, taught),
            ("histograms", histograms, machines, taught),
            ("trees", histograms, trees, taught),
            ("more_trees", histograms, trees, more),
        )
    }
    for features, scores in found.items():
        print(features, {target: interval(one) for target, one in scores.items()})
    (HERE / "results" / "baselines.json").write_text(json.dumps(rounded(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
