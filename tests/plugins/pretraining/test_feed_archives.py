"""Archives read at random: orders of epochs, worker processes, runs that were killed, damaged files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnostics_pretraining.objective import Feed, flattened, outline_of, to_train
from diagnostics_pretraining.order import BROKEN, Broken, permute
from diagnostics_pretraining.recipe import Stage
from diagnostics_training.trainer.objective import Batch, Objective
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import fit
from PIL import Image
from torch import Tensor, nn

from diagnostics import Dataset, build
from tests.support.refusals import refusal

SHARDS, EACH, BATCH = 5, 8, 4


class Numbers:
    """A vocabulary of one token a text, its number."""

    def encode(self, texts):  # type: ignore[no-untyped-def]  (a stand-in)
        return torch.tensor([[int(text)] for text in texts]), 0


def png(number: int) -> bytes:
    """A flat picture of that colour."""
    data = io.BytesIO()
    Image.fromarray(np.full((9, 7, 3), number, np.uint8)).save(data, "PNG")
    return data.getvalue()


def shards(folder: Path) -> Path:
    """Archives of samples 0, 1, 2, ..., each a picture of its number with its number as the text."""
    folder.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(shard * EACH, (shard + 1) * EACH):
                for name, data in ((f"{number:03d}.png", png(number)), (f"{number:03d}.txt", str(number).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return folder


def feed(data: Dataset, seed: int = 0, batch: int = BATCH, samples: int = 48) -> Feed:
    """Two stages of half the samples each."""
    return Feed(data, np.arange(len(data)), Numbers(), [Stage(4, samples // 2), Stage(8, samples // 2)], batch, seed)


def numbers(batch: Batch) -> list[int]:
    """Those of a batch's pictures, which are its texts."""
    seen = batch["pixels"][:, 0, 0, 0].tolist()
    assert seen == batch["tokens"].flatten().tolist() and batch["pixels"].dtype == torch.uint8
    return seen


