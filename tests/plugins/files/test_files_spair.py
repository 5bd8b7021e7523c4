"""Folders in SPair-71k's layout: pairs as they were written, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diagnostics import Dataset
from diagnostics.specs import build
from tests.support.refusals import refusal

SETS = ("trn", "val", "test")


def write(root: Path, edit: Callable[[dict[str, Any]], None] = lambda entry: None) -> dict[str, dict[str, Any]]:
    """Two pairs of each set; `edit` changes the first of test. Returns what was written by the name of a pair."""
    rng, written = np.random.default_rng(0), dict[str, Any]()
    for name in SETS:
        names = list[str]()
        for i in range(2):
            category = ("cat", "dog")[i]
            sides = {which: f"{name}_{i}_{which}.jpg" for which in ("src", "trg")}
            entry: dict[str, Any] = {"category": category, "trg_bndbox": [2, 3, 22, 13]}
            for (which, file), (width, height) in zip(sides.items(), ((40, 30), (36, 24)), strict=True):
                at = root / "JPEGImages" / category / file
                at.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (height, width, 3)).astype(np.uint8)).save(at)
                points = (rng.random((3 + i, 2)) * (width, height)).round(1).tolist()
                entry |= {f"{which}_imname": file, f"{which}_imsize": [width, height, 3], f"{which}_kps": points}
            if (name, i) == ("test", 0):
                edit(entry)
            names.append(f"{i:06}-{name}_a-{name}_b:{category}")
            written[names[-1]] = entry
            at = root / "PairAnnotation" / name / f"{names[-1]}.json"
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(json.dumps(entry))
        at = root / "Layout" / "small" / f"{name}.txt"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text("\n".join(names) + "\n")
    return written


def spair(root: Path, options: str = "") -> Dataset:
    return build("dataset", f"spair:{root}{options}")


def test_pairs_are_those_that_were_written(tmp_path: Path) -> None:
    written = write(tmp_path)
    data = spair(tmp_path)
    assert data.ids == list(written)
    assert data.split.tolist() == ["train", "train", "val", "val", "test", "test"]
    assert data.groups.tolist()[4:] == ["cat test", "dog test"]
    for i, entry in enumerate(written.values()):
        assert (data[i].shape, np.asarray(data.views[i]).shape) == ((30, 40, 3), (24, 36, 3))
        first, *rows = data.targets["matches"].values[i]
        assert first.tolist() == [40, 30, 36, 24, 0]
        for row, source, target in zip(rows, entry["src_kps"], entry["trg_kps"], strict=False):
            assert row.tolist() == [*source, *target, 20]


@pytest.mark.parametrize(
    ("edit", "code", "named"),
    [
        (lambda entry: entry.pop("trg_kps"), "bad-data", "test_a"),
        (lambda entry: entry["src_kps"].pop(), "bad-data", "test_a"),
        (lambda entry: entry["src_kps"].__setitem__(0, [41, 2]), "bad-data", "test_0_src"),
        (lambda entry: entry.update(trg_bndbox=[2, 2, 2, 2]), "bad-data", "test_a"),
        (lambda entry: entry.update(src_imname="../x.jpg"), "strange-file", "x.jpg"),
        (lambda entry: entry.update(src_imname="gone.jpg"), "missing-file", "gone.jpg"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, edit: Any, code: Any, named: str) -> None:
    write(tmp_path, edit)
    with refusal(code, named):
        spair(tmp_path)


def test_another_layout_and_other_sizes_are_refused(tmp_path: Path) -> None:
    write(tmp_path, lambda entry: entry.update(src_imsize=[44, 30, 3]))
    with refusal("missing-file", "Layout/large"):
        spair(tmp_path, "?layout=large")
    with refusal("bad-data", "30 x 44"):
        spair(tmp_path)[4]
