"""Spatial alignment: its loss has known answers, its teachers see what the student sees, and masks bring lost objects back."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnostics_training.alignment.feed import GREY, Places, View, draw_view, hidden, places_of, sampled, token_blocks
from diagnostics_training.alignment.objective import Alignment, Teacher, scaled
from diagnostics_training.alignment.spatial import (
    EncoderRelations,
    MaskRelations,
    SpatialAlignment,
    SpatialFeed,
    align_spatial,
    relation_loss,
    relations_of,
    sharpened,
)
from diagnostics_training.alignment.student import Start, start_of
from diagnostics_training.jobs import SpatialJob
from diagnostics_training.plugin import aligned_lines
from diagnostics_training.trainer.record import lines
from torch import Tensor

import diagnostics as dx
from diagnostics import Dataset, DiagnosticsError, Target, TorchEncoder
from diagnostics.measures.locality import j_and_f, label_propagation
from tests.support import naming
from tests.support.refusals import refusal

PIXELS = "objective:jepa?modality=image&size=32&width=16&depth=2&heads=2&patch=4"
SUPPORT = Path(__file__).parents[2] / "support" / "naming.py"
NAMING, OBJECTS = f"{SUPPORT}:build", f"{SUPPORT}:data"
WHOLE = ((0.0, 32.0), (0.0, 32.0))


def covering(extent: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
    return tuple((0.0, float(n)) for n in extent)


# The loss


def by_hand(tokens: Tensor, relations: Tensor) -> Tensor:
    """Equation 3, written out in float64."""
    student, teacher = (x.double() / x.double().norm(dim=-1, keepdim=True) for x in (tokens, relations))
    wanted = (20 * (teacher @ teacher.mT - 1)).exp()
    return ((student @ student.mT - wanted) ** 2).mean()


def test_the_loss_is_equation_three_and_so_is_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tokens, relations = torch.randn(5, 12, 6, requires_grad=True), torch.randn(5, 12, 4)
    expected = by_hand(tokens, relations)
    (slope,) = torch.autograd.grad(expected, tokens)
    for block in (2**28, 4 * 12**2 * 2, 1):
        monkeypatch.setattr("diagnostics_training.alignment.spatial.BLOCK_BYTES", block)
        loss = relation_loss(tokens, relations)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
        assert torch.allclose(torch.autograd.grad(loss, tokens)[0], slope, atol=1e-7)
    # Lengths count for nothing, and no more does another basis.
    turned = torch.linalg.qr(torch.randn(4, 4))[0]
    same = relation_loss(3 * tokens, torch.rand(5, 12, 1) * relations @ turned)
    assert same.item() == pytest.approx(expected.item(), abs=1e-6)


def test_clear_groups_cost_nothing_and_a_student_that_is_its_own_teacher_does() -> None:
    groups = torch.eye(4)[torch.arange(32) % 4][None]
    assert 0 < float(relation_loss(groups, groups)) < 5e-18
    torch.manual_seed(0)
    features = torch.randn(64, 32, 32)
    assert float(relation_loss(features, features)) == pytest.approx(0.030, abs=0.001)
    assert sharpened(torch.tensor([1.0, 0.95, 0.9, 0.5])).tolist() == pytest.approx([1, 0.37, 0.14, 0], abs=0.005)
    # The teacher alone is sharpened: cosines of 0.95 that are left as they are cost (0.95 - 0.37)^2.
    pair = torch.tensor([[[1.0, 0.0], [0.95, (1 - 0.95**2) ** 0.5]]])
    assert float(relation_loss(pair, pair)) == pytest.approx((0.95 - 0.3679) ** 2 / 2, abs=1e-3)


def test_tokens_of_which_nothing_is_known_are_in_no_pair() -> None:
    torch.manual_seed(0)
    tokens, relations = torch.randn(2, 10, 6), torch.rand(2, 10, 3)
    relations[0, 7:] = 0
    parts = [by_hand(tokens[0, :7], relations[0, :7]), by_hand(tokens[1], relations[1])]
    assert float(relation_loss(tokens, relations)) == pytest.approx(float(sum(parts)) / 2, abs=1e-6)
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[1, :4] = False
    parts[1] = by_hand(tokens[1, 4:], relations[1, 4:])
    assert float(relation_loss(tokens, relations, valid)) == pytest.approx(float(sum(parts)) / 2, abs=1e-6)
    assert float(relation_loss(tokens, torch.zeros(2, 10, 3))) == 0


def test_pairs_are_float32_under_autocast_and_one_matrix_of_each_sample_is_kept() -> None:
    torch.manual_seed(0)
    tokens, relations = torch.randn(3, 256, 8, requires_grad=True), torch.randn(3, 256, 4).half()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = relation_loss(tokens, relations)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_hand(tokens, relations).item(), abs=1e-5)
    matrices = [tensor for tensor in kept if tensor.shape[-2:] == (256, 256)]
    assert sum(tensor.nbytes for tensor in matrices) == 3 * 256**2 * 4


# Views


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image [32, 32, 3] whose colours are its labels [32, 32]."""
    labels = np.random.default_rng(seed).permutation(16).reshape(4, 4).repeat(8, 0).repeat(8, 1) % 4
    return (60 * labels[..., None] + [0, 10, 20]).astype(np.uint8), labels


