"""hf: tiny models of random weights, saved and loaded again, against what their own forward passes give."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "coverage"))

# Below the skip and the path, since these imports need transformers or the zoo of models beside the benchmarks.
from diagnostics_transformers.images import Resized, is_video  # noqa: E402  (below the skip of a missing package)
from diagnostics_transformers.load import load, quiet  # noqa: E402  (below the skip of a missing package)
from diagnostics_transformers.plugin import build  # noqa: E402  (below the skip of a missing package)
from diagnostics_transformers.towers import arguments  # noqa: E402  (below the skip of a missing package)
from transformers_zoo import build as tiny  # noqa: E402  (below the skip of a missing package)

from diagnostics import Grid  # noqa: E402  (below the skip of a missing package)
from diagnostics.encoders.modules import pool  # noqa: E402  (below the skip of a missing package)
from tests.support.refusals import refusal  # noqa: E402  (below the skip of a missing package)

LENGTH = 40
"""Of texts: no width that a model here has."""

# Model type -> (list of layers in the model or its tower, grid, special tokens).
FAMILIES = {
    "vit": ("layers", (4, 4), 1),
    "dinov2_with_registers": ("encoder.layer", (4, 4), 5),
    "clip_vision_model": ("encoder.layers", (4, 4), 1),
    "siglip2_vision_model": ("encoder.layers", (16, 16), 0),
    "vit_mae": ("layers", (4, 4), 1),
    "sam_vision_model": ("vision_encoder.layers", (4, 4), 0),
    "videomae": ("encoder.layer", (2, 4, 4), 0),
    "vivit": ("layers", (2, 4, 4), 1),
    "timesformer": ("encoder.layer", (4, 4, 4), 1),
    "bert": ("encoder.layer", (LENGTH,), 0),
    "llama": ("layers", (LENGTH,), 0),
    "qwen3": ("layers", (LENGTH,), 0),
    "xlnet": ("layer", (LENGTH,), 0),
    "wav2vec2": ("encoder.layers", (99,), 0),
    "hubert": ("encoder.layers", (99,), 0),
    "wavlm": ("encoder.layers", (99,), 0),
    "audio-spectrogram-transformer": ("layers", (12, 101), 2),
    "patchtst": ("encoder.layers", (1, 32), 0),
    "patchtsmixer": ("encoder.mlp_mixer_encoder.mixers", (1, 4), 0),
    "timesfm": ("layers", (16,), 0),
    "timesfm2_5": ("layers", (16,), 0),
    "time_series_transformer": ("encoder.layers", (32,), 0),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Model type -> directory of a tiny model, saved once."""
    subject: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in subject:
            subject[kind] = tmp_path_factory.mktemp("models") / kind
            with quiet():
                model = tiny(kind)
                model.save_pretrained(subject[kind])
            save_preparation(model, subject[kind])
        return subject[kind]

    return of


def save_preparation(model: Any, directory: Path) -> None:
    """What prepares images and sounds, beside a model of random weights; texts have the bytes that are asked for."""
    takes, config = arguments(model), model.config
    if "input_features" in takes:
        transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(directory)
    elif config.model_type == "audio-spectrogram-transformer":
        extractor = transformers.ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length)
        extractor.save_pretrained(directory)
    elif "input_values" in takes:
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(directory)
    elif is_video(model):
        side = Resized.of(model, None, "", getattr(config, "crop_size", None)).size[0]
        size = {"height": side, "width": side}
        transformers.VideoMAEVideoProcessor(size=size, do_center_crop=False).save_pretrained(directory)
    elif "pixel_values" in takes:
        side = getattr(getattr(config, "vision_config", config), "image_size", 64)
        transformers.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(directory)


def encoder(directory: Path, kind: str, **options: Any) -> Any:
    text = kind in ("bert", "llama", "qwen3", "xlnet") or options.get("tower") == "text"
    given = {"length": LENGTH, "tokenizer": "bytes"} if text else {}
    return build(str(directory), **(given | options))


def batch_of(subject: Any, *samples: np.ndarray) -> Any:
    return default_collate([subject.preprocess(sample) for sample in samples])


