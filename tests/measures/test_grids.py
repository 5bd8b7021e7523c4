"""What may be written for a grid and for its cells, in every function of the grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diagnostics.measures import locality
from tests.support.functions import ATTENTION, GRID, IMAGE_MASKS, MASKS, TOKENS, T, numbers
from tests.support.refusals import refusal

CALLS: dict[str, Callable[[Any], Any]] = {
    "attention_distance": lambda grid: locality.attention_distance(ATTENTION[:, :, 1:, 1:], grid),
    "uniform_distance": lambda grid: locality.uniform_distance(grid),
    "self_similarity": lambda grid: locality.self_similarity(TOKENS, grid),
    "spatial_relation": lambda grid: locality.spatial_relation(TOKENS, IMAGE_MASKS.reshape(3, T) > 0, grid),
    "morans_i": lambda grid: locality.morans_i(TOKENS, grid),
    "null_morans_i": lambda grid: locality.null_morans_i(grid),
    "neighbour_consistency": lambda grid: locality.neighbour_consistency(TOKENS, grid),
    "neighbour_chance": lambda grid: locality.neighbour_chance(grid),
    "outlier_tokens": lambda grid: locality.outlier_tokens(TOKENS, grid),
    "position_probe": lambda grid: locality.position_probe(TOKENS, grid, ["train", "val", "test"]),
    "label_propagation": lambda grid: locality.label_propagation(TOKENS, grid, MASKS[0]),
    "lost": lambda grid: locality.lost(TOKENS[0], grid),
    "tokencut": lambda grid: locality.tokencut(TOKENS[0], grid),
    "object_discovery": lambda grid: locality.object_discovery(TOKENS, grid, IMAGE_MASKS),
}
CELLS: dict[str, Callable[[Any], Any]] = {
    "attention_distance": lambda cell: locality.attention_distance(ATTENTION[:, :, 1:, 1:], GRID, cell=cell),
    "uniform_distance": lambda cell: locality.uniform_distance(GRID, cell),
    "receptive_field": lambda cell: locality.receptive_field(np.ones((5, 5)), (2, 2), cell=cell),
    "lost": lambda cell: locality.lost(TOKENS[0], GRID, cell=cell),
    "tokencut": lambda cell: locality.tokencut(TOKENS[0], GRID, cell=cell),
}


def same(result: Any, wanted: Any) -> None:
    assert len(numbers(result)) == len(numbers(wanted)) > 0
    for a, b in zip(numbers(result), numbers(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


# All functions read a grid with the same one, so that each writing is tried on one of them, and each function with one.
EVERY = "neighbour_chance"
WRITINGS = [[8, 8], np.array([8, 8]), torch.Size([8, 8]), torch.tensor([8, 8]), (np.int32(8), 8)]
NO_GRIDS = [64, 8.0, (8.0, 8), "8x8", (0, 8), (-8, -8), (), np.array(64), [[8, 8]]]


@pytest.mark.parametrize(
    ("name", "grid"), [*((EVERY, grid) for grid in WRITINGS), *((name, torch.tensor([8, 8])) for name in CALLS)]
)
def test_any_sequence_of_whole_numbers_is_a_grid(name: str, grid: Any) -> None:
    same(CALLS[name](grid), CALLS[name](GRID))


@pytest.mark.parametrize(
    ("name", "grid"), [*((EVERY, grid) for grid in NO_GRIDS), *((name, (8.0, 8)) for name in CALLS)]
)
def test_what_is_none_is_refused_in_a_sentence(name: str, grid: Any) -> None:
    with refusal("bad-value", "grid") as caught:
        CALLS[name](grid)
    assert "\n" not in str(caught.value)


def test_tokens_that_do_not_fill_it_are_named_in_the_singular() -> None:
    with refusal("bad-shape", "(3, 64, 6)", "(7, 8)"):
        locality.self_similarity(TOKENS, (7, 8))


@pytest.mark.parametrize("name", CELLS)
def test_one_length_is_that_of_both_axes(name: str) -> None:
    for cell in (16, 16.0, np.float32(16), np.array(16.0), torch.tensor(16)):
        same(CELLS[name](cell), CELLS[name]((16, 16)))
    for both in ([16.0, 16], np.array([16, 16]), torch.tensor([16.0, 16.0])):
        same(CELLS[name](both), CELLS[name]((16, 16)))
    assert any(
        not np.array_equal(a, b, equal_nan=True)
        for a, b in zip(numbers(CELLS[name](16)), numbers(CELLS[name]((16, 8))), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        *(
            ("uniform_distance", cell)
            for cell in (0, -1.0, (16,), (16, 16, 16), (16, 0), np.inf, [[16, 16]], "16 px", "16", None)
        ),
        *((name, (16, 0)) for name in CELLS),
    ],
)
def test_what_is_no_length_is_refused_in_a_sentence(name: str, cell: Any) -> None:
    with refusal("bad-value") as caught:
        CELLS[name](cell)
    assert "\n" not in str(caught.value)


def test_the_centre_of_a_line_may_be_a_number() -> None:
    same(locality.receptive_field(np.ones(9), 4), locality.receptive_field(np.ones(9), (4,)))
