"""A model's stack of blocks, found from its module structure alone.

Also what each takes and gives in a dry pass, in order of execution, and which places the tokens of a tensor stand for,
by its shape and the axes of the input.

Shape suffixes: B sample, T token, F feature.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.encoders.hooks import Call, Forward, first_tensor, hook_calls, tensors_in
from diagnostics.encoders.modules import evaluating
from diagnostics.encoders.taps import Grid, Layout, spell_grid
from diagnostics.errors import DiagnosticsError, explaining
from diagnostics.vocabulary import Modality

MOST_PREFIX = 16
"""More special tokens than that are not guessed."""


@dataclass(frozen=True)
class Place:
    """The way from a tensor to tokens: the layout and rows of its `Site`, and the features and grid of its `Tap`.

    Examples:
        >>> import torch
        >>> from diagnostics.encoders.places import Places
        >>> places = Places("mine", {"y": 224, "x": 224}, samples=2)
        >>> place = places.of(torch.zeros(2, 256, 14, 14), "layer3")
        >>> print(place.layout, place.features, place.grid)
        channels_first 256 14 x 14 (y, x)
    """

    layout: Layout
    features: int
    grid: Grid
    rows: int = 1


@dataclass
class Places:
    """Finds the places of tensors from their shapes, given the input's extents.

    Parameters
    ----------
    encoder: its name, for errors.
    extents: of the input along each axis that tokens can lie on, slowest first: {"y": 224, "x": 224}, {"t": 512}.
    samples: in the batch.
    grid, prefix: of the trunk's tokens (number of special tokens) where they are known; both are tried first.
    channels_last: of maps whose shape leaves it open, where the model says so itself.
    certain: whether `prefix` was given, and not only seen at the first block.
    features_first: whether places lie behind features, where shape and weights leave it open; see `FirstBlockInput`.

    Examples:
        >>> import torch
        >>> from diagnostics.encoders.places import Places
        >>> places = Places("mine", {"y": 224, "x": 224}, samples=2, prefix=1)
        >>> print(places.of(torch.zeros(2, 197, 384), "blocks.0").grid)
        14 x 14 (y, x) + 1 prefix
        >>> print(places.of(torch.zeros(2, 49, 384), "stages.3").grid)
        7 x 7 (y, x)
    """

    encoder: str
    extents: Mapping[str, int]
    samples: int
    grid: Grid | None = None
    prefix: int | None = None
    channels_last: bool | None = None
    certain: bool = True
    features_first: bool | None = None

    def of(self, tensor: Tensor, name: str, module: nn.Module | None = None) -> Place:
        """The place of a tensor; raises where no grid fits, or several do."""
        shape = tuple(tensor.shape)
        if shape[0] == self.samples:
            place = self._of_row(shape, tuple(self.extents), module)
        elif len(shape) == 3 and shape[1] == self.samples:
            grid = self._token_grid(shape[0], tuple(self.extents))
            place = Place("time_first", shape[2], grid) if grid else None
        elif shape[0] % self.samples == 0:
            place = self._of_rows(shape, module)
        else:
            place = None
        if place is None:
            raise DiagnosticsError(
                f"{self.encoder} gives a tensor of shape {list(shape)} at {name} for an input of "
                f"{spell_grid([*self.extents.values()], [*self.extents])}, which fits no grid of it: declare its taps "
                "yourself (docs/how-to/plugins.md).",
                code="unclear",
            )
        return place

    def _of_rows(self, shape: tuple[int, ...], module: nn.Module | None) -> Place | None:
        """Frames or variates folded into the batch: the first axis of the input is that of the rows."""
        rows = shape[0] // self.samples
        first, *rest = self.extents
        if first not in ("t", "v") or rows > self.extents[first] or not rest:
            return None
        known = self.grid.prefix if self.grid else self.prefix
        extents = {axis: self.extents[axis] for axis in rest}
        inner = replace(self, extents=extents, samples=shape[0], grid=None, prefix=known)
        row = inner._of_row(shape, tuple(rest), module)
        if row is None:
            return None
        if len(shape) == 2:
            return Place("features", shape[1], Grid((rows,), (first,)), rows)
        grid = Grid((rows, *row.grid.shape), (first, *row.grid.axes), row.grid.prefix)
        return Place(row.layout, row.features, grid, rows)

    def _of_row(self, shape: tuple[int, ...], axes: tuple[str, ...], module: nn.Module | None) -> Place | None:
        if len(shape) == 2:
            return Place("features", shape[1], Grid((1,), ("t",)))
        if len(shape) == 3:
            grid = self._token_grid(shape[1], axes)
            certain = grid is not None and self.grid is not None and grid.shape == self.grid.shape
            turned = self._token_grid(shape[2], axes) if len(axes) == 1 and not certain else None
            if turned is not None and (grid is None or self._features_first(shape[1], shape[2], module)):
                return Place("channels_first", shape[1], Grid(turned.shape, axes)) if not turned.prefix else None
            return Place("tokens", shape[2], grid) if grid else None
        if len(shape) != 2 + len(axes):
            return None
        first, last = self._fits(shape[2:], axes), self._fits(shape[1:-1], axes)
        if not first and not last:
            # Strides that differ along the axes keep no proportions, and divide.
            first, last = self._divides(shape[2:], axes), self._divides(shape[1:-1], axes)
        if first and last:
            # As many features as places along a side: the model may tell, or its weights, which have as many features.
            told = self.channels_last
            first = self._features_first(shape[1], shape[-1], module) if told is None else not told
        if first:
            return Place("channels_first", shape[1], Grid(shape[2:], axes))
        return Place("channels_last", shape[-1], Grid(shape[1:-1], axes)) if last else None

    def _features_first(self, first: int, last: int, module: nn.Module | None) -> bool:
        """True if features lie on the first of two axes that both fit.

        The weights have as many, or a change showed it.
        """
        sizes = {size for p in module.parameters() for size in p.shape} if module is not None else set[int]()
        if (first in sizes) != (last in sizes):
            return first in sizes
        if self.features_first is None:
            raise DiagnosticsError(
                f"{self.encoder} has {first} by {last} numbers, and it is unclear which axis is the features: "
                f"give it an example of another size, or declare its taps yourself (docs/how-to/plugins.md).",
                code="unclear",
            )
        return self.features_first

    def _token_grid(self, tokens: int, axes: Sequence[str]) -> Grid | None:
        known = self.grid
        if "v" in axes and known is None and tokens - (self.prefix or 0) == self.extents["v"]:
            return Grid((self.extents["v"],), ("v",), self.prefix or 0)
        # Some models add their class token only after the blocks.
        if known is not None and tuple(known.axes) == tuple(axes):
            for before in dict.fromkeys((known.prefix, 0)):
                if tokens == before + known.tokens:
                    return Grid(known.shape, known.axes, before)
        guesses = dict.fromkeys((0,) if self.prefix is None else (self.prefix, 0))
        if not self.certain and len(axes) > 1:
            # Special tokens may come in after the first block, and only two axes or more show how many.
            guesses |= dict.fromkeys(range(MOST_PREFIX + 1))
        for before in guesses:
            shapes = self._shapes(tokens - before, axes)
            if len(shapes) == 1:
                return Grid(shapes[0], tuple(axes), before)
            if shapes:
                raise DiagnosticsError(
                    f"{self.encoder} has {tokens} tokens, which may be a grid of "
                    f"{' or '.join('x'.join(map(str, shape)) for shape in shapes[:3])}: declare which one.",
                    code="unclear",
                )
        # Frames of a convolution without padding divide no length.
        alone = len(axes) == 1 and axes[0] == "t" and 0 < tokens - (self.prefix or 0) <= self.extents["t"]
        return Grid((tokens - (self.prefix or 0),), ("t",), self.prefix or 0) if alone else None

    def _shapes(self, tokens: int, axes: Sequence[str]) -> list[tuple[int, ...]]:
        """The grids of so many tokens that divide the input, or keep its proportions."""
        if tokens < 1:
            return []
        first, *rest = axes
        if tuple(axes) == ("y", "x"):
            rows = round(math.sqrt(tokens * self.extents["y"] / self.extents["x"]))
            shape = (rows, tokens // rows) if rows else (0, 0)
            return [shape] if rows and math.prod(shape) == tokens and self._fits(shape, axes) else []
        if first == "v" and rest:
            count = self.extents["v"]
            return [(count, *shape) for shape in self._shapes(tokens // count, rest)] if tokens % count == 0 else []
        extent = self.extents[first]
        if not rest:
            return [(tokens,)] if extent % tokens == 0 else []
        return [
            (n, *shape)
            for n in range(1, extent + 1)
            if extent % n == 0 and tokens % n == 0
            for shape in self._shapes(tokens // n, rest)
        ]

    def _divides(self, shape: Sequence[int], axes: Sequence[str]) -> bool:
        return all(self.extents[axis] % n == 0 for axis, n in zip(axes, shape, strict=True))

    def _fits(self, shape: Sequence[int], axes: Sequence[str]) -> bool:
        """True if a map has the input's proportions, and no axis more places than the input."""
        sizes = dict(zip(axes, shape, strict=True))
        larger = any(n > self.extents[axis] for axis, n in sizes.items() if axis in "tv")
        if larger or ("v" in sizes and sizes["v"] != self.extents["v"]):
            return False
        if "y" not in sizes or "x" not in sizes:
            return True
        height, width = self.extents["y"], self.extents["x"]
        return abs(sizes["y"] * width - sizes["x"] * height) < max(height, width)