def test_a_view_of_the_whole_is_the_image_and_mirrors_and_boxes_are_what_they_say() -> None:
    image, _ = scene()
    assert np.array_equal(View().image(image), image)
    assert View().image(image).dtype == np.uint8
    assert np.array_equal(View().image(image[..., 0]), image[..., 0])
    mirrored = View((0.0, 1.0), (1.0, 0.0))
    assert np.array_equal(mirrored.image(image), image[:, ::-1])
    upper_right = View((0.0, 0.5), (0.5, 1.0))
    # Twice as large: each pixel of it is a quarter of the way to the next one.
    assert np.array_equal(upper_right.image(image)[1:-1:4, 1:-1:4], image[:16:2, 16::2])
    assert upper_right.part(WHOLE, (32, 32)) == ((0, 16), (16, 32))
    assert mirrored.part(((0.0, 8.0), (4.0, 12.0)), (32, 32)) == ((0, 8), (28, 20))
    dark = View(brightness=0.5).image(image)
    assert np.array_equal(dark, (image / 2).round().astype(np.uint8))
    grey = View(saturation=0.0).image(image).astype(int)
    assert np.abs(grey - (image @ [0.299, 0.587, 0.114])[..., None]).max() <= 0.51


def test_views_are_drawn_within_their_bounds_and_cut_no_more_than_the_aspect_asks_for() -> None:
    views = [draw_view(np.random.default_rng(i)) for i in range(1000)]
    sides = np.array([np.abs(np.subtract(view.stop, view.start)) for view in views])
    aspects = sides[:, 1] / sides[:, 0]
    assert 0.75 <= aspects.min() < 0.77
    assert 1.30 < aspects.max() <= 4 / 3
    assert np.allclose(sides.max(1), 1)
    assert np.log(aspects).mean() == pytest.approx(0, abs=0.02)
    assert np.allclose([np.add(view.start, view.stop) for view in views], 1)  # centred
    assert 0.4 < np.mean([view.start[1] > view.stop[1] for view in views]) < 0.6
    for colour in ("brightness", "saturation"):
        values = [getattr(view, colour) for view in views]
        assert 0.68 <= min(values) < 0.70
        assert 1.30 < max(values) <= 1.32


