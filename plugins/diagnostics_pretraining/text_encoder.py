"""A text tower as an encoder: texts as tokens, its taps, and the name that builds it again."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diagnostics_perception.models import ARCHITECTURES
from diagnostics_timm.weights import name_of, read_tensors, seeding
from torch import Tensor, nn

from diagnostics.plugin import (
    DiagnosticsError,
    Grid,
    Site,
    Tap,
    TorchEncoder,
    explaining,
    misfits,
    name_error,
    stack_taps,
)

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import TextTransformer

# The text tower: open_clip's, with the sizes of the published ones and of the small ones, over a whole or a reduced
# vocabulary.

# CLIP's byte-pair encoding of texts, whole, or kept to the rows that some texts use and one for all others.

WHOLE = 49_408
"""Rows of the whole table; the last two are the start and the end of a text."""
START, END = WHOLE - 2, WHOLE - 1
PADDING = 0
"""What follows the end of a text. It is also the row of "!", as in CLIP, whose readers stop at the end."""


_LONGEST = 4096


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of texts.

    context: tokens of a text, start and end included. kept: rows of the whole table that are kept, in order, with
    padding, start and end among them; None for all of them. Of a reduced table the row before the start stands for
    every token that is not kept.
    """

    context: int
    kept: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 3 <= self.context <= _LONGEST:
            raise DiagnosticsError(
                f"Texts have 3 to {_LONGEST:,} tokens, start and end included, not {self.context}: choose a context in "
                f"that range.",
                code="bad-value",
            )
        kept = self.kept
        if kept is not None and (list(kept) != sorted({*kept, PADDING, START, END}) or kept[-1] != END or kept[0] < 0):
            raise DiagnosticsError(
                f"The rows that a vocabulary keeps are in order, from {PADDING} to {END}, with {START}: make "
                f"it of texts.",
                code="bad-data",
            )

    @property
    def size(self) -> int:
        """Number of rows."""
        return WHOLE if self.kept is None else len(self.kept) + 1

    @property
    def unknown(self) -> int | None:
        """The row of tokens that are not kept; None where all are."""
        return None if self.kept is None else self.size - 3

    def rows(self) -> list[int | None]:
        """For each row, which one of the whole table it is; None for that of all others."""
        kept = range(WHOLE) if self.kept is None else self.kept
        return [*kept] if self.kept is None else [*kept[:-2], None, START, END]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Tokens int64 [text, context], zeros after the end, and how many texts are cut.

        These were longer and are cut before their end.
        """
        tokens, cut = np.full((len(texts), self.context), PADDING), 0
        for row, text in zip(tokens, texts, strict=True):
            whole = _tokens(text)
            row[: len(whole)] = whole[: self.context]
            if len(whole) > self.context:
                row[-1], cut = END, cut + 1
        return torch.from_numpy(self._row_of[tokens]), cut

    @functools.cached_property
    def _row_of(self) -> np.ndarray:
        """The row of each token of the whole table, int64 [token]."""
        rows = np.full(WHOLE, self.unknown or 0)
        for row, token in enumerate(self.rows()):
            if token is not None:
                rows[token] = row
        return rows


def vocabulary_of(texts: Iterable[str], context: int) -> Vocabulary:
    """Kept to the rows that these texts use."""
    used = {PADDING, START, END}
    for text in texts:
        used.update(_tokens(text).tolist())
    return Vocabulary(context, tuple(sorted(used)))


@functools.lru_cache(2**16)
def _tokens(text: str) -> np.ndarray:
    # Taking a text apart costs as much as reading a small image, and small data show the same texts in every epoch.
    return np.array([START, *tokenizer().encode(text), END])


@functools.cache
def tokenizer() -> SimpleTokenizer:
    """open_clip's; its vocabulary lies in its wheel."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@dataclass(frozen=True)
class TextArchitecture:
    """One size: tokens of a text, width, blocks and heads. Its embedding has the width of the image's."""

    context: int
    width: int
    depth: int
    heads: int


_SMALL, _LARGE = TextArchitecture(32, 512, 12, 8), TextArchitecture(32, 1024, 24, 16)
TEXTS = {
    "core-t16-384": _SMALL,
    "core-s16-384": _SMALL,
    "core-b16-224": _LARGE,
    "core-l14-336": _LARGE,
    "core-g14-448": TextArchitecture(72, 1280, 24, 20),
    "nano": TextArchitecture(72, 96, 3, 3),
    "micro": TextArchitecture(16, 32, 2, 2),
}
"""By the size of the image tower that is trained with it."""
PARTS = ("text", "mask", "positions")
"""What is drawn beside the image tower, each from a seed of its own."""


