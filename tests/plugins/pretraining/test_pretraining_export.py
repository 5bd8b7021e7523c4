"""Pairs written for Meta's code and for open_clip, and read back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from torch import Tensor
from typer.testing import CliRunner

pytest.importorskip("open_clip")

# Below the skip, since these imports need open_clip and timm.
import open_clip
from diagnostics_perception.checkpoint import export as export_meta
from diagnostics_perception.models import ARCHITECTURES, Architecture
from diagnostics_perception.plugin import export_meta as meta_command
from diagnostics_pretraining import towers as exporting
from diagnostics_pretraining.plugin import export_open_clip
from diagnostics_pretraining.text_encoder import Vocabulary, context_of, vocabulary_in
from diagnostics_pretraining.towers import Pair, encoders_of, export, load_pair

import diagnostics.cli.main as cli
from diagnostics import build, save_encoder
from tests.support.pairs import batch_of, save_pair, trained
from tests.support.refusals import refusal


def saved(folder: Path, whole: bool = True, **more: Any) -> Pair:
    save_pair(encoders_of(trained(whole=whole, **more), "mine"), folder)
    return load_pair(folder)


VARIATIONS: list[dict[str, Any]] = [
    {},
    {"rope": False, "pool": "class"},
    {"rope": False},
    {"pool": "class"},
    {"image": 8},
]


def close(given: Tensor, expected: Tensor) -> None:
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("more", VARIATIONS, ids=str)
@torch.no_grad()
def test_open_clip_reads_what_is_written_for_it(more: dict[str, Any], tmp_path: Path) -> None:
    pair = saved(tmp_path / "mine", **more)
    result = export(tmp_path / "mine", tmp_path / "theirs")
    # As a user of open_clip has it: by name, with its own tokenizer and preprocessing.
    model: Any
    model, preprocess = open_clip.create_model_from_pretrained(result.name)
    model.eval()
    images, texts = batch_of(pair)
    close(model.encode_image(images), pair.image.capture(images)["head"][:, 0])
    tokens = open_clip.get_tokenizer(result.name)([str(pair.text.example()), "a zebra"])
    assert torch.equal(tokens, texts["tokens"])
    close(model.encode_text(tokens), pair.text.capture(texts)["head"][:, 0])
    assert float(model.logit_scale.exp()) == pytest.approx(pair.scale, rel=1e-6)
    from PIL import Image

    theirs: Any = preprocess(Image.fromarray(pair.image.example()))
    close(theirs, pair.image.preprocess(pair.image.example()))
    state = model.state_dict()
    assert (result.tensors, len(state)) == (
        len(state),
        len(pair.image.module.state_dict()) + len(pair.text.module.state_dict()) + 1,
    )
    assert torch.equal(state["visual.trunk.pos_embed"], pair.image.module.state_dict()["pos_embed"])
    assert list(tmp_path.glob(".*")) == []


def test_a_path_is_written_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "here" / "mine")
    monkeypatch.chdir(tmp_path / "here")
    result = export("mine", Path("models/theirs"))
    assert (result.folder, result.name) == ("models/theirs", "local-dir:models/theirs")
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in Path().rglob("models/theirs/**/*.json"))
    # All of it elsewhere: the same name reads it from there.
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert open_clip.create_model(result.name).state_dict().keys()


@torch.no_grad()
def test_a_reduced_vocabulary_is_written_as_the_whole_one(tmp_path: Path) -> None:
    pair = saved(tmp_path / "mine", whole=False)
    result = export(tmp_path / "mine", tmp_path / "theirs")
    model: Any = open_clip.create_model(result.name).eval()
    # Words that it knows, words that it does not, an exclamation mark (the row of padding), and a text that is cut.
    texts = ["a red star", "a zebra", "two red lions!", "a square " * 20]
    given = model.encode_text(open_clip.get_tokenizer(result.name)(texts))
    close(given, torch.from_numpy(pair.text.transform(texts, tap="head", pooling="mean")))
    assert float((given[0] - given[1]).abs().max()) > 0.01
    _, vocabulary = vocabulary_in(pair.text)
    assert vocabulary.kept is not None and result.unknown == 49_408 - len(vocabulary.kept)
    # All of them are one row.
    table = model.text.token_embedding.weight
    assert len(table) == 49_408 and len(table.unique(dim=0)) == vocabulary.size


def test_what_is_no_pair_or_is_there_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "mine")
    save_encoder(tmp_path / "alone", build("encoder", "pe:micro?pretrained=false"))
    with refusal("missing-file", "alone"):
        export(tmp_path / "alone", tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()
    with refusal("occupied", "alone"):
        export(tmp_path / "mine", tmp_path / "alone")


def test_what_open_clip_computes_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "mine")
    monkeypatch.setattr(exporting, "_pool", lambda one: "token")
    with refusal("foreign-error", "mine"):
        export(tmp_path / "mine", tmp_path / "theirs")
    monkeypatch.undo()
    true = exporting._variation

    def off_by_one(one: Architecture) -> dict[str, Any]:
        described = true(one)
        return described | {"model_args": described["model_args"] | {"rope_grid_offset": 0.0}}

    monkeypatch.setattr(exporting, "_variation", off_by_one)
    with refusal("irreproducible", "mine"):
        export(tmp_path / "mine", tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists() and list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("size", "name"), [("core-t16-384", "PE-Core-T-16-384"), ("core-g14-448", "PE-Core-bigG-14-448")]
)
def test_a_published_size_has_open_clips_own_configuration(size: str, name: str, tmp_path: Path) -> None:
    whole: Any = SimpleNamespace(size=size, architecture=ARCHITECTURES[size], vocabulary=Vocabulary(context_of(size)))
    exporting._describe(whole, tmp_path, tmp_path)
    written = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]
    own = json.loads((Path(open_clip.__file__).parent / "model_configs" / f"{name}.json").read_text())
    assert written == own and not (tmp_path / "vision").exists()


@pytest.mark.parametrize("more", VARIATIONS[:2], ids=str)
def test_metas_file_holds_both_towers_bit_for_bit(more: dict[str, Any], tmp_path: Path) -> None:
    pair = saved(tmp_path / "mine", **more)
    result = export_meta(str(tmp_path / "mine"), tmp_path / "whole.pt")
    written = torch.load(result.file, weights_only=True)
    top = {name.partition(".")[0] for name in written}
    assert top == {
        "visual",
        "token_embedding",
        "positional_embedding",
        "transformer",
        "ln_final",
        "text_projection",
        "logit_scale",
    }
    assert "visual.conv1.weight" in written and ("visual.attn_pool.probe" in written) == (not more)
    for name, tensor in pair.text.module.state_dict().items():
        assert torch.equal(written[name], tensor)
    assert torch.equal(written["logit_scale"], trained(whole=True, **more).log_scale.detach())
    options = "&rope=false&pool=class" if more else ""
    assert result.name == f"pe:micro?checkpoint={tmp_path}/whole.pt{options}"
    assert result.text == f"pe-text:micro?checkpoint={tmp_path}/whole.pt" and result.left_out == []
    images, texts = batch_of(pair)
    for encoder, name, batch in ((pair.image, result.name, images), (pair.text, result.text, texts)):
        back = build("encoder", name)
        assert back.identity["weights"] == encoder.identity["weights"]
        expected, given = encoder.capture(batch), back.capture(batch)
        assert all(torch.equal(given[tap], tokens) for tap, tokens in expected.items())


def test_metas_file_has_no_reduced_vocabulary(tmp_path: Path) -> None:
    pair = saved(tmp_path / "mine", whole=False)
    rows = len(pair.text.module.state_dict()["token_embedding.weight"])
    result = export_meta(str(tmp_path / "mine"), tmp_path / "vision.pt")
    assert result.left_out == [f"the text tower (its vocabulary has {rows} rows)"] and result.text == ""
    assert "conv1.weight" in torch.load(result.file, weights_only=True)
    # One that was put there from elsewhere is none of its own.
    save_pair(encoders_of(trained(whole=True, seed=1), "other"), tmp_path / "other")
    (tmp_path / "other" / "encoder.safetensors").write_bytes((tmp_path / "mine" / "encoder.safetensors").read_bytes())
    result = export_meta(str(tmp_path / "other"), tmp_path / "alone.pt")
    assert result.left_out == [] and result.text == ""


def run(command: Any, *words: object) -> Any:
    app = typer.Typer()
    app.command()(cli.guard(command, "pretraining"))
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_commands_say_how_to_read_it(tmp_path: Path) -> None:
    pair = saved(tmp_path / "mine")
    count = len(pair.image.module.state_dict()) + len(pair.text.module.state_dict()) + 1
    done = run(export_open_clip, tmp_path / "mine", "--out", tmp_path / "a")
    assert done.exit_code == 0, done.stderr
    size = (tmp_path / "a" / "open_clip_model.safetensors").stat().st_size
    first, second = done.stdout.splitlines()
    assert first == f"{tmp_path}/a: mine, {count} tensors, {size:,} bytes"
    assert second.startswith("Next: python -c ") and f"local-dir:{tmp_path}/a" in second
    assert json.loads(run(export_open_clip, tmp_path / "mine", "--out", tmp_path / "b", "--json").stdout) == {
        "folder": f"{tmp_path}/b",
        "encoder": "mine",
        "name": f"local-dir:{tmp_path}/b",
        "tensors": count,
        "bytes": size,
        "unknown": 0,
    }
    refused = run(export_open_clip, tmp_path / "mine", "--out", tmp_path / "b")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == f"diagnostics: {tmp_path}/b is there already: choose another --out, or remove it.\n"
    save_pair(encoders_of(trained(), "small"), tmp_path / "small")
    done = run(export_open_clip, tmp_path / "small", "--out", tmp_path / "d")
    assert re.search(
        r"49,3\d\d of CLIP's tokens, which its text tower does not know, have the row of the unknown", done.stdout
    )
    done = run(meta_command, tmp_path / "mine", "--out", tmp_path / "c.pt")
    assert f"its text tower: diagnostics inspect 'pe-text:micro?checkpoint={tmp_path}/c.pt'" in done.stdout
