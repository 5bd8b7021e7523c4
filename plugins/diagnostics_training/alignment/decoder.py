"""Language models of `align language`: their folders, the projector in front of them, and the decoder itself."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import torch
from diagnostics_timm.weights import quiet, seeding
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Grid, Site, Tap, TorchEncoder, describe, explaining, few
from diagnostics_training.jobs import TINY

# Models in local folders of transformers: none runs code of its own, unpickles anything or asks a hub.


LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Options of every `from_pretrained`; that of a model takes `use_safetensors` too, which a configuration would keep."""


def checked_folder(name: str, kind: str, remedy: str) -> Path:
    """The folder of that name.

    Raises where it holds no model, and where its configuration names a kernel of the hub, which is code that building
    the model would fetch and run.

    kind: what the model is to be, in words; remedy: what to do, as the end of a sentence.
    """
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        raise DiagnosticsError(f"There is no {kind} {name}: {remedy}.", code="missing-file")
    with explaining(
        f"{kind.capitalize()} {name} cannot be loaded", remedy, "unreadable", (OSError, ValueError, RecursionError)
    ):
        parts = list(_mappings(json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    for part in parts:
        for key, value in part.items():
            if key.endswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
                raise DiagnosticsError(
                    f"{kind.capitalize()} {name} names the kernel '{value}' of the hub, code that is never run: take "
                    f"{key} out of its config.json.",
                    code="untrusted-code",
                )
    return folder


def _mappings(part: Any) -> Generator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _mappings(inner)


def check_weights(model: Any, info: Mapping[str, Any], named: str, remedy: str) -> None:
    """Raise where weights of a model were not in its files.

    `from_pretrained` tells so with `output_loading_info`.
    """
    if lacking := sorted(map(str, info["missing_keys"])):
        raise DiagnosticsError(
            f"Weights of {named} lack {len(lacking)} tensors of a {type(model).__name__} ({few(lacking)}): {remedy}.",
            code="no-weights",
        )


def why_not_loaded(error: Exception, kind: str) -> str:
    """The meaning of an error of `from_pretrained`, in words; `kind` is what the model is to be."""
    text = str(error)
    if "trust_remote_code" in text or "auto_map" in text:
        return "it comes with code of its own, which is never run"
    if isinstance(error, OSError) and "no file named" in text and "safetensors" in text:
        return "there are no weights in safetensors beside its config.json, and others are never unpickled"
    return f"it is no {kind}" if "for this kind of AutoModel" in text else describe(error)


# From an encoder's tokens to a decoder's: the projector, and the encoder that has it as a head.


MODULE = "language_projector"
"""Name of the projector in the module of its encoder."""
TAP = "head.projector"


def pooled(grid: Grid, pool: int) -> Grid:
    """The grid after pooling to `1 / pool` along y and x, or along every axis where there are neither."""
    axes = {"y", "x"} & set(grid.axes) or set(grid.axes)
    shape = [math.ceil(n / pool) if axis in axes else n for n, axis in zip(grid.shape, grid.axes, strict=True)]
    return Grid(tuple(shape), grid.axes)


class Projector(nn.Module):
    """Linear, GELU, Linear on each grid token, after adaptive average pooling of the grid (see `pooled`).

    The hidden layer is as wide as the output.
    """

    def __init__(self, features: int, width: int, pool: int = 1) -> None:
        super().__init__()
        self.pool = pool
        self.enter, self.gelu, self.out = nn.Linear(features, width), nn.GELU(), nn.Linear(width, width)

    def forward(self, tokens: Tensor, grid: Grid, valid: Tensor | None = None) -> Tensor:
        """Of grid tokens [B, T, features], those that are not `valid` left out of means: [B, K, width]."""
        if self.pool > 1:
            tokens = self._pool(tokens, grid, valid)
        return self.out(self.gelu(self.enter(tokens)))

    def valid(self, valid: Tensor, grid: Grid) -> Tensor:
        """The tokens it gives that rest on valid ones, bool [B, K]."""
        return self._mean(valid[..., None].float(), grid)[..., 0] > 0 if self.pool > 1 else valid

    def _pool(self, tokens: Tensor, grid: Grid, valid: Tensor | None) -> Tensor:
        if valid is None:
            return self._mean(tokens, grid)
        share = self._mean(valid[..., None].to(tokens.dtype), grid)
        # What is no data may be anything, NaN too.
        known = torch.where(valid[..., None], tokens, 0)
        return self._mean(known, grid) / share.clamp_min(torch.finfo(share.dtype).tiny)

    def _mean(self, tokens: Tensor, grid: Grid) -> Tensor:
        maps = tokens.transpose(1, 2).unflatten(2, grid.shape)
        kind = (nn.functional.adaptive_avg_pool1d, nn.functional.adaptive_avg_pool2d, nn.functional.adaptive_avg_pool3d)
        # pyrefly: ignore[bad-argument-type]
        return kind[len(grid.shape) - 1](maps, pooled(grid, self.pool).shape).flatten(2).transpose(1, 2)


def with_projector(encoder: TorchEncoder, width: int, pool: int = 1) -> TorchEncoder:
    """An encoder whose output is the last thing it has, with a projector as a head tap beyond depth 1.

    The output stays its output.

    The projector becomes a part of the encoder's own module, where that has none yet. Built again by
    `projected?base=...`.
    """
    tap = encoder.tap(encoder.output_tap)
    _give(encoder.module, tap, width, pool)
    trunk = [one for one in encoder.taps if one.part == "trunk"]
    head = Tap(TAP, 1.0 + 1.0 / max(1, len(trunk)), "head", width, pooled(tap.grid, pool), Site(MODULE))

    def forward(module: nn.Module, batch: Any) -> None:
        own = encoder.with_module(module, encoder.name)
        tokens = own.capture(batch, [tap.name], gradient=torch.is_grad_enabled())[tap.name]
        projector_of(module)(tokens[:, tap.grid.prefix :], tap.grid, encoder.valid(batch, tap))

    def valid(batch: Any, one: Tap) -> Tensor | None:
        known = encoder.valid(batch, tap if one.name == TAP else one)
        return known if known is None or one.name != TAP else projector_of(encoder.module).valid(known, tap.grid)

    def fresh() -> nn.Module:
        assert encoder.fresh_module is not None
        return _give(encoder.fresh_module(), tap, width, pool)

    base = encoder.skeleton or encoder.spec
    cut = str(bool(encoder.cut)).lower()
    spec = f"projected?base={quote(base, safe='{}')}&at={tap.name}&cut={cut}&width={width}&pool={pool}"
    return encoder.replace(
        taps=[*encoder.taps, head],
        forward=forward,
        valid=valid,
        fresh=fresh if encoder.fresh_module else None,
        spec=spec,
        skeleton=spec if base else "",
        cut="",
        absent=(),
        lineage={},
        configuration=f"{encoder.configuration}; {TAP} of {width} features, pool {pool}".removeprefix("; "),
        resized=lambda sized: with_projector(sized, width, pool),
    )


def projector_of(module: nn.Module) -> Projector:
    """The projector in the module of its encoder."""
    projector = module.get_submodule(MODULE)
    assert isinstance(projector, Projector)
    return projector


def _give(module: nn.Module, tap: Tap, width: int, pool: int) -> nn.Module:
    # In a base that was cut before its projector, another module stands in its place.
    if not isinstance(getattr(module, MODULE, None), Projector):
        device = next(module.parameters()).device
        setattr(module, MODULE, Projector(tap.features, width, pool).to(device).eval())
    return module


# Causal decoders of transformers: from a local folder, or a tiny one with random weights, with their tokenizers.


LAYERS, WIDTH, HEADS, CONTEXT = 3, 96, 4, 4096
"""Of the tiny decoder."""
END, UNKNOWN = "<end>", "<unknown>"
FOLDER = "give `tiny`, or the folder of a causal decoder as save_pretrained of transformers writes it"


@dataclass(frozen=True)
class Decoder:
    """A model that continues texts, and what turns texts into its tokens.

    model: called with `inputs_embeds` [B, T, width], from which it gives `logits` [B, T, vocabulary]; a token's logits
    depend on
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
    def width(self) -> int:
        """Features of a token that it reads."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @functools.cached_property
    def accepts(self) -> frozenset[str]:
        """The arguments that the model's forward pass takes."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    @functools.cached_property
    def blocks(self) -> Sequence[nn.Module]:
        """Its longest list of modules."""
        lists = [part for part in self.model.modules() if isinstance(part, nn.ModuleList)]
        return list(max(lists, key=len, default=()))

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
    """The decoder in a folder, in eval mode on the CPU, in bfloat16 where `half`.

    Or the `tiny` one, which knows the words of `texts` and has weights of `seed`.

    Raises DiagnosticsError for a folder that holds none, for code or pickles, and for a model that takes no
    `inputs_embeds` or lets a token see later ones.
    """
    if importlib.util.find_spec("transformers") is None:
        raise DiagnosticsError(
            "Decoders are models of transformers: pip install -e '.[transformers]'.", code="missing-package"
        )
    decoder = _tiny(texts, seed) if name == TINY else _in_folder(name, torch.bfloat16 if half else torch.float32)
    if "inputs_embeds" not in decoder.accepts:
        raise DiagnosticsError(
            f"Decoder {name} ({type(decoder.model).__name__}) takes no inputs_embeds, by which it would see the "
            f"encoder's tokens: {FOLDER} that does.",
            code="unsupported",
        )
    _check_causal(decoder)
    return decoder


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
    with seeding(seed), quiet():
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
            model, info = cast(
                "tuple[Any, Any]",
                AutoModelForCausalLM.from_pretrained(
                    folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **LOCAL
                ),
            )
    except Exception as error:
        why = why_not_loaded(error, "causal decoder")
        raise DiagnosticsError(f"Decoder {name} cannot be loaded ({why}): {FOLDER}.", code="unreadable") from error
    check_weights(model, info, f"decoder {name}", FOLDER)
    # pyrefly: ignore[missing-attribute]
    if tokenizer.eos_token_id is None:
        raise DiagnosticsError(
            f"The tokenizer of decoder {name} has no token for the end of an answer: name its eos_token in "
            f"tokenizer_config.json.",
            code="unsupported",
        )
    end = int(tokenizer.eos_token_id)
    # pyrefly: ignore[missing-attribute]
    start = end if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return Decoder(name, model.eval(), tokenizer, start, end, context)


@torch.no_grad()
def _check_causal(decoder: Decoder) -> None:
    """Raise where the logits of a token change with a later one.

    Answers could then be read off, and padding would count.
    """
    most = int(decoder.model.get_input_embeddings().weight.shape[0])
    ids = torch.arange(5)[None] * (most // 5)
    changed = torch.where(torch.arange(5) == 4, (ids + most // 2) % most, ids)
    with quiet():
        before, after = (decoder.logits(decoder.embedded(one), 5).float() for one in (ids, changed))
    moved = (after - before).abs().amax((0, 2))
    # Sums of the same numbers may be rounded in another order.
    if not float(moved[:4].max()) <= 1e-3 * float(moved[4]):
        raise DiagnosticsError(
            f"Decoder {decoder.name} ({type(decoder.model).__name__}) is not causal: what it says at a token depends "
            f"on later ones, so that it could read the answers; {FOLDER}.",
            code="unsupported",
        )
