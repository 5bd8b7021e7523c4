"""A captioner that knows the truth of `shapes` and is wrong as often as one wants, so that the loop can be tried without a model."""

import re

import numpy as np
from diagnostics_data.shapes.dataset import Shapes
from diagnostics_data.shapes.patterns import SHAPES, TEXTURES
from diagnostics_data.shapes.world import COLOURS

from diagnostics import Dataset, DiagnosticsError
from diagnostics_pretraining.recaption.cache import key_of
from diagnostics_pretraining.recaption.clips import Clip

NAME = "rules"
KINDS = (tuple(COLOURS), tuple(TEXTURES), SHAPES)
_KIND_OF = {word: kind for kind in KINDS for word in kind}
_WORD = re.compile(rf"\b({'|'.join(_KIND_OF)})\b")
_ARTICLE = re.compile(r"\ban? (?=([a-z]))")


class Rules:
    """Says what a clip of `shapes` shows; of the colours, textures and shapes that it names, the share `mistakes` is replaced by
    another of its kind, drawn for each by itself.

    Raises DiagnosticsError for other data and for a share that is none.
    """

    videos = True

    def __init__(self, dataset: Dataset, mistakes: float, seed: int) -> None:
        if not isinstance(dataset, Shapes):
            raise DiagnosticsError(
                f"Captioner rules knows the ground truth of `shapes` only, not of {dataset.name}: give --data 'shapes?frames=8', or the "
                "folder of a model."
            )
        if not 0 <= mistakes <= 1:
            raise DiagnosticsError(f"A share of mistakes of {mistakes:g} does not exist: give --mistakes 0 to 1.")
        if seed < 0:
            raise DiagnosticsError(f"Captioner rules cannot have --seed {seed}: give 0 or more.")
        self.dataset, self.mistakes, self.seed = dataset, mistakes, seed
        self.name, self.identity = NAME, f"{NAME} mistakes={mistakes!r} seed={seed}"

    def caption_clip(self, clip: Clip, prompt: str) -> str:
        return self._mistaken(self.dataset.texts[clip.row], clip.id, -1)

    def caption_frame(self, clip: Clip, frame: int, prompt: str) -> str:
        return self._mistaken(self.dataset.frame_texts[clip.row][frame], clip.id, frame)

    def _mistaken(self, text: str, clip: str, frame: int) -> str:
        rng = np.random.default_rng([self.seed, int(key_of(clip, frame)[:16], 16)])

        def word(match: re.Match[str]) -> str:
            others = [other for other in _KIND_OF[match[0]] if other != match[0]]
            # Both are drawn for every word, so that more mistakes keep those that there were.
            wrong, other = rng.random() < self.mistakes, others[rng.integers(len(others))]
            return other if wrong else match[0]

        return _ARTICLE.sub(lambda match: "an " if match[1] in "aeiou" else "a ", _WORD.sub(word, text))