def wrapped(layer: Any, seen: list[Any]) -> None:
    """Note what a layer's forward pass gives, without any hook."""
    forward = layer.forward

    def noting(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        seen.append((out[0] if isinstance(out, tuple) else out).detach().clone())
        return out

    layer.forward = noting


@pytest.mark.parametrize("kind", FAMILIES)
def test_taps_are_what_the_layers_give(kind: str, saved: Any) -> None:
    stack, shape, prefix = FAMILIES[kind]
    subject = encoder(saved(kind), kind)
    batch = batch_of(
        subject, subject.example(), subject.example()[::-1] if subject.example().ndim else np.asarray("Two cats sleep.")
    )
    captured = subject.capture(batch)
    first = subject.taps[0]
    assert (first.name, first.grid.shape, first.grid.prefix) == ("embed", shape, prefix)
    assert all(torch.isfinite(tensor).all() for tensor in captured.values())
    # The same model, loaded apart, each layer wrapped by hand.
    with quiet():
        other = transformers.AutoModel.from_pretrained(saved(kind)).eval()
    if kind == "vit_mae":
        other.config.mask_ratio = 0.0
    seen: list[Any] = []
    layers = list(other.get_submodule(stack))
    for layer in layers:
        wrapped(layer, seen)
    arguments: Any = {}
    subject.module.tower.forward, old = (
        (lambda **given: arguments.update(given) or old(**given)),
        subject.module.tower.forward,
    )
    subject.forward(subject.module, batch)
    with torch.no_grad():
        other(**arguments)
    assert len(seen) >= len(layers) == len([t for t in subject.taps if t.name.startswith(f"{stack}.")])
    for i, expected in enumerate(seen[: len(layers)]):
        tap = subject.tap(f"{stack}.{i}")
        order = list(tap.site.order) or list(range(tap.tokens))
        expected = expected.transpose(0, 1) if tap.site.layout == "time_first" else expected
        expected = expected.flatten(1, -2) if tap.site.layout != "channels_first" else expected.flatten(2).mT
        torch.testing.assert_close(captured[tap.name], expected[:, order])


def test_hidden_states_where_their_convention_is_known(saved: Any) -> None:
    subject = encoder(saved("bert"), "bert")
    batch = batch_of(subject, np.asarray("The dog runs."), np.asarray("A longer text about cats."))
    captured = subject.capture(batch)
    with torch.no_grad():
        hidden = subject.module.tower(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
        ).hidden_states
    for name, expected in zip(("embed", "encoder.layer.0", "encoder.layer.1"), hidden, strict=True):
        torch.testing.assert_close(captured[name], expected)


def moved(subject: Any, tap: Any, one: np.ndarray, other: np.ndarray) -> tuple[int, ...]:
    """The place of the grid token at a tap that differs most between two samples."""
    seen = subject.with_taps([tap, *subject.taps[1:]])
    captured = seen.capture(batch_of(subject, one, other), [tap.name])[tap.name]
    size = (captured[1] - captured[0])[tap.grid.prefix :].abs().sum(-1)
    return tuple(int(n) for n in np.unravel_index(int(size.argmax()), tap.grid.shape))


@pytest.mark.parametrize(
    "kind", ["vit", "vit_mae", "dinov3_vit", "siglip2_vision_model", "sam_vision_model", "convnext"]
)
def test_a_cell_of_an_image_moves_its_token(kind: str, saved: Any) -> None:
    subject = encoder(saved(kind), kind)
    tap = subject.taps[0]
    rows, columns = tap.grid.shape
    side = subject.preprocess(subject.example())
    size = 256 if "patches" in side else side["pixel_values"].shape[-1]
    for cell in ((0, columns - 1), (rows - 1, 0), (1, 2)):
        plain = np.full((size, size, 3), 100, dtype=np.uint8)
        changed = plain.copy()
        y, x = size // rows, size // columns
        changed[cell[0] * y : (cell[0] + 1) * y, cell[1] * x : (cell[1] + 1) * x] = 250
        assert moved(subject, tap, plain, changed) == cell


def clips(grid: tuple[int, ...], cell: tuple[int, ...], frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    plain = np.full((frames, size, size, 3), 100, dtype=np.uint8)
    changed = plain.copy()
    t, y, x = frames // grid[0], size // grid[1], size // grid[2]
    changed[cell[0] * t : (cell[0] + 1) * t, cell[1] * y : (cell[1] + 1) * y, cell[2] * x : (cell[2] + 1) * x] = 250
    return plain, changed


@pytest.mark.parametrize("kind", ["videomae", "vivit", "timesformer", "vjepa2", "xclip", "pe_video_encoder"])
def test_a_cell_of_a_video_moves_its_token(kind: str, saved: Any) -> None:
    subject = encoder(saved(kind), kind)
    tap = subject.taps[0]
    frames, size = subject.preprocess(subject.example())["pixel_values"].shape[0::3]
    for cell in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 0)):
        assert moved(subject, tap, *clips(tap.grid.shape, cell, frames, size)) == cell


