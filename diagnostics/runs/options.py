"""What a caller of `run` asks for beside encoder and dataset, checked before any work: numbers, names, the folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diagnostics.encoders.encoder import Encoder
from diagnostics.errors import DiagnosticsError, describe, unknown


def check_out(path: Path) -> None:
    """Raises where a run's folder cannot be: the folder that one is in, or one around it."""
    try:
        whole = path.resolve()
    except (OSError, RuntimeError) as error:
        raise DiagnosticsError(
            f"--out {str(path)!r} cannot be a folder ({describe(error)}): choose another."
        ) from error
    if whole == Path.cwd() or whole in Path.cwd().parents:
        raise DiagnosticsError(
            f"--out {str(path)!r} is the folder that you are in, or one around it: name a folder of its own, like --out runs/mine."
        )


def chosen_poolings(names: list[str] | None, model: Encoder) -> list[str] | None:
    """Those of the encoder's poolings that were asked for, in its order."""
    if names is None:
        return None
    for name in names:
        if name not in model.poolings:
            raise unknown("pooling", name, model.poolings)
    if not names:
        raise DiagnosticsError(f"--pooling names nothing: give {', '.join(model.poolings)}, or leave it out.")
    return [name for name in model.poolings if name in names]


def listed(names: str | Sequence[str] | None) -> list[str] | None:
    """Names as a list, from one text with commas too."""
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    return None if names is None else list(names)


def check_options(batch_size: int | None, workers: int, precision: str, seed: int, draws: int) -> None:
    """Raises for numbers and words that no run can have."""
    if draws < 1:
        raise DiagnosticsError(f"The number of draws of a control is {draws}: give 1 or more, or --no-controls.")
    if seed < 0:
        raise DiagnosticsError(f"Seed {seed} is below 0: give 0 or more.")
    if batch_size is not None and batch_size < 1:
        raise DiagnosticsError(f"Batch size {batch_size} is below 1.")
    if workers < 0:
        raise DiagnosticsError(f"The number of workers is {workers}: give 0 or more.")
    if precision not in ("float32", "float16"):
        raise unknown("precision", precision, ("float32", "float16"))
