"""Phrases of a dataset embedded by a text encoder, before anything is measured: measures build no encoders."""

from __future__ import annotations

import copy
import dataclasses
import hashlib

import numpy as np
import torch

from diagnostics.datasets.boxes import CLASS, there
from diagnostics.datasets.dataset import Dataset
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import svd
from diagnostics.specs import build

MOST_DIRECTIONS = 64
"""Of an embedding, those of largest variance, that are stored."""


def embed_phrases(dataset: Dataset, name: str) -> Dataset:
    """The dataset whose phrases have behind each box the embedding of its text by the encoder called so.

    Raises DiagnosticsError for a dataset without phrases, an encoder of anything but texts, and texts that it cannot
    embed.
    """
    targets = {key: target for key, target in dataset.targets.items() if target.kind == "phrases"}
    if not targets:
        raise DiagnosticsError(
            f"{dataset.name} has no phrases that {name} could embed: leave --text-encoder out.", code="no-effect"
        )
    encoder = build("encoder", name)
    if encoder.modality != "text":
        raise DiagnosticsError(
            f"{name} reads {encoder.modality} samples and no phrases: give --text-encoder an encoder of texts.",
            code="other-modality",
        )
    told = copy.copy(dataset)
    told.targets = dict(dataset.targets)
    for key, target in targets.items():
        embedded = encoder.transform(list(target.classes)).astype(np.float64)
        embedded -= embedded.mean(axis=0)
        directions = svd(torch.from_numpy(embedded))[2].numpy()[:MOST_DIRECTIONS]
        behind = np.full((*target.values.shape[:2], len(directions)), np.nan)
        behind[:, 0] = 0
        known = there(target.values)
        behind[:, 1:][known] = (embedded @ directions.T)[target.values[:, 1:, CLASS][known].astype(int)]
        values = np.concatenate([target.values, behind], axis=2)
        told.targets[key] = dataclasses.replace(target, values=values, about=f"{target.about}, embedded by {name}")
    identity = f"{dataset.fingerprint} phrases by {sorted(encoder.identity.items())}"
    told._fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    return told
