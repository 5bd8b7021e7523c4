"""Where a run lies by default: a short name, and another one for another run."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from diagnostics.runs.options import LONGEST, default_folder

VIT = "my_vit.py:model?modality=image&size=96&mean=0.5&std=0.25"


@pytest.mark.parametrize(
    ("encoder", "dataset", "folder"),
    [
        ("fracast", "lorenz", "fracast-lorenz"),
        ("fracast", "lorenz?n=40", "fracast-lorenz-n-40"),
        ("wheel:dinov2-small", "images:flowers", "wheel-dinov2-small-images-flowers"),
        ("/x/mine.py:build", "../y/data.py:build?n=3", "mine.py-build-data.py-build-n-3"),
        (VIT, "images:flowers?size=96", "my_vit.py-model-flowers-????????"),
        ("timm:vit_small_patch14_dinov2", "images:/data/flowers/", "vit_small-flowers-????????"),
        ("hf:models/" + "x" * 50, "d" * 200, "x" * 16 + "-" + "d" * 16 + "-????????"),
        ("hf:é", "?", "????????"),
    ],
)
def test_a_folder_is_short_and_says_what_was_run(encoder: str, dataset: str, folder: str) -> None:
    given = default_folder(encoder, dataset)
    start, ending, _ = folder.partition("????????")
    assert given.parent.name == "runs" and given.name.startswith(start)
    assert len(given.name) == len(folder) <= LONGEST + 2
    assert bool(ending) or given.name == folder


def test_what_differs_in_two_runs_gives_two_folders() -> None:
    encoders = [
        VIT,
        VIT.replace("96", "64"),
        VIT.replace("0.25", "0.2"),
        VIT.replace("model?", "other?"),
        VIT + "&rate=1",
    ]
    datasets = ["images:flowers?size=96", "images:flowers?size=64", "images:other/flowers?size=96", "images:flowers"]
    pairs = list(itertools.product(encoders, datasets))
    assert len({default_folder(*pair) for pair in pairs}) == len(pairs)
    # The same run, wherever its file is typed from.
    assert default_folder("./a/" + VIT, datasets[0]) == default_folder(VIT, datasets[0])


def test_it_is_asked_for_without_torch() -> None:
    asked = "import sys, diagnostics.runs.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
