"""The cost said before a run is what the run then has on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diagnostics as dx
from diagnostics import Dataset, Grid, Tap
from diagnostics.activations.contract import StoredTarget
from diagnostics.activations.folder import Folder
from diagnostics.activations.plan import plan
from diagnostics.activations.run_files import token_bytes
from diagnostics.measures.probes import knn_votes, nearest
from diagnostics.measures.probes.linear import Task
from diagnostics.measures.probes.protocol import Rows
from diagnostics.progress import Cost
from diagnostics.runs.controls import kinds as control
from diagnostics.runs.controls.names import INPUTS
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

WITHIN = 0.1


def said_and_written(encoder: Any, dataset: Dataset, out: Path, **options: Any) -> tuple[Cost, int, int]:
    """The cost, and the bytes of the run and of its tokens afterwards."""
    events: list[Any] = []
    dx.run(encoder, dataset, out=out, watch=events.append, **options)
    (cost,) = (event for event in events if isinstance(event, Cost))
    return cost, Folder(out).size(), token_bytes(dx.open_run(out).store)


@pytest.mark.parametrize(
    ("modality", "n", "options"),
    [
        # 85 and 170 rows fill no whole number of shards of 64, and 18 tokens no whole number of chunks.
        ("image", 85, {"report": False, "measures": "rankme,cka"}),
        ("image", 170, {"measures": "linear_probe"}),
        ("image", 85, {"measures": "linear_probe", "dense": "streamed", "report": False}),
        ("image", 85, {"measures": "tap_set", "dense": "streamed", "report": False}),
        ("series", 200, {"measures": "cka", "report": False, "token_budget": "10MB"}),
    ],
)
def test_what_is_said_is_what_is_written(modality: Any, n: int, options: dict[str, Any], tmp_path: Path) -> None:
    encoder = tiny_image_encoder(width=256) if modality == "image" else tiny_encoder(width=256)
    cost, written, tokens = said_and_written(encoder, tiny_dataset(n, modality), tmp_path / "run", **options)
    assert cost.bytes == pytest.approx(written, rel=WITHIN)
    assert cost.token_bytes == pytest.approx(tokens, rel=0.02)


def test_what_grows_with_the_square_of_samples_or_features_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[tuple[str, int], str] = {}
    for measures, least in (("knn_probe", 0), ("knn_probe", 60), ("rankme", 0), ("tap_set", 0), ("tap_set", 60)):
        monkeypatch.setattr("diagnostics.runs.cost.LONG", least)
        events: list[Any] = []
        out = tmp_path / f"{measures}-{least}"
        dense = measures == "tap_set"
        of: Any = (tiny_image_encoder(), tiny_dataset(40, "image")) if dense else (tiny_encoder(), tiny_dataset(40))
        dx.run(*of, out=out, watch=events.append, measures=measures, report=False, controls=False)
        said[measures, least] = next(event for event in events if isinstance(event, Cost)).measuring
    assert [what for what, clause in said.items() if clause] == [("knn_probe", 0), ("tap_set", 0)]


def test_a_neighbours_probe_is_estimated_from_the_pairs_that_it_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, compared = np.random.default_rng(0), list[int]()

    def count(bank: Any, labels: Any, queries: Any, *rest: Any) -> np.ndarray:
        compared.append(len(bank) * len(queries))
        return knn_votes(bank, labels, queries, *rest)

    monkeypatch.setattr(nearest, "knn_votes", count)
    x, n = torch.tensor(rng.normal(size=(1, 120, 3))), {"train": 60, "val": 20, "test": 40}
    rows = Rows.of(dict(zip(n, np.split(np.arange(120), [60, 80]), strict=True)), np.arange(120).astype(str))
    for whole in (True, False):
        compared.clear()
        target = StoredTarget("kind", "label", np.arange(120) % 2, classes=("a", "b"))
        task, probe = Task(target, rows, target.values, 0, whole), nearest.KnnProbe()
        probe.fits(task, x, probe.choose(task, x).numbers)(x[:, rows.test])
        seconds = probe.seconds(*n.values(), 3, whole=whole)
        assert seconds == pytest.approx(sum(compared) * 3 / nearest.PRODUCTS_A_SECOND)


def test_shards_and_chunks_are_dealt_out_evenly() -> None:
    """Of 240 samples with 37 tokens at 14 taps, and at the width of PE-G, little is written but tokens."""
    encoder: Any = tiny_image_encoder()
    for n, tokens, features, taps in ((240, 36, 384, 14), (65, 256, 384, 14), (8, 1024, 1536, 50)):
        grid = Grid((tokens,), ("t",), prefix=1)
        planned = plan(
            encoder, [Tap(f"b.{i}", i / taps, "trunk", features, grid) for i in range(taps)], n, 10**12, "float32"
        )
        assert planned.token_samples == n
        assert planned.token_bytes < 1.04 * n * planned.token_bytes_per_sample


@pytest.mark.parametrize(("modality", "n"), [("image", 170), ("series", 170), ("series", 1100)])
def test_controls_without_the_encoder_are_as_large_as_planned(modality: Any, n: int) -> None:
    encoder = tiny_image_encoder() if modality == "image" else tiny_encoder()
    dataset = tiny_dataset(n, modality)
    makers = control.control_encoders(encoder, dataset, 0)
    for name in INPUTS:
        like, taps = control.plan_taps(name, encoder, dataset)
        made = makers[name]().sized_for(dataset[0])
        assert like.poolings == made.poolings
        assert [tap.grid.shape for tap in taps] == [tap.grid.shape for tap in made.taps]
        numbers, most = (sum(tap.tokens * tap.features for tap in some) for some in (made.taps, taps))
        assert 0.5 * most < numbers <= most


def test_classes_without_names_are_counted(tmp_path: Path) -> None:
    base = tiny_dataset(60, "image")
    numbers = np.random.default_rng(0).integers(0, 100, (60, 4, 4)).repeat(4, 1).repeat(4, 2)
    data = Dataset(
        "many", "image", base.samples, base.ids, list(base.split), {"thing": dx.Target("token_label", numbers)}
    )
    options = {"measures": "segmentation_probe", "dense": "streamed", "controls": False, "report": False}
    cost, written, _ = said_and_written(tiny_image_encoder(width=128), data, tmp_path / "run", **options)
    assert cost.bytes == pytest.approx(written, rel=WITHIN)


def test_of_samples_of_unequal_length_no_dense_target_is_said_to_be_read(tmp_path: Path) -> None:
    data = tiny_dataset(40, "image")
    data.ragged = True
    events = list[Any]()
    options: dict[str, Any] = {"measures": "linear_probe", "controls": False, "report": False}
    dx.run(tiny_image_encoder(), data, out=tmp_path / "run", watch=events.append, **options)
    (cost,) = (event for event in events if isinstance(event, Cost))
    assert not cost.dense


def test_dense_targets_that_are_read_later_cost_sums_of_controls_too(tmp_path: Path) -> None:
    encoder, data, out = tiny_image_encoder(width=128), tiny_dataset(40, "image"), tmp_path / "run"
    options: dict[str, Any] = {"dense": "streamed", "report": False}
    dx.run(encoder, data, out=out, measures="knn_probe", **options)
    before, events = Folder(out).size(), list[Any]()
    dx.run(encoder, data, out=out, measures="linear_probe", watch=events.append, **options)
    (cost,) = (event for event in events if isinstance(event, Cost))
    assert cost.bytes == pytest.approx(Folder(out).size() - before, rel=WITHIN)
