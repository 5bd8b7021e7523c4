"""Encoders as files: what comes back is the same to the bit, and what is wrong with a file is said in one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import default_collate
from typer.testing import CliRunner

from diagnostics import DiagnosticsError, TorchEncoder, build, load_encoder, save_encoder
from diagnostics.cli.main import app
from diagnostics.encoders.saved.files import _rounded
from diagnostics.errors import StorageError
from tests.support.refusals import refusal
from tests.support.tiny import tiny_encoder

OWN = """
import itertools, time
import torch
from torch import nn
from tests.support.tiny import tiny_encoder, tiny_image_encoder

_drawn = itertools.count(time.monotonic_ns() % 10**9)


def build(blocks: int = 3): return tiny_encoder(seed=DRAWN, blocks=blocks)
def images(): return tiny_image_encoder(DRAWN)


def tied():
    encoder = tiny_encoder(DRAWN)
    blocks = encoder.module.blocks
    blocks[1].inner.weight = blocks[0].inner.weight
    # Two views into one memory, which are not one tensor.
    both = torch.randn(16)
    blocks[0].inner.bias.data, blocks[1].inner.bias.data = both, both[:]
    blocks[2].outer.bias.data = both[4:12]
    return encoder


class Stateful(nn.Module):
    def __init__(self, inner): super().__init__(); self.inner = inner
    def forward(self, x): return self.inner(x)
    def get_extra_state(self): return {"seen": 3}
    def set_extra_state(self, state): pass


