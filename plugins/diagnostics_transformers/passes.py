"""Models that read texts and series, and the pass that a model's input decides."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import (
    Call,
    DiagnosticsError,
    Discovered,
    Site,
    Tap,
    describe,
    discover,
    record_calls,
    tensor_at,
)
from diagnostics_transformers.audio import prepare_audio
from diagnostics_transformers.images import is_video, prepare_images, prepare_patches, prepare_videos, takes_patches
from diagnostics_transformers.towers import (
    Arguments,
    Prepared,
    Tower,
    Wanted,
    arguments,
    from_directory,
    kind_of,
    model_type,
    setting,
    whole,
)

# Texts: the directory's own tokenizer, padded on the right to one length.


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
                f"{self.encoder} finds no token in the text {str(sample)[:40]!r}: leave out empty texts.",
                code="bad-data",
            )
        over = len(ids) - self.length
        if over > 0:
            # The special tokens at the end are kept.
            stop = len(ids) - next((i for i, s in enumerate(reversed(special)) if not s), 0)
            ids, special = ids[: stop - over] + ids[stop:], special[: stop - over] + special[stop:]
        rest = self.length - len(ids)
        return {
            "input_ids": torch.tensor(ids + [self.pad] * rest),
            "attention_mask": torch.tensor([1] * len(ids) + [0] * rest),
            "words": torch.tensor([not s for s in special] + [False] * rest),
        }

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
        raise DiagnosticsError(
            f"{name} reads 1 to {most} tokens, not length={length}: choose a length in that range.", code="bad-value"
        )
    # Models of long texts pad them to whole windows themselves, and their layers see that.
    window = setting(config, "attention_window", default=1)
    window = max(window) if isinstance(window, (list, tuple)) else int(window)
    length = min(-(-(length or min(LENGTH, most)) // window) * window, most)
    if tokenizer is not None:
        encode, pad, description = _by_tokenizer(tokenizer, name, vocabulary)
    else:
        pad, description = _padding(config, vocabulary), "bytes as tokens"
        encode = _by_bytes(vocabulary, pad)
    lead = next(i for i, s in enumerate(encode(_EXAMPLE)[1]) if not s)
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
    """Number of tokens that the model can place."""
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
                f"{name} has {vocabulary} tokens, but its tokenizer gives number {max(ids)}: put the model's own "
                f"tokenizer into the directory.",
                code="other-weights",
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


# Time series: values as they are; the models normalise them.


_MOST = 100_000


def prepare_series(tower: nn.Module, name: str, length: int | None) -> Prepared:
    """Series [time] or [time, variate], missing steps NaN, as `values` (missing steps 0) and `observed`."""
    config: Any = tower.config
    takes = arguments(tower)
    if "past_time_features" in takes:
        steps, variates, patch = _lagged(config, name, length)
    elif "freq" in takes or "past_values_padding" in takes:
        steps, variates, patch = _any_length(config, name, length)
    else:
        steps, variates, patch = _fixed(config, name, length)
    # Those whose layers are given a mask.
    can_miss = "past_values_padding" in takes
    lags = sorted(config.lags_sequence) if "past_time_features" in takes else [0]
    reach, middle = lags[-1], lags[(len(lags) - 1) // 2]

    def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
        values = np.asarray(sample, dtype=np.float32)
        values = values[:, None] if values.ndim == 1 else values
        if values.shape != (steps, variates):
            shape = f"[{steps}]" if variates == 1 else f"[{steps}, {variates}]"
            raise DiagnosticsError(
                f"{name} reads series of shape {shape}, not {list(np.shape(sample))}: cut them to {steps} steps, or "
                f"ask for another ?length= where the model takes any.",
                code="bad-sample",
            )
        observed = np.isfinite(values)
        if not observed.all() and not can_miss:
            raise DiagnosticsError(
                f"{name} attends to missing steps as to any others: fill the gaps, and cut all series to one length.",
                code="not-finite",
            )
        return {
            "values": torch.from_numpy(np.where(observed, values, 0.0).astype(np.float32)),
            "observed": torch.from_numpy(observed.astype(np.float32)),
        }

    if "past_time_features" in takes:
        of_model: Arguments = partial(_time_features, config, takes=takes)
    elif can_miss:
        of_model = partial(_univariate, takes=takes)
    else:
        of_model = partial(_observed, mask="past_observed_mask" if "past_observed_mask" in takes else "observed_mask")

    def valid(batch: Mapping[str, Tensor], tap: Tap) -> Tensor | None:
        """Tokens all of whose steps are observed, from the first on that is."""
        observed = batch["observed"][:, reach:] > 0
        count = tap.grid.shape[-1]
        if bool(observed.all()) or tap.grid.axes[-1] != "t" or (steps - reach) % count or tap.grid.tokens % count:
            return None
        known = observed.unflatten(1, (count, -1)).all(2).mT  # [B, variate, token]
        return known.flatten(1) if "v" in tap.grid.axes else known.all(1)

    extents = {"t": steps} if "past_time_features" in takes or can_miss else {"v": variates, "t": steps}
    places = {"v": variates, "t": patch}
    noise = np.random.default_rng(0).standard_normal((steps, variates))
    return Prepared(
        "series",
        preprocess,
        noise[:, 0] if variates == 1 else noise,
        extents,
        places=[tuple(places[axis] for axis in extents)],
        description=f"{steps} steps" + (f" of {variates} variates" if variates > 1 else ""),
        arguments=of_model,
        # A token is told of steps before its own: it stands for the one of its middle lag.
        covers=(lambda shape: ((float(reach - middle), float(steps - middle)),)) if reach else whole,
        valid=valid,
        reach=reach,
        any_length=can_miss,
    )


def _fixed(config: Any, name: str, length: int | None) -> tuple[int, int, int]:
    """PatchTST and kin: steps, variates, patches."""
    steps = int(config.context_length)
    if length not in (None, steps):
        raise DiagnosticsError(
            f"{name} reads {steps} steps and no other number, so length={length} cannot be: leave it out.",
            code="bad-value",
        )
    size, stride = int(config.patch_length), int(setting(config, "patch_stride", default=config.patch_length))
    return steps, int(config.num_input_channels), (max(steps, size) - size) // stride + 1


def _any_length(config: Any, name: str, length: int | None) -> tuple[int, int, int]:
    """TimesFM: any number of patches; steps, variates, patches."""
    size, most = int(config.patch_length), int(config.context_length)
    steps = length or min(most, 512)
    if steps % size or not 0 < steps <= most:
        raise DiagnosticsError(
            f"{name} reads up to {most} steps, {size} at a time, so not {steps}: choose another ?length=.",
            code="bad-value",
        )
    return steps, 1, steps // size


def _lagged(config: Any, name: str, length: int | None) -> tuple[int, int, int]:
    """TimeSeriesTransformer and kin: context and the steps before it that its lags reach; steps, variates, tokens."""
    context = int(setting(config, "context_length", default=config.prediction_length))
    steps = context + max(config.lags_sequence)
    if length not in (None, steps):
        raise DiagnosticsError(
            f"{name} reads {context} steps and {steps - context} before them that its lags reach, so length={length} "
            f"cannot be: leave it out.",
            code="bad-value",
        )
    return steps, int(config.input_size), context


def _univariate(batch: Mapping[str, Tensor], takes: tuple[str, ...]) -> dict[str, Any]:
    padding = (1 - batch["observed"][..., 0]).to(batch["values"].dtype)
    given: dict[str, Any] = {"past_values": batch["values"][..., 0], "past_values_padding": padding}
    if "freq" in takes:
        given["freq"] = torch.zeros((len(batch["values"]), 1), dtype=torch.int32, device=batch["values"].device)
    return given


def _observed(batch: Mapping[str, Tensor], mask: str) -> dict[str, Any]:
    return {"past_values": batch["values"], mask: batch["observed"].bool()}


def _time_features(config: Any, batch: Mapping[str, Tensor], takes: tuple[str, ...]) -> dict[str, Any]:
    """Calendar features of a series without a calendar: zeros; and a future of zeros, which no encoder sees."""
    values, observed = batch["values"], batch["observed"]
    ahead = int(config.prediction_length)
    future = values.new_zeros((len(values), ahead, values.shape[2]))
    given: dict[str, Any] = {"past_values": values, "past_observed_mask": observed, "future_values": future}
    if int(config.input_size) == 1:
        given = {key: series[..., 0] for key, series in given.items()}
    for key, steps in (("past_time_features", values.shape[1]), ("future_time_features", ahead)):
        given[key] = values.new_zeros((len(values), steps, int(config.num_time_features)))
    for kind, dtype in (("categorical", torch.long), ("real", values.dtype)):
        if count := int(setting(config, f"num_static_{kind}_features", default=0)):
            given[f"static_{kind}_features"] = values.new_zeros((len(values), count), dtype=dtype)
    return {key: value for key, value in given.items() if key in takes}


# From raw samples to what a tower takes, by its modality; and a tower tried on two samples.


def prepare(tower: nn.Module, source: str | None, name: str, wanted: Wanted) -> Prepared:
    """The preprocessing of a tower: that of its own directory where it has one, otherwise the configuration's sizes."""
    kind, takes = kind_of(tower), arguments(tower)
    if kind == "text":
        return prepare_text(tower, source, name, wanted)
    if kind == "audio":
        return prepare_audio(tower, source, name, wanted.length)
    if kind == "series":
        return prepare_series(tower, name, wanted.length)
    if kind == "vision":
        if takes_patches(tower):
            return prepare_patches(tower, source, name, wanted.size)
        if is_video(tower):
            return prepare_videos(tower, source, name, wanted)
        return prepare_images(tower, source, name, wanted.size)
    raise DiagnosticsError(
        f"{name} ({type(tower).__name__}) takes {', '.join(t for t in takes[:3])}, which is no image, video, audio, "
        f"text or series by itself: tap it as a torch module of your own (docs/how-to/plugins.md).",
        code="other-modality",
    )


