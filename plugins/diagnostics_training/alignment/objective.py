"""The loss of an alignment and its teachers; LayerScale, by which a student can be told from its base."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import DiagnosticsError, Encoder, Grid, Tap, TorchEncoder, explaining
from diagnostics_training.jobs import check_start
from diagnostics_training.trainer.objective import Batch, Objective

# LayerScale (Touvron et al., arXiv 2103.17239) and DropPath (Huang et al., arXiv 1603.09382) in the blocks of any
# encoder.
#
# A block with places for them (timm's `ls1`/`ls2` and `drop_path1`/`drop_path2`, or `gamma_1`/`gamma_2`) has both on
# each of its residual branches. Of any other block, all that it adds to what it takes is scaled: x + gamma (block(x) -
# x). With factors of 1 either computes what the block computed, to the bit.


SLOTS, GAMMAS, DROPS = ("ls1", "ls2"), ("gamma_1", "gamma_2"), ("drop_path1", "drop_path2")
_BATCH_AXIS = {"tokens": 0, "channels_first": 0, "channels_last": 0, "time_first": 1}


@dataclass(frozen=True)
class Block:
    """A module whose residual branches can be scaled.

    kind: `slots` and `gammas` where the module has places of its own, `whole` for what it adds to what it takes.
    layout: of what it takes and gives, as of a `Site`.
    """

    name: str
    features: int
    kind: Literal["slots", "gammas", "whole"]
    layout: str

    @property
    def drops(self) -> bool:
        """True if its samples are told apart, so that DropPath can leave it out for some of them."""
        return self.kind != "whole" or self.layout in _BATCH_AXIS


class LayerScale(nn.Module):
    """A factor for each feature, of the last axis."""

    def __init__(self, features: int, init: float, like: Tensor) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((features,), init, dtype=like.dtype, device=like.device))

    def reset_parameters(self) -> None:
        """As before training."""
        nn.init.constant_(self.gamma, self.init)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """In training, 0 for each sample with probability `rate`, and 1 / (1 - rate) times the rest."""

    def __init__(self, rate: float, axis: int = 0) -> None:
        super().__init__()
        self.rate, self.axis = rate, axis

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        shape = [1] * x.ndim
        shape[self.axis] = x.shape[self.axis]
        return x * (torch.rand(shape, device=x.device) >= self.rate).to(x.dtype) / (1 - self.rate)


class Residual(nn.Module):
    """A block's output, with all that it added to what it took scaled."""

    def __init__(self, block: Block, init: float, like: Tensor) -> None:
        super().__init__()
        self.scale = LayerScale(block.features, init, like)
        self.drop: nn.Module = nn.Identity()
        self.first = block.layout == "channels_first"

    def forward(self, taken: Tensor, given: Tensor) -> Tensor:
        added, gamma = given - taken, self.scale.gamma
        if self.first:
            gamma = gamma.reshape(-1, *[1] * (added.ndim - 2))
        if self.drop.training and isinstance(self.drop, DropPath):
            return taken + self.drop(added * gamma)
        # The same in another order: a factor of 1 leaves what the block gave as it is.
        return given + added * (gamma - 1)


def residual_blocks(encoder: TorchEncoder) -> list[Block]:
    """The blocks of an encoder's trunk, in order.

    They are modules with parts after which a tap stands, and which, in a pass over the example, gave a tensor of the
    shape that they took.
    """
    trunk = [tap for tap in encoder.taps if tap.part == "trunk" and tap.site and tap.site.when == "after"]
    known = {tap.site.module: (tap.features, tap.site) for tap in trunk if tap.site}
    inside = {name: encoder.module.get_submodule(name) for name in known if name}
    # An own `forward` would be called instead of what is put into the class.
    inside = {name: m for name, m in inside.items() if list(m.children()) and "forward" not in vars(m)}
    kept = _keeping_shape(encoder, inside)
    blocks: list[Block] = []
    for name, module in inside.items():
        features, site = known[name]
        kind = _kind(module, site.layout)
        if site.item == 0 and (kind != "whole" or name in kept):
            blocks.append(Block(name, features, kind, site.layout))
    return blocks


def _kind(module: nn.Module, layout: str) -> Literal["slots", "gammas", "whole"]:
    def has(names: Iterable[str], kinds: type | tuple[type, ...]) -> bool:
        return all(hasattr(module, name) and isinstance(getattr(module, name), kinds) for name in names)

    if layout == "tokens" and has(DROPS, nn.Module):
        if has(SLOTS, nn.Module):
            return "slots"
        if has(GAMMAS, (nn.Parameter, type(None))):
            return "gammas"
    return "whole"