@pytest.mark.parametrize("crop", [0.0, 4.0])
def test_masks_and_maps_go_where_the_image_goes(crop: float) -> None:
    """Whatever the view, and whether preprocessing crops: the label of most of a cell is the one whose colour is seen there."""
    image, labels = scene()
    data = Dataset(
        "one",
        "image",
        [image] * 3,
        ["a", "b", "c"],
        ["train", "val", "test"],
        {"masks": Target("masks", np.stack([labels] * 3))},
    )
    places = Places((16, 16), lambda extent: tuple((crop, n - crop) for n in extent))
    teacher = MaskRelations(data, places)
    covered = slice(round(crop), round(32 - crop))
    for seed in range(6):
        view = draw_view(np.random.default_rng(seed))
        shares = teacher.shares(labels, view)
        assert np.allclose(shares.sum(1), 1)
        seen = View(view.start, view.stop).image(image)[covered, covered, 0].astype(float)
        cells = sampled(torch.from_numpy(seen)[None, None], [((0, len(seen)), (0, len(seen)))], (16, 16))[0, 0].numpy()
        whole = (shares.max(1) > 0.99).reshape(16, 16)
        # A pixel of a view mixes neighbours: cells whose neighbours are of one label too show their own colour alone.
        label = np.where(whole, shares.argmax(1).reshape(16, 16), -9)
        around = np.lib.stride_tricks.sliding_window_view(np.pad(label, 1, mode="edge"), (3, 3))
        sure = (around == label[..., None, None]).all((2, 3)).ravel()
        assert sure.sum() > 40
        assert np.allclose(cells.ravel()[sure] / 60, shares.argmax(1)[sure], atol=0.01)
        turned = View((view.start[0], view.stop[1]), (view.stop[0], view.start[1]))
        other = teacher.shares(labels, turned).argmax(1)
        assert (other != shares.argmax(1))[sure].mean() > 0.3  # the comparison can fail
        maps = torch.from_numpy(np.eye(4)[labels]).permute(2, 0, 1)[None]
        (rows, columns) = view.part(places.covers((32, 32)), (32, 32))
        same = sampled(maps, [(rows, columns)], (16, 16))[0].flatten(1).T
        assert np.array_equal(same.argmax(1).numpy()[sure], shares.argmax(1)[sure])


def test_masks_of_unequal_size_are_a_teacher() -> None:
    _, labels = scene()
    maps = [labels, labels[:24], labels[:, :20]]
    data = Dataset(
        "three",
        "image",
        [np.zeros((*each.shape, 3), np.uint8) for each in maps],
        ["a", "b", "c"],
        ["train", "val", "test"],
        {"masks": Target("masks", maps)},
    )
    teacher = MaskRelations(data, Places((8, 8), covering))
    for row, each in enumerate(maps):
        image = np.zeros((*each.shape, 3), np.uint8)
        found = next(iter(teacher.inputs(row, image, View()).values()))
        assert np.allclose(found, teacher.shares(each, View())) and np.allclose(found.sum(1), 1)


def test_cells_of_which_less_than_half_is_known_are_unknown() -> None:
    _, labels = scene()
    labels = np.where(np.arange(32)[:, None] < 7, -1, labels)
    data = Dataset(
        "one",
        "image",
        np.zeros((3, 32, 32, 3), np.uint8),
        ["a", "b", "c"],
        ["train", "val", "test"],
        {"segmentation": Target("token_label", np.stack([labels] * 3))},
    )
    shares = MaskRelations(data, Places((8, 8), covering)).shares(labels, View()).reshape(8, 8, -1)
    # Of the second row of cells a quarter is known.
    assert (shares[:2] == 0).all()
    assert np.allclose(shares[2:].sum(2), 1)


