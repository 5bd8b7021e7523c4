"""Parts of a training: the recipe of a TOML file, and the jobs of this plugin's commands."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from diagnostics_training.jobs import WHAT
from diagnostics_training.trainer.settings import TRAINING, Computation, Optimisation, Seed, Warmup, identity_of

from diagnostics.plugin import (
    DiagnosticsError,
    Option,
    check_known,
    decode,
    explaining,
    join_names,
    options,
    refuse_values,
)

# What a training is made of, as one TOML file says it; the plugin's own are the rows of Perception Encoder's ablation.
#
# Bolya et al., arXiv 2504.13181, section 2.1, figure 2 and table 26. Stated there is what a row changes; the decay of
# the learning rate and the weight of mask regularisation are not, and are the cosine and 1 here.


# Stages of a training: images of one size for so many samples, then of the next; counted to the last sample.


@dataclass(frozen=True)
class Stage:
    """`samples` images (or clips) of `size` pixels a side."""

    size: int
    samples: int


def steps_of(stages: Sequence[Stage], batch: int) -> int:
    """The number of steps of `batch` samples in these stages; raises where a stage is no whole number of batches."""
    for stage in stages:
        if stage.samples < 1 or stage.samples % batch:
            near = max(1, round(stage.samples / batch)) * batch
            raise DiagnosticsError(
                f"The stage of {stage.size} pixels has {stage.samples:,} samples, which is no multiple of the batch of "
                f"{batch:,}: give {near:,}.",
                code="bad-value",
            )
    return sum(stage.samples for stage in stages) // batch


def stage_at(stages: Sequence[Stage], batch: int, step: int) -> Stage:
    """The stage of a step, counted from 0; the last one for all steps behind the end."""
    before = step * batch
    for stage in stages:
        if before < stage.samples:
            return stage
        before -= stage.samples
    return stages[-1]


def scaled(stages: Sequence[Stage], samples: int, batch: int) -> tuple[Stage, ...]:
    """The stages with `samples` in all, in their proportions as nearly as whole batches allow.

    Each has at least one batch.

    Raises where that many samples are no multiple of the batch, or fewer than a batch for each stage.
    """
    if samples < 1 or samples % batch:
        near = max(len(stages), round(samples / batch)) * batch
        raise DiagnosticsError(
            f"Training on {samples:,} samples is no whole number of batches of {batch:,}: give --samples {near}.",
            code="bad-value",
        )
    steps = samples // batch
    if steps < len(stages):
        raise DiagnosticsError(
            f"Each of {len(stages)} stages needs a batch of {batch:,}, and {samples:,} samples give {steps}: give at "
            f"least --samples {len(stages) * batch}.",
            code="bad-value",
        )
    shares = [steps * stage.samples / sum(one.samples for one in stages) for stage in stages]
    counts = [max(1, int(share)) for share in shares]
    while (missing := steps - sum(counts)) != 0:
        # The largest rest gets one more; where minimal stages took too much, the stage that has most above its share
        # gives.
        by_rest = sorted(range(len(counts)), key=lambda i: shares[i] - counts[i], reverse=missing > 0)
        counts[next(i for i in by_rest if missing > 0 or counts[i] > 1)] += 1 if missing > 0 else -1
    return tuple(Stage(stage.size, count * batch) for stage, count in zip(stages, counts, strict=True))


FOLDER = Path(__file__).with_name("recipes")
ROWS = tuple(range(1, 10))
NAMES = (*map(str, ROWS), *sorted(path.stem for path in FOLDER.glob("*.toml") if not path.stem.startswith("row")))
"""Of the recipes that are here: the nine rows, and what follows them."""


@dataclass(frozen=True)
class Augmentation:
    """The random changes of an image, as `PictureChanges` draws it; what is left out stays as it is.

    crop: smallest and largest share of the area. aspect: of a crop. brightness, saturation, contrast: how far the
    factor lies from 1 at most. mirror: how often left and right are exchanged.
    """

    crop: tuple[float, float] | None = None
    aspect: tuple[float, float] | None = None
    brightness: float = 0.0
    saturation: float = 0.0
    contrast: float = 0.0
    mirror: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Recipe(Optimisation):
    """The way towers of image and text are trained; the keys of a TOML file.

    stages: one after the other.
    image: sizes of stages are those of a model whose images have this side, and are brought to the size and patch of
    the
        one that is trained, at least two patches; without it they are meant as they stand.
    batch, lr, optimiser, schedule, warmup, cooldown, clip, weight_decay: as of the trainer's `Optimisation`.
    rope, pool: of the image tower; see `diagnostics_perception.models.Architecture`.
    mask: share of the batch that is seen again with patches hidden; hidden: share of those patches. mask_weight: what
    the loss of these is multiplied by; mask_from: share of the steps before the first in which patches are hidden.
    augment: what is changed at random in images.
    clips: share of the batch that is clips, of data that are clips; of the others the first frame is seen. frames: of a
    clip that
        are seen.
    objective: `contrast` of images and texts, or `distil`: a teacher's similarities, of whole images as they are.
    """

    stages: tuple[Stage, ...]
    warmup: Warmup = 0.05
    image: int | None = None
    rope: bool = False
    pool: Literal["attention", "class"] = "class"
    mask: float = 0.0
    hidden: float = 0.4
    mask_weight: float = 1.0
    mask_from: float = 0.0
    augment: Augmentation | None = None
    clips: float = 0.0
    frames: int = 8
    objective: Literal["contrast", "distil"] = "contrast"

    def __post_init__(self) -> None:
        refuse_values(
            (
                not self.stages,
                "A recipe without stages trains nothing: give at least one, with its size and samples.",
                "too-few",
            ),
            (self.batch < 2, f"There is nothing to contrast in a batch of {self.batch}: give at least 2."),
        )
        shares = [(name, getattr(self, name)) for name in ("mask", "hidden", "mask_from", "clips")]
        shares += [(name, getattr(self.augment, name)) for name in _AUGMENTED] if self.augment else []
        for name, value in shares:
            if not 0 <= value <= 1:
                raise DiagnosticsError(
                    f"A recipe cannot have {name} = {value:g}: give a share from 0 to 1.", code="bad-value"
                )
        if self.augment is not None and self.augment.crop is not None and self.augment.crop[1] > 1:
            raise DiagnosticsError(
                f"A crop cannot be {self.augment.crop[1]} of an image's area: give crop two shares of it, at most 1.",
                code="bad-value",
            )
        refuse_values(
            (
                self.objective == "distil" and (self.mask or self.augment or self.clips),
                "Distillation uses a teacher's embeddings of whole images, which a recipe with mask, augment or clips "
                "does not show: leave these out.",
                "conflict",
            ),
            (
                self.mask and not 0 < self.hidden < 1,
                f"Mask regularisation cannot hide a share of {self.hidden}: give a number above 0 and below 1, as 0.4.",
            ),
            (
                not 0 <= self.mask_weight < math.inf
                or (not self.mask and (self.mask_weight, self.mask_from) != (1, 0)),
                f"A recipe with mask = {self.mask} cannot have mask_weight = {self.mask_weight} and mask_from = "
                f"{self.mask_from}: give a weight of 0 or more, and neither without mask.",
            ),
            (
                self.mask and self.clips,
                "Patches are hidden in batches of images alone: give mask = 0 or clips = 0.",
                "conflict",
            ),
            (
                self.mask and abs(1 / self.mask - round(1 / self.mask)) > 1e-9,
                f"The mask share {self.mask} is not one in n: every n-th image of a batch is used again with patches "
                f"hidden, so give 1 divided by a whole number, as 0.0625.",
            ),
        )

    @property
    def largest(self) -> int:
        """Side in pixels of the largest stage: the grid of the positions, and what the trained encoder reads."""
        return max(stage.size for stage in self.stages)

    @property
    def identity(self) -> dict[str, Any]:
        """All of it as plain values, those of options as they are typed; stages as `size:samples`."""
        augment = {} if self.augment is None else asdict(self.augment)
        return identity_of(self) | {
            "stages": " ".join(f"{stage.size}:{stage.samples}" for stage in self.stages),
            "augment": " ".join(f"{key}={value}" for key, value in augment.items() if value),
        }

    def for_model(self, image: int, patch: int, samples: int | None = None) -> Recipe:
        """For a model whose images are of that size, cut into those patches, with so many samples in all.

        Raises DiagnosticsError for stages that no patch divides, or larger than the model's images, and for numbers of
        samples that are no whole batches.
        """
        stages = self.stages
        if self.image is not None:
            stages = tuple(
                replace(stage, size=max(2, round(stage.size / self.image * image / patch)) * patch) for stage in stages
            )
        for stage in stages:
            refuse_values(
                (
                    stage.size < patch or stage.size % patch or stage.size > image,
                    f"Images of a stage of {stage.size} pixels cannot be cut into patches of {patch} or are larger "
                    f"than the model's {image}: give a multiple of {patch}, at most {image}.",
                ),
                (
                    self.mask and stage.size == patch,
                    f"An image of {stage.size} pixels is a single patch, of which no part can be hidden: give larger "
                    f"stages, or mask = 0.",
                ),
            )
        if samples is not None:
            stages = scaled(stages, samples, self.batch)
        return replace(self, stages=stages, image=None)


_AUGMENTED = ("brightness", "saturation", "contrast", "mirror")


def named_recipe(name: str) -> Recipe:
    """One that is here: a row of the ablation, `1` to `9`, or `video` or `distil`."""
    check_known("recipe", name, NAMES, "A file of your own is given with --config.")
    return read_recipe(FOLDER / (f"row{name}.toml" if name.isdigit() else f"{name}.toml"))


def read_recipe(path: Path) -> Recipe:
    """A recipe in a file.

    Raises DiagnosticsError for what cannot be read, with line and nearest name of an unknown key.
    """
    with explaining(f"{path} cannot be read", "name a recipe, a file of TOML", "unreadable", (OSError, ValueError)):
        text = path.read_text(encoding="utf-8")
    with explaining(f"{path} is not valid TOML", "write one as docs/how-to/pretraining.md shows", "unreadable"):
        values = tomllib.loads(text)
    lines = text.splitlines()
    strange = _unknown_keys(path, lines, "", values, Recipe)
    strange += [key for stage in values.get("stages", ()) for key in _unknown_keys(path, lines, "stages", stage, Stage)]
    strange += _unknown_keys(path, lines, "augment", values["augment"], Augmentation) if "augment" in values else []
    if strange:
        raise DiagnosticsError(
            f"{path} has keys that a recipe does not have: {', '.join(dict.fromkeys(strange))}. Correct or remove it.",
            code="unknown-name",
        )
    lacking = [name for name in ("stages", "batch", "lr") if name not in values]
    lacking += [
        f"{name} of a stage" for name in ("size", "samples") if any(name not in s for s in values.get("stages", ()))
    ]
    if lacking:
        raise DiagnosticsError(f"{path} lacks {join_names(lacking)}: no recipe is without.", code="missing-option")
    return decode(Recipe, values)


def _unknown_keys(path: Path, lines: list[str], section: str, values: Any, kind: type) -> list[str]:
    """Keys of a table that are no fields of its dataclass, with line and nearest name.

    Raises for values of another type.
    """
    if not isinstance(values, Mapping):
        raise DiagnosticsError(
            f"{section} in line {_line(lines, section)} of {path} is no table: write it as "
            f"docs/how-to/pretraining.md shows.",
            code="bad-type",
        )
    known = get_type_hints(kind)
    strange: list[str] = []
    for key, value in values.items():
        line = _line(lines, key, section)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            strange.append(f"'{key}' in line {line}{f' (did you mean {near[0]}?)' if near else ''}")
        elif (wanted := _wanted(value, known[key])) is not None:
            raise DiagnosticsError(f"{key} in line {line} of {path} is {wanted}, not {value!r}.", code="bad-value")
    return strange


def _line(lines: list[str], key: str, section: str = "") -> int:
    """The first line with this key, in or behind that of its section."""
    begin = next((i for i, line in enumerate(lines) if _has(line, section)), 0) if section else 0
    return next((i + 1 for i, line in enumerate(lines) if i >= begin and _has(line, key)), begin + 1)


def _has(line: str, key: str) -> bool:
    return re.search(rf"""(^|[\s{{,\["']){re.escape(key)}["']?\s*[=.\]]""", line.split("#")[0]) is not None


def _wanted(value: Any, kind: Any) -> str | None:
    """The type that is wanted, in words, where this value is none of it; tables are looked at by themselves."""
    number = _is_number(value)
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else " or ".join(get_args(kind))
    if kind == tuple[float, float] | None:
        ends: list[Any] = value if isinstance(value, list) else []
        fits = len(ends) == 2 and all(map(_is_number, ends)) and 0 < ends[0] <= ends[1] < math.inf
        return None if fits else "a list of two numbers above 0, the smaller first"
    if kind == tuple[Stage, ...]:
        return None if isinstance(value, list) else "a list of stages, each with its size and samples"
    if kind is bool:
        return None if isinstance(value, bool) else "true or false"
    if kind in (int, int | None):
        return None if number and isinstance(value, int) and value > 0 else "a whole number above 0"
    return None if number or kind == Augmentation | None else "a number"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Jobs of `diagnostics train pe`, `recaption`, `zeroshot` and `export open_clip`: each option once. Importing it imports
# nothing heavy.


TrustCode = Annotated[
    bool,
    Option("Allow a saved encoder to run the Python file that builds it.", names=("--trust-code",), decides=False),
]
PAIR = Option("An image encoder with its text encoder, saved by `diagnostics train pe`.", "FOLDER", argument=True)
Device = Annotated[str | None, Option("cpu, cuda, ... [cuda if there is a GPU].", "NAME", decides=False)]


def of_recipe(name: str) -> Option:
    """An option that takes the place of the recipe's own value."""
    option = options(Recipe)[name]
    return replace(option, help=f"{option.help.removesuffix('.')} [the recipe's].")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Images and texts, and what is trained on them by which recipe; apart, so that it comes first.

    None: the recipe's own value, or the base's size.
    """

    data: Annotated[str, Option("A dataset of images (or clips) with texts.", group=WHAT)]
    split: Annotated[
        Literal["train", "all"], Option("Pairs to train on: the train split, or all of DATA.", "NAME", group=WHAT)
    ] = "train"
    out: Annotated[
        Path,
        Option(
            "Folder of the image encoder; the text encoder is saved in FOLDER/text.",
            names=("--out", "-o"),
            group=WHAT,
            decides=False,
        ),
    ]
    size: Annotated[str | None, Option("Size of new encoders: nano, micro, b16-224, l14-336, ...", group=WHAT)] = None
    start: Annotated[str | None, Option("Start from encoders saved by this command.", "FOLDER", ("--from",), WHAT)] = (
        None
    )
    recipe: Annotated[
        str | None,
        Option("1 to 9 (the rows of Perception Encoder's ablation), video, or distil.", group=WHAT),
    ] = None
    config: Annotated[Path | None, Option("Your own recipe, instead of --recipe.", "FILE.toml", group=WHAT)] = None
    teacher: Annotated[
        str | None,
        Option("For distil: the image and text encoder whose similarities are learned.", "FOLDER", group=WHAT),
    ] = None
    evaluation: Annotated[
        str | None,
        Option(
            "Score zero-shot and retrieval on the val split of these data with each checkpoint [never].",
            "DATA",
            ("--eval",),
            WHAT,
            decides=False,
        ),
    ] = None
    samples: Annotated[int | None, Option("Pairs over all stages [the recipe's].", "N", group=TRAINING)] = None
    batch: Annotated[int | None, Option("Pairs per step, over all processes [the recipe's].", "N", group=TRAINING)] = (
        None
    )
    lr: Annotated[float | None, of_recipe("lr")] = None
    optimiser: Annotated[str | None, of_recipe("optimiser")] = None
    schedule: Annotated[str | None, of_recipe("schedule")] = None
    warmup: Annotated[float | None, of_recipe("warmup")] = None
    cooldown: Annotated[float | None, of_recipe("cooldown")] = None
    clip: Annotated[float | None, of_recipe("clip")] = None
    seed: Seed = None


@dataclass(frozen=True, kw_only=True)
class PretrainJob(Computation, Pairs):
    """A training of `diagnostics train pe`."""

    def __post_init__(self) -> None:
        check_known("split to train on", self.split, ("train", "all"))
        refuse_values(
            (
                (self.recipe is None) == (self.config is None),
                "A training has one recipe: name it with --recipe (1 to 9), or give a file of your own with --config.",
                "conflict",
            ),
            (
                (self.size is None) == (self.start is None),
                "Towers start from new weights of a --size, or from those of a folder (--from): give one of the two.",
                "other-weights",
            ),
            (
                self.split == "all" and self.evaluation == self.data,
                "All pairs are trained on, so that none is left to score: give other data to --eval, or --split train.",
                "conflict",
            ),
        )

    @property
    def asked(self) -> Recipe:
        """The recipe as it was asked for, for no model yet."""
        own = read_recipe(self.config) if self.config is not None else named_recipe(self.recipe or "")
        instead: dict[str, Any] = {name: getattr(self, name) for name in options(Recipe)}
        return replace(own, **{name: value for name, value in instead.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class RecaptionJob:
    """Captions that `diagnostics recaption` writes."""

    data: Annotated[
        str, Option("A dataset of clips or images, as for `diagnostics run`: videos:FOLDER, 'shapes?frames=8', ...")
    ]
    captioner: Annotated[
        str,
        Option(
            "An image- or video-text-to-text model of transformers, or rules (true captions of `shapes`, no model).",
            "FOLDER|rules",
        ),
    ]
    out: Annotated[Path, Option("The table of captions.", "FILE.jsonl", ("--out", "-o"))]
    table: Annotated[
        Path | None,
        Option("Table of titles and human captions, with the columns id and title, human_caption, or both."),
    ] = None
    summary: Annotated[
        str | None,
        Option(
            "Causal language model that writes the column `caption` from all others [the human caption, else the "
            "clip's].",
            "FOLDER",
        ),
    ] = None
    prompt: Annotated[str | None, Option("Prompt for the caption of a clip [see the docs].")] = None
    frame_prompt: Annotated[str | None, Option("Prompt for the caption of a frame [see the docs].")] = None
    tokens: Annotated[int, Option("Maximum number of tokens per caption.", "N")] = 128
    mistakes: Annotated[
        float | None,
        Option("For rules: share of colours, textures and shapes that are replaced by wrong ones [0].", "SHARE"),
    ] = None
    seed: Annotated[int | None, Option("For rules: seed of the mistakes [0].", "N")] = None
    precision: Annotated[str, Option("Precision of the models: float32 or bf16.", "NAME")] = "float32"
    device: Device = None


@dataclass(frozen=True, kw_only=True)
class ZeroshotJob:
    """Classification and retrieval of `diagnostics zeroshot`."""

    folder: Annotated[str, PAIR]
    data: Annotated[str, Option("A dataset of images or clips, as for `diagnostics run`; retrieval needs texts.")]
    target: Annotated[
        str | None,
        Option(
            "What to classify: a label, or a question with answers (of `shapes`: shape, colour, ...).",
            "TARGET",
            ("--for",),
        ),
    ] = None
    template: Annotated[
        tuple[str, ...],
        Option("A prompt with {} for the class; repeatable ['{}', 'a {}', 'a photo of a {}'].", "TEXT"),
    ] = ()
    split: Annotated[str, Option("Split to score: test, or val (to choose prompts).")] = "test"
    gallery: Annotated[
        int | None,
        Option("Number of pairs in a gallery for retrieval, drawn at random [all of the split].", "N"),
    ] = None
    frames: Annotated[int, Option("Frames read from each clip.", "N")] = 8
    seed: Annotated[int, Option("Seed of galleries and intervals.", "N")] = 0
    device: Device = None
    trust_code: TrustCode = False


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """Files that `diagnostics export open_clip` writes."""

    folder: Annotated[Path, PAIR]
    out: Annotated[Path, Option("Folder to write, which open_clip then reads.", "FOLDER", ("--out", "-o"))]
    trust_code: TrustCode = False
