"""What every modality's preprocessing is made of: `Prepared`, the sizes asked for, and a look into configuration and directory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import transformers
from torch import Tensor

from diagnostics.plugin import DiagnosticsError, Tap, describe, unknown
from diagnostics_transformers.load import Loaded, quiet

_PARTS = {
    "tokenizer": ("AutoTokenizer", "tokenizer.json, tokenizer_config.json"),
    "feature extractor": ("AutoFeatureExtractor", "preprocessor_config.json"),
    "image processor": ("AutoImageProcessor", "preprocessor_config.json"),
    "video processor": ("AutoVideoProcessor", "video_preprocessor_config.json"),
}
"""What may lie beside a model: the class that loads it, and its files."""

Arguments = Callable[[Mapping[str, Tensor]], dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """What a user asks for: side of images in pixels, length in tokens, steps or samples, frames of a video; `tokenizer`: `bytes`."""

    size: int | None = None
    length: int | None = None
    frames: int | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.tokenizer not in (None, "bytes"):
            raise unknown("tokenizer", self.tokenizer, ["bytes"], "Leave it out for the directory's own.")
        for key, most in (("size", 8192), ("length", 10**7), ("frames", 4096)):
            if (getattr(self, key) or 0) > most:
                raise DiagnosticsError(f"No encoder takes {key}={getattr(self, key)}: give at most {most:,}.")


def whole(shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
    """(start, stop) along each axis of a sample, where nothing is cut off."""
    return tuple((0.0, float(n)) for n in shape)


@dataclass
class Prepared:
    """How samples of a modality become a tower's input.

    Parameters
    ----------
    preprocess: raw sample -> tensors by name, without the batch axis.
    example: a raw sample.
    extents: of the input along each axis that tokens can lie on, slowest first.
    places: grids (one extent for each axis) that the trunk's tokens may have by the configuration.
    order: where each token of that grid lies among the grid tokens as the model keeps them; empty for raster order.
    packed: the tower takes and keeps the tokens of all samples in one row [B * T, F].
    description: what preprocessing is, for the configuration.
    arguments: batch -> the tower's keyword arguments.
    forms: several ways to do that, of which the first that runs is taken.
    covers, valid, rate: see `TorchEncoder`.
    special: tokens that stand for no place before those of the frames, where their number cannot be told from a grid.
    reach: of how many tokens' steps before its own a token knows (lags).
    any_length: whether the same model can be prepared for samples of another length.
    guessed: what the directory lacks, so that the preparation is a guess (`tokenizer`); "" where it lacks nothing.
    """

    modality: Any
    preprocess: Callable[[np.ndarray], dict[str, Tensor]]
    example: np.ndarray
    extents: dict[str, int]
    places: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    order: tuple[int, ...] = ()
    packed: bool = False
    description: str = ""
    arguments: Arguments = dict
    forms: list[Arguments] = field(default_factory=list[Arguments])
    covers: Callable[[tuple[int, ...]], tuple[tuple[float, float], ...]] = whole
    valid: Callable[[Any, Tap], Tensor | None] | None = None
    rate: float | None = None
    special: int = 0
    reach: int = 0
    any_length: bool = False
    guessed: str = ""


def setting(config: Any, *names: str, default: Any = None) -> Any:
    """The first of some settings that a configuration has."""
    for name in names:
        try:
            value = getattr(config, name, None)
        except Exception:  # some settings differ from layer to layer and refuse to be read as one
            value = None
        if value is not None:
            return value
    return default


def from_directory(part: str, source: str | None) -> Any:
    """A part of `_PARTS` as transformers loads it from a directory; None where nothing there works here."""
    try:
        return _load(part, source)
    except Exception:
        # Whatever is missing (files, packages; OSError from a torchaudio of another torch): the fallback takes over.
        return None


def refuse_guess(loaded: Loaded, prepared: Prepared) -> None:
    """Raises where a model with stored weights would get samples that are prepared by a guess."""
    if not (loaded.stored and prepared.guessed):
        return
    try:
        _load(prepared.guessed, loaded.source)
        why = "it holds special tokens alone"
    except Exception as error:
        why = "none of its files is there" if "Can't load" in str(error) else describe(error)
    other = ", or give ?tokenizer=bytes where it was trained on bytes" if prepared.guessed == "tokenizer" else ""
    raise DiagnosticsError(
        f"{loaded.name} has weights and no {prepared.guessed} that can be used ({why}), without which its features would "
        f"be wrong: copy into its directory what save_pretrained of its {prepared.guessed} writes ({_PARTS[prepared.guessed][1]}){other}."
    )


def _load(part: str, source: str | None) -> Any:
    if source is None:
        raise DiagnosticsError("there is no directory")
    with quiet():
        return getattr(transformers, _PARTS[part][0]).from_pretrained(source, trust_remote_code=False)
