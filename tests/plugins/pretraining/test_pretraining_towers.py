"""Both towers: against timm's and open_clip's own, at every stage's size, and with hidden patches."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("open_clip")

# Below the skip, since these imports need open_clip and timm.
from diagnostics_perception.models import ARCHITECTURES, fitted_positions, skeleton
from diagnostics_pretraining.text_encoder import (
    PARTS,
    TEXTS,
    WHOLE,
    Vocabulary,
    context_of,
    seed_of,
    text_tower,
    vocabulary_of,
)
from diagnostics_pretraining.towers import Towers, build_towers
from open_clip.model import CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer

from diagnostics import DiagnosticsError
from tests.support.refusals import refusal

CAPTIONS = ("a red striped star", "two blue circles left of a square", "a green square")
VARIATIONS = [(True, "attention"), (False, "attention"), (True, "class"), (False, "class")]


def towers(size: str = "micro", rope: bool = True, pool: str = "attention", whole: bool = False, **more: Any) -> Towers:
    context = context_of(size)
    vocabulary = Vocabulary(context) if whole else vocabulary_of(CAPTIONS, context)
    return build_towers(size, rope=rope, pool=pool, vocabulary=vocabulary, **{"seed": 0, **more})


def images(size: int, seed: int = 1) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rope", "pool"), VARIATIONS)
@torch.no_grad()
def test_images_are_embedded_as_timms_model_does_at_every_size(rope: bool, pool: str) -> None:
    both = towers("nano", rope, pool)
    names = {name: parameter.shape for name, parameter in both.named_parameters()}
    assert torch.equal(both.embed_images(images(48)), both.image(images(48)))
    for size in (8, 24, 32, 48):
        # A model that was built for that size, with positions fitted as those of a checkpoint are.
        model, state = skeleton(both.architecture, size), both.image.state_dict()
        table = fitted_positions(state["pos_embed"], 1, size // 8, "index")
        model.load_state_dict({**state, "pos_embed": table}, assign=True)
        assert torch.equal(both.embed_images(images(size)), model(images(size)))
        tokens, embedding = both.tokens_and_embeddings(images(size))
        assert torch.equal(tokens, model.forward_features(images(size))[:, 1:])
        assert torch.equal(embedding, both.embed_images(images(size)))
    assert {name: parameter.shape for name, parameter in both.named_parameters()} == names


def test_the_table_of_the_final_grid_learns_at_every_size() -> None:
    both = towers("nano")
    for size in (24, 32, 48):
        both.zero_grad()
        both.embed_images(images(size)).square().sum().backward()
        moved = both.image.pos_embed.grad.abs().sum(-1)[0]
        assert both.image.pos_embed.grad.shape == (1, 37, 64) and bool((moved > 0).all())


@torch.no_grad()
def test_hidden_patches_are_not_seen_and_others_are() -> None:
    both = towers(masked=True)
    hidden = torch.zeros(3, 16, dtype=torch.bool)
    hidden[0, [1, 7]] = hidden[2, 15] = True
    before = both.image_tokens(images(16), hidden)
    under = hidden.unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    changed = torch.where(under, images(16, seed=2), images(16))
    assert not torch.equal(changed, images(16))
    assert torch.equal(before, both.image_tokens(changed, hidden))
    changed[1, :, 0, 0] += 1
    moved = (before - both.image_tokens(changed, hidden)).abs().flatten(1).amax(1) > 0
    assert moved.tolist() == [False, True, False]
    # With nothing hidden it is the whole image; and the place of a token is still known.
    nothing = both.image_tokens(images(16), torch.zeros_like(hidden))
    assert torch.equal(nothing, both.image_tokens(images(16)))
    tokens = both.image_tokens(images(16), torch.ones_like(hidden))
    assert torch.equal(tokens[0], tokens[1]) and float(tokens[0].std(0).min()) > 1e-3


def test_the_mask_token_learns_from_hidden_patches_alone() -> None:
    both = towers(masked=True)
    assert both.mask_token is not None
    both.embed_images(images(16)).sum().backward()
    both.embed_texts(both.vocabulary.encode(CAPTIONS)[0]).sum().backward()
    assert both.mask_token.grad is None
    hidden = torch.zeros(3, 16, dtype=torch.bool)
    both.image_tokens(images(16), hidden).pow(3).sum().backward()
    assert not bool(both.mask_token.grad.any())
    hidden[1, 3] = True
    # By finite differences, in float64.
    both = both.double()
    pixels, step = images(16).double(), 1e-6 * torch.randn(32, dtype=torch.float64)
    both.zero_grad()
    both.image_tokens(pixels, hidden).pow(3).sum().backward()
    slope, start = float(both.mask_token.grad @ step), both.mask_token.detach().clone()
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            both.mask_token.copy_(start + sign * step)
            ends.append(float(both.image_tokens(pixels, hidden).pow(3).sum()))
    assert abs(slope) > 1e-9 and slope == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-4)
    with refusal("missing-option", "masked=True"):
        towers().image_tokens(images(16), hidden)


def theirs(both: Towers) -> CustomTextCLIP:
    """open_clip's own model, by its configuration, with our text tower's weights."""
    one = TEXTS[both.size]
    text = {
        "context_length": one.context,
        "vocab_size": both.vocabulary.size,
        "width": one.width,
        "heads": one.heads,
        "layers": one.depth,
    }
    vision = {"layers": 1, "width": 64, "image_size": 16, "patch_size": 8}
    model = CustomTextCLIP(both.architecture.embedding, vision, text)
    model.text.load_state_dict(both.text.state_dict(), strict=True)
    return model.eval()


@pytest.mark.parametrize("size", ["micro", "nano"])
@torch.no_grad()
def test_texts_are_embedded_as_open_clip_does(size: str) -> None:
    both = towers(size, whole=True)
    tokens = SimpleTokenizer()(list(CAPTIONS), context_length=context_of(size))
    mine = both.embed_texts(both.vocabulary.encode(CAPTIONS)[0])
    torch.testing.assert_close(mine, theirs(both).encode_text(tokens), atol=1e-6, rtol=0)
    assert float((mine[0] - mine[1]).abs().max()) > 1e-2


@torch.no_grad()
def test_a_reduced_vocabulary_gives_the_embeddings_of_the_whole_one() -> None:
    reduced, whole = towers(), towers(whole=True)
    few, all_rows = (both.embed_texts(both.vocabulary.encode(CAPTIONS)[0]) for both in (reduced, whole))
    assert torch.equal(few, all_rows)
    assert len(reduced.text.token_embedding.weight) == reduced.vocabulary.size < 20
    zebras = [both.embed_texts(both.vocabulary.encode(["a red zebra", "a red lion"])[0]) for both in (reduced, whole)]
    assert torch.equal(zebras[0][0], zebras[0][1]) and not torch.equal(zebras[1][0], zebras[1][1])


def test_what_is_left_out_changes_nothing_that_is_drawn() -> None:
    state = torch.get_rng_state()
    first = towers(masked=True).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    for rope, pool in VARIATIONS:
        other = towers(rope=rope, pool=pool).state_dict()
        same = [
            name
            for name in other
            if name.startswith(
                ("text.", "image.blocks.", "image.patch_embed.", "image.pos_embed", "image.head.", "log_scale")
            )
        ]
        assert len(same) > 40 and all(torch.equal(first[name], other[name]) for name in same)
    # Another final grid has another table, and nothing else.
    smaller = towers(image=8).state_dict()
    assert smaller["image.pos_embed"].shape == (1, 5, 32)
    assert all(torch.equal(first[name], smaller[name]) for name in smaller if name != "image.pos_embed")
    assert float(towers("nano", image=32).image.pos_embed.detach().std()) == pytest.approx(1 / 8, rel=0.1)
    again, another = towers(masked=True).state_dict(), towers(masked=True, seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], another[name]) for name in ("mask_token", "text.text_projection"))
    assert not torch.equal(first["image.blocks.0.attn.qkv.weight"], another["image.blocks.0.attn.qkv.weight"])
    assert float(first["log_scale"]) == pytest.approx(math.log(1 / 0.07))
    assert "mask_token" not in towers().state_dict()


def test_parts_are_drawn_from_streams_of_their_own() -> None:
    both = towers(image=8, masked=True)
    assert both.mask_token is not None
    drawn = [both.mask_token, *both.image.pos_embed[0], both.image.cls_token.flatten()]
    likeness = torch.corrcoef(torch.stack([part.detach() for part in drawn])).fill_diagonal_(0)
    assert float(likeness.abs().max()) < 0.9
    assert len({seed_of(part, seed) for part in PARTS for seed in range(3)}) == 9


def test_the_projection_has_no_bias_that_learns() -> None:
    fixed = [name for name, parameter in towers(masked=True).named_parameters() if not parameter.requires_grad]
    assert fixed == ["image.head.bias"] and not bool(towers().image.head.bias.any())


PUBLISHED = {
    "core-t16-384": ("PE-Core-T-16-384", 63_405_057),
    "core-s16-384": ("PE-Core-S-16-384", 63_405_057),
    "core-b16-224": ("PE-Core-B-16", 353_986_561),
    "core-l14-336": ("PE-Core-L-14-336", 353_986_561),
    "core-g14-448": ("PE-Core-bigG-14-448", 537_233_921),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_text_towers_have_the_published_sizes(size: str) -> None:
    name, parameters = PUBLISHED[size]
    file = Path(sys.modules["open_clip"].__file__ or "").parent / "model_configs" / f"{name}.json"
    config, one = json.loads(file.read_text()), TEXTS[size]
    wanted = {
        "context_length": one.context,
        "vocab_size": WHOLE,
        "width": one.width,
        "heads": one.heads,
        "layers": one.depth,
    }
    assert {key: config["text_cfg"][key] for key in wanted} == wanted
    assert config["embed_dim"] == ARCHITECTURES[size].embedding
    with torch.device("meta"):
        tower = text_tower(size, Vocabulary(one.context))
    # With the scale, which Meta counts among them.
    assert sum(p.numel() for p in tower.parameters()) + 1 == parameters


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": "nanno"}, "Unknown size 'nanno': did you mean nano"),
        ({"size": "spatial-b16-512"}, "Unknown size 'spatial-b16-512'"),
        ({"size": "g14-448", "pool": "class"}, "core-g14-448 has no class token, so it cannot have pool=class"),
        ({"image": 18}, "18 x 18 pixels cannot be cut into patches of 4"),
        ({"pool": "mean"}, "Unknown option pool 'mean'"),
    ],
)
def test_towers_that_cannot_be_are_refused(change: dict[str, Any], says: str) -> None:
    wanted = {"size": "micro", "rope": True, "pool": "attention", "vocabulary": Vocabulary(16), "seed": 0, **change}
    with pytest.raises(DiagnosticsError, match=says):
        build_towers(wanted.pop("size"), **wanted)


@pytest.mark.parametrize(
    ("shape", "says"), [((24, 24), "24 x 24 pixels do not fit"), ((8, 16), "8 x 16"), ((10, 10), "multiple of 4")]
)
def test_images_that_do_not_fit_are_refused(shape: tuple[int, int], says: str) -> None:
    with pytest.raises(DiagnosticsError, match=says):
        towers().embed_images(torch.zeros(1, 3, *shape))


def test_small_sizes_are_small() -> None:
    nano = dataclasses.asdict(ARCHITECTURES["nano"])
    assert [nano[key] for key in ("image", "patch", "width", "depth", "heads")] == [48, 8, 64, 6, 2]
    count = sum(parameter.numel() for parameter in towers("nano").parameters())
    assert 0.7e6 < count < 0.8e6
