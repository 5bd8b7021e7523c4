"""Decoders of language alignment: which are taken, that they are causal and local, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diagnostics_training.alignment import decoder as decoders
from diagnostics_training.alignment.decoder import Decoder, decoder_named
from safetensors.torch import load_file, save_file
from torch import nn

from diagnostics import DiagnosticsError
from tests.support.refusals import refusal

transformers = pytest.importorskip("transformers")
WORDS = ["Which shape is it?", "a disc", "a red star."]
SIZES: dict[str, Any] = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PLAIN = {**SIZES, "intermediate_size": 64}


def saved(folder: Path, model: Any, words: bool = True) -> str:
    model.save_pretrained(folder)
    if words:
        decoder_named("tiny", WORDS).tokenizer.save_pretrained(folder)
    return str(folder)


def test_tiny_knows_the_words_and_is_the_same_for_a_seed(tmp_path: Path) -> None:
    one, two, other = (decoder_named("tiny", WORDS, seed) for seed in (3, 3, 4))
    assert one.tokens("which SHAPE is it?") == one.tokens("Which shape is it ?") and len(one.tokens("it?")) == 2
    assert one.tokens("unheard") == [one.tokenizer.unk_token_id] and one.tokens("") == []
    assert (one.width, one.start, one.end, len(one.model.model.layers)) == (96, 0, 0, 3)
    ids = torch.tensor([[0, 3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(one.logits(one.embedded(ids), 2), two.logits(two.embedded(ids), 2))
        assert not torch.equal(one.logits(one.embedded(ids), 2), other.logits(other.embedded(ids), 2))
        one.save(tmp_path / "lm")
        again = decoder_named(str(tmp_path / "lm"), [])
        assert torch.equal(one.logits(one.embedded(ids), 2), again.logits(again.embedded(ids), 2))
    assert (again.tokens("a red star."), again.start, again.end, again.context) == (
        one.tokens("a red star."),
        one.start,
        one.end,
        one.context,
    )
    assert not again.model.training


@pytest.mark.parametrize(
    ("config", "model", "context"),
    [
        (lambda: transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=64), "GPT2LMHeadModel", 64),
        (lambda: transformers.OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=16, max_position_embeddings=64), "OPTForCausalLM", 64),
        (lambda: transformers.BloomConfig(vocab_size=40, hidden_size=32, n_layer=2, n_head=2), "BloomForCausalLM", None),
        (lambda: transformers.Gemma3TextConfig(**PLAIN, num_key_value_heads=1, head_dim=16, max_position_embeddings=64), "Gemma3ForCausalLM", 64),
        (lambda: transformers.MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2), "MambaForCausalLM", None),
    ],
)  # fmt: skip
def test_decoders_of_other_makers_say_what_they_say_of_tokens(
    tmp_path: Path, config: Any, model: str, context: int | None
) -> None:
    built = getattr(transformers, model)(config())
    decoder = decoder_named(saved(tmp_path / "lm", built), [])
    assert decoder.context == context
    assert decoder.width == (16 if model.startswith("OPT") else 32)
    ids = torch.tensor([[1, 5, 9, 2], [3, 3, 7, 0]])
    with torch.no_grad():
        torch.testing.assert_close(decoder.logits(decoder.embedded(ids), 3), built.eval()(input_ids=ids).logits[:, 1:])
    half = decoder_named(str(tmp_path / "lm"), [], half=True)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}


def test_a_decoder_that_sees_what_comes_is_refused(tmp_path: Path) -> None:
    """BERT reads both ways unless its configuration says otherwise, and answers could be read off."""
    for causal in (False, True):
        bert = transformers.BertLMHeadModel(transformers.BertConfig(**PLAIN, is_decoder=causal))
        name = saved(tmp_path / str(causal), bert)
        if causal:
            decoder_named(name, [])
        else:
            with refusal("unsupported", "BertLMHeadModel"):
                decoder_named(name, [])


class Closed(nn.Module):
    def forward(self, input_ids: torch.Tensor) -> None:
        raise AssertionError


def test_a_decoder_without_inputs_embeds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Decoder("closed", Closed(), None, 0, 0, None)
    monkeypatch.setattr(decoders, "_in_folder", lambda *_: closed)
    with refusal("unsupported", "closed", "Closed"):
        decoder_named("closed", [])


def test_what_is_no_decoder_is_told_in_a_sentence(tmp_path: Path) -> None:
    with refusal("missing-file", "models/none", "`tiny`"):
        decoder_named("models/none", [])
    vit = transformers.ViTModel(transformers.ViTConfig(**{**PLAIN, "image_size": 8, "patch_size": 4}))
    with refusal("unreadable", "vit"):
        decoder_named(saved(tmp_path / "vit", vit), [])

    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2))
    name = saved(tmp_path / "pickled", gpt)
    torch.save(gpt.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    with refusal("unreadable", "config.json", "never unpickled"):
        decoder_named(name, [])

    name = saved(tmp_path / "mute", gpt)
    settings = json.loads((tmp_path / "mute" / "tokenizer_config.json").read_text())
    settings.pop("eos_token")
    (tmp_path / "mute" / "tokenizer_config.json").write_text(json.dumps(settings))
    with refusal("unsupported", "eos_token"):
        decoder_named(name, [])

    name = saved(tmp_path / "bare", transformers.GPT2Model(gpt.config))
    tensors = load_file(tmp_path / "bare" / "model.safetensors")
    del tensors["wpe.weight"]
    save_file(tensors, tmp_path / "bare" / "model.safetensors", {"format": "pt"})
    with refusal("no-weights", "1 tensors", "GPT2LMHeadModel", "wpe.weight"):
        decoder_named(name, [])


def test_code_of_a_folder_is_never_run(tmp_path: Path) -> None:
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2))
    for change, message in (
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}},
            "it comes with code of its own, which is never run",
        ),
        (
            {"_attn_implementation": "someone/kernel"},
            "names the kernel 'someone/kernel' of the hub, code that is never run",
        ),
    ):
        name = saved(tmp_path / message[:5].strip(), gpt)
        (Path(name) / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        file = Path(name) / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(DiagnosticsError, match=message):
            decoder_named(name, [])
    assert not (tmp_path / "ran").exists()
