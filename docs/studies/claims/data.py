"""The rendered and bundled data of the claim sheet, as datasets of `diagnostics run`: `data.py:scenes?draw=1`.

A draw is a data set of its own: other scenes, sentences, series or utterances, with a train, val and test split of its
own, so that scores of several draws are independent.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import diagnostics as dx

FIRST_SEED = 4100
"""Added to a draw: no run before the claims were written used these seeds."""
FIT, TEST = 300, 200
"""Samples of a draw of scenes, of which a fifth of the first is val."""
SERIES_FIT, SERIES_TEST = 500, 500
"""Of a draw of series and of sentences."""
VIEWS = 260
"""Scenes of a draw of views, each seen twice."""
CLIPS, FRAMES = 110, 6
RATE = 16000


def splits(ids: Sequence[str], draw: int, fit: int, test: int) -> list[str]:
    """A random split of samples or groups with the shares given: train, val (a fifth of what is fitted) and test."""
    shares = 0.8 * fit / (fit + test), 0.2 * fit / (fit + test), test / (fit + test)
    return list(dx.split_groups(list(ids), FIRST_SEED + draw, shares))


def again(data: dx.Dataset, split: Sequence[str], targets: dict[str, dx.Target], name: str, **more: Any) -> dx.Dataset:
    """A data set with another split and other targets."""
    return dx.Dataset(
        data.name, data.modality, data.samples, list(data.ids), split, targets,
        fingerprint=f"claims {name}", exchangeable=True, **more,
    )  # fmt: skip


def scenes(draw: int = 1, n: int = FIT + TEST, size: int = 112) -> dx.Dataset:
    """Rendered scenes with the colour of the main object beside the targets of `shapes`."""
    data = dx.build("dataset", f"shapes?n={n}&size={size}&seed={FIRST_SEED + draw}")
    colours = [next(q.answer for q in each if q.name == "colour") for each in data.questions]
    known = sorted(set(colours))
    colour = dx.Target(
        "label", np.array([known.index(c) for c in colours]), about="colour of the main object", classes=tuple(known)
    )
    kept = {
        name: data.targets[name] for name in ("label", "count", "y", "x", "segmentation", "depth", "caption", "boxes")
    }
    split = splits(data.ids, draw, FIT, TEST)
    return again(data, split, {**kept, "colour": colour}, f"scenes draw={draw} n={n} size={size}")


def views(draw: int = 1, n: int = VIEWS, size: int = 112, fit: int = 0) -> dx.Dataset:
    """Scenes seen twice, moved, turned and under another lamp.

    Both views of a scene are a group, which label-free measures of agreement need. `fit`: scenes of train and val, half
    of all by default.
    """
    data = dx.build("dataset", f"shapes?n={n}&size={size}&views=2&seed={FIRST_SEED + draw}")
    ids = [f"{name}-{view}" for view in "ab" for name in data.ids]
    fitted = fit or n // 2
    split = splits(data.ids, draw, fitted, n - fitted)
    colours = [next(q.answer for q in each if q.name == "colour") for each in data.questions]
    known = sorted(set(colours))

    def twice(kind: Any, values: np.ndarray, **more: Any) -> dx.Target:
        return dx.Target(kind, np.concatenate([values, values]), **more)

    targets = {
        "label": twice("label", data.targets["label"].values, classes=data.targets["label"].classes, about="shape of the main object"),
        "colour": twice("label", np.array([known.index(c) for c in colours]), classes=tuple(known), about="colour of the main object"),
        "count": twice("value", data.targets["count"].values, units="objects", about="how many objects are visible"),
    }  # fmt: skip
    return dx.Dataset(
        "views", "image", np.concatenate([data.samples, np.stack(list(data.views))]), ids, [*split, *split], targets,
        groups=[*data.ids, *data.ids], fingerprint=f"claims views draw={draw} n={n} size={size}{f' fit={fit}' * (fit > 0)}", exchangeable=True,
        about="scenes, each seen twice",
    )  # fmt: skip


def clips(draw: int = 1, n: int = CLIPS, size: int = 112) -> dx.Dataset:
    """Clips whose objects are followed; nothing is fitted, so that nearly all of them are test."""
    data = dx.build("dataset", f"shapes?n={n}&size={size}&frames={FRAMES}&seed={FIRST_SEED + draw}")
    split = splits(data.ids, draw, n // 11, n - n // 11)
    return again(data, split, {"masks": data.targets["masks"]}, f"clips draw={draw} n={n} size={size}")


def digits(draw: int = 1) -> dx.Dataset:
    """All 1,797 handwritten digits of scikit-learn, half of them test; other splits are `--redraws`."""
    data = dx.build("dataset", "digits")
    split = splits(data.ids, draw, 897, 900)
    return again(data, split, {"label": data.targets["label"]}, f"digits draw={draw}")


def series(system: str, targets: Sequence[str], draw: int, n: int) -> dx.Dataset:
    """A simulated system, half of its series test."""
    data = dx.build("dataset", f"{system}?n={n}&seed={FIRST_SEED + draw}")
    split = splits(data.ids, draw, n // 2, n - n // 2)
    return again(data, split, {name: data.targets[name] for name in targets}, f"{system} draw={draw} n={n}")


def lorenz(draw: int = 1, n: int = SERIES_FIT + SERIES_TEST) -> dx.Dataset:
    """x(t) of Lorenz' system, and what is not observed of it."""
    return series("lorenz", ("hidden_z", "hidden_y", "rho", "log_switch", "x_future"), draw, n)


