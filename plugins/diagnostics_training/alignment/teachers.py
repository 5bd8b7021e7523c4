"""Who teaches: frozen encoders, each read at a tap, and how far a student's tokens agree with theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Encoder, Grid, Tap, TorchEncoder, UntrustedCodeError, build
from diagnostics_training.alignment.data import check_modality

if TYPE_CHECKING:
    from diagnostics_training.alignment.start import Start
    from diagnostics_training.trainer.objective import Batch

OWN = "clean"
"""The section of a batch that holds whole samples as the student's base reads them."""


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder and the tap that teaches.

    section: under which name the batch holds what it reads.
    weight: of its cosine in the loss.
    mapped: whether the student's tokens meet its tokens through a linear map, which is trained and thrown away.
    """

    encoder: TorchEncoder
    tap: Tap
    section: str = OWN
    weight: float = 1.0
    mapped: bool = False


def taught(teacher: Teacher, batch: Batch) -> Tensor:
    """The teacher's tokens [B, T, F], without a gradient."""
    return teacher.encoder.capture(section_of(batch, teacher.section), [teacher.tap.name])[teacher.tap.name]


def agreement(tokens: Tensor, tap: Tap, target: Tensor, other: Tap, valid: Tensor | None = None) -> Tensor:
    """Cosine of tokens [B, T, F] at a tap with a target's, which are brought to the tap's grid: mean over a sample's tokens, then
    over samples.

    Prefix tokens count where both have as many; grid tokens that are not `valid` do not.
    """
    prefix = tap.grid.prefix if tap.grid.prefix == other.grid.prefix else 0
    tokens = tokens[:, tap.grid.prefix - prefix :].float()
    target = on_grid(target.float(), other.grid, tap.grid)[:, other.grid.prefix - prefix :]
    cosine = nn.functional.cosine_similarity(tokens, target, dim=-1)
    if valid is None:
        return cosine.mean()
    counted = nn.functional.pad(valid.to(cosine.dtype), (prefix, 0), value=1.0)
    return ((cosine * counted).sum(1) / counted.sum(1)).mean()


def on_grid(tokens: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """Tokens [B, T, F] of a grid on another of the same axes, by linear interpolation along each axis, with weights that
    widen where there are fewer cells than before; prefix tokens stay as they are."""
    if grid.shape == wanted.shape:
        return tokens
    prefix, cells = tokens[:, : grid.prefix], tokens[:, grid.prefix :]
    cells = cells.movedim(-1, 1).unflatten(-1, grid.shape)
    for axis, count in enumerate(wanted.shape, start=2):
        lines = cells.movedim(axis, -1)
        # Of rows: torch 2.13 gives other numbers for columns of a width of 1, with antialiasing.
        row = lines.reshape(1, -1, 1, lines.shape[-1])
        resized = nn.functional.interpolate(row, (1, count), mode="bilinear", antialias=True)
        cells = resized.reshape(*lines.shape[:-1], count).movedim(-1, axis)
    return torch.cat([prefix, cells.flatten(2).movedim(1, -1)], dim=1)


def check_grids(tap: Tap, student: str, teacher: Teacher) -> None:
    """Raises where the tokens of a student's tap and of a teacher's cannot be compared place by place."""
    if not comparable(tap, teacher.tap):
        own, theirs = tap.grid, teacher.tap.grid
        raise DiagnosticsError(
            f"Tap {teacher.tap.name} of {teacher.encoder.name} has {theirs} and {tap.name} of {student} has {own}, and tokens are "
            "compared place by place: choose a tap with a grid of the same axes for either (--at names the student's)."
        )


def comparable(tap: Tap, other: Tap) -> bool:
    """Whether the grids of two taps have the same axes, and none is one token for the whole sample where the other is not."""
    same = tap.grid.axes == other.grid.axes
    return same and (tap.grid.shape == other.grid.shape or min(tap.grid.tokens, other.grid.tokens) > 1)


def named_teacher(text: str, start: Start, section: str, trust_code: bool = False) -> Teacher:
    """The teacher that `NAME[:TAP][@WEIGHT]` names: an encoder, its output or that tap, and a weight of 1 or that.

    Another tap of the student's own base, and an encoder of another width, are met through a linear map.
    """
    name, weight = text, 1.0
    before, at, number = text.rpartition("@")
    if at:
        try:
            name, weight = before, float(number)
        except ValueError:
            name = text
    check_weight("--teacher", text, weight)
    encoder, tap_name = _built(name, trust_code)
    check_modality(encoder, start.dataset)
    sized = with_module(with_module(encoder).sized_for(start.sample))
    own = sized.identity == start.own.identity
    if own:
        sized, section = start.own, OWN
    tap = sized.tap(tap_name or sized.output_tap)
    return Teacher(sized, tap, section, weight, mapped=own or tap.features != start.tap.features)


def check_weight(option: str, given: object, weight: float) -> None:
    """Raises for weights that a term of the loss cannot have."""
    if not 0 <= weight < float("inf"):
        raise DiagnosticsError(f"{option} {given} has a weight of {weight:g}: give 0 or more.")


def _built(name: str, trust_code: bool) -> tuple[Encoder, str]:
    """The encoder of `NAME` or `NAME:TAP`, and the tap ("" where none is named)."""
    try:
        return build("encoder", name, trust_code=trust_code), ""
    except DiagnosticsError as error:
        whole, colon, tap = name.rpartition(":")
        if not colon or isinstance(error, UntrustedCodeError):
            raise
        try:
            return build("encoder", whole, trust_code=trust_code), tap
        except UntrustedCodeError:
            raise
        except DiagnosticsError:
            raise error from None


def with_module(encoder: Encoder) -> TorchEncoder:
    """The encoder itself; raises where it exposes no torch module."""
    if not isinstance(encoder, TorchEncoder):
        raise DiagnosticsError(f"{encoder.name} exposes no torch module, which aligning needs: name another encoder.")
    return encoder


def put_section(section: str, inputs: Any) -> dict[str, Tensor]:
    """What `preprocess` returns, a tensor or a mapping of them, as parts of a batch."""
    if isinstance(inputs, Mapping):
        return {f"{section}/{key}": value for key, value in inputs.items()}  # pyright: ignore[reportUnknownVariableType]  (of a library without types)
    return {section: inputs}


def section_of(batch: Batch, section: str) -> Any:
    """The same back from the batch."""
    if section in batch:
        return batch[section]
    return {key.removeprefix(f"{section}/"): v for key, v in batch.items() if key.startswith(f"{section}/")}
