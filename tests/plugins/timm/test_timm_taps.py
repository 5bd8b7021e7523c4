"""Taps of the structural kinds of timm's models, against timm's own intermediates and heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

timm = pytest.importorskip("timm")

# Below the skips, since these imports need timm.
from diagnostics_timm.encoder import encoder_of  # noqa: E402  (below the skip of a missing package)

from diagnostics import Grid  # noqa: E402  (below the skip of a missing package)
from diagnostics.encoders.places import verify_grid  # noqa: E402  (below the skip of a missing package)
from tests.support.refusals import refusal  # noqa: E402  (below the skip of a missing package)


def made(name: str, size: int, **options: Any) -> Any:
    torch.manual_seed(0)
    sized = {"img_size": size} if name in SIZED or "vit_" in name or "hiera" in name else {}
    return encoder_of(timm.create_model(name, **sized, **options).eval(), name, size)


SIZED = (
    "beit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "coat_tiny",
    "tnt_s_legacy_patch16_224",
    "volo_d1_224",
)


def batch_of(encoder: Any) -> Any:
    rng = np.random.default_rng(1)
    samples = [rng.integers(0, 256, (70, 50, 3), dtype=np.uint8) for _ in range(2)]
    return torch.stack([encoder.preprocess(sample) for sample in samples])


def blocks_of(encoder: Any) -> list[str]:
    return [tap.name for tap in encoder.taps if tap.part == "trunk"]


# --- pooled and head


@pytest.mark.parametrize(
    ("name", "size", "heads"),
    [
        ("test_vit", 64, ["pooled", "head"]),
        ("test_vit2", 64, ["pooled", "fc_norm", "head"]),
        ("vit_pe_core_tiny_patch16_384", 64, ["attn_pool", "head"]),
        ("vit_pe_spatial_tiny_patch16_512", 64, ["pooled"]),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 56, ["pooled"]),
        ("test_convnext", 64, ["pooled", "head"]),
        ("test_efficientnet", 64, ["pooled", "classifier"]),
        ("mobilenetv3_small_050", 64, ["conv_head", "pooled", "classifier"]),
        ("resnet10t", 64, ["pooled", "fc"]),
        ("resnetv2_18", 64, ["pooled", "head"]),
        ("dla46x_c", 64, ["pooled", "fc"]),
    ],
)
def test_pooled_and_head_equal_forward_head(name: str, size: int, heads: list[str]) -> None:
    encoder = made(name, size)
    batch = batch_of(encoder)
    captured = encoder.capture(batch)
    with torch.inference_mode():
        trunk = encoder.module.forward_features(batch)
        pooled = encoder.module.forward_head(trunk, pre_logits=True).flatten(1)
        logits = encoder.module.forward_head(trunk).flatten(1)
    taps = [tap for tap in encoder.taps if tap.part == "head"]
    assert [tap.name for tap in taps] == heads
    assert all(tap.depth > 1 and tap.tokens == 1 for tap in taps if tap.name != "conv_head")
    assert encoder.tap(encoder.output_tap).part == "trunk"
    # What the last head takes is what timm calls pre_logits.
    before = heads[-2] if len(heads) > 1 else heads[-1]
    assert torch.equal(captured[before][:, 0], pooled)
    assert torch.equal(captured[heads[-1]][:, 0], logits)


def test_models_without_a_classifier_have_the_same_trunk() -> None:
    whole, bare = made("test_vit", 64), made("test_vit", 64, num_classes=0)
    assert [tap.name for tap in bare.taps] == [tap.name for tap in whole.taps if tap.name != "head"]
    batch = batch_of(bare)
    with torch.inference_mode():
        expected = bare.module(batch)
    assert torch.equal(bare.capture(batch)["pooled"][:, 0], expected)
    for name in ("resnet10t", "test_convnext", "swin_tiny_patch4_window7_224"):
        encoder = made(name, 64, num_classes=0)
        with torch.inference_mode():
            expected = encoder.module(batch_of(encoder))
        # ConvNeXt's head still has a norm, and gives the pooled output itself.
        assert encoder.taps[-1].name == ("head" if "convnext" in name else "pooled")
        assert torch.equal(encoder.capture(batch_of(encoder))[encoder.taps[-1].name][:, 0], expected)


# --- maps and stages


@pytest.mark.parametrize(
    ("name", "size", "last"),
    [
        ("test_convnext", 64, ["stages.0.blocks.0", "stages.1.blocks.1", "stages.2.blocks.3", "stages.3.blocks.1"]),
        (
            "swin_tiny_patch4_window7_224",
            64,
            ["layers.0.blocks.1", "layers.1.blocks.1", "layers.2.blocks.5", "layers.3.blocks.1"],
        ),
        ("pvt_v2_b0", 64, ["stages.0.norm", "stages.1.norm", "stages.2.norm", "stages.3.norm"]),
        ("densenet121", 64, ["", "", "", "", "features.norm5"]),
        ("nest_tiny", 224, ["levels.0", "levels.1", "levels.2"]),
        ("vgg11", 64, ["", "", "", "features.20"]),
    ],
)
def test_stages_equal_timms_intermediates(name: str, size: int, last: list[str]) -> None:
    options = {"num_classes": 0} if name == "vgg11" else {}
    encoder = made(name, size, **options)
    batch = batch_of(encoder)
    captured = encoder.capture(batch)
    with torch.inference_mode():
        outcome = encoder.module.forward_intermediates(batch, intermediates_only=True)
    pairs = [(tap, one) for tap, one in zip(last, outcome[-len(last) :], strict=True) if tap in captured]
    assert pairs
    for tap, one in pairs:
        assert torch.equal(captured[tap], one.flatten(2).transpose(1, 2))


# --- Hiera


def test_hiera_lies_in_raster_order_at_every_block() -> None:
    encoder = made("hiera_tiny_224", 96)
    module, batch = encoder.module, batch_of(encoder)
    captured = encoder.capture(batch)
    with torch.inference_mode():
        outcome = module.forward_intermediates(batch, intermediates_only=True, output_fmt="NHWC")
        _, rolled = module.forward_features(batch, return_intermediates=True)
    assert len(outcome) == len(module.stage_ends) == 4
    for end, one, two in zip(module.stage_ends, outcome, rolled, strict=True):
        tap = encoder.tap(f"blocks.{end}")
        assert tap.grid == Grid(tuple(one.shape[1:3]), ("y", "x"))
        assert torch.equal(captured[tap.name], one.flatten(1, 2))
        assert torch.equal(captured[tap.name], two.flatten(1, 2))
    # Only the last stage lies in raster order by itself.
    assert [bool(encoder.tap(f"blocks.{end}").site.order) for end in module.stage_ends] == [True, True, True, False]
    assert verify_grid(encoder).right


def test_hiera_without_its_order_is_found_out() -> None:
    from dataclasses import replace

    from diagnostics import discover

    encoder = made("hiera_tiny_224", 96)
    image = torch.randn((2, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    with refusal("token-order"):
        discover(encoder.module, image, "hiera", {"y": 96, "x": 96})
    raw = [replace(tap, site=replace(tap.site, order=())) for tap in encoder.taps if tap.part != "head"]
    placed = verify_grid(encoder.with_taps([*raw, *encoder.taps[len(raw) :]]))
    assert not placed.right


# --- several branches


def test_branches_have_a_tap_each() -> None:
    encoder = made("crossvit_tiny_240", 240)
    batch = batch_of(encoder)
    captured = encoder.capture(batch)
    names = ["embed", *(f"blocks.{i}" for i in range(3))]
    assert list(captured)[:8] == [f"{name}.branch{i}" for name in names for i in range(2)]
    assert encoder.tap("blocks.0.branch0").grid == Grid((20, 20), ("y", "x"), 1)
    assert encoder.tap("blocks.0.branch1").grid == Grid((14, 14), ("y", "x"), 1)
    with torch.inference_mode():
        outcome = encoder.module.forward_intermediates(batch, intermediates_only=True, output_fmt="NLC")
        fine, coarse = encoder.module.forward_features(batch)
    for i, one in enumerate(outcome):
        assert torch.equal(captured[f"blocks.{i % 3}.branch{i // 3}"][:, 1:], one)
    assert torch.equal(captured["norm.0"], fine)
    assert torch.equal(captured["norm.1"], coarse)


def test_high_resolution_net_has_its_four_maps() -> None:
    encoder = made("hrnet_w18_small", 64)
    batch = batch_of(encoder)
    captured = encoder.capture(batch)
    sides = [encoder.tap(f"stage4.0.branch{i}").grid.shape[0] for i in range(4)]
    assert sides == [16, 8, 4, 2]
    assert encoder.output_tap == "final_layer"
    with torch.inference_mode():
        outcome = encoder.module.forward_intermediates(batch, intermediates_only=True)
        incre = encoder.module.incre_modules
        for i in range(4):
            of_branch = captured[f"stage4.0.branch{i}"].transpose(1, 2).unflatten(2, (sides[i], sides[i]))
            torch.testing.assert_close(incre[i](of_branch.contiguous()), outcome[i + 1], rtol=1e-4, atol=1e-5)


def test_a_branch_that_is_handed_on_unchanged_or_has_no_grid_is_no_tap() -> None:
    coat = made("coat_tiny", 64)
    assert [tap.name for tap in coat.taps if tap.name.startswith("parallel_blocks.0")] == [
        f"parallel_blocks.0.branch{i}" for i in (1, 2, 3)
    ]
    assert coat.output_tap == "norm4"
    tnt = made("tnt_s_legacy_patch16_224", 64)
    batch = batch_of(tnt)
    assert tnt.tap("blocks.0").site.item == 1
    assert "fits no grid" in tnt.left_out["blocks.0.branch0"]
    with torch.inference_mode():
        outcome = tnt.module.forward_intermediates(batch, intermediates_only=True, output_fmt="NLC")
    captured = tnt.capture(batch)
    for i, one in enumerate(outcome):
        assert torch.equal(captured[f"blocks.{i}"][:, 1:], one)


def test_class_attention_ends_the_trunk() -> None:
    volo = made("volo_d1_224", 96)
    batch = batch_of(volo)
    captured = volo.capture(batch)
    assert volo.taps[0].site.layout == "channels_last"
    assert volo.tap("norm").grid == Grid((6, 6), ("y", "x"), 1)
    with torch.inference_mode():
        trunk = volo.module.forward_features(batch)
    assert torch.equal(captured["norm"], trunk)


# --- the fresh control


def test_fresh_weights_make_their_tables_too() -> None:
    torch.manual_seed(0)
    module = timm.create_model("convit_tiny", img_size=64)
    encoder = encoder_of(module, "convit", 64, lambda: timm.create_model("convit_tiny", img_size=64))
    fresh: Any = encoder.fresh(3)
    fresh.module.load_state_dict(encoder.module.state_dict())
    assert fresh.identity["weights"] == encoder.identity["weights"]
