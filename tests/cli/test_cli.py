"""The command line: what is shown, and every error a user can cause as one sentence that leaves nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import diagnostics
import diagnostics.activations.extract
import diagnostics.activations.folder
import diagnostics.activations.plan
import diagnostics.activations.run_files
import diagnostics.runs.inputs
import diagnostics.runs.job
import diagnostics.runs.pages.run
import diagnostics.runs.processes.workers
from diagnostics.activations.folder import Folder
from diagnostics.cli.encoders import _spread
from tests.support.commands import diagnose, refused
from tests.support.tiny import tiny_image_encoder

QUICK = ("--no-controls", "--measures", "rankme")
TOKENS = ("--token-budget", "10MB")
"""With which a run keeps the tokens of all samples, a shard of 50 in a step."""

# Encoders and datasets in a file of the user, as `mine.py:NAME`.
MINE = """
import numpy as np, torch
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder
from diagnostics import Dataset, DiagnosticsError


def build(seed: int = 0): return tiny_encoder(seed)
def images(): return tiny_image_encoder()
def data(n: int = 24, length: int = 32): return tiny_dataset(n, length=length)
def pictures(n: int = 24, side: int = 16): return tiny_dataset(n, "image", side=side)


def licensed():
    return tiny_encoder().replace(configuration="weights of mine 1.0, licence MIT [X11]", sized_for=None)


def raises(): raise RuntimeError("the weights\\nare lost")
def refuses(): raise DiagnosticsError("This encoder needs a licence: ask its makers.")


class NaNForLevelAbove(torch.nn.Module):
    "Gives NaN for the samples whose first value is above 50."
    def __init__(self, block): super().__init__(); self.block = block
    def forward(self, x):
        y = self.block(x)
        return torch.where((x.abs().amax((1, 2), keepdim=True) > 50), torch.nan, y)


def gives_nan():
    encoder = tiny_encoder()
    encoder.module.blocks[1] = NaNForLevelAbove(encoder.module.blocks[1])
    return encoder


def one_loud(at: int = 0):
    "The sample in row `at` of the store is a thousand times louder."
    from diagnostics.activations.plan import row_order
    data = tiny_dataset()
    data.samples[row_order(24)[at]] = 1000 * np.sign(data.samples[row_order(24)[at]])
    return data


def fails_in_forward():
    def forward(module, batch): raise RuntimeError("shapes (3) and (4)\\ndo not fit")
    return tiny_encoder(forward=forward)


def fails_in_preprocessing():
    def preprocess(sample): raise ValueError("no such\\nunit")
    return tiny_encoder().replace(preprocess=preprocess, sized_for=None)


def never_fires():
    return tiny_encoder(forward=lambda module, batch: module.stem(batch))


class Unreadable:
    def __init__(self, samples, at): self.samples, self.at = samples, at
    def __len__(self): return len(self.samples)
    def __getitem__(self, i):
        if i == self.at: raise OSError("file\\nis gone")
        return self.samples[i]


def unreadable(at: int = 0):
    data = tiny_dataset()
    return Dataset("mine", "series", Unreadable(data.samples, at), data.ids, data.split, data.targets, fingerprint="1")


def uneven():
    data = tiny_dataset()
    samples = [*data.samples[:-1], data.samples[-1][:20]]
    return Dataset("uneven", "series", samples, data.ids, data.split, data.targets)
"""


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder that is not there, and of which nothing may be there afterwards unless the test says so."""
    folder = tmp_path / "results" / "run"
    yield folder
    left = [path for path in folder.parent.glob("*") if not path.name.endswith(".lock")]
    assert all(path == folder for path in left), "something half-written lies beside the run"


@pytest.fixture
def mine(tmp_path: Path) -> Callable[[str], str]:
    """`mine("build?seed=3")` is the specification of a function in a file of the user."""
    path = tmp_path / "elsewhere" / "mine.py"
    path.parent.mkdir()
    path.write_text(MINE, encoding="utf-8")
    return lambda function: f"{path}:{function}"


# What is shown


