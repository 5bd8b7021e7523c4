"""Pooled values: few files however wide the encoder, read once, and after a kill nothing is lost but the step in hand."""

from __future__ import annotations

import dataclasses
import subprocess
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from diagnostics import Dataset, Encoder, Grid, Tap, Target
from diagnostics.activations.cache import Kept
from diagnostics.activations.extract import extract
from diagnostics.activations.folder import Folder
from diagnostics.activations.plan import Plan, plan, row_order
from diagnostics.activations.store import Store
from diagnostics.encoders.encoder import Reduce, keep
from diagnostics.measures.apply import measure_all
from diagnostics.runs.setup import select_measures
from tests.support.stores import digests, planned
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

N = 40


class Wide(Encoder):
    """Taps of PE-G's width and grid; one token stands for all of its grid, since only their mean is kept."""

    name, modality = "wide", "image"

    def __init__(self, taps: int) -> None:
        grid = Grid((32, 32), ("y", "x"))
        self.taps = tuple(Tap(f"blocks.{i}", (i + 1) / taps, "trunk", 1536, grid) for i in range(taps))
        self.output_tap = self.taps[-1].name

    @property
    def identity(self) -> Mapping[str, str]:
        return {"weights": "none", "configuration": "wide", "preprocessing": "none"}

    def example(self) -> np.ndarray:
        return np.zeros((4, 4), np.uint8)

    def preprocess(self, sample: np.ndarray) -> Any:
        return torch.tensor(float(sample[0, 0]))

    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        places = torch.arange(1536)
        return {tap.name: reduce(tap, (batch[:, None, None] + i * places).float()) for i, tap in enumerate(self.taps)}


def test_a_wide_encoder_has_few_files_a_tap(tmp_path: Path) -> None:
    """PE-G's layout, 2,000 samples and no tokens: at most 12 files a tap, metadata and all."""
    n, encoder = 2000, Wide(2)
    samples = np.random.default_rng(0).integers(0, 256, (n, 4, 4), dtype=np.uint8)
    split = np.resize(np.array(["train", "val", "test"], dtype=object), n)
    dataset = Dataset("wide", "image", samples, [str(i) for i in range(n)], split, {"y": Target("value", np.zeros(n))})
    store = extract(encoder, dataset, tmp_path / "run", plan(encoder, encoder.taps, n, 0, "float32"))
    assert all(sum(path.is_file() for path in tap.rglob("*")) <= 12 for tap in (store.path / "taps").glob("blocks.*"))
    for i, tap in enumerate(encoder.taps):
        wanted = samples[[dataset.ids.index(name) for name in store.ids], 0, 0][:, None] + i * np.arange(1536)
        np.testing.assert_array_equal(store.pooled(tap.name), wanted)


@pytest.mark.parametrize(("features", "tokens", "prefix"), [(8, 8, 0), (384, 1370, 1), (1024, 577, 1), (1536, 1024, 0)])
@pytest.mark.parametrize("n", [20, 2000, 50_000])
@pytest.mark.parametrize("budget", [0, 256 * 10**6])
def test_a_part_has_at_most_4_mib_and_256_samples_have_8(
    features: int, tokens: int, prefix: int, n: int, budget: int
) -> None:
    encoder = tiny_image_encoder()
    taps = [Tap(f"b.{i}", i / 49, "trunk", features, Grid((tokens,), ("t",), prefix)) for i in range(50)]
    wanted = plan(encoder, taps, n, budget, "float32", ["mean"])
    layout = wanted.layouts(taps[0])["pooled"]
    assert layout.length <= 4 * 2**20 + 100
    fewest = max(int(np.ceil(n * features * 4 / 2**22)), 8 if n >= 256 else 1)
    assert fewest <= wanted.parts == layout.shards <= 1.5 * fewest
    assert wanted.parts == 1 or wanted.pooled_shard % wanted.shard == 0


