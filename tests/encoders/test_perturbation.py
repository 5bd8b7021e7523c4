"""Passes that end early, and what a change of the input moves in them."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diagnostics import Grid, Site, Tap
from diagnostics.encoders.hooks import (
    EarlyEnd,
    aggregate,
    largest_move,
    record_calls,
    replace_tensor,
    tensor_at,
    tokens_at,
    tokens_of_cells,
    until,
)
from diagnostics.encoders.places import FirstBlockInput


class Twice(nn.Module):
    """One layer called twice with a second argument by name, then a layer that must not run where a pass ends before."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer()
        self.last = nn.Linear(2, 2)
        self.swallows = False

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.layer(x, shift=torch.full((1,), 3.0))
        except Exception:
            if not self.swallows:
                raise
        x = self.layer(x, shift=torch.full((1,), 5.0))
        return self.last(x)


class Layer(nn.Module):
    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return x + shift


def run(module: nn.Module, batch: Any) -> Any:
    return module(batch)


@pytest.mark.parametrize(
    ("site", "value"),
    [
        (Site("layer", 0, 2, "before"), 0.0),
        (Site("layer", 0, 2, "after"), 3.0),
        (Site("layer", 1, 2, "before"), 3.0),
        (Site("layer", 1, 2, "before", item=1), 5.0),
        (Site("layer", 1, 2, "after"), 8.0),
    ],
)
def test_a_pass_ends_where_a_site_is_and_gives_what_lies_there(site: Site, value: float) -> None:
    module, batch = Twice(), torch.zeros(1, 3, 2)
    ran: list[str] = []
    module.last.register_forward_hook(lambda *_: ran.append("last"))
    tensor = tensor_at(module, site, batch, run)
    assert tensor is not None and bool((tensor == value).all())
    assert not ran and not module.layer._forward_hooks and not module.layer._forward_pre_hooks
    module(batch)
    assert ran == ["last"]


def test_a_pass_that_goes_on_has_not_ended() -> None:
    module = Twice()
    module.swallows = True
    with until(module, Site("layer", 0, 1, "after")) as end:
        module(torch.zeros(1, 3, 2))
    # The second call ends it.
    assert end.ended and bool((end.value == 5).all())
    with until(module, Site("layer", 2, 3, "after")) as end:
        module(torch.zeros(1, 3, 2))
    assert not end.ended and end.value is None


def test_each_block_ends_at_its_own_call() -> None:
    with EarlyEnd() as outer:
        with EarlyEnd() as inner:
            outer("outer")
        raise AssertionError("the inner block must not catch it")
    assert outer.ended and outer.value == "outer" and not inner.ended
    with pytest.raises(KeyError), EarlyEnd() as end:
        raise KeyError
    assert not end.ended


def test_an_ended_pass_keeps_no_tensors() -> None:
    module, batch = Twice(), torch.zeros(1, 3, 2)
    alive: list[weakref.ref[Tensor]] = []

    def forward(module: nn.Module, batch: Tensor) -> Any:
        within = batch + 1
        alive.append(weakref.ref(within))
        return module(within)

    gc.collect()
    gc.disable()
    try:
        tensor_at(module, Site("layer", 1, 2, "before"), batch, forward)
        assert alive[0]() is None
    finally:
        gc.enable()


def test_calls_are_recorded_in_the_order_in_which_they_end() -> None:
    module = Twice()
    with record_calls(module, ["last", "layer"]) as calls:
        module(torch.zeros(1, 3, 2))
    assert [call.name for call in calls] == ["layer", "layer", "last"]
    assert [float(call.kwargs["shift"]) for call in calls[:2]] == [3, 5] and bool((calls[1].output == 8).all())
    module(torch.zeros(1, 3, 2))
    assert len(calls) == 3


def test_tokens_come_in_the_order_of_the_tap() -> None:
    tap = Tap("embed", 0.0, "embedding", 2, Grid((3,), ("t",)), Site("layer", 0, 2, "before", order=(2, 0, 1)))
    batch = torch.arange(6.0).reshape(1, 3, 2)
    tokens = tokens_at(Twice(), tap, batch, run)
    assert tokens is not None and torch.equal(tokens, batch[:, [2, 0, 1]])


def test_the_token_that_moved_most() -> None:
    rest = torch.zeros(2, 1 + 6, 4)
    grid = Grid((2, 3), ("y", "t"), prefix=1)
    tokens = rest.clone()
    assert largest_move(tokens, rest, grid, ("y", "t")) is None
    tokens[:, 0] += 9  # a class token is no place
    tokens[:, 1 + 5] += 2
    tokens[:, 1 + 0] += 1.5
    tokens[:, 1 + 3] += 1.5
    assert largest_move(tokens, rest, grid, ("y", "t")) == 5
    assert largest_move(tokens, rest, grid, ("t",)) == 0
    tokens[0] = 0  # of the first sample alone
    assert largest_move(tokens, rest, grid, ("y", "t")) is None


def test_values_are_summed_over_the_other_axes() -> None:
    values = np.arange(12.0).reshape(2, 6)
    assert aggregate(values, Grid((2, 3), ("y", "t")), ("t",)).tolist() == [[3, 5, 7], [15, 17, 19]]
    assert aggregate(values, Grid((2, 3), ("y", "t")), ("y", "t")).tolist() == values.tolist()


def test_one_tensor_of_a_batch_is_replaced() -> None:
    old, new, other = torch.zeros(2), torch.ones(2), torch.zeros(2)
    batch = replace_tensor({"x": [old, other], "n": 3}, old, new)
    assert batch["x"][0] is new and batch["x"][1] is other and batch["n"] == 3


def test_what_the_first_block_takes_shows_what_shapes_leave_open() -> None:
    weights = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))

    def tokens(batch: Tensor) -> Tensor:
        patches = batch.unflatten(1, (4, 8)) @ weights  # [B, 4, 5]
        return torch.cat([patches, torch.ones(len(batch), 1, 5)], dim=1)

    first = FirstBlockInput(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)), tokens)
    assert first.special_tokens() == [4] and first.features_first({"t": 32}) is False
    turned = FirstBlockInput(first.batch, lambda batch: tokens(batch).mT)
    assert turned.features_first({"t": 32}) is True
    assert first.rows_follow_samples(1) and not FirstBlockInput(first.batch, lambda x: x.flip(0)).rows_follow_samples(1)
    silent = FirstBlockInput(first.batch, lambda batch: torch.ones(2, 4, 5))
    failing = FirstBlockInput(first.batch, lambda batch: torch.ones(2)[5])
    assert silent.special_tokens() is None and failing.special_tokens() is None


def test_tokens_of_cells_are_those_that_move_alone() -> None:
    grid = Grid((2, 3), ("y", "x"), prefix=1)
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    def tokens(changed: np.ndarray) -> Tensor:
        cells = torch.from_numpy(changed.ravel().astype(np.float32))
        return torch.cat([torch.ones(1), cells[order]])[:, None]

    assert tokens_of_cells(grid, tokens) == [1 + order.tolist().index(cell) for cell in range(6)]
    # Every token moves with two cells; there are fewer tokens than cells.
    assert tokens_of_cells(grid, lambda changed: tokens(changed | np.roll(changed, 1))) is None
    assert tokens_of_cells(grid, lambda changed: tokens(changed)[:5]) is None
