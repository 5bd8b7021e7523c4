"""Perception Encoders against their equations, against timm's own, and against the published sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

timm = pytest.importorskip("timm")

# Below the skip, since these imports need timm.
from diagnostics_perception.checkpoint import fitted, meta_tensors  # noqa: E402  (below the skip of a missing package)
from diagnostics_perception.encoder import encoder_of  # noqa: E402  (below the skip of a missing package)
from diagnostics_perception.models import (  # noqa: E402  (below the skip of a missing package)
    ARCHITECTURES,
    Architecture,
    Positions,
    fitted_positions,
    initial,
    skeleton,
)

from tests.support.perceiver import CORE, TINY, VARIED, images, meta_shapes, meta_state, reference  # noqa: E402  (below the skip of a missing package)
from tests.support.refusals import refusal  # noqa: E402  (below the skip of a missing package)


def built(state: dict[str, Tensor], one: Architecture, image: int | None = None, positions: Positions = "index") -> Any:
    tensors, report = fitted(state, one, one.grid(image), positions)
    assert report.wrong == report.changed == []
    model = skeleton(one, image, positions)
    model.load_state_dict(tensors, assign=True)
    return model


def exact(state: dict[str, Tensor], one: Architecture, image: int | None = None) -> dict[str, Tensor]:
    """What our encoder gives in float64, at all taps."""
    module = built(state, one, image).double()
    # Loaded in float32: the one tensor that loading computes is computed again in float64.
    table = fitted_positions(state["positional_embedding"][None].double(), one.prefix, one.grid(image), "index")
    torch.testing.assert_close(module.pos_embed.data, table, atol=1e-6, rtol=0)
    module.pos_embed.data = table
    return encoder_of("tiny", one, module, image).capture(images(image or one.image))


def furthest(result: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert list(result) == list(expected)
    return max(float((result[name] - expected[name]).abs().max()) for name in result)


@pytest.mark.parametrize("image", [32, 64, 40, 8])
@pytest.mark.parametrize("family", TINY | VARIED)
def test_every_tap_is_what_the_equations_give(family: str, image: int) -> None:
    one = (TINY | VARIED)[family]
    state = meta_state(one)
    assert furthest(exact(state, one, image), reference(state, images(image), one)) <= 1e-10


@pytest.mark.parametrize(
    ("mistake", "least"),
    [
        ({"eps": 1e-6}, 1e-6),
        ({"offset": 0}, 1e-3),
        ({"x_first": False}, 1e-2),
        ({"interleaved": False}, 1e-2),
        ({"pool_heads": 3}, 1e-2),
    ],
    ids=str,
)
def test_mistakes_that_a_port_can_make_are_seen(mistake: dict[str, Any], least: float) -> None:
    state = meta_state(CORE)
    assert furthest(exact(state, CORE), reference(state, images(32), CORE, **mistake)) > least


def test_without_a_class_token_only_differences_of_positions_count() -> None:
    one = TINY["core like G"]
    state = meta_state(one)
    assert furthest(exact(state, one), reference(state, images(32), one, offset=5)) < 1e-4


def timms(one: Architecture, state: dict[str, Tensor], image: int) -> Any:
    """timm's own model at another size, with its own conversion and its own resampling."""
    grid = one.image // one.patch
    model = timm.create_model(
        "vit_pe_core_tiny_patch16_384",
        img_size=one.image,
        patch_size=one.patch,
        embed_dim=one.width,
        depth=one.depth,
        num_heads=one.heads,
        num_classes=one.embedding,
        ref_feat_shape=(grid, grid),
    )
    converted = timm.models.eva.checkpoint_filter_fn({f"visual.{k}": v for k, v in state.items()}, model)
    model.load_state_dict(converted, strict=True)
    if image != one.image:
        model.set_input_size((image, image))
    return model.eval()


@pytest.mark.parametrize("image", [32, 64, 40])
@torch.no_grad()
def test_rescaled_positions_are_timms(image: int) -> None:
    state, batch = meta_state(CORE), images(image).float()
    ours, theirs = built(state, CORE, image, "rescaled").eval(), timms(CORE, state, image)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
    assert torch.equal(ours(batch), theirs(batch))
    by_index = built(state, CORE, image).eval()
    apart = float((by_index.forward_features(batch) - ours.forward_features(batch)).abs().max())
    assert apart == 0 if image == 32 else apart > 0.1


PUBLISHED = [name for name, one in ARCHITECTURES.items() if one.timm]