def stateful():
    encoder = tiny_encoder()
    encoder.module.blocks[0] = Stateful(encoder.module.blocks[0])
    return encoder
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the user whose encoders have other weights each time that they are built."""
    path = tmp_path / "own.py"
    path.write_text(OWN.replace("DRAWN", "next(_drawn)"))
    monkeypatch.chdir(tmp_path)
    return path


def sentence(error: pytest.ExceptionInfo[DiagnosticsError], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", "?")) and all(part in text for part in parts), text


def activations(encoder: TorchEncoder) -> dict[str, Any]:
    return encoder.capture(default_collate([encoder.preprocess(encoder.example())] * 2))


def assert_same(one: TorchEncoder, other: TorchEncoder) -> None:
    first, second = activations(one), activations(other)
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)
    assert one.taps == other.taps and one.output_tap == other.output_tap
    assert dict(one.identity) == dict(other.identity)


def test_what_is_loaded_is_what_was_saved(own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoder = build("encoder", "own.py:build?blocks=2")
    encoder = encoder.replace(lineage={"group": "jepa", "seed": 0}, configuration="what a checkpoint lacked")
    assert not torch.equal(activations(encoder)["norm"], activations(build("encoder", encoder.spec))["norm"])  # planted
    path = save_encoder(tmp_path / "models" / "one", encoder)
    assert path == tmp_path / "models" / "one" / "encoder.safetensors"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("../models/one", "../models/one/encoder.safetensors"):
        loaded = build("encoder", name, trust_code=True)
        assert_same(encoder, loaded)
        assert loaded.name == encoder.name and loaded.spec == name and loaded.skeleton == f"{own}:build?blocks=2"
        assert loaded.lineage == {"group": "jepa", "seed": 0}
    assert [file.name for file in path.parent.iterdir()] == ["encoder.safetensors"]


def test_others_may_read_what_they_may_read_of_any_file(own: Path) -> None:
    plain = own.with_name("plain.txt")
    plain.write_text("")
    assert save_encoder("one", build("encoder", "own.py:build")).stat().st_mode == plain.stat().st_mode


def test_samples_of_another_size_see_the_loaded_weights(own: Path) -> None:
    encoder = build("encoder", "own.py:build").replace(lineage={"seed": 3})
    save_encoder("one", encoder)
    longer = np.arange(48.0)
    for one in (encoder, build("encoder", "one", trust_code=True)):
        sized = one.sized_for(longer)
        assert sized is not one and sized.taps[0].grid.shape == (12,)
        assert (sized.spec, sized.skeleton, sized.lineage) == (one.spec, one.skeleton, one.lineage)
    sized, whole = build("encoder", "one", trust_code=True).sized_for(longer), encoder.sized_for(longer)
    assert_same(sized.with_module(sized.module, "x"), whole.with_module(whole.module, "x"))


def test_copies_keep_what_made_them(own: Path) -> None:
    encoder = build("encoder", "own.py:build").replace(skeleton="own.py:build?blocks=3", lineage={"group": "a"})
    for twin in (encoder.with_module(encoder.module, "x"), encoder.with_taps(encoder.taps[1:]), encoder.fresh(0)):
        assert (twin.spec, twin.skeleton, twin.lineage) == ("own.py:build", "own.py:build?blocks=3", {"group": "a"})


def test_fewer_taps_stay_fewer_in_any_size(own: Path) -> None:
    encoder = build("encoder", "own.py:build")
    few = encoder.with_taps(encoder.taps[2:])
    save_encoder("few", few)
    loaded = load_encoder("few", trust_code=True)
    assert_same(few, loaded)
    assert [tap.name for tap in loaded.sized_for(np.arange(48.0)).taps] == ["blocks.1", "blocks.2", "norm"]


def test_shared_tensors_are_stored_once(own: Path) -> None:
    encoder = build("encoder", "own.py:tied")
    path = save_encoder("tied.safetensors", encoder)
    stored = load_file(path)
    assert "blocks.0.inner.weight" in stored and "blocks.1.inner.weight" not in stored
    assert "blocks.0.inner.bias" in stored and "blocks.1.inner.bias" not in stored and "blocks.2.outer.bias" in stored
    loaded = load_encoder(path, trust_code=True)
    assert_same(encoder, loaded)
    assert loaded.module.blocks[1].inner.weight is loaded.module.blocks[0].inner.weight


def test_lineage_can_be_given_and_must_be_plain(own: Path) -> None:
    encoder = build("encoder", "own.py:build")
    save_encoder("one", encoder, lineage={"base": "abc"})
    assert load_encoder("one", trust_code=True).lineage == {"base": "abc"}
    with pytest.raises(DiagnosticsError) as error:
        save_encoder("two", encoder, lineage={"path": Path("x")})
    sentence(error, "lineage", "JSON")
    assert not Path("two").exists()


def test_what_cannot_be_built_again_is_not_saved(own: Path) -> None:
    with pytest.raises(DiagnosticsError) as error:
        save_encoder("one", tiny_encoder())
    sentence(error, "made in Python")
    with pytest.raises(DiagnosticsError) as error:
        save_encoder("one", build("encoder", "own.py:stateful"))
    sentence(error, "no tensor", "_extra_state")
    assert not Path("one").exists()


def test_a_place_that_cannot_be_written(own: Path) -> None:
    with pytest.raises(StorageError) as error:
        save_encoder(own / "folder", build("encoder", "own.py:build"))
    sentence(error, "own.py", "cannot be written")


def test_a_write_that_fails_leaves_the_old_file(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build("encoder", "own.py:build")
    path = save_encoder("one", encoder)
    before = path.read_bytes()

    def full(tensors: Any, file: Path, metadata: Any) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diagnostics.encoders.saved.files.save_file", full)
    with pytest.raises(StorageError) as error:
        save_encoder("one", encoder)
    sentence(error, "No space left")
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_a_kill_left_of_a_file_goes_with_the_next_try(own: Path) -> None:
    left = Path("one/.encoder.safetensors.partial")
    left.mkdir(parents=True)
    (left / ".tmpXk2").write_bytes(b"as safetensors leaves it")
    path = save_encoder("one", build("encoder", "own.py:build"))
    assert list(Path("one").iterdir()) == [path]


def described(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["diagnostics"])


def rewritten(path: Path, tensors: dict[str, Any] | None = None, **changes: Any) -> None:
    """As whoever writes such files by hand does it."""
    about = {key: value for key, value in described(path).items() if key != "digest"} | changes
    save_file(tensors or load_file(path), path, metadata={"diagnostics": json.dumps(about)})


@pytest.mark.parametrize("change", [{"lineage": {"seed": 4}}, {"name": "other"}, {"output_tap": "blocks.0"}])
def test_a_description_that_changed_since_is_refused(own: Path, change: dict[str, Any]) -> None:
    """A flipped bit of the seed would put an encoder among other seeds, and nothing in the weights would tell."""
    path = save_encoder("one", build("encoder", "own.py:build"), lineage={"seed": 3})
    text = json.dumps(described(path) | change)
    save_file(load_file(path), path, metadata={"diagnostics": text})
    with pytest.raises(DiagnosticsError) as error:
        load_encoder(path, trust_code=True)
    sentence(error, "not what was written")


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _pickle(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def _bare(path: Path) -> None:
    save_file(load_file(path), path)


def _one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def _with_digest(path: Path, tensors: dict[str, Any]) -> None:
    from diagnostics.encoders.torch_encoder import digest_of

    rewritten(path, tensors, sha256=digest_of(tensors))


def _missing(path: Path) -> None:
    _with_digest(path, {key: value for key, value in load_file(path).items() if key != "norm.bias"})


def _unexpected(path: Path) -> None:
    _with_digest(path, load_file(path) | {"extra": torch.zeros(2)})


def _misshapen(path: Path) -> None:
    _with_digest(path, load_file(path) | {"norm.bias": torch.zeros(9)})


def _of_another_type(path: Path) -> None:
    _with_digest(path, load_file(path) | {"norm.bias": torch.zeros(8, dtype=torch.float64)})


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_truncated, "cannot be read"),
    "cut in the header": (_cut_in_the_header, "cannot be read"),
    "empty": (lambda path: path.write_bytes(b"") and None, "cannot be read"),
    "pickle": (_pickle, "cannot be read"),
    "no metadata": (_bare, "nothing of the encoder"),
    "one bit": (_one_bit, "damaged"),
    "missing": (_missing, "1 tensors missing: norm.bias"),
    "unexpected": (_unexpected, "1 tensors unexpected: extra"),
    "shape": (_misshapen, "another shape: norm.bias"),
    "type": (_of_another_type, "another type: norm.bias"),
    "format": (lambda path: rewritten(path, format=2), "format 2"),
    "no JSON": (lambda path: save_file(load_file(path), path, metadata={"diagnostics": "{"}), "damaged"),
    "no mapping": (lambda path: save_file(load_file(path), path, metadata={"diagnostics": "[]"}), "damaged"),
    "lacks a key": (
        lambda path: save_file(load_file(path), path, metadata={"diagnostics": '{"format": 1}'}),
        "damaged",
    ),
    "odd type": (lambda path: rewritten(path, skeleton=3), "damaged"),
    "skeleton gone": (lambda path: rewritten(path, skeleton="/nowhere/own.py:build"), "/nowhere/own.py"),
    "other architecture": (lambda path: rewritten(path, skeleton="own.py:build?blocks=5"), "do not fit"),
    "no module": (lambda path: rewritten(path, skeleton="own.py:tiny_encoder?name=x", taps=["nothing"]), "nothing"),
    "other preprocessing": (lambda path: rewritten(path, prepared={"": [[1, 32], 5.0, 1.0]}), "another preprocessing"),
    "file that climbs": (lambda path: rewritten(path, files={"../x.json": "{}"}), "no plain name"),
    "file with a root": (lambda path: rewritten(path, files={"/tmp/x.json": "{}"}), "no plain name"),
    "file of no bytes": (lambda path: rewritten(path, files={"x.json": {"base64": "!"}}), "x.json in one"),
    "file of numbers": (lambda path: rewritten(path, files={"x.json": 3}), "x.json in one"),
    "hidden file": (lambda path: rewritten(path, files={".bashrc": "{}"}), "no plain name"),
}


@pytest.mark.parametrize("how", WRONG)
def test_wrong_files_are_refused_in_one_sentence(own: Path, how: str) -> None:
    path = save_encoder("one", build("encoder", "own.py:build"))
    change, part = WRONG[how]
    change(path)
    with pytest.raises(DiagnosticsError) as error:
        load_encoder(path, trust_code=True)
    sentence(error, part)
    captured = CliRunner().invoke(app, ["inspect", "one", "--trust-code"])
    assert captured.exit_code == 2 and captured.stderr.count("\n") == 1 and part in captured.stderr


def test_names_that_are_no_encoders(own: Path) -> None:
    for folder in ("models/a", "models/b"):
        save_encoder(folder, build("encoder", "own.py:build"))
    Path("empty").mkdir()
    expected = {
        "models": "a, b",
        "empty": "hf:empty",
        "nothing.safetensors": "no file nothing.safetensors",
        "models/c": "a folder with a saved encoder",
        "models/a?cut=norm": "option of this encoder 'cut'",
    }
    for name, part in expected.items():
        with pytest.raises(DiagnosticsError) as error:
            build("encoder", name)
        sentence(error, part)
    with pytest.raises(DiagnosticsError) as error:
        build("dataset", "models/a")
    sentence(error, "models/a", "images:")
    assert "saved encoder" not in str(error.value)


def test_start_up_stays_light() -> None:
    code = "import sys, diagnostics.registry as r; r.plugins(); sys.exit('torch' in sys.modules or 'safetensors' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "vit_small_patch14_dinov2.lvd142m"])
def test_timm_models_come_back_without_their_weights(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    size = "&img_size=112" if name.startswith("vit") else ""
    encoder = build("encoder", f"timm:{name}?pretrained=false&seed=7{size}")
    assert encoder.skeleton == f"timm:{name}?pretrained=false{size}"
    loaded = load_encoder(save_encoder(tmp_path / "one", encoder))
    assert_same(encoder, loaded)


def test_timm_checkpoints_need_no_file_afterwards(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(5)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), weights)
    encoder = build("encoder", f"timm:resnet10t?checkpoint={weights}")
    path = save_encoder(tmp_path / "one", encoder)
    weights.unlink()
    assert_same(encoder, load_encoder(path))


def test_perception_encoders(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    encoder = build("encoder", "pe:core-t16-384?pretrained=false&seed=4&img_size=64&positions=rescaled")
    assert encoder.skeleton == "pe:core-t16-384?pretrained=false&img_size=64&positions=rescaled"
    assert_same(encoder, load_encoder(save_encoder(tmp_path / "image", encoder)))
    video = build("encoder", "pe-video:spatial-t16-512?pretrained=false&seed=4&img_size=32&frames=2")
    assert_same(video, load_encoder(save_encoder(tmp_path / "video", video)))


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "grass", "wet", "a", "the", "runs", "."]


def _bert(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)


def _vit(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(folder)
    processor = transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.3] * 3, image_std=[0.2] * 3
    )
    processor.save_pretrained(folder)


@pytest.mark.parametrize("make", [_bert, _vit])
@pytest.mark.parametrize("options", ["", "?heads=true"])
def test_checkpoint_directories_are_not_needed_afterwards(
    make: Callable[[Path], None], options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "model")
    encoder = build("encoder", f"hf:model{options}")
    path = save_encoder("one", encoder)
    shutil.rmtree(tmp_path / "model")
    files = described(path)["files"]
    assert "config.json" in files and not any(name.endswith((".safetensors", ".bin")) for name in files)
    assert described(path)["skeleton"].startswith("hf:{files}?pretrained=false")
    loaded = load_encoder(path)
    assert_same(encoder, loaded)
    # Saved once more, from what was loaded.
    assert_same(encoder, load_encoder(save_encoder("two", loaded)))


def test_without_its_tokenizer_a_text_encoder_is_refused(tmp_path: Path) -> None:
    _bert(tmp_path / "model")
    path = save_encoder(tmp_path / "one", build("encoder", f"hf:{tmp_path / 'model'}"))
    files = {
        name: text for name, text in described(path)["files"].items() if not name.startswith(("tokenizer", "vocab"))
    }
    rewritten(path, files=files)
    with pytest.raises(DiagnosticsError) as error:
        load_encoder(path)
    sentence(error, "another preprocessing")


def test_files_that_are_no_text_travel_and_large_ones_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _vit(tmp_path / "model")
    (tmp_path / "model" / "spiece.model").write_bytes(bytes(range(256)))
    encoder = build("encoder", f"hf:{tmp_path / 'model'}")
    loaded = load_encoder(save_encoder(tmp_path / "one", encoder))
    folder = Path(loaded.skeleton.partition(":")[2].partition("?")[0])
    assert (folder / "spiece.model").read_bytes() == bytes(range(256))
    monkeypatch.setattr("diagnostics.encoders.saved.files.MOST_BYTES", 100)
    with pytest.raises(DiagnosticsError) as error:
        save_encoder(tmp_path / "two", encoder)
    sentence(error, "cannot be saved with the weights")
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(DiagnosticsError) as error:
        save_encoder(tmp_path / "two", encoder)
    sentence(error, "is gone")


def test_fracast(tmp_path: Path) -> None:
    pytest.importorskip("fracast")
    encoder = build("encoder", "fracast")
    with torch.no_grad():
        encoder.module.norm.weight.mul_(1.5)  # as training would change it
    loaded = load_encoder(save_encoder(tmp_path / "one", encoder))
    assert_same(encoder, loaded)
    short = np.random.default_rng(0).standard_normal(64).cumsum()
    assert_same(encoder.sized_for(short), loaded.sized_for(short))


def test_a_run_on_a_saved_encoder(own: Path) -> None:
    Path("mine.py").write_text("from tests.support.tiny import tiny_dataset\ndef data(): return tiny_dataset(24)\n")
    save_encoder("one", build("encoder", "own.py:build"))
    captured = CliRunner().invoke(
        app,
        [
            "run",
            "one",
            "--trust-code",
            "--data",
            "mine.py:data",
            "--no-controls",
            "--measures",
            "rankme",
            "--out",
            "r",
            "--json",
        ],
    )
    assert captured.exit_code == 0, captured.stderr
    assert json.loads(captured.stdout)["encoder"] == "tiny"


def test_a_mask_of_infinities_can_be_halved() -> None:
    mask = torch.tensor([[0.0, -torch.inf]])
    assert torch.equal(_rounded("mask", mask, "one").float(), mask)
    with refusal("not-finite"):
        _rounded("weight", torch.tensor([1e6]), "one")


def test_half_a_file_holds_the_rounded_encoder(own: Path) -> None:
    encoder = build("encoder", "own.py:build")
    whole, half = save_encoder("whole", encoder), save_encoder("half", encoder, half=True)
    assert {tensor.dtype for tensor in load_file(half).values()} == {torch.float16}
    loaded = load_encoder("half", trust_code=True)
    for name, tensor in encoder.module.state_dict().items():
        captured = loaded.module.state_dict()[name]
        assert captured.dtype == torch.float32
        assert torch.equal(captured, tensor.half().float())
    assert loaded.identity["weights"] != load_encoder(whole, trust_code=True).identity["weights"]
    # Rounding once is rounding for good: what is saved again is the same encoder.
    save_encoder("again", loaded, half=True)
    assert load_encoder("again", trust_code=True).identity["weights"] == loaded.identity["weights"]
    next(iter(encoder.module.parameters())).data.fill_(1e6)
    with refusal("not-finite"):
        save_encoder("beyond", encoder, half=True)