def extents_of(modality: Modality, batch: Any, encoder: str, sample: tuple[int, ...] = ()) -> dict[str, int]:
    """The extents of a preprocessed batch, by its modality; raises where the shape leaves them open.

    image [B, (channel,) y, x] or [B, y, x, channel]; video [B, (channel,) t, (channel,) y, x]; audio and text [B, t],
    or the longer of two axes; series [B, t], [B, variate, t] or [B, t, variate], of which the shape of the raw `sample`
    [time, variate] says which is which, and otherwise time is the longer one.
    """
    tensors = tensors_in(batch)
    shape = list(tensors[0].shape[1:]) if tensors else list[int]()
    colours = (1, 3, 4)
    if modality == "image" and len(shape) in (2, 3):
        last = len(shape) == 3 and shape[2] in colours and shape[0] not in colours
        y, x = (shape[0], shape[1]) if last else (shape[-2], shape[-1])
        return {"y": y, "x": x}
    if modality == "video" and len(shape) == 4 and (shape[0] == 3) != (shape[1] == 3):
        return {"t": shape[1] if shape[0] == 3 else shape[0], "y": shape[2], "x": shape[3]}
    if modality == "video" and len(shape) == 4 and shape[0] == 3 and len(sample) == 4 and sample[0] == 3:
        return {"t": 3, "y": shape[2], "x": shape[3]}
    if modality in ("series", "audio", "text") and len(shape) in (1, 2):
        if len(shape) == 1 or modality != "series":
            return {"t": max(shape)}
        if len(sample) == 2 and sorted(sample) == sorted(shape) and sample[1] > 1:
            return {"v": sample[1], "t": sample[0]}
        return {"v": min(shape), "t": max(shape)} if min(shape) > 1 else {"t": max(shape)}
    raise DiagnosticsError(
        f"{encoder} prepares a {modality} as a tensor of shape {shape}, which does not show its axes: declare its "
        "taps yourself (docs/how-to/plugins.md).",
        code="unclear",
    )