@pytest.mark.smoke
def test_help_names_every_command() -> None:
    status, out, err = diagnose("--help")
    assert (status, err) == (0, "")
    assert all(f" {command} " in out for command in ("run", "report", "inspect", "list"))
    assert all(diagnose(command, "--help").status == 0 for command in ("run", "report", "inspect", "list"))


def test_version() -> None:
    assert diagnose("--version") == (0, f"{diagnostics.__version__}\n", "")


def test_without_a_command_help_is_shown() -> None:
    status, out, err = diagnose()
    assert status in (0, 2)
    assert "Commands" in out + err


@pytest.mark.smoke
def test_the_installed_command_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from diagnostics.cli.main import main; main()", "--version"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, diagnostics.__version__, "")


LISTED = {
    "encoders": {"fracast", "timm:"},
    "datasets": {"lorenz", "pendulum", "damped_oscillator", "arma", "changepoint", "digits", "motorcycle"},
    "measures": {"linear_probe", "knn_probe", "cka", "rankme", "participation_ratio", "self_similarity"},
    "plugins": {"data", "measures", "timeseries", "timm"},
}


@pytest.mark.parametrize("what", LISTED)
def test_list_shows_each_part(what: str) -> None:
    status, out, err = diagnose("list", what, "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert list(rows) == [what]
    assert {row["name"] for row in rows[what]} >= LISTED[what]
    status, out, err = diagnose("list", what)
    assert (status, err) == (0, "")
    assert all(name in out for name in LISTED[what])
    assert not any(f"{other}  " in out.splitlines()[0] for other in LISTED if other != what)


@pytest.mark.smoke
def test_list_shows_all_parts() -> None:
    result = json.loads(diagnose("list", "--json").out)
    assert list(result) == list(LISTED)
    assert next(row for row in result["datasets"] if row["name"] == "lorenz")["options"] == {
        "n": "400",
        "length": "512",
        "seed": "0",
    }
    assert [row["error"] for row in result["plugins"]] == [""] * len(result["plugins"])
    assert all(row["answers"] and row["source"] and row["needs"] for row in result["measures"])
    assert all(row["version"] and row["offers"] for row in result["plugins"])
    table = diagnose("list").out
    assert [name for names in LISTED.values() for name in names if name not in table] == []


def test_inspect_shows_taps_and_cost(mine: Callable[[str], str]) -> None:
    result = json.loads(diagnose("inspect", mine("images"), "--json").out)
    assert result["encoder"] == "tiny-image"
    assert result["modality"] == "image"
    assert result["output_tap"] == "norm"
    # stem 3*4*4*8+8, prefix 2*8, blocks 3*(8*16+16+16*8+8), norm 2*8
    assert result["parameters"] == 392 + 16 + 3 * 280 + 16
    assert [tap["name"] for tap in result["taps"]] == ["embed", "blocks.0", "blocks.1", "blocks.2", "norm"]
    assert [tap["depth"] for tap in result["taps"]] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert all((t["grid"], t["axes"], t["prefix"], t["features"]) == ([4, 4], ["y", "x"], 2, 8) for t in result["taps"])
    assert result["pooled_bytes_per_sample"] == 5 * 2 * 8 * 4
    assert result["token_bytes_per_sample"] == 5 * 18 * 8 * 4
    assert result["seconds_per_sample"] > 0
    encoder = tiny_image_encoder()
    entering = encoder.preprocess(encoder.example())
    assert result["input"]["mean"] == pytest.approx(float(entering.mean()), abs=1e-5)
    assert result["input"]["std"] == pytest.approx(float(entering.std(correction=0)), abs=1e-5)
    table = diagnose("inspect", mine("images")).out
    assert "first layer" in table
    assert "norm (output)" in table
    assert "4 x 4 (y, x) + 2 prefix" in table


@pytest.mark.parametrize(("mask", "expected"), [(torch.bool, {"mean": 2, "std": 1}), (torch.float32, None)])
def test_inspect_reads_what_enters_by_name_where_it_is_the_one_array_of_floats(
    mask: torch.dtype, expected: Any
) -> None:
    assert _spread({"values": torch.tensor([[1.0, 3.0]]), "mask": torch.ones(1, 2).to(mask)}) == expected


def test_inspect_prints_the_configuration_and_with_it_a_licence(mine: Callable[[str], str]) -> None:
    assert "\nConfiguration: weights of mine 1.0, licence MIT [X11].\n" in diagnose("inspect", mine("licensed")).out
    assert "Configuration" not in diagnose("inspect", mine("build")).out


def test_inspect_shows_no_grid_where_one_token_stands_for_the_sample() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    spec = "timm:test_vit?pretrained=false"
    grid = {
        tap["name"]: (tap["grid"], tap["prefix"]) for tap in json.loads(diagnose("inspect", spec, "--json").out)["taps"]
    }
    assert grid["pooled"] == grid["head"] == ([1], 0)
    lines = {line.split()[0]: line for line in diagnose("inspect", spec).out.splitlines() if line}
    for name in ("pooled", "head"):
        assert " 1 t " not in lines[name]
        assert " - " in lines[name]
    assert "10 x 10 (y, x) + 1 prefix" in lines["embed"]


def test_inspect_fits_the_grid_to_a_dataset(mine: Callable[[str], str]) -> None:
    result = json.loads(diagnose("inspect", mine("build"), "--data", mine("data?length=64"), "--json").out)
    assert {tuple(tap["grid"]) for tap in result["taps"]} == {(16,)}


def test_inspect_fracast() -> None:
    pytest.importorskip("fracast", reason="fracast is not installed")
    status, out, err = diagnose("inspect", "fracast", "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert [tap["name"] for tap in result["taps"]] == ["embed", *(f"block.{i}" for i in range(10)), "norm"]
    assert [tap["depth"] for tap in result["taps"]] == pytest.approx([*(i / 10 for i in range(11)), 1])
    assert {(tuple(tap["grid"]), tuple(tap["axes"]), tap["prefix"]) for tap in result["taps"]} == {((2048,), ("t",), 0)}
    assert [tap["read"] for tap in result["taps"][:2]] == ["before scale call 1 of 10", "after block call 1 of 10"]
    result = json.loads(diagnose("inspect", "fracast", "--data", "arma?n=12&length=40", "--json").out)
    assert {tuple(tap["grid"]) for tap in result["taps"]} == {(40,)}


@pytest.mark.smoke
def test_a_run_prints_one_json_object_and_writes_the_report(mine: Callable[[str], str], out: Path) -> None:
    status, printed, err = diagnose(
        "run",
        mine("build"),
        "--data",
        mine("data"),
        "--out",
        out,
        "--no-controls",
        "--json",
        "--measures",
        "linear_probe,rankme",
        "--taps",
        "embed",
    )
    assert status == 0
    assert len(printed.splitlines()) == 1
    # The cost; on a slow machine how far it is, too.
    assert [line.split()[0] for line in err.splitlines() if not line.startswith("measuring")] == ["tiny"]
    result = json.loads(printed)
    assert result["run"] == str(out)
    assert result["n"] == {"train": 14, "val": 5, "test": 5}
    assert {(p["measure"], p["target"]) for p in result["profiles"]} == {
        ("linear_probe", "kind"),
        ("linear_probe", "level"),
        ("rankme", None),
    }
    assert all(p["taps"] == ["embed", "norm"] for p in result["profiles"])
    level = next(p for p in result["profiles"] if p["target"] == "level")
    assert level["score"][0] > 0.8  # planted linearly in the input, and the embedding is linear
    assert (out / "report.html").stat().st_size > 100_000
    again = diagnose("report", out, "--json", "--out", out.parent / "run" / "other.html")
    assert again.status == 0
    assert json.loads(again.out)["report"] == str(out / "other.html")


# What is refused, before anything is written


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["run", "fracas", "--data", "lorenz"], "Unknown encoder 'fracas': did you mean fracast?"),
        (["inspect", "fracas"], "Unknown encoder 'fracas': did you mean fracast?"),
        (["inspect", "transformers:x"], "Unknown encoder 'transformers:x': plugin transformers offers hf: (as in 'hf:x')"),
        (["run", "{build}", "--data", "lorentz"], "Unknown dataset 'lorentz': did you mean lorenz?"),
        (["inspect", "{build}", "--data", "pendulm"], "Unknown dataset 'pendulm': did you mean pendulum?"),
        (["inspect", "{build}", "--data", "/"], "'/' is a path: put before it what it holds, one of "),
        (["run", "{build}", "--data", "{data}", "--taps", "norm,blok.1"], "Unknown tap 'blok.1': did you mean blocks.1"),
        # Those of a transformers model.
        (["run", "{build}", "--data", "{data}", "--measures", "tap_set", "--taps", "encoder.layer.3,encoder.layer.11"], "Unknown tap 'encoder.layer.3'"),
        (["run", "{build}", "--data", "{data}", "--measures", "ckaa"], "Unknown measure 'ckaa': did you mean cka or "),
        (["run", "{build}?sead=1", "--data", "{data}"], "Unknown option of this encoder 'sead': did you mean seed?"),
        (["run", "{build}", "--data", "{data}?lenght=3"], "option of this dataset 'lenght': did you mean length?"),
        (["run", "{build}?seed=two", "--data", "{data}"], "Option seed=two is not a whole number"),
        (["run", "{build}?seed", "--data", "{data}"], "cannot be read: write them as ?key=value&key=value."),
        (["run", "{build}", "--data", "{data}?n=24&seed"], "cannot be read: write them as ?key=value&key=value."),
        (["run", "{build}", "--data", "{data}", "--precision", "float61"], "Unknown precision 'float61': did you mean"),
        (["run", "{build}", "--data", "{data}", "--compute", "bf61"], "Unknown --compute 'bf61': did you mean bf16?"),
        (["run", "{build}", "--data", "{data}", "--compute", "tf32", "--device", "cpu"], "tf32 is for CUDA GPUs, not for"),
        (["run", "{build}", "--data", "{data}", "--attention", "flesh"], "attention kernel 'flesh': did you mean flash"),
        (["run", "{build}", "--data", "{data}", "--attention", "math"], "The pass of tiny never calls torch's scaled_dot"),
        (["list", "encoder"], "Unknown list 'encoder': did you mean encoders?"),
        (["run", "{build}", "--data", "{data}", "--batch-size", "0"], "Batch size 0 is below 1."),
        (["run", "{build}", "--data", "{data}", "--workers", "-1"], "The number of workers is -1: give 0 or more."),
        (["run", "{build}", "--data", "{data}", "--token-budget", "256"], "has no unit: give one, like 256MB"),
        (["run", "{build}", "--data", "{data}", "--token-budget", "nan"], "is not a size"),
        (["run", "{build}", "--data", "{data}", "--token-budget", "-1MB"], "is not a size"),
        (["run", "{build}", "--data", "{data}", "--device", "gpu"], "Device 'gpu' is not there"),
        (["run", "{build}", "--data", "{data}", "--device", ""], "Device '' is not there"),
        (["run", "{build}", "--data", "{data}", "--device", "cuda:99"], "Device 'cuda:99' is not there"),
        (["run", "{build}", "--data", "{data}", "--device", "meta"], "Device 'meta'"),
        (["inspect", "{build}", "--device", "gpu"], "Device 'gpu' is not there"),
        (["run", "{build}", "--data", "{pictures}"], "tiny reads series samples, but tiny-image holds image samples"),
        (["inspect", "{build}", "--data", "{pictures}"], "tiny reads series samples, but tiny-image holds image samples"),
        (["run", "{build}", "--data", "{data}?length=30"], "a series of 30 steps cannot be cut into patches of 4"),
        (["inspect", "{build}", "--data", "{data}?length=30"], "a series of 30 steps cannot be cut into patches of 4"),
        (["run", "{images}", "--data", "{pictures}?side=12"], "it has shape (12, 12, 3), not (16, 16, 3)"),
        (["inspect", "{images}", "--data", "{pictures}?side=12"], "it has shape (12, 12, 3), not (16, 16, 3)"),
        (["run", "{raises}", "--data", "{data}"], "mine.py failed to make the encoder: RuntimeError: the weights are"),
        (["inspect", "{refuses}"], "This encoder needs a licence: ask its makers."),
        (["run", "{absent}", "--data", "{data}"], "Unknown function in"),
        (["run", "absent.py:build", "--data", "{data}"], "There is no file absent.py"),
        (["run", "{fails_in_forward}", "--data", "{data}"], "RuntimeError: shapes (3) and (4) do not fit"),
        (["inspect", "{fails_in_forward}"], "RuntimeError: shapes (3) and (4) do not fit"),
        (["run", "{fails_in_preprocessing}", "--data", "{data}"], "ValueError: no such unit"),
        (["inspect", "{fails_in_preprocessing}"], "ValueError: no such unit"),
        (["run", "{never_fires}", "--data", "{data}"], "Tap embed of tiny expects module 'blocks.0' to run 1 time(s)"),
        (["inspect", "{never_fires}"], "Tap embed of tiny expects module 'blocks.0' to run 1 time(s)"),
        (["run", "{build}", "--data", "{unreadable}?at=0"], "OSError: file is gone"),
        (["run", "{build}", "--data", "{unreadable}?at=5"], "Sample s5 of mine cannot be prepared for tiny: OSError: file"),
        (["run", "{build}", "--data", "{uneven}"], "Sample s23: it has shape (20,), not (32,)."),
        (["run", "{gives_nan}", "--data", "{one_loud}?at=3"], "tiny gives NaN or infinity at tap blocks.1 for sample s"),
        (["run", "{gives_nan}", "--data", "{one_loud}?at=23"], "tiny gives NaN or infinity at tap blocks.1 for sample s"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_is_refused_in_a_sentence_and_leaves_nothing(
    mine: Callable[[str], str], out: Path, args: list[str], sentence: str
) -> None:
    known = [word.removeprefix("def ").partition("(")[0] for word in MINE.splitlines() if word.startswith("def ")]
    names = {name: mine(name) for name in [*known, "absent"]}
    full = [arg.format(**names) for arg in args]
    assert sentence in refused(*full, *(["--out", str(out)] if args[0] == "run" else []))
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "inner"),
    [
        (["run", "{fails_in_forward}", "--data", "{data}"], "raise RuntimeError"),
        (["inspect", "{fails_in_forward}"], "raise RuntimeError"),
        (["run", "{raises}", "--data", "{data}"], "def raises(): raise RuntimeError"),
        (["run", "{build}", "--data", "{unreadable}?at=5"], "in __getitem__"),
        (["run", "{build}", "--data", "{unreadable}?at=5", "--workers", "1"], "in __getitem__"),
    ],
)
def test_an_error_of_others_names_the_option_that_shows_where_it_was_raised(
    mine: Callable[[str], str], out: Path, args: list[str], inner: str
) -> None:
    names = {name: mine(name) for name in ("fails_in_forward", "raises", "build", "data", "unreadable")}
    full = [arg.format(**names) for arg in args] + (["--out", str(out)] if args[0] == "run" else [])
    assert refused(*full).endswith("; `diagnostics --traceback ...` shows where.")
    shown = diagnose("--traceback", *full)
    assert (shown.status, shown.out) == (2, "")
    assert inner in shown.err
    assert "mine.py" in shown.err
    assert shown.err.splitlines()[-1].startswith("diagnostics: ")
    assert "--traceback" not in shown.err.splitlines()[-1]