def test_timesformer_declared_in_raster_order_is_found_out(saved: Any) -> None:
    from dataclasses import replace

    subject = encoder(saved("timesformer"), "timesformer")
    tap = subject.taps[0]
    assert tap.site.order != ()
    wrong = replace(tap, site=replace(tap.site, order=()))
    assert moved(subject, wrong, *clips(tap.grid.shape, (1, 0, 0), 4, 64)) != (1, 0, 0)


def test_the_predictor_of_vjepa2_stands_beyond_the_trunk(saved: Any) -> None:
    subject = encoder(saved("vjepa2"), "vjepa2")
    batch = batch_of(subject, subject.example(), subject.example()[::-1])
    captured = subject.capture(batch)
    heads = [tap for tap in subject.taps if tap.part == "head"]
    assert [tap.name for tap in heads] == ["predictor.layer.0", "predictor.layer.1", "predictor"]
    assert all(tap.depth > 1 for tap in heads) and subject.output_tap == "encoder.layernorm"
    with torch.no_grad():
        out = subject.module.tower(pixel_values_videos=batch["pixel_values"])
        torch.testing.assert_close(captured["predictor"], out.predictor_output.last_hidden_state)
        # The grid tokens of its last layer are the targets, place by place.
        tap = subject.tap("predictor.layer.1")
        predictor = subject.module.tower.predictor
        targets = captured[tap.name][:, tap.grid.prefix :]
        torch.testing.assert_close(predictor.proj(predictor.layernorm(targets)), captured["predictor"])