def known_size(size: str) -> str:
    """A size by its whole name (`core-b16-224` of `b16-224`).

    Raises DiagnosticsError for one that has no text tower.
    """
    whole = size if size in TEXTS else f"core-{size}"
    if whole not in TEXTS:
        raise name_error("size", size, [name.removeprefix("core-") for name in TEXTS])
    return whole


def context_of(size: str) -> int:
    """Tokens of a text, start and end included."""
    return TEXTS[known_size(size)].context


def text_tower(size: str, vocabulary: Vocabulary) -> TextTransformer:
    """With weights drawn from torch's global generator as open_clip draws them, and the context of the vocabulary.

    The whole table is drawn and a reduced one keeps its rows of it, so that a seed gives a word the same start whatever
    other words there are. The row for all others is drawn last.
    """
    from open_clip.transformer import TextTransformer

    one = TEXTS[known_size(size)]
    tower = TextTransformer(
        vocabulary.context, WHOLE, one.width, one.heads, one.depth, output_dim=ARCHITECTURES[known_size(size)].embedding
    )
    if vocabulary.kept is not None:
        tower.vocab_size, tower.token_embedding = vocabulary.size, _kept_rows(tower.token_embedding, vocabulary)
    return tower


def initial_text(size: str, vocabulary: Vocabulary, seed: int) -> TextTransformer:
    """The text tower that training of this seed starts from; torch's generators are afterwards as before."""
    with seeding(seed_of("text", seed)):
        return text_tower(size, vocabulary)


def seed_of(part: str, seed: int) -> int:
    """The seed from which a part of the towers beside the image tower is drawn, so that parts have nothing in common.

    Torch's generator on the CPU knows the lowest 32 bits of its seed alone.
    """
    return int(np.random.SeedSequence([PARTS.index(part), seed]).generate_state(1)[0])


@torch.no_grad()
def _kept_rows(table: nn.Embedding, vocabulary: Vocabulary) -> nn.Embedding:
    kept = nn.Embedding(vocabulary.size, table.embedding_dim, device=table.weight.device)
    for row, whole in enumerate(vocabulary.rows()):
        if whole is None:
            kept.weight[row].normal_(std=0.02)
        else:
            kept.weight[row] = table.weight[whole]
    return kept


def whole_table(rows: Tensor, vocabulary: Vocabulary) -> Tensor:
    """A reduced table [row, width] as CLIP's whole one: all tokens that are not kept have the row of the unknown.

    With it every text has the embedding that the reduced one gives.
    """
    if vocabulary.kept is None:
        return rows
    whole = rows[vocabulary.unknown].repeat(WHOLE, 1)
    for row, token in enumerate(vocabulary.rows()):
        if token is not None:
            whole[token] = rows[row]
    return whole


def extend_table(rows: Tensor, vocabulary: Vocabulary, more: Vocabulary) -> Tensor:
    """A table of a vocabulary as one of another that keeps all its tokens.

    What is new starts at the row of the unknown, so that no text has another embedding yet.
    """
    whole = whole_table(rows, vocabulary)
    return torch.stack([rows[vocabulary.unknown] if row is None else whole[row] for row in more.rows()])


def embedded(tower: TextTransformer, tokens: Tensor) -> Tensor:
    """The embeddings [text, embedding] of tokens int64 [text, token].

    There may be fewer tokens than its context, which it itself refuses.
    """
    count, mask = tokens.shape[1], tower.attn_mask
    assert mask is not None  # a causal tower has one
    x = tower.token_embedding(tokens) + tower.positional_embedding[:count]
    x = tower.transformer(x, attn_mask=mask[:count, :count])
    # The end of a text is its largest token.
    return tower.ln_final(x[torch.arange(len(x), device=x.device), tokens.argmax(1)]) @ tower.text_projection


DESCRIPTION = "text.json"
"""The file that says how a tower with a vocabulary of its own is built; it travels with saved weights."""
_EXAMPLE = "a red striped star left of two small blue circles"


