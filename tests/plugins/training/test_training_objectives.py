"""Each objective against what its paper says, written a second time by hand or in closed form."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("timm")

from diagnostics_training import objectives
from diagnostics_training.models.encoder import Backbone, EncoderObjective, Linear, Patches, Sizes, positions
from diagnostics_training.models.inputs import block_masks, random_masks
from diagnostics_training.objectives.contrastive import crops, hierarchical, info_nce
from diagnostics_training.objectives.forecast import LEVELS, gaussian, pinball
from diagnostics_training.objectives.jepa import MOMENTUM, Jepa, momentum, sigreg, variance
from diagnostics_training.objectives.reconstruct import Reconstruct
from diagnostics_training.objectives.supervised import Supervised
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import build_optimiser

from diagnostics import Target
from tests.support.objectives import SIZES, architecture, feed, objective
from tests.support.refusals import refusal

# Backbone


def test_patches_lie_in_raster_order_and_hold_their_own_values() -> None:
    x = torch.arange(2 * 3 * 4 * 6 * 8, dtype=torch.float32).reshape(2, 3, 4, 6, 8)
    cut = Patches(3, (2, 3, 4), ("t", "y", "x")).cut(x)
    assert cut.shape == (2, 2 * 2 * 2, 3 * 24)
    number = 0
    for t in (0, 2):
        for y in (0, 3):
            for x_at in (0, 4):
                own = x[1, :, t : t + 2, y : y + 3, x_at : x_at + 4]
                assert torch.equal(cut[1, number], own.flatten())
                number += 1


def test_positions_are_sines_and_cosines_of_each_axis() -> None:
    built = positions((3, 5), 16).numpy()
    for token, (y, x) in enumerate((y, x) for y in range(3) for x in range(5)):
        for axis, place in enumerate((y, x)):
            for k in range(4):
                angle = place / 10_000 ** (k / 4)
                assert built[token, 8 * axis + k] == pytest.approx(math.sin(angle), abs=1e-6)
                assert built[token, 8 * axis + 4 + k] == pytest.approx(math.cos(angle), abs=1e-6)


def test_only_patches_that_are_kept_are_seen() -> None:
    backbone = Backbone(Patches(1, (8,), ("t",)), 16, 2, 2).eval()
    x = torch.randn(2, 1, 64)
    keep = torch.tensor([[0, 3, 5], [1, 2, 7]])
    changed = x.clone()
    for row in range(2):
        for hidden in set(range(8)) - set(keep[row].tolist()):
            changed[row, 0, 8 * hidden : 8 * hidden + 8] += 1
    assert torch.equal(backbone(x, keep), backbone(changed, keep))
    everything = torch.arange(8).expand(2, -1)
    assert torch.allclose(backbone(x), backbone(x, everything), atol=1e-6)
    assert not torch.allclose(backbone(x)[0, keep[0]], backbone(changed)[0, keep[0]], atol=1e-3)


@pytest.mark.parametrize("modality", SIZES)
def test_a_later_patch_changes_no_earlier_token_of_a_forecast_and_does_of_the_others(modality: str) -> None:
    built = architecture("forecast", modality)
    model = built.initial(0).eval()
    x = torch.randn(1, built.channels, *built.extent)
    changed = x.clone()
    changed[(0, slice(None), *(slice(n // 2, None) for n in built.extent))] += 1
    first = int((built.patches.cut(x) != built.patches.cut(changed)).any(2)[0].nonzero()[0])
    assert first > 0
    before, after = model.backbone(x)[0], model.backbone(changed)[0]
    assert torch.equal(before[:first], after[:first])
    assert not torch.allclose(before[first:], after[first:], atol=1e-3)
    open_one = architecture("random", modality).initial(0).eval()
    assert not torch.allclose(open_one.backbone(x)[0, :first], open_one.backbone(changed)[0, :first], atol=1e-4)


def test_backbones_of_one_seed_begin_alike_and_of_another_do_not() -> None:
    first = architecture("jepa").initial(3).backbone.state_dict()
    assert all(
        torch.equal(v, architecture("contrastive").initial(3).backbone.state_dict()[k]) for k, v in first.items()
    )
    other = architecture("jepa").initial(4).backbone.state_dict()
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


# Forecast


def test_pinball_loss_by_hand() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.standard_normal((3, 5)), rng.standard_normal((3, 5, len(LEVELS)))
    losses = []
    for index in np.ndindex(3, 5):
        for k, level in enumerate((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)):
            over = true[index] - predicted[(*index, k)]
            losses.append(level * over if over > 0 else (level - 1) * over)
    assert float(pinball(torch.tensor(predicted), torch.tensor(true))) == pytest.approx(np.mean(losses), rel=1e-12)


def test_gaussian_likelihood_is_that_of_the_distribution() -> None:
    predicted, true = torch.randn(4, 6, 2, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    density = torch.distributions.Normal(predicted[..., 0], (predicted[..., 1] / 2).exp()).log_prob(true)
    expected = -density.mean() - math.log(2 * math.pi) / 2
    assert float(gaussian(predicted, true)) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("likelihood", ["quantile", "gaussian"])
def test_a_forecast_is_scored_on_the_patch_that_follows(likelihood: str) -> None:
    built = objective("forecast", likelihood=likelihood)
    x = torch.randn(2, 1, 64)
    predicted = built.model.head.out(built.model.backbone(x)).detach().double().numpy()  # type: ignore[union-attr]  (the objective decides which parts a model has)
    losses = []
    for sample in range(2):
        for token in range(7):
            following = x[sample, 0, 8 * token + 8 : 8 * token + 16].double().numpy()
            each = predicted[sample, token].reshape(8, -1)
            if likelihood == "quantile":
                errors = following[:, None] - each
                losses.append(np.where(errors > 0, np.array(LEVELS) * errors, (np.array(LEVELS) - 1) * errors).mean())
            else:
                losses.append((each[:, 1] + (following - each[:, 0]) ** 2 / np.exp(each[:, 1])).mean() / 2)
    assert float(built({"x": x})["loss"].detach()) == pytest.approx(np.mean(losses), rel=1e-5)


# Reconstruction


@pytest.mark.parametrize("modality", SIZES)
def test_reconstruction_counts_hidden_patches_only_each_normed(modality: str) -> None:
    built = objective("reconstruct", modality)
    assert isinstance(built, Reconstruct)
    batch = feed(built, "reconstruct", modality)(0)
    x, seen, hidden = batch["x"], batch["seen"], batch["hidden"]
    everything = torch.cat([seen, hidden], 1).sort(1).values
    assert torch.equal(everything, torch.arange(everything.shape[1]).expand_as(everything))
    predicted = built.model.head.fill(built.model.backbone(x, seen), built.sizes.grid, seen, hidden).detach()  # type: ignore[union-attr]  (the objective decides which parts a model has)
    patches = built.model.backbone.patches.cut(x)
    errors = []
    for row in range(len(x)):
        for k, place in enumerate(hidden[row]):
            patch = patches[row, place].double()
            true = (patch - patch.mean()) / patch.std(correction=0)
            errors.append(float((predicted[row, k].double() - true).square().mean()))
    assert float(built(batch)["loss"].detach()) == pytest.approx(np.mean(errors), rel=1e-3)


def test_decoder_puts_mask_tokens_where_patches_are_hidden() -> None:
    """What a hidden patch holds is seen by nobody, and where it lies is seen by the decoder."""
    built = objective("reconstruct")
    batch = feed(built, "reconstruct")(0)
    decoder, seen, hidden = built.model.head, batch["seen"], batch["hidden"]
    context = built.model.backbone(batch["x"], seen)
    predicted = decoder.fill(context, (8,), seen, hidden)  # type: ignore[union-attr]  (the objective decides which parts a model has)
    turned = decoder.fill(context, (8,), seen, hidden.flip(1))  # type: ignore[union-attr]  (the objective decides which parts a model has)
    assert torch.allclose(predicted, turned.flip(1), atol=1e-5)
    assert not torch.allclose(predicted[:, 0], predicted[:, 1], atol=1e-3)


# Contrast


def nce_by_hand(x: np.ndarray, y: np.ndarray, temperature: float) -> float:
    """SimCLR's equation 1, over all 2n views."""
    views = np.concatenate([x, y])
    n, losses = len(x), []
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        weights = [math.exp(views[i] @ views[k] / temperature) for k in range(2 * n) if k != i]
        losses.append(-math.log(math.exp(views[i] @ views[positive] / temperature) / sum(weights)))
    return float(np.mean(losses))