def test_blocks_of_tokens_are_hidden_whole() -> None:
    image = np.zeros((42, 42, 3), np.uint8)
    rng = np.random.default_rng(0)
    for crop, shape, cells in ((0.0, (6, 6), 9), (7.0, (4, 4), 4), (0.0, (3, 3), 4)):
        places = Places(shape, lambda extent, crop=crop: tuple((crop, n - crop) for n in extent))
        gone = hidden("image", image, 0.75, rng, token_blocks(places, (42, 42), 2))[..., 0] == GREY
        part = [((crop, 42 - crop), (crop, 42 - crop))]
        tokens = sampled(torch.from_numpy(gone)[None, None], part, shape)[0, 0].numpy()
        assert set(np.unique(tokens)) == {0.0, 1.0}
        padded = np.pad(tokens, ((0, shape[0] % 2), (0, shape[1] % 2)), mode="edge")
        blocks = padded.reshape(len(padded) // 2, 2, -1, 2)
        assert np.array_equal(blocks.min((1, 3)), blocks.max((1, 3)))
        assert blocks.max((1, 3)).sum() == round(0.75 * cells)


# Batches


def started(encoder: str = NAMING, data: str = f"{OBJECTS}?n=20", **more: Any) -> Start:
    return start_of(SpatialJob(encoder=encoder, data=data, batch=4, relations="masks", **more))


def feed_of(
    encoder: TorchEncoder, data: Dataset, relations: Any, mask: float = 0.75, teachers: Any = (), **more: Any
) -> SpatialFeed:
    rows = np.flatnonzero(data.split == "train")
    places = places_of(encoder, encoder.tap(encoder.output_tap))
    return SpatialFeed(data, rows, encoder, teachers, relations, places, 4, mask, 2, more.pop("seed", 0), **more)


def test_a_batch_is_a_function_of_seed_and_step_whatever_the_processes() -> None:
    encoder, data = naming.build(), naming.data(20)
    places = places_of(encoder, encoder.tap("blocks.1"))
    teachers = [Teacher(encoder, encoder.tap("blocks.0"))]
    feed = feed_of(encoder, data, MaskRelations(data, places))
    whole, parts = feed(3), [feed(3, rank, 2) for rank in range(2)]
    assert set(whole) == {"masked", "relations"}
    for key, values in whole.items():
        assert torch.equal(values, torch.cat([part[key] for part in parts]))
        assert torch.equal(values, feed(3)[key])
    # In another step a sample is seen otherwise. The control sees the same, and nobody's relations.
    assert feed.view(3, 0) != feed.view(4, 0)
    assert feed.view(3, 0) != feed_of(encoder, data, None, seed=1).view(3, 0)
    control = feed.read_by(teachers)(3)
    assert set(control) == {"clean", "masked"}
    assert torch.equal(control["masked"], whole["masked"])
    assert not torch.equal(control["clean"], whole["masked"])
    plain = feed_of(encoder, data, None, 0.0, augmented=False)
    rows = plain.order.part(3, 0, 1)[0]
    assert set(plain(3)) == {"clean"}
    assert torch.equal(plain(3)["clean"], torch.stack([encoder.preprocess(data[int(row)]) for row in rows]))


def test_an_encoder_teaches_its_own_cosines_at_the_students_places() -> None:
    """Its relations are those of its tokens on the student's image; on another grid, of the nearest of them."""
    start = started()
    data, student = start.dataset, start.own
    teacher = relations_of(PIXELS + ":blocks.0", start)
    batch = feed_of(student, data, teacher)(0)
    built = dx.build("encoder", PIXELS)
    expected = built.capture(batch["relations"], ["blocks.0"])["blocks.0"]
    assert teacher.relations(batch).shape == (4, 64, 16)
    assert torch.allclose(teacher.relations(batch), expected[:, built.tap("blocks.0").grid.prefix :], atol=1e-5)
    coarse = relations_of(PIXELS.replace("patch=4", "patch=8"), start)
    assert isinstance(coarse, EncoderRelations)
    batch = feed_of(student, data, coarse)(0)
    told = coarse.relations(batch).unflatten(1, (8, 8))
    own = coarse.teacher.encoder.capture(batch["relations"])[coarse.teacher.tap.name][:, -16:].unflatten(1, (4, 4))
    # Beyond the outermost centres of its 4 x 4 tokens there is no other to mix with; between two of them it is mixed.
    assert torch.allclose(told[:, 0, 0], own[:, 0, 0], atol=1e-5)
    assert torch.allclose(told[:, 0, 1], 0.75 * own[:, 0, 0] + 0.25 * own[:, 0, 1], atol=1e-5)


# What it does


def trained(objective: Alignment, feed: SpatialFeed, steps: int, lr: float) -> list[dict[str, float]]:
    """The values of each step of AdamW."""
    objective.free(feed(0))
    objective.train()
    optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr)
    values: list[dict[str, float]] = []
    for step in range(steps):
        torch.manual_seed(step)
        one = objective(feed(step))
        optimiser.zero_grad()
        one["loss"].backward()
        optimiser.step()
        values.append({name: value.item() for name, value in one.items()})
    return values


class Printed(Alignment):
    """What equation 2 says as it is printed."""

    def values(self, tokens: Tensor, batch: Any) -> dict[str, Tensor]:
        values = super().values(tokens, batch)
        return values | {"loss": -values["loss"]}


class Negated(SpatialAlignment):
    """Pairs that are driven away from what the teacher tells."""

    def values(self, tokens: Tensor, batch: Any) -> dict[str, Tensor]:
        values = super().values(tokens, batch)
        return values | {"loss": -values["loss"]}


