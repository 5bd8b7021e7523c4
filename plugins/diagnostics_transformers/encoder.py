"""The encoder of a model of transformers.

Its taps, the order of their tokens, and its outputs as its makers name them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import PreTrainedModel

from diagnostics.plugin import (
    DiagnosticsError,
    Encoder,
    Forward,
    Grid,
    Site,
    Tap,
    TorchEncoder,
    describe,
    first_tensor,
    largest_move,
    order_of_axes,
    part_of,
    tokens_at,
    tokens_of_cells,
)
from diagnostics_transformers.load import Loaded, lacking, refuse_missing
from diagnostics_transformers.maker_names import maker_names
from diagnostics_transformers.passes import Passes, prepare
from diagnostics_transformers.towers import (
    CHAINS,
    FIRST,
    Prepared,
    Tower,
    Wanted,
    arguments,
    children,
    choose,
    inner_layers,
    is_side,
    kind_of,
    model_type,
    refuse_guess,
    stacks,
)

# Where tokens lie in towers that keep them in an order of their own, and a check that those of others lie in time.
#
# Discovery verifies the order of images and videos itself.


SHARES = (0.3, 0.8)
"""Of a sample's length: where it is changed."""

TRAILING = ("llama4_vision_model",)
"""Their special tokens stand behind those of the patches."""

_FILLED = ("mllama_vision_model",)
"""Behind a class token and the patches comes what fills up: zeros to a multiple of 8 tokens, and tiles without an
image.
"""


def with_order(tower: nn.Module, tap: Tap) -> Tap:
    """A tap as discovered, with the order of its tokens where the model is known to have one."""
    kind = model_type(tower)
    order, site = _ORDERS.get(kind), tap.site
    if kind in _FILLED and site is not None and tap.grid.prefix > 1:
        return replace(tap, grid=replace(tap.grid, prefix=1), site=replace(site, trailing=tap.grid.prefix - 1))
    if order is None or site is None or site.layout != "tokens":
        return tap
    return replace(tap, site=replace(site, order=order(tower, tap)))


def _rolled(tower: Any, tap: Tap) -> tuple[int, ...]:
    """Hiera keeps windows together; each stage of fewer tokens has one step less of that to undo."""
    count = tap.grid.tokens
    encoder = tower.encoder
    for stage, (_, size) in encoder.schedule.items():
        if size[0] * size[1] == count and not tap.grid.prefix:
            return tuple(encoder.reroll(torch.arange(count).reshape(1, count, 1), stage).flatten().tolist())
    return ()


def _queries_last(_: Any, tap: Tap) -> tuple[int, ...]:
    """YOLOS: a class token, the patches, the tokens that detect."""
    queries, count = tap.grid.prefix - 1, tap.grid.tokens
    return (0, *range(1 + count, 1 + count + queries), *range(1, 1 + count)) if queries > 0 else ()


_ORDERS = {"hiera": _rolled, "yolos": _queries_last}


