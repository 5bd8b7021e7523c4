"""Profiles with given numbers, as a run would hold them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.measures.statistics import Interval
from diagnostics.runs.controls.kinds import NAMES
from diagnostics.runs.profile import Profile
from diagnostics.runs.provenance import DatasetRecord, EncoderRecord, Provenance


def profile(
    name: str, taps: list[str], value: Interval, others: dict[str, float], *, probe: bool, target: str
) -> Profile:
    """A profile with these numbers, as a run would hold it."""
    attrs = {
        "family": "dynamics", "pooling": "mean", "output_tap": taps[-1], "score_name": "R2", "higher_is_better": "yes", "measure": name,
        "units_val": 80,
    }  # fmt: skip
    if probe:
        for key in ("best_score", "hidden_gap"):
            attrs |= {key: value.value, f"{key}_low": value.low, f"{key}_high": value.high}
        attrs["best_tap"] = taps[0]
    each = {
        key: ("tap", [getattr(value, end)] * len(taps))
        for key, end in (("score", "value"), ("low", "low"), ("high", "high"))
    }
    losses = (("tap", "unit"), np.ones((len(taps), 80)))
    loss = {"loss": losses, "reference_loss": losses} if probe else {"line_noise": ("tap", [0.25] * len(taps))}
    data = xr.Dataset({**each, **loss, "depth": ("tap", np.linspace(0, 1, len(taps)))}, {"tap": taps}, attrs)
    known = {
        control: data.assign(score=("tap", [other] * len(taps))).assign_attrs({"best_score": other} if probe else {})
        for control, other in others.items()
    }
    return Profile(name, target or None, data, known)


def uneven_probes(targets: list[str], taps: list[str], readable: int | None = None) -> list[Profile]:
    """A linear probe of each target with every control, whose scores differ at each tap and have all digits, as of a run.

    The best tap, a third of the way in, hides what the output has not; of those after the first `readable` nothing is shown.
    """
    rng = np.random.default_rng(0)
    curve = np.sin(np.linspace(0.5, 3, len(taps)))
    best = taps[len(taps) // 3]
    probes: list[Profile] = []
    for i, target in enumerate(targets):
        made = profile(
            "linear_probe", taps, Interval(0.5, 0.4, 0.6), dict.fromkeys(NAMES, 0.1), probe=True, target=target
        )
        level = curve + 0.1 * rng.random(len(taps))
        score = {
            "score": ("tap", level),
            "low": ("tap", level - 0.1),
            "high": ("tap", level + 0.1),
            "val_score": ("tap", level),
        }
        unread = readable is not None and i >= readable
        attrs = {"best_tap": best, "pooling": "mean"} | ({"best_score_low": -0.1} if unread else {})
        controls = {
            name: data.assign(score=("tap", rng.random(len(taps))), **{k: v for k, v in score.items() if k != "score"})
            for name, data in made.controls.items()
        }
        probes.append(Profile(made.measure, made.target, made.data.assign(score).assign_attrs(attrs), controls))
    return probes


def finished_run(
    profiles: list[Profile], encoder: str, dataset: str, n: tuple[int, int, int] = (240, 80, 80), **others: Any
) -> Any:
    """What a page needs of a run with these profiles; `others` replace what is empty by itself."""
    sizes = dict(zip(("train", "val", "test"), n, strict=True))
    record = Provenance(EncoderRecord(encoder, "", "", ""), DatasetRecord(dataset, "", "", "", sizes, sum(n)), 0)
    call = {"seed": 0, "versions": {}, "options": {}, "created": "", "python": "", "machine": ""}
    empty = {
        "untrained": "",
        "skipped": {},
        "failed": {},
        "redrawn": {},
        "controls": {},
        "similarity": list,
        "recommendations": list,
        "handed_out": "",
        "disk_use": (0, 0),
    }
    return SimpleNamespace(
        **empty | others, path=Path("run"), profiles=lambda: profiles, encoder=encoder, dataset=dataset,
        n=sizes, record=record, store=SimpleNamespace(identity={}),
        index=SimpleNamespace(calls=[call], entries={}),
    )  # fmt: skip
