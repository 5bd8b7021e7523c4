"""LayerScale (Touvron et al., arXiv 2103.17239) and DropPath (Huang et al., arXiv 1603.09382) in the blocks of any encoder.

A block with places for them (timm's `ls1`/`ls2` and `drop_path1`/`drop_path2`, or `gamma_1`/`gamma_2`) has both on each of its
residual branches. Of any other block, all that it adds to what it takes is scaled: x + gamma (block(x) - x). With factors
of 1 either computes what the block computed, to the bit.
"""

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

from diagnostics.plugin import DiagnosticsError, Encoder, TorchEncoder
from diagnostics_training.jobs import check_start

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
        """Whether its samples are told apart, so that DropPath can leave it out for some of them."""
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
    """What a block gives, with all that it added to what it took scaled."""

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
    """The blocks of an encoder's trunk, in order: modules with parts after which a tap stands, and which, in a pass over the
    example, gave a tensor of the shape that they took."""
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
    """Which of the modules gave a tensor (alone, or the first of a tuple) of the shape of the one that they took."""
    kept: dict[str, bool] = {}

    def hook(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        taken, given = _taken(args, kwargs), output[0] if isinstance(output, tuple) and output else output
        alike = isinstance(taken, Tensor) and isinstance(given, Tensor) and taken.shape == given.shape
        kept[name] = alike and kept.get(name, True)

    batch = default_collate([encoder.preprocess(encoder.example())] * 2)
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(functools.partial(hook, name), with_kwargs=True)
            stack.callback(handle.remove)
        encoder.capture(batch, [])
    return {name for name, alike in kept.items() if alike}


def _taken(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The tensor that a block takes: its first argument."""
    return args[0] if args else next(iter(kwargs.values()), None)


@torch.no_grad()
def put_scales(module: nn.Module, blocks: Sequence[Block], init: float) -> nn.Module:
    """LayerScale with factors of `init` in the blocks of a module, in place; where a branch has one it is kept, times
    `init`."""
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


def put_drops(module: nn.Module, blocks: Sequence[Block], rate: float) -> None:
    """DropPath of one rate in the blocks of a module that has scales, in place."""
    for block in blocks:
        inside = module.get_submodule(block.name)
        if block.kind == "whole":
            inside.residual.drop = DropPath(rate, _BATCH_AXIS[block.layout])  # pyright: ignore
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
            return (self.residual(taken, given[0]), *given[1:])  # pyright: ignore[reportUnknownVariableType]
        return self.residual(taken, given)

    return type(f"Scaled{kind.__name__}", (kind,), {"forward": forward})


def scaled(base: Encoder, init: float) -> tuple[TorchEncoder, list[Block]]:
    """A copy of an encoder whose blocks have LayerScale with factors of `init`, and which these are.

    Taps, preprocessing and sizes are the base's; its `skeleton` is `aligned?base=...`.
    """
    if not isinstance(base, TorchEncoder):
        raise DiagnosticsError(f"{base.name} exposes no torch module that could be trained: align another encoder.")
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
