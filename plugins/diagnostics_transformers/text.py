"""Texts: the directory's own tokenizer, padded on the right to one length."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Tap
from diagnostics_transformers.prepared import Prepared, Wanted, from_directory, setting
from diagnostics_transformers.towers import arguments, model_type

LENGTH = 128
_EXAMPLE = "A dog runs across the wet grass while two children watch it from the gate."
_LARGEST = 100_000
"""Tokenizers without a limit of their own say something larger."""

# What models want beside input_ids [B, T].
_BESIDE: dict[str, Callable[[Tensor], Tensor]] = {
    "bbox": lambda ids: ids.new_zeros((*ids.shape, 4)),  # the places of words on a page: none is known
}
_REAL_BOX: dict[str, Callable[[Tensor], Tensor]] = {"bbox": lambda ids: torch.zeros((*ids.shape, 4), device=ids.device)}
_BESIDE_OF: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "xmod": {"lang_ids": lambda ids: ids.new_zeros(len(ids))},  # its first language
    "bros": _REAL_BOX,
    "udop": _REAL_BOX,
}


@dataclass(frozen=True)
class Texts:
    """A text as `input_ids`, `attention_mask` and `words` [length]: which tokens stand for its words."""

    encoder: str
    length: int
    pad: int
    encode: Callable[[str], tuple[list[int], list[int]]]
    """Text -> (ids, 1 for each special token)."""
    lead: int
    """Special tokens before every text."""

    def __call__(self, sample: np.ndarray) -> dict[str, Tensor]:
        ids, special = self.encode(str(sample))
        if all(special):
            raise DiagnosticsError(
                f"{self.encoder} finds no token in the text {str(sample)[:40]!r}: leave out empty texts."
            )
        ids, special = self._cut(ids, special)
        rest = self.length - len(ids)
        return {
            "input_ids": torch.tensor(ids + [self.pad] * rest),
            "attention_mask": torch.tensor([1] * len(ids) + [0] * rest),
            "words": torch.tensor([not s for s in special] + [False] * rest),
        }

    def _cut(self, ids: list[int], special: list[int]) -> tuple[list[int], list[int]]:
        """At most `length` tokens, the special ones at the end kept."""
        over = len(ids) - self.length
        if over <= 0:
            return ids, special
        tail = next((i for i, s in enumerate(reversed(special)) if not s), 0)
        stop = len(ids) - tail
        return ids[: stop - over] + ids[stop:], special[: stop - over] + special[stop:]

    def valid(self, batch: Mapping[str, Tensor], tap: Tap) -> Tensor | None:
        """Words, not special tokens or padding; all tokens of taps on another grid (pooled ones)."""
        words = batch["words"][:, self.lead :]
        return words if words.shape[1] == tap.grid.tokens else None


def prepare_text(tower: nn.Module, source: str | None, name: str, wanted: Wanted) -> Prepared:
    """Tokens of the directory's tokenizer, or bytes where there is none or they are asked for."""
    config: Any = tower.config
    length = wanted.length
    tokenizer = None if wanted.tokenizer else from_directory("tokenizer", source)
    # One made from nothing, for a directory without its files, knows special tokens alone.
    if tokenizer is not None and len(tokenizer) <= len(tokenizer.all_special_tokens):
        tokenizer = None
    vocabulary = int(setting(config, "vocab_size", "src_vocab_size", "text_vocab_size", default=256))
    most = _most(tower, config, tokenizer)
    if length is not None and not 1 <= length <= most:
        raise DiagnosticsError(f"{name} reads 1 to {most} tokens, not length={length}: choose a length in that range.")
    # Models of long texts pad them to whole windows themselves, and their layers see that.
    window = setting(config, "attention_window", default=1)
    window = max(window) if isinstance(window, (list, tuple)) else int(window)
    length = min(-(-(length or min(LENGTH, most)) // window) * window, most)
    if tokenizer is not None:
        encode, pad, description = _by_tokenizer(tokenizer, name, vocabulary)
    else:
        pad, description = _padding(config, vocabulary), "bytes as tokens"
        encode = _by_bytes(vocabulary, pad)
    special = encode(_EXAMPLE)[1]
    lead = next(i for i, s in enumerate(special) if not s)
    texts = Texts(name, length, pad, encode, lead)
    takes = arguments(tower)
    beside = _BESIDE | _BESIDE_OF.get(model_type(tower), {})

    def of(batch: Mapping[str, Tensor]) -> dict[str, Any]:
        given: dict[str, Any] = {key: batch[key] for key in ("input_ids", "attention_mask") if key in takes}
        given |= {key: make(batch["input_ids"]) for key, make in beside.items() if key in takes}
        return given | ({"use_cache": False} if "use_cache" in takes else {})

    return Prepared(
        "text",
        texts,
        np.asarray(_EXAMPLE),
        {"t": length - lead},
        places=[(length - lead,)],
        description=f"{description}, {length} tokens padded on the right",
        arguments=of,
        valid=texts.valid,
        special=int(setting(config, "prompt_length", default=0)),
        guessed="" if tokenizer is not None or wanted.tokenizer else "tokenizer",
    )


def _most(tower: nn.Module, config: Any, tokenizer: Any) -> int:
    """How many tokens the model can place."""
    positions = setting(
        config, "max_position_embeddings", "n_positions", "max_source_positions", "n_ctx", "max_seq_len"
    )
    known = [int(positions)] if isinstance(positions, int) and positions > 0 else []
    for part in tower.modules():
        # A table of positions that starts behind its padding index (RoBERTa and kin) has that many fewer places.
        table = getattr(part, "position_embeddings", None)
        if isinstance(table, nn.Embedding) and table.padding_idx is not None and known:
            known.append(table.num_embeddings - table.padding_idx - 1)
    limit = getattr(tokenizer, "model_max_length", None)
    known += [int(limit)] if isinstance(limit, int) and 0 < limit < _LARGEST else []
    return min(known, default=_LARGEST)


def _padding(config: Any, vocabulary: int) -> int:
    pad = setting(config, "pad_token_id", default=0)
    return pad if isinstance(pad, int) and 0 <= pad < vocabulary else 0


def _by_tokenizer(tokenizer: Any, name: str, vocabulary: int) -> tuple[Any, int, str]:
    def encode(text: str) -> tuple[list[int], list[int]]:
        encoded = tokenizer(text, return_special_tokens_mask=True, truncation=False, verbose=False)
        ids = [int(i) for i in encoded["input_ids"]]
        if ids and max(ids) >= vocabulary:
            raise DiagnosticsError(
                f"{name} has {vocabulary} tokens, but its tokenizer gives number {max(ids)}: put the model's own tokenizer "
                "into the directory."
            )
        return ids, [int(s) for s in encoded["special_tokens_mask"]]

    pad = tokenizer.pad_token_id
    # Decoders often have none; what stands there is masked, so it does not matter.
    return encode, int(pad if pad is not None else tokenizer.eos_token_id or 0), f"tokens of {type(tokenizer).__name__}"


def _by_bytes(vocabulary: int, pad: int) -> Callable[[str], tuple[list[int], list[int]]]:
    """Bytes as tokens, for models without a tokenizer: numbers from 8 on, where special tokens seldom lie."""
    first = min(8, vocabulary - 1)

    def encode(text: str) -> tuple[list[int], list[int]]:
        ids = [first + byte % (vocabulary - first) for byte in text.encode()]
        return [i if i != pad else first for i in ids], [0] * len(ids)

    return encode
