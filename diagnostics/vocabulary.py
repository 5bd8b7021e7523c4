"""Terms shared by encoders, datasets and measures.

Modalities, kinds and families of targets, splits, names, kernels.
"""

import re
from collections.abc import Mapping
from typing import Literal, get_args

Kernel = Literal["auto", "flash", "cudnn", "efficient", "math"]
KERNELS = get_args(Kernel)
"""Which kernel computes attention, the fastest first; `auto` leaves it to torch."""
Compute = Literal["float32", "tf32", "bf16"]
"""What a forward pass computes in."""
ChooseOn = Literal["val", "fit"]
"""On which losses taps and penalties are chosen: on val, or out of fold on train and val."""

DenseTokens = Literal["stored", "streamed", "none"]
"""How probes read a target with a value for every place: from stored tokens, from sums that passes gather, or not."""
ControlMeasures = Literal["probes", "all"]
"""What is measured of controls with other weights: measures of targets, or all that are measured of the encoder."""

Modality = Literal["image", "video", "series", "audio", "text"]
Kind = Literal[
    "label",
    "value",
    "token_label",
    "token_value",
    "event",
    "boxes",
    "phrases",
    "questions",
    "masks",
    "matches",
    "caption",
    "future",
    "state",
]
Family = Literal["semantic", "language", "spatial", "dynamics", "geometry", "similarity"]

SPLITS = ("train", "val", "test")
SPLIT_OF: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What folders, columns and other libraries call a split, in lower case -> the split."""
BOXED = ("boxes", "phrases")
"""Kinds of target that are boxes, of classes or of phrases."""
DENSE = ("token_label", "token_value", "event", *BOXED)
"""Kinds of target with a value for every place of a sample; of boxes, which of them it lies in."""
BY_PLACE = (*DENSE, "masks", "matches")
"""Kinds of target whose values are maps over, or places on, a sample's own axes."""

FAMILY_OF: Mapping[str, Family] = {
    "label": "semantic",
    "value": "semantic",
    "token_label": "spatial",
    "token_value": "spatial",
    "event": "dynamics",
    "boxes": "spatial",
    "phrases": "language",
    "questions": "language",
    "masks": "spatial",
    "matches": "spatial",
    "caption": "language",
    "future": "dynamics",
    "state": "dynamics",
}
"""Kind of target -> the family that its probes belong to, unless the target names another."""

# Names of taps and targets become folders of the store, in which Zarr keeps one file of its own.
SAFE_NAME = re.compile(r"(?!zarr\.json$)[A-Za-z0-9_][A-Za-z0-9_.\-]*")
"""What the name of a tap or target may look like."""
