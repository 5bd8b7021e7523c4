"""Streamed targets by several launches: sums and judgements joined to what one process has, to the last digit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from diagnostics.activations.folder import Folder
from diagnostics.activations.metadata import STREAMED
from diagnostics.activations.parts import Launch, Left
from diagnostics.activations.run_files import files_of_run
from diagnostics.activations.store import Store
from diagnostics.errors import StorageError
from diagnostics.measures.probes.average_precision import Matches, pack_matches, unpack_matches
from diagnostics.runs.extraction import WaitingError, extract_parts
from diagnostics.runs.options import Request
from diagnostics.runs.streaming import block_sums, stream
from tests.runs.test_token_probes import images
from tests.support.commands import diagnose
from tests.support.refusals import refusal
from tests.support.tiny import tiny_image_encoder

N = 264
OPTIONS: dict[str, Any] = {
    "measures": ["linear_probe", "segmentation_probe", "self_similarity"],
    "dense": "streamed",
    # A part has two rows with tokens, which are not passed again.
    "token_budget": "40kB",
    "taps": "blocks.1",
    "controls": False,
    "choose_on": "val",
}
WHOLE = {"parts": 8, "missing": [], "unjudged": []}


def data() -> dx.Dataset:
    made = images(N)
    for name in set(made.targets) - {"height", "scene"}:
        del made.targets[name]
    return made


def launched(out: Path, *launches: str, watch: Any = dx.silent, **more: Any) -> dict[str, Any]:
    """What the last of some launches says."""
    done = dict[str, Any]()
    for launch in launches:
        request = Request(encoder=tiny_image_encoder(), dataset=data(), out=out, **OPTIONS | more)
        done = extract_parts(request, Launch.of(launch), watch)
    return done


def measured(out: Path, **more: Any) -> dict[str, Any]:
    """What `--json` prints of the command that measures, but for what is of a call or a place."""
    run = dx.run(tiny_image_encoder(), data(), out=out, report=False, watch=dx.silent, **OPTIONS | more)
    return found(run)


def found(run: dx.Run) -> dict[str, Any]:
    values = run.to_json()
    apart = ("path", "run", "calls", "created", "bytes", "report")
    return json.loads(json.dumps({key: value for key, value in values.items() if key not in apart}, default=str))


@pytest.fixture(autouse=True)
def local_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return measured(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which the first pass is whole, and of the second the share of one of two launches is done."""
    out = tmp_path_factory.mktemp("first") / "run"
    assert launched(out, "2/2")["tiny-image"] == {"parts": 8, "missing": [1, 3, 5, 7], "unjudged": [*range(1, 9)]}
    assert launched(out, "1/2")["tiny-image"] == WHOLE | {"unjudged": [2, 4, 6, 8]}
    return out


@pytest.fixture
def begun(first: Path, tmp_path: Path) -> Path:
    return shutil.copytree(first, tmp_path / "run")


@pytest.mark.parametrize("count", [1, 3, 5])
def test_any_number_of_launches_gives_the_numbers_of_one_process(
    count: int, plain: dict[str, Any], tmp_path: Path
) -> None:
    out, launches = tmp_path / "run", [f"{i}/{count}" for i in range(count, 0, -1)]
    launched(out, *launches)
    assert launched(out, *launches[:-1], launches[-1])["tiny-image"] == WHOLE
    assert measured(out) == plain
    assert not (out / STREAMED).exists()