def _keeping_shape(encoder: TorchEncoder, modules: Mapping[str, nn.Module]) -> set[str]:
    """Those modules that gave a tensor (alone, or the first of a tuple) of the shape of the one that they took."""
    kept: dict[str, bool] = {}

    def hook(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        taken, given = _taken(args, kwargs), output[0] if isinstance(output, tuple) and output else output
        alike = isinstance(taken, Tensor) and isinstance(given, Tensor) and taken.shape == given.shape
        kept[name] = alike and kept.get(name, True)

    batch = default_collate([encoder.preprocess(encoder.example())] * 2)
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(functools.partial(hook, name), with_kwargs=True).remove)
        encoder.capture(batch, [])
    return {name for name, alike in kept.items() if alike}


def _taken(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The tensor that a block takes: its first argument."""
    return args[0] if args else next(iter(kwargs.values()), None)


@torch.no_grad()
def put_scales(module: nn.Module, blocks: Sequence[Block], init: float) -> nn.Module:
    """LayerScale with factors of `init` in the blocks of a module, in place.

    Where a branch has one it is kept, times `init`.
    """
    for block in blocks:
        inside = module.get_submodule(block.name)
        like = next(p for p in inside.parameters() if p.is_floating_point())
        if block.kind == "whole":
            inside.residual = Residual(block, init, like)
            inside.__class__ = _scaled(type(inside))
            continue
        for name in SLOTS if block.kind == "slots" else GAMMAS:
            scale = getattr(inside, name)
            if isinstance(scale, nn.Identity):
                setattr(inside, name, LayerScale(block.features, init, like))
            elif scale is None:
                setattr(inside, name, nn.Parameter(like.new_full((block.features,), init)))
            else:
                getattr(scale, "gamma", scale).mul_(init)
    return module


def check_drops(student: TorchEncoder, blocks: Sequence[Block]) -> None:
    """Raise where a student has no place for DropPath."""
    if odd := [block.name for block in blocks if not block.drops]:
        raise DiagnosticsError(
            f"Block {odd[0]} of {student.name} takes the tokens of all samples in one row, so DropPath cannot leave it "
            f"out for some of them: leave --drop-path out.",
            code="unsupported",
        )
    if not blocks:
        raise DiagnosticsError(
            f"{student.name} has no blocks that keep the shape of what they take, so DropPath has no place: leave "
            f"--drop-path out.",
            code="unsupported",
        )


def put_drops(module: nn.Module, blocks: Sequence[Block], rate: float) -> None:
    """DropPath of one rate in the blocks of a module that has scales, in place."""
    for block in blocks:
        inside: Any = module.get_submodule(block.name)
        if block.kind == "whole":
            inside.residual.drop = DropPath(rate, _BATCH_AXIS[block.layout])
        else:
            for name in DROPS:
                setattr(inside, name, DropPath(rate))


@functools.cache
def _scaled(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that scales what `kind` adds by its `residual`; no module around it, so that names of parts stay."""

    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A copy, since a block may write into what it takes.
        taken = _taken(args, kwargs).clone()
        given = kind.forward(self, *args, **kwargs)
        if isinstance(given, tuple):
            return (self.residual(taken, given[0]), *given[1:])
        return self.residual(taken, given)

    return type(f"Scaled{kind.__name__}", (kind,), {"forward": forward})


def scaled(base: Encoder, init: float) -> tuple[TorchEncoder, list[Block]]:
    """A copy of an encoder whose blocks have LayerScale with factors of `init`, and which these are.

    Taps, preprocessing and sizes are the base's; its `skeleton` is `aligned?base=...`.
    """
    base = with_module(base)
    check_start(init)
    blocks = residual_blocks(base)

    def fresh() -> nn.Module:
        encoder = base.fresh(int(torch.randint(2**31, ())))
        assert isinstance(encoder, TorchEncoder)
        return put_scales(encoder.module, blocks, init)

    module = put_scales(copy.deepcopy(base.module), blocks, init)
    spec = f"aligned?base={quote(base.skeleton or base.spec, safe='{}')}&layer_scale={init!r}"
    encoder = base.with_module(module, f"{base.name}-aligned", fresh)
    return encoder.replace(spec=spec, skeleton=spec if base.skeleton else "", lineage={}), blocks


# The objective of alignment: an encoder's tokens taught by those of frozen encoders.
#
# Spatial alignment of Perception Encoder (Bolya et al., arXiv 2504.13181, section 5): the student begins as a copy of
# the frozen teacher, and the mean over tokens of the cosine between its output and the teacher's tokens at the tap is
# raised.


# Who teaches: frozen encoders, each read at a tap, and how far a student's tokens agree with theirs.

PAIRS = 4
"""Tokens for each feature, from which a linear map begins."""
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
    """Cosine of tokens [B, T, F] at a tap with a target's, which are brought to the tap's grid.

    Mean over a sample's tokens, then over samples.

    Prefix tokens count where both have as many; grid tokens that are not `valid` do not.
    """
    tokens, target, counted = place_by_place(tokens, tap, target, other, valid)
    cosine = nn.functional.cosine_similarity(tokens, target, dim=-1)
    if counted is None:
        return cosine.mean()
    counted = counted.to(cosine.dtype)
    return ((cosine * counted).sum(1) / counted.sum(1)).mean()


def place_by_place(
    tokens: Tensor, tap: Tap, target: Tensor, other: Tap, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens and a target's in the same places, float32 [B, T, F], and which of them count, bool [B, T] (None: all)."""
    prefix = tap.grid.prefix if tap.grid.prefix == other.grid.prefix else 0
    tokens = tokens[:, tap.grid.prefix - prefix :].float()
    target = on_grid(target.float(), other.grid, tap.grid)[:, other.grid.prefix - prefix :]
    return tokens, target, None if valid is None else nn.functional.pad(valid, (prefix, 0), value=True)


def on_grid(tokens: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """Tokens [B, T, F] of a grid on another of the same axes.

    By linear interpolation along each axis, with weights that widen where there are fewer cells than before; prefix
    tokens stay as they are.
    """
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
    """Raise where the tokens of a student's tap and of a teacher's cannot be compared place by place."""
    if not comparable(tap, teacher.tap):
        own, theirs = tap.grid, teacher.tap.grid
        raise DiagnosticsError(
            f"Tap {teacher.tap.name} of {teacher.encoder.name} has {theirs} and {tap.name} of {student} has {own}, and "
            f"tokens are compared place by place: choose a tap with a grid of the same axes for either (--at names the "
            f"student's).",
            code="no-grid",
        )


def comparable(tap: Tap, other: Tap) -> bool:
    """True if the grids of two taps have the same axes and can be compared.

    None may be one token for the whole sample where the other is not.
    """
    same = tap.grid.axes == other.grid.axes
    return same and (tap.grid.shape == other.grid.shape or min(tap.grid.tokens, other.grid.tokens) > 1)


def with_module(encoder: Encoder) -> TorchEncoder:
    """The encoder itself; raises where it exposes no torch module."""
    if not isinstance(encoder, TorchEncoder):
        raise DiagnosticsError(
            f"{encoder.name} exposes no torch module, which aligning needs: name another encoder.", code="unsupported"
        )
    return encoder


def put_section(section: str, inputs: Any) -> dict[str, Tensor]:
    """Put what `preprocess` returns, a tensor or a mapping of them, as parts of a batch."""
    if isinstance(inputs, Mapping):
        return {f"{section}/{key}": value for key, value in inputs.items()}
    return {section: inputs}


def section_of(batch: Batch, section: str) -> Any:
    """The same back from the batch."""
    if section in batch:
        return batch[section]
    return {key.removeprefix(f"{section}/"): v for key, v in batch.items() if key.startswith(f"{section}/")}


class Alignment(Objective):
    """Minus the mean over tokens and samples of the cosine to each teacher, times the teacher's weight, summed.

    Only DropPath behaves as in training: dropout is off and batch norm keeps its statistics, so that the student is the
    encoder that will be used. Teachers are no parts of this module: nothing can train them, and checkpoints hold none.

    student: its module is trained in place, all parameters of it that its output tap depends on.
    section: under which name the batch holds what it reads.
    parts: its residual blocks, which can be computed once more for the gradient.
    all_learn: whether the student learns, and not only what stands behind it.
    """

    all_learn = True

    def __init__(self, student: TorchEncoder, teachers: Sequence[Teacher], section: str = OWN) -> None:
        super().__init__()
        self.student, self.teachers, self.section = student, tuple(teachers), section
        self.tap = student.tap(student.output_tap)
        self.module = student.module
        self.parts: Sequence[nn.Module] = ()
        for teacher in teachers:
            check_grids(self.tap, student.name, teacher)
        self.maps = nn.ModuleList(
            nn.Linear(self.tap.features, teacher.tap.features, bias=False) if teacher.mapped else nn.Identity()
            for teacher in teachers
        )

    @torch.no_grad()
    def begin_maps(self, batches: Iterable[Batch]) -> None:
        """Let linear maps begin as the least squares of the first batches.

        A random map teaches noise until it has learned, which it never does at the rates that an encoder bears. Each
        token counts alike, whatever its length, as in the loss: W minimises the sum of |W s - t|^2 / |t|^2, in float64,
        and a ridge of 1e-6 of the mean square draws it to its random beginning. So directions that the student does not
        use yet have weights, without which neither they nor the weights would ever have a gradient. Batches are read
        until there are `PAIRS` tokens for each feature.
        """
        both = zip(self.maps, self.teachers, strict=True)
        mapped = [(change, teacher) for change, teacher in both if isinstance(change, nn.Linear)]
        sums: list[Any] = [0.0] * len(mapped)
        for count, batch in enumerate(batches if mapped else (), 1):
            inputs = section_of(batch, self.section)
            own = self.student.capture(inputs, [self.tap.name])[self.tap.name]
            for i, (_, teacher) in enumerate(mapped):
                s, t, counted = place_by_place(own, self.tap, taught(teacher, batch), teacher.tap, self.valid(batch))
                s, t = (one.flatten(0, 1) if counted is None else one[counted] for one in (s, t))
                length = t.double().norm(dim=1, keepdim=True)
                # Tokens of zeros, such as those that stand for no data, say nothing.
                pairs = torch.cat([s, t], 1).double() * torch.where(length > 0, 1 / length, 0.0)
                sums[i] = sums[i] + pairs[:, : s.shape[1]].mT @ pairs
            if count * own.shape[0] * own.shape[1] >= PAIRS * self.tap.features:
                break
        for (change, _), summed in zip(mapped, sums, strict=True):
            squares, products = summed.tensor_split([self.tap.features], dim=1)
            begin = change.weight.mT.double()
            missed = products - squares @ begin
            squares.diagonal().add_(1e-6 * squares.diagonal().mean().clamp(min=1e-12))
            change.weight.copy_((begin + torch.linalg.solve(squares, missed)).mT)

    def tokens(self, batch: Batch) -> Tensor:
        """The student's [B, T, F], with gradients."""
        name = self.tap.name
        return self.student.capture(section_of(batch, self.section), [name], gradient=True)[name]

    def valid(self, batch: Batch) -> Tensor | None:
        """Mask of the student's grid tokens that stand for data, bool [B, T]; None where all do."""
        return self.student.valid(section_of(batch, self.section), self.tap)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.values(self.tokens(batch), batch)

    def values(self, tokens: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and each teacher's cosine, of the student's tokens."""
        valid = self.valid(batch)
        cosines = [
            agreement(change(tokens), self.tap, taught(teacher, batch), teacher.tap, valid)
            for teacher, change in zip(self.teachers, self.maps, strict=True)
        ]
        loss = tokens.new_zeros((), dtype=torch.float32)
        for teacher, cosine in zip(self.teachers, cosines, strict=True):
            loss = loss - teacher.weight * cosine
        return {"loss": loss, **{"cosine" if i == 0 else f"cosine_{i + 1}": cosine for i, cosine in enumerate(cosines)}}

    def output(self, batch: Batch) -> Tensor:
        tokens = self.student.capture(section_of(batch, self.section), [self.tap.name])[self.tap.name]
        return tokens[:, self.tap.grid.prefix :].float().mean(1)

    def blocks(self) -> Sequence[nn.Module]:
        return self.parts

    def train(self, mode: bool = True) -> Alignment:
        super().train(mode)
        self.module.eval()
        for part in self.module.modules():
            if isinstance(part, DropPath):
                part.train(mode and self.all_learn)
        return self

    def free(self, batch: Batch) -> None:
        """Has gradients required of what the output depends on; raises where that is nothing."""
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        failure = f"No gradient can be followed through {self.student.name}"
        with explaining(failure, "it cannot be aligned", "unsupported", RuntimeError):
            self(batch)["loss"].backward()
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        self.maps.zero_grad()