def rises(kind: type[Alignment]) -> bool:
    """Whether the cosine of the output to the tap that teaches is higher after training, on whole images as they are."""
    base, data = naming.build(), naming.data(40)
    student, _ = scaled(base, 1.0)
    teachers = [Teacher(base, base.tap("blocks.0"))]
    trained(kind(student, teachers, "masked"), feed_of(student, data, None, 0.25, teachers), 30, 1e-2)
    batch = feed_of(student, data, None, 0.0, augmented=False)(0)["clean"]
    tokens = [
        one.capture(batch, [tap])[tap] for one, tap in ((base, "blocks.0"), (base, "blocks.1"), (student, "blocks.1"))
    ]
    before, after = (torch.nn.functional.cosine_similarity(tokens[0], other, dim=-1).mean() for other in tokens[1:])
    return bool(after > before + 0.1)


def test_the_cosine_rises_and_with_the_printed_sign_it_does_not() -> None:
    assert rises(Alignment)
    assert not rises(Printed)


@functools.cache
def propagated(kind: type[SpatialAlignment]) -> tuple[float, float, float]:
    """J of label propagation at block 0 and at the output of the base, and at the output after mask relations alone."""
    base, data = naming.build(), naming.data()
    student, _ = scaled(base, 1.0)
    relations = MaskRelations(data, places_of(student, student.tap("blocks.1")))
    trained(kind(student, [], relations, "masked"), feed_of(student, data, relations, 0.25), 60, 1e-2)
    return j(base, "blocks.0"), j(base, "blocks.1"), j(student, "blocks.1")


def j(encoder: TorchEncoder, tap: str) -> float:
    rng = np.random.default_rng(99)
    clips = [naming.clip(rng, 6) for _ in range(6)]
    tokens = [
        encoder.capture(torch.stack([naming.patches(frame) for frame in pixels]), [tap])[tap] for pixels, _ in clips
    ]
    followed = [label_propagation(x, (8, 8), masks[0]) for x, (_, masks) in zip(tokens, clips, strict=True)]
    return float(np.mean([j_and_f(guess, masks).j for guess, (_, masks) in zip(followed, clips, strict=True)]))


def test_mask_relations_alone_bring_lost_objects_back_to_the_output() -> None:
    inside, before, after = propagated(SpatialAlignment)
    assert inside > 0.9
    assert before < 0.3
    assert after > 0.9 * inside


def test_relations_of_the_wrong_sign_do_not() -> None:
    inside, _, after = propagated(Negated)
    assert after < 0.6 * inside


def test_teachers_stay_as_they_are_and_nothing_is_added_but_layer_scale() -> None:
    start = started(PIXELS)
    base, data, tap = start.own, start.dataset, start.tap
    student, blocks = scaled(start.base, 0.1)
    relations = relations_of(PIXELS + "&seed=3", start)
    assert isinstance(relations, EncoderRelations)
    teachers = [Teacher(base, base.tap("blocks.0"))]
    objective = SpatialAlignment(student, teachers, relations, "masked")
    # Two factors a feature in each block, and no part of a teacher.
    own = sum(p.numel() for p in base.module.parameters())
    assert sum(p.numel() for p in objective.parameters()) == own + 2 * len(blocks) * tap.features
    frozen = (base, relations.teacher.encoder)
    before = [one.identity["weights"] for one in frozen]
    feed = feed_of(base, data, relations, teachers=teachers)
    batch = feed(0)
    seen = base.capture(batch["clean"])
    values = trained(objective, feed, 5, 1e-2)
    assert [one.identity["weights"] for one in frozen] == before
    assert all(torch.equal(tokens, seen[name]) for name, tokens in base.capture(batch["clean"]).items())
    assert all(p.grad is None for one in frozen for p in one.module.parameters())
    assert student.identity["weights"] != before[0]
    assert all(x["loss"] == pytest.approx(x["relations"] - x["cosine"], abs=1e-5) for x in values)


# The command


SHORT: dict[str, Any] = {"encoder": NAMING, "data": f"{OBJECTS}?n=40", "batch": 8, "steps": 6, "device": "cpu"}