_ROOTS = ("blocks", "stages", "layers", "levels", "network")
_WITHIN_STAGE = ("blocks", "layers")
_SIDE = ("decoder", "predictor", "quantizer", "feature_extractor", "head", "attn_pool", "cls_attn_blocks")
_HEADS = (
    *("head", "head_dist", "fc", "classifier", "classif", "last_linear", "attn_pool", "pre_logits"),
    *("conv_head", "final_conv", "final_layer", "incre_modules", "downsamp_modules"),
)
# Their blocks see only part of the channels or one branch, so the stage is the smallest part that holds all the model
# knows.
_WHOLE_STAGES = ("CrossStage", "CrossStage3", "MultiScaleBlock")
# Below this share of the trunk's parameters, what was guessed is a side branch or one stage of many.
_MUCH = 0.25
"""Of the parameters of a stack: another one of that size is no stem."""
_LEAST_SHARE = 0.5
_NEARLY_ALL = 0.9
_LEAST_OF_STAGE = 0.8
_LEAST_CHAIN = 3

_Named = tuple[str, nn.Module]


def find_blocks(model: nn.Module, encoder: str) -> list[str]:
    """Qualified names of the blocks, in the order in which they stand; raises when there is no stack of them."""
    blocks = _root_by_name(model)
    for search in (_roots_by_number, _largest_container, _chain):
        if not blocks:
            candidates = search(model)
            blocks = candidates if _share(model, candidates) >= _LEAST_SHARE else []
    blocks = blocks or _plain_layers(model)
    if not blocks:
        raise DiagnosticsError(
            f"{encoder} ({type(model).__name__}) has no stack of blocks that could be found: declare its taps yourself "
            "(docs/how-to/plugins.md).",
            code="no-trunk",
        )
    return [name for name, _ in blocks]


