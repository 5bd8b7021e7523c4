"""One forward pass over a batch: what its taps give, pooled and copied away at the moment each fires."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.activations.contract import Observation
from diagnostics.activations.observe import InPass
from diagnostics.activations.plan import Plan, row_order
from diagnostics.activations.prepare import prepare_batches
from diagnostics.activations.shards import ShardBuffer
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Captured, Encoder, why_not_finite
from diagnostics.encoders.hooks import first_tensor, record_passes
from diagnostics.encoders.modules import pool
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, explaining

Along = Callable[[Any, np.ndarray, Tap, Tensor], None]
"""Takes in a batch, its rows, and the tokens of a tap [row, token, feature]."""


class ShardBuffers:
    """The activations of one step in memory, filled batch by batch; the same memory serves every step.

    `batch` is the largest number of rows of a step that keeps no tokens.
    """

    def __init__(self, plan: Plan, batch: int) -> None:
        self.rows = 0
        most = max(batch, plan.shard) if plan.token_samples else batch
        self.tokens = {
            tap.name: {kind: ShardBuffer(layout) for kind, layout in plan.layouts(tap).items() if kind != "pooled"}
            for tap in plan.taps
        }
        shapes = {tap.name: (most, len(plan.poolings), tap.features) for tap in plan.taps}
        pinned = torch.cuda.is_initialized()
        self._pooled = {tap: torch.empty(shape, pin_memory=pinned) for tap, shape in shapes.items()}

    @property
    def pooled(self) -> dict[str, np.ndarray]:
        """The pooled values of each tap [row, pooling, feature]."""
        return {tap: values[: self.rows].numpy() for tap, values in self._pooled.items()}

    def put_tokens(self, tap: Tap, tokens: Tensor) -> None:
        """A batch's tokens [row, prefix + token, feature] behind the rows that are there."""
        self.tokens[tap.name]["tokens"].put(self.rows, tokens[:, tap.grid.prefix :])
        if tap.grid.prefix:
            self.tokens[tap.name]["prefix"].put(self.rows, tokens[:, : tap.grid.prefix])

    def recent(self, tap: Tap, count: int) -> np.ndarray:
        """The tokens of the last `count` rows put, as they will be stored, [row, token, feature]."""
        buffers = self.tokens[tap.name].values()
        return np.concatenate([buffer.rows(self.rows + count)[self.rows :] for buffer in buffers], axis=1)

    def put_pooled(self, tap: Tap, pooled: Tensor) -> None:
        """A batch's pooled values [row, pooling, feature] behind the rows that are there, from a GPU a moment later."""
        self._pooled[tap.name][self.rows : self.rows + len(pooled)].copy_(pooled, non_blocking=True)


class SampleError(DiagnosticsError):
    """NaN, infinity, overflow or gaps: the same command would meet it at the same sample again."""