def pendulum(draw: int = 1, n: int = SERIES_FIT + SERIES_TEST) -> dx.Dataset:
    """Sine of a pendulum's angle, and its state."""
    return series("pendulum", ("angular_velocity", "energy", "g_over_l", "cos_theta"), draw, n)


# Sentences of a grammar, with what is known of each.

TOPICS = {
    "medicine": (("doctor", "nurse", "patient", "surgeon"), ("cure", "treat", "examine", "bandage"), "in the clinic"),
    "law": (("lawyer", "judge", "witness", "clerk"), ("accuse", "defend", "question", "warn"), "in the court"),
    "sport": (("runner", "coach", "keeper", "player"), ("chase", "tackle", "follow", "trip"), "on the field"),
    "farm": (("farmer", "shepherd", "miller", "rider"), ("lead", "call", "push", "greet"), "near the barn"),
    "school": (("teacher", "pupil", "tutor", "student"), ("help", "correct", "remind", "praise"), "in the classroom"),
    "sea": (("sailor", "captain", "diver", "pilot"), ("signal", "rescue", "spot", "approach"), "on the deck"),
}
ADVERBS = ("quickly", "quietly", "often", "gladly", "slowly", "never", "rarely")
ADJECTIVES = ("young", "tall", "tired", "famous", "angry", "old", "clever", "calm")
TAILS = (
    "after the long rain",
    "before the early lunch",
    "with a small smile",
    "without any doubt",
    "despite the noise",
)


def _past(verb: str) -> str:
    odd = {"lead": "led", "trip": "tripped", "spot": "spotted", "signal": "signalled"}
    return odd.get(verb, f"{verb}d" if verb.endswith("e") else f"{verb}ed")


def _sentence(rng: np.random.Generator) -> tuple[str, dict[str, float]]:
    """A sentence; its topic, tense, number of subjects, voice, agent and length are drawn independently."""
    topic = int(rng.integers(len(TOPICS)))
    nouns, verbs, place = list(TOPICS.values())[topic]
    first, second = sorted(rng.choice(len(nouns), 2, replace=False).tolist())
    past, plural, passive, swapped = rng.integers(2, size=4).tolist()
    tails = int(rng.integers(4))
    agent, other = (nouns[second], nouns[first]) if swapped else (nouns[first], nouns[second])
    verb = verbs[int(rng.integers(len(verbs)))]

    def named(noun: str) -> str:
        adjective = f"{ADJECTIVES[int(rng.integers(len(ADJECTIVES)))]} " if rng.integers(2) else ""
        return f"the {adjective}{noun}{'s' if plural else ''}"

    adverb = f"{ADVERBS[int(rng.integers(len(ADVERBS)))]} " if rng.integers(2) else ""
    if passive:
        be = ("were" if plural else "was") if past else ("are" if plural else "is")
        core = f"{named(other)} {be} {adverb}{_past(verb)} by {named(agent)}"
    else:
        does = _past(verb) if past else verb if plural else f"{verb}{'es' if verb.endswith(('ch', 'ss')) else 's'}"
        core = f"{named(agent)} {adverb}{does} {named(other)}"
    words = [core, place] if rng.integers(2) else [core]
    words += [TAILS[i] for i in sorted(rng.choice(len(TAILS), tails, replace=False).tolist())]
    text = " ".join(words)
    known = {
        "length": len(text.split()), "tense": past, "number": plural, "voice": passive, "topic": topic,
        "agent": int(swapped),
    }  # fmt: skip
    return f"{text}.", known


