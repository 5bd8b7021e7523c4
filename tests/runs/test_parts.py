"""One run by several launches: the same numbers to the last digit, whoever did which part, and whatever died meanwhile."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import diagnostics as dx
from diagnostics.activations.folder import Folder
from diagnostics.activations.metadata import digest, seal
from diagnostics.activations.parts import Launch, mixture
from diagnostics.activations.plan import in_ranges, record_of
from diagnostics.activations.run_files import files_of_run, remove_tokens, stores
from diagnostics.activations.shards import Journal
from diagnostics.activations.store import Store
from diagnostics.encoders.modules import pool
from diagnostics.errors import StorageError
from diagnostics.runs.extraction import extract_parts
from diagnostics.runs.options import Request
from tests.support.commands import diagnose
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

N = 264
OPTIONS: dict[str, Any] = {
    "measures": ["rankme", "knn_probe", "massive_activations"],
    "token_budget": "20kB",
    "batch_size": 16,
    "control_measures": "all",
}


def asked(out: Path, **more: Any) -> Request:
    return Request(encoder=tiny_encoder(blocks=1), dataset=tiny_dataset(N), out=out, **OPTIONS | more)


def launched(out: Path, *launches: str, **more: Any) -> dict[str, Any]:
    """What the last of some launches says."""
    done = dict[str, Any]()
    for launch in launches:
        done = extract_parts(asked(out, **more), Launch.of(launch), dx.silent)
    return done


def measured(out: Path, **more: Any) -> dict[str, Any]:
    """What `--json` prints of the command that measures, but for what is of a call or a place."""
    options = {"report": False, "watch": dx.silent, **OPTIONS, **more}
    run = dx.run(tiny_encoder(blocks=1), tiny_dataset(N), out=out, **options)
    return found(run)


def found(run: dx.Run) -> dict[str, Any]:
    values = run.to_json()
    apart = ("path", "run", "calls", "created", "bytes", "report")
    return json.loads(json.dumps({key: value for key, value in values.items() if key not in apart}, default=str))


def shards(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("c.*")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("plain") / "run"
    return out, measured(out)


@pytest.fixture(autouse=True)
def local_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another machine's, in effect: nobody finds what another test left."""
    (disk := tmp_path / "disk").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    return disk


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which the first of two launches is done."""
    out = tmp_path_factory.mktemp("halves") / "run"
    launched(out, "1/2")
    return out


@pytest.fixture
def half(halves: Path, tmp_path: Path) -> Path:
    return shutil.copytree(halves, tmp_path / "run")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_runs_of_several_launches_give_what_the_plain_run_gives_to_the_last_digit(
    count: int, plain: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, wanted = plain
    done = launched(tmp_path / "run", *(f"{i}/{count}" for i in range(count, 0, -1)))
    assert {"tiny", "fresh_weights", "permuted_weights", "raw_input"} <= set(done)
    assert all(of == {"parts": 8, "missing": []} for of in done.values()), done
    assert Store(tmp_path / "run").rows_done == N
    assert measured(tmp_path / "run") == wanted
    assert shards(tmp_path / "run") == shards(path)
    assert not [file for file in (tmp_path / "run").rglob("*") if ".partial" in file.name]
    assert set(Folder(tmp_path / "run").list()) <= files_of_run(Folder(tmp_path / "run"))


def test_the_plain_command_does_what_is_missing(half: Path, plain: tuple[Path, dict[str, Any]]) -> None:
    missing = [1, 3, 5, 7]
    assert Store(half).missing_parts == missing
    with refusal("unfinished", in_ranges(missing)):
        dx.open_run(half)
    assert in_ranges(missing) in diagnose("show", half).err
    shutil.rmtree(half / "controls" / "fresh_weights")
    (half / next(iter(Store(half).files_of(2, with_tokens=True)))).unlink()  # of a part that has its record
    assert measured(half) == plain[1]
    store = Store(half)
    assert store.attrs["mixture"] == ""
    assert store.complete and store.shared
    assert {name for name, each in stores(store).items() if each.missing_parts} == set()
    record = store.record(3)
    rows = store.plan.rows_of(3)
    assert record["rows"] == [rows.start, rows.stop] and record["batch_size"] == 16
    assert set(record["files"]) == set(store.files_of(3, with_tokens=True))
    assert found(dx.open_run(half)) == plain[1]


def test_a_killed_launch_costs_one_batch_on_the_same_machine_and_one_part_elsewhere(
    tmp_path: Path, local_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the last batch of the second of its parts."""
    encoder, second = tiny_encoder(blocks=1), Launch.of("2/2")

    class Killed(BaseException):
        pass

    def watch(event: Any) -> None:
        if getattr(event, "done", 0) >= 60:
            raise Killed

    def passes(out: Path) -> int:
        encoder.module.passes = 0
        extract_parts(Request(encoder=encoder, dataset=tiny_dataset(N), out=out, controls=False, **OPTIONS), second)
        return encoder.module.passes

    here, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    with pytest.raises(Killed):
        extract_parts(asked(here, controls=False), second, watch)
    assert [*local_disk.rglob(".pooled.*")], "in hand on the local disk"
    assert not [*here.glob(".pooled.*")]
    plan = Store(here).plan
    batches = [len([*plan.steps(16, parts=[part])]) for part in (1, 3, 5, 7)]
    assert batches == [3, 3, 3, 1] and len(Store(here).missing_parts) == 7
    shutil.copytree(here, elsewhere)
    assert passes(elsewhere) == 1 + 3 + 3 + 1, "one over the example, and all of the second part again"
    assert passes(here) == 1 + 1 + 3 + 1, "the batch in hand"
    assert shards(here) == shards(elsewhere)
    assert Store(here).missing_parts == Store(elsewhere).missing_parts == [0, 2, 4, 6]
    assert not [path for path in local_disk.rglob("*") if path.is_file() and ".lock" not in path.name]