def capture_rows(
    encoder: Encoder,
    batch: Any,
    positions: np.ndarray,
    plan: Plan,
    dataset: Dataset,
    buffers: Any,
    also: Along | None = None,
    in_pass: InPass | None = None,
) -> None:
    """One forward pass; each tap is pooled on the device and its tokens copied away at the moment it fires.

    `buffers` take in what `ShardBuffers` do. `in_pass` is observed in the same pass; where that fails, the batch passes
    once more.
    """
    with_tokens, given = positions[0] < plan.token_samples, set[str]()

    def reduce(tap: Tap, tokens: Tensor) -> Tensor:
        if len(tokens) != len(positions):
            raise DiagnosticsError(
                f"Tap {tap.name} of {encoder.name} gives {len(tokens)} rows for {len(positions)} samples: "
                "what its module folds into the batch must become tokens or features.",
                code="bad-tap",
            )
        if with_tokens:
            buffers.put_tokens(tap, tokens)
        valid = encoder.valid(batch, tap)
        if valid is not None:
            valid = valid.to(tokens.device)
            empty = ~valid.any(dim=1)
            if empty.any():
                raise DiagnosticsError(
                    f"Sample {ids[int(empty.int().argmax())]} has no token at tap {tap.name} of {encoder.name} that "
                    f"stands for data: it is empty or too short, leave it out.",
                    code="no-tokens",
                )
            gaps = ~valid.all(dim=1)
            if with_tokens and gaps.any():
                # A store has no mask, so every measure over tokens would take them for data.
                raise SampleError(
                    f"Sample {ids[int(gaps.int().argmax())]} has tokens at tap {tap.name} of {encoder.name} that "
                    f"represent no data (gaps or padding): keep pooled activations alone, with --token-budget 0.",
                    code="no-tokens",
                )
        pooled = pool(tap, tokens, plan.poolings, valid)
        # The mean over grid tokens is not finite when any of them is not, so it stands for all.
        finite = pooled.isfinite().flatten(1).all(1) & tokens[:, : tap.grid.prefix].isfinite().flatten(1).all(1)
        # At once: what stays between the activations of a pass keeps their memory from being used again.
        buffers.put_pooled(tap, pooled)
        if also is not None and tap.name not in given:
            also(batch, positions, tap, tokens)
            given.add(tap.name)
        return finite

    ids = [dataset.ids[i] for i in row_order(plan.samples)[positions]]
    with (
        explaining(f"{encoder.name} fails on the batch from sample {ids[0]} on"),
        record_passes(getattr(encoder, "module", None)) as passes,
    ):
        taps = [tap.name for tap in plan.taps]
        finite_by_tap = in_pass.capture(encoder, batch, positions, taps, reduce) if in_pass else None
        if finite_by_tap is None and also is None and not with_tokens:
            encoder, batch = encoder.shortened(batch)
        finite_by_tap = finite_by_tap or encoder.capture(batch, taps, reduce)
    # On a GPU the answer also waits for the copies of pooled values, which were asked for before on the same stream.
    for name, finite in finite_by_tap.items():
        if not finite.all():
            raise SampleError(why_not_finite(encoder, name, ids, batch, finite, dataset.ragged), code="not-finite")
    output = first_tensor(passes[-1].output) if passes else None
    # -inf stands for what is masked, and anything for what is no data.
    if (
        isinstance(output, Tensor)
        and output.is_floating_point()
        and not (output < math.inf).all()
        and all(encoder.valid(batch, tap) is None for tap in plan.taps)
    ):
        raise SampleError(
            f"{encoder.name} returns NaN or infinity for the batch from sample {ids[0]} on, though all its taps are "
            "finite: correct what its forward does after them, or give the module without that.",
            code="not-finite",
        )
    if plan.precision == "float16" and with_tokens:
        for tap in plan.taps:
            overflows = ~np.isfinite(buffers.recent(tap, len(positions))).all(axis=(1, 2))
            if overflows.any():
                raise SampleError(
                    f"Activations of tap {tap.name} overflow float16 for sample {ids[int(overflows.argmax())]}: use "
                    "--precision float32.",
                    code="not-finite",
                )
    buffers.rows += len(positions)


@dataclass
class Passed:
    """Findings of a pass over a batch, as put where the batch was passed here; the batch itself where wanted."""

    positions: np.ndarray
    batch: Any = None
    rows: int = 0
    observed: Captured | None = None
    """The observation of its rows that was made in the pass."""
    tokens: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    """Of each tap, float32 [row, prefix + token, feature]."""
    pooled: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def put_tokens(self, tap: Tap, tokens: Tensor) -> None:
        """As of `ShardBuffers`."""
        self.tokens[tap.name] = tokens.float().cpu().numpy().copy()

    def put_pooled(self, tap: Tap, pooled: Tensor) -> None:
        """As of `ShardBuffers`."""
        self.pooled[tap.name] = pooled.cpu().numpy().copy()

    def recent(self, tap: Tap, count: int) -> np.ndarray:
        """The tokens in the least precision in which they may be stored."""
        with np.errstate(over="ignore"):
            return self.tokens[tap.name].astype(np.float16)

    def put(self, plan: Plan, buffers: ShardBuffers, also: Along | None) -> None:
        """All of it behind the rows that are there."""
        for tap in plan.taps:
            tokens = torch.from_numpy(self.tokens[tap.name]) if tap.name in self.tokens else None
            if tokens is not None and self.positions[0] < plan.token_samples:
                buffers.put_tokens(tap, tokens)
            buffers.put_pooled(tap, torch.from_numpy(self.pooled[tap.name]))
            if tokens is not None and also is not None:
                also(self.batch, self.positions, tap, tokens)
        buffers.rows += len(self.positions)


def pass_batch(
    encoder: Encoder,
    dataset: Dataset,
    plan: Plan,
    positions: np.ndarray,
    whole: bool,
    observation: Observation | None = None,
) -> Passed:
    """Prepare and pass samples; `whole`: with the batch and its tokens, whatever is stored. Raises as `extract`.

    An `observation` is made of them in the same pass, if it can.
    """
    with contextlib.closing(prepare_batches(encoder, dataset, [positions], 0)) as batches:
        (batch,) = batches
    passed = Passed(positions, batch if whole else None)

    def keep(_: Any, rows: np.ndarray, tap: Tap, tokens: Tensor) -> None:
        passed.put_tokens(tap, tokens)

    in_pass = InPass(observation, len(dataset)) if observation else None
    capture_rows(encoder, batch, positions, plan, dataset, passed, also=keep if whole else None, in_pass=in_pass)
    passed.observed = in_pass.parts.get(int(positions[0])) if in_pass else None
    return passed