def earlier_stack(model: nn.Module, blocks: Sequence[str], early: Collection[str]) -> str:
    """The name of another stack of blocks before the first of `blocks` that holds much of the weights, or ""."""
    chosen = _size([(name, model.get_submodule(name)) for name in blocks])
    for name, module in model.named_modules():
        children = _children(name, module) if isinstance(module, (nn.Sequential, nn.ModuleList)) else []
        same = len(children) > 1 and len({type(child) for _, child in children}) == 1
        ran = same and all(_composite(child) and key in early for key, child in children)
        if ran and _size(children) >= _MUCH * chosen:
            return name
    return ""


def _root_by_name(model: nn.Module) -> list[_Named]:
    for name in _ROOTS:
        root = getattr(model, name, None)
        if isinstance(root, (nn.Sequential, nn.ModuleList)) and len(_children(name, root)) > 0:
            return [block for child in _children(name, root) for block in _stage(*child)]
    return []


def _roots_by_number(model: nn.Module) -> list[_Named]:
    """`layer1` ... `layer4` of a ResNet, `s1` ... `s4` of a RegNet, `repeat`, `repeat_1`, `repeat_2`."""
    series: dict[str, list[_Named]] = {}
    for name, child in _core(model):
        match = re.fullmatch(r"([a-z_]+?)(_?\d+)?", name.rsplit(".", 1)[-1])
        if match and _stage(name, child) != [(name, child)]:
            series.setdefault(match[1], []).append((name, child))
    most = max((parts for parts in series.values() if len(parts) > 1), key=_size, default=[])
    # pyrefly: ignore[bad-argument-type]
    return [block for child in most for block in _stage(*child)]


def _chain(model: nn.Module) -> list[_Named]:
    """Stages and blocks of different kinds, one after the other: `denseblock1` ..., `Mixed_5b` ..., `cell_0` ..."""
    parts = [part for part in _core(model) if part[0].split(".")[0] not in (*_SIDE, *_HEADS) and _deep(part[1])]
    blocks = [block for part in parts for block in _stage(*part)]
    return blocks if len(blocks) >= _LEAST_CHAIN else []


def _plain_layers(model: nn.Module) -> list[_Named]:
    """Of a network of single layers the activations, each the end of one: VGG.

    Where those are no modules, its convolutions, or else its linear layers: LeNet.
    """
    core = [layer for name, child in _core(model) if name not in _HEADS for layer in _single_layers(name, child)]
    if _weight_layers(model) < _LEAST_CHAIN or any(_composite(child) for _, child in core):
        return []
    ends = [(name, child) for name, child in core if type(child).__module__ == "torch.nn.modules.activation"]
    layers = [layer for layer in core if isinstance(layer[1], _WEIGHTED)]
    return ends or [layer for layer in layers if not isinstance(layer[1], nn.Linear)] or layers


def _single_layers(name: str, module: nn.Module) -> list[_Named]:
    """The layers of a container and of those within it, or the module itself."""
    if not isinstance(module, nn.Sequential):
        return [(name, module)]
    return [layer for child in _children(name, module) for layer in _single_layers(*child)]


def _core(model: nn.Module) -> list[_Named]:
    """The model's own children, or those of the one container among them that holds nearly all of the trunk."""
    for name, child in model.named_children():
        if name not in _HEADS and isinstance(child, nn.Sequential) and _share(model, [(name, child)]) >= _NEARLY_ALL:
            return _children(name, child)
    return _children("", model)


def _largest_container(model: nn.Module) -> list[_Named]:
    best: list[_Named] = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Sequential, nn.ModuleList)) or any(part in _SIDE for part in name.split(".")):
            continue
        children = _children(name, module)
        if len(children) < 2 or not all(_composite(child) for _, child in children):
            continue
        kinds = Counter(type(child) for _, child in children)
        if kinds.most_common(1)[0][1] >= 0.8 * len(children) and _size(children) > _size(best):
            best = children
    return [block for child in best for block in _stage(*child)]