def test_what_is_in_hand_is_not_continued_in_another_way(tmp_path: Path, local_disk: Path) -> None:
    """Its record would tell of the last way alone."""

    def stop(event: Any) -> None:
        if getattr(event, "done", 0) >= 20:
            raise KeyboardInterrupt

    request = asked(tmp_path / "run", controls=False)
    with pytest.raises(KeyboardInterrupt):
        extract_parts(request, Launch(), stop)
    assert [*local_disk.rglob(".pooled.*")]
    events = list[Any]()
    extract_parts(dataclasses.replace(request, batch_size=8), Launch(), events.append)
    assert max(getattr(event, "total", 0) for event in events) == N, "also the first rows, which passed 16 at a time"


def test_a_launch_leaves_alone_what_a_command_has_alone(plain: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Another process may hold its lock: nothing is tidied, extracted again or added."""
    run = shutil.copytree(plain[0], tmp_path / "run")
    (in_hand := run / f".results.json.{'0' * 16}.partial").write_bytes(b"")
    shutil.rmtree(run / "controls" / "fresh_weights")
    assert launched(run, "1/1") == {"tiny": {"parts": 8, "missing": []}}
    assert in_hand.exists() and not (run / "controls" / "fresh_weights").exists()
    in_hand.unlink()
    remove_tokens(run)
    launched(run, "1/1")
    assert Store(run).tokens_removed and not Store(run).token_files


def test_a_full_local_disk_is_named_and_what_is_done_leaves_nothing_there(
    tmp_path: Path, local_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(self: Journal, *given: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", fill)
        with refusal("no-space", local_disk, kind=StorageError):
            launched(tmp_path / "run", "1/8", controls=False)

    def stop(store: Store, part: int, *given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diagnostics.activations.extract.seal_part", stop)
        with pytest.raises(KeyboardInterrupt):
            launched(tmp_path / "run", "1/8", controls=False)
    assert [file for file in local_disk.rglob("*") if file.is_file()]
    shutil.copytree(tmp_path / "run", tmp_path / "elsewhere")
    launched(tmp_path / "elsewhere", "1/8", controls=False)
    shutil.rmtree(tmp_path / "run")
    shutil.move(tmp_path / "elsewhere", tmp_path / "run")
    launched(tmp_path / "run", "1/8", controls=False)
    assert not [file for file in local_disk.rglob("*") if file.is_file()], "also where another did the part meanwhile"


def test_a_file_of_another_user_on_the_local_disk_is_passed_by(tmp_path: Path, local_disk: Path) -> None:
    (local_disk / f"diagnostics-{os.getuid()}").symlink_to("nowhere")
    launched(tmp_path / "run", "1/8", controls=False)
    assert 0 not in Store(tmp_path / "run").missing_parts


def test_two_launches_of_one_part_agree_or_name_both(half: Path) -> None:
    store = Store(half)
    before = shards(half)
    os.remove(half / record_of(0))  # as if it had been killed just before its record
    launched(half, "1/2")
    assert shards(half) == before and 0 not in Store(half).missing_parts
    os.remove(half / record_of(0))
    file = next(iter(store.files_of(0, with_tokens=False)))
    changed = bytearray((half / file).read_bytes())
    changed[0] ^= 1
    (half / file).write_bytes(changed)
    with refusal("other-run", file, kind=StorageError):
        launched(half, "1/2")
    assert (half / file).read_bytes() == changed, "what is there stays"


def test_a_part_whose_record_was_lost_is_kept_as_it_is_by_a_launch_that_rounds_otherwise(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, before = Store(half), shards(half)
    os.remove(half / record_of(0))

    def rounded(tap: Any, tokens: Any, *given: Any) -> Any:
        return pool(tap, tokens, *given) * (1 + 1e-6)

    monkeypatch.setattr("diagnostics.activations.batches.pool", rounded)
    with refusal("other-run", "--out"):
        launched(half, "1/2", batch_size=16, exact=True)
    launched(half, "1/2", batch_size=8)
    record = store.record(0)
    assert record["beside"] and record["batch_size"] == 8 and shards(half) == before
    assert {name: digest(before[name]) for name in record["files"]} == record["files"]
    assert "of 8," in mixture(store) and "of 16," in mixture(store)


def test_a_record_of_another_run_does_not_count(half: Path, plain: tuple[Path, dict[str, Any]]) -> None:
    store = Store(half)
    for part, change in ((0, {"run": "0" * 64}), (2, {"files": {}})):
        record = json.loads((half / record_of(part)).read_bytes())
        sealed = seal({key: value for key, value in record.items() if key != "digest"} | change)
        (half / record_of(part)).write_bytes(sealed if part == 0 else sealed.replace(b"rows", b"lows"))
    assert store.missing_parts == [0, 1, 2, 3, 5, 7]
    launched(half, "1/2")
    assert store.missing_parts == [1, 3, 5, 7]
    assert store.record(0)["run"] == store.mark


def test_with_exact_several_ways_are_refused_and_one_is_not(half: Path, tmp_path: Path) -> None:
    with refusal("irreproducible", "--exact"):
        launched(half, "2/2", batch_size=8, exact=True)
    assert Store(half).missing_parts == [1, 3, 5, 7], "before anything is passed"
    launched(half, "2/4", exact=True, controls=True)
    launched(half, "4/4", batch_size=8)
    with refusal("irreproducible", "--exact"):
        measured(half, exact=True)
    assert measured(half)["profiles"]
    with refusal("no-effect", "--exact"):
        measured(tmp_path / "alone", exact=True)
    assert not (tmp_path / "alone").exists()


def test_a_full_shared_disk_stops_one_launch_and_loses_nothing(
    half: Path, plain: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, left = Folder.put_new, [3]

    def fill(self: Folder, name: str, *given: Any, **more: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, name, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put_new", fill)
        with refusal("no-space", half, kind=StorageError):
            launched(half, "2/2")
    assert Store(half).missing_parts == [1, 3, 5, 7]
    launched(half, "2/2")
    assert measured(half) == plain[1]


def test_a_run_of_another_version_is_neither_joined_nor_changed(half: Path) -> None:
    path = half / "zarr.json"
    document = json.loads(path.read_bytes())
    document["attributes"]["diagnostics_format"] += 1
    path.write_text(json.dumps(document))
    before = path.read_bytes()
    with refusal("other-version", kind=StorageError):
        launched(half, "2/2")
    assert path.read_bytes() == before


def test_sealed_files_and_their_folders_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, its folder and those around it, which may be new; what is not flushed waits for no disk."""
    flushed, fsync = list[str](), os.fsync

    def watched(handle: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    Folder(tmp_path).put_new("parts/0.json", b"{}", flushed=True)
    assert {str(tmp_path), str(tmp_path / "parts")} <= set(flushed) and len(flushed) == 3
    flushed.clear()
    Folder(tmp_path).put("other/new/0.json", b"{}")
    assert not flushed
    flushed.clear()
    Folder(tmp_path).put("parts/0.json", b"[]", flushed=True)
    assert flushed[1:] == [str(tmp_path), str(tmp_path / "parts")]


def test_a_run_says_that_its_parts_were_computed_in_several_ways(half: Path) -> None:
    launched(half, "2/2", batch_size=8, controls=True)
    run = dx.run(tiny_encoder(blocks=1), tiny_dataset(N), out=half, watch=dx.silent, report=False, **OPTIONS)
    assert "batches of 16" in run.record.mixture and "batches of 8" in run.record.mixture
    assert " ".join(run.record.mixture.split()) in " ".join(diagnose("show", half).out.split())


def test_what_cannot_be_shared_is_one_sentence(half: Path, plain: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    for text in ("9/8", "0/8", "3", "3/", "a/b", "3/64/2", ""):
        with refusal("bad-value"):
            Launch.of(text)
    before = shards(half)
    for more in ({"seed": 1}, {"taps": "embed"}, {"controls": False}, {"control_draws": 2}, {"token_budget": 0}):
        with refusal("other-run", kind=StorageError):
            launched(half, "2/2", **more)
    with refusal("other-run", "pooling", kind=StorageError) as refused:
        launched(half, "2/2", pooling="mean", taps="embed")
    assert "taps" in str(refused.value), "all differences"
    with refusal("conflict"):
        launched(half, "2/2", fresh=True)
    assert shards(half) == before
    begun = tmp_path / "begun"
    with pytest.raises(KeyboardInterrupt):
        measured(
            begun, watch=lambda event: (_ for _ in ()).throw(KeyboardInterrupt) if hasattr(event, "done") else None
        )
    with refusal("other-run", kind=StorageError):
        launched(begun, "1/2")
    whole = shutil.copytree(plain[0], tmp_path / "whole")
    assert launched(whole, "1/2")["tiny"]["missing"] == [], "nothing is left to do"


SLURM = {
    f"SLURM_ARRAY_TASK_{name}": value for name, value in zip(("MIN", "MAX", "STEP"), ("10", "16", "3"), strict=True)
}


@pytest.mark.parametrize(
    ("text", "there", "launch"),
    [
        ("auto", {"SLURM_ARRAY_TASK_ID": "13", "SLURM_ARRAY_TASK_COUNT": "3", **SLURM}, "2/3"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "13", "SLURM_ARRAY_TASK_COUNT": "2", **SLURM}, ""),  # a list
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "1/4"),
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "RANK": "7", "WORLD_SIZE": "8"}, "8/8"),
        ("auto", {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "RANK": "7", "WORLD_SIZE": "8"}, ""),
        ("auto/64", {"JOB_COMPLETION_INDEX": "2", "RANK": "7", "WORLD_SIZE": "8"}, "3/64"),
        ("auto/2", {"JOB_COMPLETION_INDEX": "2"}, ""),
        ("auto", {"JOB_COMPLETION_INDEX": "2"}, ""),
        ("auto", {"RANK": "x", "WORLD_SIZE": "8"}, ""),
        ("3/4", {"RANK": "7", "WORLD_SIZE": "8"}, "3/4"),
    ],
)
def test_auto_reads_the_variables_of_one_engine_and_says_which(
    text: str, there: dict[str, str], launch: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [*os.environ]:
        if name.startswith(("SLURM", "RANK", "WORLD_SIZE", "JOB_COMPLETION")):
            monkeypatch.delenv(name)
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    if launch:
        assert str(Launch.of(text)) == launch
        said = capsys.readouterr().out
        assert any(f"{name}={value}" in said for name, value in there.items()) is (text != "3/4")
    else:
        with refusal("bad-value"):
            Launch.of(text)


def test_what_another_command_observed_meanwhile_stays(half: Path) -> None:
    """It may be reading it."""
    about = {"samples": 4, "reason": "", "left_out": {}, "state": {"by": "tests", "version": "1"}}
    two, more = ({"embed": np.full((rows, 2), rows, dtype=float)} for rows in (4, 8))
    for arrays, samples, there in ((two, 4, two), (more, 2, two), (more, 8, more)):
        Store(half).put_observed("seen", arrays, about | {"samples": samples})
        np.testing.assert_array_equal(Store(half).observation_arrays("seen")["embed"], there["embed"])


def test_clean_and_fresh_ask_whether_a_launch_still_works(half: Path) -> None:
    with refusal("in-use", "--force", kind=StorageError):
        measured(half, fresh=True)
    with refusal("no-effect"):
        measured(half, force=True)
    measured(half, controls=False)
    with refusal("in-use", "--force", kind=StorageError):
        remove_tokens(half)
    assert remove_tokens(half, force=True)
    again = measured(half, controls=False)
    assert again == measured(half, controls=False, fresh=True, force=True)
    measured(half, controls=False, seed=1, fresh=True, force=True, taps="embed")
    assert not Store(half).shared


def test_launches_without_tokens_and_a_command_that_reads_them(tmp_path: Path) -> None:
    launched(tmp_path / "run", "1/2", measures="rankme", token_budget=None, controls=False)
    with refusal("other-run", kind=StorageError):
        launched(tmp_path / "run", "2/2", token_budget=None, controls=False)
    run = dx.run(
        tiny_encoder(blocks=1),
        tiny_dataset(N),
        out=tmp_path / "run",
        measures="massive_activations",
        controls=False,
        watch=dx.silent,
        report=False,
    )
    assert run.store.token_samples == 64 and not run.store.tokens_removed


def test_more_launches_than_parts_and_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ("run", "fracast", "--data", "lorenz?n=40", "--measures", "rankme", "--no-controls", "--out", out)
    said = diagnose(*line, "--part", "7/9")
    assert said.status == 0 and Store(out).missing_parts == [0]
    assert json.loads(diagnose(*line, "--part", "1/1", "--json").out)["stores"]["fracast"] == {
        "parts": 1,
        "missing": [],
    }
    assert "--part" in diagnose("show", out).err
    assert diagnose(*line).status == 0
    assert [profile.measure for profile in dx.open_run(out).profiles()] == ["rankme"]
    assert diagnose(*line, "--part", "9/8").status == 2


SMALL = "objectives:lorenz-forecast"


@pytest.mark.slow
def test_the_commands_of_the_page_on_many_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pyarrow", "timm"):
        pytest.importorskip(package)
    if not (page := Path(__file__).parents[2] / "docs" / "how-to" / "scale.md").is_file():
        pytest.skip("tests run without the docs beside them")
    monkeypatch.chdir(tmp_path)
    lines = [
        line
        for block in page.read_text(encoding="utf-8").split("```console\n")[1:]
        for line in block.partition("```")[0].replace("\\\n", "").splitlines()
    ]
    assert sum("--part" in line for line in lines) == 8 and len(lines) == 10
    for line in lines:
        # Probes of all controls, and of all taps, would take minutes.
        less = ["--taps", "embed"] if "segmentation_probe" in line else []
        less += ["--no-controls"] if "linear_probe" in line else []
        # Nor need the encoder of series be as large as the page's.
        for name, other in {
            "fracast": SMALL,
            "block.3": "blocks.1",
            "linear_probe": "rankme",
            "n=300&": "n=256&",
        }.items():
            line = line.replace(name, other)
        done = diagnose(*shlex.split(line)[1:], *less)
        assert done.status == 0, done.err
    assert dx.open_run("runs/shared").store.shared
    assert dx.open_run("runs/dense").profile("segmentation_probe/segmentation").data.attrs["tokens"] == "streamed"
    assert len(pd.read_parquet("features/lorenz")) == 300


KILLED = """
import dataclasses, os, signal, sys, tempfile
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from diagnostics.activations.extract import extract
from diagnostics.activations.parts import Launch, Share, scratch_of
from tests.support.stores import digests, planned
from tests.support.tiny import tiny_dataset, tiny_encoder
encoder, dataset, tempfile.tempdir = tiny_encoder(blocks=1), tiny_dataset(24), {folder!r}
wanted = dataclasses.replace(planned(encoder, 24, budget=6200, shard=4), pooled_shard=8)
about, left = {{"device": "cpu", "kernel": "auto", "versions": {{}}}}, -1
def hook(event, args):
    global left
    if left >= 0 and event in ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.link"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
def start(path, launch, kill=-1, finishes=False):
    global left
    pid = os.fork()
    if pid == 0:
        with scratch_of(path, str(launch)) as scratch:
            left = kill
            extract(encoder, dataset, path, wanted, batch_size=4, share=Share(launch, scratch, about, finishes))
            left = -1
        os._exit(0)
    return pid
def child(*given, **options):
    return os.waitstatus_to_exitcode(os.waitpid(start(*given, **options), 0)[1])
def kept(run):
    return {{name: digest for name, digest in digests(run).items() if ".partial" not in name}}
calm = Path({folder!r}) / "calm"
assert child(calm, Launch(), finishes=True) == 0
for kill in range(0, 10**6, {step}):
    run = Path({folder!r}) / f"run{{kill}}"
    status = child(run, Launch(0, 2), kill)
    again = [Launch(1, 2), Launch(0, 2)] if kill % 2 else [Launch(1, 2)]
    assert [child(run, launch) for launch in again] == [0] * len(again), kill
    assert child(run, Launch(), finishes=True) == 0, kill
    assert kept(run) == kept(calm), kill
    print(status, flush=True)
    if status == 0:
        break
for trial in range(5):
    run = Path({folder!r}) / f"together{{trial}}"
    started = [start(run, launch) for launch in (Launch(0, 3), Launch(1, 3), Launch(2, 3), Launch(1, 2), Launch(1, 3))]
    assert [os.waitpid(pid, 0)[1] for pid in started] == [0] * 5, trial
    assert child(run, Launch(), finishes=True) == 0
    assert kept(run) == kept(calm), trial
"""


@pytest.mark.slow
def test_killed_at_any_file_operation_and_done_again_equals_undisturbed_to_the_bit(
    tmp_path: Path, warm_python: Path
) -> None:
    """SIGKILL of one of two launches before its k-th file operation; the same launch again, or the last command, ends it.

    And five launches at the same moment, of which some have the same parts in hand, make one run.
    """
    code = KILLED.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path), step=97)
    done = subprocess.run([warm_python, "-c", code], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split().count("-9") >= 9