class Passes:
    """A tower with its preprocessing, run on a batch of the example and of another sample.

    Raises DiagnosticsError where it runs with none of the forms of its input.
    """

    def __init__(self, name: str, module: Tower, prepared: Prepared) -> None:
        self.name, self.module, self.prepared = name, module, prepared
        self.batch: Any = default_collate(
            [prepared.preprocess(s) for s in (prepared.example, _another(prepared.example))]
        )
        self.arguments = self._form()

    def _form(self) -> Arguments:
        """The first way to give the input with which the model runs."""
        errors: list[Exception] = []
        for form in self.prepared.forms or [self.prepared.arguments]:
            try:
                with torch.no_grad():
                    self.module(form(self.batch))
                return form
            except Exception as error:
                errors.append(error)
        raise DiagnosticsError(
            f"{self.name} ({type(self.module.tower).__name__}) does not run on {self.prepared.modality} alone "
            f"({describe(errors[0])}): it is not supported yet.",
            code="unsupported",
        ) from errors[0]

    def forward(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Any:
        """One pass of the tower, or of another like it."""
        return module(self.arguments(batch))

    def calls(self, names: Iterable[str]) -> list[Call]:
        """The calls of some modules in a pass."""
        with torch.no_grad(), record_calls(self.module, names) as calls:
            self.forward(self.module, self.batch)
        return calls

    def entering(self, layer: str, batch: Any) -> Tensor | None:
        """The first tensor that a layer takes."""
        return tensor_at(self.module, Site(layer, when="before"), batch, self.forward)

    def discover(self, place: str, extents: Mapping[str, int], **options: Any) -> Discovered:
        """Discovers the part of that name; raises as `diagnostics.discover`, which has these options."""
        part = self.module.get_submodule(place)
        return discover(
            part, self.batch, self.name, extents, forward=lambda _, batch: self.forward(self.module, batch), **options
        )


def _another(sample: np.ndarray) -> np.ndarray:
    """Another sample of the same size."""
    if sample.ndim == 0:
        return np.asarray(" ".join(reversed(str(sample).split())))
    return np.ascontiguousarray(sample[::-1])
