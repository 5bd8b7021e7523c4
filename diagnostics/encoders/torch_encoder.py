"""A torch module as an encoder.

Its identity, its forward pass, its weights redrawn or permuted, and what makers call its outputs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.encoders.attention.capture import read_attention
from diagnostics.encoders.encoder import Captured, Encoder, Reduce, keep
from diagnostics.encoders.hooks import capture_at, floating_in, replace_tensor
from diagnostics.encoders.modules import (
    by_name,
    device_of,
    digest_of,
    evaluating,
    map_tensors,
    placing,
    seeding,
    state_tensors,
    to_device,
    wanting_gradients,
)
from diagnostics.encoders.places import Discovered, discover, extents_of
from diagnostics.encoders.redraw import HiddenReads, compare_weights, copy_of, note_of, permute, redraw
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError, check_known, explaining
from diagnostics.vocabulary import Modality

# How a tap's central token depends on each place of the input: gradients through a torch module.

SEED = 0


def read_gradients(
    module: nn.Module, taps: Sequence[Tap], encoder: str, batch: Any, forward: Callable[[Any], Any]
) -> Captured:
    """`{tap: [sample, *places]}`: |gradient| of the tap's central grid token by the input, summed over channels.

    Of a token's features the gradient is taken through one projection on random signs (the same in all samples): the
    sum itself is constant behind a layer norm. Its expected square is the sum over features of the squared derivatives.
    For an even extent the central token is the one just behind the middle. Float32, on the batch's device.
    """
    floating = floating_in(batch)
    if len(floating) != 1:
        raise DiagnosticsError(
            f"{encoder} takes {len(floating)} tensors of floating point numbers, so it is unclear which to "
            f"differentiate by: a receptive field needs preprocessing that gives one.",
            code="unclear",
        )
    given = floating[0]
    leaf = given.detach().clone().requires_grad_(True)

    def reduce(tap: Tap, tokens: Tensor) -> Tensor:
        signs = torch.randint(0, 2, (tap.features,), generator=torch.Generator().manual_seed(SEED)) * 2 - 1
        return (tokens[:, tap.grid.prefix + centre(tap.grid)] * signs.to(tokens)).sum()

    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        capture_at(module, taps, encoder, reduce, whole_pass=True) as signals,
    ):
        # A copy, since a model may change its input in place.
        forward(replace_tensor(batch, given, leaf.clone()))
    result = Captured({}, {})
    axes = _place_axes(tuple(leaf.shape), taps)
    for tap in taps:
        where = axes.get(len(tap.grid.shape), [])
        if len(where) != 1:
            shape = tuple(leaf.shape)
            reason = "does not show which axes are places" if where else "has no axes that its cells divide evenly"
            result.left_out[tap.name] = f"the input of shape {shape} {reason} for a grid of {tap.grid}"
        elif not signals[tap.name].requires_grad:
            result.left_out[tap.name] = "no gradient comes through"
        else:
            (gradient,) = torch.autograd.grad(signals[tap.name], leaf, retain_graph=True, materialize_grads=True)
            result[tap.name] = _on_places(gradient, where[0], tap)
    if not result:
        reasons = "; ".join(f"{tap}: {reason}" for tap, reason in list(result.left_out.items())[:2])
        raise DiagnosticsError(f"{encoder} gives no gradients: {reasons}.", code="unsupported")
    return result


def centre(grid: Grid) -> int:
    """The central grid token; of an even extent the one just behind the middle."""
    return int(np.ravel_multi_index(tuple(n // 2 for n in grid.shape), grid.shape))


def _place_axes(shape: tuple[int, ...], taps: Sequence[Tap]) -> dict[int, list[tuple[int, ...]]]:
    """For grids of so many axes: the choices of input axes, in order, that the cells of all such taps divide evenly."""
    choices: dict[int, list[tuple[int, ...]]] = {}
    # Cells that are as many as an axis is long may stand on another, longer axis with overlap: variates against steps.
    for count in {len(tap.grid.shape) for tap in taps}:
        grids = [_cells(tap) for tap in taps if len(tap.grid.shape) == count]
        able = list(itertools.combinations(range(1, len(shape)), count))
        even = [axes for axes in able if all(shape[axis] % n == 0 for axis, n in _pairs(axes, grids))]
        if len(even) == 1 and any(shape[axis] == n for axis, n in _pairs(even[0], grids)):
            even += [
                axes for axes in able if axes not in even and all(shape[axis] > n for axis, n in _pairs(axes, grids))
            ]
        choices[count] = even
    return choices


def _pairs(axes: tuple[int, ...], grids: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    return [pair for grid in grids for pair in zip(axes, grid, strict=True)]


def _cells(tap: Tap) -> tuple[int, ...]:
    """Extents of the grid with the padding that its site leaves out."""
    dropped = tap.site.dropped if tap.site else 0
    return (tap.grid.shape[0] + dropped,) if dropped else tap.grid.shape


def _on_places(gradient: Tensor, axes: tuple[int, ...], tap: Tap) -> Tensor:
    """[sample, *places] of the part that the grid covers."""
    channels = [axis for axis in range(1, gradient.ndim) if axis not in axes]
    size = gradient.abs().float()
    size = size.sum(channels) if channels else size
    if tap.site and tap.site.dropped:
        step = size.shape[1] // _cells(tap)[0]
        size = size[:, tap.site.padding * step : size.shape[1] - tap.site.trailing * step]
    return size


class TorchEncoder(Encoder):
    """An encoder made of any torch module. It is immutable: `replace` returns a changed copy.

    The module remains the caller's, who may train it further: passes run in eval mode and without gradients, and leave
    modes, `requires_grad`, gradients, buffers, hooks, device and random state as they were.

    Parameters
    ----------
    module: the model, on any device and in any mode.
    taps: in order of execution, each with a `Site`; see `stack_taps` for the common case. By default they are
    discovered in
        one dry pass: the stack of blocks, the trunk's end and heads (see `discover`).
    output_tap: name of the tap whose activations the model's authors give to users; the trunk's last where taps are
        discovered.
    preprocess: raw sample -> tensor, or dict of tensors, without the batch axis; by default the sample as a tensor.
    example: a raw sample, for dry passes; its preprocessed form is part of the identity.
    forward: `(module, batch) -> None`; by default `module(batch)`.
    fresh: `() -> nn.Module`, newly initialised as before training; by default every module's `reset_parameters` is
        called, and a parameter that none of them changes is drawn from a Gaussian with its own mean and standard
        deviation. Buffers that hold weights are redrawn too; see docs/explanation/statistics.md for which these are.
    configuration: anything else that determines the activations, in words (architecture name, resolution).
    sized_for, covers: see `Encoder`; functions of the sample, and of its extents.
    valid: `(batch, tap) -> bool [sample, grid token]`, which tokens represent data; None where all do.
    rate: of the samples, in Hz, where it matters; see `Encoder`.

    Raises DiagnosticsError without an example, for taps that do not fit the module, and where discovery is not certain.

    Examples:
        >>> import numpy as np
        >>> from torch import nn
        >>> import diagnostics as dx
        >>> layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        >>> trunk = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        >>> model = nn.Sequential(nn.Unflatten(1, (16, 4)), nn.Linear(4, 16), trunk)
        >>> taps = dx.stack_taps("2.layers", 3, 16, dx.Grid((16,), ("t",)))
        >>> example = np.zeros(64, np.float32)
        >>> encoder = dx.TorchEncoder("mine", "series", model, taps, example=example)
        >>> encoder
        <TorchEncoder mine: series, 4 taps, output layers.2>
        >>> encoder.transform([example] * 5, tap="layers.0", pooling="mean").shape
        (5, 16)
    """

    module: nn.Module
    forward: Callable[[nn.Module, Any], Any]
    fresh_module: Callable[[], nn.Module] | None
    """The constructor's `fresh`."""
    configuration: str
    left_out: Mapping[str, str]
    """Modules where discovery placed no tap, and the reason."""
    skeleton: str = ""
    """A name that builds the same architecture, preprocessing and taps, with whatever weights; "" means `spec`."""
    files: tuple[Path, ...] = ()
    """Small data files (.json, .txt, .model) in the folder that `skeleton` names and that building it reads. A saved
    encoder contains them, so that loading it does not need the folder."""
    redrawn: float = 1.0
    """Of a control encoder: the share of the encoder's weights that differ in it."""
    note: str = ""
    """Of a control encoder, for reports: which weights do not differ."""
    cut: str = ""
    """Name of the tap at which its forward pass ends, where it was cut (see `diagnostics.encoders.saved.cut`)."""
    pads_behind: bool = False
    """Whether tokens lie along the second axis of every tensor of a batch, and those behind the last that represents
    data change no other: `shortened` leaves them out."""
    absent: tuple[str, ...] = ()
    """Names of the modules that were removed when it was cut, since none of them runs before that tap."""

    _preprocess: Callable[[np.ndarray], Any]
    _example: np.ndarray
    _first_example: np.ndarray | None
    """The example in the constructor, where taps were discovered; None where they were declared."""
    _sized_for: Callable[[np.ndarray], Encoder | None] | None
    _covers: Callable[[tuple[int, ...]], tuple[tuple[float, float], ...]] | None
    _valid: Callable[[Any, Tap], Tensor | None] | None
    _ran_whole: set[tuple[str, ...]]
    """Sets of taps whose modules ran as often as declared in a whole pass: later passes may end at the deepest."""

    def __init__(
        self,
        name: str,
        modality: Modality,
        module: nn.Module,
        taps: Sequence[Tap] | None = None,
        output_tap: str | None = None,
        preprocess: Callable[[np.ndarray], Any] = torch.as_tensor,
        example: np.ndarray | None = None,
        *,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        fresh: Callable[[], nn.Module] | None = None,
        configuration: str = "",
        sized_for: Callable[[np.ndarray], Encoder | None] | None = None,
        covers: Callable[[tuple[int, ...]], tuple[tuple[float, float], ...]] | None = None,
        valid: Callable[[Any, Tap], Tensor | None] | None = None,
        rate: float | None = None,
    ) -> None:
        if example is None:
            raise DiagnosticsError(
                f"{name} has no example: give example=, a raw sample that it accepts.", code="missing-option"
            )
        vars(self).update(
            name=name, modality=modality, module=module, forward=forward or _call, fresh_module=fresh,
            configuration=configuration, rate=rate, left_out={}, _preprocess=preprocess, _example=example,
            _first_example=None, _sized_for=sized_for, _covers=covers, _valid=valid,
        )  # fmt: skip
        if taps is None:
            discovered = self._discover(example)
            taps, output_tap = discovered.taps, output_tap or discovered.output_tap
            # A network of convolutions runs at any size, and gives other features at each.
            vars(self).update(left_out=discovered.left_out, _first_example=example, pinned=sized_for is None)
        vars(self).update(taps=tuple(taps), output_tap=output_tap or taps[-1].name)
        self._check_taps()

    def __setattr__(self, attribute: str, value: Any) -> None:
        if attribute in _FIXED:
            raise DiagnosticsError(
                f"{self.name} cannot be changed in place: use the copy that encoder.replace({attribute}=...) returns.",
                code="bad-value",
            )
        super().__setattr__(attribute, value)

    def replace(self, *, resized: Callable[[TorchEncoder], Encoder] | None = None, **changes: Any) -> Self:
        """A copy with other values of constructor arguments or attributes.

        It shares the module unless that is replaced.

        `resized` applies the same change to an encoder that `sized_for` returns for samples of another size; without it
        `sized_for` returns those of the original. Raises TypeError for an unknown name, and DiagnosticsError where the
        taps do not fit the module.

        Examples:
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> earlier = encoder.replace(output_tap="blocks.3")
            >>> earlier
            <TorchEncoder lorenz-forecast: series, 9 taps, output blocks.3>
            >>> earlier.module is encoder.module
            True
        """
        if "taps" in changes:
            changes["taps"] = tuple(changes["taps"])
        copy = super().replace(**{_ATTRIBUTES.get(key, key): value for key, value in changes.items()})
        if resized is not None and self.resizable:

            def sized_for(sample: np.ndarray) -> Encoder | None:
                sized = self.sized_for(sample)
                return None if sized is self else resized(sized) if isinstance(sized, TorchEncoder) else sized

            copy = super(TorchEncoder, copy).replace(_sized_for=sized_for)
        copy._check_taps()
        return copy

    def _discover(self, example: np.ndarray) -> Discovered:
        batch = to_device(default_collate([self.preprocess(example)] * 2), device_of(self.module))
        extents = extents_of(self.modality, batch, self.name, np.shape(example))
        return discover(self.module, batch, self.name, extents, forward=self.forward)

    def _check_taps(self) -> None:
        names = [tap.name for tap in self.taps]
        if len(set(names)) != len(names):
            raise DiagnosticsError(f"{self.name} declares a tap twice: {', '.join(names)}.", code="duplicate")
        self.tap(self.output_tap)
        modules = dict(self.module.named_modules())
        for tap in self.taps:
            if tap.site is None:
                raise DiagnosticsError(
                    f"Tap {tap.name} of {self.name} does not say where it is read: give it a Site.",
                    code="missing-option",
                )
            check_known(f"module in tap {tap.name} of {self.name}:", tap.site.module, modules)
        vars(self).update(_ran_whole=set())

    @property
    def identity(self) -> Mapping[str, str]:
        return {
            "weights": digest_of(state_tensors(self.module)),
            "configuration": f"{self.name} {self.configuration}".strip(),
            "preprocessing": digest_of(self.prepare_example()),
        }

    def prepare_example(self) -> dict[str, Tensor]:
        """The preprocessed example, tensors by name; a single tensor is named "".

        Raises DiagnosticsError where preprocessing fails.

        Examples:
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> {name: x.shape for name, x in encoder.prepare_example().items()}
            {'': torch.Size([1, 512])}
        """
        with explaining(f"{self.name} cannot prepare its own example"):
            prepared = self.preprocess(self._example)
        return {key: torch.as_tensor(value) for key, value in by_name(prepared).items()}

    def example(self) -> np.ndarray:
        return self._example

    def preprocess(self, sample: np.ndarray) -> Any:
        # A function of texts takes strings, as everywhere else, and no arrays of one.
        given: Any = str(sample) if self.modality == "text" else sample
        return self._preprocess(given)

    @property
    def resizable(self) -> bool:
        """True if `sized_for` may return another encoder for samples of another size."""
        return self._sized_for is not None or self._first_example is not None

    def sized_for(self, sample: np.ndarray) -> Encoder:
        sized = (self._sized_for(sample) if self._sized_for else self._rediscover(sample)) or self
        if sized is self:
            return self
        # A function that builds it anew knows neither the name that was asked for nor where the weights come from, nor
        # what was added since.
        saved: dict[str, Any] = (
            {"skeleton": self.skeleton, "files": self.files} if isinstance(sized, TorchEncoder) else {}
        )
        named: dict[str, Any] = {"spec": self.spec, "lineage": self.lineage, "maker_names": self.maker_names}
        return sized.replace(**named, **saved)

    def _rediscover(self, sample: np.ndarray) -> TorchEncoder | None:
        """With taps discovered for samples of another size; None where they were declared, or the size is the same."""
        if self._first_example is None or np.shape(sample) == np.shape(self._example):
            return None
        # Of the first example, so that the result does not depend on the sizes that came between.
        example = np.resize(self._first_example, np.shape(sample))
        names = {tap.name for tap in self.taps}
        return self.replace(example=example, taps=[tap for tap in self._discover(example).taps if tap.name in names])

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        return self._covers(shape) if self._covers else super().covers(shape)

    def valid(self, batch: Any, tap: Tap) -> Tensor | None:
        return self._valid(batch, tap) if self._valid else None

    def shortened(self, batch: Any) -> tuple[Encoder, Any]:
        valid = self.valid(batch, self.taps[0]) if self.pads_behind else None
        if valid is None or not bool(valid.any()):
            return self, batch
        length = int(valid.any(dim=0).nonzero().max()) + 1
        taps = tuple(dataclasses.replace(tap, grid=dataclasses.replace(tap.grid, shape=(length,))) for tap in self.taps)
        # Not this class's own: the modules are those that were checked, and what they ran is known.
        return super().replace(taps=taps), map_tensors(lambda tensor: tensor[:, :length], batch)

    def to(self, device: str) -> Encoder:
        self.module.to(device)
        return self

    @contextmanager
    def on(self, device: str) -> Generator[None]:
        with placing(self.module, device):
            yield

    def with_module(self, module: nn.Module, name: str, fresh: Callable[[], nn.Module] | None = None) -> Self:
        """The same taps and preprocessing with another module, and `fresh` where that is initialised in another way.

        Examples:
            >>> import copy
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> tuned = encoder.with_module(copy.deepcopy(encoder.module), "my-forecaster")
            >>> tuned
            <TorchEncoder my-forecaster: series, 9 taps, output norm>
        """
        return self.replace(
            module=module,
            name=name,
            fresh=fresh or self.fresh_module,
            resized=lambda sized: sized.with_module(module, name, fresh),
        )

    def with_taps(self, taps: Sequence[Tap]) -> Self:
        """The same model and preprocessing with other taps.

        It also serves samples of another size, whose taps have the same names.

        Examples:
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> few = encoder.with_taps([encoder.tap("blocks.3"), encoder.tap("norm")])
            >>> few
            <TorchEncoder lorenz-forecast: series, 2 taps, output norm>
        """
        names = {tap.name for tap in taps}
        return self.replace(
            taps=taps, resized=lambda sized: sized.with_taps([tap for tap in sized.taps if tap.name in names])
        )

    def fresh(self, seed: int) -> Encoder:
        with seeding(seed):
            module = self.fresh_module() if self.fresh_module else redraw(copy_of(self.module))
        return self._control(module, "fresh weights", "redrawn", scales=True)

    def permuted(self, seed: int) -> Encoder:
        return self._control(permute(copy_of(self.module), seed), "permuted weights", "permuted")

    def _control(self, module: nn.Module, name: str, verb: str, scales: bool = False) -> TorchEncoder:
        control = self.with_module(module.to(device_of(self.module)), f"{self.name} ({name})")
        difference = compare_weights(self.module, module, self._hidden_weights(), control._hidden_weights())
        return control.replace(redrawn=difference.share, note=note_of(self.module, module, difference, verb, scales))

    def _hidden_weights(self) -> Mapping[str, Tensor]:
        """The tensors that its pass over the example reads, and no control draws."""
        batch = to_device(default_collate([self.preprocess(self.example())]), device_of(self.module))
        with evaluating(self.module), torch.no_grad(), HiddenReads(self.module, batch) as reads:
            self.forward(self.module, batch)
        return reads.weights

    def capture(
        self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep, *, gradient: bool = False
    ) -> dict[str, Any]:
        """As `Encoder.capture`.

        With `gradient`, activations keep their graph, for training through taps: the module then runs in its current
        mode, as in any training step (random draws and running statistics included), and gradients reach the parameters
        that require them.

        Examples:
            >>> from torch.utils.data import default_collate
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> batch = default_collate([encoder.preprocess(encoder.example())])
            >>> tokens = encoder.capture(batch, ["blocks.3"], gradient=True)["blocks.3"]
            >>> tokens.square().mean().backward()
            >>> weights = encoder.module.named_parameters()
            >>> [name for name, weight in weights if weight.grad is not None][-1]
            'backbone.blocks.3.mlp.fc2.bias'
        """
        wanted = self.taps if taps is None else tuple(self.tap(name) for name in taps)
        names = tuple(tap.name for tap in wanted)
        left_alone = nullcontext() if gradient else evaluating(self.module)
        # In training, what lies behind the taps belongs to the step: it may count calls, or gather gradients.
        # Nor does a pass end early that reads the output: what runs again behind it changes what users get.
        whole_pass = gradient or self.output_tap in names or names not in self._ran_whole
        reading = capture_at(self.module, wanted, self.name, reduce, whole_pass=whole_pass)
        # Not inference mode: a table that the module makes in a pass and keeps could never be trained with again.
        with left_alone, torch.set_grad_enabled(gradient), reading as captured:
            self.forward(self.module, to_device(batch, device_of(self.module)))
        self._ran_whole.add(names)
        return {tap.name: captured[tap.name] for tap in wanted}

    def capturing(self, taps: Sequence[str], reduce: Reduce) -> AbstractContextManager[dict[str, Any]]:
        """A context whose one pass, for whatever it is made, is read as `capture` reads its own.

        Examples:
            >>> import diagnostics as dx
            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> batch = encoder.prepare_example()[""][None]
            >>> with encoder.capturing(["blocks.1"], lambda tap, x: x.shape) as read:
            ...     attention = encoder.attention(batch)
            >>> read
            {'blocks.1': torch.Size([1, 32, 48])}
        """
        return capture_at(self.module, [self.tap(name) for name in taps], self.name, reduce, whole_pass=True)

    def attention(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> Captured:
        wanted = self.taps if taps is None else tuple(self.tap(name) for name in taps)
        batch = to_device(batch, device_of(self.module))
        with evaluating(self.module), torch.no_grad():
            return read_attention(self.module, wanted, self.name, reduce, lambda: self.forward(self.module, batch))

    def input_gradient(self, batch: Any, taps: Sequence[str] | None = None) -> Captured:
        wanted = self.taps if taps is None else tuple(self.tap(name) for name in taps)
        batch = to_device(batch, device_of(self.module))
        with evaluating(self.module), wanting_gradients(self.module, False):
            return read_gradients(self.module, wanted, self.name, batch, lambda batch: self.forward(self.module, batch))


_ATTRIBUTES = {
    "fresh": "fresh_module",
    **{key: f"_{key}" for key in ("preprocess", "example", "sized_for", "covers", "valid")},
}
"""Constructor arguments that are kept under another name, since methods of the contract have theirs."""

_FIXED = frozenset({*dir(TorchEncoder), *Encoder.__annotations__, *TorchEncoder.__annotations__})
"""Attributes that cannot be set. A subclass may have others of its own."""


def _call(module: nn.Module, batch: Any) -> Any:
    return module(batch)


COMPARED = 8
"""Tokens of a tap that are looked for, evenly chosen."""


def last_taps(taps: Sequence[Tap], output_tap: str) -> list[str]:
    """The output tap, what stands behind it, and the tap before it: the ends that are taken for one another."""
    names = [tap.name for tap in taps]
    at = names.index(output_tap)
    return [*names[at:], *names[max(at - 1, 0) : at]]


def names_of_outputs(
    encoder: TorchEncoder, run: Callable[[nn.Module, Any], Mapping[str, Tensor]], taps: Sequence[str]
) -> dict[str, str]:
    """{tap: name} of those taps whose tokens stand in an output that `run`, a pass of the module, gives by that name.

    An output is [sample, token, feature], [sample, feature] or a map with the channels first or last. Of several names
    for the same tap the first stands; nothing is found where two passes differ, or where the example's pass fails.
    """
    outputs: dict[str, Tensor] = {}

    def forward(module: nn.Module, batch: Any) -> None:
        outputs.update({name: value.detach() for name, value in run(module, batch).items()})

    try:
        batch = default_collate([encoder.preprocess(encoder.example())])
        captured = encoder.replace(forward=forward).capture(batch, taps)
    except Exception:  # names are an addition: an encoder without them is whole
        return {}
    names: dict[str, str] = {}
    for name, output in outputs.items():
        tap = next((tap for tap in taps if _holds(output, captured[tap][0])), None)
        if tap is not None:
            names.setdefault(tap, name)
    return names


def _holds(output: Tensor, tokens: Tensor) -> bool:
    """True if tokens [token, feature] are rows of an output's first sample, and all of them (but for any padding)."""
    features = tokens.shape[-1]
    if not output.is_floating_point() or output.ndim < 2 or features not in (output.shape[-1], output.shape[1]):
        return False
    last = output.shape[-1] == features
    rows = output[0].reshape(-1, features) if last else output[0].flatten(1).T
    if not (len(rows) == len(tokens) or 1 < len(tokens) < len(rows)):
        return False
    some = tokens[torch.linspace(0, len(tokens) - 1, min(COMPARED, len(tokens))).long()].double()
    nearest = torch.cdist(some, rows.double(), compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
    return bool((nearest <= 1e-5 * some.norm(dim=1).clamp_min(1e-12)).all())
