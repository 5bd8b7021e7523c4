"""A run in a bucket: the numbers of a local one to the last digit, whoever did which part, and whatever the store answers."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
import pickle
import shlex
import sys
import traceback
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import ObjectStore

import diagnostics as dx
from diagnostics.activations.bucket import Bucket, open_place
from diagnostics.activations.folder import Folder
from diagnostics.activations.parts import Launch
from diagnostics.activations.place import Address, locate
from diagnostics.activations.run_files import files_of_run, result_files
from diagnostics.activations.store import Store
from diagnostics.runs import extraction
from diagnostics.runs.options import Request
from diagnostics.runs.processes import workers
from tests.support.buckets import CUT, KEYS, Server, first, serving
from tests.support.commands import Shown, diagnose, refused
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

N = 264
OPTIONS: dict[str, Any] = {
    "measures": ["rankme", "massive_activations"],
    "token_budget": "20kB",
    "batch_size": 16,
    "control_measures": "all",
}
PROBE: dict[str, Any] = {"measures": ["rankme", "knn_probe", "massive_activations"], "token_budget": None}
MINE = """
from tests.support.tiny import tiny_dataset, tiny_encoder

def build():
    return tiny_encoder(blocks=1)

def data():
    return tiny_dataset(60)
"""


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with pytest.MonkeyPatch.context() as patch, serving(patch) as server:
        yield server


@pytest.fixture(autouse=True)
def local_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """Another machine's, in effect: nobody finds what another test left."""
    (disk := tmp_path / "disk").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    return disk


def launched(out: str | Path, *launches: str, **more: Any) -> dict[str, Any]:
    done = dict[str, Any]()
    for launch in launches:
        request = Request(encoder=tiny_encoder(blocks=1), dataset=tiny_dataset(N), out=out, **OPTIONS | more)
        done = extraction.extract_parts(request, Launch.of(launch), dx.silent)
    return done


def measured(out: str | Path, **more: Any) -> dx.Run:
    options = {"watch": dx.silent, "report": False, **OPTIONS, **more}
    return dx.run(tiny_encoder(blocks=1), tiny_dataset(N), out=out, **options)


def found(run: dx.Run) -> dict[str, Any]:
    """What `--json` prints, but for what is of a call or a place."""
    return json.loads(json.dumps({k: v for k, v in run.to_json().items() if k not in ("run", "report")}, default=str))