@pytest.mark.parametrize("name", PUBLISHED)
def test_architectures_are_timms(name: str) -> None:
    one = ARCHITECTURES[name]
    with torch.device("meta"):
        theirs: Any = timm.create_model(one.timm, pretrained=False, use_naflex=False)
    ours: Any = skeleton(one, positions="rescaled")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    for part in ("blocks.0.norm1", "norm_pre", *(["norm", "attn_pool.norm"] if one.embedding else [])):
        assert ours.get_submodule(part).eps == theirs.get_submodule(part).eps == 1e-5
    assert ours.blocks[0].attn.num_heads == theirs.blocks[0].attn.num_heads
    assert ours.blocks[0].attn.rotate_half == theirs.blocks[0].attn.rotate_half
    assert type(ours.blocks[0].mlp.act) is type(theirs.blocks[0].mlp.act)
    assert type(ours.norm) is type(theirs.norm) if not one.embedding else ours.attn_pool.num_heads == 8
    for setting in ("dim", "grid_indexing", "grid_offset", "temperature", "in_pixels", "rotate_half", "grid_type"):
        assert getattr(ours.rope, setting) == getattr(theirs.rope, setting), setting
    for shape in ("feat_shape", "ref_feat_shape"):
        assert tuple(getattr(ours.rope, shape)) == tuple(getattr(theirs.rope, shape))


PARAMETERS = {
    "core-t16-384": 6_140_544,
    "core-s16-384": 23_782_656,
    "core-b16-224": 93_672_960,
    "core-l14-336": 317_151_232,
    "core-g14-448": 1_882_032_640,
    "lang-l14-448": 291_415_040,
    "lang-l14-448-tiling": 291_415_040,
    "lang-g14-448": 1_740_922_624,
    "lang-g14-448-tiling": 1_740_922_624,
    "spatial-t16-512": 5_683_200,
    "spatial-s16-512": 21_983_232,
    "spatial-b16-512": 86_433_792,
    "spatial-l14-448": 303_964_160,
    "spatial-g14-448": 1_851_887_104,
}
KEYS = {"core-t16-384": 163, "core-g14-448": 618, "lang-g14-448": 662, "spatial-g14-448": 704}


def test_small_sizes_are_beside_the_published_ones() -> None:
    assert ARCHITECTURES.keys() - PUBLISHED == {"nano", "micro"}
    assert list(PARAMETERS) == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_metas_tensors_fit_at_the_published_sizes(name: str) -> None:
    one = ARCHITECTURES[name]
    state = {key: torch.empty(shape, device="meta") for key, shape in meta_shapes(one).items()}
    assert sum(tensor.numel() for tensor in state.values()) == PARAMETERS[name]
    assert len(state) == KEYS.get(name, len(state))
    tensors, report = fitted(state, one, one.grid(), "index")
    assert str(report) == "" and report.wrong == []
    model = skeleton(one)
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in model.state_dict().items()}
    # timm's projection has a bias, which Meta's has not.
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name] + one.embedding
    # And back again, under the same names and with the same shapes.
    given = {key: tensor.shape for key, tensor in meta_tensors(model.state_dict()).items()}
    assert given == {key: tensor.shape for key, tensor in state.items()}


def test_initial_weights_are_drawn_as_before_training() -> None:
    torch.manual_seed(0)
    one = replace(ARCHITECTURES["core-t16-384"], layer_scale=0.1)
    state = initial(one).state_dict()
    assert all(not tensor.is_meta and bool(tensor.isfinite().all()) for tensor in state.values())
    bound = math.sqrt(6 / (4 * one.width))
    for name in ("blocks.3.attn.qkv", "attn_pool.q", "attn_pool.kv"):
        assert 0.98 * bound < float(state[f"{name}.weight"].abs().max()) <= bound
        assert bool((state[f"{name}.bias"] == 0).all())
    assert bool((state["blocks.0.gamma_1"] == 0.1).all()) and bool((state["norm.weight"] == 1).all())
    for name in ("cls_token", "pos_embed", "head.weight"):
        assert float(state[name].std()) == pytest.approx(one.width**-0.5, rel=0.15)
    assert float(state["attn_pool.latent"].std()) == pytest.approx(1, rel=0.15)
    # At another size as a trained table would be: smoothed by fitting, not drawn for that grid.
    small = initial(one, 192).state_dict()["pos_embed"]
    assert small.shape == (1, 145, 192)
    assert float(small[:, 1:].std()) == pytest.approx(one.width**-0.5 / 2, rel=0.05)


@pytest.mark.parametrize("size", [0, -16, 8, 40, 385])
def test_images_that_patches_do_not_fit_are_refused(size: int) -> None:
    with refusal("bad-value", "16"):
        skeleton(ARCHITECTURES["core-t16-384"], size)