def test_sums_are_those_of_one_process_where_their_order_decides_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples whose tokens differ by factors of a million: their sums are not exact."""
    near = block_sums.on_grid
    monkeypatch.setattr(
        block_sums,
        "on_grid",
        lambda tokens, tap, dense: near(tokens, tap, dense) * 10 ** (tokens[:, :1, :1] * 6).clamp(-3, 3),
    )
    more: dict[str, Any] = {"measures": "linear_probe", "token_budget": 0}
    launched(tmp_path / "run", "1/2", "2/2", **more)
    measured(tmp_path / "plain", **more)
    runs = [Store(tmp_path / name) for name in ("run", "plain")]
    names = sorted(path.name for path in (tmp_path / "plain" / "observed").iterdir() if path.is_dir())
    assert len(names) == 10
    for name in names:
        one, other = (run.observation_arrays(name) for run in runs)
        for tap in one:
            np.testing.assert_array_equal(one[tap], other[tap])


def test_the_plain_command_does_what_is_missing_of_either_pass(
    begun: Path, plain: dict[str, Any], tmp_path: Path
) -> None:
    assert measured(begun) == plain
    launched(tmp_path / "half", "1/2")
    assert measured(tmp_path / "half") == plain


@pytest.mark.parametrize("moment", ["gather_ranges", "judge_ranges"])
def test_of_two_plain_commands_at_once_the_later_goes_on_after_the_other_has_removed_what_was_left(
    begun: Path, plain: dict[str, Any], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, waits = getattr(stream._Passes, moment), [True]

    def meanwhile(passes: Any, *arguments: Any) -> Any:
        done = own(passes, *arguments)
        if waits and waits.pop():
            assert measured(begun) == plain
            assert not (begun / STREAMED).exists()
        return done

    monkeypatch.setattr(stream._Passes, moment, meanwhile)
    assert measured(begun) == plain
    assert not (begun / STREAMED).exists()


def test_a_file_that_another_command_removed_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    folder.put("a", b"")
    own = Folder.head
    # It goes between the look and the removal.
    monkeypatch.setattr(Folder, "head", lambda self, name: (own(self, name), (tmp_path / name).unlink())[0])
    folder.delete(["a"])
    assert not (tmp_path / "a").exists()


def test_out_of_fold_the_numbers_are_the_same(tmp_path: Path) -> None:
    more: dict[str, Any] = {"choose_on": "fit", "measures": "segmentation_probe", "token_budget": 0}
    for _ in range(2):
        launched(tmp_path / "run", "1/2", "2/2", **more)
    assert measured(tmp_path / "run", **more) == measured(tmp_path / "plain", **more)


@pytest.mark.slow
def test_of_controls_the_numbers_are_the_same(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "controls": True,
        "measures": "segmentation_probe",
        "token_budget": 0,
        "control_samples": 150,
    }
    for _ in range(2):
        done = launched(tmp_path / "run", "1/2", "2/2", **more)
    assert {"tiny-image", "fresh_weights", "permuted_weights", "raw_input"} <= set(done)
    assert not any(of["missing"] or of["unjudged"] for of in done.values()), done
    assert measured(tmp_path / "run", **more) == measured(tmp_path / "plain", **more)


def test_a_launch_given_again_before_the_first_pass_is_whole_names_what_is_missing(tmp_path: Path) -> None:
    launched(tmp_path / "run", "2/2")
    with refusal("unfinished", "1, 3, 5, 7", kind=WaitingError):
        launched(tmp_path / "run", "2/2")
    assert launched(tmp_path / "run", "9/9")["tiny-image"]["missing"] == [1, 3, 5, 7], "a launch without a part"
    with refusal("unfinished", "1, 3, 5, 7"):
        dx.open_run(tmp_path / "run")


def test_the_exit_status_of_a_launch_that_waits(tmp_path: Path) -> None:
    (file := tmp_path / "mine.py").write_text(
        "from tests.runs.test_streamed_parts import data\nfrom tests.support.tiny import tiny_image_encoder as build\n"
    )
    line = ["run", f"{file}:build", "--data", f"{file}:data", "--out", tmp_path / "run", "--no-controls"]
    line += ["--dense", "streamed", "--measures", "segmentation_probe", "--taps", "embed", "--part", "8/8"]
    assert [diagnose(*line).status for _ in range(2)] == [0, 3]


class Killed(BaseException):
    """As a signal that nothing catches."""


@pytest.mark.parametrize(("step", "count"), [("extracting", 50), ("reading rest", 3)])
def test_a_killed_launch_costs_the_range_in_hand(
    step: str, count: int, plain: dict[str, Any], first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, steps = tmp_path / "run", list[str]()
    if step != "extracting":
        shutil.copytree(first, out)

    def stop(event: Any) -> None:
        steps.append(event.step)
        if event.step.startswith(step) and event.done >= count:
            raise Killed

    with pytest.raises(Killed):
        launched(out, "2/2", watch=lambda event: stop(event) if hasattr(event, "step") else None)
    gathered = list[str]()
    each = stream._Passes.each
    monkeypatch.setattr(stream._Passes, "each", lambda self, *given: (gathered.append(given[2]), each(self, *given)))
    launched(out, "2/2")
    if step == "extracting":
        # In the second of its parts, of which the first batches had passed.
        assert [text.split()[2] for text in gathered if text.startswith("summing")] == ["4"]
    launched(out, "1/2", "2/2")
    assert measured(out) == plain


def test_with_little_memory_ranges_are_summed_block_by_block_to_the_same_digits(
    plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(block_sums, "free_bytes", lambda: 1000)
        launched(tmp_path / "run", "1/1")
    assert measured(tmp_path / "run") == plain


def test_what_launches_left_is_compared_checked_and_listed(begun: Path) -> None:
    store, folder = Store(begun), Folder(begun)
    names = {name for name in folder.list() if name.startswith(STREAMED)}
    assert names and names <= files_of_run(folder)
    left = Left(store, "1")
    left.put("some", {"values": np.arange(3)})
    left.put("some", {"values": np.arange(3)})
    np.testing.assert_array_equal(left.get("some")["values"], np.arange(3))
    np.testing.assert_array_equal(left.agree("some", {"values": np.zeros(2)})["values"], np.arange(3))
    with refusal("other-run", "some", kind=StorageError):
        left.put("some", {"values": np.arange(4)})
    assert not Left(store, "2").has("some"), "of another version"
    path = next(begun.glob(f"{STREAMED}/*/val-*"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with refusal("damaged", path.name, kind=StorageError):
        measured(begun)


class Here:
    """An executor that does each task at once."""

    def __init__(self) -> None:
        self.launches = list[str]()

    def submit(self, act: Any, /, *args: Any) -> Here:
        self.launches.append(args[1])
        act(*args)
        return self

    def result(self) -> None:
        """Nothing."""


def test_an_executor_does_both_passes(plain: dict[str, Any], tmp_path: Path) -> None:
    (file := tmp_path / "mine.py").write_text(
        "from tests.runs.test_streamed_parts import data\nfrom tests.support.tiny import tiny_image_encoder as build\n"
    )
    executor = Here()
    options: dict[str, Any] = {"out": tmp_path / "run", "report": False, "watch": dx.silent, "executor": executor}
    run = dx.run(f"{file}:build", f"{file}:data", **OPTIONS | options)
    # The last one of the first pass finds it whole, and goes on.
    assert executor.launches == [f"{i}/8" for i in (*range(1, 9), *range(1, 8))]
    assert found(run)["profiles"] == plain["profiles"]


def test_matches_are_arrays_and_back() -> None:
    rng = np.random.default_rng(0)

    def match(boxes: int, areas: int) -> Matches:
        bits = rng.integers(0, 255, (2, areas, 2, boxes), dtype=np.uint8)
        return Matches(rng.random(boxes), rng.integers(0, 3, boxes), *bits, np.ones((areas, 3), np.int16))

    matches = [match(boxes, areas) for boxes, areas in ((2, 1), (0, 1), (3, 4))]
    for before, after in zip(matches, unpack_matches(pack_matches(matches)), strict=True):
        for name, values in vars(before).items():
            np.testing.assert_array_equal(values, getattr(after, name))
            assert values.dtype == getattr(after, name).dtype
