"""Extraction: killed at any moment, the same command gives the same bytes; what a model does wrong is named."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diagnostics import Dataset, Tap, Target
from diagnostics.activations.extract import extract
from diagnostics.activations.plan import row_order
from diagnostics.activations.shards import ShardBuffer
from diagnostics.activations.store import Store
from tests.support.refusals import refusal
from tests.support.stores import digests, planned
from tests.support.tiny import Trunk, tiny_dataset, tiny_encoder, tiny_image_encoder

N = 40


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from typing import Any
from tests.support.stores import planned
from tests.support.tiny import tiny_dataset, tiny_encoder
from diagnostics.activations.extract import extract
from diagnostics.activations.plan import row_order
encoder, dataset = tiny_encoder(), tiny_dataset({n})
seen = []
def watch(event):
    if getattr(event, "step", "").startswith("extracting"):
        print(event.done, flush=True)
        time.sleep({pause})
extract(encoder, dataset, Path(sys.argv[1]), planned(encoder, {n}), batch_size=3, watch=watch)
"""


def start(python: Path, run: Path, pause: float) -> subprocess.Popen[str]:
    code = SLOW.format(tests=str(Path(__file__).parents[1] / "support"), n=N, pause=pause)
    return subprocess.Popen([python, "-c", code, str(run)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_equals_undisturbed_to_the_bit(tmp_path: Path, warm_python: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    extract(encoder, dataset, tmp_path / "calm", planned(encoder, N), batch_size=3)
    rng = np.random.default_rng(0)
    run, counts = tmp_path / "killed", []
    for attempt in range(3):
        process = start(warm_python, run, 0.03)
        assert process.stdout is not None
        process.stdout.readline()  # the first batch is done; imports took most of the time before
        time.sleep(float(rng.uniform(0.0, 0.25)))
        # On a busy machine that may be before the first whole shard; the last kill comes after it.
        for _ in range(3000 if attempt == 2 else 0):
            if run.exists() and Store(run).rows_done:
                break
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()  # which ends when the copy behind it has
        if run.exists():
            counts.append(Store(run).rows_done)
    assert counts == sorted(counts)
    assert counts[-1] > 0, "no kill came after a whole shard: the test shows nothing"
    process = start(warm_python, run, 0.0)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    # Only what was missing is done again, from the start of the shard in hand.
    assert all(int(done) > counts[-1] for done in output.split())
    assert digests(run) == digests(tmp_path / "calm")
    assert Store(run).attrs["complete"]


def test_resuming_redoes_only_missing_shards(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    store = extract(encoder, dataset, tmp_path / "run", planned(encoder, N), batch_size=4)
    before = digests(store.path)
    store.set_attrs(complete=False)
    (store.path / "taps" / "blocks.0" / "tokens" / "c.2.0.0").unlink()
    encoder.module.passes = 0
    extract(encoder, dataset, store.path, planned(encoder, N), batch_size=4)
    assert encoder.module.passes == 3, "a shard of 8 rows is two batches of 4, and one pass over the example"
    assert digests(store.path) == before


def test_a_whole_store_costs_no_forward_pass(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    extract(encoder, dataset, tmp_path / "run", planned(encoder, N))
    encoder.module.passes = 0
    extract(encoder, dataset, tmp_path / "run", planned(encoder, N))
    assert encoder.module.passes == 1, "over the example, to see that the encoder still does the same"


def test_a_batch_is_never_larger_than_the_data(tmp_path: Path) -> None:
    """Memory is taken for a batch before the first one: 51 TB of it were asked for."""
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    calm = extract(encoder, dataset, tmp_path / "calm", planned(encoder, N, budget=0), batch_size=N)
    large = extract(encoder, dataset, tmp_path / "large", planned(encoder, N, budget=0), batch_size=99_999_999_999)
    assert digests(large.path) == digests(calm.path)


def test_workers_are_not_forked_where_that_is_not_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with refusal("unsupported"):
        extract(tiny_encoder(), tiny_dataset(N), tmp_path / "run", planned(tiny_encoder(), N), workers=1)


def test_workers_give_the_same_bytes(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    for name, workers in (("none", 0), ("two", 2)):
        extract(encoder, dataset, tmp_path / name, planned(encoder, N), batch_size=4, workers=workers)
    assert digests(tmp_path / "none") == digests(tmp_path / "two")


def test_nothing_is_written_before_the_cost_is_known(tmp_path: Path) -> None:
    encoder, seen = tiny_encoder(), []

    def before(seconds: float, again: int, dense: Any) -> None:
        assert again == 0
        seen.append((seconds, (tmp_path / "run").exists()))

    extract(encoder, tiny_dataset(N), tmp_path / "run", planned(encoder, N), before_first_byte=before)
    assert len(seen) == 1
    assert seen[0][0] > 0
    assert seen[0][1] is False


def test_a_slow_first_batch_is_not_taken_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a GPU is, and of files that are opened; a short extraction's first batch is taken as it is."""
    dataset, said = tiny_dataset(N), list[float]()
    slow = int(row_order(N)[:8].max())

    class Samples:
        def __len__(self) -> int:
            return N

        def __getitem__(self, index: int) -> np.ndarray:
            time.sleep(0.5 * (index == slow))
            return array[index]

    array, dataset.samples = dataset.samples, Samples()
    for name, long in (("long", 0), ("short", 60)):
        monkeypatch.setattr("diagnostics.activations.extract.LONG", long)
        options = {"batch_size": 8, "before_first_byte": lambda seconds, again, dense: said.append(seconds)}
        extract(tiny_encoder(), dataset, tmp_path / name, planned(tiny_encoder(), N, budget=0), **options)
    assert said[0] < 0.5 / 8 <= said[1]
    assert digests(tmp_path / "long") == digests(tmp_path / "short")


def test_nan_names_what_it_comes_from_and_leaves_nothing(tmp_path: Path) -> None:
    encoder, gap, large = tiny_encoder(), tiny_dataset(N), tiny_dataset(N)
    gap.samples[7, 3] = np.nan
    large.samples[7, 3] = 3e38
    with refusal("not-finite", "s7") as of_sample:
        extract(encoder, gap, tmp_path / "run", planned(encoder, N), batch_size=N)
    assert "embed" not in str(of_sample.value), "the model is not to blame"
    gap.ragged = True  # NaN fills what is shorter than others
    with refusal("not-finite", "s7", "length", "preprocess=", "valid="):
        extract(encoder, gap, tmp_path / "run", planned(encoder, N), batch_size=N)
    with refusal("not-finite", "s7", "tap"):
        extract(encoder, large, tmp_path / "run", planned(encoder, N), batch_size=N)
    with torch.no_grad():
        encoder.module.blocks[1].outer.bias[:] = torch.nan
    with refusal("not-finite", "blocks.1", "for all", "its weights"):
        extract(encoder, tiny_dataset(N), tmp_path / "run", planned(encoder, N), batch_size=N)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "seen"), [(torch.nan, True), (torch.inf, True), (-torch.inf, False), (1.0, False)])
def test_what_the_model_returns_is_finite_too(tmp_path: Path, value: float, seen: bool) -> None:
    """One sample's own is not, behind all taps; -inf is what is masked."""
    odd = tiny_dataset(N)

    class Behind(Trunk):
        def forward(self, x: Tensor) -> Tensor:
            given = super().forward(x)
            given[(x == torch.from_numpy(odd.samples[7] / 2)).flatten(1).all(1), 0, 0] = value
            return given

    encoder = tiny_encoder().with_module(Behind(torch.nn.Conv1d(1, 8, 4, 4), 8, 3), "behind")
    with refusal("not-finite", "behind returns", "its forward") if seen else contextlib.nullcontext():
        extract(encoder, odd, tmp_path / "run", planned(encoder, N), batch_size=N)


def test_nan_in_a_prefix_token_alone_is_seen(tmp_path: Path) -> None:
    encoder = tiny_image_encoder()
    with torch.no_grad():
        encoder.module.prefix[0, 1, 0] = torch.inf  # a register: no pooling reads it
    with refusal("not-finite", "embed"):
        extract(encoder, tiny_dataset(N, "image"), tmp_path / "run", planned(encoder, N))


@pytest.mark.parametrize("meanwhile", ["waiting", "in a pass"])
def test_a_worker_that_the_system_kills_is_one_sentence(tmp_path: Path, meanwhile: str) -> None:
    """Wherever this process is when it hears of that: torch raises its error right there, also within the encoder."""
    whole, here = tiny_dataset(N), os.getpid()

    class Samples:
        read = 0

        def __len__(self) -> int:
            return N

        def __getitem__(self, index: int) -> Any:
            self.read += os.getpid() != here
            # Of the first batch; or of the third, which is prepared during the first pass.
            if self.read == (2 if meanwhile == "waiting" else 9):
                os.kill(os.getpid(), signal.SIGKILL)
            return whole[index]

    def passing(module: Any, batch: Any) -> Any:
        for worker in multiprocessing.active_children() if len(batch) == 4 else ():
            assert worker.pid
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        return module(batch)

    dataset = Dataset("mine", "series", Samples(), list(whole.ids), list(whole.split), whole.targets)
    with refusal("process-ended", "mine"):
        extract(
            tiny_encoder(forward=passing),
            dataset,
            tmp_path / "run",
            planned(tiny_encoder(), N),
            batch_size=4,
            workers=1,
        )
    extract(tiny_encoder(), dataset, tmp_path / "run", planned(tiny_encoder(), N), batch_size=4).check_whole()


def test_torch_hears_of_other_workers_again(tmp_path: Path) -> None:
    """Of a training's own, say: after an extraction its handler is back."""
    dataset = tiny_dataset(N)
    next(iter(DataLoader([0, 1], num_workers=1)))
    handler = signal.getsignal(signal.SIGCHLD)
    assert callable(handler)
    extract(tiny_encoder(), dataset, tmp_path / "run", planned(tiny_encoder(), N), workers=1)
    assert signal.getsignal(signal.SIGCHLD) is handler


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_prepared_is_named(tmp_path: Path, workers: int) -> None:
    encoder = tiny_encoder()
    series = [np.zeros(32, dtype=np.float32) for _ in range(10)]
    series[4] = np.zeros(12, dtype=np.float32)
    dataset = Dataset(
        "odd",
        "series",
        series,
        [f"s{i}" for i in range(10)],
        ["train"] * 6 + ["val"] * 2 + ["test"] * 2,
        {"y": Target("value", np.zeros(10))},
    )
    with refusal("bad-sample", "s4", "(12,)"):
        extract(encoder, dataset, tmp_path / "run", planned(encoder, 10), workers=workers)


def test_padding_beside_the_crop_never_becomes_a_target(tmp_path: Path) -> None:
    """A dense target is cut as `covers` says: here the encoder sees the middle half of the image alone."""
    encoder = tiny_image_encoder(covers=lambda extent: tuple((n / 4, 3 * n / 4) for n in extent))
    dataset = tiny_dataset(20, "image")
    ramp = np.broadcast_to(np.arange(16.0), (20, 16, 16)).copy()
    dataset.targets = {"x": Target("token_value", ramp)}
    store = extract(encoder, dataset, tmp_path / "run", planned(encoder, 20))
    # Four cells over pixels 4..12: two pixels each.
    np.testing.assert_allclose(store.targets()["x"].on_grid[4, 4][0, :4], [4.5, 6.5, 8.5, 10.5])


def test_variates_folded_into_the_batch_are_refused(tmp_path: Path) -> None:
    """Twice the rows would overwrite other samples' rows, with no other sign than wrong scores."""
    encoder = tiny_encoder(forward=lambda module, batch: module(torch.cat([batch, batch])))
    with refusal("bad-tap", "embed", "tiny"):
        extract(encoder, tiny_dataset(N), tmp_path / "run", planned(encoder, N))
    assert not (tmp_path / "run").exists()


def test_code_that_computes_something_else_with_the_same_weights_is_noticed(tmp_path: Path) -> None:
    extract(tiny_encoder(), tiny_dataset(N), tmp_path / "run", planned(tiny_encoder(), N))
    other = tiny_encoder(forward=lambda module, batch: module(1.5 * batch))
    with refusal("other-run", "embed"):
        extract(other, tiny_dataset(N), tmp_path / "run", planned(other, N))


def test_a_failure_after_whole_shards_can_be_gone_on_with(tmp_path: Path) -> None:
    """Out of memory, say: a smaller batch is no other identity."""
    calls = 0

    def forward(module: torch.nn.Module, batch: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:  # the example, two batches of the first shard, then in the second
            raise RuntimeError("out of memory")
        module(batch)

    encoder = tiny_encoder(forward=forward)
    with refusal("foreign-error", "out of memory"):
        extract(encoder, tiny_dataset(N), tmp_path / "run", planned(encoder, N), batch_size=4)
    store = extract(encoder, tiny_dataset(N), tmp_path / "run", planned(encoder, N), batch_size=2)
    assert store.attrs["complete"]


@pytest.mark.parametrize(("most", "again"), [(2**28, 0), (0, 1)])
def test_a_first_batch_passes_again_only_where_its_tokens_are_too_many_to_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, again: int
) -> None:
    monkeypatch.setattr("diagnostics.activations.extract.MOST_HELD", most)
    encoder, dataset, given = tiny_encoder(), tiny_dataset(N), list[tuple[str, np.ndarray, torch.Tensor]]()

    def take(_: Any, rows: np.ndarray, tap: Tap, tokens: torch.Tensor) -> None:
        given.append((tap.name, rows, tokens.clone()))

    encoder.module.passes = 0
    plan = planned(encoder, N)
    store = extract(encoder, dataset, tmp_path / "run", plan, batch_size=8, along=lambda store: take)
    batches = sum(-(-len(step) // 8) for step in plan.steps(8))
    assert encoder.module.passes == 1 + batches + again
    assert len(given) == batches * len(plan.taps), "each batch once"
    for tap in plan.taps:
        rows, tokens = zip(*((rows, tokens) for name, rows, tokens in given if name == tap.name), strict=True)
        kept = dict(zip(np.concatenate(rows).tolist(), torch.cat(tokens), strict=True))
        for block, stored in store.token_blocks(tap.name):
            grid = torch.stack([kept[row][tap.grid.prefix :] for row in range(block.start, block.stop)])
            np.testing.assert_array_equal(grid, stored)


def test_memory_for_tokens_is_free_once_the_last_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, alive = list[weakref.ref[Any]](), list[int]()

    def remembered(layout: Any) -> ShardBuffer:
        made.append(weakref.ref(buffer := ShardBuffer(layout)))
        return buffer

    def look(_: Any, rows: np.ndarray, tap: Tap, tokens: torch.Tensor) -> None:
        alive.append(sum(each() is not None for each in made))

    monkeypatch.setattr("diagnostics.activations.batches.ShardBuffer", remembered)
    plan = dataclasses.replace(planned(encoder := tiny_encoder(), N), token_samples=16)
    extract(encoder, tiny_dataset(N), tmp_path / "run", plan, along=lambda store: look)
    assert made and alive[0] == len(made) and alive[-1] == 0


@pytest.mark.parametrize("in_pass", [False, True])
def test_memory_that_runs_out_along_with_the_extraction_is_one_sentence(tmp_path: Path, in_pass: bool) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(N)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    with refusal("foreign-error", encoder.name):
        along = (lambda _: full) if in_pass else full
        extract(encoder, dataset, tmp_path / "run", planned(encoder, N), along=along)
    assert not (tmp_path / "run").exists()
    assert extract(encoder, dataset, tmp_path / "run", planned(encoder, N)).complete
