"""Which tap the makers of an encoder hand out, and how far the tap before it, which is taken for it, is from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from diagnostics.encoders.taps import Tap
from diagnostics.measures.apply import FEWEST_COMPARED
from diagnostics.measures.similarity import cka
from diagnostics.report.numbers import format_number, number

if TYPE_CHECKING:
    import torch

    from diagnostics.activations.store import Store
    from diagnostics.datasets.dataset import Dataset
    from diagnostics.encoders.encoder import Encoder

MOST_SAMPLES = 64
"""Samples of a dataset that `inspect` passes through the encoder for this."""
MOST_ROWS = 1000
"""Stored samples that are compared."""


@dataclass(frozen=True)
class HandedOut:
    """The output tap by its makers' name, and the tap before it on the trunk.

    norm_ratio: mean norm at `before` over mean norm at `tap`, of grid tokens, or of their means over each sample where tokens
    are not at hand (`norms_of`). cka: debiased linear CKA of the means over tokens; None for fewer than 20 samples.

    Examples:
        >>> import diagnostics as dx
        >>> handed_out = dx.open_run("runs/forecast").handed_out
        >>> print(handed_out)
        The output tap is norm. The tap before it, blocks.5, is a separate tap:
        the norm of its means over tokens is 5.83 times that of the output; linear CKA
        with it is 0.985 (200 samples).
        >>> handed_out.to_json()["before"]
        'blocks.5'
    """

    tap: str
    names: Mapping[str, str]
    before: str | None = None
    norms_of: str = "tokens"
    norm_ratio: float | None = None
    cka: float | None = None
    samples: int = 0
    why_no_cka: str = field(default="", repr=False)

    def __str__(self) -> str:
        own = f", which the model's own API calls {self.names[self.tap]}" if self.tap in self.names else ""
        behind = [
            f"; the model's own API calls {tap} {name}"
            for tap, name in self.names.items()
            if tap not in (self.tap, self.before)
        ]
        sentence = f"The output tap is {self.tap}{own}{''.join(behind)}."
        if self.before is None or self.norm_ratio is None:
            return sentence
        before = f" ({self.names[self.before]})" if self.before in self.names else ""
        alike = f"linear CKA with it is {format_number(self.cka)}" if self.cka is not None else self.why_no_cka
        count = f"{self.samples} sample{'s' if self.samples != 1 else ''}"
        ratio = format_number(self.norm_ratio, ".3g")
        return (
            f"{sentence} The tap before it, {self.before}{before}, is a separate tap: the norm of its {self.norms_of} is "
            f"{'' if ratio == '1' else f'{ratio} times '}that of the output; {alike} ({count})."
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, and the sentence."""
        values = vars(self) | {"names": dict(self.names), "sentence": str(self)}
        return {key: value for key, value in values.items() if key != "why_no_cka"}


def tap_before(taps: Sequence[Tap], output_tap: str) -> Tap | None:
    """The tap on the trunk before the output tap; None where there is none."""
    names = [tap.name for tap in taps]
    trunk = [tap for tap in taps[: names.index(output_tap)] if tap.part != "head"]
    return trunk[-1] if trunk else None


def handed_out(encoder: Encoder, dataset: Dataset | None = None) -> HandedOut:
    """Measured in new passes over samples of a dataset, or over the encoder's example alone."""
    from torch.utils.data import default_collate

    from diagnostics.encoders.modules import pool

    before, names = tap_before(encoder.taps, encoder.output_tap), _names_of(encoder.taps, encoder.maker_names)
    if before is None:
        return HandedOut(encoder.output_tap, names)
    taps = [before.name, encoder.output_tap]
    # Evenly over the dataset, whose samples may be sorted.
    places = [] if dataset is None else np.linspace(0, len(dataset) - 1, min(MOST_SAMPLES, len(dataset))).astype(int)
    samples = [encoder.example()] if dataset is None else [dataset[int(place)] for place in places]
    norms: dict[str, list[np.ndarray]] = {tap: [] for tap in taps}
    means: dict[str, list[np.ndarray]] = {tap: [] for tap in taps}
    for sample in samples:
        sized = encoder.sized_for(sample)
        batch = default_collate([sized.preprocess(sample)])

        def reduce(tap: Tap, tokens: torch.Tensor, sized: Encoder = sized, batch: Any = batch) -> None:
            valid = sized.valid(batch, tap)
            grid = tokens[0, tap.grid.prefix :].float().cpu()
            norms[tap.name].append((grid if valid is None else grid[valid[0].cpu()]).norm(dim=1).numpy())
            valid = None if valid is None else valid.to(tokens.device)
            means[tap.name].append(pool(tap, tokens, ("mean",), valid)[0, 0].cpu().numpy())

        sized.capture(batch, taps, reduce)
    few = "CKA needs 20 samples: give --data" if dataset is None else "CKA needs 20 samples"
    return _compared(encoder.output_tap, before.name, names, "tokens", norms, means, few)


def handed_out_in(store: Store, names: Mapping[str, str]) -> HandedOut:
    """Measured on what a run stored: the pooled activations, the first pooling."""
    before, names = tap_before(store.taps, store.output_tap), _names_of(store.taps, names)
    if before is None:
        return HandedOut(store.output_tap, names)
    means = {tap: store.pooled(tap, store.poolings[0])[:MOST_ROWS] for tap in (before.name, store.output_tap)}
    finite = np.all([np.isfinite(values).all(axis=1) for values in means.values()], axis=0)
    means = {tap: values[finite] for tap, values in means.items()}
    norms = {tap: [np.linalg.norm(values, axis=1)] for tap, values in means.items()}
    pooled = "means over tokens" if store.poolings[0] == "mean" else f"pooled values ({store.poolings[0]})"
    return _compared(
        store.output_tap, before.name, names, pooled, norms, {tap: list(values) for tap, values in means.items()},
        "CKA needs 20 samples",
    )  # fmt: skip


def _names_of(taps: Sequence[Tap], names: Mapping[str, str]) -> dict[str, str]:
    """Of the taps that are there: an encoder that was cut, or a run of some taps, has fewer."""
    return {tap.name: names[tap.name] for tap in taps if tap.name in names}


def _compared(
    tap: str,
    before: str,
    names: Mapping[str, str],
    norms_of: str,
    norms: Mapping[str, Sequence[np.ndarray]],
    means: Mapping[str, Sequence[np.ndarray]],
    few: str,
) -> HandedOut:
    n = len(means[tap])
    if not n:
        return HandedOut(tap, names, before)
    own, other = (float(np.concatenate(norms[name]).mean()) for name in (tap, before))
    alike = None
    if n >= FEWEST_COMPARED:
        alike = number(cka(np.stack(means[before]), np.stack(means[tap])))
        few = "linear CKA has no value, since all samples are equal at one of them"
    ratio = number(other / own) if own and math.isfinite(own) else None
    return HandedOut(tap, names, before, norms_of, ratio, alike, n, few)
