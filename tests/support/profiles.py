"""Profiles with given numbers, as a run would hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.measures.result import store_interval
from diagnostics.measures.statistics import Interval
from diagnostics.runs.controls.names import NAMES
from diagnostics.runs.results.profile import Profile
from diagnostics.runs.results.record import DatasetRecord, EncoderRecord, Provenance


def profile(
    name: str, taps: list[str], value: Interval, others: dict[str, float], *, probe: bool, target: str
) -> Profile:
    """A profile with these numbers at every tap, as a run would hold it; of a probe the first tap is chosen, and they are its gap too."""
    attrs = {
        "family": "dynamics",
        "pooling": "mean",
        "output_tap": taps[-1],
        "score_name": "R2",
        "losses": "squares",
        "chance": 0.0,
        "higher_is_better": "yes",
        "measure": name,
        "readout": {"linear_probe": "linear", "kernel_probe": "kernel"}.get(name, ""),
        "units_val": 80,
    }
    if probe:
        attrs |= store_interval("hidden_gap", value)
        attrs |= {"chosen_tap": taps[0], "best_tap": taps[0], "tap_set": [taps[0]], "gap_bound": value.high}
    each = {
        key: ("tap", [getattr(value, end)] * len(taps))
        for key, end in (("score", "value"), ("low", "low"), ("high", "high"), ("val_score", "value"))
    }
    losses = (("tap", "unit"), np.ones((len(taps), 80)))
    loss = {"loss": losses, "reference_loss": losses} if probe else {"line_noise": ("tap", [0.25] * len(taps))}
    data = xr.Dataset({**each, **loss, "depth": ("tap", np.linspace(0, 1, len(taps)))}, {"tap": taps}, attrs)
    known = {control: data.assign(score=("tap", [other] * len(taps))) for control, other in others.items()}
    return Profile(name, target or None, data, known)


def planted(
    target: str,
    *,
    gap: float,
    bound: float | None = None,
    score: float = 0.6,
    width: float = 0.05,
    chosen: str = "blocks.0",
    units: tuple[int, int] = (320, 80),
    controls: Mapping[str, tuple[float, ...]] | None = None,
    name: str = "linear_probe",
    **attrs: Any,
) -> Profile:
    """A linear probe at `blocks.0`, `blocks.1` and the output `norm`, whose best tap other than the output is `blocks.0`.

    Parameters
    ----------
    gap: of `blocks.0`, with ends `width` away. bound: the largest upper end of all gaps; without it that of this gap.
    score: at `blocks.0`; the output has it less the gap, both with the same width.
    chosen: the tap to use.
    units: of train and val, and of test.
    controls: their scores, each with the lower end of what the chosen tap beats it by, and the upper one (.2 above where it is not given).
    attrs: further attributes, or others than these; None for none.
    """
    made = profile(name, ["blocks.0", "blocks.1", "norm"], Interval(score, score, score), {}, probe=True, target=target)
    values = np.array([score, score - 2 * abs(gap), score - gap])
    train, test = units
    losses = (("tap", "unit"), np.ones((3, test)))
    data = made.data.drop_vars(("loss", "reference_loss")).assign(
        score=("tap", values),
        low=("tap", values - width),
        high=("tap", values + width),
        val_score=("tap", values),
        loss=losses,
        reference_loss=losses,
    )
    interval = Interval(gap, gap - width, gap + width)
    stated = {
        **store_interval("hidden_gap", interval),
        "gap_bound": interval.high if bound is None else bound,
        "chosen_tap": chosen,
        "tap_set": [chosen],
        **{f"{of}_train": train - train // 4 for of in ("n", "units")},
        **{f"{of}_val": train // 4 for of in ("n", "units")},
    }
    known: dict[str, xr.Dataset] = {}
    for control, (reached, low, *high) in (controls or {}).items():
        most = high[0] if high else low + 0.2
        stated |= store_interval(f"over_{control}", Interval((low + most) / 2, low, most))
        known[control] = data.assign(score=("tap", [reached] * 3)).assign_attrs(chosen_tap=chosen)
    data.attrs = {key: value for key, value in (data.attrs | stated | attrs).items() if value is not None}
    return Profile.of(name, target, data, known)


def uneven_probes(targets: list[str], taps: list[str], readable: int | None = None) -> list[Profile]:
    """A linear probe of each target with every control, whose scores differ at each tap and have all digits, as of a run.

    The tap chosen, a third of the way in, holds what the output hides; those after the first `readable` are at chance.
    """
    rng = np.random.default_rng(0)
    curve = np.sin(np.linspace(0.5, 3, len(taps)))
    best = taps[len(taps) // 3]
    probes: list[Profile] = []
    for i, target in enumerate(targets):
        made = profile(
            "linear_probe", taps, Interval(0.5, 0.4, 0.6), dict.fromkeys(NAMES, 0.1), probe=True, target=target
        )
        level = 0.1 * rng.random(len(taps)) + (curve if readable is None or i < readable else -0.2)
        score = {
            "score": ("tap", level),
            "low": ("tap", level - 0.1),
            "high": ("tap", level + 0.1),
            "val_score": ("tap", level),
        }
        attrs = {"chosen_tap": best, "best_tap": best, "tap_set": [best], "pooling": "mean"}
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
        "disk_use": (0, 0),
    }
    return SimpleNamespace(
        **empty | others,
        path=Path("run"),
        profiles=lambda: profiles,
        encoder_name=encoder,
        dataset=dataset,
        n=sizes,
        record=record,
        store=SimpleNamespace(identity={}, older=False, taps=[SimpleNamespace(name="norm")], output_tap="norm"),
        index=SimpleNamespace(calls=[call], entries={}),
    )