def files(place: str | Path) -> dict[str, bytes]:
    """All that holds activations and samples."""
    folder = open_place(locate(place))
    names = [name for name in folder.list() if name.partition("/")[0] in ("samples", "taps", "controls")]
    return {name: folder.get(name, 2**30) for name in names if "/parts/" not in name and name[-9:] != "zarr.json"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    measured(out := tmp_path_factory.mktemp("plain") / "run")
    return out


@pytest.fixture(scope="module")
def whole(server: Server) -> str:
    """A run that one command made in a bucket."""
    measured(out := "s3://bkt/module/whole", report=True, **PROBE)
    return out


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on a disk."""
    measured(out := tmp_path_factory.mktemp("probed") / "run", **PROBE)
    return out


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> dx.Run:
    """A run without controls, which nothing disturbed."""
    return measured("s3://bkt/module/undisturbed", controls=False)


def test_one_command_into_a_bucket_gives_what_it_gives_on_a_disk(probed: Path, whole: str) -> None:
    run = dx.open_run(whole)
    assert found(run) == found(dx.open_run(probed))
    left_out = {name for name in files(whole) if name.endswith("/begun")}
    assert {name: data for name, data in files(whole).items() if name not in left_out} == files(probed)
    assert str(run.path) == whole and run.to_json()["report"] == f"{whole}/report.html"
    assert run.store.shared and run.store.complete
    own = {f"{below}begun" for below in ("", *(f"controls/{name}/" for name in run.store.attrs["controls"]))}
    assert {*Bucket(Address(whole)).list()} - {*files_of_run(Folder(probed))} - result_files(run.store.folder) == own
    np.testing.assert_array_equal(run.features("embed"), dx.open_run(probed).features("embed"))
    assert run.disk_use[1] > 10_000


@pytest.mark.parametrize("count", [3])
def test_launches_into_a_bucket_give_the_same_to_the_last_digit(count: int, plain: Path) -> None:
    out = f"s3://bkt/launches/{count}"
    launched(out, f"1/{count}")
    with refusal("unfinished"):
        dx.open_run(out)
    assert Store(locate(out)).missing_parts == [part for part in range(8) if part % count]
    done = launched(out, *(f"{i}/{count}" for i in range(2, count + 1)))
    assert all(of == {"parts": 8, "missing": []} for of in done.values())
    assert found(measured(out)) == found(dx.open_run(plain))
    assert files(plain).items() <= files(out).items()


def test_plain_zarr_and_xarray_open_a_finished_run(whole: str, probed: Path) -> None:
    from obstore.store import S3Store

    store = ObjectStore(S3Store("bkt", prefix="module/whole", client_options={"allow_http": True}), read_only=True)
    tree, local = (xr.open_datatree(at, engine="zarr", consolidated=False) for at in (store, str(probed)))
    assert {*tree.groups} == {*local.groups} >= {"/taps/embed", "/samples/targets"}
    for name in {*local.groups} - {"/"}:
        xr.testing.assert_identical(tree[name].to_dataset().load(), local[name].to_dataset().load())
    assert zarr.open_group(store, mode="r").attrs["complete"] is True


def test_processes_that_measure_read_the_bucket_themselves(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(workers._Process):
        """One that does its share of work that takes less time than its start."""

        def __init__(self) -> None:
            super().__init__()
            assert self.link.poll(120)

        def find(self, source: workers.Source, task: workers.Task) -> Any:
            for name, value in KEYS.items():
                assert value.encode() not in pickle.dumps((source, task)), name
            shares.append(str(source.place))
            return super().find(source, task)

    shares = list[str]()
    monkeypatch.setattr(workers, "_Process", Kept)
    monkeypatch.setattr(workers, "WORTH", 0.0)
    assert found(measured("s3://bkt/jobs", jobs=2)) == found(dx.open_run(plain))
    assert "s3://bkt/jobs" in shares


def test_a_later_call_adds_to_a_run_in_a_bucket(plain: Path, whole: str) -> None:
    out = "s3://bkt/later"
    measured(out, measures="rankme")
    with refusal("other-run"):
        measured(out, seed=1)
    assert found(measured(out)) == found(dx.open_run(plain))


COMMANDS = {
    "show": "show RUN",
    "show csv": "show RUN --csv -o OUT/scores.csv",
    "report": "report RUN",
    "report there": "report RUN -o s3://bkt/reports/mine.html",
    "card": "card RUN",
    "compare": "compare a=RUN b=LOCAL --similarity none",
    "choose": "choose RUN",
    "explore": "explore s3://bkt/module LOCAL -o OUT/runs.html",
    "runs": "runs s3://bkt/module",
}


@pytest.mark.parametrize("line", COMMANDS.values(), ids=COMMANDS)
def test_commands_read_a_run_in_a_bucket(line: str, whole: str, probed: Path, tmp_path: Path) -> None:
    places = {"RUN": whole, "LOCAL": str(probed), "OUT": str(tmp_path)}
    for name, place in places.items():
        line = line.replace(name, place)
    shown = diagnose(*line.split())
    assert shown.status == 0, shown.err
    assert "s3:/b" not in shown.out


def test_what_commands_write_beside_a_run_lies_in_the_bucket(whole: str, probed: Path) -> None:
    names = {"report.html", "card.md", "card.svg"}
    diagnose("card", whole)
    assert names <= {*Bucket(Address(whole)).list()}
    compared = json.loads(diagnose("compare", whole, probed, "--similarity", "none", "--json").out)
    assert compared["report"].startswith("s3://bkt/module/comparison-")
    assert open_place(locate(compared["report"]).parent).head(Path(compared["report"]).name) is not None
    rows = json.loads(diagnose("runs", "s3://bkt/module", "--json").out)["runs"]
    (row,) = (row for row in rows if row["run"] == whole)
    assert row["finished"] and row["bytes"] > row["token_bytes"] and row["n"] == N
    shown = diagnose("show", whole)
    assert "diagnostics open" not in shown.out and "-o report.html" in shown.out


@pytest.mark.parametrize("line", ["open RUN", "cut x --tap y -o RUN", "new-plugin mine -o RUN", "clean RUN --tokens"])
def test_what_cannot_be_done_in_a_bucket_is_refused(line: str, whole: str) -> None:
    refused(*line.replace("RUN", whole).split())


def test_fresh_is_refused_before_anything_is_built(whole: str) -> None:
    with refusal("bad-value"):
        dx.run("no-encoder", "no-data", out=whole, fresh=True)


def test_tokens_are_removed_and_brought_back_where_none_works(plain: Path) -> None:
    out = "s3://bkt/tokens"
    before = found(measured(out))
    freed = json.loads(diagnose("clean", out, "--tokens", "--force", "--json").out)["freed_bytes"]
    run = dx.open_run(out)
    assert freed > 0 and run.disk_use[0] == 0
    assert found(run) == before
    assert found(measured(out)) == before
    assert dx.open_run(out).disk_use[0] == freed


def test_features_go_into_a_bucket_by_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd, pq = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("diagnostics.activations.features.FILE_BYTES", 20 * 2 * 8 * 4)
    (tmp_path / "mine.py").write_text(MINE)
    names = [f"{tmp_path}/mine.py:build", "--data", f"{tmp_path}/mine.py:data", "--tap", "embed", "--quiet", "--out"]
    for part in ("3/3", "1/3"):
        assert diagnose("features", *names, "s3://bkt/f", "--part", part).status == 0
    shown = diagnose("features", *names, "s3://bkt/f")
    assert shown.status == 0 and "'s3://bkt/f'" in shown.out
    diagnose("features", *names, tmp_path / "f")
    there = Bucket(Address("s3://bkt/f"))
    written = [name for name in there.list() if name.endswith(".parquet")]
    assert len(written) == 3
    tables = [pq.read_table(io.BytesIO(there.get(name, 2**20))).to_pandas() for name in written]
    pd.testing.assert_frame_equal(pd.concat(tables, ignore_index=True), pd.read_parquet(tmp_path / "f"))
    run = measured("s3://bkt/export", controls=False, measures="rankme")
    assert str(run.export("s3://bkt/exported/embed.parquet", "embed")) == "s3://bkt/exported/embed.parquet"
    assert Bucket(Address("s3://bkt/exported")).head("embed.parquet") is not None


@pytest.mark.slow
def test_the_commands_of_the_section_on_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pyarrow", "timm"):
        pytest.importorskip(package)
    if not (page := Path(__file__).parents[2] / "docs" / "how-to" / "scale.md").is_file():
        pytest.skip("tests run without the docs beside them")
    monkeypatch.chdir(tmp_path)
    urllib.request.urlopen(urllib.request.Request(f"{os.environ['AWS_ENDPOINT_URL']}/mine", method="PUT")).close()
    section = page.read_text(encoding="utf-8").split("## In a bucket")[1].split("\n## ")[0]
    bash, python = (section.split(f"```{language}\n")[1].partition("```")[0] for language in ("bash", "python"))
    bash = bash.replace("\\\n", "")
    assert sum("--part" in line for line in bash.splitlines()) == 3 and len(bash.splitlines()) == 7
    less = {"linear_probe": "rankme", "n=300": "n=60", "fracast": "objectives:lorenz-forecast", "block.3": "blocks.1"}
    for name, other in less.items():  # probes of all controls would take minutes
        bash, python = (text.replace(name, other) for text in (bash, python))
    for line in bash.splitlines():
        done = diagnose(*shlex.split(line)[1:])
        assert done.status == 0, done.err
    assert (tmp_path / "report.html").stat().st_size > 10_000
    namespace: dict[str, Any] = {}
    exec(python, namespace)
    run = dx.open_run("s3://mine/runs/shared")
    at = namespace["tap"].attrs["pooling"].index("mean")
    read = run.features("blocks.1", pooling="mean")
    order = {name: row for row, name in enumerate(run.store.ids)}
    rows = [order[name] for name in read["sample"].values]
    stored = namespace["tap"]["pooled"].values[:, at]
    np.testing.assert_array_equal(stored[run.store.plan.rows][rows], read.values)


def test_a_copy_of_all_objects_is_the_same_run_on_a_disk(whole: str, tmp_path: Path) -> None:
    there = Bucket(Address(whole))
    for name in there.list():
        (at := tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(there.get(name, 2**30))
    assert found(dx.open_run(tmp_path / "copy")) == found(dx.open_run(whole))


# Faults


def test_a_lost_answer_to_a_put_changes_nothing(server: Server, undisturbed: dx.Run) -> None:
    """Whoever tries again meets the object that it put itself."""
    lost, named = dict[str, str](), ("parts/1.json", "pooled/c.3.0.0", "zarr.json", "results.json", "begun", "id/c/0")

    def fault(method: str, path: str) -> str | None:
        end = next((each for each in named if path.endswith(each)), None)
        if method != "PUT" or end is None or path in lost:
            return None
        lost[path] = end
        return CUT

    with server.failing(fault):
        run = measured("s3://bkt/lost", controls=False)
    assert {*lost.values()} == {*named}
    assert run.results.identical(undisturbed.results)
    assert files("s3://bkt/lost") == files(str(undisturbed.path))


def test_a_store_that_is_busy_at_first_is_asked_again(server: Server) -> None:
    out = "s3://bkt/busy"
    with server.failing(first(3, "503 SlowDown")):
        launched(out, "1/1", controls=False)
    with server.failing(first(3, "500 InternalError", "PUT")):
        assert found(measured(out, controls=False))["profiles"]


def test_keys_that_expire_in_between_leave_a_run_that_goes_on(server: Server, undisturbed: dx.Run) -> None:
    out = "s3://bkt/expired"

    def ending(method: str, path: str) -> str | None:
        return "400 ExpiredToken" if any("parts/3.json" in each for each in server.seen) else None

    server.seen.clear()
    with server.failing(ending), refusal("unwritable"):
        measured(out, controls=False)
    with server.failing(lambda method, path: "400 ExpiredToken"):
        for act in (dx.open_run, measured):
            with refusal("unreadable"):
                act(out)
    assert Store(locate(out)).missing_parts == [4, 5, 6, 7]
    assert files(str(undisturbed.path)) != files(out)
    measured(out, controls=False)
    assert files(str(undisturbed.path)) == files(out)


ANSWERS = ["400 ExpiredToken", "403 InvalidAccessKeyId", "403 AccessDenied", "404 NoSuchBucket", "418 Teapot"]


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_a_store_answers_is_said_without_its_words(answer: str, server: Server) -> None:
    there, said = Bucket(Address("s3://bkt/answers")), set[str]()
    acts: list[tuple[Any, Callable[[], Any]]] = [
        ("unwritable", lambda: there.put("x", b"")),
        ("unwritable", lambda: there.put_new("x", b"")),
        ("unreadable", lambda: there.get("x", 9)),
        ("unreadable", lambda: [*there.list()]),
        ("unreadable", there.folders),
        ("unwritable", lambda: there.delete(["x"])),
        *([("unreadable", lambda: there.head("x"))] if "404" not in answer else []),
    ]
    with server.failing(lambda method, path: answer):
        for code, act in acts:
            with refusal(code, there.path) as caught:
                act()
            assert_no_key(*traceback.format_exception(caught.value))
            said.add(str(caught.value).partition("(")[2])
    assert len(said) == 1, said


def test_no_right_to_list_is_said(server: Server) -> None:
    """Where a store may not say what there is, it denies what is not there."""

    def fault(method: str, path: str) -> str | None:
        return "403 AccessDenied" if path == "/bkt" else None

    with server.failing(fault), refusal("unreadable"):
        measured("s3://bkt/unlisted")
    assert not any("/unlisted/" in each for each in server.seen if each.startswith("PUT"))


def test_damage_in_a_bucket_is_no_network_fault_nor_the_other_way(server: Server) -> None:
    out = "s3://bkt/damage"
    measured(out, controls=False)
    there, name = Bucket(Address(out)), "taps/norm/pooled/c.2.0.0"
    denied = server.failing(lambda method, path: "403 AccessDenied" if path.endswith(name) else None)
    with denied, refusal("unreadable"):
        dx.open_run(out).features("norm")
    data = there.get(name, 2**20)
    for other in (data[:-1], data[:-60] + bytes(1) + data[-59:]):
        there.put(name, other)
        with refusal("damaged"):
            dx.open_run(out).features("norm")


def test_two_runs_on_one_prefix_do_not_mix(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins before the first is there."""
    out, folder = "s3://bkt/two", Bucket(Address("s3://bkt/two"))
    launch = Request(encoder=tiny_encoder(blocks=1), dataset=tiny_dataset(N), out=out, **OPTIONS | {"controls": False})
    other = Request(encoder=tiny_encoder(blocks=2), dataset=tiny_dataset(N), out=out, **OPTIONS | {"controls": False})
    put_new, seen = Bucket.put_new, dict[str, Any]()

    def then(self: Bucket, name: str, *more: Any, **options: Any) -> None:
        if name == "zarr.json" and not seen:
            seen["names"] = {*folder.list()}
            with refusal("other-run"):
                extraction.extract_parts(other, Launch(), dx.silent)
            assert {*folder.list()} == seen["names"]
        put_new(self, name, *more, **options)

    monkeypatch.setattr(Bucket, "put_new", then)
    extraction.extract_parts(launch, Launch(), dx.silent)
    assert seen["names"] >= {"begun", "samples/id/c/0"}
    assert len(Store(Address(out)).taps) == len(launch.encoder.taps)
    with refusal("other-run"):
        measured(out, controls=False, seed=3)
    assert measured(out, controls=False).results


def test_another_launch_of_the_same_run_may_make_it_meanwhile(monkeypatch: pytest.MonkeyPatch, plain: Path) -> None:
    out, put_new, made = "s3://bkt/meanwhile", Bucket.put_new, list[str]()

    def then(self: Bucket, name: str, *more: Any, **options: Any) -> None:
        if name == "zarr.json" and not self.below and not made:
            made.append(name)
            launched(out, "2/2")
        put_new(self, name, *more, **options)

    monkeypatch.setattr(Bucket, "put_new", then)
    launched(out, "1/2")
    assert found(measured(out)) == found(dx.open_run(plain))


def test_a_run_whose_making_was_cut_off_is_begun_again_by_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    out, put_new = "s3://bkt/cut-off", Bucket.put_new

    def killed(self: Bucket, name: str, *more: Any, **options: Any) -> None:
        if name == "zarr.json":
            raise KeyboardInterrupt
        put_new(self, name, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put_new", killed)
        with pytest.raises(KeyboardInterrupt):
            launched(out, "1/1", controls=False)
    begun = {*Bucket(Address(out)).list()}
    assert begun and "zarr.json" not in begun
    with refusal("other-run"):
        dx.run(tiny_encoder(blocks=2), tiny_dataset(N), out=out, watch=dx.silent, **OPTIONS | {"controls": False})
    assert {*Bucket(Address(out)).list()} == begun
    assert measured(out, controls=False).results


def test_a_prefix_with_something_else_is_left_alone() -> None:
    there = Bucket(Address("s3://bkt/mine"))
    there.put("thesis.tex", b"mine")
    with refusal("occupied"):
        measured("s3://bkt/mine")
    assert {*there.list()} == {"thesis.tex"}


# Bad input


@pytest.mark.parametrize(
    ("out", "code"),
    [
        ("ftp://bkt/x", "bad-value"),
        ("s3://", "bad-value"),
        ("s3://user:secret-word@bkt/x", "bad-value"),
        ("s3://bkt/x?token=secret-word", "bad-value"),
        ("s3://bkt/../x", "bad-value"),
        ("s3://bkt", "bad-value"),
        ("s3://no-such-bucket/x", "unreadable"),
    ],
)
def test_places_that_cannot_be_are_refused_before_anything_is_built(out: str, code: Any) -> None:
    with refusal(code) as caught:
        dx.run("no-encoder", "no-data", out=out)
    assert "secret-word" not in str(caught.value)
    assert refused("run", "no-encoder", "--data", "no-data", "--out", out) == str(caught.value)


def test_no_credentials_are_said(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with refusal("unreadable", "AWS_ACCESS_KEY_ID"):
        dx.run("no-encoder", "no-data", out="s3://bkt/x")


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with refusal("missing-package", "[cloud]"):
        dx.run("no-encoder", "no-data", out="s3://bkt/x")
    with refusal("missing-package"):
        dx.open_run("s3://bkt/x")


def test_addresses_stay_what_they_are_as_paths() -> None:
    address = locate("s3://bkt/runs/a b=1~#%é/")
    assert str(address) == os.fspath(address) == "s3://bkt/runs/a b=1~#%é"
    assert str(address / "x.html") == "s3://bkt/runs/a b=1~#%é/x.html"
    assert (address.parent, address.name) == (Address("s3://bkt/runs"), "a b=1~#%é")
    assert locate(Path("s3://bkt/x")) == locate("s3://bkt/x") == copy.copy(Address("s3://bkt/x"))
    assert {locate(place) for place in ("gs://b/x", "az://b/x")} == {Address("gs://b/x"), Address("az://b/x")}
    assert isinstance(locate("runs/x"), Path) and isinstance(locate("a:b/c"), Path)
    Bucket(Address(str(address))).put("o", b"1")
    assert [*Bucket(Address("s3://bkt/runs")).folders()] == ["a b=1~#%é"]
    assert [*Bucket(Address(str(address))).list()] == ["o"]


# Credentials


def assert_no_key(*texts: str | bytes) -> None:
    for text in texts:
        data = text if isinstance(text, bytes) else text.encode()
        assert not [name for name, value in KEYS.items() if value.encode() in data]


def test_keys_stand_in_nothing_that_is_written_printed_or_pickled(
    whole: str, server: Server, local_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    assert all(os.environ[name] == value for name, value in KEYS.items())
    caplog.set_level(logging.DEBUG)
    (tmp_path / "mine.py").write_text(MINE)
    line = ["run", f"{tmp_path}/mine.py:build", "--data", f"{tmp_path}/mine.py:data", "--out", "s3://bkt/canary"]
    kept = list[Path]()

    @contextlib.contextmanager
    def scratch(run: Any, way: str) -> Generator[Path]:
        kept.append(tmp_path / f"scratch-{len(kept)}")
        yield kept[-1]

    monkeypatch.setattr(extraction, "scratch_of", scratch)
    said: list[Shown] = [
        diagnose(*line, "--measures", "rankme", "--part", "1/1"),
        diagnose(*line, "--measures", "rankme", "--verbose"),
        diagnose("show", "s3://bkt/canary", "--full"),
        diagnose("runs", "s3://bkt", "--json"),
    ]
    assert [each.status for each in said] == [0] * 4, said
    for answer in ("403 InvalidAccessKeyId", "400 ExpiredToken", "418 Teapot"):  # whose answers quote them
        with server.failing(lambda method, path, answer=answer: answer):
            said += [diagnose("show", "s3://bkt/canary"), diagnose("--traceback", "show", "s3://bkt/canary")]
    assert {each.status for each in said[4:]} == {2}
    assert_no_key(*(text for each in said for text in each[1:]), *caplog.messages)
    there = Bucket(Address("s3://bkt"))
    everything = {name: there.get(name, 2**30) for name in there.list() if name.startswith("canary/")}
    assert len(everything) > 30
    assert_no_key(*everything, *everything.values())
    disk = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert disk
    assert_no_key(*(file.read_bytes() for file in disk))
    run = dx.open_run("s3://bkt/canary")
    request = Request(encoder="x", dataset="y", out=locate("s3://bkt/canary"))
    for thing in (run.store.folder, run.path, request, workers.Source(run.store.path, {}, False, "")):
        assert_no_key(pickle.dumps(thing), repr(thing))
    assert copy.deepcopy(run.store.folder).path == run.path


def test_the_canary_finds_a_key_that_is_there() -> None:
    with pytest.raises(AssertionError):
        assert_no_key(pickle.dumps({"task": KEYS["AWS_SECRET_ACCESS_KEY"]}))


def test_moto_honours_what_puts_are_made_new_by() -> None:
    """Without which nothing here would show that launches leave each other's parts alone."""
    there = Bucket(Address("s3://bkt"))
    there.put_new("once", b"1")
    with pytest.raises(FileExistsError):
        there.put_new("once", b"2")
    assert there.get("once", 9) == b"1"
    there.put("once", b"2")
    assert there.get("once", 9) == b"2"
