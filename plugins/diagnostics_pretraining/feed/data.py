"""Data as they are read for training alone."""

import numpy as np
from diagnostics_training.trainer.data import parse_spec, spec_of

from diagnostics import Dataset


def without_target(spec: str) -> str:
    """The specification of the same data, captions without the embeddings that `diagnostics run` probes: 2 kB a sample, which are
    held in memory and that nothing here reads."""
    name, options = parse_spec(spec)
    if not name.startswith("captions:") or "embeddings" in options:
        return spec
    return spec_of(name, {**options, "features": 0})


def outline_of(dataset: Dataset) -> str:
    """A digest by which data are known again: of files by names, sizes and texts (`FileDataset.outline`), since their bytes take hours
    to read; of other data the fingerprint."""
    outline: str | None = getattr(dataset, "outline", None)
    return dataset.fingerprint if outline is None else outline


def shards_of(dataset: Dataset) -> np.ndarray | None:
    """Which of several archives each sample lies in, int [sample]; None where no order of reading is better than another."""
    return getattr(dataset, "shards", None)