class Recorder(Objective):
    """Notes what each step learns from; raises at a step, as a run that is killed does."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.linear, self.seen, self.fails_at = nn.Linear(3, 1), list[list[int]](), fails_at
        nn.init.ones_(self.linear.weight)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.last = numbers(batch)
        return {"loss": self.linear(flattened(batch).mean((2, 3))).square().mean()}

    def before_step(self, step: int) -> None:
        if step == self.fails_at:
            raise KeyboardInterrupt

    def after_step(self, done: int, total: int) -> None:
        self.seen.append(self.last)


def run(objective: Recorder, fed: Feed, folder: Path, **settings: Any) -> None:
    fit(objective, fed, Settings(steps=fed.steps, checkpoint_every=1, **settings), folder, tell=lambda line: None)


def test_an_epoch_is_a_permutation_of_shards_and_of_samples_within(tmp_path: Path) -> None:
    data = build("dataset", f"captions:{shards(tmp_path / 'data')}?features=0")
    fed, epoch = feed(data, samples=80), SHARDS * EACH // BATCH
    orders = [[n for step in range(e * epoch, (e + 1) * epoch) for n in numbers(fed(step))] for e in range(2)]
    for order in orders:
        assert sorted(order) == list(range(SHARDS * EACH))
        turns = [n // EACH for n in order]
        assert turns == [shard for shard in turns[::EACH] for _ in range(EACH)]
        within = {tuple(n % EACH for n in order[i : i + EACH]) for i in range(0, len(order), EACH)}
        assert tuple(range(EACH)) not in within and len(within) == SHARDS
    assert orders[0] != orders[1] and [n // EACH for n in orders[0]] != [n // EACH for n in orders[1]]
    assert numbers(feed(data, samples=80)(epoch)) == orders[1][:BATCH] != numbers(feed(data, 1, samples=80)(epoch))


def test_recaptioned_archives_are_read_one_after_the_other_too(tmp_path: Path) -> None:
    data = build("dataset", f"captions:{shards(tmp_path / 'data')}")
    rows = [json.dumps({"id": name, "caption": text}) for name, text in zip(data.ids, data.texts, strict=True)]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    again = build("dataset", f"recaptioned:{tmp_path / 't.jsonl'}?data=captions:{tmp_path / 'data'}")
    for step in range(SHARDS * EACH // BATCH):
        assert feed(again, samples=80).ids(step) == feed(data, samples=80).ids(step)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_with_the_very_next_sample(tmp_path: Path, workers: int) -> None:
    data = build("dataset", f"captions:{shards(tmp_path / 'data')}?features=0")
    whole, first, second = Recorder(), Recorder(fails_at=5), Recorder()
    run(whole, feed(data), tmp_path / "whole", workers=workers)
    with pytest.raises(KeyboardInterrupt):
        run(first, feed(data), tmp_path / "killed", workers=workers)
    run(second, feed(data), tmp_path / "killed", workers=workers)
    assert first.seen + second.seen == whole.seen
    ids = [feed(data).ids(step) for step in range(feed(data).steps)]
    assert whole.seen == [[int(i[-3:]) for i in batch] for batch in ids]
    assert (first.linear.weight != 1).all() and torch.equal(second.linear.weight, whole.linear.weight)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_follows_on_error(tmp_path: Path, workers: int) -> None:
    folder = shards(tmp_path / "data")
    path, number = folder / "2.tar", 2 * EACH + 3
    path.write_bytes(path.read_bytes().replace(png(number), png(number)[:30] + bytes(len(png(number)) - 30)))
    fed = feed(build("dataset", f"captions:{folder}?features=0"), samples=40)
    with refusal("unreadable", "019.png of 2.tar", "on_error=skip"):
        run(Recorder(), fed, tmp_path / "stops", workers=workers)
    fed = feed(build("dataset", f"captions:{folder}?features=0&on_error=skip"), samples=40)
    seen = [n for step in range(9) for n in numbers(fed(step))]
    assert len(set(seen)) == 36 and number not in seen


def test_captions_are_read_without_their_target(tmp_path: Path) -> None:
    spec = to_train(f"captions:{shards(tmp_path / 'data')}?on_error=skip")
    assert spec.endswith("data?on_error=skip&features=0") and build("dataset", spec).targets == {}
    assert to_train("shapes?n=10&features=3") == "shapes?n=10&features=3"
    assert to_train("captions:a.csv?embeddings=e.npy") == "captions:a.csv?on_error=replace&embeddings=e.npy"


def test_archives_are_known_again_by_captions_and_places(tmp_path: Path) -> None:
    folder = shards(tmp_path / "data")

    def digests() -> tuple[str, str]:
        data = build("dataset", f"captions:{folder}?features=0")
        return outline_of(data), data.fingerprint

    outline, fingerprint = digests()
    whole = (folder / "2.tar").read_bytes()
    number = 2 * EACH + 3
    # Another image of the same size, and another caption.
    (folder / "2.tar").write_bytes(whole.replace(png(number), png(number)[:-1] + b"x"))
    assert digests()[0] == outline and digests()[1] != fingerprint
    text = str(number).encode() + bytes(tarfile.BLOCKSIZE - 2)
    assert whole.count(text) == 1
    (folder / "2.tar").write_bytes(whole.replace(text, b"99" + text[2:]))
    assert digests()[0] != outline
    (folder / "2.tar").write_bytes(whole)
    assert digests() == (outline, fingerprint)
    shapes = build("dataset", "shapes?n=10&size=32")
    assert outline_of(shapes) == shapes.fingerprint


def test_a_shard_cut_while_it_is_read_stops_the_run(tmp_path: Path) -> None:
    folder = shards(tmp_path / "data")
    fed = feed(build("dataset", f"captions:{folder}?features=0"), samples=40)
    (folder / "2.tar").write_bytes((folder / "2.tar").read_bytes()[:3000])
    with refusal("unreadable", "2.tar"):
        run(Recorder(), fed, tmp_path / "stops")
    (folder / "2.tar").unlink()
    with refusal("unreadable", "2.tar", "FileNotFoundError"):
        run(Recorder(), fed, tmp_path / "stops")


# Pairs that are not clean


def torn(folder: Path, *numbers: int) -> Path:
    """The pictures of these samples, of which the end is gone."""
    for number in numbers:
        path = folder / f"{number // EACH}.tar"
        whole = path.read_bytes()
        path.write_bytes(whole.replace(png(number), png(number)[:30] + bytes(len(png(number)) - 30)))
    return folder


def forgiving(folder: Path, out: Path, samples: int = 80, batch: int = BATCH) -> Feed:
    """A feed as `train pe` makes it."""
    data = build("dataset", to_train(f"captions:{folder}"))
    stages = [Stage(4, samples // 2), Stage(8, samples // 2)]
    return Feed(
        data, np.arange(len(data)), Numbers(), stages, batch, 0, broken=Broken(data, outline_of(data), out / BROKEN)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_pair_is_replaced_by_that_a_batch_later_and_listed(tmp_path: Path, workers: int) -> None:
    clean, bad = forgiving(shards(tmp_path / "clean"), tmp_path), (3, 4, 19)
    folder = torn(shards(tmp_path / "data"), *bad)
    fed, steps = forgiving(folder, tmp_path / "out"), SHARDS * EACH // BATCH
    order = [numbers(clean(step)) for step in range(2 * steps)]

    def expected(step: int, place: int) -> int:
        return next(
            n
            for later in range(steps)
            if (n := order[step // steps * steps + (step + later) % steps][place]) not in bad
        )

    wanted = [[expected(step, place) for place in range(BATCH)] for step in range(2 * steps)]
    seen = Recorder()
    run(seen, fed, tmp_path / "out", workers=workers)
    assert seen.seen == wanted
    listed = [json.loads(line) for line in (tmp_path / "out" / BROKEN).read_text().splitlines()]
    assert sorted({line["id"] for line in listed}) == ["0/003", "0/004", "2/019"]
    assert [[int(i[-3:]) for i in fed.ids(step)] for step in range(2 * steps)] == wanted
    # With what is known beforehand, of other processes too, and for each number of processes, batches are the same.
    again = forgiving(folder, tmp_path / "out")
    assert [numbers(again(step)) for step in range(2 * steps)] == wanted
    halves = forgiving(folder, tmp_path / "other")
    assert [numbers(halves(0, rank, 2)) for rank in range(2)] == [wanted[0][:2], wanted[0][2:]]


def test_what_was_broken_stays_so_for_a_training_that_goes_on(tmp_path: Path) -> None:
    folder = torn(shards(tmp_path / "data"), 3)
    first = forgiving(folder, tmp_path / "out")
    wanted = [numbers(first(step)) for step in range(10)]
    listed = (tmp_path / "out" / BROKEN).read_bytes()
    # The pair is repaired, a kill cut a line short, and another training's lines are of no use.
    shards(tmp_path / "whole")
    (folder / "0.tar").write_bytes((tmp_path / "whole" / "0.tar").read_bytes())
    (tmp_path / "out" / BROKEN).write_bytes(
        b'{"data": "x", "row": 5, "why": ""}\n{"da' + b"\n" + listed + b'{"data": "'
    )
    assert [numbers(forgiving(folder, tmp_path / "out")(step)) for step in range(10)] == wanted
    fresh = [numbers(forgiving(folder, tmp_path / "new")(step)) for step in range(10)]
    assert fresh != wanted and any(3 in batch for batch in fresh)


def test_a_broken_pair_of_an_epoch_of_one_batch_is_replaced_by_one_that_is_left(tmp_path: Path) -> None:
    batch = SHARDS * EACH - 1
    fed = forgiving(torn(shards(tmp_path / "data"), 3), tmp_path / "out", 4 * batch, batch)
    assert any(3 in fed.order.part(step, 0, 1)[0] for step in range(4))
    for step in range(4):
        read = numbers(fed(step))
        assert 3 not in read and len(read) == batch


def test_too_many_broken_pairs_end_a_training(tmp_path: Path) -> None:
    fed = forgiving(torn(shards(tmp_path / "data"), *range(0, 33, 3)), tmp_path / "out")
    with refusal("bad-data", "11 of 40", BROKEN):
        for step in range(10):
            fed(step)


def test_a_disk_that_is_gone_is_no_broken_pair(tmp_path: Path) -> None:
    fed = forgiving(shards(tmp_path / "data"), tmp_path / "out")
    (tmp_path / "data" / "2.tar").unlink()
    with refusal("unreadable", "2.tar"):
        for step in range(10):
            fed(step)
    assert not (tmp_path / "out" / BROKEN).exists()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 65, 1000])
def test_an_order_that_is_computed_is_a_permutation(count: int) -> None:
    orders = [permute(np.arange(count), count, (seed, 1)) for seed in range(40)]
    for order in orders:
        assert sorted(order) == list(range(count))
        assert permute(np.array([count - 1]), count, (0, 1))[0] == orders[0][-1]
    if count >= 64:
        # Each place comes first about as often as any other, and no order is the other's.
        assert len({tuple(order) for order in orders}) == 40
        mean = np.mean([order[: count // 4].mean() for order in orders])
        assert abs(mean / ((count - 1) / 2) - 1) < 4 / np.sqrt(3 * 40 * count // 4)


def test_neighbours_of_an_order_that_is_computed_are_independent() -> None:
    """Of 20,000 pairs of neighbours, the ranks are not correlated and the steps between them are spread evenly."""
    order = permute(np.arange(20_000), 20_000, (3, 1))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / np.sqrt(20_000)
    counts = np.bincount((np.diff(order) % 20_000) * 10 // 20_000, minlength=10)
    assert ((counts - 2000) ** 2 / 2000).sum() < 33  # chi-square of nine degrees of freedom at 1e-4
