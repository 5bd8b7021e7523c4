"""Dense targets read from sums: equal to stored tokens where the fit is the same, out of fold, resumable, handed over."""

from __future__ import annotations

import errno
import gc
import itertools
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import diagnostics as dx
from diagnostics import DiagnosticsError, Run, TorchEncoder
from diagnostics.activations import prepare
from diagnostics.activations.folder import Folder
from diagnostics.activations.metadata import observation_names
from diagnostics.activations.store import Store
from diagnostics.errors import StorageError, unwritable
from diagnostics.measures.probes.dense import DenseRows, TokenMap, Values
from diagnostics.measures.probes.least_squares import Moments
from diagnostics.measures.probes.protocol import folds
from diagnostics.measures.probes.segmentation import Classes, SegmentationProbe, mean_iou
from diagnostics.progress import Cost
from diagnostics.runs.job import _Job
from diagnostics.runs.results import redraws
from diagnostics.runs.streaming import block_sums, stream
from diagnostics.runs.streaming.block_sums import block_bytes
from diagnostics.runs.streaming.stream import passes_over
from tests.runs.test_token_probes import cells, images, score
from tests.support.planted import planted_image_encoder, planted_images
from tests.support.refusals import refusal
from tests.support.tiny import tiny_encoder, tiny_image_encoder

MEASURES = ["linear_probe", "segmentation_probe"]
READING = ["reading val", "reading rest"]
"""The steps of the pass that judges."""
HEIGHT, SCENE = "linear_probe/height", "segmentation_probe/scene"


