"""A tower with its preprocessing and its taps, as an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import PreTrainedModel

from diagnostics import DiagnosticsError, Encoder, Grid, Site, Tap, TorchEncoder, discover
from diagnostics.encoders.perturbation import tensor_at
from diagnostics.errors import describe
from diagnostics_transformers.checks import check_places
from diagnostics_transformers.detectors import over_levels, trunk_of_detector, with_levels
from diagnostics_transformers.handed_out import maker_names
from diagnostics_transformers.heads import layers_of_head
from diagnostics_transformers.inputs import prepare
from diagnostics_transformers.load import Loaded, lacking, refuse_missing
from diagnostics_transformers.orders import TRAILING, with_order
from diagnostics_transformers.packed import packed_taps
from diagnostics_transformers.patches import tokens_of_cells
from diagnostics_transformers.prepared import Arguments, Prepared, Wanted, setting
from diagnostics_transformers.stacks import CHAINS, FIRST, inner_layers, is_side, stacks
from diagnostics_transformers.towers import Tower, arguments, choose, kind_of

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
    module = Tower(part, projection).eval()
    discovery = _Discovery(name, module, prepared)
    taps, output, left_out = discovery.taps()
    taps = _without_silence(_with_all_weights(loaded, place, projection, taps), prepared)

    drawn = [n for n, m in loaded.model.named_modules() if m is projection] if projection is not None else []
    # Without the model, whose other towers would stay in memory.
    bare = replace(loaded, model=nn.Identity())

    def fresh() -> nn.Module:
        other = bare.fresh()
        again = other.get_submodule(place) if place else other
        return Tower(again, other.get_submodule(drawn[0]) if drawn else None)

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
        prepared.preprocess,
        prepared.example,
        forward=discovery.forward,
        fresh=fresh,
        configuration="; ".join(part for part in (prepared.description, *left_out) if part),
        sized_for=sized_for if prepared.any_length else None,
        covers=lambda shape: _covered(prepared, taps, output, shape),
        valid=lambda batch, tap: _valid(prepared, batch, tap),
        rate=prepared.rate,
    )
    return encoder.replace(maker_names=maker_names(encoder))


def _without_silence(taps: Sequence[Tap], prepared: Prepared) -> list[Tap]:
    """The taps without the tokens behind the end of a sound that its features pad to a length of their own (Whisper's 30 s)."""
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
    """What the output tap's tokens cover of what all of them would."""
    covered = prepared.covers(shape) if prepared.covers is not None else tuple((0.0, float(n)) for n in shape)
    tap = next(tap for tap in taps if tap.name == output)
    whole = _whole(tap)
    if whole is tap or len(covered) != 1:
        return covered
    start, stop = covered[0]
    return ((start, start + (stop - start) * tap.grid.tokens / whole.grid.tokens),)


class _Discovery:
    """Finds a tower's taps: the form of its input with which it runs, its stack of layers, and where their tokens lie."""

    def __init__(self, name: str, module: Tower, prepared: Prepared) -> None:
        self.name, self.module, self.prepared = name, module, prepared
        other = np.array(prepared.example)
        sample = prepared.preprocess(prepared.example)
        self.batch: Any = default_collate([sample, prepared.preprocess(_changed(other))])
        self.arguments = self._form()

    def forward(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Any:
        return module(self.arguments(batch))

    def _form(self) -> Arguments:
        """The first way to give the input with which the model runs."""
        forms = self.prepared.forms or [self.prepared.arguments]
        first: Exception | None = None
        for form in forms:
            try:
                with torch.no_grad():
                    self.module(form(self.batch))
                return form
            except Exception as error:
                first = first or error
        assert first is not None
        raise DiagnosticsError(
            f"{self.name} ({type(self.module.tower).__name__}) does not run on {self.prepared.modality} alone ({describe(first)}): "
            "it is not supported yet."
        ) from first

    def taps(self) -> tuple[list[Tap], str, list[str]]:
        """Taps, the output tap's name, and what has no tap, in words."""
        first: DiagnosticsError | None = None
        kind = getattr(self.module.tower.config, "model_type", "")
        if kind in CHAINS:
            return self.chain(CHAINS[kind])
        extents = self.prepared.extents
        blocks, layers = trunk_of_detector(self.module, self.batch, self.name, extents, self.forward)
        if over_levels(self.module, layers):
            taps, _, left_out = self._of_stack(blocks)
            taps = with_levels(taps, layers, len(blocks), self.module, self.batch, self.forward)
            finest = next(tap for tap in taps if tap.site is not None and tap.site.module == layers[-1])
            return taps, finest.name, [part for part in left_out if not part.endswith(" encoder")]
        for names in [*([[*blocks, *layers]] if layers else []), *stacks(self.module)]:
            try:
                return self._of_stack(names)
            except DiagnosticsError as error:
                first = first or error
            except Exception as error:
                # Layers that hand on something of their own shape fail wherever it is read.
                first = first or DiagnosticsError(
                    f"{self.name} cannot be tapped ({describe(error)}): it is not supported yet."
                )
        assert first is not None
        raise first

    def _of_stack(self, names: Sequence[str] | None) -> tuple[list[Tap], str, list[str]]:
        grid, order, packed = self._grid(names)
        # Without a stack of its own there is no first layer to count tokens at: one special token or none is tried.
        likely = [Grid(shape, tuple(self.prepared.extents), 1) for shape in self.prepared.places if names is None]
        if packed:
            assert names is not None and grid is not None
            taps = packed_taps(self.module, names, self.batch, self.forward, grid, order, self.name)
            return [replace(tap, name=_short(tap.name)) for tap in taps], _short(taps[-1].name), []
        # By itself, discovery looks at the model as its makers wrote it.
        place = "tower" if names is None else ""
        place = next((f"{place}.{key}" for key in _WRAPPED if names is None and hasattr(self.module.tower, key)), place)
        discovered = discover(
            self.module.get_submodule(place),
            self.batch,
            self.name,
            self.prepared.extents,
            forward=lambda _, batch: self.forward(self.module, batch),
            blocks=names,
            trunk=self._trunk(),
            grid=grid or next(iter(likely), None),
            prefix=grid.prefix if grid is not None else None,
            with_order=partial(with_order, self.module.tower),
        )
        taps = _named([_within(tap, place) for tap in discovered.taps])
        kind = getattr(self.module.tower.config, "model_type", "")
        if kind in FIRST and taps[0].site is not None:
            taps[0] = replace(taps[0], site=replace(taps[0].site, module=FIRST[kind], item=0))
        check_places(self.module, taps[0], self.batch, self.forward, self.prepared, self.name)
        known = {tap.grid.shape for tap in taps if tap.part != "head"} | set(self.prepared.places)
        placeless = [tap.name for tap in taps if tap.part == "head" and not _has_places(tap, known)]
        taps = self._with_inner_layers([tap for tap in taps if tap.name not in placeless])
        left_out = [f"no tap at {_short(tap)}" for tap in (*discovered.left_out, *placeless)]
        return _ended(taps, _short(discovered.output_tap), left_out)

    def _trunk(self) -> Callable[[nn.Module, Any], Any] | None:
        """The bare encoder's own pass, where the tower is one with a decoder or a head behind it."""
        tower = self.module.tower
        base = getattr(tower, "base_model", tower)
        if base is tower or not isinstance(base, PreTrainedModel) or kind_of(base) != kind_of(tower):
            return None
        takes = arguments(base)

        def run(_: nn.Module, batch: Any) -> Any:
            return base(**{key: value for key, value in self.arguments(batch).items() if key in takes})

        return run

    def chain(self, parts: Sequence[tuple[str, tuple[str, ...], int]]) -> tuple[list[Tap], str, list[str]]:
        """Taps of stacks that run one after the other, each with its own grid: (list of layers, axes, special tokens)."""
        taps: list[Tap] = []
        output = ""
        for i, (place, axes, special) in enumerate(parts):
            extents = {axis: n for axis, n in self.prepared.extents.items() if axis in axes}
            names = [f"tower.{place}.{key}" for key, _ in self.module.tower.get_submodule(place).named_children()]
            grid = Grid(tuple(extents.values()), axes, special) if axes == ("t",) else None
            discovered = discover(
                self.module,
                self.batch,
                self.name,
                extents,
                forward=self.forward,
                blocks=names,
                grid=grid,
                prefix=special,
            )
            last = i == len(parts) - 1
            for tap in discovered.taps:
                if (tap.part == "embedding" and i) or (tap.part == "head" and not last):
                    continue
                depth = tap.depth if tap.part == "head" else (i + tap.depth) / len(parts)
                taps.append(replace(tap, depth=depth))
            output = _short(discovered.output_tap)
        return _named(taps), output, []

    def _grid(self, names: Sequence[str] | None) -> tuple[Grid | None, tuple[int, ...], bool]:
        """The trunk's grid by the configuration, if that is how many tokens enter the first layer, and their order."""
        if not names:
            return None, (), False
        seen = self._entering(names[0], self.batch)
        if seen is None:
            return None, (), False
        axes = tuple(self.prepared.extents)
        if self.prepared.modality == "image" and (seen.ndim == 2 or (seen.ndim == 3 and len(seen) == 1)):
            grid = Grid(side := self.prepared.places[0], axes, self._prefix_of_packed(seen, side))
            return grid, self._order_of_packed(names[0], grid), True
        if axes == ("t",) and not self.prepared.places and seen.ndim == 3 and len(seen) == 2:
            # Frames of convolutions, whose number says nothing else.
            return Grid((seen.shape[1] - self.prepared.special,), axes, self.prepared.special), (), False
        if setting(self.module.tower.config, "model_type") in TRAILING:
            # Left to discovery, which looks where the special tokens stand.
            return None, (), False
        for shape in self.prepared.places:
            count = int(np.prod(shape))
            more = seen.shape[1] - count
            few = 0 <= more <= MOST_PREFIX or more == self.prepared.special
            if seen.ndim == 3 and seen.shape[0] == 2 and few:
                return Grid(shape, axes, more), (), False
        return None, (), False

    def _entering(self, layer: str, batch: Any) -> Tensor | None:
        """The first tensor that a layer takes."""
        return tensor_at(self.module, Site(layer, when="before"), batch, self.forward)

    @staticmethod
    def _prefix_of_packed(seen: Tensor, side: tuple[int, ...]) -> int:
        """How many tokens of each of two images stand before its patches."""
        more = seen.shape[-2] // 2 - int(np.prod(side))
        return more if 0 <= more <= MOST_PREFIX else 0

    def _order_of_packed(self, first: str, grid: Grid) -> tuple[int, ...]:
        def tokens(image: np.ndarray) -> Tensor:
            batch = default_collate([self.prepared.preprocess(image)])
            seen = self._entering(first, batch)
            assert seen is not None
            return seen.flatten(0, -2)

        try:
            places = tokens_of_cells(tokens, self.prepared.extents["y"], grid.shape[0], grid.prefix)
        except ValueError as error:
            raise DiagnosticsError(
                f"{self.name} has no token for each patch ({error}): it is not supported yet."
            ) from error
        return () if places == sorted(places) else (*range(grid.prefix), *(grid.prefix + place for place in places))

    def _with_inner_layers(self, taps: list[Tap]) -> list[Tap]:
        """Taps of the layers that a head stacks (a predictor, a decoder), before the head's own."""
        with_inner: list[Tap] = []
        for tap in taps:
            site = tap.site
            layers = inner_layers(self.module.get_submodule(site.module)) if tap.part == "head" and site else []
            before = with_inner[-1].depth if with_inner else 0.0
            if site is not None and site.when == "after" and layers:
                with_inner += self._layers_of_head(site.module, layers, before, tap.depth)
            with_inner.append(tap)
        return with_inner

    def _layers_of_head(self, head: str, layers: list[str], low: float, high: float) -> list[Tap]:
        return layers_of_head(self.module, head, layers, (low, high), self.batch, self.forward, self.prepared)


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
    """Whether tokens of a head stand for places: as many as the trunk's, or a map; queries of a decoder do not."""
    site = tap.site
    mapped = site is not None and (site.layout.startswith("channels") or site.rows > 1)
    return mapped or tap.grid.tokens == 1 or tap.grid.shape in known


def _within(tap: Tap, place: str) -> Tap:
    """A tap of a part as one of what holds it."""
    if not place or tap.site is None:
        return tap
    return replace(tap, site=replace(tap.site, module=f"{place}.{tap.site.module}"))


def _short(name: str) -> str:
    """A module's name in the tower."""
    return name.removeprefix("tower.")


def _changed(sample: np.ndarray) -> np.ndarray:
    """Another sample of the same size."""
    if sample.ndim == 0:
        return np.asarray(" ".join(reversed(str(sample).split())))
    return np.ascontiguousarray(sample[::-1])


def _with_all_weights(loaded: Loaded, place: str, projection: nn.Module | None, taps: list[Tap]) -> list[Tap]:
    """Without the heads whose weights were not in the files; raises where weights of the trunk were not."""
    if not loaded.missing:
        return taps
    prefix = f"{place}." if place else ""
    heads = {tap.site.module.removeprefix("tower.") for tap in taps if tap.part == "head" and tap.site is not None}
    refuse_missing(loaded, prefix, heads | {"projection"})
    kept: list[Tap] = []
    for tap in taps:
        assert tap.site is not None
        module = tap.site.module
        if tap.part != "head" or not lacking(loaded, prefix, module.removeprefix("tower.")):
            kept.append(tap)
    return kept
