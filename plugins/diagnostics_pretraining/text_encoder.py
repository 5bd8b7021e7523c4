"""A text tower as an encoder: texts as tokens, its taps, and the name that builds it again."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diagnostics_perception.checkpoint import tensors_in
from diagnostics_perception.models import ARCHITECTURES
from torch import Tensor, nn

from diagnostics import DiagnosticsError, Grid, Site, Tap, TorchEncoder
from diagnostics.errors import few
from diagnostics_pretraining.text import (
    END,
    PADDING,
    START,
    TEXTS,
    Vocabulary,
    context_of,
    initial_text,
    known_size,
    tokenizer,
)

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer

DESCRIPTION = "text.json"
"""The file that says how a tower with a vocabulary of its own is built; it travels with saved weights."""
_EXAMPLE = "a red striped star left of two small blue circles"


@dataclass(frozen=True)
class Texts:
    """A text as `tokens` and `words` [context]: which of them are words, or the end, from which the embedding is taken."""

    encoder: str
    vocabulary: Vocabulary

    def __call__(self, sample: np.ndarray) -> dict[str, Tensor]:
        text = str(sample)
        if not text.strip():
            raise DiagnosticsError(f"{self.encoder} finds no token in the text {text[:40]!r}: leave out empty texts.")
        tokens = self.vocabulary.encode([text])[0][0]
        end = int(tokens.argmax())
        place = torch.arange(len(tokens))
        return {"tokens": tokens, "words": (place > 0) & (place <= end)}

    def valid(self, batch: Mapping[str, Tensor], tap: Tap) -> Tensor | None:
        """Words and the end, not what follows it; None of the head, which is one vector."""
        words = batch["words"][:, 1:]
        return words if words.shape[1] == tap.grid.tokens else None


def text_encoder_of(name: str, size: str, module: TextTransformer, vocabulary: Vocabulary) -> TorchEncoder:
    """The encoder over a text tower.

    Taps `embed`, `blocks.N` and `norm` have the start as prefix and a place for each further token; the output tap is `norm`, and
    `head` the embedding.
    """
    size, texts = known_size(size), Texts(name, vocabulary)
    rows = f"{vocabulary.size:,} rows of CLIP's vocabulary"
    if vocabulary.kept is not None:
        rows += f" ({hashlib.sha256(repr(vocabulary.kept).encode()).hexdigest()[:8]})"
    encoder = TorchEncoder(
        name,
        "text",
        module.eval(),
        _taps(size, vocabulary.context),
        "norm",
        texts,
        np.asarray(_example(vocabulary)),
        forward=_forward,
        fresh=functools.partial(_fresh, size, vocabulary),
        valid=texts.valid,
        configuration=f"{rows}, {vocabulary.context} tokens",
    )
    names = {"norm": "ln_final", "head": "encode_text"}
    spec, files = _skeleton(size, vocabulary)
    return encoder.replace(skeleton=spec, files=files, maker_names=names)


def build_text(model: str, checkpoint: str | None, pretrained: bool, context: int | None, seed: int) -> TorchEncoder:
    """See `diagnostics_pretraining.plugin.text`."""
    size, vocabulary = _described(Path(model)) if Path(model, DESCRIPTION).is_file() else (model, None)
    size = known_size(size)
    if vocabulary is None:
        vocabulary = Vocabulary(context_of(size) if context is None else context)
    elif context is not None:
        raise DiagnosticsError(f"The context of {model} is {vocabulary.context}: leave out context.")
    if checkpoint is None and pretrained:
        raise DiagnosticsError(
            f"The text tower of {size} comes from a file: give checkpoint=, Meta's .pt of the whole model, or pretrained=false "
            "for initial weights."
        )
    module = initial_text(size, vocabulary, seed)
    if checkpoint is not None:
        _fill(module, Path(checkpoint).expanduser(), size)
    options = [] if checkpoint else ["pretrained=false"]
    options += [f"seed={seed}"] if seed and not checkpoint else []
    options += [f"context={vocabulary.context}"] if context is not None else []
    name = f"pe-text:{size}{'?' if options else ''}{'&'.join(options)}"
    return text_encoder_of(name, size, module, vocabulary)


def vocabulary_in(encoder: TorchEncoder) -> tuple[str, Vocabulary]:
    """Size and vocabulary of a text tower that this module made an encoder of; raises DiagnosticsError for any other."""
    scheme, _, rest = encoder.skeleton.partition(":")
    if scheme != "pe-text":
        raise DiagnosticsError(
            f"{encoder.name} is no text tower of a Perception Encoder: name one that `train pe` wrote."
        )
    if encoder.files:
        return _described(encoder.files[0].parent)
    module: Any = encoder.module
    return rest.partition("?")[0], Vocabulary(module.context_length)


def _forward(module: nn.Module, batch: Mapping[str, Tensor]) -> None:
    module(batch["tokens"])


def _fresh(size: str, vocabulary: Vocabulary) -> nn.Module:
    return initial_text(size, vocabulary, int(torch.randint(2**31, ())))


def _taps(size: str, context: int) -> list[Tap]:
    one, grid = TEXTS[size], Grid((context - 1,), ("t",), 1)
    stack = "transformer.resblocks"
    taps = [Tap("embed", 0.0, "embedding", one.width, grid, Site(f"{stack}.0", when="before"))]
    for i in range(one.depth):
        taps.append(Tap(f"blocks.{i}", (i + 1) / one.depth, "trunk", one.width, grid, Site(f"{stack}.{i}")))
    taps.append(Tap("norm", 1.0, "trunk", one.width, grid, Site("ln_final")))
    projected = Grid((1,), ("t",))
    return [
        *taps,
        Tap("head", 1 + 1 / one.depth, "head", ARCHITECTURES[size].embedding, projected, Site("", layout="features")),
    ]


def _example(vocabulary: Vocabulary) -> str:
    """A sentence, or, where not all its words are kept, the first whole words that are."""
    if vocabulary.kept is None:
        return _EXAMPLE
    known = [tokenizer().decoder[row] for row in vocabulary.kept if row not in (PADDING, START, END)]
    words = [token.removesuffix("</w>") for token in known if token.endswith("</w>") and len(token) > 5]
    return " ".join(words[: max(2, vocabulary.context // 2)]) or _EXAMPLE


def _skeleton(size: str, vocabulary: Vocabulary) -> tuple[str, tuple[Path, ...]]:
    """The name that builds the tower with whatever weights, and the file that it then reads."""
    if vocabulary.kept is None:
        context = "" if vocabulary.context == context_of(size) else f"&context={vocabulary.context}"
        return f"pe-text:{size}?pretrained=false{context}", ()
    folder = Path(_described_in(json.dumps({"size": size, **asdict(vocabulary)})).name)
    return f"pe-text:{folder}?pretrained=false", (folder / DESCRIPTION,)


@functools.cache
def _described_in(text: str) -> tempfile.TemporaryDirectory[str]:
    """A folder with the description, kept until the process ends: encoders are saved with its content."""
    folder = tempfile.TemporaryDirectory(prefix="diagnostics-")
    Path(folder.name, DESCRIPTION).write_text(text)
    return folder


def _described(folder: Path) -> tuple[str, Vocabulary]:
    file = folder / DESCRIPTION
    try:
        content = json.loads(file.read_text())
        kept = content["kept"]
        return str(content["size"]), Vocabulary(
            int(content["context"]), None if kept is None else tuple(map(int, kept))
        )
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise DiagnosticsError(
            f"{file} says of no text tower how it is built ({type(error).__name__}): save the encoder again."
        ) from error


def _fill(module: nn.Module, file: Path, size: str) -> None:
    """The text tower of a whole CLIP in Meta's layout; raises where it is missing or does not fit."""
    own, tensors = module.state_dict(), tensors_in(file)
    missing = [name for name in own if name not in tensors]
    other = [
        f"{name} {list(tensors[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if missing or other:
        kinds = {"missing": missing, "of another shape": other}
        why = "; ".join(f"{len(names)} tensors {kind}: {few(names)}" for kind, names in kinds.items() if names)
        raise DiagnosticsError(f"Checkpoint {file} does not hold the text tower of {size} ({why}): name its own size.")
    module.load_state_dict({name: tensors[name].float() for name in own})