def test_info_nce_by_hand() -> None:
    rng = np.random.default_rng(1)
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, 6, 4)))
    result = info_nce(*(torch.tensor(v) for v in (x, y, x, y)), slice(0, 6), 0.1)
    assert float(result) == pytest.approx(nce_by_hand(x, y, 0.1), rel=1e-10)


def test_info_nce_of_some_rows_averages_to_that_of_all() -> None:
    x, y = torch.randn(2, 6, 4, dtype=torch.float64)
    parts = [info_nce(x[a:b], y[a:b], x, y, slice(a, b), 0.5) for a, b in ((0, 3), (3, 6))]
    assert float(sum(parts) / 2) == pytest.approx(nce_by_hand(x.numpy(), y.numpy(), 0.5), rel=1e-10)


def test_contrast_uses_normalised_projections_of_both_views() -> None:
    built = objective("contrastive")
    batch = feed(built, "contrastive")(0)
    assert not torch.equal(batch["x"], batch["y"])
    head = built.model.head
    assert head is not None
    views = []
    for name in ("x", "y"):
        pooled = built.model.backbone(batch[name]).mean(1)
        projected = pooled @ head.enter.weight.T + head.enter.bias  # type: ignore[operator, union-attr]
        projected = (projected.clamp(min=0) @ head.out.weight.T + head.out.bias).detach().double().numpy()  # type: ignore[operator, union-attr]
        views.append(projected / np.linalg.norm(projected, axis=1, keepdims=True))
    assert float(built(batch)["loss"].detach()) == pytest.approx(nce_by_hand(*views, 0.1), rel=1e-4)


