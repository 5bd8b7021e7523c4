"""The data of the study, as datasets of `diagnostics run`: `data.py:scenes?draw=301`, with the targets that are asked alone.

A draw is a data set of its own: three fifths of what is fitted and a fifth of it, beside as many test samples.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

import diagnostics as dx

SCENES = ("label", "count", "y", "x", "segmentation", "depth")
SERIES = ("hidden_z", "hidden_y", "rho", "log_switch", "x_future")


def split(data: dx.Dataset, draw: int, targets: dict[str, dx.Target]) -> dx.Dataset:
    """The same samples: half of them test, two fifths train and a tenth val."""
    return dx.Dataset(
        data.name, data.modality, data.samples, list(data.ids), dx.split_groups(list(data.ids), draw, (0.4, 0.1, 0.5)), targets,
        fingerprint=f"alignment {data.fingerprint} {draw} {','.join(targets)}", exchangeable=True,
    )  # fmt: skip


def chosen(data: dx.Dataset, names: Sequence[str]) -> dict[str, dx.Target]:
    """Some targets of a data set."""
    return {name: data.targets[name] for name in names}


@functools.cache
def scenes(draw: int = 301, n: int = 1000, size: int = 98, dense: int = 1) -> dx.Dataset:
    """Rendered scenes, with the colour of the main object; `dense=0` leaves the targets with a value a place out."""
    data = dx.build("dataset", f"shapes?n={n}&size={size}&seed={draw}")
    colours = [next(q.answer for q in each if q.name == "colour") for each in data.questions]
    known = sorted(set(colours))
    colour = dx.Target(
        "label", np.array([known.index(c) for c in colours]), classes=tuple(known), about="colour of the main object"
    )
    kept = chosen(data, SCENES if dense else SCENES[:4])
    return split(data, draw, {**kept, "colour": colour})


@functools.cache
def series(draw: int = 301, n: int = 1000, length: int = 128) -> dx.Dataset:
    """x(t) of Lorenz' system, and what is not observed of it."""
    data = dx.build("dataset", f"lorenz?n={n}&length={length}&seed={draw}")
    return split(data, draw, chosen(data, SERIES))
