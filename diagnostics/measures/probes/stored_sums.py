"""Stored tokens read from sums, as `runs.streaming` reads those that are not stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from diagnostics.encoders.taps import Tap
from diagnostics.measures.probes.dense import DenseRows, JudgedRows, Streamed, Sums, TokenMap
from diagnostics.measures.probes.least_squares import Moments, RidgePath
from diagnostics.measures.probes.protocol import FOLDS, folds


def read_stored(dense: DenseRows, sums: Sums, tap: Tap) -> Streamed:
    """The numbers chosen from the tokens of a tap, and what is judged of rows, by the names of readouts."""
    fold = np.full(len(dense.values), FOLDS)
    fold[dense.rows.fit] = folds(dense.rows, None, 0)
    held_out = range(FOLDS) if dense.activations.choose_on == "fit" else range(1)
    second = sums.second(dense) if sums.second_penalty else None
    parts = [part for part in ((dense, sums), second) if part is not None]
    blocks: list[dict[int, Moments]] = [{}, {}]
    for rows, x in dense.tokens(tap, fold < FOLDS):
        for (read, of), moments in zip(parts, blocks, strict=False):
            columns, origin = of.columns(read, rows), of.origin(read)
            for block in np.unique(fold[rows]).tolist():
                mask = read.known[rows] & (fold[rows] == block)[:, None]
                # Any token serves as the origin, as long as all share it.
                about = next(iter(moments.values())).origin_x if moments else x[0, 0]
                of_block = moments.setdefault(block, Moments(about, origin))
                of_block.update(x[mask], columns[mask] + origin)
    solved, *seconds = (
        of.solve_all(
            read,
            tap,
            {block: each for block, each in moments.items() if each.n},
            held_out,
            lambda block, rest: RidgePath.from_moments(rest),
        )
        for (read, of), moments in zip(parts, blocks, strict=False)
    )
    for numbers, fits in (each[tap.name] for each in seconds):
        solved[tap.name][0][sums.second_penalty] = numbers["penalty"]
        for block, readout in solved[tap.name][1].items():
            solved[tap.name][1][block] = sums.join(readout, fits.get(block, fits[None]))
    readouts = {name: fits for name, (_, fits) in solved.items()}
    tried: dict[str, list[list[JudgedRows]]] = {name: [[] for _ in fits[None].bias] for name, fits in readouts.items()}
    for block in (block for block in held_out if any(block in fits for fits in readouts.values())):
        without = {name: fits[block] for name, fits in readouts.items()}
        for name, rows, said in _predictions(dense, tap, fold == block, without):
            for i, judged in enumerate(tried[name]):
                judged.append((rows, sums.judge(dense, without[name], said[i], rows)))
    final, chosen = dict[str, TokenMap](), dict[str, list[JudgedRows]]()
    for name, each in tried.items():
        scores = [sums.score([of for _, of in judged]) for judged in each]
        best = len(scores) - 1 - int(np.argmax(scores[::-1]))
        solved[name][0].update({number: values[best] for number, values in sums.variants.items()})
        final[name], chosen[name] = readouts[name][None].at(best), each[best]
    for name, rows, said in _predictions(dense, tap, fold == FOLDS, final):
        chosen[name].append((rows, sums.judge(dense, final[name], said[0], rows)))
    return {name: numbers for name, (numbers, _) in solved.items()}, chosen


def join_taps(found: Iterable[Streamed]) -> Streamed:
    """The findings of `read_stored` at several taps, together."""
    each = list(found)
    return {k: v for numbers, _ in each for k, v in numbers.items()}, {k: v for _, of in each for k, v in of.items()}


def _predictions(
    dense: DenseRows, tap: Tap, wanted: np.ndarray, readouts: Mapping[str, TokenMap]
) -> Iterator[tuple[str, np.ndarray, Tensor]]:
    """The name of a readout, rows, and what each variant of it says of them, [variant, row, token, column]."""
    for rows, x in dense.tokens(tap, wanted):
        for name, readout in readouts.items():
            said = (x - readout.mean) @ readout.weights
            yield name, rows, torch.as_tensor(np.stack([said + bias for bias in readout.bias]))
