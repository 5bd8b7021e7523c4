"""Attention that gathers: how much one key gets of a row, how large logits become, and how much a few keys get of all rows."""

from __future__ import annotations

import math

import numpy as np
import torch

from diagnostics.encoders.attention import Statistics, Tokens, attention_statistics
from diagnostics.encoders.attention.capture import FusedCall
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.measures.known_answers import Case
from diagnostics.measures.locality.heads import Attention, HeadMeasure

FEW = 0.01
"""Share of the grid keys that are called few."""
GATHERED = ("peak", "logit", "received")
"""Last axis of what `Gathering` records."""
CLOSED = "closed form"
BOLYA = "closed form, after the global tokens of Bolya et al. 2025 (2504.13181)"


class Gathering(Attention):
    """Per sample and head: the mean over rows of their largest share, the largest logit, and what few keys receive.

    Beside `Attention`, whose columns in stores that exist it leaves as they are.
    """

    name = "attention_gathering"
    columns = GATHERED


class GatheringMeasure(HeadMeasure):
    """One of the columns of `Gathering`."""

    observation = Gathering()
    columns = GATHERED
    standard = False


def _of_logits(logits: torch.Tensor) -> Statistics:
    """Of one head whose logits [token, token] are these, among tokens in a row."""
    tokens = len(logits)
    each = torch.eye(tokens, dtype=logits.dtype)[None, None]
    out = logits.softmax(-1)[None, None]
    call = FusedCall(logits[None, None], each, each, None, 0.0, False, 1.0)
    tap = Tap("known", 1.0, "trunk", 1, Grid((tokens,), ("t",)))
    return attention_statistics(call, out, Tokens.of(tap, None, logits.device), "blocks")


def _uniform(tokens: int) -> Statistics:
    return _of_logits(torch.zeros(tokens, tokens, dtype=torch.float64))


def _keys(tokens: int, *shares: float) -> Statistics:
    """Every query gives these shares to the first keys."""
    logits = torch.full((tokens, tokens), -1e4, dtype=torch.float64)
    logits[:, : len(shares)] = torch.tensor(shares, dtype=torch.float64).log()
    return _of_logits(logits)


def _stripe_starts() -> float:
    """The block, of 8, before which attention gathers least and from which most: from the sixth on, half of each row goes to
    two columns of 16 x 16 cells; before, each cell gives half to itself."""
    columns = torch.arange(256) % 16
    stripe = torch.where(columns < 2, 1.0 / 32, 0.0).double().expand(256, 256)
    itself = torch.eye(256, dtype=torch.float64)
    rest = torch.full((256, 256), 1 / 256, dtype=torch.float64)
    by_block = [(0.5 * (stripe if block >= 5 else itself) + 0.5 * rest).log() for block in range(8)]
    received = [float(_of_logits(logits).received_by_most(FEW)) for logits in by_block]
    return float(np.argmax(np.diff(received))) + 1


class AttentionPeak(GatheringMeasure):
    name = "attention_peak"
    answers = "How much attention does a query give to the token that it attends to most?"
    source = "largest share of a row of softmax"
    statistic = "peak"
    functional = "mean over queries of max_k a_qk, rows renormalised over grid keys"
    unit = "share of attention"
    known_answers = (
        Case("uniform over 64 keys: 1 / 64", 1 / 64, CLOSED, lambda: float(_uniform(64).peak)),
        Case("one key", 1, CLOSED, lambda: float(_keys(16, 1.0).peak)),
        Case("two keys, .7 and .3", 0.7, CLOSED, lambda: float(_keys(16, 0.7, 0.3).peak)),
    )

    def uniform(self, grid: Grid) -> float:
        return 1 / grid.tokens

    def identity(self, grid: Grid) -> float:
        return 1.0


class AttentionLogit(GatheringMeasure):
    name = "attention_logit"
    answers = "How large are the attention logits of each head (large ones saturate softmax, and training fails)?"
    source = "Dehghani et al. 2023 (2302.05442), section 3.1; Zhai et al. 2023 (2303.06296)"
    statistic = "logit"
    functional = "max over grid queries and grid keys of scale q k' + mask"
    unit = "logit"
    known_answers = (
        Case("logits of 0", 0, CLOSED, lambda: float(_uniform(64).logit)),
        Case("two keys, logits ln .7 and ln .3", math.log(0.7), CLOSED, lambda: float(_keys(16, 0.7, 0.3).logit)),
        Case("uniform with logits of 300", 300, CLOSED, lambda: float(_of_logits(torch.full((16, 16), 300.0)).logit)),
    )  # fmt: skip

    def uniform(self, grid: Grid) -> float:
        return math.nan  # whatever logits are alike

    def identity(self, grid: Grid) -> float:
        return math.nan

    def unknown(self, lost: int, values: np.ndarray, n: int) -> str:
        if np.isfinite(values[..., self.columns.index("peak")]).all():
            return "its softmax is spelled out, which shows shares but no logits"
        return super().unknown(lost, values, n)


class AttentionReceived(GatheringMeasure):
    name = "attention_received"
    answers = "From which block on does attention concentrate on a few grid tokens, whatever the query?"
    source = "Bolya et al. 2025 (2504.13181), global tokens; Sun et al. 2024 (2402.17762)"
    statistic = "received"
    functional = (
        f"share of the attention to grid keys that goes to the {FEW:.0%} of them that receive most, of the mean over queries; "
        "the last key counted in part"
    )
    unit = "share of attention to the grid"
    known_answers = (
        *(
            Case(f"uniform over {n} keys", FEW, CLOSED, lambda n=n: float(_uniform(n).received_by_most(FEW)))
            for n in (7, 100, 250)
        ),
        Case("one of 100 keys", 1, CLOSED, lambda: float(_keys(100, 1.0).received_by_most(FEW))),
        Case("one of 50 keys, counted by half", 0.5, CLOSED, lambda: float(_keys(50, 1.0).received_by_most(FEW))),
        Case("two of 100 keys, .7 and .3", 0.7, CLOSED, lambda: float(_keys(100, 0.7, 0.3).received_by_most(FEW))),
        Case("two of 200 keys, .7 and .3", 1, CLOSED, lambda: float(_keys(200, 0.7, 0.3).received_by_most(FEW))),
        Case("every query looks at itself", FEW, CLOSED, lambda: float(_of_logits(1e4 * torch.eye(64)).received_by_most(FEW))),
        Case("a stripe of global tokens from block 5 on", 5, BOLYA, _stripe_starts),
    )  # fmt: skip

    def uniform(self, grid: Grid) -> float:
        return FEW

    def identity(self, grid: Grid) -> float:
        return FEW