def measure(out: Path, encoder: TorchEncoder | None = None, **options: Any) -> Run:
    asked = {"measures": MEASURES, "controls": False, "report": False, "dense": "streamed", "choose_on": "val"}
    return dx.run(encoder or tiny_image_encoder(), images(), out=out, **{"watch": dx.silent} | asked | options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measure(tmp_path_factory.mktemp("streamed") / "run")


def test_values_read_as_from_stored_tokens_and_none_is_stored(run: Run, tmp_path: Path) -> None:
    stored = measure(tmp_path, dense="stored")
    assert stored.store.token_samples == len(stored.store.ids)
    for name in ("score", "low", "high", "val_score", "penalty", "rmse", "aligned_delta1"):
        if name in stored.profile(HEIGHT).data:
            np.testing.assert_allclose(run.profile(HEIGHT).data[name], stored.profile(HEIGHT).data[name], rtol=1e-4)
    assert run.store.token_files == {}
    assert run.profile(HEIGHT).data.attrs["token_samples"] == len(stored.store.ids)


def test_depth_has_its_metrics(tmp_path: Path) -> None:
    both = [
        dx.run(
            planted_image_encoder(),
            planted_images(),
            out=tmp_path / dense,
            measures=MEASURES,
            controls=False,
            report=False,
            dense=dense,
            choose_on="val",
            watch=dx.silent,
        )
        for dense in ("stored", "streamed")
    ]
    depths = [each.profile("linear_probe/depth").data for each in both]
    for name in ("rmse", "abs_rel", "delta1", "aligned_rmse", "aligned_delta1"):
        np.testing.assert_allclose(depths[1][name], depths[0][name], rtol=1e-4)
    things = [each.profile("segmentation_probe/thing").data for each in both]
    # Another classifier on more tokens: alike, not equal.
    assert abs(things[0]["score"] - things[1]["score"]).max() < 0.05
    np.testing.assert_allclose(things[1]["line_commonest"], things[0]["line_commonest"])
    np.testing.assert_allclose(things[1]["iou"].mean("part"), things[1]["score"], rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_scores_do_not_depend_on_the_batch(
    run: Run, tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The forward pass itself rounds otherwise for other batches: the tokens are made equal first.
    def rounded(tokens: torch.Tensor, tap: Any, dense: Any) -> torch.Tensor:
        return (tokens * 1024).round() / 1024

    monkeypatch.setattr(block_sums, "on_grid", rounded)
    runs = [measure(tmp_path / str(size), batch_size=size) for size in (16, batch)]
    names = [path.name for path in (tmp_path / "16" / "observed").iterdir() if path.is_dir()]
    assert len(names) == 15  # five blocks of one mask and of two targets
    for name in names:
        one, other = (each.store.observation_arrays(name) for each in runs)
        for tap in one:
            np.testing.assert_allclose(one[tap], other[tap], rtol=1e-9, atol=1e-9)


def test_classes_are_those_of_a_linear_discriminant() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(3, 400, p=[0.7, 0.2, 0.1])
    x = rng.standard_normal((400, 4)) @ rng.standard_normal((4, 4)) + np.eye(3, 4)[y] * 2
    moments = Moments(x[0], np.zeros(3))
    moments.update(x, np.eye(3)[y])
    dense = type("Dense", (), {"classes": np.arange(3)})()
    solved = Classes().solve(dense, moments, 1e-12)
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    new = rng.standard_normal((200, 4)) * 3
    np.testing.assert_array_equal(solved.at(4).predict(new), oracle.predict(new))
    # To the power 0 all classes have one prior: the nearest mean by the covariance within classes.
    away = new[:, None] - oracle.means_
    level = np.einsum("rcd,de,rce->rc", away, np.linalg.inv(oracle.covariance_), away).argmin(axis=1)
    np.testing.assert_array_equal(solved.at(0).predict(new), level)
    assert (oracle.predict(new) != level).any()


def test_a_class_that_no_token_fitted_has_is_never_said() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 3)), np.arange(50) % 2
    moments = Moments(x[0], np.zeros(3))
    moments.update(x, np.eye(3)[y])
    dense = type("Dense", (), {"classes": np.array([4, 5, 9])})()
    said = Classes().solve(dense, moments, 1e-3).predict(rng.standard_normal((500, 3)) * 100)
    assert set(said) == {4, 5}


def test_the_discriminant_reads_a_trained_encoder_as_the_logistic_probe_does(tmp_path: Path) -> None:
    encoder, data = "objectives:shapes-reconstruct", "shapes?n=60&size=64"
    options: dict[str, Any] = {"measures": "segmentation_probe", "taps": "blocks.2", "token_budget": "1GB"}
    scores = [
        dx.run(
            encoder,
            data,
            out=tmp_path / dense,
            dense=dense,
            choose_on="val",
            controls=False,
            report=False,
            watch=dx.silent,
            **options,
        )
        .profile("segmentation_probe/segmentation")
        .data["score"]
        .values
        for dense in ("stored", "streamed")
    ]
    assert (scores[0] - scores[1]).max() < 0.05


def test_what_all_samples_say_is_found_once(run: Run) -> None:
    store = run.store.with_other(token_samples=len(run.store.ids))
    found = DenseRows.of("linear_probe", store, run.store.targets()["height"])
    dense, sums, rows = replace(found, values=found.values - found.values.min() + 1), Values(), np.arange(3)
    readout = TokenMap(np.zeros(8), np.zeros((8, 1)), np.zeros((1, 1)))
    said = torch.ones(*dense.values[rows].shape, 1)
    before = sums.columns(dense, rows), sums.judge(dense, readout, said, rows).keys()
    dense.values[3:] -= 100
    np.testing.assert_array_equal(sums.columns(dense, rows), before[0])
    assert sums.judge(dense, readout, said, rows).keys() == before[1]


def test_each_sample_is_judged_by_a_fit_that_has_not_seen_it(tmp_path: Path) -> None:
    run = measure(tmp_path, choose_on="fit")
    stored = measure(tmp_path / "stored", dense="stored")
    data = run.profile(HEIGHT).data
    dense = DenseRows.of("linear_probe", stored.store, stored.store.targets()["height"])
    fold = folds(dense.rows, None, 0)
    (tap,) = (tap for tap in stored.store.taps if tap.name == "blocks.1")
    x = np.concatenate([tokens for _, tokens in stored.store.token_blocks(tap.name)]).astype(np.float64)
    penalty = float(data["penalty"].sel(tap=tap.name))
    lost = np.zeros(len(dense.rows.fit_units))
    for block in range(5):
        seen, out = dense.rows.fit[fold != block], dense.rows.fit[fold == block]
        fitted = dx.measures.probes.ridge(x[seen].reshape(-1, x.shape[2]), dense.values[seen].ravel())
        guess = fitted.predict(x[out].reshape(-1, x.shape[2]), penalty)[0, :, 0].reshape(len(out), -1)
        np.add.at(lost, dense.rows.unit_of_fit[fold == block], ((guess - dense.values[out]) ** 2).sum(axis=1))
    np.testing.assert_allclose(data["oof_loss"].sel(tap=tap.name), lost, rtol=1e-4)
    assert data.attrs["chosen_on"] == "fit"


def test_the_choice_looks_at_no_test_target(run: Run, tmp_path: Path) -> None:
    data = images()
    test = np.flatnonzero(data.split == "test")
    changed = {
        name: dx.Target(
            target.kind, np.where((data.split == "test")[:, None, None], target.values[::-1], target.values)
        )
        if target.dense
        else target
        for name, target in data.targets.items()
    }
    other = dx.Dataset("other", "image", data.samples, data.ids, list(data.split), changed, groups=list(data.groups))
    assert len(test)
    again = dx.run(
        tiny_image_encoder(),
        other,
        out=tmp_path,
        measures=MEASURES,
        controls=False,
        report=False,
        dense="streamed",
        choose_on="val",
        watch=dx.silent,
    )
    for name in (HEIGHT, SCENE):
        np.testing.assert_array_equal(again.profile(name).data["penalty"], run.profile(name).data["penalty"])
        assert again.profile(name).chosen_tap == run.profile(name).chosen_tap
    assert float(again.profile(HEIGHT).data["score"].max()) < float(run.profile(HEIGHT).data["score"].max())


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each pass beside the extraction is for."""
    each, steps = stream._Passes.each, list[str]()

    def watched(self: Any, batches: Any, reads: Any, step: str, visit: Any) -> None:
        steps.append(step)
        each(self, batches, reads, step, visit)

    monkeypatch.setattr(stream._Passes, "each", watched)
    return steps


def test_sums_are_gathered_along_with_the_extraction(tmp_path: Path, passes: list[str]) -> None:
    measure(tmp_path)
    assert passes == READING
    passes.clear()
    measure(tmp_path / "fit", choose_on="fit")
    assert passes == READING


def test_products_by_strips_are_those_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_sums, "STRIP", 3)
    store = measure(tmp_path).store
    names = {file.split("/")[1] for file in observation_names(store.folder) if "/gram-" in file}
    assert len(names) == 5
    for name, tap in itertools.product(names, store.taps):
        sums, at_once = (block_sums.features_of(each, name, tap) for each in (store, run.store))
        assert sums and at_once
        np.testing.assert_allclose(sums[3], at_once[3], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.7, 0.4, 0.0])
@pytest.mark.parametrize("choose_on", ["val", "fit"])
def test_tokens_that_memory_holds_are_judged_without_a_pass(
    share: float, choose_on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed, prepared = list[np.ndarray](), stream.prepare_batches
    monkeypatch.setattr(stream, "prepare_batches", lambda *given: passed.extend(given[2]) or prepared(*given))
    monkeypatch.setattr(block_sums, "HELD_BYTES", 0)
    monkeypatch.setattr(block_sums, "ALL_BYTES", 0)
    before = measure(tmp_path / "before", choose_on=choose_on)
    split = before.store.split
    judged = split != "train" if choose_on == "val" else split != ""
    assert len(np.concatenate(passed)) == judged.sum()
    passed.clear()
    each = 4 * sum(tap.grid.tokens * tap.features for tap in before.store.taps)
    monkeypatch.setattr(block_sums, "HELD_BYTES", int(share * judged.sum()) * each)
    if not share:
        # All fit into what only all may take.
        monkeypatch.setattr(block_sums, "ALL_BYTES", judged.sum() * each)
    after = measure(tmp_path / "after", choose_on=choose_on)
    again = {1.0: 0, 0.0: 0, 0.4: judged.sum()}.get(share)
    count = sum(map(len, passed))
    # A batch of which one sample is not held passes whole.
    assert count == again if again is not None else 0.3 * judged.sum() <= count < 0.3 * judged.sum() + 32
    for name in (HEIGHT, SCENE):
        np.testing.assert_allclose(before.profile(name).data["score"], after.profile(name).data["score"], atol=1e-6)


def test_tokens_are_held_for_what_is_read_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, kept, memory = list[weakref.ref[Any]](), list[int](), list[weakref.ref[Any]]()

    class Watched(block_sums.HeldTokens):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            held.append(weakref.ref(self))
            memory.append(weakref.ref(self.memory))
            # What was named is measured before controls: that of the first then serves the others.
            assert memory[:2][-1]() is self.memory
            kept.append(len(self.values))

    def refuse(self: Any, encoder: Any, *given: Any) -> None:
        if encoder.name.endswith("(fresh weights)"):
            raise DiagnosticsError("no")

    def write(self: Any, *given: Any) -> None:
        gc.collect()
        assert [ref() for ref in held + memory] == [None] * 2 * len(held)
        written(self, *given)

    written = _Job._write
    monkeypatch.setattr(block_sums, "HeldTokens", Watched)
    monkeypatch.setattr(_Job, "_observe", refuse)
    monkeypatch.setattr(_Job, "_write", write)
    data = images()
    data.targets["height"].values[::2] = np.nan
    options: dict[str, Any] = {"measures": "linear_probe", "dense": "streamed", "choose_on": "fit"}
    dx.run(tiny_image_encoder(), data, out=tmp_path, report=False, watch=dx.silent, **options)
    # Of the encoder also those of shuffled labels, whose unknown samples are others.
    assert set(kept[1:]) == {len(data) // 2} and len(data) // 2 < kept[0] < len(data)


def test_memory_that_is_too_small_is_not_kept_beside_the_new(run: Run) -> None:
    small = np.empty(1, dtype=np.float32)
    given = tiny_image_encoder(), [SegmentationProbe()], lambda store: [*store.targets().values()], "another version"
    along = block_sums.AlongExtraction(*given, shared=False, memory=small, stored=0)
    assert along(run.store) is not None and along.held is not None
    assert along.memory is along.held.memory and along.memory is not small


def test_memory_of_an_encoder_that_stores_tokens_is_enough_for_its_controls(run: Run) -> None:
    view = run.store.with_other(token_samples=len(run.store.ids))
    reads = list(block_sums.reads_of(view, [SegmentationProbe()], [*run.store.targets().values()]))
    own = block_sums.HeldTokens(run.store, reads, np.empty(0, dtype=np.float32), stored=10)
    control = block_sums.HeldTokens(run.store, reads, own.memory, stored=0)
    assert len(own.values) < len(control.values) and control.memory is own.memory


@pytest.mark.parametrize("short", ["free", "MemoryError", "RuntimeError"])
def test_without_memory_for_all_sums_they_are_gathered_later(
    run: Run, tmp_path: Path, passes: list[str], monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    def full(self: Any, *given: Any) -> None:
        if not passes:
            raise {"MemoryError": MemoryError, "RuntimeError": RuntimeError}[short]("not enough memory")
        add(self, *given)

    if short == "free":
        monkeypatch.setattr(block_sums, "free_bytes", lambda: 1000)
    else:
        add = block_sums.BlockSums.add
        monkeypatch.setattr(block_sums.BlockSums, "add", full)
    again = measure(tmp_path)
    assert passes == [*(f"summing block {i} of 5" for i in range(1, 6)), *READING]
    np.testing.assert_allclose(again.profile(SCENE).data["score"], run.profile(SCENE).data["score"], atol=1e-6)


def test_a_kill_costs_the_block_in_hand(
    run: Run, tmp_path: Path, passes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(tmp_path, measures="rankme")
    each = stream._Passes.each

    def failing(self: Any, batches: Any, reads: Any, step: str, visit: Any) -> None:
        if step.startswith("summing block 3"):
            raise KeyboardInterrupt
        each(self, batches, reads, step, visit)

    with monkeypatch.context() as patched:
        patched.setattr(stream._Passes, "each", failing)
        with pytest.raises(KeyboardInterrupt):
            measure(tmp_path)
    passes.clear()
    again = measure(tmp_path)
    assert passes == [*(f"summing block {i} of 5" for i in (3, 4, 5)), *READING]
    np.testing.assert_allclose(again.profile(SCENE).data["score"], run.profile(SCENE).data["score"], atol=1e-6)
    passes.clear()
    measure(tmp_path)
    assert passes == READING


def bytes_of(found: Any) -> int:
    """Those of all arrays within."""
    if isinstance(found, np.ndarray):
        return found.nbytes
    return sum(map(bytes_of, found.values() if isinstance(found, dict) else found))


def test_what_is_judged_takes_few_bytes_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, choose = list[Any](), block_sums.Read.choose_variants
    tried = list[int]()

    def watched(self: Any) -> None:
        reads.append(self)
        tried.append(bytes_of(self.judged))
        choose(self)

    monkeypatch.setattr(block_sums.Read, "choose_variants", watched)
    run = measure(tmp_path, measures="segmentation_probe")
    (read,) = reads
    # Of union and loss of three classes a number each, and the row.
    each = len(run.store.taps) * (2 * 3 * 2 + 8)
    rows = read.dense.rows
    assert 0 < tried[0] <= 5 * len(rows.val) * each
    assert 0 < bytes_of(read.judged) <= (len(rows.val) + len(rows.test)) * each


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on, the encoder's example gives other values, as on another device (here far more of another)."""

    def move() -> None:
        example = TorchEncoder.example
        monkeypatch.setattr(TorchEncoder, "example", lambda self: example(self) + 3)

    return move


def test_sums_go_on_on_another_device(
    run: Run, tmp_path: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(tmp_path, measures="rankme")
    put = Store.put_observed

    def killed(store: Store, name: str, *given: Any) -> None:
        if name.endswith("-2"):
            raise KeyboardInterrupt
        put(store, name, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put_observed", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(tmp_path)
    elsewhere()
    again = measure(tmp_path)
    np.testing.assert_allclose(again.profile(SCENE).data["score"], run.profile(SCENE).data["score"], atol=1e-6)


def test_products_that_are_added_on_another_device_belong_to_those_of_the_features(
    run: Run, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    measure(tmp_path, measures="linear_probe")
    elsewhere()
    added = measure(tmp_path).profile(SCENE).data
    np.testing.assert_allclose(added["score"], run.profile(SCENE).data["score"], atol=1e-6)


def test_controls_are_streamed_too(tmp_path: Path) -> None:
    run = measure(tmp_path, controls=True)
    profile = run.profile(HEIGHT)
    assert {"fresh_weights", "permuted_weights", "raw_input", "shuffled_labels"} <= set(profile.controls)
    shuffled = profile.controls["shuffled_labels"]
    assert shuffled.attrs["tokens"] == "streamed"
    assert float(shuffled["score"].max()) < 0.2
    assert float(profile.data["score"].max()) > 0.5


def test_why_there_are_no_redraws(tmp_path: Path) -> None:
    data = images()
    data.exchangeable = True
    options: dict[str, Any] = {"measures": "segmentation_probe", "controls": False, "report": False, "watch": dx.silent}
    run = dx.run(tiny_image_encoder(), data, out=tmp_path, dense="streamed", redraws=1, **options)
    assert run.profile(SCENE).data.attrs[redraws.NO_REDRAWS] == redraws.STREAMED


@pytest.mark.parametrize("name", [HEIGHT, SCENE])
def test_the_readout_is_handed_over(run: Run, name: str) -> None:
    measure_name, _, target = name.partition("/")
    probe = run.probe(target, measure_name)
    data = images()
    tokens = tiny_image_encoder().transform(data, tap=probe.tap, tokens=True)
    predicted = probe.predict(tokens[data.split == "test"])
    got = score(name, predicted, data)
    assert got == pytest.approx(float(run.profile(name).data["score"].sel(tap=probe.tap)), abs=1e-4)


@pytest.mark.parametrize("kept", [0, 4])
def test_the_readout_is_solved_from_all_blocks_or_not_at_all(run: Run, tmp_path: Path, kept: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    for products in sorted((copy / "observed").glob("products-*"))[kept:]:
        shutil.rmtree(products)
    with refusal("damaged"):
        dx.open_run(copy).probe("height", "linear_probe")
    with refusal("damaged"):
        dx.open_run(copy).probe("scene", "segmentation_probe")


def partly_known() -> dx.Dataset:
    data = images()
    data.targets["scene"].values[::3, :4, :4] = -1
    return data


def test_the_cost_counts_products_of_features_once_a_mask(tmp_path: Path) -> None:
    said, gram = list[int](), 0
    for name, data in (("one", images()), ("two", partly_known())):
        costs = list[Any]()
        encoder = tiny_image_encoder(width=256)
        options: dict[str, Any] = {"measures": MEASURES, "controls": False, "report": False, "dense": "streamed"}
        dx.run(encoder, data, out=tmp_path / name, watch=costs.append, **options)
        said.append(costs[0].bytes)
        assert said[-1] == pytest.approx(Folder(tmp_path / name).size(), rel=0.1)
        gram = block_bytes(encoder.taps, 1, 0) * 5
    assert said[1] - said[0] == pytest.approx(gram, rel=0.05)


def test_a_target_with_unknown_places_has_sums_of_its_own(tmp_path: Path) -> None:
    options: dict[str, Any] = {"measures": MEASURES, "controls": False, "report": False, "watch": dx.silent}
    runs = [
        dx.run(tiny_image_encoder(), partly_known(), out=tmp_path / dense, dense=dense, choose_on="val", **options)
        for dense in ("stored", "streamed")
    ]
    counts = [each.profile(SCENE).data["tokens_train"].values for each in runs]
    np.testing.assert_array_equal(*counts)
    assert counts[0][0] < runs[0].profile(HEIGHT).data["tokens_train"].values[0]
    np.testing.assert_allclose(*(each.profile(HEIGHT).data["score"] for each in runs), rtol=1e-4)
    observed = [path.name for path in (tmp_path / "streamed" / "observed").iterdir() if path.is_dir()]
    assert sum(name.startswith("gram-") for name in observed) == 10


def test_one_map_read_as_classes_and_as_values_has_sums_of_both(tmp_path: Path) -> None:
    data = images()
    maps = data.targets["scene"].values[:, 2::4, 2::4]
    data.targets.clear()
    data.targets |= {"class": dx.Target("token_label", maps), "value": dx.Target("token_value", maps.astype(float))}
    options: dict[str, Any] = {"measures": MEASURES, "controls": False, "report": False, "watch": dx.silent}
    run = dx.run(tiny_image_encoder(), data, out=tmp_path, dense="streamed", **options)
    assert {profile.name for profile in run.profiles()} == {"segmentation_probe/class", "linear_probe/value"}


def halved(monkeypatch: pytest.MonkeyPatch) -> TorchEncoder:
    """An encoder whose last 8 of 16 tokens represent no data."""
    encoder = tiny_image_encoder()
    monkeypatch.setattr(
        type(encoder),
        "valid",
        lambda self, batch, tap: torch.zeros(len(batch), 16, dtype=torch.bool).index_fill(1, torch.arange(8), True),
    )
    return encoder


def test_padding_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DiagnosticsError) as raised:
        measure(tmp_path, encoder=halved(monkeypatch))
    assert "--dense streamed" in str(raised.value)


def test_padding_leaves_dense_targets_out_where_streaming_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = measure(tmp_path, encoder=halved(monkeypatch), dense=None, token_budget=0)
    assert {HEIGHT, SCENE} <= set(run.skipped)
    assert "--dense" in run.skipped[SCENE]
    assert run.profiles()


def said(out: Path, **options: Any) -> tuple[Run, str]:
    costs = list[Any]()
    run = measure(out, watch=costs.append, **options)
    return run, " ".join(event.dense for event in costs if isinstance(event, Cost))


def test_targets_are_streamed_where_the_budget_does_not_hold_their_tokens(tmp_path: Path) -> None:
    each = sum(tap.tokens * tap.features for tap in tiny_image_encoder().taps) * 4
    few = f"{(len(images()) - 1) * each}B"
    for name, options, way in (
        ("default", {}, "stored"),
        ("few", {"token_budget": few}, "streamed"),
        ("none", {"token_budget": 0}, "streamed"),
        ("asked", {"token_budget": few, "dense": "stored"}, "stored"),
        ("over", {"dense": "streamed"}, "streamed"),
    ):
        run, cost = said(tmp_path / name, **{"dense": None} | options)
        assert (run.profile(SCENE).data.attrs.get("tokens") == "streamed") is (way == "streamed"), name
        assert ("from all samples" in cost) is (way == "streamed"), name
        assert ("asked" in cost) is ("dense" in options), name


def test_a_run_that_holds_all_tokens_goes_on_with_them(tmp_path: Path) -> None:
    more = {"token_budget": 0, "dense": None}
    assert measure(tmp_path / "a", dense="stored").store.token_samples == len(images())
    assert measure(tmp_path / "a", dense=None).profile(SCENE).data.attrs.get("tokens") is None
    assert measure(tmp_path / "b", **more).profile(SCENE).data.attrs["tokens"] == "streamed"


def test_dense_targets_are_left_out_with_the_reason(tmp_path: Path) -> None:
    run, cost = said(tmp_path / "a", dense="none")
    assert {HEIGHT, SCENE} <= set(run.skipped)
    assert "--dense none" in run.skipped[HEIGHT]
    assert not cost
    assert run.store.token_samples == 0
    with pytest.raises(DiagnosticsError) as raised:
        measure(tmp_path / "b", measures="segmentation_probe", dense="none")
    assert "--dense none" in str(raised.value)


def test_a_measure_that_is_added_later_says_its_passes_first(tmp_path: Path) -> None:
    measure(tmp_path, measures="rankme")
    events = list[Any]()
    measure(tmp_path, watch=events.append)
    assert isinstance(events[0], Cost)
    assert f"{passes_over(dx.open_run(tmp_path).store.split, 'val', gathered=False, stored=0):.1f} more passes" in str(
        events[0]
    )
    assert events[0].seconds == 0 < events[0].bytes
    events.clear()
    measure(tmp_path, watch=events.append)
    assert events[0].bytes == 0
    assert not any("summing" in event.step for event in events[1:])


def test_a_measure_of_tokens_that_are_not_stored_is_refused_and_nothing_lost(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticsError):
        measure(tmp_path, measures="self_similarity", dense=None, token_budget=0)
    run = measure(tmp_path, dense=None, token_budget=0)
    assert run.profile(SCENE).data.attrs["tokens"] == "streamed"


def test_a_dense_target_that_memory_does_not_hold_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "classes_on_grid", full)
        with pytest.raises(DiagnosticsError) as raised:
            measure(tmp_path / "run")
    assert raised.value.code == "foreign-error"
    assert "scene" in str(raised.value)
    assert not (tmp_path / "run").exists()
    measure(tmp_path / "run")


def test_a_sample_that_gives_nan_is_named_and_leaves_no_run(tmp_path: Path) -> None:
    encoder, data = tiny_image_encoder(), images()

    def broken(sample: Any) -> Any:
        prepared = encoder.preprocess(sample)
        return prepared * np.nan if np.array_equal(sample, data.samples[20]) else prepared

    with refusal("not-finite", f"Sample {data.ids[20]} holds"):
        measure(tmp_path / "run", encoder=encoder.replace(preprocess=broken), batch_size=8)
    assert not (tmp_path / "run").exists()


def test_a_sample_with_another_grid_is_refused_and_what_is_done_stays(tmp_path: Path) -> None:
    encoder, data = tiny_image_encoder(), images()
    measure(tmp_path, measures="rankme")

    def cropped(sample: Any) -> Any:
        prepared = encoder.preprocess(sample)
        return prepared[..., :8, :] if np.array_equal(sample, data.samples[20]) else prepared

    with pytest.raises(DiagnosticsError) as raised:
        measure(tmp_path, encoder=encoder.replace(preprocess=cropped), batch_size=1)
    assert raised.value.code == "bad-tap"
    assert measure(tmp_path).profile(SCENE)


def test_a_disk_that_is_full_in_the_middle_of_sums_loses_nothing(
    tmp_path: Path, passes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(tmp_path, measures="rankme")
    put = Store.put_observed

    def full(store: Store, name: str, *given: Any) -> None:
        if name.endswith("-2"):
            raise unwritable(store.path, OSError(errno.ENOSPC, "No space left on device"), "")
        put(store, name, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put_observed", full)
        with pytest.raises(StorageError) as raised:
            measure(tmp_path)
    assert raised.value.code == "no-space"
    passes.clear()
    assert measure(tmp_path).profile(SCENE)
    assert passes[0].startswith("summing block 3")


def test_samples_whose_tokens_are_stored_are_not_passed_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, prepared = list[int](), stream.prepare_batches

    def counted(encoder: Any, dataset: Any, batches: Any, workers: int) -> Any:
        sizes.extend(map(len, batches))
        return prepared(encoder, dataset, batches, workers)

    monkeypatch.setattr(stream, "prepare_batches", counted)
    monkeypatch.setattr(block_sums, "HELD_BYTES", 0)
    monkeypatch.setattr(block_sums, "ALL_BYTES", 0)
    each = sum(tap.tokens * tap.features for tap in tiny_image_encoder().taps) * 4
    options: dict[str, Any] = {"measures": [*MEASURES, "self_similarity"], "token_budget": f"{20 * each}B"}
    again = measure(tmp_path / "passed", **options)
    kept = again.store.token_samples
    assert 8 <= kept < len(again.store.ids)
    left = int((again.store.split[kept:] != "train").sum())
    assert sum(sizes) == left
    sizes.clear()
    # Nor held: memory for those that are left is enough.
    monkeypatch.setattr(block_sums, "ALL_BYTES", left * sum(t.grid.tokens * t.features for t in again.store.taps) * 4)
    held = measure(tmp_path / "held", **options)
    assert not sizes
    for each in (again, held):
        for name in (HEIGHT, SCENE):
            np.testing.assert_allclose(each.profile(name).data["score"], run.profile(name).data["score"], atol=1e-6)


def test_token_measures_of_a_streamed_kind_keep_their_tokens(tmp_path: Path) -> None:
    class TokenShare(SegmentationProbe):
        name = "mine"
        streams = ()

    run = measure(tmp_path, measures=["segmentation_probe", TokenShare()])
    assert run.store.token_samples > 0
    assert run.profile("mine/scene").data.attrs.get("tokens") is None
    assert run.profile(SCENE).data.attrs["tokens"] == "streamed"


def test_pooled_targets_are_read_as_before(tmp_path: Path) -> None:
    from tests.support.tiny import tiny_dataset

    options: dict[str, Any] = {"measures": ["linear_probe"], "controls": False, "report": False, "watch": dx.silent}
    both = [
        dx.run(tiny_encoder(), tiny_dataset(40), out=tmp_path / dense, dense=dense, **options)
        for dense in ("stored", "streamed")
    ]
    scores = [each.profile("linear_probe/level").data["score"].values for each in both]
    np.testing.assert_array_equal(*scores)


def test_mean_iou_of_units_is_that_of_one_confusion(run: Run) -> None:
    data, scenes = run.profile(SCENE).data, images()
    probe = run.probe("scene", "segmentation_probe")
    tokens = tiny_image_encoder().transform(scenes, tap=probe.tap, tokens=True)[scenes.split == "test"]
    truth = cells(scenes.targets["scene"].values)[scenes.split == "test"].max(axis=2)
    codes = {number: i for i, number in enumerate((0, 2, 3))}
    matrix = np.zeros((3, 3))
    for t, p in zip(truth.ravel(), probe.predict(tokens).ravel(), strict=True):
        if t >= 0:
            matrix[
                codes[int(t)], codes[["dark", "never", "bright", "grey"].index(p) if isinstance(p, str) else int(p)]
            ] += 1
    assert mean_iou(matrix) == pytest.approx(float(data["score"].sel(tap=probe.tap)))
    assert SegmentationProbe.streams == ("token_label",)


@pytest.mark.parametrize("choose_on", ["val", "fit"])
def test_fewer_groups_than_blocks_leave_blocks_empty(tmp_path: Path, choose_on: Any) -> None:
    data = images()
    groups = [f"{split}{i % 2}" for i, split in enumerate(data.split)]
    few = dx.Dataset("few", "image", data.samples, data.ids, list(data.split), dict(data.targets), groups=groups)
    run = dx.run(
        tiny_image_encoder(),
        few,
        out=tmp_path,
        measures=MEASURES,
        controls=False,
        report=False,
        dense="streamed",
        choose_on=choose_on,
        watch=dx.silent,
    )
    assert np.isfinite(run.profile(HEIGHT).data["score"]).all()
    assert run.profile(HEIGHT).data.attrs["units_train"] == 2


def test_a_large_offset_of_the_features_costs_no_digits(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, origins = block_sums.on_grid, block_sums.origins_of
    monkeypatch.setattr(block_sums, "on_grid", lambda tokens, tap, dense: near(tokens, tap, dense) + 500)
    monkeypatch.setattr(block_sums, "origins_of", lambda *given: {k: v + 500 for k, v in origins(*given).items()})
    far = measure(tmp_path)
    np.testing.assert_allclose(far.profile(HEIGHT).data["score"], run.profile(HEIGHT).data["score"], atol=2e-4)


def test_another_way_to_read_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticsError) as raised:
        measure(tmp_path / "run", dense="sometimes")
    assert "--dense" in str(raised.value)
    assert not (tmp_path / "run").exists()
