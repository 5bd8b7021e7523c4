"""Launches of streamed targets, executors and `--exact` in a bucket: as on a shared disk."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import diagnostics as dx
from diagnostics.activations.bucket import Bucket
from diagnostics.activations.metadata import STREAMED
from diagnostics.activations.parts import Launch
from diagnostics.activations.place import Address, locate
from diagnostics.activations.store import Store
from diagnostics.runs.extraction import extract_parts
from diagnostics.runs.options import Request
from diagnostics.runs.processes import workers
from tests.runs.test_executors import Posts
from tests.runs.test_token_probes import images
from tests.support.buckets import Server, serving
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

MINE = """
from tests.runs.test_bucket_launches import few
from tests.support.tiny import tiny_image_encoder

def build():
    return tiny_image_encoder()
"""
STREAMS: dict[str, Any] = {
    "measures": ["linear_probe", "self_similarity"],
    "dense": "streamed",
    "token_budget": "40kB",
    "taps": "blocks.1",
    "controls": False,
    "choose_on": "val",
}


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with pytest.MonkeyPatch.context() as patch, serving(patch) as server:
        yield server


@pytest.fixture(autouse=True)
def local_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))


def few() -> dx.Dataset:
    return data(60)


def data(n: int = 264) -> dx.Dataset:
    made = images(n)
    for name in set(made.targets) - {"height"}:
        del made.targets[name]
    return made


def found(run: dx.Run) -> dict[str, Any]:
    values = run.to_json()
    return json.loads(json.dumps({key: values[key] for key in ("profiles", "recommendations", "n")}, default=str))


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds on a disk."""
    out = tmp_path_factory.mktemp("streamed") / "run"
    return found(dx.run(tiny_image_encoder(), data(), out=out, report=False, watch=dx.silent, **STREAMS))


@pytest.mark.slow
def test_launches_of_streamed_targets_give_the_numbers_of_one_process(streamed: dict[str, Any]) -> None:
    out = "s3://bkt/streamed"

    def launched(part: str) -> dict[str, Any]:
        request = Request(encoder=tiny_image_encoder(), dataset=data(), out=locate(out), **STREAMS)
        return extract_parts(request, Launch.of(part), dx.silent)["tiny-image"]

    assert launched("2/2") == {"parts": 8, "missing": [1, 3, 5, 7], "unjudged": [*range(1, 9)]}
    assert launched("1/2") == {"parts": 8, "missing": [], "unjudged": [2, 4, 6, 8]}
    assert launched("2/2")["unjudged"] == []
    run = dx.run(tiny_image_encoder(), data(), out=out, report=False, watch=dx.silent, **STREAMS)
    assert found(run) == streamed
    assert not [name for name in Bucket(Address(out)).list() if re.match(rf"{STREAMED}\b", name)]


def test_an_executor_does_passes_sums_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORTH", 0.0)
    (file := tmp_path / "mine.py").write_text(MINE)
    encoder, dataset, options = f"{file}:build", f"{file}:few", STREAMS | {"report": False, "watch": dx.silent}
    executor = Posts()
    run = dx.run(encoder, dataset, out="s3://bkt/executor", executor=executor, **options)
    assert found(run) == found(dx.run(encoder, dataset, out=tmp_path / "run", **options))
    assert len({*executor.sent}) > 1, executor.sent


def test_with_exact_parts_computed_in_two_ways_are_refused() -> None:
    options: dict[str, Any] = {"measures": ["rankme"], "controls": False}
    out = locate("s3://bkt/exact")

    def launched(part: str, **more: Any) -> None:
        request = Request(encoder=tiny_encoder(blocks=1), dataset=tiny_dataset(264), out=out, **options | more)
        extract_parts(request, Launch.of(part), dx.silent)

    launched("1/2", batch_size=16)
    with refusal("irreproducible", "--exact"):
        launched("2/2", batch_size=8, exact=True)
    assert Store(out).missing_parts == [1, 3, 5, 7]
    launched("2/2", batch_size=16, exact=True)
    assert Store(out).missing_parts == []
