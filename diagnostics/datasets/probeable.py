"""Which targets cannot be probed, decided from the dataset alone, before any extraction."""

from __future__ import annotations

import numpy as np

from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.target import Target
from diagnostics.vocabulary import SPLITS

NAMED = 5
"""Classes that a sentence names."""


def unprobeable_targets(dataset: Dataset) -> dict[str, str]:
    """Targets that no probe can predict, `{name: reason}`: unknown in a split, constant in train, or with classes in other
    splits that train lacks."""
    reasons = {name: _why_not(name, target, dataset.split) for name, target in dataset.targets.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _why_not(name: str, target: Target, split: np.ndarray) -> str:
    if target.kind == "masks":
        return ""  # what reads masks is not fitted
    values = target.values.reshape(len(target.values), -1)
    classes = values.dtype.kind in "iu"
    known = np.asarray(values >= 0 if classes else np.isfinite(values))
    # A map may be known in part; a value, a forecast or a caption only as a whole.
    rows: np.ndarray = np.asarray(known.any(axis=1) if target.dense else known.all(axis=1))
    remedy = "leave it out or use more samples"
    for part in SPLITS:
        if not rows[split == part].any():
            return f"Target {name} is known for no {part} sample: {remedy}."
    train = rows & (split == "train")
    seen = values[train][known[train]]
    if seen.min() == seen.max() and not (target.kind == "caption" and values.shape[1] > 1):
        what = "only one class" if classes else f"the one value {seen.min():g}"
        return f"Target {name} has {what} in its {int(train.sum())} train samples: {remedy}."
    if target.kind == "label":
        new = sorted(set(np.unique(values[rows]).tolist()) - set(np.unique(seen).tolist()))
        if new:
            return f"Target {name} has no train sample of {_named(new, target)}: use more samples or mark them unknown (-1)."
    return ""


def _named(classes: list[int], target: Target) -> str:
    names = [target.classes[c] if c < len(target.classes) else str(c) for c in classes]
    more = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
    return f"class{'es' if len(names) > 1 else ''} {', '.join(names[:NAMED])}{more}"
