"""A torch module as an encoder: its identity, its one forward pass, and its weights drawn afresh or permuted."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.encoders.attention import read_attention
from diagnostics.encoders.discovery import discover, extents_of
from diagnostics.encoders.encoder import Captured, Encoder, Reduce, keep
from diagnostics.encoders.evaluating import device_of, evaluating, placed, seeded, wanting_gradients
from diagnostics.encoders.gradients import read_gradients
from diagnostics.encoders.hooks import Hooks
from diagnostics.encoders.redraw import Redrawn, copied, note_of, permute, redraw
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, describe, unknown
from diagnostics.vocabulary import Modality


class TorchEncoder(Encoder):
    """Any torch module as an encoder.

    The module stays the caller's, who may train it further: passes run in eval mode and without gradients, and leave modes,
    `requires_grad`, gradients, buffers, hooks, device and random state as they were.

    Parameters
    ----------
    module: the model, on any device and in any mode.
    taps: in order of execution, each with a `Site`; see `stack_taps` for the common case. Discovered from one dry pass when
        None: the stack of blocks, the trunk's end and heads (see `discover`), which raises where they are not certain.
    output_tap: the tap that the makers hand to users; the trunk's last where taps are discovered.
    preprocess: raw sample -> tensor, or dict of tensors, without the batch axis; the sample as a tensor by default.
    example: a raw sample, for dry runs; its preprocessed form is part of the identity.
    forward: `(module, batch) -> None`; by default `module(batch)`.
    fresh: `() -> nn.Module`, newly initialised as before training; by default every module's `reset_parameters` is
        called, and a parameter that none of them changes is drawn from a Gaussian with its own mean and spread.
        Buffers that hold weights are drawn too; see docs/statistics.md for which these are.
    configuration: what else decides the activations, in words (architecture name, resolution).
    sized_for, covers: see `Encoder`; as functions of the sample, and of its extents.
    valid: `(batch, tap) -> bool [sample, grid token]`, which tokens stand for data; None where all do.
    rate: of the samples, in Hz, where it matters; see `Encoder`.
    """

    cut: str = ""
    """The tap at which its pass ends, where it is a part of a whole encoder (see `diagnostics.encoders.cut`)."""
    absent: tuple[str, ...] = ()
    """Modules that were taken out of it, since none of them runs before that tap."""

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
            raise DiagnosticsError(f"{name} has no example: give example=, a raw sample that it accepts.")
        self.name, self.modality = name, modality
        self.module = module
        self.configuration = configuration
        self._preprocess, self._example = preprocess, example
        self._first_example = example
        self._forward = forward or (lambda module, batch: module(batch))
        self.left_out: dict[str, str] = {}
        if taps is None:
            taps, output_tap, self.left_out = self._discovered(output_tap)
            sized_for = sized_for or self._rediscovered
        self.taps = tuple(taps)
        self.output_tap = output_tap or self.taps[-1].name
        self._fresh, self._sized_for, self._covers, self._valid = fresh, sized_for, covers, valid
        self.rate = rate
        self._check_taps()

    def _discovered(self, output_tap: str | None) -> tuple[Sequence[Tap], str, dict[str, str]]:
        batch = _moved(default_collate([self._preprocess(self._example)] * 2), device_of(self.module))
        extents = extents_of(self.modality, batch, self.name, np.shape(self._example))
        found = discover(self.module, batch, self.name, extents, forward=self._forward)
        return found.taps, output_tap or found.output_tap, found.left_out

    def _rediscovered(self, sample: np.ndarray) -> Encoder:
        """With the grids that a sample of another size gives."""
        if np.shape(sample) == np.shape(self._example):
            return self
        twin = copy.copy(self)
        # Of the first one, so that the same encoder comes out whatever sizes came between.
        twin._example = np.resize(self._first_example, np.shape(sample))
        known = {tap.name for tap in self.taps}
        twin.taps = tuple(tap for tap in twin._discovered(self.output_tap)[0] if tap.name in known)
        twin._sized_for = twin._rediscovered
        twin.tap(twin.output_tap)
        return twin

    def _check_taps(self) -> None:
        names = [tap.name for tap in self.taps]
        if len(set(names)) != len(names):
            raise DiagnosticsError(f"{self.name} declares a tap twice: {', '.join(names)}.")
        self.tap(self.output_tap)
        modules = dict(self.module.named_modules())
        for tap in self.taps:
            if tap.site is None:
                raise DiagnosticsError(f"Tap {tap.name} of {self.name} does not say where it is read: give it a Site.")
            if tap.site.module not in modules:
                raise unknown(f"module in tap {tap.name} of {self.name}:", tap.site.module, modules)

    @property
    def identity(self) -> Mapping[str, str]:
        # Buffers that are not saved (position frequencies, masks) decide the activations as well.
        state: dict[str, Any] = {**dict(self.module.named_buffers()), **self.module.state_dict()}
        weights = {name: tensor for key, value in state.items() for name, tensor in _as_tensors(key, value)}
        return {
            "weights": digest_of(weights),
            "configuration": f"{self.name} {self.configuration}".strip(),
            "preprocessing": digest_of(self.prepared_example()),
        }

    def prepared_example(self) -> dict[str, Tensor]:
        """What preprocessing makes of the example, by name; a single tensor is named ""."""
        try:
            made = self.preprocess(self._example)
        except DiagnosticsError:
            raise
        except Exception as error:
            raise DiagnosticsError(f"{self.name} cannot prepare its own example: {describe(error)}") from error
        items = made.items() if isinstance(made, Mapping) else [("", made)]
        return {str(key): torch.as_tensor(value) for key, value in items}

    def example(self) -> np.ndarray:
        return self._example

    def preprocess(self, sample: np.ndarray) -> Any:
        return self._preprocess(sample)

    def sized_for(self, sample: np.ndarray) -> Encoder:
        sized = (self._sized_for(sample) if self._sized_for else None) or self
        if sized is not self:
            # Whoever made it anew knows nothing of what was asked for and of what made the weights.
            sized.spec, sized.skeleton, sized.lineage = self.spec, self.skeleton, self.lineage
        return sized

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        return self._covers(shape) if self._covers else super().covers(shape)

    def valid(self, batch: Any, tap: Tap) -> Tensor | None:
        return self._valid(batch, tap) if self._valid else None

    def to(self, device: str) -> Encoder:
        self.module.to(device)
        return self

    @contextmanager
    def on(self, device: str) -> Generator[None]:
        with placed(self.module, device):
            yield

    def with_module(self, module: nn.Module, name: str, fresh: Callable[[], nn.Module] | None = None) -> TorchEncoder:
        """The same taps and preprocessing over other weights; `fresh` where such a module is drawn anew in another way."""
        twin = copy.copy(self)
        twin.module, twin.name = module, name
        twin._fresh = fresh or self._fresh
        original = self._sized_for
        if original is not None:

            def sized_for(sample: np.ndarray) -> Encoder | None:
                sized = original(sample)
                return sized.with_module(module, name, fresh) if isinstance(sized, TorchEncoder) else sized

            twin._sized_for = sized_for
        return twin

    def with_taps(self, taps: Sequence[Tap]) -> TorchEncoder:
        """The same model and preprocessing seen through other taps."""
        twin = copy.copy(self)
        twin.taps = tuple(taps)
        original, names = self._sized_for, {tap.name for tap in taps}
        if getattr(original, "__func__", None) is TorchEncoder._rediscovered:
            twin._sized_for = twin._rediscovered
        elif original is not None:

            def sized_for(sample: np.ndarray) -> Encoder | None:
                sized = original(sample)
                if not isinstance(sized, TorchEncoder):
                    return sized
                return sized.with_taps([tap for tap in sized.taps if tap.name in names])

            twin._sized_for = sized_for
        twin._check_taps()
        return twin

    def fresh(self, seed: int) -> Encoder:
        with seeded(seed):
            module = self._fresh() if self._fresh else redraw(copied(self.module))
        return self._control(module, "fresh weights", note_of(self.module, module, "drawn anew", scales=True))

    def permuted(self, seed: int) -> Encoder:
        module = permute(copied(self.module), seed)
        return self._control(module, "permuted weights", note_of(self.module, module, "permuted"))

    def _control(self, module: nn.Module, name: str, changed: tuple[Redrawn, str]) -> TorchEncoder:
        twin = self.with_module(module.to(device_of(self.module)), f"{self.name} ({name})")
        twin.redrawn, twin.note = changed[0].share, changed[1]
        return twin

    def capture(
        self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep, *, gradient: bool = False
    ) -> dict[str, Any]:
        """As `Encoder.capture`. With `gradient` what is read keeps its graph, for training through taps: the module then runs
        in the mode that it is in, as in any step of training, draws and moves running statistics as it does there, and
        gradients reach the parameters that require them."""
        wanted = self.taps if taps is None else tuple(self.tap(name) for name in taps)
        found: dict[str, Any] = {}
        left_alone = nullcontext() if gradient else evaluating(self.module)
        # Not inference mode: a table that the module makes in a pass and keeps could never be trained with again.
        with left_alone, torch.set_grad_enabled(gradient), Hooks(self.module, wanted, self.name, found, reduce):
            self._forward(self.module, _moved(batch, device_of(self.module)))
        return {tap.name: found[tap.name] for tap in wanted}

    def attention(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> Captured:
        wanted = self.taps if taps is None else tuple(self.tap(name) for name in taps)
        batch = _moved(batch, device_of(self.module))
        with evaluating(self.module), torch.no_grad():
            return read_attention(self.module, wanted, self.name, reduce, lambda: self._forward(self.module, batch))

    def input_gradient(self, batch: Any, taps: Sequence[str] | None = None) -> Captured:
        wanted = self.taps if taps is None else tuple(self.tap(name) for name in taps)
        batch = _moved(batch, device_of(self.module))
        with evaluating(self.module), wanting_gradients(self.module, False):
            return read_gradients(
                self.module, wanted, self.name, batch, lambda batch: self._forward(self.module, batch)
            )


def _as_tensors(key: str, value: Any) -> list[tuple[str, Tensor]]:
    """A part of a module's state as tensors by name: what quantised layers pack is no tensor."""
    if isinstance(value, Tensor):
        return [(key, value.dequantize() if value.is_quantized else value)]
    if isinstance(value, torch.ScriptObject):
        return _as_tensors(key, value.__getstate__())  # pyright: ignore
    if isinstance(value, Mapping):
        return [part for name, item in value.items() for part in _as_tensors(f"{key}.{name}", item)]  # pyright: ignore
    if isinstance(value, (tuple, list)):
        return [part for i, item in enumerate(value) for part in _as_tensors(f"{key}.{i}", item)]  # pyright: ignore
    if value is None or isinstance(value, (str, bytes, bool, int, float, torch.dtype)):
        return [(key, torch.tensor(list(repr(value).encode()), dtype=torch.uint8))]
    raise DiagnosticsError(
        f"'{key}' in the state of the module is a {type(value).__name__}, of which no digest can be taken: keep tensors there."
    )


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, whatever the order and the device."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{key} {data.dtype} {tuple(data.shape)};".encode())
        digest.update(data.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(batch, (tuple, list)):
        return type(batch)(_moved(value, device) for value in batch)  # pyright: ignore
    return batch.to(device, non_blocking=True) if isinstance(batch, Tensor) else batch