def _stage(name: str, module: nn.Module) -> list[_Named]:
    """The blocks of a stage, or the module itself where it is a block."""
    if type(module).__name__ in _WHOLE_STAGES:
        return [(name, module)]
    children = _children(name, module)
    if not isinstance(module, (nn.Sequential, nn.ModuleList)):
        parts = [(f"{name}.{key}", child) for key, child in module.named_children() if key in _WITHIN_STAGE]
        parts = [part for part in parts if isinstance(part[1], (nn.Sequential, nn.ModuleList))]
        if parts:
            children = _children(*parts[0])
        elif not all(re.fullmatch(r"b\d+", key) for key, _ in module.named_children()):
            return [(name, module)]
    blocks = [child for child in children if _composite(child[1])]
    # What else stands in a stage (a norm, a reduction before its blocks) may not be most of it.
    return blocks if blocks and _size(blocks) >= _LEAST_OF_STAGE * _size(children) else [(name, module)]


def _children(name: str, module: nn.Module) -> list[_Named]:
    before = f"{name}." if name else ""
    return [(f"{before}{key}", c) for key, c in module.named_children() if not isinstance(c, nn.Identity)]


def _composite(module: nn.Module) -> bool:
    """True if it could be a block: has parts, and is more than one of torch's own layers."""
    own = type(module).__module__.startswith("torch.nn.") and not isinstance(module, (nn.Sequential, nn.ModuleList))
    return not own and next(module.children(), None) is not None


_WEIGHTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def _weight_layers(module: nn.Module) -> int:
    """The number of its convolutions and linear layers."""
    return sum(isinstance(part, _WEIGHTED) for part in module.modules())


def _deep(module: nn.Module) -> bool:
    """True if it is more than one layer with its norm and activation: a stem, a reduction, a separable convolution."""
    return _weight_layers(module) > 1 and any("norm" in type(part).__name__.lower() for part in module.modules())


def _size(modules: list[_Named]) -> int:
    return sum(p.numel() for _, module in modules for p in module.parameters())


def _share(model: nn.Module, blocks: list[_Named]) -> float:
    heads = [(name, child) for name, child in model.named_children() if name in _HEADS]
    return _size(blocks) / max(1, _size([("", model)]) - _size(heads))


@dataclass(eq=False)
class Step:
    """One call of a module: the first tensor that it took and gave, as they were at that moment.

    Of a block, `branches` are the activations that it gives side by side, each by its place among all tensors that it
    gives; without those that it hands on unchanged.
    """

    name: str
    call: int
    took: Tensor | None
    gave: Tensor
    branches: dict[int, Tensor] = field(default_factory=dict[int, Tensor])


@dataclass
class Trace:
    """A dry pass: the blocks in order of execution, and every module that ended after the last of them."""

    calls: Counter[str] = field(default_factory=Counter[str])
    blocks: list[Step] = field(default_factory=list[Step])
    tail: list[Step] = field(default_factory=list[Step])
    early: list[str] = field(default_factory=list[str])
    """Modules that ended before the first block began."""
    finals: list[Tensor] = field(default_factory=list[Tensor])
    """All that the pass gave."""
    taken: list[Tensor] = field(default_factory=list[Tensor])
    """All that the first block took."""

    @property
    def entered(self) -> dict[int, Tensor]:
        """The activations that the first block took.

        Those of each branch where it takes as many as it gives, else the first.
        """
        gave = self.blocks[0].branches
        taken = {i: tensor for i, tensor in enumerate(self.taken) if i in gave and tensor.shape == gave[i].shape}
        if list(taken) == list(gave):
            return taken
        # A mask or a bias may stand before the activations, which most blocks hand on in their own shape.
        like = [i for i, tensor in enumerate(self.taken) if tensor.shape == self.blocks[0].gave.shape]
        first = like[0] if like and self.taken[0].shape != self.blocks[0].gave.shape else 0
        return {first: self.taken[first]}


