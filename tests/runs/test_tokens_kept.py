"""Which tokens a run keeps: none that nothing reads, of 64 samples for measures without a target, as many as fit for probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from diagnostics.activations.run_files import token_bytes
from diagnostics.activations.store import Store
from diagnostics.cli.commands import run as command
from diagnostics.errors import StorageError
from diagnostics.measures.locality.masks import LabelPropagation
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.runs.setup import read_tokens
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

N = 100
OPTIONS: dict[str, Any] = {"report": False, "controls": False}


def run(out: Path, measures: str, encoder: Any = None, data: Any = None, **options: Any) -> dx.Run:
    return dx.run(encoder or tiny_encoder(), data or tiny_dataset(N), out=out, measures=measures, **OPTIONS | options)


def test_tokens_that_nothing_reads_are_not_written_and_come_when_something_does(tmp_path: Path) -> None:
    costs: list[Any] = []
    pooled = run(tmp_path / "a", "linear_probe", watch=costs.append)
    assert pooled.disk_use[0] == 0 and pooled.store.token_samples == 0 and pooled.store.complete
    assert costs[0].token_bytes == costs[0].token_samples == 0 and "(no tokens)" in str(costs[0])
    with refusal("no-tokens", "tokens"):
        pooled.features("norm", tokens=True)
    both = run(tmp_path / "a", "self_similarity")
    assert both.features("norm", tokens=True).shape[0] == 64 == both.store.token_samples
    other = run(tmp_path / "b", "self_similarity,linear_probe")
    for name in ("self_similarity", "linear_probe/kind"):
        np.testing.assert_allclose(both.profile(name).data["score"], other.profile(name).data["score"], rtol=1e-5)
    again = run(tmp_path / "a", "linear_probe")
    assert again.disk_use[0] == both.disk_use[0], "kept, once written"


def test_a_dense_target_keeps_what_its_probe_needs(tmp_path: Path) -> None:
    data = tiny_dataset(N, "image")
    known = run(tmp_path / "a", "knn_probe", tiny_image_encoder(), data)
    assert known.disk_use[0] == 0, "the probe of a class reads no tokens"
    dense = run(tmp_path / "a", "linear_probe", tiny_image_encoder(), data)
    assert dense.store.token_samples == N == dense.profile("linear_probe/height").token_samples
    run(tmp_path / "b", "self_similarity")
    with refusal("other-run", "64 samples", "100 samples", kind=StorageError):
        run(tmp_path / "b", "attentive_probe")
    more = run(tmp_path / "c", "attentive_probe")
    assert more.store.token_samples == N == run(tmp_path / "c", "self_similarity").store.token_samples


def test_masks_of_still_images_keep_no_tokens_for_what_follows_a_video(tmp_path: Path) -> None:
    data = tiny_dataset(N, "image")
    maps = np.ones((N, 16, 16), np.int64)
    data.targets["masks"] = dx.Target("masks", maps)
    measures = [LabelPropagation(), LinearProbe()]
    assert not read_tokens(measures, data, "streamed")[0]
    data.targets["masks"] = dx.Target("masks", maps[:, None])
    assert read_tokens(measures, data, "streamed")[0]


def test_an_interrupted_run_without_tokens_goes_on(tmp_path: Path) -> None:
    seen: list[int] = []

    def stop(event: Any) -> None:
        if isinstance(event, dx.Progress) and event.step.startswith("extracting"):
            seen.append(event.done)
            if len(seen) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", "linear_probe", watch=stop)
    assert Store(tmp_path / "a").rows_done == seen[-2] or Store(tmp_path / "a").rows_done == seen[-1]
    whole = run(tmp_path / "a", "linear_probe", watch=stop)
    assert seen[3] > seen[2] - 16 and not whole.disk_use[0]
    np.testing.assert_array_equal(
        whole.profile("linear_probe/kind").data["score"],
        run(tmp_path / "b", "linear_probe").profile("linear_probe/kind").data["score"],
    )


def test_controls_of_weights_are_measured_by_probes_alone_unless_asked(tmp_path: Path) -> None:
    measures = "linear_probe,rankme,self_similarity"
    probes = run(tmp_path / "a", measures, controls=True)
    assert list(probes.controls["fresh_weights"].children) == ["linear_probe"]
    stores = {
        path.parent.name: token_bytes(Store(path.parent)) for path in (tmp_path / "a" / "controls").glob("*/zarr.json")
    }
    assert stores["fresh_weights"] == stores["permuted_weights"] == 0 < probes.disk_use[0]
    whole = run(tmp_path / "b", measures, controls=True, control_measures="all")
    assert set(whole.controls["fresh_weights"].children) == set(measures.split(","))
    assert token_bytes(Store(tmp_path / "b" / "controls" / "fresh_weights")) > 0
    assert set(whole.controls["raw_input"].children) == {"linear_probe"}
    with refusal("unknown-name", "some"):
        run(tmp_path / "c", measures, control_measures="some")
    assert "control_measures" in command.__wrapped__.__annotations__  # type: ignore[attr-defined]  (set by functools.wraps)
