"""Causal decoders of transformers: from a local folder, or a tiny one with random weights, with their tokenizers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError
from diagnostics_training.jobs import TINY
from diagnostics_training.language.folder import LOCAL, check_weights, checked_folder, quiet, why_not_loaded

LAYERS, WIDTH, HEADS, CONTEXT = 3, 96, 4, 4096
"""Of the tiny decoder."""
END, UNKNOWN = "<end>", "<unknown>"
FOLDER = "give `tiny`, or the folder of a causal decoder as save_pretrained of transformers writes it"


@dataclass(frozen=True)
class Decoder:
    """A model that continues texts, and what turns texts into its tokens.

    model: called with `inputs_embeds` [B, T, width], from which it gives `logits` [B, T, vocabulary]; a token's logits depend on
        no later one.
    start, end: the token before everything, and the one after an answer.
    context: how many tokens it takes at most; None where nothing says so.
    """

    name: str
    model: Any
    tokenizer: Any
    start: int
    end: int
    context: int | None

    @property
    def random(self) -> bool:
        """Whether it begins with random weights, so that an encoder learns nothing from it before it has itself learned."""
        return self.name == TINY

    @property
    def width(self) -> int:
        """Features of a token that it reads."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @functools.cached_property
    def accepts(self) -> frozenset[str]:
        """What the model's forward pass can be given."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    @functools.cached_property
    def blocks(self) -> Sequence[nn.Module]:
        """Its longest list of modules."""
        lists = [part for part in self.module.modules() if isinstance(part, nn.ModuleList)]
        return list(max(lists, key=len, default=()))

    @property
    def module(self) -> nn.Module:
        """The model, for whoever trains or moves it."""
        return self.model

    def tokens(self, text: str) -> list[int]:
        """A text's tokens, without any at its start or end that the text does not hold."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def embedded(self, ids: Tensor) -> Tensor:
        """Tokens [B, T] as the model reads them, [B, T, width]."""
        return self.model.get_input_embeddings()(ids)

    def logits(self, embedded: Tensor, last: int) -> Tensor:
        """Of the `last` positions of sequences [B, T, width]: what comes after each, [B, last, vocabulary]."""
        options = {"use_cache": False, "logits_to_keep": last}
        output = self.model(inputs_embeds=embedded, **{key: options[key] for key in options if key in self.accepts})
        return output.logits[:, -last:]

    def save(self, folder: Path) -> None:
        """Model and tokenizer, as `--lm` reads them again."""
        with quiet():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)


def decoder_named(name: str, texts: Sequence[str], seed: int = 0, half: bool = False) -> Decoder:
    """The decoder in a folder, in eval mode on the CPU, in bfloat16 where `half`; or the `tiny` one, which knows the words of
    `texts` and has weights of `seed`.

    Raises DiagnosticsError for a folder that holds none, for code or pickles, and for a model that takes no `inputs_embeds` or lets
    a token see later ones.
    """
    needs_transformers()
    decoder = _tiny(texts, seed) if name == TINY else _in_folder(name, torch.bfloat16 if half else torch.float32)
    if "inputs_embeds" not in decoder.accepts:
        raise DiagnosticsError(
            f"Decoder {name} ({type(decoder.model).__name__}) takes no inputs_embeds, by which it would see the encoder's tokens: "
            f"{FOLDER} that does."
        )
    _check_causal(decoder)
    return decoder


def needs_transformers() -> None:
    """Raises where what decoders are made of is missing."""
    import importlib.util

    if importlib.util.find_spec("transformers") is None:
        raise DiagnosticsError("Decoders are models of transformers: pip install -e '.[transformers]'.")


def _tiny(texts: Sequence[str], seed: int) -> Decoder:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _word_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    return Decoder(TINY, model, tokenizer, tokenizer.eos_token_id, tokenizer.eos_token_id, CONTEXT)


def _word_tokenizer(texts: Sequence[str]) -> Any:
    """Words and punctuation marks of the texts, in lower case, one token each."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    lower, cut = Lowercase(), Whitespace()
    words = {word for text in texts for word, _ in cut.pre_tokenize_str(lower.normalize_str(text))}
    vocabulary = {word: i for i, word in enumerate([END, UNKNOWN, *sorted(words)])}
    tokenizer: Any = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = lower, cut
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token=UNKNOWN)


def _in_folder(name: str, dtype: torch.dtype) -> Decoder:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = checked_folder(name, "decoder", FOLDER)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, **LOCAL)
            tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
            # With `output_loading_info` these are two, which its annotation does not say.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **LOCAL
            )
            model, info = loaded
    except Exception as error:
        why = why_not_loaded(error, "causal decoder")
        raise DiagnosticsError(f"Decoder {name} cannot be loaded ({why}): {FOLDER}.") from error
    check_weights(model, info, f"decoder {name}", FOLDER)
    if tokenizer.eos_token_id is None:
        raise DiagnosticsError(
            f"The tokenizer of decoder {name} has no token for the end of an answer: name its eos_token in tokenizer_config.json."
        )
    end = int(tokenizer.eos_token_id)
    start = end if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return Decoder(name, model.eval(), tokenizer, start, end, context)


@torch.no_grad()
def _check_causal(decoder: Decoder) -> None:
    """Raises where the logits of a token change with a later one: answers could then be read off, and padding would count."""
    most = int(decoder.model.get_input_embeddings().weight.shape[0])
    ids = torch.arange(5)[None] * (most // 5)
    changed = torch.where(torch.arange(5) == 4, (ids + most // 2) % most, ids)
    with quiet():
        before, after = (decoder.logits(decoder.embedded(one), 5).float() for one in (ids, changed))
    moved = (after - before).abs().amax((0, 2))
    # Sums of the same numbers may be rounded in another order.
    if not float(moved[:4].max()) <= 1e-3 * float(moved[4]):
        raise DiagnosticsError(
            f"Decoder {decoder.name} ({type(decoder.model).__name__}) is not causal: what it says at a token depends on later ones, "
            f"so that it could read the answers; {FOLDER}."
        )
