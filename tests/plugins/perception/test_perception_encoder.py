"""`pe:` as a user meets it: names, preprocessing, taps, grids, controls, errors; one real size end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("timm")

# Below the skip, since these imports need timm.
from diagnostics_perception.encoder import Preprocess, encoder_of
from diagnostics_perception.models import ARCHITECTURES, initial
from diagnostics_perception.plugin import build, build_video, encoders

from diagnostics import DiagnosticsError, Grid
from diagnostics import run as run_on
from diagnostics.encoders.modules import pool
from diagnostics.specs import build as registered
from tests.support.perceiver import TINY, images
from tests.support.refusals import refusal


def tiny(family: str = "core", **options: Any) -> Any:
    torch.manual_seed(0)
    return encoder_of("tiny", TINY[family], initial(TINY[family]), **options)


def photographs() -> list[np.ndarray]:
    datasets = pytest.importorskip("sklearn.datasets")
    return [datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]


def test_the_plugin_offers_its_schemes() -> None:
    assert {scheme: entry.make for scheme, entry in encoders().items()} == {"pe:": build, "pe-video:": build_video}


def test_the_smallest_real_one_end_to_end() -> None:
    encoder = registered("encoder", "pe:core-t16-384?pretrained=false")
    assert [tap.name for tap in encoder.taps] == [
        "embed",
        *(f"blocks.{i}" for i in range(12)),
        "norm",
        "attn_pool",
        "head",
    ]
    assert encoder.output_tap == "norm" and encoder.modality == "image"
    result = encoder.capture(encoder.preprocess(encoder.example())[None])
    assert {name: tuple(tokens.shape) for name, tokens in result.items()} == {
        **{tap.name: (1, 577, 192) for tap in encoder.taps[:-2]},
        "attn_pool": (1, 1, 192),
        "head": (1, 1, 512),
    }
    assert all(bool(tokens.isfinite().all()) and float(tokens.std()) > 0.01 for tokens in result.values())


@pytest.mark.parametrize("family", TINY)
def test_taps_are_timms_intermediates_bit_for_bit(family: str) -> None:
    encoder, one, batch = tiny(family), TINY[family], images(32).float()
    result = encoder.capture(batch)
    with torch.no_grad():
        inner = encoder.module.forward_intermediates(
            batch, intermediates_only=True, output_fmt="NLC", return_prefix_tokens=one.class_token
        )
        trunk = encoder.module.forward_features(batch)
        given = encoder.module(batch)
    for i, each in enumerate(inner):
        grid, prefix = each if one.class_token else (each, None)
        expected = grid if prefix is None else torch.cat([prefix, grid], dim=1)
        assert torch.equal(result[f"blocks.{i}"], expected)
    assert torch.equal(result[encoder.output_tap], trunk)
    if one.embedding:
        assert list(result)[-3:] == ["norm", "attn_pool", "head"]
        assert torch.equal(result["head"][:, 0], given)
        assert torch.equal(result["attn_pool"][:, 0], encoder.module.forward_head(trunk, pre_logits=True))
        # Meta's forward_features leaves the norm out unless it is asked for; timm's has it.
        assert torch.equal(encoder.module.norm(result["blocks.2"]), trunk)
        assert dict(encoder.maker_names) == {
            "blocks.2": "forward_features",
            "norm": "forward_features(norm=True), in timm forward_features",
            "attn_pool": "timm's forward_head(pre_logits=True)",
            "head": "encode_image",
        }
    else:
        assert dict(encoder.maker_names) == {"blocks.2": "forward_features"}
        # What lang and spatial encoders hand out are the tokens of their last block.
        assert encoder.output_tap == list(result)[-1] == "blocks.2"
        assert torch.equal(given, trunk)


def test_depths_parts_and_grids() -> None:
    taps = {tap.name: tap for tap in tiny().taps}
    assert [taps[name].depth for name in ("embed", "blocks.2", "norm")] == [0, 1, 1]
    assert taps["norm"].part == "trunk" and taps["attn_pool"].part == taps["head"].part == "head"
    assert 1 < taps["attn_pool"].depth < taps["head"].depth
    assert taps["blocks.1"].grid == Grid((4, 4), ("y", "x"), 1)
    assert taps["head"].grid == Grid((1, 1), ("y", "x"))
    assert tiny("core like G").taps[1].grid.prefix == 0
    assert tiny().poolings == ("mean", "prefix")


def test_tokens_lie_where_the_grid_says() -> None:
    encoder, batch = tiny(), images(32).float()[:1]
    before = encoder.capture(batch, ["embed"])["embed"]
    for row, column in ((0, 0), (0, 3), (2, 1), (3, 3)):
        changed = batch.clone()
        changed[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
        moved = (encoder.capture(changed, ["embed"])["embed"] - before).abs().sum(-1)[0]
        assert moved.nonzero().flatten().tolist() == [1 + 4 * row + column]


def test_attention_is_given_for_blocks_and_not_for_the_pool() -> None:
    encoder = tiny()
    seen = encoder.attention(images(32).float())
    assert list(seen) == ["blocks.0", "blocks.1", "blocks.2"]
    assert all(tensor.shape == (2, 3, 17, 17) for tensor in seen.values())
    assert "1 queries" in seen.left_out["attn_pool"]


def test_preprocessing_is_that_of_training() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    from PIL import Image

    half = [0.5, 0.5, 0.5]
    tail = [transforms.ToTensor(), transforms.Normalize(half, half)]
    squash = transforms.Compose([transforms.Resize((224, 224)), *tail])  # bilinear is its default
    crop = transforms.Compose([transforms.Resize(224), transforms.CenterCrop(224), *tail])
    for photograph in photographs():
        built = Preprocess("pe", 224)(photograph)
        assert built.shape == (3, 224, 224) and built.dtype == torch.float32
        assert torch.equal(built, squash(Image.fromarray(photograph)))
        assert float((built - crop(Image.fromarray(photograph))).abs().mean()) > 0.05
    encoder = tiny()
    assert encoder.covers((427, 640)) == ((0.0, 427.0), (0.0, 640.0))


def test_grey_images_become_colour() -> None:
    grey = photographs()[0][..., 0]
    built = Preprocess("pe", 32)(grey)
    assert torch.equal(built, Preprocess("pe", 32)(grey[..., None]))
    assert torch.equal(built, Preprocess("pe", 32)(np.repeat(grey[..., None], 3, axis=2)))


@pytest.mark.parametrize(
    "sample",
    [
        np.zeros((8, 8, 4), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_samples_that_are_no_images_are_refused(sample: np.ndarray) -> None:
    with refusal("bad-sample", "tiny"):
        tiny().preprocess(sample)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("pe:core-b16-225", "Unknown Perception Encoder 'core-b16-225': did you mean core-b16-224"),
        ("pe:core-b16-224?positions=rope", "Unknown option positions 'rope': there are index, rescaled."),
        ("pe:core-b16-224?img_size=100", r"100 x 100 pixels cannot be cut into patches of 16: .* a multiple of 16"),
        ("pe:nano", "No weights of pe:nano were published: add pretrained=false for initial ones, or checkpoint=FILE"),
        ("pe:core-b16-224?rope=false", r"No weights of pe:core-b16-224\?rope=false were published"),
        ("pe:core-b16-224?pool=mean", "Unknown option pool 'mean': there are attention, class."),
        ("pe:core-g14-448?pool=class", "pe:core-g14-448 has no class token, so it cannot have pool=class"),
        ("pe:spatial-b16-512?pool=class", "pe:spatial-b16-512 has no embedding, so it cannot have pool=class"),
        ("pe:core-b16-224?partial=true", "give one with checkpoint="),
        ("pe:core-b16-224?size=100", "Unknown option of this encoder 'size': .*img_size"),
        ("pe:core-b16-224?checkpoint=no.pt", "There is no checkpoint no.pt"),
        ("pe-video:core-t16-384?pretrained=false&img_size=32&frames=0", "at least 1 frame"),
        ("pe-video:core-t16-384?pretrained=false&img_size=32&sampler=random", "sampler of frames 'random'"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_sentence(spec: str, says: str) -> None:
    with pytest.raises(DiagnosticsError, match=says) as message:
        registered("encoder", spec)
    assert "\n" not in str(message.value)


def test_names_say_what_decides_the_activations() -> None:
    spec = "pe:core-t16-384?pretrained=false&seed=3&img_size=32&positions=rescaled"
    one = registered("encoder", spec)
    assert one.name == spec
    by_index = build("core-t16-384", pretrained=False, seed=3, img_size=32)
    assert one.identity["configuration"] != by_index.identity["configuration"]
    assert one.identity["weights"] != by_index.identity["weights"]
    again = registered("encoder", spec)
    assert one.identity == again.identity
    video = registered("encoder", "pe-video:core-t16-384?frames=2&pretrained=false&img_size=32")
    assert video.name == "pe-video:core-t16-384?frames=2&sampler=floor&pretrained=false&img_size=32"
    assert registered("encoder", video.name).identity == video.identity


def test_fresh_weights_have_the_same_size_and_positions() -> None:
    before = torch.get_rng_state()
    encoder = build("core-t16-384", pretrained=False, img_size=32, positions="rescaled")
    assert torch.equal(before, torch.get_rng_state())
    one, two, three = (encoder.fresh(seed) for seed in (7, 7, 8))
    assert one.identity == two.identity
    assert len({each.identity["weights"] for each in (encoder, one, three)}) == 3
    batch: Tensor = encoder.preprocess(encoder.example())[None]
    assert one.capture(batch)["norm"].shape == (1, 5, 192)
    assert torch.equal(one.module.rope.pos_embed, encoder.module.rope.pos_embed)
    by_index = build("core-t16-384", pretrained=False, img_size=32)
    assert not torch.equal(by_index.module.rope.pos_embed, encoder.module.rope.pos_embed)


@pytest.mark.parametrize("name", [name for name, one in ARCHITECTURES.items() if one.timm])
def test_every_name_that_is_offered_can_be_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to the weights, which the largest have too many of to be drawn here."""
    from diagnostics_perception import encoder

    asked: list[str] = []

    def refuse(timm_name: str) -> dict[str, Tensor]:
        asked.append(timm_name)
        raise DiagnosticsError("no network")

    monkeypatch.setattr(encoder, "_from_hub", refuse)
    with pytest.raises(DiagnosticsError, match="no network"):
        registered("encoder", f"pe:{name}")
    import timm

    architecture, _, tag = asked[0].partition(".")
    assert asked[0] in timm.list_pretrained(f"{architecture}.*") and tag.endswith("tiling") == name.endswith("tiling")