def sentences(draw: int = 1, n: int = SERIES_FIT + SERIES_TEST) -> dx.Dataset:
    """Sentences of a grammar in which length, tense, number, voice, topic and who does it are independent.

    `agent`: whether the noun that comes first in the alphabet of its topic's list does it (0) or suffers it (1), which
    no bag of words knows.
    """
    rng = np.random.default_rng(FIRST_SEED + draw)
    made = [_sentence(rng) for _ in range(n)]
    columns = {name: np.array([known[name] for _, known in made]) for name in made[0][1]}
    ids = [f"sentence-{draw}-{i:05d}" for i in range(n)]
    targets = {
        "length": dx.Target("value", columns["length"], units="words", about="how many words"),
        "tense": dx.Target("label", columns["tense"], classes=("present", "past"), about="of the verb"),
        "number": dx.Target("label", columns["number"], classes=("singular", "plural"), about="of the nouns"),
        "voice": dx.Target("label", columns["voice"], classes=("active", "passive"), about="of the verb"),
        "topic": dx.Target("label", columns["topic"], classes=tuple(TOPICS), about="what it is about"),
        "agent": dx.Target(
            "label", columns["agent"], classes=("first", "second"), about="which of the two nouns does it"
        ),
    }
    return dx.Dataset(
        "sentences", "text", [text for text, _ in made], ids, splits(ids, draw, n // 2, n - n // 2), targets,
        texts=[text for text, _ in made], fingerprint=f"claims sentences draw={draw} n={n}", exchangeable=True,
        about="sentences of a grammar",
    )  # fmt: skip


# Spoken digits by the synthesiser in the wheel espeakng-loader.

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = ("m1", "m3", "m5", "m7", "f1", "f2", "f3", "f4")
PITCH, RATE_OF_SPEECH, VOICE_OF, SYNCHRONOUS = 3, 1, "en+{}", 2
"""Numbers of espeak's parameters and of its mode."""


@dataclass
class Speaker:
    """espeak-ng through ctypes."""

    def __post_init__(self) -> None:
        import espeakng_loader

        self.library = ctypes.CDLL(str(Path(espeakng_loader.get_library_path())))
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 200, espeakng_loader.get_data_path().encode(), 0)
        self.heard: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback: Callable[..., Any] = kind(self._hear)
        self.library.espeak_SetSynthCallback(self.callback)

    def _hear(self, wave: Any, count: int, _: Any) -> int:
        if wave and count > 0:
            self.heard.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    def say(self, word: str, voice: str, pitch: int, rate: int) -> np.ndarray:
        """float64 [time] at `RATE`, largest value 1."""
        from scipy.signal import resample_poly

        self.heard.clear()
        # It starts from the clock otherwise, and each build of a draw would be another.
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(FIRST_SEED))
        self.library.espeak_SetVoiceByName(VOICE_OF.format(voice).encode())
        self.library.espeak_SetParameter(PITCH, pitch, 0)
        self.library.espeak_SetParameter(RATE_OF_SPEECH, rate, 0)
        text = word.encode()
        self.library.espeak_Synth(text, len(text) + 1, 0, 1, 0, 1, None, None)
        self.library.espeak_Synchronize()
        sound = resample_poly(np.concatenate(self.heard).astype(np.float64), RATE, self.rate)
        return sound / np.abs(sound).max()


def speak(asked: Sequence[tuple[str, str, int, int]]) -> list[np.ndarray]:
    """What a new process says to each word, voice, pitch and rate.

    The library cannot be opened twice, and says a word otherwise after others.
    """
    from diagnostics.plugin import importing

    with importing("Dataset spoken needs", "pip install --no-deps espeakng-loader"):
        import espeakng_loader  # noqa: F401  (as the other process does)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "said.npz")
        subprocess.run([sys.executable, __file__, out], input=json.dumps(asked), text=True, check=True)
        with np.load(out) as said:
            return [said[str(i)] for i in range(len(asked))]


def spoken(draw: int = 1, n: int = 200, seconds: float = 0.8) -> dx.Dataset:
    """Digits spoken by eight voices at a random pitch, rate and place, in noise of 5 to 15 dB less; half are test."""
    rng = np.random.default_rng(FIRST_SEED + draw)
    length = int(seconds * RATE)
    samples = np.zeros((n, length), np.float32)
    word, voice = rng.integers(len(WORDS), size=n), rng.integers(len(VOICES), size=n)
    pitch, rate = rng.integers(20, 81, size=n), rng.integers(150, 221, size=n)
    asked = [(WORDS[word[i]], VOICES[voice[i]], int(pitch[i]), int(rate[i])) for i in range(n)]
    for i, said in enumerate(speak(asked)):
        sound = said[:length]
        start = int(rng.integers(length - len(sound) + 1))
        samples[i, start : start + len(sound)] = sound
        power = np.sqrt((sound**2).mean()) * 10 ** (-rng.uniform(5, 15) / 20)
        samples[i] += power * rng.standard_normal(length)
    ids = [f"spoken-{draw}-{i:05d}" for i in range(n)]
    targets = {
        "word": dx.Target("label", word, classes=WORDS, about="which digit is spoken"),
        "voice": dx.Target("label", voice, classes=VOICES, about="which voice speaks"),
        "pitch": dx.Target("value", pitch.astype(np.float64), units="of espeak", about="pitch of the voice"),
    }
    return dx.Dataset(
        "spoken", "audio", samples, ids, splits(ids, draw, n // 2, n - n // 2), targets, rate=RATE,
        fingerprint=f"claims spoken alone draw={draw} n={n} seconds={seconds}", exchangeable=True, about="digits spoken by a synthesiser",
    )  # fmt: skip


if __name__ == "__main__":
    speaker = Speaker()
    np.savez(sys.argv[1], **{str(i): speaker.say(*each) for i, each in enumerate(json.load(sys.stdin))})
