"""The timm plugin: taps against timm's own intermediates, grids, weights, preprocessing, refusals."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

timm = pytest.importorskip("timm")

# Below the skips, since these imports need timm.
from diagnostics_timm.encoder import Preprocess  # noqa: E402  (below the skip of a missing package)
from diagnostics_timm.plugin import build, encoders  # noqa: E402  (below the skip of a missing package)

from diagnostics import DiagnosticsError, Grid  # noqa: E402  (below the skip of a missing package)
from tests.support.refusals import refusal  # noqa: E402  (below the skip of a missing package)


def _image(encoder: Any, seed: int = 1, shape: tuple[int, ...] = (50, 70, 3)) -> Any:
    return encoder.preprocess(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))[None]


def _build(name: str, **options: Any) -> Any:
    return build(name, **{"pretrained": False, **options})


@pytest.fixture(scope="module")
def vit() -> Any:
    return _build("test_vit", img_size=32)


def test_offers_the_scheme_and_registry_can_read_its_options() -> None:
    from diagnostics.specs import call

    assert {scheme: entry.make for scheme, entry in encoders().items()} == {"timm:": build}
    options = {"pretrained": "false", "img_size": "32", "seed": "3"}
    encoder = call(build, ("test_vit",), options, "Plugin timm", "encoder")
    assert encoder.name == "timm:test_vit?pretrained=false&seed=3&img_size=32"


@pytest.mark.parametrize(
    ("name", "size", "prefix"),
    [
        ("test_vit", 64, 1),
        ("vit_pe_core_tiny_patch16_384", 64, 1),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 56, 5),
        ("test_vit2", 32, 1),
        ("test_vit_relpos", 32, 0),
        ("vit_pe_spatial_tiny_patch16_512", 64, 1),
        ("vit_tiny_patch16_dinov3_qkvb", 64, 5),
        ("beit_base_patch16_224", 32, 1),
        ("eva02_tiny_patch14_224", 56, 1),
        ("naflexvit_base_patch16_gap", 64, 4),
        ("deit_tiny_distilled_patch16_224", 64, 2),
    ],
)
def test_token_taps_equal_timms_intermediates_bit_for_bit(name: str, size: int, prefix: int) -> None:
    encoder = _build(name, img_size=size)
    batch = torch.cat([_image(encoder, 1), _image(encoder, 2)])
    captured = encoder.capture(batch)
    with torch.inference_mode():
        outcome = encoder.module.forward_intermediates(
            batch, intermediates_only=True, norm=False, output_fmt="NLC", return_prefix_tokens=prefix > 0
        )
        trunk = encoder.module.forward_features(batch)
    blocks = [tap for tap in encoder.taps if tap.name.startswith("blocks.")]
    assert len(blocks) == len(outcome)
    for tap, one in zip(blocks, outcome, strict=True):
        tokens, before = one if isinstance(one, tuple) else (one, None)
        expected = tokens if before is None else torch.cat([before, tokens], dim=1)
        assert torch.equal(captured[tap.name], expected)
        side = round(tokens.shape[1] ** 0.5)
        assert tap.grid == Grid((side, side), ("y", "x"), prefix)
    assert torch.equal(captured[encoder.output_tap], trunk)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.module.modules())


def test_depths_names_and_output_tap(vit: Any) -> None:
    assert [tap.name for tap in vit.taps] == ["embed", *(f"blocks.{i}" for i in range(6)), "norm", "pooled", "head"]
    assert [round(tap.depth * 6) for tap in vit.taps] == [0, 1, 2, 3, 4, 5, 6, 6, 9, 12]
    assert vit.output_tap == "norm"
    assert vit.tap("norm").depth == 1.0
    assert vit.taps[0].part == "embedding"
    assert vit.modality == "image"


def test_a_norm_that_is_an_identity_is_no_tap() -> None:
    encoder = _build("test_vit2", img_size=32)
    assert "norm" not in [tap.name for tap in encoder.taps]
    assert encoder.output_tap == "blocks.7"


@pytest.mark.parametrize(
    ("name", "size", "embed", "output"),
    [
        ("test_convnext", 64, Grid((16, 16), ("y", "x")), "stages.3.blocks.1"),
        ("resnet10t", 64, Grid((16, 16), ("y", "x")), "layer4.0"),
        ("test_efficientnet", 64, Grid((32, 32), ("y", "x")), "bn2"),
        ("swinv2_cr_tiny_ns_224", 64, Grid((16, 16), ("y", "x")), "stages.3.blocks.1"),
    ],
)
def test_maps_have_the_grids_of_the_trunk(name: str, size: int, embed: Grid, output: str) -> None:
    encoder = _build(name, img_size=size)
    batch = _image(encoder)
    captured = encoder.capture(batch)
    with torch.inference_mode():
        trunk = encoder.module.forward_features(batch)
    assert encoder.taps[0].grid == embed
    assert encoder.output_tap == output
    tap = encoder.tap(output)
    map_last = trunk.permute(0, 2, 3, 1)
    assert tap.grid.shape == tuple(map_last.shape[1:3])
    assert torch.equal(captured[output], map_last.flatten(1, 2))


@pytest.mark.parametrize(
    "spec",
    [
        "test_byobnet",
        "test_coatnet",
        "test_mambaout",
        "test_maxvit",
        "test_nfnet",
        "test_resnet",
        "test_vit3",
        "regnety_002 64",
        "mixer_s32_224",
        "pvt_v2_b0 64",
        "mobilenetv3_small_050 64",
        "poolformer_s12 64",
        "levit_128s 64",
    ],
)
def test_all_taps_of_many_architectures(spec: str) -> None:
    name, _, size = spec.partition(" ")
    encoder = _build(name, img_size=int(size) if size else None)
    captured = encoder.capture(_image(encoder))
    assert list(captured) == [tap.name for tap in encoder.taps]
    for tap in encoder.taps:
        assert captured[tap.name].shape == (1, tap.tokens, tap.features)
        assert bool(captured[tap.name].isfinite().all())


def _reordered(order: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=96)
    model.norm_pre.register_forward_hook(lambda module, args, output: output[:, order])
    return model


def test_columns_before_rows_are_put_in_order() -> None:
    from diagnostics_timm.encoder import encoder_of

    order = torch.cat([torch.tensor([0]), 1 + torch.arange(36).view(6, 6).T.flatten()])
    odd, plain = encoder_of(_reordered(order), "odd", 96), encoder_of(_reordered(torch.arange(37)), "plain", 96)
    batch = _image(plain)
    outcome, expected = odd.capture(batch), plain.capture(batch)
    for tap in plain.taps[:-2]:
        assert odd.tap(tap.name).site.order
        assert not plain.tap(tap.name).site.order
        torch.testing.assert_close(outcome[tap.name], expected[tap.name], rtol=1e-4, atol=1e-4)


def test_tokens_in_no_order_of_axes_are_refused() -> None:
    from diagnostics_timm.encoder import model_taps

    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(36, generator=torch.Generator().manual_seed(0))])
    with refusal("token-order"):
        model_taps(_reordered(order), "mixed", (3, 96, 96))


@pytest.mark.parametrize("kind", [".safetensors", ".pth", "nested.pt"])
def test_checkpoint_round_trip(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    original = _build("test_vit", img_size=32, seed=5)
    path = tmp_path / f"weights{kind}"
    state = original.module.state_dict()
    if kind == ".safetensors":
        save_file(state, path)
    else:
        torch.save(
            {"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}} if "nested" in kind else state, path
        )
    loaded = build("test_vit", checkpoint=str(path), img_size=32)
    assert loaded.identity["weights"] == original.identity["weights"]
    assert loaded.identity["weights"] != _build("test_vit", img_size=32).identity["weights"]
    assert str(tmp_path) not in loaded.name


def test_checkpoint_of_another_resolution_is_resampled(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(_build("test_vit", img_size=64).module.state_dict(), path)
    assert build("test_vit", checkpoint=str(path), img_size=32).taps[0].grid.shape == (2, 2)


def test_checkpoints_that_do_not_fit_are_refused(vit: Any, tmp_path: Path) -> None:
    state = vit.module.state_dict()
    path = tmp_path / "weights.pth"
    torch.save({k: v for k, v in state.items() if not k.startswith("blocks.5.")} | {"odd": torch.ones(1)}, path)
    with refusal("other-weights", "blocks.5.", "odd"):
        build("test_vit", checkpoint=str(path), img_size=32)
    for name in ("weights.safetensors", "cut.pth"):
        (tmp_path / name).write_bytes(path.read_bytes()[:5000])
        with refusal("unreadable"):
            build("test_vit", checkpoint=str(tmp_path / name))
    torch.save({"epoch": 3}, path)
    with refusal("no-weights"):
        build("test_vit", checkpoint=str(path))
    with refusal("missing-file", "none.pth"):
        build("test_vit", checkpoint=str(tmp_path / "none.pth"))


def test_seeds_and_fresh_weights(vit: Any) -> None:
    before = torch.get_rng_state()
    again, other = _build("test_vit", img_size=32), _build("test_vit", img_size=32, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert again.identity == vit.identity
    assert other.identity["weights"] != vit.identity["weights"]
    one, two, three = (vit.fresh(seed).identity["weights"] for seed in (7, 7, 8))
    assert one == two
    assert len({one, three, vit.identity["weights"]}) == 3


def test_offline_is_one_sentence_and_quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    # Nobody listens there, so that the test is the same with and without a network.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with refusal("not-fetched", "no network", "?checkpoint=", "?pretrained=false") as message:
        build("test_vit.r160_in1k")
    assert sum(waits) < 10, "between attempts"
    assert "\n" not in str(message.value)
    assert constants.HF_HUB_OFFLINE is False


def test_names_that_do_not_exist() -> None:
    with refusal("unknown-name", "vit_tiny_patch16_224"):
        _build("vit_tiny_patch16_225")
    with refusal("unknown-name", "r160_in1k"):
        build("test_vit.r160_in2k")
    with refusal("no-weights"):
        build("convnext_atto_rms")


@pytest.mark.parametrize(
    ("size", "says"),
    [(0, "at least 1"), (50, r"patches of \[16, 16\], which do not fit"), (8, "do not fit|cannot build")],
)
def test_sizes_that_do_not_fit(size: int, says: str) -> None:
    with pytest.raises(DiagnosticsError, match=says):
        _build("vit_tiny_patch16_224", img_size=size)


@pytest.mark.parametrize(
    "sample",
    [
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8,), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.full((8, 8, 3), np.nan),
        np.zeros((8, 8), np.int64),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_samples_that_are_no_images_are_refused(vit: Any, sample: np.ndarray) -> None:
    with refusal("bad-sample"):
        vit.preprocess(sample)


def test_grey_images_become_colour(vit: Any) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    expected = vit.preprocess(np.repeat(grey[..., None], 3, axis=2))
    assert expected.shape == (3, 32, 32)
    assert torch.equal(vit.preprocess(grey), expected)
    assert torch.equal(vit.preprocess(grey[..., None]), expected)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop", [0.8, 1.0])
@pytest.mark.parametrize("shape", [(180, 250), (250, 180), (40, 33)])
def test_covers_is_what_the_model_sees(mode: str, crop: float, shape: tuple[int, int]) -> None:
    model = timm.create_model("resnet10t")
    model.pretrained_cfg |= {
        "crop_mode": mode,
        "crop_pct": crop,
        "interpolation": "bilinear",
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
    }
    preprocess = Preprocess.of(model, "resnet10t", 64)
    for axis, (start, stop) in enumerate(preprocess.covers(shape)):
        # Every pixel's value is its own place along the axis.
        places = np.arange(shape[axis], dtype=np.uint8)
        sample = np.broadcast_to(places[:, None] if axis == 0 else places[None], shape).copy()
        line = (preprocess(sample)[0] * 255).movedim(axis, 0)[:, 32].double() + 0.5
        step = (stop - start) / 64
        centres = start + step * (torch.arange(64).double() + 0.5)
        # Padding shows nothing, and at the image's own border half a filter is missing.
        inside = (centres > 2 * max(step, 1)) & (centres < shape[axis] - 2 * max(step, 1))
        assert int(inside.sum()) >= 20
        assert float((line - centres)[inside].abs().max()) < 1.01


def test_covers_of_a_plain_centre_crop(vit: Any) -> None:
    model = timm.create_model("resnet10t")
    model.pretrained_cfg |= {"crop_mode": "center", "crop_pct": 1.0}
    assert Preprocess.of(model, "resnet10t", 64).covers((64, 128)) == ((0.0, 64.0), (32.0, 96.0))
    with refusal("other-modality"):
        vit.covers((3,))


def test_timms_own_names_stand_at_the_taps(vit: Any) -> None:
    assert dict(vit.maker_names) == {"norm": "forward_features"}