@pytest.mark.parametrize("encoder", ["refuses", "never_fires"])
def test_a_sentence_made_for_the_user_names_no_traceback(mine: Callable[[str], str], encoder: str) -> None:
    assert "--traceback" not in refused("inspect", mine(encoder))
    assert "Traceback" in diagnose("--traceback", "inspect", mine(encoder)).err


@pytest.mark.parametrize("at", [3, 23])
def test_the_sample_that_gives_nan_is_named(mine: Callable[[str], str], out: Path, at: int) -> None:
    sentence = refused("run", mine("gives_nan"), "--data", mine(f"one_loud?at={at}"), "--out", out, "--batch-size", 4)
    assert f"for sample s{diagnostics.activations.plan.row_order(24)[at]}:" in sentence
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "near"),
    [(["run", "fracast", "--dat", "lorenz"], "--data"), (["lst"], "list"), (["run", "fracast"], "--data")],
)
def test_a_mistyped_command_line_is_refused_with_what_is_near(args: list[str], near: str) -> None:
    status, out, err = diagnose(*args)
    assert (status, out) == (2, "")
    assert near in err
    assert "Traceback" not in err


def test_a_number_that_is_none_is_refused(mine: Callable[[str], str], out: Path) -> None:
    status, printed, err = diagnose("run", mine("build"), "--data", mine("data"), "--out", out, "--batch-size", "many")
    assert (status, printed) == (2, "")
    assert "Invalid value for '--batch-size'" in err
    assert not out.exists()