def packed_taps(passes: Passes, names: Sequence[str], grid: Grid, order: tuple[int, ...]) -> list[Tap]:
    """Taps of a tower that keeps the patches of all images of a batch behind one another.

    `embed`, the layers, and the first norm behind them that keeps all tokens; [B * T, F] or [1, B * T, F].
    """
    layers = tuple(f"{name}." for name in names)
    modules = passes.module.named_modules()
    norms = [n for n, part in modules if "norm" in type(part).__name__.lower() and not n.startswith(layers)]
    calls = passes.calls((*names, *norms))
    entered = passes.entering(names[0], passes.batch)
    assert entered is not None
    seen = [(names[0], entered), *((call.name, first_tensor(call.output)) for call in calls)]
    seen = [entry for entry in seen if isinstance(entry[1], Tensor)]
    last = max(i for i, (name, _) in enumerate(seen) if name in names)
    behind = [entry for entry in seen[last + 1 :] if _tokens(entry[1]) == _tokens(seen[last][1])]
    steps = [entry for entry in seen[: last + 1] if entry[0] in names] + behind[:1]
    taps: list[Tap] = []
    for i, (name, tensor) in enumerate(steps):
        mergeable = not order and not grid.prefix and all(n % 2 == 0 for n in grid.shape)
        if mergeable and 4 * _tokens(tensor) == 2 * grid.tokens:
            # Four neighbours become one, of what lies in raster order.
            grid = Grid(tuple(n // 2 for n in grid.shape), grid.axes)
        if _tokens(tensor) != 2 * (grid.prefix + grid.tokens):
            raise DiagnosticsError(
                f"{passes.name} has {_tokens(tensor)} tokens at {name} for two images of {grid.tokens} patches: it "
                f"merges them on its way, which is not supported yet.",
                code="unsupported",
            )
        site = Site(name, when="after" if i else "before", layout="packed", order=order)
        tap = Tap(name, min(1.0, i / len(names)), "trunk", tensor.shape[-1], grid, site)
        taps.append(tap if i else replace(tap, name="embed", part="embedding"))
    if len(steps) < len(names) + 1:
        raise DiagnosticsError(
            f"{passes.name} does not run all its layers once on two images: it is not supported yet.",
            code="unsupported",
        )
    return taps


def _tokens(tensor: Tensor) -> int:
    """Tokens of all samples together; 0 where they do not lie in one row."""
    if tensor.ndim == 3 and len(tensor) == 1:
        return tensor.shape[1]
    return len(tensor) if tensor.ndim == 2 else 0


def check_places(passes: Passes, tap: Tap) -> None:
    """Raise DiagnosticsError where the first tap's tokens do not stand for the places that its grid declares."""
    site, grid, prepared, name = tap.site, tap.grid, passes.prepared, passes.name
    rest = tokens_at(passes.module, tap, passes.batch, passes.forward)
    if site is None or rest is None:
        return
    if site.rows == 1 and len(rest) == 2 and torch.equal(rest[0], rest[1]):
        raise DiagnosticsError(
            f"{name} gives its first layer '{site.module}' the same for any {prepared.modality} (queries, no "
            f"places of it): it is not supported yet.",
            code="unsupported",
        )
    if "t" not in grid.axes or prepared.modality not in ("text", "audio", "series") or grid.tokens < 2:
        return
    steps = grid.shape[grid.axes.index("t")]
    for share in SHARES:
        changed, start, stop = _changed(passes.batch, prepared, share)
        tokens = tokens_at(passes.module, tap, changed, passes.forward)
        place = None if tokens is None else largest_move(tokens, rest, grid, ("t",))
        if place is None:
            return
        # Frames overlap and convolutions reach further.
        slack = 1.0 if prepared.modality == "text" else 2.0 + 0.05 * steps + prepared.reach
        middle, reach = steps * (start + stop) / 2, slack + steps * (stop - start) / 2
        if order_of_axes((steps,), np.array([[middle]]), np.array([place]), [reach]) is None:
            raise DiagnosticsError(
                f"{name} does not keep its tokens in the order of time (a change between {start:.0%} and "
                f"{stop:.0%} of the {prepared.modality} moved token {place} of {steps}): it is not supported yet.",
                code="token-order",
            )


def _changed(batch: Mapping[str, Tensor], prepared: Prepared, share: float) -> tuple[dict[str, Tensor], float, float]:
    """The batch with one place changed, and between which shares of the time that lies."""
    if prepared.modality == "text":
        ids, words = batch["input_ids"].clone(), batch["words"]
        lead = int(words[0].long().argmax())
        place = lead + int(share * int(words[0].sum()))
        ids[:, place] = ids[:, lead] if int(ids[0, place]) != int(ids[0, lead]) else ids[:, lead] + 1
        at = (place - lead) / (ids.shape[1] - lead)
        return {**batch, "input_ids": ids}, at, at
    audio = prepared.modality == "audio"
    key = "sound" if audio else "values"
    values = batch[key].clone()
    axis = 1 + [i for i, n in enumerate(values.shape[1:]) if n == prepared.extents["t"]][-1] if audio else 1
    extent = values.shape[axis]
    width = max(1, extent // 50) if audio else max(2, extent // 16)
    start = int(share * extent)
    part = part_of(values, {axis: (start, min(start + width, extent))})
    # A series is reversed, not added to: a normalisation over all of it stays as it was.
    part.copy_(part + 1.0 if audio else part.flip(axis))
    return {**batch, key: values}, start / extent, (start + width) / extent


# A tower with its preprocessing and its taps, as an encoder.


# Taps of further stacks: a detector's encoder over the maps of its backbone (DETR, RT-DETR and kin), a head's layers.
#
# A detector's two stacks are one trunk.

_BACKBONES = ("backbone", "conv_encoder")
_LISTS = ("layers", "aifi", "fpn_blocks", "pan_blocks")
"""Of an encoder's layers: over one map; or over the coarsest of several, then down and up again through all of them."""
_SHAPES = "spatial_shapes"
"""What layers take whose tokens are those of several maps, one behind the other: their sizes."""


def trunk_of_detector(passes: Passes) -> tuple[list[str], list[str]]:
    """Qualified names of the blocks of a tower's backbone, and of its encoder's layers; nothing where it has not both.

    Those of the backbone are what discovery finds in it alone.
    """
    parts = dict(passes.module.tower.named_children())
    backbone = next((key for key in _BACKBONES if key in parts), None)
    lists = dict(parts["encoder"].named_children()) if "encoder" in parts else {}
    layers = [f"tower.encoder.{key}.{i}" for key in _LISTS if key in lists for i, _ in lists[key].named_children()]
    if backbone is None or not layers:
        return [], []
    backbone = _without_shell(f"tower.{backbone}", parts[backbone])
    try:
        discovered = passes.discover(backbone, passes.prepared.extents)
    except DiagnosticsError:
        return [], []
    trunk = [(tap, tap.site) for tap in discovered.taps if tap.part == "trunk" and tap.site is not None]
    last = next(tap for tap, _ in trunk if tap.depth == 1)
    # The norm behind the last block is none.
    blocks = [site.module for tap, site in trunk if tap.depth < 1 or tap is last]
    return list(dict.fromkeys(f"{backbone}.{block}" for block in blocks)), layers


def _without_shell(name: str, module: nn.Module) -> str:
    """The name of the innermost part that holds all the weights.

    It is a backbone as its makers wrote it, whose stages discovery knows.
    """
    for key, part in module.named_children():
        if sum(p.numel() for p in part.parameters()) == sum(p.numel() for p in module.parameters()):
            return _without_shell(f"{name}.{key}", part)
    return name


def with_levels(passes: Passes, taps: Sequence[Tap], layers: Sequence[str], blocks: int) -> list[Tap]:
    """The backbone's taps, of so many `blocks`, and behind them one of every map at every layer.

    Such as `encoder.layers.0.level1`.
    """
    of_layer = {call.name: call for call in passes.calls(layers)}
    whole = blocks + len(layers)
    levels = [replace(tap, depth=tap.depth * blocks / whole) for tap in taps if tap.part != "head"]
    for i, name in enumerate(layers):
        tokens = first_tensor(of_layer[name].output)
        before = 0
        for level, size in enumerate(of_layer[name].kwargs[_SHAPES].tolist()):
            shape = (int(size[0]), int(size[1]))
            site = Site(name, padding=before, trailing=tokens.shape[1] - before - math.prod(shape))
            tap, depth = f"{_short(name)}.level{level}", (blocks + i + 1) / whole
            levels.append(Tap(tap, depth, "trunk", tokens.shape[2], Grid(shape, ("y", "x")), site))
            before += math.prod(shape)
    return levels


def layers_of_head(passes: Passes, head: str, low: float, high: float) -> list[Tap]:
    """Taps of the layers that a head stacks, evenly between two depths; nothing where their tokens fit no grid.

    Tokens of a grid that the configuration names, after at most a few special ones; or two for each place, as a
    predictor has that is given the context and asked for its targets: the targets are the grid then, the context its
    prefix.
    """
    names = [f"{head}.{name}" for name in inner_layers(passes.module.get_submodule(head))]
    calls = passes.calls(names) if names else []
    taps: list[Tap] = []
    for i, name in enumerate(names):
        outputs = [first_tensor(call.output) for call in calls if call.name == name]
        outputs = [output for output in outputs if isinstance(output, Tensor)]
        places = _places(outputs[0], passes.prepared) if len(outputs) == 1 else None
        if places is None:
            return []
        grid, order = places
        depth = low + (high - low) * (i + 1) / (len(names) + 1)
        taps.append(Tap(_short(name), depth, "head", outputs[0].shape[-1], grid, Site(name, order=order)))
    return taps


def _places(tokens: Tensor, prepared: Prepared) -> tuple[Grid, tuple[int, ...]] | None:
    """The grid of a layer's tokens and the order in which they lie; None where they fit no grid."""
    axes = tuple(prepared.extents)
    for shape in prepared.places if tokens.ndim == 3 and not prepared.packed else ():
        more = tokens.shape[1] - math.prod(shape)
        if 0 <= more <= 1:
            return Grid(shape, axes, more), ()
        if more == math.prod(shape):
            # Sorted by place: the context of a place, then its target.
            return Grid(shape, axes, more), (*range(0, 2 * more, 2), *range(1, 2 * more, 2))
    return None


# Where a wrapper of another library's models keeps them.
_WRAPPED = ("timm_model", "_backbone")
MOST_PREFIX = 16
"""More special tokens than that before a grid are not taken for such."""


def encoder_of(loaded: Loaded, name: str, tower: str | None = None, wanted: Wanted | None = None) -> TorchEncoder:
    """The encoder of a loaded model; DiagnosticsError where its taps are not certain."""
    place, part, projection = choose(loaded, tower)
    if getattr(part, "config", None) is None:
        # An encoder that is no model of its own goes by the configuration of the whole.
        part.config = loaded.model.config
    prepared = prepare(part, loaded.source, name, wanted or Wanted())
    refuse_guess(loaded, prepared)
    module = Tower(part, projection).eval()
    passes = Passes(name, module, prepared)
    taps, output, left_out = _taps_of(passes)
    taps = _without_silence(_with_all_weights(loaded, place, taps), prepared)

    drawn = next((n for n, m in loaded.model.named_modules() if m is projection), None)
    # Without the model, whose other towers would stay in memory.
    bare = replace(loaded, model=nn.Identity())

    def fresh() -> nn.Module:
        other = bare.fresh()
        return Tower(other.get_submodule(place), other.get_submodule(drawn) if drawn else None)

    def sized_for(sample: np.ndarray) -> Encoder | None:
        if np.shape(sample) == np.shape(prepared.example) or np.ndim(sample) != 1:
            return None
        return encoder_of(loaded, name, tower, replace(wanted or Wanted(), length=len(sample)))

    encoder = TorchEncoder(
        name,
        prepared.modality,
        module,
        taps,
        output,
        preprocess=prepared.preprocess,
        example=prepared.example,
        forward=passes.forward,
        fresh=fresh,
        configuration="; ".join(part for part in (prepared.description, *left_out) if part),
        sized_for=sized_for if prepared.any_length else None,
        covers=lambda shape: _covered(prepared, taps, output, shape),
        valid=lambda batch, tap: _valid(prepared, batch, tap),
        rate=prepared.rate,
    )
    return encoder.replace(maker_names=maker_names(encoder))


def _without_silence(taps: Sequence[Tap], prepared: Prepared) -> list[Tap]:
    """The taps without the tokens behind the end of a sound.

    Its features pad it to a length of their own (Whisper's 30 s).
    """
    if prepared.modality != "audio" or prepared.valid is None:
        return list(taps)
    batch = default_collate([prepared.preprocess(prepared.example)])
    sound_taps: list[Tap] = []
    for tap in taps:
        heard = prepared.valid(batch, tap) if tap.grid.axes == ("t",) else None
        if heard is not None and tap.site is not None and tap.site.rows == 1 and not tap.site.order:
            tokens = max(1, int(heard[0].sum()))
            site = replace(tap.site, trailing=tap.site.trailing + tap.grid.tokens - tokens)
            tap = replace(tap, grid=Grid((tokens,), ("t",), tap.grid.prefix), site=site)
        sound_taps.append(tap)
    return sound_taps


def _whole(tap: Tap) -> Tap:
    """The tap with the tokens that it leaves out at its end."""
    trailing = tap.site.trailing if tap.site is not None and tap.grid.axes == ("t",) else 0
    return replace(tap, grid=Grid((tap.grid.tokens + trailing,), ("t",), tap.grid.prefix)) if trailing else tap


def _valid(prepared: Prepared, batch: Any, tap: Tap) -> Tensor | None:
    valid = prepared.valid(batch, _whole(tap)) if prepared.valid is not None else None
    valid = valid[:, : tap.grid.tokens] if valid is not None else None
    return None if valid is None or bool(valid.all()) else valid


def _covered(
    prepared: Prepared, taps: Sequence[Tap], output: str, shape: tuple[int, ...]
) -> tuple[tuple[float, float], ...]:
    """The part that the output tap's tokens cover of what all of them would."""
    covered = prepared.covers(shape)
    tap = next(tap for tap in taps if tap.name == output)
    whole = _whole(tap)
    if whole is tap or len(covered) != 1:
        return covered
    start, stop = covered[0]
    return ((start, start + (stop - start) * tap.grid.tokens / whole.grid.tokens),)


def _taps_of(passes: Passes) -> tuple[list[Tap], str, list[str]]:
    """Taps, the output tap's name, and what has no tap, in words."""
    tower = passes.module.tower
    if (kind := model_type(tower)) in CHAINS:
        return _of_chain(passes, CHAINS[kind])
    blocks, layers = trunk_of_detector(passes)
    # Layers that take the tokens of several maps at once (Deformable DETR).
    if layers and _SHAPES in arguments(passes.module.get_submodule(layers[0])):
        taps, _, left_out = _of_stack(passes, blocks)
        taps = with_levels(passes, taps, layers, len(blocks))
        finest = next(tap for tap in taps if tap.site is not None and tap.site.module == layers[-1])
        return taps, finest.name, [part for part in left_out if not part.endswith(" encoder")]
    errors: list[DiagnosticsError] = []
    for names in [*([[*blocks, *layers]] if layers else []), *stacks(passes.module)]:
        try:
            return _of_stack(passes, names)
        except DiagnosticsError as error:
            errors.append(error)
        except Exception as error:
            # Layers that hand on something of their own shape fail wherever it is read.
            errors.append(
                DiagnosticsError(
                    f"{passes.name} cannot be tapped ({describe(error)}): it is not supported yet.", code="unsupported"
                )
            )
    raise errors[0]


def _of_stack(passes: Passes, names: Sequence[str] | None) -> tuple[list[Tap], str, list[str]]:
    tower, prepared = passes.module.tower, passes.prepared
    grid, packed = _grid(passes, names)
    if packed:
        assert names is not None and grid is not None
        taps = _named(packed_taps(passes, names, grid, _order_of_packed(passes, names[0], grid)))
        return taps, taps[-1].name, []
    # Without a stack of its own there is no first layer to count tokens at: one special token or none is tried.
    likely = [Grid(shape, tuple(prepared.extents), 1) for shape in prepared.places if names is None]
    # By itself, discovery looks at the model as its makers wrote it.
    place = "tower" if names is None else ""
    place = next((f"{place}.{key}" for key in _WRAPPED if names is None and hasattr(tower, key)), place)
    discovered = passes.discover(
        place,
        prepared.extents,
        blocks=names,
        trunk=_trunk(passes),
        grid=grid or next(iter(likely), None),
        prefix=grid.prefix if grid is not None else None,
        with_order=partial(with_order, tower),
    )
    placed = [
        replace(tap, site=replace(tap.site, module=f"{place}.{tap.site.module}")) if place and tap.site else tap
        for tap in discovered.taps
    ]
    taps = _named(placed)
    kind = model_type(tower)
    if kind in FIRST and taps[0].site is not None:
        taps[0] = replace(taps[0], site=replace(taps[0].site, module=FIRST[kind], item=0))
    check_places(passes, taps[0])
    known = {tap.grid.shape for tap in taps if tap.part != "head"} | set(prepared.places)
    placeless = [tap.name for tap in taps if tap.part == "head" and not _has_places(tap, known)]
    taps = _with_inner_layers(passes, [tap for tap in taps if tap.name not in placeless])
    left_out = [f"no tap at {_short(tap)}" for tap in (*discovered.left_out, *placeless)]
    return _ended(taps, _short(discovered.output_tap), left_out)


def _trunk(passes: Passes) -> Forward | None:
    """The bare encoder's own pass, where the tower is one with a decoder or a head behind it."""
    tower = passes.module.tower
    base = getattr(tower, "base_model", tower)
    if base is tower or not isinstance(base, PreTrainedModel) or kind_of(base) != kind_of(tower):
        return None
    takes = arguments(base)
    return lambda _, batch: base(**{key: value for key, value in passes.arguments(batch).items() if key in takes})


def _of_chain(passes: Passes, parts: Sequence[tuple[str, tuple[str, ...], int]]) -> tuple[list[Tap], str, list[str]]:
    """Taps of stacks that run one after the other, each with its own grid: (list of layers, axes, special tokens)."""
    taps: list[Tap] = []
    output = ""
    for i, (place, axes, special) in enumerate(parts):
        extents = {axis: n for axis, n in passes.prepared.extents.items() if axis in axes}
        grid = Grid(tuple(extents.values()), axes, special) if axes == ("t",) else None
        discovered = passes.discover("", extents, blocks=children(passes.module, place), grid=grid, prefix=special)
        last = i == len(parts) - 1
        for tap in discovered.taps:
            if (tap.part == "embedding" and i) or (tap.part == "head" and not last):
                continue
            taps.append(replace(tap, depth=tap.depth if tap.part == "head" else (i + tap.depth) / len(parts)))
        output = _short(discovered.output_tap)
    return _named(taps), output, []


def _grid(passes: Passes, names: Sequence[str] | None) -> tuple[Grid | None, bool]:
    """The trunk's grid by the configuration, and whether all samples lie in one row.

    There is one if as many tokens enter the first layer.
    """
    seen = passes.entering(names[0], passes.batch) if names else None
    if seen is None:
        return None, False
    prepared = passes.prepared
    axes = tuple(prepared.extents)
    if prepared.modality == "image" and (seen.ndim == 2 or (seen.ndim == 3 and len(seen) == 1)):
        side = prepared.places[0]
        more = seen.shape[-2] // 2 - math.prod(side)
        return Grid(side, axes, more if 0 <= more <= MOST_PREFIX else 0), True
    if axes == ("t",) and not prepared.places and seen.ndim == 3 and len(seen) == 2:
        # Frames of convolutions, whose number says nothing else.
        return Grid((seen.shape[1] - prepared.special,), axes, prepared.special), False
    if model_type(passes.module.tower) in TRAILING:
        # Left to discovery, which looks where the special tokens stand.
        return None, False
    for shape in prepared.places:
        more = seen.shape[1] - math.prod(shape)
        if seen.ndim == 3 and seen.shape[0] == 2 and (0 <= more <= MOST_PREFIX or more == prepared.special):
            return Grid(shape, axes, more), False
    return None, False


def _order_of_packed(passes: Passes, first: str, grid: Grid) -> tuple[int, ...]:
    """Order of the tokens of an image that is packed into patches; nothing for raster order."""

    def tokens(changed: np.ndarray) -> Tensor:
        cell = passes.prepared.extents["y"] // len(changed)
        image = np.kron(changed, np.full((cell, cell), 255)).astype(np.uint8)
        seen = passes.entering(first, default_collate([passes.prepared.preprocess(image)]))
        assert seen is not None
        return seen.flatten(0, -2)

    order = tokens_of_cells(grid, tokens)
    if order is None:
        raise DiagnosticsError(
            f"The patches of an image do not give one token each in {passes.name}: it is not supported yet.",
            code="unsupported",
        )
    return () if order == sorted(order) else (*range(grid.prefix), *order)


def _with_inner_layers(passes: Passes, taps: list[Tap]) -> list[Tap]:
    """Taps of the layers that a head stacks (a predictor, a decoder), before the head's own."""
    with_inner: list[Tap] = []
    for tap in taps:
        if tap.part == "head" and tap.site is not None and tap.site.when == "after":
            with_inner += layers_of_head(
                passes, tap.site.module, low=with_inner[-1].depth if with_inner else 0.0, high=tap.depth
            )
        with_inner.append(tap)
    return with_inner


def _named(taps: Sequence[Tap]) -> list[Tap]:
    """With the names that their modules have in the tower; of a module that runs again, with the number of its call."""
    named: list[Tap] = []
    for tap in taps:
        name = _short(tap.name)
        if any(other.name == name for other in named):
            name = f"{name}.{tap.site.call if tap.site is not None else len(named)}"
        named.append(replace(tap, name=name))
    return named


def _ended(taps: list[Tap], output: str, left_out: list[str]) -> tuple[list[Tap], str, list[str]]:
    """With the output that the trunk gives: a codec's encoder ends before what it quantizes and decodes."""
    ends = [tap for tap in taps if tap.part == "trunk" and not is_side(tap.name)]
    if is_side(output) and ends:
        known = {tap.grid.shape for tap in ends}
        beyond = [tap for tap in taps if tap.part == "trunk" and tap not in ends]
        left_out = [*left_out, *(f"no tap at {tap.name}" for tap in beyond if not _has_places(tap, known))]
        taps = [tap for tap in taps if tap not in beyond or _has_places(tap, known)]
        taps = [replace(tap, part="head", depth=1.5) if tap in beyond else tap for tap in taps]
        output = ends[-1].name
    # Of several things that the last layer hands on, the first is what goes on.
    first = output.rpartition(".branch")[0] + ".branch0"
    return taps, first if any(tap.name == first for tap in taps) else output, left_out


def _has_places(tap: Tap, known: set[tuple[int, ...]]) -> bool:
    """True if tokens of a head stand for places: as many as the trunk's, or a map; queries of a decoder do not."""
    site = tap.site
    mapped = site is not None and (site.layout.startswith("channels") or site.rows > 1)
    return mapped or tap.grid.tokens == 1 or tap.grid.shape in known


def _short(name: str) -> str:
    """A module's name in the tower."""
    return name.removeprefix("tower.")


def _with_all_weights(loaded: Loaded, place: str, taps: list[Tap]) -> list[Tap]:
    """Without the heads whose weights were not in the files; raises where weights of the trunk were not."""
    prefix = f"{place}." if place else ""
    heads = {tap.name: _short(tap.site.module) for tap in taps if tap.part == "head" and tap.site is not None}
    refuse_missing(loaded, prefix, {*heads.values(), "projection"})
    return [tap for tap in taps if tap.name not in heads or not lacking(loaded, prefix, heads[tap.name])]
