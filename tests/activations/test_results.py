"""Results of several calls in one folder: merged by measure and control, replaced whole, checked on reading."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import diagnostics as dx
from diagnostics import Dataset, DiagnosticsError, Run, Target
from diagnostics.activations.folder import Folder
from diagnostics.activations.metadata import digest, seal, unseal
from diagnostics.activations.run_files import ENCODER, files_of_run, merge_results, read_index, read_results
from diagnostics.activations.store import Store
from diagnostics.errors import StorageError
from diagnostics.measures.base import Measure
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.progress import Cost
from diagnostics.runs import job, setup
from tests.support.commands import diagnose, refused
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

QUICK: dict[str, Any] = {"taps": ["blocks.1"]}
WEIGHTS = {"fresh_weights", "permuted_weights"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two measures with controls."""
    path = tmp_path_factory.mktemp("first") / "run"
    dx.run(tiny_encoder(), tiny_dataset(40), out=path, measures="linear_probe,rankme", report=False, **QUICK)
    return path


@pytest.fixture
def path(first: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(first, tmp_path / "run"))


def again(path: Path, measures: str, **options: Any) -> Run:
    settings = {"report": False, **QUICK, **options}
    return dx.run(tiny_encoder(), tiny_dataset(40), out=path, measures=measures, **settings)


def findings(run: Run) -> dict[str, Any]:
    """All numbers of a run by profile."""
    return {f"{p['measure']}/{p['target']}": p for p in run.to_json()["profiles"]}


# What is named is replaced, the rest stays


def test_a_second_call_adds_its_measure_and_keeps_the_first_ones(path: Path) -> None:
    before = findings(dx.open_run(path))
    run = again(path, "participation_ratio", controls=False)
    after = findings(run)
    assert set(after) == set(before) | {"participation_ratio/None"}
    assert {key: after[key] for key in before} == before, "controls and margins too"
    assert set(run.controls) == WEIGHTS | {"raw_input", "summary_statistics", "shuffled_labels"}
    page = run.report().read_text(encoding="utf-8")
    assert all(name in page for name in ("linear_probe", "rankme", "participation_ratio"))
    # In the order in which measures are listed, whichever call gave them.
    assert [p.measure for p in run.profiles()][-2:] == ["rankme", "participation_ratio"]


def test_measured_without_controls_the_controls_of_before_are_still_beaten_or_not(path: Path) -> None:
    before = findings(dx.open_run(path))["linear_probe/level"]
    after = findings(again(path, "linear_probe", controls=False))["linear_probe/level"]
    assert set(before["over_controls"]) >= WEIGHTS
    assert after["over_controls"] == before["over_controls"]


def test_a_measure_that_no_longer_gives_anything_goes_with_its_reason(path: Path, monkeypatch: Any) -> None:
    def nothing(*_: Any) -> Any:
        raise DiagnosticsError("no value today.")

    monkeypatch.setattr("diagnostics.measures.geometry.spectrum.RankMe.compute", nothing)
    run = again(path, "rankme,participation_ratio", controls=False)
    assert "rankme" not in [p.measure for p in run.profiles()]
    assert run.skipped["rankme"] == "no value today."
    monkeypatch.undo()
    run = again(path, "rankme", controls=False)
    assert "rankme" in [p.measure for p in run.profiles()]
    assert "rankme" not in run.skipped, "what is there again is no longer left out"


def test_each_result_says_which_call_gave_it(path: Path) -> None:
    run = again(path, "participation_ratio", controls=False, batch_size=3)
    assert run.provenance("participation_ratio")["options"]["batch_size"] == 3
    assert run.provenance("rankme")["options"]["batch_size"] is None
    assert {run.provenance(key)["seed"] for key in ("rankme", "participation_ratio")} == {0}
    assert len(run.index.calls) == 2
    # Calls of which nothing is left are forgotten.
    assert len(again(path, "participation_ratio", controls=False).index.calls) == 2
    with refusal("unknown-name"):
        run.provenance("rank_me")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 7}, "seed 0, not 7"),
        ({"token_budget": 0}, "tokens differ"),
        ({"taps": ["blocks.0"]}, "taps differ"),
    ],
)
def test_another_seed_or_budget_is_refused_with_the_difference_and_changes_nothing(
    path: Path, options: dict[str, Any], named: str
) -> None:
    before = findings(dx.open_run(path))
    with pytest.raises(DiagnosticsError, match=named) as refused:
        again(path, "rankme", **options)
    assert "--fresh" in str(refused.value)
    assert findings(dx.open_run(path)) == before