def test_a_series_beyond_fracasts_context_is_refused(out: Path) -> None:
    pytest.importorskip("fracast", reason="fracast is not installed")
    sentence = refused("run", "fracast", "--data", "arma?n=10&length=2049", "--out", out)
    assert "2049 steps exceeds Fracast's context of 2048" in sentence
    assert not out.exists()


def test_an_image_size_that_timm_cannot_cut_is_refused(out: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    sentence = refused("run", "timm:test_vit?pretrained=false&img_size=33", "--data", "digits?n=30", "--out", out)
    assert "33" in sentence
    assert not out.exists()


def test_weights_that_cannot_be_fetched_offline_are_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Path
) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    from huggingface_hub import constants

    # Nobody listens there, so that the test is the same with and without a network.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    sentence = refused("run", "timm:test_vit.r160_in1k", "--data", "digits?n=30", "--out", out)
    assert "Pretrained weights of timm:test_vit.r160_in1k cannot be fetched" in sentence
    assert "?checkpoint=" in sentence
    assert "?pretrained=false" in sentence
    assert not out.exists()


# Folders that are not runs, or cannot become one


def test_what_is_not_a_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    assert "notes.txt is not a run" in refused("report", file)
    assert "is not a run" in refused("report", file / "below")
    assert file.read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty is not a run" in refused("report", empty)
    absent = tmp_path / "absent"
    assert "absent is not a run" in refused("report", absent)
    assert not absent.exists()
    assert list(empty.iterdir()) == []