@dataclass(frozen=True)
class Texts:
    """A text as `tokens` and `words` [context].

    Words are those of them that are words, or the end, from which the embedding is taken.
    """

    encoder: str
    vocabulary: Vocabulary

    def __call__(self, sample: np.ndarray) -> dict[str, Tensor]:
        text = str(sample)
        if not text.strip():
            raise DiagnosticsError(
                f"{self.encoder} finds no token in the text {text[:40]!r}: leave out empty texts.", code="bad-data"
            )
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

    Taps `embed`, `blocks.N` and `norm` have the start as prefix and a place for each further token; the output tap is
    `norm`, and `head` the embedding.
    """
    size, texts = known_size(size), Texts(name, vocabulary)
    rows = f"{vocabulary.size:,} rows of CLIP's vocabulary"
    if vocabulary.kept is not None:
        rows += f" ({hashlib.sha256(repr(vocabulary.kept).encode()).hexdigest()[:8]})"
    encoder = TorchEncoder(
        name=name,
        modality="text",
        module=module.eval(),
        taps=_taps(size, vocabulary.context),
        output_tap="norm",
        preprocess=texts,
        example=np.asarray(_example(vocabulary)),
        forward=lambda module, batch: module(batch["tokens"]),
        fresh=lambda: initial_text(size, vocabulary, int(torch.randint(2**31, ()))),
        valid=texts.valid,
        configuration=f"{rows}, {vocabulary.context} tokens",
    )
    names = {"norm": "ln_final", "head": "encode_text"}
    spec, files = _skeleton(size, vocabulary)
    return encoder.replace(skeleton=spec, files=files, maker_names=names)


def build_text(model: str, checkpoint: str | None, pretrained: bool, context: int | None, seed: int) -> TorchEncoder:
    """See `diagnostics_pretraining.plugin.text`."""
    size, vocabulary = _description(Path(model)) if Path(model, DESCRIPTION).is_file() else (model, None)
    size = known_size(size)
    if vocabulary is None:
        vocabulary = Vocabulary(context_of(size) if context is None else context)
    elif context is not None:
        raise DiagnosticsError(f"The context of {model} is {vocabulary.context}: leave out context.", code="no-effect")
    if checkpoint is None and pretrained:
        raise DiagnosticsError(
            f"The text tower of {size} comes from a file: give checkpoint=, Meta's .pt of the whole model, or "
            f"pretrained=false for initial weights.",
            code="other-weights",
        )
    module = initial_text(size, vocabulary, seed)
    if checkpoint is not None:
        _fill(module, Path(checkpoint).expanduser(), size)
    name = name_of(f"pe-text:{size}", bool(checkpoint), seed, {"context": context})
    return text_encoder_of(name, size, module, vocabulary)


def vocabulary_in(encoder: TorchEncoder) -> tuple[str, Vocabulary]:
    """Size and vocabulary of a text tower that this module made an encoder of.

    Raises DiagnosticsError for any other.
    """
    scheme, _, rest = encoder.skeleton.partition(":")
    if scheme != "pe-text":
        raise DiagnosticsError(
            f"{encoder.name} is no text tower of a Perception Encoder: name one that `train pe` wrote.",
            code="other-weights",
        )
    if encoder.files:
        return _description(encoder.files[0].parent)
    module: Any = encoder.module
    return rest.partition("?")[0], Vocabulary(module.context_length)


def _taps(size: str, context: int) -> list[Tap]:
    one, grid = TEXTS[size], Grid((context - 1,), ("t",), 1)
    taps = stack_taps("transformer.resblocks", one.depth, one.width, grid, norm="ln_final")
    # Blocks have the names that those of images have.
    taps = [replace(tap, name=tap.name.replace("resblocks", "blocks")) for tap in taps]
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
    folder = Path(_description_folder(json.dumps({"size": size, **asdict(vocabulary)})).name)
    return f"pe-text:{folder}?pretrained=false", (folder / DESCRIPTION,)


@functools.cache
def _description_folder(text: str) -> tempfile.TemporaryDirectory[str]:
    """A folder with the description, kept until the process ends: encoders are saved with its content."""
    folder = tempfile.TemporaryDirectory(prefix="diagnostics-")
    Path(folder.name, DESCRIPTION).write_text(text)
    return folder


def _description(folder: Path) -> tuple[str, Vocabulary]:
    file = folder / DESCRIPTION
    with explaining(f"{file} says of no text tower how it is built", "save the encoder again", "damaged"):
        content = json.loads(file.read_text())
        kept = None if content["kept"] is None else tuple(map(int, content["kept"]))
        return str(content["size"]), Vocabulary(int(content["context"]), kept)


def _fill(module: nn.Module, file: Path, size: str) -> None:
    """The text tower of a whole CLIP in Meta's layout; raises where it is missing or does not fit."""
    own, tensors = module.state_dict(), read_tensors(file)
    if why := misfits(own, {name: tensor for name, tensor in tensors.items() if name in own}):
        raise DiagnosticsError(
            f"Checkpoint {file} does not hold the text tower of {size} ({why}): name its own size.",
            code="other-weights",
        )
    module.load_state_dict({name: tensors[name].float() for name in own})
