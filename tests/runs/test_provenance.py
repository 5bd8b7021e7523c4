"""What a run records of itself: the same JSON as before, read back from old runs, with the packages that plugins declare."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import types
from pathlib import Path

import pytest

import diagnostics as dx
from diagnostics.errors import StorageError
from diagnostics.options import decode
from diagnostics.registry import plugins
from diagnostics.runs.results.record import Call, Provenance
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

# As formats 3 and 4 have it since their first run.
STORED = {
    "encoder": {
        "name": "a",
        "asked": "timm:a",
        "modality": "image",
        "output_tap": "norm",
        "lineage": {"seed": 1},
        "maker_names": {"norm": "forward_features"},
    },
    "dataset": {
        "name": "d",
        "asked": "digits",
        "about": "numerals",
        "fingerprint": "f",
        "n": {"train": 3, "val": 1, "test": 1},
        "groups": 5,
    },
    "seed": 0,
}


def test_the_stored_json_is_read_and_written_as_it_was() -> None:
    attrs = {**STORED, "identity": {"weights": "w"}, "complete": True}
    assert json.loads(json.dumps(decode(Provenance, attrs).to_attrs())) == STORED
    without = {key: value for key, value in STORED["encoder"].items() if key not in ("lineage", "maker_names")}
    encoder = decode(Provenance, {**attrs, "encoder": without}).encoder
    assert encoder.lineage == encoder.maker_names == {}


def test_a_run_records_what_was_asked_for(tmp_path: Path) -> None:
    data = tiny_dataset(30)
    run = dx.run(tiny_encoder(), data, out=tmp_path / "run", measures="rankme", controls=False, report=False, seed=3)
    record = run.record
    assert (record.encoder.name, record.encoder.asked, record.encoder.output_tap) == ("tiny", "", "norm")
    assert (record.dataset.fingerprint, record.dataset.n, record.seed) == (data.fingerprint, data.counts(), 3)
    assert [call.to_attrs() for call in run.calls] == list(run.index.calls)
    del run.store.attrs["dataset"]
    with refusal("damaged", kind=StorageError):
        _ = run.record


def test_versions_of_declared_packages_are_recorded_where_they_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = {name: module for plugin in plugins() for name, module in plugin.packages.items()}
    assert declared.keys() == {
        "timm",
        "transformers",
        "fracast",
        "chronos-forecasting",
        "tirex-ts",
        "mantis-tsfm",
        "timesfm",
        "momentfm",
        "uni2ts",
        "granite-tsfm",
        "onnxruntime",
        "open_clip_torch",
    }
    versions = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.2.3" if name == "chronos-forecasting" else versions(name)
    )
    monkeypatch.delitem(sys.modules, "chronos", raising=False)
    assert "chronos-forecasting" not in Call.now(0, {}).versions
    monkeypatch.setitem(sys.modules, "chronos", types.ModuleType("chronos"))
    assert Call.now(0, {}).versions["chronos-forecasting"] == "1.2.3"