def test_a_zarr_group_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    import zarr

    zarr.open_group(tmp_path / "other.zarr", mode="w", zarr_format=3)
    assert "not a run of this version" in refused("report", tmp_path / "other.zarr")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_run_into_what_is_not_a_run_is_refused(mine: Callable[[str], str], tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    held = target / "thesis.tex" if kind == "folder" else target
    held.parent.mkdir(exist_ok=True)
    held.write_text("precious")
    sentence = refused("run", mine("build"), "--data", mine("data"), "--out", target, *QUICK)
    assert "target is not a run, so nothing is written there: choose another --out." in sentence
    assert held.read_text() == "precious"
    assert sorted(path.name for path in target.glob("*")) == (["thesis.tex"] if kind == "folder" else [])


def test_a_folder_below_a_file_cannot_be_written(mine: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for below in ("file/run", "file/deeper/run"):
        sentence = refused("run", mine("build"), "--data", mine("data"), "--out", tmp_path / below, *QUICK)
        assert f"{below} cannot be written (" in sentence
        assert "choose another folder with --out" in sentence
    assert (tmp_path / "file").read_text() == "mine"


def denied(*_: Any, **__: Any) -> Any:
    raise PermissionError(errno.EACCES, "Permission denied")


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["make the folder", "make the store", "rename the store"])
def test_a_folder_without_permission_cannot_be_written(
    mine: Callable[[str], str], out: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "make the folder":
        monkeypatch.setattr("filelock.FileLock.acquire", denied)
    elif place == "make the store":
        monkeypatch.setattr(diagnostics.activations.extract, "_write_samples", denied)
    else:
        monkeypatch.setattr(os, "rename", denied)
    sentence = refused("run", mine("build"), "--data", mine("data"), "--out", out, *QUICK)
    assert "run cannot be written (Permission denied): choose another folder with --out." in sentence
    assert not out.exists()


def test_a_report_that_cannot_be_written_is_told(mine: Callable[[str], str], out: Path, tmp_path: Path) -> None:
    assert diagnose("run", mine("build"), "--data", mine("data"), "--out", out, *QUICK).status == 0
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "no folder"):
        assert f"There is no folder {folder} for report.html: make it" in refused(
            "report", out, "--out", folder / "report.html"
        )


# No space


def test_a_disk_with_too_little_room_is_told_before_the_first_byte(
    mine: Callable[[str], str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(out.parent.parent)
    monkeypatch.setattr(diagnostics.activations.folder.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    sentence = refused("run", mine("build"), "--data", mine("data"), "--out", out, *QUICK)
    assert " free and the run needs" in sentence
    assert "--token-budget" in sentence
    assert not out.exists()


def test_no_space_for_the_store_leaves_nothing(
    mine: Callable[[str], str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics.activations.extract, "_create_arrays", full)
    sentence = refused("run", mine("build"), "--data", mine("data"), "--out", out, *QUICK)
    assert "No space left for" in sentence
    assert not out.exists()


def in_the_store(monkeypatch: pytest.MonkeyPatch, error: Callable[..., Any], after: int) -> None:
    """Of the shards that are written from now on, all but the first `after` fail."""
    real, calls = Folder.put, [0]

    def put(self: Folder, name: str, data: Any, length: int | None = None, **options: Any) -> None:
        calls[0] += length is not None
        return error() if calls[0] > after else real(self, name, data, length, **options)

    monkeypatch.setattr(Folder, "put", put)


def test_no_space_in_a_shard_says_how_to_go_on_and_the_same_command_then_finishes(
    mine: Callable[[str], str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("run", mine("build"), "--data", mine("data?n=150"), "--out", out, *QUICK, *TOKENS, "--json")
    with monkeypatch.context() as disk:
        in_the_store(disk, full, after=7)  # tokens of five taps: in the second of three steps
        sentence = refused(*command)
    assert "after 50 of 150 samples" in sentence
    assert "give the same command again: it resumes from there" in sentence
    assert "interrupted after 50 of 150 samples" in refused("report", out)
    assert json.loads(diagnose(*command).out)["n"] == {"train": 90, "val": 30, "test": 30}


@pytest.mark.parametrize("error", [full, denied])
@pytest.mark.parametrize("place", ["results", "numbers", "report"])
def test_no_space_after_the_extraction_is_told_and_the_same_command_then_finishes(
    mine: Callable[[str], str], out: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Callable[..., Any]
) -> None:
    put = Folder.put
    command = ["run", mine("build"), "--data", mine("data"), "--out", out, "--json", *QUICK]
    with monkeypatch.context() as disk:
        file = {"report": "report.html", "results": "results.json", "numbers": "numbers"}[place]
        disk.setattr(
            Folder,
            "put",
            lambda self, name, *rest, **options: error() if name.endswith(file) else put(self, name, *rest, **options),
        )
        sentence = refused(*command)
    assert ("No space left for" if error is full else "cannot be written (Permission denied)") in sentence
    assert diagnose(*command).status == 0
    assert not list(out.rglob("*.partial"))


def test_what_broke_is_told_last_and_by_the_exit_status(
    mine: Callable[[str], str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["run", mine("build"), "--data", mine("data"), "--out", out, "--no-controls", "--measures"]
    with monkeypatch.context() as broken:
        broken.setattr("diagnostics.measures.geometry.spectrum.RankMe.compute", interrupted_by(RuntimeError("broken")))
        for form in ([], ["--json"]):
            status, printed, err = diagnose(*command, "rankme,participation_ratio", *form)
            assert status == 1
            assert (err if form else printed).splitlines()[
                -1
            ] == "Failed, and left out: rankme; all other results are kept."
            assert "participation_ratio" in printed
            assert "RuntimeError: broken" in " ".join(printed.split())
    # Another measure of the same run did not break.
    assert diagnose(*command, "participation_ratio").status == 0
    assert diagnose(*command, "rankme").status == 0
    assert json.loads(diagnose(*command, "rankme", "--json").out)["skipped"] == {}


def interrupted_by(error: Exception) -> Callable[..., Any]:
    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


# Ctrl-C


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def after(monkeypatch: pytest.MonkeyPatch, holder: Any, name: str, calls: int) -> list[int]:
    """The function runs `calls` times and then meets Ctrl-C; the list counts its calls."""
    real, count = getattr(holder, name), [0]

    def function(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        return interrupted() if count[0] > calls else real(*args, **kwargs)

    monkeypatch.setattr(holder, name, function)
    return count


@pytest.mark.parametrize(
    ("holder", "name", "calls"),
    [
        (diagnostics.activations.extract, "capture_rows", 6),
        (diagnostics.runs.processes.workers, "measure_all", 0),
        (diagnostics.runs.job, "merge_results", 0),
        (diagnostics.runs.pages.run, "write_page", 0),
    ],
    ids=["extraction", "measures", "results", "report"],
)
def test_ctrl_c_says_how_to_go_on_and_the_same_command_then_finishes(
    mine: Callable[[str], str], out: Path, monkeypatch: pytest.MonkeyPatch, holder: Any, name: str, calls: int
) -> None:
    def command(folder: Path) -> list[object]:
        return ["run", mine("build"), "--data", mine("data?n=150"), "--out", folder, *QUICK, *TOKENS, "--json"]

    with monkeypatch.context() as keys:
        after(keys, holder, name, calls)
        status, printed, err = diagnose(*command(out))
    assert status == 130
    assert printed == ""
    assert "Traceback" not in err
    sentence = [line for line in err.splitlines() if line.startswith("diagnostics: ")]
    assert len(sentence) == 1
    assert str(out) in sentence[0]
    assert "give the same command again to continue" in sentence[0]
    with monkeypatch.context() as watched:
        # Three steps of 50 rows are 4 + 4 + 4 batches of at most 16: one was done after 6.
        count = after(watched, diagnostics.activations.extract, "capture_rows", 1000)
        status, printed, err = diagnose(*command(out))
        assert status == 0, err
        assert count == [8 if name == "capture_rows" else 0]
    undisturbed = json.loads(diagnose(*command(out.parent / "run.other")).out)
    shutil.rmtree(out.parent / "run.other")
    result = json.loads(printed)
    assert [result[key] for key in ("n", "profiles", "similarity")] == [
        undisturbed[key] for key in ("n", "profiles", "similarity")
    ]


def test_ctrl_c_in_a_control_says_how_to_go_on(
    mine: Callable[[str], str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("run", mine("build"), "--data", mine("data"), "--out", out, "--measures", "knn_probe", "--json")
    with monkeypatch.context() as keys:
        after(
            keys, diagnostics.activations.extract, "capture_rows", 3
        )  # two batches of the encoder, the second of its first control
        status, printed, err = diagnose(*command)
    assert (status, printed) == (130, "")
    assert "give the same command again to continue" in err
    with monkeypatch.context() as watched:
        count = after(watched, diagnostics.activations.extract, "capture_rows", 1000)
        assert diagnose(*command).status == 0
        assert count == [7]  # the four controls of two batches, but for the one that was done


def test_ctrl_c_before_anything_is_done_leaves_nothing(
    mine: Callable[[str], str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics.runs.inputs, "build", interrupted)
    status, printed, err = diagnose("run", mine("build"), "--data", mine("data"), "--out", out)
    assert (status, printed) == (130, "")
    assert "Interrupted" in err
    assert not out.exists()


# Another run in the same folder


def test_a_run_of_something_else_in_the_same_folder_is_refused_with_the_difference(
    mine: Callable[[str], str], out: Path
) -> None:
    assert diagnose("run", mine("build"), "--data", mine("data"), "--out", out, *QUICK).status == 0
    before = sorted(path.stat().st_mtime_ns for path in out.rglob("*"))
    sentence = refused("run", mine("build?seed=1"), "--data", mine("data"), "--out", out, *QUICK)
    assert "holds other activations, its weights differ, the numbers in the model have changed: choose" in sentence
    sentence = refused("run", mine("build"), "--data", mine("data?n=30"), "--out", out, *QUICK)
    assert "its dataset differs, 6 of 30 samples are in one only, for example s24" in sentence
    assert sorted(path.stat().st_mtime_ns for path in out.rglob("*")) == before
