"""The draws of the study, as datasets of `diagnostics run`: `data.py:drawn?kind=scenes&draw=1`."""

from __future__ import annotations

import tomllib
from pathlib import Path

import diagnostics as dx

STUDY = tomllib.loads((Path(__file__).parent / "study.toml").read_text(encoding="utf-8"))
OPTIONS = {"scenes": "", "clips": "&frames=6", "views": "&views=2", "asked": "&words=1"}


def drawn(kind: str = "scenes", draw: int = 1, size: int = 112) -> dx.Dataset:
    """Rendered scenes that no other draw has, with a split of their own."""
    fit, test = (STUDY["data"][kind][part] for part in ("fit", "test"))
    seed = STUDY["first_seed"] + draw
    data = dx.build("dataset", f"shapes?n={fit + test}&size={size}&seed={seed}{OPTIONS[kind]}")
    split = list(
        dx.split_groups(data.ids, seed, (0.8 * fit / (fit + test), 0.2 * fit / (fit + test), test / (fit + test)))
    )
    keys = {task["key"].partition("/")[2] for task in STUDY["tasks"].values() if task["data"] == kind}
    return dx.Dataset(
        "shapes", data.modality, data.samples, list(data.ids), split,
        {name: target for name, target in data.targets.items() if name in keys},
        questions=data.questions if "questions" in keys else (), views=data.views,
        fingerprint=f"{data.fingerprint} six tasks {kind} {fit} {test}", exchangeable=True,
    )  # fmt: skip