def test_token_rows_are_dealt_evenly_over_parts_and_every_row_has_one_position() -> None:
    """Whatever the number of samples, with tokens of none, few, most and all of them."""
    encoder = tiny_encoder()
    for n in (1, 8, 255, 256, 257, 289, 300, 1000, 1024):
        for kept in {0, min(n, 5), min(n, 64), n // 2, n - 1, n}:
            wanted = plan(encoder, encoder.taps, n, None, "float32", with_tokens=kept)
            assert wanted.parts >= (8 if n >= 256 else 1)
            np.testing.assert_array_equal(np.sort(wanted.order), np.arange(n))
            np.testing.assert_array_equal(wanted.order[wanted.rows], np.arange(n))
            shards = [len(wanted.token_shards(part)) for part in range(wanted.parts)]
            assert max(shards[:-1], default=0) - min(shards[:-1], default=0) <= 1
            steps = list(wanted.steps(16))
            assert [step.shard for step in steps if step.shard is not None] == list(range(sum(shards)))
            rows = [row for step in steps for row in range(step.rows.start, step.rows.stop)]
            assert rows == list(range(n))
            for step in steps:
                positions = wanted.order[step.rows]
                tokens = np.arange(len(step)) + (step.shard or 0) * wanted.shard
                assert (positions >= kept).all() if step.shard is None else (positions == tokens).all()
                assert step.rows.start // wanted.pooled_shard == (step.rows.stop - 1) // wanted.pooled_shard


def test_what_is_stored_part_by_part_is_read_by_position(tmp_path: Path) -> None:
    """Ids, pooled values and tokens of 264 samples in 8 parts, of which 9 rows have tokens."""
    encoder, dataset = tiny_encoder(blocks=1), tiny_dataset(264)
    wanted = plan(encoder, encoder.taps, 264, None, "float32", with_tokens=9)
    store = extract(encoder, dataset, tmp_path / "run", wanted)
    assert [str(name) for name in store.ids] == [str(dataset.ids[i]) for i in row_order(264)]
    batch = torch.stack([encoder.preprocess(dataset[i]) for i in row_order(264)])
    given = encoder.capture(batch, ["norm"])["norm"].numpy()
    np.testing.assert_allclose(store.pooled("norm", "mean"), given.mean(axis=1), rtol=1e-4, atol=1e-5)
    tokens = np.concatenate([values for _, values in store.token_blocks("norm")])
    np.testing.assert_allclose(tokens, given[:9], rtol=1e-4, atol=1e-5)
    # As who reads it without this package finds the same.
    root = zarr.open_group(store.path, mode="r")
    rows = np.asarray(root["samples/token_row"])
    assert len({row // wanted.pooled_shard for row in rows}) == 5, "two in a shard, no shard in three parts"
    assert [root["samples/id"][int(row)] for row in rows] == list(store.ids[:9])
    pooled = np.asarray(root["taps/norm/pooled"])[rows, store.poolings.index("mean")]
    np.testing.assert_allclose(pooled, np.asarray(root["taps/norm/tokens"]).mean(axis=1), rtol=1e-4, atol=1e-5)


def test_two_hundred_taps(tmp_path: Path) -> None:
    """Interrupted once, opened, and read at both ends."""
    encoder, dataset = tiny_encoder(blocks=198), tiny_dataset(20)
    wanted = plan(encoder, encoder.taps, 20, 10**9, "float32")
    assert len(encoder.taps) == 200
    with pytest.raises(KeyboardInterrupt):
        extract(encoder, dataset, tmp_path / "run", wanted, batch_size=8, watch=interrupted(20))
    store = Store(extract(encoder, dataset, tmp_path / "run", wanted, batch_size=8).path)
    store.check_whole()
    batch = torch.stack([encoder.preprocess(dataset[dataset.ids.index(name)]) for name in store.ids])
    for tap in ("embed", "blocks.100", "norm"):
        given = encoder.capture(batch, [tap])[tap].numpy()
        np.testing.assert_allclose(store.pooled(tap, "mean"), given.mean(axis=1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(next(store.token_blocks(tap))[1], given, rtol=1e-4, atol=1e-5)


def test_measuring_reads_each_taps_pooled_values_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a target: every pooled measure of the standard suite, on three targets."""
    opened, reading = list[str](), Folder.reading
    monkeypatch.setattr(Folder, "reading", lambda self, name, flag=0: opened.append(name) or reading(self, name, flag))
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    dataset.targets["other"] = Target("value", np.random.default_rng(0).normal(size=N))
    store = extract(encoder, dataset, tmp_path / "run", planned(encoder, N, budget=0))
    measures, _ = select_measures(None)
    measured = measure_all([m for m in measures if m.needs == "pooled"], store, store.targets())
    assert {f"linear_probe/{name}" for name in dataset.targets} <= set(measured.results)
    read = Counter(name for name in opened if "/pooled/c." in name)
    assert read == {f"taps/{tap.name}/pooled/c.{shard}.0.0": 1 for tap in store.taps for shard in range(3)}


def test_what_is_handed_out_is_the_callers(tmp_path: Path) -> None:
    store = extract(tiny_encoder(), tiny_dataset(N), tmp_path / "run", planned(tiny_encoder(), N))
    first = store.pooled("norm")
    before = first.copy()
    first[:] = 7
    store.pooled("norm", "mean")[:] = 7
    np.testing.assert_array_equal(store.pooled("norm"), before)


def test_what_is_kept_is_bounded_and_goes_with_its_owner() -> None:
    kept, read = Kept(100), list[str]()

    def value(name: str, size: int = 5) -> np.ndarray:
        return kept.get("a", name, lambda: (read.append(name), np.zeros(size))[1])

    value("one"), value("two"), value("one")
    assert read == ["one", "two"]
    value("three")  # 120 bytes: what was asked for longest ago goes
    value("one"), value("two")
    assert read == ["one", "two", "three", "two"]
    value("large", 20), value("large", 20)
    assert read[-2:] == ["large", "large"], "what does not fit is not kept"
    value("one")
    kept.get("b", "one", lambda: np.zeros(5))
    kept.forget("a")
    value("one")
    assert read[-1] == "one"
    assert kept.get("b", "one", lambda: np.ones(5)).sum() == 0


def test_an_owner_may_go_while_something_is_being_kept() -> None:
    kept = Kept(100)

    class Collected(np.ndarray):
        """Asked for its size within `get`, as if memory were collected there and a store with it."""

        @property
        def nbytes(self) -> int:
            kept.forget("a")
            return 8 * self.size

    def work() -> None:
        kept.get("a", "one", lambda: np.zeros(5))
        kept.get("b", "one", lambda: np.zeros(5).view(Collected))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for itself"
    assert kept.get("a", "one", lambda: np.ones(5)).sum() == 5, "gone"


def interrupted(after: int) -> Any:
    """Watches an extraction and breaks it off when so many samples are done."""

    def watch(event: Any) -> None:
        if getattr(event, "done", 0) >= after:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("budget", [0, 12_000])
def test_an_interrupt_loses_at_most_one_batch_of_pooled_work(tmp_path: Path, budget: int) -> None:
    """A shard of pooled values is 32 of 40 rows here, so ten batches; with 8 rows of tokens the first two are one step."""
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    wanted = dataclasses.replace(planned(encoder, N, budget=budget), pooled_shard=32)
    assert wanted.token_samples == (8 if budget else 0)
    calm = extract(encoder, dataset, tmp_path / "calm", wanted, batch_size=4)
    for done in range(4, N + 4, 4):
        run = tmp_path / f"run{done}"
        with pytest.raises(KeyboardInterrupt):
            extract(encoder, dataset, run, wanted, batch_size=4, watch=interrupted(done))
        kept = done - 4 if done - 4 >= wanted.token_samples else 0
        assert Store(run).rows_done == kept
        encoder.module.passes = 0
        extract(encoder, dataset, run, wanted, batch_size=4)
        assert encoder.module.passes == 1 + (N - kept) // 4, "and one over the example"
        assert digests(run) == digests(calm.path)


def half_done(path: Path, wanted: Plan, rows: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        extract(tiny_encoder(), tiny_dataset(N), path, wanted, batch_size=4, watch=interrupted(rows + 4))
    return path


def test_a_journal_that_was_cut_off_or_damaged_counts_as_far_as_it_holds(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    wanted = dataclasses.replace(planned(encoder, N, budget=0), pooled_shard=N)
    calm = extract(encoder, dataset, tmp_path / "calm", wanted, batch_size=4)
    run = half_done(tmp_path / "run", wanted, 16)
    (journal,) = run.glob(".pooled.*")
    whole = journal.read_bytes()
    record = len(whole) // 4
    assert Store(run).rows_done == 16
    rng = np.random.default_rng(0)
    for length in [0, 1, 7, 8, record - 1, record, record + 5, len(whole) - 1, *rng.integers(0, len(whole), 10)]:
        journal.write_bytes(whole[:length])
        assert Store(run).rows_done == length // record * 4
    for place in [0, 4, *rng.integers(0, len(whole), 30)]:
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        journal.write_bytes(data)
        assert Store(run).rows_done == place // record * 4
    # What is left of the last flip is gone on with.
    extract(encoder, dataset, run, wanted, batch_size=4)
    assert digests(run) == digests(calm.path)


def test_a_journal_of_another_run_or_shard_counts_as_none(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    wanted = dataclasses.replace(planned(encoder, N, budget=0), pooled_shard=24)
    calm = extract(encoder, dataset, tmp_path / "calm", wanted, batch_size=4)
    run = half_done(tmp_path / "run", wanted, 8)
    other = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        extract(tiny_encoder(1), dataset, other, wanted, batch_size=4, watch=interrupted(12))
    own = (run / ".pooled.0.partial").read_bytes()
    assert Store(run).rows_done == 8
    (run / ".pooled.0.partial").write_bytes((other / ".pooled.0.partial").read_bytes())
    assert Store(run).rows_done == 0
    (run / ".pooled.1.partial").write_bytes(own)
    assert Store(run).rows_done == 0
    extract(encoder, dataset, run, wanted, batch_size=4)
    assert digests(run) == digests(calm.path)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def test_shards_that_are_gone_cut_short_or_changed_in_an_unfinished_run_are_done_again(tmp_path: Path) -> None:
    """As a power cut may leave them: a flipped bit in a finished shard of tokens was taken over."""
    encoder, dataset = tiny_encoder(), tiny_dataset(N)
    calm = extract(encoder, dataset, tmp_path / "calm", planned(encoder, N), batch_size=4)
    before = digests(calm.path)
    for name in ("taps/norm/pooled/c.0.0.0", "taps/embed/tokens/c.4.0.0"):
        for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:100]), flipped):
            calm.set_attrs(complete=False)
            damage(calm.path / name)
            extract(encoder, dataset, calm.path, planned(encoder, N), batch_size=4)
            assert digests(calm.path) == before


KILLED = """
import os, signal, sys, hashlib
sys.path.insert(0, {tests!r})
import dataclasses, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.support.stores import digests
from tests.support.stores import planned
from tests.support.tiny import tiny_dataset, tiny_encoder
from diagnostics.activations.extract import extract
from diagnostics.activations.folder import Folder
encoder, dataset = tiny_encoder(blocks=1), tiny_dataset(24)
left = -1
def hook(event, args):
    global left
    if left >= 0 and event in ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir") and (
        not str(args[0]).startswith("/") or str(args[0]).startswith({folder!r} + "/run")
    ):  # relative to the handle of a folder of the run, or the run itself
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
def child(path, kill=-1):
    global left
    pid = os.fork()
    if pid == 0:
        left = kill
        extract(encoder, dataset, path, wanted, batch_size=4)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
for budget in (0, 6200):
    wanted = dataclasses.replace(planned(encoder, 24, budget=budget, shard=4), pooled_shard=12)
    calm = Path({folder!r}) / f"calm{{budget}}"
    assert child(calm) == 0
    for kill in range({first}, 10**6, {step}):
        run = Path({folder!r}) / f"run{{budget}}-{{kill}}"
        status = child(run, kill)
        between = run.exists() and any(run.glob("taps/*/pooled/c.0.*")) and not all(
            (run / "taps" / tap / "pooled" / "c.1.0.0").exists() for tap in ("embed", "blocks.0", "norm"))
        assert child(run) == 0
        assert digests(run) == digests(calm), (budget, kill)
        assert not [path for path in run.rglob("*") if ".partial" in path.name], (budget, kill)
        print(status, between, flush=True)
        if status == 0:
            break
"""


@pytest.mark.slow
def test_killed_at_any_file_operation_and_resumed_equals_undisturbed_to_the_bit(
    tmp_path: Path, warm_python: Path
) -> None:
    """SIGKILL before the k-th time that a file of the run is opened, renamed or removed, for k from the first to the last."""
    code = KILLED.format(tests=str(Path(__file__).parents[1] / "support"), folder=str(tmp_path), first=0, step=61)
    done = subprocess.run([warm_python, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert sum(status == "-9" for status, _ in lines) > 12
    assert sum(between == "True" for _, between in lines) >= 2, "kills between the first and the last pooled shard"