def dry_run(module: nn.Module, blocks: Sequence[str], batch: Any, forward: Forward, encoder: str) -> Trace:
    """The trace of one pass; raises when it fails, or when blocks do not run or run inside one another."""
    trace = Trace()
    samples = len(tensors_in(batch)[0])
    inside = tuple(f"{name}." for name in blocks)
    open_blocks: list[tuple[str, Any, list[Tensor]]] = []
    entering: dict[str, Tensor | None] = {}

    def begin(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if name not in blocks and not trace.blocks:
            return
        given = args or tuple(kwargs.values())
        taken = first_tensor(given[:1])
        took = taken.clone() if isinstance(taken, Tensor) else None
        if name not in blocks:
            entering[name] = took
            return
        if open_blocks:
            raise DiagnosticsError(
                f"{encoder} runs {name} inside {open_blocks[-1][0]}: declare its taps yourself "
                f"(docs/how-to/plugins.md).",
                code="no-trunk",
            )
        # What else a block takes (position codes, a map's size, global queries) is no activation of the trunk.
        if not trace.blocks and not _holds_features(took, samples):
            raise _several(encoder, name)
        # Cloned, as a later operation may work in place.
        every = [tensor.clone() for tensor in tensors_in(given)]
        if not trace.blocks:
            trace.taken = every
        open_blocks.append((name, took, every))

    def end(call: Call) -> None:
        name = call.name
        number = trace.calls[name]
        trace.calls[name] += 1
        if not trace.blocks and not open_blocks:
            trace.early.append(name)
        if name in blocks:
            _, took, every = open_blocks.pop()
            trace.tail.clear()
            branches = {i: t.clone() for i, t in _branches(call.output, every, name, encoder, samples).items()}
            trace.blocks.append(Step(name, number, took, next(iter(branches.values())), branches))
        elif trace.blocks:
            gave = first_tensor(call.output)
            if isinstance(gave, Tensor):
                trace.tail.append(Step(name, number, entering.pop(name, None), gave.clone()))

    names = [name for name, _ in module.named_modules() if name and not name.startswith(inside)]
    # Not inference mode: some models keep tables that they make in their first pass.
    with (
        explaining(f"{encoder} does not run on an example", "try another size"),
        hook_calls(module, names, begin, end),
        evaluating(module),
        torch.no_grad(),
    ):
        trace.finals = tensors_in(forward(module, batch))
    idle = [name for name in blocks if not trace.calls[name]]
    if idle:
        raise DiagnosticsError(
            f"{encoder} never runs {idle[0]}, which is one of its blocks: declare its taps yourself "
            f"(docs/how-to/plugins.md).",
            code="bad-tap",
        )
    return trace


def _branches(value: Any, taken: Sequence[Tensor], name: str, encoder: str, samples: int) -> dict[int, Tensor]:
    """The activations among what a block gives: its first tensor, and its like that it changed (no recurrent state)."""
    first = first_tensor(value)
    if not _holds_features(first, samples):
        raise _several(encoder, name)
    beside: list[Any] = list(value) if isinstance(value, (tuple, list)) else []
    branches = {
        i: tensor
        for i, tensor in enumerate(tensors_in(value))
        if tensor is first
        or (any(tensor is part for part in beside) and len(tensor) % samples == 0 and _alike(tensor, first))
    }
    if len(branches) > 1:
        branches = {
            i: t for i, t in branches.items() if not any(t.shape == u.shape and torch.equal(t, u) for u in taken)
        }
    return branches or {0: first}


def _holds_features(value: Any, samples: int) -> bool:
    """True of activations: tokens or a map, or of a network without places a vector for each sample."""
    return isinstance(value, Tensor) and (
        value.ndim > 2 or (value.ndim == 2 and len(value) == samples and value.is_floating_point())
    )


def _alike(tensor: Tensor, first: Tensor) -> bool:
    """True if it is activations as the first tensor is, of other resolutions too.

    The square attention beside a map is none.
    """
    if not tensor.is_floating_point() or tensor.ndim != first.ndim:
        return False
    small, large = sorted((first.shape[-1], tensor.shape[-1]))
    return first.ndim < 4 or tensor.shape[-1] != tensor.shape[-2] or large % small == 0


def _several(encoder: str, name: str) -> DiagnosticsError:
    return DiagnosticsError(
        f"{encoder} ({name} does not pass on a tensor of activations first) cannot be tapped automatically: "
        f"declare its taps yourself (docs/how-to/plugins.md).",
        code="no-trunk",
    )