@pytest.mark.parametrize("options", [{}, {"seed": 7}, {"token_budget": 0}, {"taps": ["blocks.0"]}])
def test_fresh_drops_what_was_there(path: Path, options: dict[str, Any]) -> None:
    run = again(path, "participation_ratio", fresh=True, **options)
    assert [p.measure for p in run.profiles()] == ["participation_ratio"]
    alone = again(path.parent / "alone", "participation_ratio", **options)
    assert findings(run) == findings(alone)


def test_fresh_cut_off_before_its_results_does_not_mix_seeds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = findings(dx.open_run(path))
    with monkeypatch.context() as context:
        context.setattr(job, "merge_results", interrupted)
        with pytest.raises(KeyboardInterrupt):
            again(path, "rankme", fresh=True, seed=7)
    assert findings(dx.open_run(path)) == before
    with refusal("other-run", "0", "7"):
        again(path, "rankme", seed=7)
    assert set(findings(again(path, "rankme", fresh=True, seed=7))) == {"rankme/None"}


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


# Whole, whatever happens


def killed_at(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    """From the so-manieth call of a function of the system on, on a file of results, the process is killed."""
    real, seen = getattr(os, name), [0]

    def killed(first: str, *others: Any, **at: int) -> None:
        if any(part in f"{first} {others}" for part in (*INSIDE, "results.json")):
            seen[0] += 1
            if seen[0] > count:
                raise KeyboardInterrupt
        real(first, *others, **at)

    monkeypatch.setattr(os, name, killed)


INSIDE = ("index.json", "numbers", "page.json")


@pytest.mark.parametrize(("call", "count"), [("rename", 0), ("rename", 1), ("rename", 2), ("unlink", 0), ("unlink", 1)])
def test_killed_while_results_are_replaced_the_old_or_the_new_ones_are_there_whole(
    path: Path, call: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = findings(dx.open_run(path))
    with monkeypatch.context() as context:
        killed_at(context, call, count)
        with pytest.raises(KeyboardInterrupt):
            again(path, "participation_ratio", controls=False)
    both = set(before) | {"participation_ratio/None"}
    assert set(findings(dx.open_run(path))) == (both if call == "unlink" else set(before))
    after = findings(again(path, "participation_ratio", controls=False))
    assert set(after) == both and {key: after[key] for key in before} == before
    assert [file.name for file in sorted(path.glob("results/*/*"))] == ["index.json", "numbers"]


def results_of(path: Path) -> Path:
    """The folder of a run's results."""
    (folder,) = (path / "results").iterdir()
    return folder


def test_a_flipped_bit_in_any_result_is_noticed(first: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(first, tmp_path / "run"))
    dx.open_run(path).report()
    whole, shown, rng = findings(dx.open_run(path)), diagnose("show", path).out, np.random.default_rng(0)
    for file in (path / "results.json", *(results_of(path) / name for name in INSIDE)):
        intact = file.read_bytes()
        for byte, bit in zip(rng.integers(len(intact), size=20), rng.integers(8, size=20), strict=True):
            damaged = bytearray(intact)
            damaged[byte] ^= 1 << bit
            file.write_bytes(damaged)
            if file.name == "page.json":
                assert diagnose("show", path).out == shown, "made anew"
            else:
                with refusal("damaged"):
                    findings(dx.open_run(path))
        file.write_bytes(intact)
    assert findings(dx.open_run(path)) == whole


def test_what_was_damaged_is_not_carried_into_new_results(path: Path) -> None:
    damaged = results_of(path) / "numbers"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xaa")
    with refusal("damaged"):
        again(path, "participation_ratio", controls=False)
    assert findings(again(path, "participation_ratio", controls=False, fresh=True))


def test_results_are_stored_to_the_bit(path: Path) -> None:
    odd = np.array([-0.0, np.nan, np.inf, -np.inf, 5e-324, 0.1])
    data = xr.Dataset(
        {"score": ("tap", odd), "half": ("tap", odd.astype(np.float32)), "matrix": (("tap", "unit"), np.outer(odd, [1, 2])),
         "none": (("tap", "nothing"), np.empty((6, 0))), "one": ((), 7), "yes": ("tap", odd > 0), "count": ("unit", [2**62, -1]),
         "word": ("unit", np.array(["Größe", ""], dtype=object))},
        coords={"tap": list("abcdef"), "unit": ["u", "v"], "depth": ("tap", odd)},
        attrs={"measure": "odd", "gap": np.float64(0.1), "low": np.nan, "taps": ("a", "b"), "n": np.int64(3), "chance": None},
    )  # fmt: skip
    merge_results(
        Store(path),
        {ENCODER: {"odd/x": data}, "fresh_weights": {"odd/x": data * 2}},
        [],
        {"seed": 0},
        measures=["odd"],
        pairwise=(),
        controls=["fresh_weights"],
        order=["odd"],
        fresh=True,
    )
    index = read_index(Store(path))
    assert index is not None
    stored = read_results(Store(path), index)
    for owner, there in ((ENCODER, data), ("fresh_weights", data * 2)):
        read = stored[owner]["odd/x"]
        assert set(read.variables) == set(there.variables) and set(read.coords) == set(there.coords)
        for name, values in there.variables.items():
            ours = read.variables[name]
            assert ours.dims == values.dims and ours.shape == values.shape
            if values.dtype.kind in "OU":
                assert ours.values.tolist() == values.values.tolist()
            else:
                assert ours.dtype == values.dtype and ours.values.tobytes() == values.values.tobytes()
    attrs = stored[ENCODER]["odd/x"].attrs
    assert np.isnan(attrs.pop("low")) and attrs == {
        "measure": "odd",
        "gap": 0.1,
        "taps": ["a", "b"],
        "n": 3,
        "chance": None,
    }


def test_a_run_has_few_files_of_results(path: Path) -> None:
    assert [file.name for file in sorted(results_of(path).iterdir())] == ["index.json", "numbers"]
    dx.open_run(path).report()
    assert [file.name for file in sorted(results_of(path).iterdir())] == ["index.json", "numbers", "page.json"]


HEAVY = {
    *("torch", "zarr", "xarray", "pandas", "sklearn", "plotly", "jinja2"),
    # A few hundredths of a second each: locks, bars, and plugins' commands.
    *("filelock", "rich.progress", "diagnostics_training", "diagnostics_pretraining"),
}


def test_show_and_runs_start_nothing_heavy(path: Path) -> None:
    dx.open_run(path).report()
    code = (
        "import sys; from diagnostics.cli.main import main\n"
        f"for command in (['show', {str(path)!r}], ['show', {str(path)!r}, '--full'], ['runs', {str(path)!r}]):\n"
        "    sys.argv[1:] = command\n"
        "    try: main()\n"
        "    except SystemExit as left: assert not left.code, command\n"
        f"    print({HEAVY} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("\nset()\n") == 3, done.stdout[-200:]


@pytest.mark.parametrize("width", [60, 80])
def test_the_stored_page_is_printed_as_it_was_made(path: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    made = [diagnose("show", path, *full).out for full in ([], ["--full"])]
    dx.open_run(path).report()
    page = results_of(path) / "page.json"
    # Those of other bytes alone differ: the page itself takes some.
    page.write_bytes(page.read_bytes())
    assert [re.sub(r"disk: .*", "", diagnose("show", path, *full).out) for full in ([], ["--full"])] == [
        re.sub(r"disk: .*", "", each) for each in made
    ]


def test_a_page_of_a_stranger_is_shown_and_not_obeyed(path: Path) -> None:
    dx.open_run(path).report()
    page = results_of(path) / "page.json"
    right = diagnose("show", path).out
    kept = unseal(page.read_bytes())

    def spoilt(part: Any) -> Any:
        if isinstance(part, str):
            return f"{part}\x1b[31m" if " " in part else part
        if isinstance(part, list):
            return [spoilt(each) for each in part]
        return {name: spoilt(each) for name, each in part.items()} if isinstance(part, dict) else part

    page.write_bytes(seal(kept | {"page": spoilt(kept["page"])}))
    shown = diagnose("show", path).out
    assert "\\x1b[31m" in shown and "\x1b" not in shown
    for other in (3, [], {}, {"is": "Nothing"}, {"is": "Page", "heading": 1}):
        page.write_bytes(seal(kept | {"page": other}))
        assert diagnose("show", path).out.splitlines()[:5] == right.splitlines()[:5]


def test_what_a_run_did_not_write_among_its_results_is_not_read(path: Path) -> None:
    shutil.copytree(results_of(path), path / "results" / "stranger")
    assert (
        {"rankme", "linear_probe"} <= set(dx.open_run(path).results.children) <= {"rankme", "linear_probe", "controls"}
    )


# Whose they are


def test_the_results_of_another_run_are_refused(path: Path, tmp_path: Path) -> None:
    """They were shown under this one's name; of the same activations they are as good."""
    other = dx.run(
        tiny_encoder(seed=1),
        tiny_dataset(40),
        out=tmp_path / "other",
        measures="rankme",
        controls=False,
        report=False,
        **QUICK,
    )
    shutil.rmtree(path / "results")
    shutil.copytree(other.path / "results", path / "results")
    shutil.copy(other.path / "results.json", path)
    with refusal("other-run", "run", kind=StorageError):
        dx.open_run(path)
    with refusal("other-run", kind=StorageError):
        again(path, "rankme", controls=False)
    assert findings(again(path, "rankme", controls=False, fresh=True)).keys() == {"rankme/None"}


def of_format(number: int, folder: Path) -> Path:
    """A run that a version of a format wrote, and what that version showed of it in `shown.json` beside it."""
    with tarfile.open(Path(__file__).parents[1] / "support" / f"run_of_format_{number}.tar.xz") as archive:
        archive.extractall(folder / "old", filter="data")
    return folder / "old" / "run"


@pytest.fixture
def of_format_4(tmp_path: Path) -> Path:
    return of_format(4, tmp_path)


def test_a_run_of_format_6_is_read_in_its_own_order_and_not_resumed(tmp_path: Path) -> None:
    """Its first rows have the tokens, 5 of 24, and its parts are of 10 rows."""
    old, encoder, data = of_format(6, tmp_path), tiny_encoder(blocks=1), tiny_dataset(24)
    run = dx.open_run(old)
    for now, then in zip(run.to_json()["profiles"], json.loads((old.parent / "shown.json").read_text()), strict=True):
        assert {key: now[key] for key in then} == then
    names = [str(name) for name in run.store.ids]
    batch = torch.stack([encoder.preprocess(data[data.ids.index(name)]) for name in names])
    given = encoder.capture(batch, ["embed"])["embed"].numpy()
    np.testing.assert_allclose(run.store.pooled("embed", "mean"), given.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(next(run.store.token_blocks("embed"))[1], given[:5], rtol=1e-5, atol=1e-6)
    options: dict[str, Any] = {"measures": "rankme", "controls": False, "report": False}
    with refusal("other-version", kind=StorageError):
        dx.run(encoder, data, out=old, **options)
    assert not dx.run(encoder, data, out=old, fresh=True, **options).store.older


def test_a_run_of_format_4_is_read_and_marked_and_not_resumed(of_format_4: Path, tmp_path: Path) -> None:
    run = dx.open_run(of_format_4)
    keys = ("measure", "target", "taps", "score", "low", "high", "chosen_tap", "hidden_gap")
    shown = json.loads((of_format_4.parent / "shown.json").read_text())
    for now, then in zip(run.to_json()["profiles"], shown, strict=True):
        assert {key: now[key] for key in keys} == {key: then[key] for key in keys}
    assert np.isfinite(run.features("embed", tokens=True)).all()
    options: dict[str, Any] = {"measures": "rankme,knn_probe", "controls": False, "report": False}
    data, encoder = tiny_dataset(24), tiny_encoder(blocks=1)
    now = dx.run(encoder, data, out=tmp_path / "now", taps=["embed"], pooling="mean", **options)
    assert dx.compare([run, now]).to_json()
    assert "An older version wrote this run: it is read, and not resumed." in diagnose("show", of_format_4).out
    rows = json.loads(diagnose("runs", of_format_4.parent, "--json").out)["runs"]
    assert [(row["finished"], row["state"]) for row in rows if row["run"] == str(of_format_4)] == [
        (True, "finished, older, not resumed")
    ]
    before = {file: file.read_bytes() for file in of_format_4.rglob("*") if file.is_file()}
    with refusal("other-version", kind=StorageError):
        dx.run(encoder, data, out=of_format_4, **options)
    assert {file: file.read_bytes() for file in of_format_4.rglob("*") if file.is_file()} == before
    again = dx.run(encoder, data, out=of_format_4, fresh=True, taps=["embed"], pooling="mean", **options)
    assert not again.store.older and findings(again) == findings(now)
    assert set(Folder(of_format_4).list()) <= files_of_run(Folder(of_format_4))


def test_an_index_whose_results_are_of_no_call_is_unreadable(path: Path) -> None:
    right = index_of(path)
    for call in (7, -1, 1.0, "0", None):
        entries = {owner: [entry | {"call": call} for entry in rows] for owner, rows in right["entries"].items()}
        put_index(path, right | {"entries": entries})
        with refusal("damaged"):
            dx.open_run(path)
        assert "cannot be read" in refused("show", path)
    put_index(path, right | {"calls": [], "entries": {}, "omissions": []})
    with refusal("damaged"):
        dx.open_run(path)


@pytest.mark.parametrize(
    "change",
    [{"dtype": "|O"}, {"start": -8}, {"start": 10**30}, {"shape": [10**9]}, {"shape": [-1, 3]}, {"dtype": "<f999"}],
)
def test_numbers_are_read_of_the_numbers_alone(path: Path, change: dict[str, Any]) -> None:
    """A stranger can seal an index anew: objects would be addresses that he chose, and a place before the first byte another's memory."""
    index = index_of(path)
    index["arrays"][""]["rankme"]["data"]["score"] |= change
    put_index(path, index)
    with refusal("damaged", kind=StorageError):
        _ = dx.open_run(path).results


def index_of(path: Path) -> dict[str, Any]:
    return json.loads((results_of(path) / "index.json").read_text())


def put_index(path: Path, index: Any) -> None:
    """Another index, as if it had been written as the run's."""
    data = json.dumps(index).encode()
    folder = results_of(path).rename(path / "results" / digest(data).partition(" ")[0])
    (folder / "index.json").write_bytes(data)
    (path / "results.json").write_bytes(seal({"index": digest(data)}))


# What fails alone


def broken_linear_probe(monkeypatch: pytest.MonkeyPatch, breaks: Callable[[Any, Any], bool]) -> None:
    """The linear probe fails by itself on some activations and targets."""
    real: Callable[..., Any] = LinearProbe.compute

    def compute(self: Any, activations: Any, target: Any, seed: int) -> Any:
        if breaks(activations, target):
            raise RuntimeError("linalg.eigh: failed to converge")
        return real(self, activations, target, seed)

    monkeypatch.setattr(LinearProbe, "compute", compute)


def test_a_measure_that_breaks_on_a_control_leaves_that_out_and_the_rest_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_linear_probe(monkeypatch, lambda activations, target: activations.path.name == "raw_input")
    run = again(tmp_path / "run", "linear_probe,rankme")
    level = run.profile("linear_probe/level")
    assert level.control("raw_input") is None
    assert level.control("permuted_weights") is not None
    assert set(run.failed) == {"linear_probe/level of raw_input", "linear_probe/kind of raw_input"}
    assert "failed to converge" in run.skipped["linear_probe/level of raw_input"]
    # Given again, it is mended and no longer told.
    monkeypatch.undo()
    run = again(tmp_path / "run", "linear_probe")
    assert run.failed == {}
    assert run.profile("linear_probe/level").control("raw_input") is not None


def test_a_measure_that_breaks_on_one_target_leaves_that_out_also_where_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_linear_probe(monkeypatch, lambda activations, target: target.name == "kind")
    run = again(tmp_path / "run", "linear_probe", controls=False)
    assert [p.target for p in run.profiles()] == ["level"]
    assert list(run.failed) == ["linear_probe/kind"]


class Misnamed(Measure):
    """Gives `scores` where results are read by `score`."""

    name = "misnamed"
    answers = "Nothing."
    source = "-"
    family = "geometry"

    def compute(self, activations: Any, target: Any, seed: int) -> xr.Dataset:
        taps = [tap.name for tap in activations.taps]
        names = {"scores": np.ones(len(taps)), "low": np.ones(len(taps)), "high": np.ones(len(taps))}
        return xr.Dataset({k: ("tap", v) for k, v in names.items()}, {"tap": taps}, {"functional": "one"})


class OtherTaps(Misnamed):
    """Gives one tap of two."""

    name = "other_taps"

    def compute(self, activations: Any, target: Any, seed: int) -> xr.Dataset:
        return super().compute(activations, target, seed).rename(scores="score").isel(tap=[0])


@pytest.mark.parametrize(
    ("measure", "sentence"),
    [
        (Misnamed(), r"Measure misnamed gives scores \[tap\], low \[tap\], high \[tap\], and no score \[tap\]"),
        (OtherTaps(), "Measure other_taps gives other taps than it was given"),
    ],
)
def test_a_measure_that_misnames_its_variable_is_told_in_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch, measure: Measure, sentence: str
) -> None:
    standard = setup.select_measures(["rankme"])[0]
    monkeypatch.setattr(setup, "select_measures", lambda names: ([*standard, measure], {}))
    run = again(path, "standard", controls=False)
    assert list(run.failed) == [measure.name]
    assert measure.name not in [p.measure for p in run.profiles()]
    assert re.match(sentence, run.failed[measure.name])


def test_no_measure_of_the_package_is_taken_for_one_that_misnames(tmp_path: Path) -> None:
    whole, rng = tiny_dataset(40, modality="image"), np.random.default_rng(0)
    maps = {
        "parts": Target("token_label", rng.integers(0, 2, (40, 16, 16)), classes=("a", "b")),
        "object": Target("masks", rng.integers(0, 2, (40, 16, 16))),
    }
    groups = [f"group {i // 4}" for i in range(40)]
    split = [["train", "train", "val", "test"][i // 4 % 4] for i in range(40)]
    data = Dataset("all", "image", whole.samples, whole.ids, split, {**whole.targets, **maps}, groups=groups)
    run = dx.run(tiny_image_encoder(), data, out=tmp_path / "run", measures="all", controls=False, report=False)
    assert run.failed == {}
    # Fitted, without a target.
    assert run.profile("position_probe").hidden_gap is not None


# Known before the extraction


def dataset(**targets: Target) -> Dataset:
    whole = tiny_dataset(40)
    return Dataset("odd", "series", whole.samples, whole.ids, list(whole.split), targets)


ODD = {
    "one class": (Target("label", np.zeros(40, dtype=int)), "only one class"),
    "own class": (Target("label", np.arange(40)), r"no train sample of classes .* and \d+ others"),
    "unknown class": (Target("label", np.full(40, -1)), "known for no train sample"),
    "constant": (Target("value", np.full(40, 3.5)), "the one value 3.5"),
    "unknown": (Target("state", np.full(40, np.nan)), "known for no train sample"),
}


@pytest.mark.parametrize("what", ODD)
def test_what_cannot_be_probed_is_told_before_the_extraction(what: str, tmp_path: Path) -> None:
    target, reason = ODD[what]
    encoder = tiny_encoder()
    encoder.module.passes = 0
    with pytest.raises(DiagnosticsError, match=reason):
        dx.run(encoder, dataset(odd=target), out=tmp_path / "run", measures="linear_probe")
    assert encoder.module.passes == 0
    assert not (tmp_path / "run").exists()
    # Beside a target that can be read it is left out, and told before the first byte.
    events: list[Any] = []
    level = tiny_dataset(40).targets["level"]
    run = dx.run(
        encoder,
        dataset(odd=target, level=level),
        out=tmp_path / "run",
        measures="linear_probe",
        controls=False,
        report=False,
        watch=events.append,
    )
    assert [p.target for p in run.profiles()] == ["level"]
    (cost,) = [event for event in events if isinstance(event, Cost)]
    assert reason.split()[0] in str(cost).splitlines()[0]
    assert run.skipped["linear_probe/odd"] in str(cost)


@pytest.mark.parametrize("out", [".", "", "/", ".."])
def test_a_folder_that_cannot_be_a_run_is_refused_before_any_work(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "empty"
    here.mkdir()
    monkeypatch.chdir(here)
    encoder = tiny_encoder()
    encoder.module.passes = 0
    with refusal("occupied"):
        dx.run(encoder, tiny_dataset(40), out=out, measures="rankme")
    assert encoder.module.passes == 0
    assert list(here.iterdir()) == []


def test_a_file_and_a_folder_of_others_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    encoder = tiny_encoder()
    for name, sentence in (("file", "is not a run"), ("folder", "is not a run"), ("file/below", "file")):
        encoder.module.passes = 0
        for fresh in (False, True):
            with pytest.raises(DiagnosticsError, match=sentence):
                dx.run(encoder, tiny_dataset(40), out=tmp_path / name, measures="rankme", fresh=fresh)
        assert encoder.module.passes == 0
    assert (tmp_path / "folder" / "file").read_text() == "mine"


def test_a_run_whose_results_were_replaced_since_says_so(path: Path) -> None:
    opened, looked_at = dx.open_run(path), dx.open_run(path)
    before = findings(looked_at)
    again(path, "participation_ratio", controls=False, fresh=True)
    assert findings(looked_at) == before, "read in time"
    with refusal("other-run"):
        opened.profiles()
    assert [p.measure for p in dx.open_run(path).profiles()] == ["participation_ratio"]


def test_fresh_leaves_no_activations_of_controls_that_it_does_not_make(path: Path) -> None:
    kept = {folder.name for folder in (path / "controls").iterdir()}
    again(path, "participation_ratio", controls=False)
    assert (
        {folder.name for folder in (path / "controls").iterdir()}
        == kept
        == {*WEIGHTS, "raw_input", "summary_statistics"}
    )
    again(path, "participation_ratio", fresh=True)
    assert {folder.name for folder in (path / "controls").iterdir()} == kept
    again(path, "participation_ratio", controls=False, fresh=True)
    assert not list((path / "controls").iterdir())


def test_an_index_that_is_not_one_is_unreadable(path: Path) -> None:
    right = index_of(path)
    strange: dict[str, Any] = {"entries": [], "omissions": {}, "calls": 3, "arrays": {}}
    some = {owner: {} for owner in right["arrays"]}
    for wrong in (strange, {}, [], 3, {**right, "arrays": []}, {**right, "arrays": some}, {**right, "numbers": 3}):
        put_index(path, wrong)
        with refusal("damaged"):
            dx.open_run(path).to_json()
    for current in (b"", b"{}", b"[]", seal({}), seal({"index": "../.. 3"}), seal({"index": "0" * 32})):
        (path / "results.json").write_bytes(current)
        with refusal("damaged"):
            dx.open_run(path).to_json()


# What --fresh drops


def test_a_kill_while_stores_of_controls_are_replaced_leaves_a_folder_that_the_same_command_goes_on_in(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another seed the stores of controls are made anew, the main one is not."""

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            again(path, "rankme", fresh=True, seed=7, control_measures="all")
    run = again(path, "rankme", fresh=True, seed=7, control_measures="all")
    assert set(run.controls) >= WEIGHTS and not run.skipped
    assert not list(path.rglob(".*"))


def test_fresh_drops_a_run_of_which_a_shard_is_gone(path: Path) -> None:
    before = findings(dx.open_run(path))["rankme/None"]
    next(file for file in path.glob("taps/*/pooled/c*") if file.is_file()).unlink()
    with refusal("damaged"):
        again(path, "rankme")
    assert findings(again(path, "rankme", fresh=True))["rankme/None"] == before


def test_fresh_leaves_a_group_of_others_that_mentions_this_package(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"note": 'not a "diagnostics_format": 2'}}
    (other / "zarr.json").write_text(json.dumps(document))
    (other / "mine.txt").write_text("kept")
    with refusal("other-version"):
        again(other, "rankme", fresh=True)
    assert (other / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("name", ["~", "a b#c?d%20e", "\udcff", "up"])
def test_a_run_is_read_and_reported_whatever_its_folder_is_called(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = findings(dx.open_run(path))
    monkeypatch.chdir(path.parent)
    path.rename(name)
    run = dx.open_run(name)
    assert findings(run) == before
    assert "linear_probe" in run.report().read_text(encoding="utf-8")


def test_what_may_not_be_removed_stays_a_run_and_a_link_to_itself_is_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = findings(dx.open_run(path))

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", forbidden)
        with refusal("unwritable"):
            again(path, "rankme", fresh=True, token_budget=0)
    assert findings(dx.open_run(path)) == before
    loop = path.parent / "loop"
    loop.symlink_to(loop)
    with refusal("unwritable"):
        again(loop, "rankme")
    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", forbidden)
        with refusal("unreadable", "Permission denied"):
            dx.open_run(path)
