"""Jobs of `diagnostics train pe`, `recaption`, `zeroshot` and `export open_clip`: each option once. Importing it imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Annotated, Any

from diagnostics_training.jobs import WHAT
from diagnostics_training.trainer.settings import TRAINING, Computation, Seed

from diagnostics.plugin import DiagnosticsError, Option, options
from diagnostics_pretraining.recipe import Recipe, named_recipe, read_recipe

TrustCode = Annotated[
    bool,
    Option("Allow a saved encoder to run the Python file that builds it.", names=("--trust-code",), decides=False),
]
PAIR = Option("An image encoder with its text encoder, saved by `diagnostics train pe`.", "FOLDER", argument=True)
Device = Annotated[str | None, Option("cpu, cuda, ... [cuda if there is a GPU].", "NAME", decides=False)]


def of_recipe(name: str) -> Option:
    """An option that takes the place of the recipe's own value."""
    option = options(Recipe)[name]
    return changed(option, help=f"{option.help.removesuffix('.')} [the recipe's].")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Images and texts, and what is trained on them by which recipe; apart, so that it comes first.

    None: the recipe's own value, or the base's size.
    """

    data: Annotated[
        str, Option("A dataset of images (or clips) with texts; training uses its train split.", group=WHAT)
    ]
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
        if (self.recipe is None) == (self.config is None):
            raise DiagnosticsError(
                "A training has one recipe: name it with --recipe (1 to 9), or give a file of your own with --config."
            )
        if (self.size is None) == (self.start is None):
            raise DiagnosticsError(
                "Towers start from new weights of a --size, or from those of a folder (--from): give one of the two."
            )

    @property
    def asked(self) -> Recipe:
        """The recipe as it was asked for, for no model yet."""
        own = read_recipe(self.config) if self.config is not None else named_recipe(self.recipe or "")
        instead: dict[str, Any] = {name: getattr(self, name) for name in options(Recipe)}
        return changed(own, **{name: value for name, value in instead.items() if value is not None})


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
            "Causal language model that writes the column `caption` from all others [the human caption, else the clip's].",
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