def test_the_three_ablations_and_the_control_are_encoders_of_their_own(tmp_path: Path) -> None:
    rows = {
        name: align_spatial(SpatialJob(**SHORT, out=tmp_path / name, control=name == "both", **by))
        for name, by in (
            ("both", {"to": "blocks.0", "relations": "masks"}),
            ("tap", {"to": "blocks.0"}),
            ("pairs", {"relations": "masks"}),
        )
    }
    logged = {name: lines(tmp_path / name)[-1] for name in rows}
    assert {name: sorted({"cosine", "relations"} & set(line)) for name, line in logged.items()} == {
        "both": ["cosine", "relations"],
        "tap": ["cosine"],
        "pairs": ["relations"],
    }
    assert [row["to"] for row in rows.values()] == ["blocks.0 and relations of masks", "blocks.0", "relations of masks"]
    assert rows["both"]["relations"] == "exact masks, target masks of objects"
    control = rows["both"]["control"]
    assert "relations" not in lines(tmp_path / "both-control")[-1]
    assert (control["to"], control["relations"]) == ("blocks.1", None)
    base = dx.build("encoder", NAMING).identity["weights"]
    records = [
        dx.load_encoder(path, trust_code=True).lineage for path in (*map(tmp_path.joinpath, rows), control["path"])
    ]
    assert [record["group"] for record in records] == [
        "naming spatially aligned to blocks.0 and to relations of masks",
        "naming spatially aligned to blocks.0",
        "naming spatially aligned to relations of masks",
        "control of naming spatially aligned to blocks.0 and to relations of masks",
    ]
    assert {record["base"] for record in records} == {base}
    assert rows["pairs"]["cosine"] == {"before": None, "after": None}
    for row in rows.values():
        assert aligned_lines(row)[0].startswith(f"{row['path']}: taught by {row['to']}, loss")
    with refusal("other-run", "given now", "--mask-cell", "--relations"):
        align_spatial(SpatialJob(**SHORT, out=tmp_path / "both", to="blocks.0", mask_cell=1))


def test_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {**SHORT, "to": "blocks.0", "relations": "masks", "control": False}
    asked |= {"checkpoint_every": 2, "log_every": 1}
    align_spatial(SpatialJob(**asked, out=tmp_path / "whole"))

    def stop(self: Alignment, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Alignment, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            align_spatial(SpatialJob(**asked, out=tmp_path / "cut"))
    align_spatial(SpatialJob(**asked, out=tmp_path / "cut"))
    losses = [x["loss"] for x in lines(tmp_path / "whole")]
    assert [x["loss"] for x in lines(tmp_path / "cut")] == losses
    # Nor does it matter who makes the batches, and what is computed twice.
    align_spatial(SpatialJob(**asked, out=tmp_path / "other", workers=2, recompute=True))
    assert [x["loss"] for x in lines(tmp_path / "other")] == pytest.approx(losses, rel=1e-6)
    one, other = (dx.load_encoder(tmp_path / name, trust_code=True).identity["weights"] for name in ("whole", "cut"))
    assert one == other


# What cannot be


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"encoder": PIXELS, "data": "digits"},
            "digits has no masks: give data with a target of kind masks or token_label",
        ),
        (
            {"relations": "nobody"},
            "'nobody' is no teacher of relations: give masks, sam2:FOLDER, or an encoder.*Unknown enc",
        ),
        ({"relations": f"{PIXELS}:blocks.9"}, r"Unknown tap 'blocks\.9'"),
        ({"relations": f"{PIXELS}@2"}, "Relations have no weight but 1"),
        (
            {"relations": "objective:jepa?modality=series&length=64&patch=8"},
            "reads series samples, but objects holds image",
        ),
        ({"relations": "sam2:nowhere"}, "nowhere is no folder of SAM 2"),
        ({"relations": None}, "There is no teacher: give --to TAP, --relations TEACHER, or both"),
        ({"to": "best-tap"}, "name that with --for"),
        ({"to": "blocks.7"}, r"Unknown tap 'blocks\.7'"),
        ({"mask_cell": 0}, "--mask-cell 0 is no number of tokens"),
        (
            {"encoder": "objective:jepa?modality=series&length=64&patch=8", "data": "lorenz?n=60&length=64"},
            "reads series samples, and spatial alignment takes images",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DiagnosticsError, match=message):
        align_spatial(SpatialJob(**{**SHORT, "relations": "masks", "out": tmp_path / "o", **changed}))
    assert not (tmp_path / "o").exists()