def test_frames_of_pe_video_come_before_its_time_steps(saved: Any) -> None:
    subject = encoder(saved("pe_video_encoder"), "pe_video_encoder", frames=4)
    grids = {tap.name: tap.grid for tap in subject.taps}
    assert grids["embedder.vision_model.timm_model.blocks.1"] == Grid((4, 2, 2), ("t", "y", "x"), 1)
    assert grids["layers.1"] == grids["norm"] == Grid((4,), ("t",), 1)
    assert [tap.depth for tap in subject.taps] == sorted(tap.depth for tap in subject.taps)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_what_stands_in_the_padding_does_not_matter(kind: str, saved: Any) -> None:
    subject = encoder(saved(kind), kind)
    texts = [np.asarray("The dog."), np.asarray("A cat sleeps on the warm roof.")]
    batch = batch_of(subject, *texts)
    other = {**batch, "input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], 77)}
    longer = build(str(subject.name.removeprefix("hf:").partition("?")[0]), length=60, tokenizer="bytes")
    assert not torch.equal(batch["input_ids"], other["input_ids"])

    def pooled(encoder: Any, given: Any) -> dict[str, Any]:
        return encoder.capture(
            given, reduce=lambda tap, tokens: pool(tap, tokens, ("mean", "last"), encoder.valid(given, tap))
        )

    expected = pooled(subject, batch)
    for captured in (pooled(subject, other), pooled(longer, batch_of(longer, *texts))):
        for name in expected:
            torch.testing.assert_close(captured[name], expected[name], rtol=1e-4, atol=1e-5)
    assert subject.valid(batch, subject.taps[0])[0].sum() == len("The dog.")


def test_a_tokenizer_of_the_directory_gives_the_class_token_its_own_place(saved: Any, tmp_path: Path) -> None:
    words = [
        *["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "dog", "cat", "runs"],
        *(f"w{i}" for i in range(118)),
    ]
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(tmp_path)
    with quiet():
        transformers.AutoModel.from_pretrained(saved("bert")).save_pretrained(tmp_path)
    subject = build(str(tmp_path), length=8)
    assert str(subject.taps[0].grid) == "7 t + 1 prefix"
    batch = batch_of(subject, np.asarray("the dog runs"), np.asarray("a cat " * 20))
    assert batch["input_ids"][0].tolist() == [2, 5, 7, 9, 3, 0, 0, 0]
    assert batch["input_ids"][1].tolist() == [2, 6, 8, 6, 8, 6, 8, 3]
    assert subject.valid(batch, subject.taps[0]).sum(1).tolist() == [3, 6]


def test_towers_of_clip(saved: Any) -> None:
    vision = encoder(saved("clip"), "clip")
    text = encoder(saved("clip"), "clip", tower="text")
    with quiet():
        whole = transformers.AutoModel.from_pretrained(saved("clip")).eval()
    images = batch_of(vision, vision.example(), vision.example()[::-1])
    texts = batch_of(text, text.example(), np.asarray("A cat."))
    with torch.no_grad():
        expected = whole.get_image_features(pixel_values=images["pixel_values"]).pooler_output
        torch.testing.assert_close(vision.capture(images)["projection"][:, 0], expected)
        expected = whole.get_text_features(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"])
        torch.testing.assert_close(text.capture(texts)["projection"][:, 0], expected.pooler_output)
    assert (vision.modality, text.modality) == ("image", "text")


@pytest.mark.slow
def test_silence_before_a_sound_is_masked(saved: Any) -> None:
    subject = encoder(saved("whisper"), "whisper")
    sound = subject.example()
    late = np.concatenate([np.full(16_000, np.nan, np.float32), sound[:16_000]])
    batch = batch_of(subject, sound, late)
    assert subject.valid(batch, subject.taps[0]).sum(1).tolist() == [100, 50]  # 2 s and 1 s, 50 tokens a second
    short = build(str(saved("whisper")), length=16_000)
    one, other = subject.capture(batch)["layers.0"][1], short.capture(batch_of(short, sound[:16_000]))["layers.0"][0]
    torch.testing.assert_close(one[:50], other)
    assert subject.rate == 16_000
    # What lies behind the longest sound is silence that Whisper adds itself, and no part of any grid.
    for which, tokens in ((subject, 100), (short, 50)):
        assert {(tap.grid.shape, tap.site.trailing) for tap in which.taps if tap.part != "head"} == {
            ((tokens,), 1500 - tokens)
        }
        assert which.covers((320 * tokens,)) == ((0.0, pytest.approx(320.0 * tokens, rel=0.02)),)
        assert which.valid(batch_of(which, which.example()), which.taps[0]) is None


def test_a_model_without_a_mask_takes_no_shorter_sounds(saved: Any) -> None:
    subject = encoder(saved("wav2vec2"), "wav2vec2")
    late = subject.example().copy()
    late[:8000] = np.nan
    with refusal("bad-sample"):
        subject.preprocess(late)
    with refusal("not-finite", "shape [32000]"):
        subject.preprocess(subject.example()[:100])


def test_sounds_of_another_length_have_another_grid(saved: Any) -> None:
    subject = encoder(saved("wav2vec2"), "wav2vec2")
    sized = subject.sized_for(np.zeros(16_000, dtype=np.float32))
    assert subject.taps[0].grid.shape == (99,) and sized.taps[0].grid.shape == (49,)


def test_fresh_and_initial_weights(saved: Any) -> None:
    subject = encoder(saved("vit"), "vit")
    initial = [build(str(saved("vit")), pretrained=False, seed=seed).identity["weights"] for seed in (5, 5, 6)]
    assert initial[0] == initial[1] != initial[2] and subject.identity["weights"] not in initial
    assert (
        subject.fresh(3).identity["weights"]
        == subject.fresh(3).identity["weights"]
        != subject.fresh(4).identity["weights"]
    )


def test_a_loaded_model_is_the_saved_one(saved: Any) -> None:
    model = load(str(saved("bert"))).model
    with quiet():
        expected = transformers.AutoModel.from_pretrained(saved("bert")).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("vit", {"layernorm": "last_hidden_state", "pooler": "pooler_output", "layers.1": "hidden_states[-1]"}),
        ("dinov3_vit", {"norm": "last_hidden_state", "model.layer.1": "hidden_states[-1]"}),
        ("clip_vision_model", {"encoder.layers.1": "last_hidden_state", "post_layernorm": "pooler_output"}),
        # Recorded before each layer, and so one layer early.
        ("patchtst", {"encoder.layers.1": "last_hidden_state", "encoder.layers.0": "hidden_states[-1]"}),
        ("llama", {"norm": "last_hidden_state"}),
    ],
)
def test_transformers_own_names_stand_at_the_taps(kind: str, names: dict[str, str], saved: Any) -> None:
    assert dict(encoder(saved(kind), kind).maker_names) == names