def test_temporal_contrast_by_hand() -> None:
    rng = np.random.default_rng(2)
    left, right = rng.standard_normal((2, 3, 5, 4))
    losses, a, b = [], left, right
    while True:
        times = a.shape[1]
        instance = np.mean([nce_by_hand(a[:, t], b[:, t], 1.0) for t in range(times)])
        if times == 1:
            losses.append(instance / 2)
            break
        losses.append((instance + np.mean([nce_by_hand(a[i], b[i], 1.0) for i in range(3)])) / 2)
        a, b = (np.stack([v[:, t : t + 2].max(1) for t in range(0, times // 2 * 2, 2)], axis=1) for v in (a, b))
    assert float(hierarchical(torch.tensor(left), torch.tensor(right))) == pytest.approx(np.mean(losses), rel=1e-10)


def test_a_moment_of_a_clip_is_the_mean_over_its_patches() -> None:
    built = objective("contrastive", "video", positives="temporal")
    x = feed(built, "contrastive", "video")(0)["x"]
    tokens = built.model(x).reshape(len(x), *built.model.backbone.patches.grid(tuple(x.shape[2:])), -1)
    assert torch.allclose(built.moments(x), tokens.mean((2, 3)), atol=1e-6)


@given(st.lists(st.floats(0, 0.999), min_size=4, max_size=4), st.integers(2, 40))
def test_crops_share_a_stretch_within_the_series(drawn: list[float], tokens: int) -> None:
    first, start, stop, last = crops(drawn, tokens)
    assert 0 <= first <= start < stop <= last <= tokens
    assert stop - start >= min(tokens, max(2, tokens // 4))


# Joint-embedding prediction


@pytest.mark.parametrize("modality", SIZES)
def test_context_encoder_never_sees_what_the_targets_hold(modality: str) -> None:
    built = objective("jepa", modality)
    assert isinstance(built, Jepa)
    batch = feed(built, "jepa", modality)(0)
    x, seen, targets = batch["x"], batch["seen"], batch["targets"]
    for row in range(len(x)):
        assert not set(seen[row].tolist()) & set(targets[row].flatten().tolist())
    # All that is in targets becomes noise; which numbers these are, the cut of their own numbers says.
    numbers = built.context.patches.cut(torch.arange(x[0].numel()).reshape(1, *x.shape[1:]))[0]
    changed = x.flatten(1).clone()
    for row in range(len(x)):
        places = numbers[targets[row].flatten()].flatten()
        changed[row, places] = torch.randn(len(places))
    changed = changed.reshape(x.shape)
    assert torch.equal(built.context(x, seen), built.context(changed, seen))
    assert not torch.allclose(built.model.backbone(x), built.model.backbone(changed), atol=1e-3)


def test_prediction_loss_by_hand() -> None:
    built = objective("jepa")
    assert isinstance(built, Jepa)
    with torch.no_grad():
        for parameter in built.context.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    batch = feed(built, "jepa")(0)
    x, seen, targets = batch["x"], batch["seen"], batch["targets"]
    taught = built.model.backbone(x).detach().double()
    taught = (taught - taught.mean(-1, keepdim=True)) / (taught.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    errors = []
    for row in range(len(x)):
        for block in targets[row]:
            own = (part[row : row + 1] for part in (x, seen))
            context = built.context(*own).detach()
            predicted = built.model.head.fill(context, built.sizes.grid, seen[row : row + 1], block[None])  # type: ignore[union-attr]  (the objective decides which parts a model has)
            errors.append(float((predicted[0].detach().double() - taught[row, block]).abs().mean()))
    assert float(built(batch)["loss"].detach()) == pytest.approx(np.mean(errors), rel=1e-4)


def test_no_gradient_reaches_the_teacher() -> None:
    built = objective("jepa")
    built(feed(built, "jepa")(0))["loss"].backward()
    assert all(p.grad is None for p in built.model.backbone.parameters())  # type: ignore[union-attr]  (the objective decides which parts a model has)
    assert all(p.grad is not None for p in built.context.parameters())  # type: ignore[union-attr]  (the objective decides which parts a model has)


def test_teacher_is_a_moving_average_in_closed_form() -> None:
    built = objective("jepa")
    assert isinstance(built, Jepa)
    start = built.model.backbone.embed.weight.clone()
    with torch.no_grad():
        built.context.embed.weight += 1.0
    student = built.context.embed.weight.detach().clone()
    total, share = 10, 1.0
    for done in range(1, total + 1):
        built.after_step(done, total)
        share *= 0.2 + 0.8 * (done - 1) / total
    assert torch.allclose(built.model.backbone.embed.weight, student + share * (start - student), atol=1e-6)
    assert momentum(1, 2000) == MOMENTUM == 0.996
    assert momentum(11, 10) == momentum(2001, 2000) == pytest.approx(1.0)


@pytest.mark.parametrize("total", [50, 100, 1000, 2000])
def test_short_trainings_forget_the_teachers_initial_weights_as_well(total: int) -> None:
    assert math.prod(momentum(done, total) for done in range(1, total + 1)) < 0.02
    assert math.prod(0.996 + 0.004 * (done - 1) / 100 for done in range(1, 101)) > 0.8  # what 0.996 alone leaves


@pytest.mark.parametrize("loss", [lambda x, y: info_nce(x, y, x, y, slice(0, 64), 0.1), lambda x, y: sigreg(x)])
def test_bf16_leaves_losses_in_float32(loss: Any) -> None:
    x, y = (
        nn.functional.normalize(torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    ).unbind()
    torch.manual_seed(1)
    expected = loss(x, y)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(x, y)
    assert result.dtype == torch.float32 and torch.equal(result, expected)


def test_variance_hinge_by_hand() -> None:
    rows = np.random.default_rng(0).standard_normal((20, 3)) * [0.1, 0.5, 3.0]
    expected = np.mean([max(0.0, 1 - math.sqrt(rows[:, f].var(ddof=1) + 1e-4)) for f in range(3)])
    assert float(variance(torch.tensor(rows))) == pytest.approx(expected, rel=1e-10)


def test_sigreg_is_the_epps_pulley_statistic() -> None:
    """In closed form (along one line there are no directions to draw), but for the sum in place of the integral."""
    rows = np.random.default_rng(0).standard_normal(12) * 1.7 + 0.4
    n = len(rows)
    between = np.exp(-((rows[:, None] - rows) ** 2) / 2).sum() / n**2
    to_gauss = np.exp(-(rows**2) / 4).sum() / n / math.sqrt(2)
    expected = n * math.sqrt(2 * math.pi) * (between - 2 * to_gauss + 1 / math.sqrt(3))
    assert float(sigreg(torch.tensor(rows)[:, None])) == pytest.approx(expected, rel=2e-3)


def test_sigreg_is_small_for_gaussians_and_large_for_a_collapse() -> None:
    gaussian_rows, constant = torch.randn(256, 8), torch.zeros(256, 8)
    assert float(sigreg(gaussian_rows)) < 2 < 50 < float(sigreg(constant))


@pytest.mark.parametrize("grid", [(32,), (8,), (8, 8), (4, 4), (4, 8, 8), (2, 4, 4)])
def test_block_masks_are_blocks_and_leave_a_context(grid: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    patches = math.prod(grid)
    for _ in range(20):
        seen, targets = block_masks(rng, 16, grid)
        assert seen.shape[0] == targets.shape[0] == 16
        assert targets.shape[1] == (1 if len(grid) == 3 else 4)
        assert seen.shape[1] >= 1
        assert targets.shape[2] >= 1
        for row in range(16):
            assert len(set(seen[row])) == seen.shape[1]
            union = set(targets[row].flatten())
            assert not union & set(seen[row])
            assert union | set(seen[row]) <= set(range(patches))
            if len(grid) == 1:
                assert all((np.diff(block) == 1).all() for block in targets[row])
            if len(grid) == 2:
                for block in targets[row]:
                    sides = [np.ptp(axis) + 1 for axis in np.unravel_index(block, grid)]
                    assert math.prod(sides) == len(block)


def test_share_of_what_masks_leave_as_context() -> None:
    rng = np.random.default_rng(0)
    shares = {
        grid: np.mean([block_masks(rng, 64, grid)[0].shape[1] for _ in range(30)]) / math.prod(grid)
        for grid in ((32,), (8, 8), (4, 8, 8))
    }
    assert 0.2 < shares[(32,)] < 0.5
    assert 0.2 < shares[(8, 8)] < 0.5
    assert 0.1 < shares[(4, 8, 8)] < 0.4


@given(st.integers(2, 40), st.floats(0.1, 0.9))
def test_random_masks_hide_their_share(patches: int, share: float) -> None:
    seen, hidden = random_masks(np.random.default_rng(0), 5, patches, share)
    assert abs(hidden.shape[1] - share * patches) <= 1
    assert all(sorted([*seen[row], *hidden[row]]) == list(range(patches)) for row in range(5))


# The ceiling


def test_supervision_by_hand_with_what_is_unknown_left_out() -> None:
    rng = np.random.default_rng(0)
    values, angle = rng.standard_normal(8) * 3 + 5, rng.uniform(0, 360, 8)
    values[2] = np.nan
    targets = {
        "kind": Target("label", np.array([0, 1, 2, -1, 0, 1, 2, 0]), classes=("a", "b", "c")),
        "size": Target("value", values),
        "way": Target("state", angle, period=360.0),
        "map": Target("token_value", rng.standard_normal((8, 64))),
    }
    rows = np.arange(1, 8)
    answers = Supervised.answers(targets, rows, "mine")
    assert (answers.classes, answers.outputs) == ((3,), 6)
    sizes = architecture("supervised", outputs=6)
    supervised = Supervised(sizes.initial(0), sizes, classes=answers.classes)
    x = torch.randn(7, 1, 64)
    batch = {"x": x} | {name: torch.tensor(array) for name, array in answers.arrays.items()}
    predicted = supervised.model(x).detach().double().numpy()
    entropy = [
        math.log(np.exp(predicted[i, :3]).sum()) - predicted[i, k]
        for i, k in enumerate([1, 2, -1, 0, 1, 2, 0])
        if k >= 0
    ]
    raw = np.stack([values[rows], np.sin(np.radians(angle[rows])), np.cos(np.radians(angle[rows]))], axis=1)
    true = (raw - np.nanmean(raw, 0)) / np.nanstd(raw, 0)
    squared = np.nansum((predicted[:, 3:] - true) ** 2, axis=0) / 7
    expected = np.mean([sum(entropy) / 7, *squared])
    assert float(supervised(batch)["loss"].detach()) == pytest.approx(expected, rel=1e-4)


def test_a_data_set_without_answers_cannot_supervise() -> None:
    with refusal("no-target"):
        Supervised.answers({"map": Target("token_value", np.zeros((8, 64)))}, np.arange(8), "mine")


# All


CASES = [
    ("forecast", {}),
    ("forecast", {"likelihood": "gaussian"}),
    ("reconstruct", {}),
    ("contrastive", {}),
    ("contrastive", {"positives": "temporal"}),
    ("jepa", {}),
    ("jepa", {"regulariser": "variance"}),
    ("jepa", {"regulariser": "sigreg"}),
    ("supervised", {"outputs": 4}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_losses_fall_on_series(name: str, options: dict[str, object]) -> None:
    falls(name, "series", options)


@pytest.mark.parametrize("modality", ["image", "video"])
@pytest.mark.parametrize("name", ["forecast", "reconstruct", "contrastive", "jepa", "supervised"])
def test_losses_fall_on_pictures_and_clips(name: str, modality: str) -> None:
    falls(name, modality, {"outputs": 4} if name == "supervised" else {})


def test_losses_fall_on_moments_of_clips() -> None:
    falls("contrastive", "video", {"positives": "temporal"})


def falls(name: str, modality: str, options: dict[str, object]) -> None:
    """On one batch, learned by heart."""
    torch.manual_seed(0)
    built = objective(name, modality, **options)  # type: ignore[arg-type]
    batch = feed(built, name, modality)(0)
    optimiser = build_optimiser(built, Settings(steps=30))
    losses = []
    for _ in range(30):
        values = built(batch)
        optimiser.zero_grad()
        values["loss"].backward()
        nn.utils.clip_grad_norm_(built.parameters(), 1.0)
        optimiser.step()
        losses.append(float(values["loss"].detach()))
    assert losses[-1] < 0.97 * losses[0]


def test_a_module_makes_an_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else names it: encoder, its name, its head, its views and its loss follow."""

    class Energy(EncoderObjective):
        causal, noise, options, training_options = True, False, ("outputs",), ("regulariser",)

        def forward(self, batch: Any) -> dict[str, torch.Tensor]:
            return {"loss": self.model(batch["x"]).square().mean()}

        @classmethod
        def head(cls, sizes: Sizes) -> Linear:
            return Linear("energy", sizes.width, sizes.outputs)

    module = types.ModuleType("diagnostics_training.objectives.energy")
    vars(module)["Energy"] = Energy
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(objectives, "OBJECTIVES", (*objectives.OBJECTIVES, "energy"))
    monkeypatch.setattr("diagnostics_training.train.OBJECTIVES", objectives.OBJECTIVES)
    falls("energy", "series", {"outputs": 3})
    built = architecture("energy", outputs=3)
    assert built.spec.endswith("&outputs=3")
    encoder = built.encoder(built.initial(0), "mine")
    assert encoder.tap("head.energy").features == 3 and built.model().backbone.causal


def test_readme_names_every_objective() -> None:
    readme = Path(__file__).parents[3] / "plugins" / "diagnostics_training" / "README.md"
    for name in objectives.OBJECTIVES:
        assert objectives.objective_class(name).__module__.endswith(f".{name}")
        assert f"| `{name}` |" in readme.read_text()


def test_an_objective_is_added_as_the_page_says(tmp_path: Path) -> None:
    """Its module alone, in a copy of the plugin: it is trained by the command, and built by its name."""
    plugins = Path(__file__).parents[3] / "plugins"
    shutil.copytree(plugins / "diagnostics_training", tmp_path / "diagnostics_training")
    blocks = re.findall(
        r"```python\n(.*?)```", (plugins.parent / "docs" / "dev" / "training.md").read_text(), re.DOTALL
    )
    (module,) = (block for block in blocks if "class Ending(" in block)
    (tmp_path / "diagnostics_training" / "objectives" / "ending.py").write_text(module)
    words = "train objectives --data lorenz?n=40&length=64 --objective ending --steps 3 --batch 4 --width 16 --depth 2 --heads 2 --json"
    paths = os.pathsep.join((str(tmp_path), *sys.path))
    done = subprocess.run(
        [sys.executable, "-m", "diagnostics", *words.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    (row,) = json.loads(done.stdout)["encoders"]
    assert (row["objective"], row["steps"]) == ("ending", 3) and row["loss"] > 0
    assert row["name"] == "lorenz-ending"