def test_the_embedding_of_a_video_is_the_average_of_its_frames() -> None:
    options = {"pretrained": False, "img_size": 32}
    image, video = build("core-t16-384", **options), build_video("core-t16-384", 3, "endpoints", **options)
    clip = np.random.default_rng(0).integers(0, 256, (9, 40, 30, 3), dtype=np.uint8)
    result = video.capture(video.preprocess(clip)[None], ["norm", "head"])
    frames = torch.stack([image.preprocess(clip[i]) for i in (0, 4, 8)])
    assert torch.equal(result["norm"][0, 1:], image.capture(frames)["norm"][:, 1:].flatten(0, 1))
    pooled = pool(video.tap("head"), result["head"], ["mean"])[0, 0]
    torch.testing.assert_close(pooled, image.module(frames).mean(0), atol=1e-6, rtol=0)
    assert video.maker_names == {
        **image.maker_names,
        "head": "encode_image of each frame, whose mean is encode_video",
    }


def test_a_run_over_images(tmp_path: Any) -> None:
    run = run_on(
        "pe:core-t16-384?pretrained=false&img_size=32",
        "digits?n=60",
        measures=["linear_probe"],
        controls=False,
        report=False,
        out=tmp_path / "run",
    )
    profile = run.profile("linear_probe/label")
    assert profile.taps[-3:] == ["norm", "attn_pool", "head"]
