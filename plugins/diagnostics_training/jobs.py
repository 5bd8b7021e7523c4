"""Jobs of `diagnostics train objectives` and `diagnostics align`: each option once.

Importing it imports nothing heavy.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

from diagnostics.plugin import DiagnosticsError, Option, deciding, options, refuse_values
from diagnostics_training.objectives import OBJECTIVES
from diagnostics_training.trainer.settings import (
    TRAINING,
    LearningRate,
    Optimiser,
    Settings,
    Steps,
    Warmup,
)

WHAT = "What is trained"
BEST = "best-tap"
TINY = "tiny"
"""Name of the decoder with random weights."""


def command_of(words: str, job: Any) -> str:
    """Line to type for the same training, without defaults and without what does not decide."""
    line = ["diagnostics", *words.split()]
    defaults = {field.name: field.default for field in fields(job)}
    for name, option in options(type(job)).items():
        value = getattr(job, name)
        if value == defaults[name] or name not in deciding(type(job)):
            continue
        if isinstance(value, bool):
            line.append(option.flag if value else f"--no-{option.flag[2:]}")
        else:
            for part in value if isinstance(value, tuple) else (value,):
                line += [option.flag, str(part)]
    return shlex.join(line)


@dataclass(frozen=True, kw_only=True)
class Backbones:
    """Encoders to train; apart, so that they come first."""

    data: Annotated[str, Option("A dataset, as for `diagnostics run`; only its train split is used.", group=WHAT)]
    objective: Annotated[
        str,
        Option(f"Objectives separated by commas, or all: {', '.join(OBJECTIVES)}; random is untrained.", group=WHAT),
    ] = "all"
    modality: Annotated[
        str | None,
        Option("series, image or video: refuse data of another modality [the data's].", group=WHAT, decides=False),
    ] = None
    seeds: Annotated[int, Option("Number of trainings per objective, with seeds from 0.", group=WHAT)] = 1
    width: Annotated[int, Option("Features per token.", group=WHAT)] = 64
    depth: Annotated[int, Option("Number of blocks.", group=WHAT)] = 6
    heads: Annotated[int, Option("Attention heads per block.", group=WHAT)] = 4
    patch: Annotated[
        int | None,
        Option("Patch size: steps of a series [16], or pixels along each side of an image [8].", group=WHAT),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """Options that some objectives read: those in their `options` and `training_options`."""

    likelihood: Annotated[
        str | None, Option("For forecast: quantile [for series] or gaussian [for images and clips].", group=WHAT)
    ] = None
    positives: Annotated[str, Option("For contrastive: views, or temporal (series and clips).", group=WHAT)] = "views"
    regulariser: Annotated[str, Option("For jepa: none, variance or sigreg.", group=WHAT)] = "none"


@dataclass(frozen=True, kw_only=True)
class TrainJob(Settings, ObjectiveOptions, Backbones):
    """Trainings of `diagnostics train objectives`."""

    out: Annotated[
        Path, Option("Folder of the models, each in its own subfolder.", names=("--out", "-o"), decides=False)
    ] = Path("models")
    steps: Steps = 2000
    # Each training has its own.
    seed: int | None = None

    @property
    def objectives(self) -> list[str]:
        """Names of the objectives; raises for an unknown one."""
        names = list(OBJECTIVES) if self.objective == "all" else [n.strip() for n in self.objective.split(",")]
        if odd := [name for name in names if name not in OBJECTIVES]:
            raise DiagnosticsError(
                f"There is no objective '{odd[0]}': choose from {', '.join(OBJECTIVES)}, or all.", code="unknown-name"
            )
        return list(dict.fromkeys(names))


Mask = Annotated[
    float, Option("Share of the input that is hidden from the encoder in training.", "SHARE", group=TRAINING)
]
LayerScale = Annotated[
    float, Option("Initial factors of the residual branches; Perception Encoder uses 0.1.", "INIT", group=TRAINING)
]
DropPath = Annotated[
    float,
    Option("Probability that a sample skips a residual branch in training.", "RATE", group=TRAINING),
]
For = Annotated[
    str | None,
    Option("The target for which best-tap is chosen, without test.", "TARGET", ("--for",), WHAT),
]


def check_weight(option: str, given: object, weight: float) -> None:
    """Raise for weights that a term of the loss cannot have."""
    if not 0 <= weight < math.inf:
        raise DiagnosticsError(f"{option} {given} has a weight of {weight:g}: give 0 or more.", code="bad-value")


def check_choice(to: str | None, target: str | None) -> None:
    """Raise unless a target is named where the best tap is asked for, and nowhere else."""
    refuse_values(
        (
            to == BEST and target is None,
            f"--to {BEST} is the best tap for a target: name that with --for.",
            "missing-option",
        ),
        (
            to != BEST and target is not None,
            f"--for names the target of --to {BEST}, and --to names the tap {to}: leave one of them out.",
            "bad-target",
        ),
    )


def check_start(init: float) -> None:
    """Raise for factors that LayerScale cannot start at."""
    if not 0 < init < math.inf:
        raise DiagnosticsError(
            f"LayerScale cannot start at {init}: give a number above 0, as 1.0 or 0.1.", code="bad-value"
        )


@dataclass(frozen=True, kw_only=True)
class Base:
    """Encoder to align and where; apart, so that it comes first."""

    encoder: Annotated[str, Option("The encoder to start from, by any name that `diagnostics run` takes.", group=WHAT)]
    at: Annotated[
        str | None, Option("The tap that learns; the encoder is cut there [its output].", "TAP", group=WHAT)
    ] = None
    data: Annotated[
        str | None,
        Option("A dataset [the training data of the encoder]; training uses its train split.", group=WHAT),
    ] = None
    out: Annotated[
        Path | None,
        Option(
            "Folder of the aligned encoder; its control is in FOLDER-control [ENCODER-aligned].",
            names=("--out", "-o"),
            group=WHAT,
            decides=False,
        ),
    ] = None
    control: Annotated[
        bool,
        Option(
            "Also train a control, taught by the starting encoder's own tokens, to show what training does by itself.",
            group=WHAT,
        ),
    ] = True
    trust_code: Annotated[
        bool,
        Option("Allow a saved encoder to run the Python file that builds it.", names=("--trust-code",), decides=False),
    ] = False


@dataclass(frozen=True, kw_only=True)
class AlignmentJob(Settings, Base):
    """Options that all commands of `diagnostics align` share."""

    command: ClassVar[str]

    steps: Steps = 1000
    lr: LearningRate = 5e-4
    mask: float = 0.0
    layer_scale: Annotated[
        float, Option("Initial factors of the residual branches; Perception Encoder uses 0.1.", "INIT", group=TRAINING)
    ] = 1.0
    drop_path: DropPath = 0.0

    def __post_init__(self) -> None:
        for name in ("mask", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise DiagnosticsError(
                    f"--{name.replace('_', '-')} is a share, from 0 to below 1, not {getattr(self, name)}.",
                    code="bad-value",
                )
        check_start(self.layer_scale)
        refuse_values(
            (self.seed is not None and self.seed < 0, f"Seed {self.seed} is below 0: give 0 or more."),
            (
                self.steps < 0 or self.batch < 2,
                f"Aligning takes batches of 2 or more, not {self.steps} steps of {self.batch}.",
            ),
        )
        if self.steps:
            super().__post_init__()

    @property
    def folder(self) -> Path:
        """Folder of the encoder: beside its base where that is a file or folder."""
        if self.out is not None:
            return self.out
        own = Path(self.encoder).expanduser()
        if own.exists():
            return own.with_name(f"{own.name.removesuffix('.safetensors')}-aligned")
        return Path("models") / "-".join([*re.findall(r"[\w.]+", self.encoder), "aligned"])

    @property
    def control_folder(self) -> Path:
        """Folder of the control."""
        return self.folder.with_name(f"{self.folder.name}-control")


@dataclass(frozen=True, kw_only=True)
class TapJob(AlignmentJob):
    """An alignment to a tap, of `diagnostics align tap`."""

    command: ClassVar[str] = "align tap"

    to: Annotated[str, Option("The tap that teaches, or best-tap (with --for).", "TAP", group=WHAT)]
    target: For = None
    mask: Mask = 0.0
    teacher: Annotated[
        tuple[str, ...],
        Option(
            "Another encoder as an additional teacher, by its output or a tap; repeatable.",
            "NAME[:TAP][@WEIGHT]",
            group=WHAT,
        ),
    ] = ()
    keep: Annotated[
        float,
        Option(
            "Weight of the starting encoder's output as an additional teacher, to keep its information.",
            "WEIGHT",
            group=WHAT,
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        check_choice(self.to, self.target)
        check_weight("--keep", self.keep, self.keep)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class SpatialJob(AlignmentJob):
    """An alignment of places, of `diagnostics align spatial`."""

    command: ClassVar[str] = "align spatial"

    to: Annotated[
        str | None,
        Option("The tap that teaches, or best-tap (with --for) [none: relations alone].", "TAP", group=WHAT),
    ] = None
    target: For = None
    relations: Annotated[
        str | None,
        Option(
            "Teacher of which places belong together: masks (of the data), sam2:FOLDER, or an encoder NAME[:TAP] "
            "[none].",
            "TEACHER",
            group=WHAT,
        ),
    ] = None
    optimiser: Optimiser = "lamb"
    warmup: Warmup = 0.0
    mask: Mask = 0.75
    mask_cell: Annotated[int, Option("Tokens along each side of a hidden block.", "TOKENS", group=TRAINING)] = 2
    layer_scale: LayerScale = 0.1
    drop_path: DropPath = 0.4

    def __post_init__(self) -> None:
        check_choice(self.to, self.target)
        refuse_values(
            (
                self.to is None and self.relations is None,
                "There is no teacher: give --to TAP, --relations TEACHER, or both.",
                "missing-option",
            ),
            (self.mask_cell < 1, f"--mask-cell {self.mask_cell} is no number of tokens: give 1 or more."),
        )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class LanguageJob(AlignmentJob):
    """An alignment with a decoder, of `diagnostics align language`."""

    command: ClassVar[str] = "align language"

    lm: Annotated[
        str,
        Option("A causal decoder saved by transformers, or tiny (random weights, for trials).", "FOLDER", group=WHAT),
    ]
    pool: Annotated[int, Option("Average tokens over 1 or 2 cells along each side of the grid.", "N", group=WHAT)] = 1
    train_lm: Annotated[bool, Option("Also train the decoder, and save it.", names=("--train-lm",), group=WHAT)] = False
    projector_steps: Annotated[
        int | None,
        Option(
            "Number of first steps in which only the projector learns (with --lm tiny also the decoder) [a "
            "tenth of all].",
            "N",
            group=TRAINING,
        ),
    ] = None
    drop_path: DropPath = 0.1
    evaluate_every: Annotated[
        int | None,
        Option(
            "Log the loss and the share of right answers on val every N steps [never].",
            "N",
            group=TRAINING,
            decides=False,
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_values(
            (self.pool not in (1, 2), f"Tokens cannot be pooled by {self.pool}: give --pool 1 or 2."),
            (
                not 0 <= self.alone <= self.steps,
                f"The projector cannot learn alone for {self.alone} of {self.steps} steps: give --projector-steps 0 to "
                f"{self.steps}.",
            ),
            (
                self.lm == TINY and not self.train_lm,
                "Decoder tiny starts from random weights and must be trained too: add --train-lm.",
                "other-weights",
            ),
            (
                self.lm != TINY
                and Path(self.lm).expanduser().resolve().is_relative_to(self.folder.expanduser().resolve()),
                f"Decoder {self.lm} lies in {self.folder}, where it would be overwritten: give another --out.",
                "occupied",
            ),
        )

    @property
    def alone(self) -> int:
        """Steps in which the projector learns alone: a tenth, unless they are given."""
        return self.steps // 10 if self.projector_steps is None else self.projector_steps
