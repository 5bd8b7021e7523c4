"""hf: directories, weights, and what is said where they do not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
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
from diagnostics_transformers.encoder import encoder_of  # noqa: E402  (below the skip of a missing package)
from diagnostics_transformers.load import Loaded, quiet, settled  # noqa: E402  (below the skip of a missing package)
from diagnostics_transformers.plugin import build  # noqa: E402  (below the skip of a missing package)
from transformers_zoo import build as tiny  # noqa: E402  (below the skip of a missing package)
from transformers_zoo import tiny_config  # noqa: E402  (below the skip of a missing package)

from diagnostics import DiagnosticsError  # noqa: E402  (below the skip of a missing package)
from tests.support.refusals import refusal  # noqa: E402  (below the skip of a missing package)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vit")
    with quiet():
        tiny("vit").save_pretrained(directory)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(directory)
    return directory


@pytest.fixture
def copied(vit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vit, tmp_path / "copy"))


def sentence(error: pytest.ExceptionInfo[DiagnosticsError], *parts: str) -> None:
    """One line, one sentence, that names what and what to do."""
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and all(part in text for part in parts), text


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/diagnostics-was-unpickled"),))


def test_a_pickle_is_refused_and_tensors_are_taken(copied: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(copied / "model.safetensors")
    expected = build(str(copied)).identity["weights"]
    (copied / "model.safetensors").unlink()
    torch.save(tensors, copied / "pytorch_model.bin")
    assert build(str(copied)).identity["weights"] == expected
    mark = Path("/tmp/diagnostics-was-unpickled")
    mark.unlink(missing_ok=True)
    torch.save({**tensors, "evil": Evil()}, copied / "pytorch_model.bin")
    with pytest.raises(DiagnosticsError) as error:
        build(str(copied))
    sentence(error, "never unpickled", "save_pretrained")
    assert not mark.exists()


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module.vit."])
def test_weights_saved_from_within_a_wrapper_are_those_of_the_model(copied: Path, wrapper: str) -> None:
    from safetensors.torch import load_file, save_file

    expected = build(str(copied)).identity["weights"]
    tensors = load_file(copied / "model.safetensors")
    save_file(
        {f"{wrapper}{key}": each for key, each in tensors.items()},
        copied / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert build(str(copied)).identity["weights"] == expected


def test_weights_that_no_file_holds_are_the_same_each_time(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(copied / "model.safetensors")
    rest = {key: each for key, each in held.items() if not key.startswith("pooler.")}
    assert len(rest) == len(held) - 2
    save_file(rest, copied / "model.safetensors", metadata={"format": "pt"})
    first, second = (build(str(copied)).identity["weights"] for _ in range(2))
    assert first == second
    torch.testing.assert_close(
        rest["layernorm.weight"], build(str(copied)).module.state_dict()["tower.layernorm.weight"]
    )


def test_an_encoder_needs_no_timm(vit: Path, warm_python: Path) -> None:
    code = "import sys; sys.modules['timm'] = None; from diagnostics_transformers.plugin import build; "
    code += "print(build(sys.argv[1]).output_tap)"
    done = subprocess.run([warm_python, "-c", code, str(vit)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == build(str(vit)).output_tap, done.stderr


def test_no_weights_or_damaged_ones(copied: Path) -> None:
    whole = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DiagnosticsError) as error:
        build(str(copied))
    sentence(error, "cannot be loaded", "?pretrained=false")
    (copied / "model.safetensors").unlink()
    with pytest.raises(DiagnosticsError) as error:
        build(str(copied))
    sentence(error, "no weights beside", "?pretrained=false")
    assert build(str(copied), pretrained=False).name == f"hf:{copied}?pretrained=false"


def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    cases = {
        str(tmp_path / "lora"): "an adapter and its base, merged",
        str(tmp_path / "nowhere"): "There is no directory",
        str(tmp_path): "has no config.json",
        str(copied / "config.json"): "is a file",
        "nobody/nothing-of-that-name": "no such directory, not in the local cache",
        "../../etc": "There is no directory" if not Path("../../etc").is_dir() else "has no config.json",
    }
    for name, part in cases.items():
        with pytest.raises(DiagnosticsError) as error:
            build(name)
        sentence(error, part, "give")
    for changed, part in (({"model_type": "of_tomorrow"}, "model type"), ({"auto_map": {"AutoConfig": "a.B"}}, "")):
        config = json.loads((copied / "config.json").read_text())
        config |= {"model_type": "unknown_kind"} | changed
        (copied / "config.json").write_text(json.dumps(config))
        with pytest.raises(DiagnosticsError) as error:
            build(str(copied))
        sentence(error, part, "cannot be loaded")


def test_weights_of_another_architecture(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(DiagnosticsError) as error:
        build(str(copied))
    sentence(error, "another")
    (copied / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(DiagnosticsError) as error:
        build(str(copied))
    sentence(error, "lack", "another architecture")


@pytest.mark.parametrize(
    ("kind", "part", "file"),
    [
        ("bert", "tokenizer", "tokenizer.json"),
        ("vit", "image processor", "preprocessor_config.json"),
        ("videomae", "video processor", "video_preprocessor_config.json"),
        ("wav2vec2", "feature extractor", "preprocessor_config.json"),
    ],
)
def test_stored_weights_are_not_fed_by_a_guess(kind: str, part: str, file: str, tmp_path: Path) -> None:
    """A directory saved without what prepares its samples: texts were read as bytes, and a whole verdict came out."""
    with quiet():
        tiny(kind).save_pretrained(tmp_path)
    with pytest.raises(DiagnosticsError) as error:
        build(str(tmp_path))
    sentence(error, f"no {part}", "copy", file, *(["?tokenizer=bytes"] if part == "tokenizer" else []))
    assert build(str(tmp_path), pretrained=False).taps
    if part == "tokenizer":
        # transformers makes a tokenizer of special tokens alone for it, and one may lie there too.
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        transformers.BertTokenizer(vocab={word: i for i, word in enumerate(specials)}).save_pretrained(tmp_path)
        with pytest.raises(DiagnosticsError) as error:
            build(str(tmp_path))
        sentence(error, "special tokens alone", "?tokenizer=bytes")
        asked = build(str(tmp_path), tokenizer="bytes")
        assert "bytes as tokens" in asked.identity["configuration"] and "tokenizer=bytes" in asked.skeleton
        with refusal("unknown-name", "words"):
            build(str(tmp_path), tokenizer="words")


def test_a_head_without_weights_is_no_tap(tmp_path: Path) -> None:
    with quiet():
        torch.manual_seed(0)
        transformers.BertForMaskedLM(tiny_config("bert")).save_pretrained(tmp_path)
    subject = build(str(tmp_path), length=40, tokenizer="bytes")
    assert [tap.name for tap in subject.taps] == ["embed", "encoder.layer.0", "encoder.layer.1"]


def test_the_directory_prepares_its_images(vit: Path) -> None:
    subject = build(str(vit))
    processor = transformers.AutoImageProcessor.from_pretrained(vit)
    expected = processor(images=subject.example(), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(subject.preprocess(subject.example())["pixel_values"], expected)
    grey = subject.preprocess(subject.example()[..., 0])["pixel_values"]
    assert grey.shape == expected.shape and "ViTImageProcessor" in subject.identity["configuration"]
    with refusal("bad-sample", "uint8"):
        subject.preprocess(subject.example().astype(np.float32))


def test_a_crop_is_told(copied: Path) -> None:
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}, image_mean=[0.5] * 3
    ).save_pretrained(copied)
    subject = build(str(copied))
    (top, bottom), (left, right) = subject.covers((160, 320))
    assert (top, bottom) == (16, 144) and (left, right) == (96, 224)
    # A mark just inside the crop is seen, one just outside is not.
    plain = np.zeros((160, 320, 3), dtype=np.uint8)
    for x, seen in ((100, True), (80, False)):
        marked = plain.copy()
        marked[60:100, x : x + 6] = 255
        same = torch.equal(subject.preprocess(marked)["pixel_values"], subject.preprocess(plain)["pixel_values"])
        assert same is not seen


def test_another_size(vit: Path) -> None:
    subject = build(str(vit), size=96)
    assert subject.taps[0].grid.shape == (6, 6) and subject.name.endswith("?size=96")
    subject.capture(default_collate([subject.preprocess(subject.example())]))
    for size, part in ((90, "multiple of the patch"), (0, "at least 1")):
        with pytest.raises(DiagnosticsError) as error:
            build(str(vit), size=size)
        sentence(error, part)


def test_the_wrong_tower(vit: Path) -> None:
    for tower, part in (("text", "no text tower"), ("smell", "audio, text, vision")):
        with pytest.raises(DiagnosticsError) as error:
            build(str(vit), tower=tower)
        sentence(error, part)


def test_the_decoder_of_a_whole_architecture(tmp_path: Path) -> None:
    config = tiny_config("vit_mae")
    config.decoder_num_hidden_layers, config.decoder_hidden_size, config.decoder_num_attention_heads = 2, 32, 4
    config.decoder_intermediate_size = 64
    with quiet():
        torch.manual_seed(0)
        transformers.ViTMAEForPreTraining(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    subject = build(str(tmp_path), heads=True)
    names = {tap.name: tap.part for tap in subject.taps}
    assert names["vit.layers.1"] == "trunk" and subject.output_tap == "vit.layernorm"
    heads = [tap for tap in subject.taps if tap.part == "head"]
    assert heads[-1].name == "decoder" and len(heads) >= 3 and min(tap.depth for tap in heads) > 1
    batch = default_collate([subject.preprocess(subject.example())] * 2)
    out = subject.module.tower(pixel_values=batch["pixel_values"], noise=torch.arange(16.0).expand(2, 16))
    torch.testing.assert_close(subject.capture(batch)["decoder"], out.logits)


def made_of(kind: str) -> Any:
    with quiet():
        model = tiny(kind)
    settled(model.config)
    return encoder_of(Loaded(kind, model, model.config, None), f"hf:{kind}")


@pytest.mark.parametrize("kind", ["detr", "groupvit", "vilt", "bark", "imagegpt", "seggpt", "perceiver"])
def test_what_has_no_honest_grid_is_refused_or_left_out(kind: str) -> None:
    if kind == "detr":
        subject = made_of(kind)
        assert "no tap at decoder" in subject.identity["configuration"]
        assert all(tap.grid.axes == ("y", "x") for tap in subject.taps)
        assert subject.tap("encoder.layers.1").grid.shape == (7, 7) and subject.output_tap == "encoder.layers.1"
        return
    with pytest.raises(DiagnosticsError) as error:
        made_of(kind)
    sentence(error, f"{kind}")


def test_series_with_gaps_and_of_another_length() -> None:
    subject = made_of("timesfm2_5")
    late = subject.example().copy()
    late[:96] = np.nan
    batch = default_collate([subject.preprocess(subject.example()), subject.preprocess(late)])
    valid = subject.valid(batch, subject.taps[0])
    assert valid[0].all() and valid[1].tolist() == [False] * 3 + [True] * 13
    assert subject.sized_for(np.zeros(256)).taps[0].grid.shape == (8,)
    with refusal("bad-value", "32", "250"):
        subject.sized_for(np.zeros(250))


def test_lags_of_a_series_come_before_its_context() -> None:
    config = transformers.TimeSeriesTransformerConfig(
        prediction_length=8,
        context_length=32,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_time_features=1,
        scaling=False,
    )
    assert list(config.lags_sequence) == list(range(1, 8))
    subject = encoder_of(
        Loaded("lags", transformers.TimeSeriesTransformerModel(config).eval(), config, None), "hf:lags"
    )
    assert subject.example().shape == (39,) and subject.taps[0].grid.shape == (32,)
    # A token stands for the middle one of the steps that it is told of.
    assert subject.covers((39,)) == ((3.0, 35.0),)
    values = torch.zeros(1, 39, 1, requires_grad=True)
    noise = torch.randn(1, 39, 1, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    first = subject.module.get_submodule("tower.encoder.layers.0")
    handle = first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    subject.forward(subject.module, {"values": values + noise, "observed": torch.ones(1, 39, 1)})
    handle.remove()
    (reported,) = torch.autograd.grad(seen[0][0, 10, 0], values)
    steps = reported[0, :, 0].nonzero()[:, 0].tolist()
    assert steps == list(range(10, 17)) and steps[3] == 3 + 10


def test_speech_is_read_by_the_architecture_that_has_a_prenet_for_it(tmp_path: Path) -> None:
    config = tiny_config("speecht5")
    for name in ("SpeechT5ForSpeechToText", "SpeechT5ForTextToSpeech"):
        with quiet():
            getattr(transformers, name)(config).save_pretrained(tmp_path / name)
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / name)
    subject = build(str(tmp_path / "SpeechT5ForSpeechToText"))
    assert subject.modality == "audio" and subject.output_tap == "wrapped_encoder.layers.1"
    batch = default_collate([subject.preprocess(subject.example())])
    with quiet():
        model = transformers.SpeechT5ForSpeechToText.from_pretrained(tmp_path / "SpeechT5ForSpeechToText").eval()
    with torch.no_grad():
        theirs = model.speecht5.encoder(batch["sound"]).last_hidden_state
    torch.testing.assert_close(subject.capture(batch)[subject.output_tap], theirs)
    with pytest.raises(DiagnosticsError) as error:
        build(str(tmp_path / "SpeechT5ForTextToSpeech"))
    sentence(error, "prenet", "tap it as a torch module")


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "pixtral", "hunyuan_vl_vision", "inkling2", "minicpmv4_6"])
def test_patches_of_all_images_in_one_row(kind: str) -> None:
    subject = made_of(kind)
    tap = subject.taps[0]
    rows, columns = tap.grid.shape
    size = round(subject.preprocess(subject.example()).get("pixel_values", torch.zeros(3, 224, 224)).shape[-1])
    plain = np.full((size, size, 3), 100, dtype=np.uint8)
    for cell in ((0, columns - 1), (rows - 1, 0), (1, 2)):
        changed = plain.copy()
        y, x = size // rows, size // columns
        changed[cell[0] * y : (cell[0] + 1) * y, cell[1] * x : (cell[1] + 1) * x] = 250
        captured = subject.capture(default_collate([subject.preprocess(plain), subject.preprocess(changed)]))
        moved = (captured[tap.name][1] - captured[tap.name][0])[tap.grid.prefix :].abs().sum(-1).argmax()
        assert divmod(int(moved), columns) == cell
    # A sample alone gives what it gives in a batch.
    both = default_collate([subject.preprocess(plain), subject.preprocess(subject.example())])
    alone = default_collate([subject.preprocess(subject.example())])
    for name, expected in subject.capture(alone).items():
        torch.testing.assert_close(subject.capture(both)[name][1:], expected, rtol=1e-3, atol=1e-5)
