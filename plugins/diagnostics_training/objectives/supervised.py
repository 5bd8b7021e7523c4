"""The ceiling: everything that the data set knows about whole samples of its train split, read out of the encoder.

Labels with cross entropy; values, states and futures, standardised with the train split, with squared error (angles as
sine and cosine). Each column counts alike, and what is unknown counts for nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Target
from diagnostics_training.models.encoder import Answers, EncoderObjective, Head, Readout, Sizes
from diagnostics_training.trainer.objective import Batch

NUMBERS = ("value", "state", "future")


class Supervised(EncoderObjective):
    """`model`'s head gives the logits of labels with so many `classes`, then the numbers."""

    options = ("outputs",)
    # Targets are about places and last moments, which windows, crops and mirrors would move.
    moves = False

    @classmethod
    def head(cls, sizes: Sizes) -> Head:
        return Readout(sizes.width, sizes.outputs, sizes.modality == "series")

    @classmethod
    def answers(cls, targets: Mapping[str, Target], rows: np.ndarray, dataset: str) -> Answers:
        """Targets of these samples as arrays; raises where there is none of whole samples.

        `labels` int64 [sample, label], -1 where unknown, and `numbers` float32 [sample, number], NaN there; `outputs`
        counts the logits of all labels, then one for each number.
        """
        labels: list[np.ndarray] = []
        numbers: list[np.ndarray] = []
        classes: list[int] = []
        for target in (targets[name] for name in sorted(targets)):
            values: Any = target.values[rows]
            if target.kind == "label":
                labels.append(values)
                classes.append(len(target.classes) or int(target.values.max()) + 1)
            elif target.kind in NUMBERS and target.period:
                angle = 2 * np.pi * values / target.period
                numbers += [np.sin(angle), np.cos(angle)]
            elif target.kind in NUMBERS:
                numbers += list(values.reshape(len(values), -1).T)
        if not labels and not numbers:
            raise DiagnosticsError(
                f"Dataset {dataset} has no label, value, state or future to be supervised with: leave supervised out "
                f"of --objective.",
                code="no-target",
            )
        known = _stack(numbers, np.float32, len(rows))
        std = np.nanstd(known, axis=0)
        known = (known - np.nanmean(known, axis=0)) / np.where(std > 0, std, 1)
        arrays = {"labels": _stack(labels, np.int64, len(rows)), "numbers": known}
        return Answers(arrays, tuple(classes), sum(classes) + len(numbers))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        predicted = self.model(batch["x"]).float()
        labels, numbers = batch["labels"], batch["numbers"]
        parts: list[Tensor] = []
        start = 0
        for i, count in enumerate(self.classes):
            logits = predicted[:, start : start + count]
            # Over all samples, known or not: then the mean over processes is that over the batch.
            missed = nn.functional.cross_entropy(logits, labels[:, i], ignore_index=-1, reduction="sum")
            parts.append(missed[None] / len(predicted))
            start += count
        known = numbers.isfinite()
        parts.append(torch.where(known, predicted[:, start:] - torch.where(known, numbers, 0), 0).square().mean(0))
        return {"loss": torch.cat(parts).mean()}


def _stack(parts: list[np.ndarray], kind: Any, rows: int) -> np.ndarray:
    return np.stack(parts, axis=1).astype(kind) if parts else np.zeros((rows, 0), kind)
