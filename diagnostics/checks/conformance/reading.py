"""The encoder under test, how activations are compared, and checks of what a tap reads and of how tokens are weighted.

What a tap reads is compared with the input or output of its module, obtained without hooks. Attention sums to one, and
the content of padding has no effect.
"""

import contextlib
import copy
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.encoders.encoder import Encoder, Reduce, keep, pool_batch
from diagnostics.encoders.hooks import tensors_in
from diagnostics.encoders.taps import Site, Tap
from diagnostics.errors import DiagnosticsError, describe
from diagnostics.vocabulary import Modality

Verdict = Literal["ok", "failed", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """One check: its verdict and a sentence; `figures` are what was measured, in the units that the sentence names."""

    verdict: Verdict
    message: str
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    check: str = ""

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"check": self.check, "verdict": self.verdict, "said": self.message, "figures": dict(self.figures)}


def ok(message: str, **figures: float) -> Outcome:
    """The encoder does what the check asks."""
    return Outcome("ok", message, figures)


def failure(message: str, **figures: float) -> Outcome:
    """It does not; the sentence says what was found and what to mend."""
    return Outcome("failed", message, figures)


def not_applicable(message: str) -> Outcome:
    """The check has nothing to ask of this encoder, for the reason given."""
    return Outcome("not applicable", message)


# Activations that should be equal may differ by rounding, which depends on how many samples a kernel is given: this
# share of the tap's spread at most.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}


class NoPassError(Exception):
    """No forward pass succeeds, so that most checks have nothing to look at."""


class EncoderUnderTest:
    """An encoder with three different samples that it takes, and how to build it once more.

    `samples` are the encoder's example and two others of its size unless others are given; `again` builds the same
    encoder a second time, where that is known. Samples are raw, batches are prepared and collated.
    """

    def __init__(
        self, encoder: Encoder, samples: Sequence[np.ndarray] = (), again: Callable[[], Encoder] | None = None
    ) -> None:
        self.samples = list(samples) or variations(encoder.example(), encoder.modality)
        self.encoder = encoder.sized_for(self.samples[0])
        self.again = again
        self.passes = 0
        self._failure = ""
        self.order: list[str] = []
        """Names of the taps in the order in which they fired in the first pass."""
        self.identity: dict[str, str] = {}
        """Of the encoder, before the first pass."""

    @property
    def module(self) -> nn.Module | None:
        """The torch module of the encoder, where it shows one."""
        module = getattr(self.encoder, "module", None)
        return module if isinstance(module, nn.Module) else None

    @property
    def sites(self) -> bool:
        """True if it shows a torch module and where in it each tap reads."""
        return self.module is not None and all(tap.site is not None for tap in self.encoder.taps)

    def batch(self, samples: Sequence[np.ndarray] | None = None) -> Any:
        """The samples (all three by default) prepared and collated."""
        return default_collate([self.encoder.preprocess(sample) for sample in samples or self.samples])

    def capture(self, batch: Any = None, reduce: Reduce = keep, taps: Sequence[str] | None = None) -> dict[str, Any]:
        """One forward pass, counted; on all three samples by default."""
        self.passes += 1
        return self.encoder.capture(self.batch() if batch is None else batch, taps, reduce)

    @cached_property
    def reference(self) -> dict[str, Tensor]:
        """`{tap: activations [3, T, F]}` of the first pass; NoPassError, each time, where that fails."""
        if self._failure:
            raise NoPassError(self._failure)

        def noting(tap: Tap, tokens: Tensor) -> Tensor:
            self.order.append(tap.name)
            return keep(tap, tokens)

        try:
            self.identity = dict(self.encoder.identity)
            return self.capture(reduce=noting)
        except Exception as error:
            self._failure = describe(error)
            raise NoPassError(self._failure) from error


def variations(example: np.ndarray, modality: Modality) -> list[np.ndarray]:
    """The example and two others of its form that share nothing with it but that."""
    rng = np.random.default_rng(0)
    if modality == "text":
        text = str(example)
        return [np.array(text), np.array(text[::-1]), np.array(text[: max(1, len(text) // 2)])]
    example = np.asarray(example)
    if modality in ("image", "video") and example.dtype == np.uint8:
        noise = [rng.integers(0, 256, example.shape, dtype=np.uint8) for _ in range(2)]
        return [example, noise[0], (noise[1] // 2).astype(np.uint8)]
    if modality == "audio":
        loud, quiet = (s * rng.standard_normal(example.shape).clip(-3, 3) for s in (0.3, 0.1))
        return [example, loud.astype(np.float32), quiet.astype(np.float32)]
    scale, middle = float(np.nanstd(example)) or 1.0, float(np.nanmean(example))
    noise = rng.standard_normal((2, *example.shape))
    return [example, middle + scale * noise[0], middle + scale * noise[1].cumsum(axis=0)]


def difference(tokens: Tensor, reference: Tensor) -> float:
    """The largest difference as a share of the spread of `reference` (as its largest number where all are alike).

    Infinite where shapes differ or either is not finite at another place.
    """
    if tokens.shape != reference.shape:
        return float("inf")
    if tokens.numel() == 0 or torch.equal(tokens, reference):
        return 0.0
    a, b = tokens.double(), reference.double()
    spread = float(b.std(correction=0)) or float(b.abs().max()) or 1.0
    worst = float((a - b).abs().max()) / spread
    return worst if worst == worst else float("inf")


def tolerance(tokens: Tensor) -> float:
    """The largest `difference` that rounding explains, by the dtype of the activations."""
    return TOLERANCE.get(tokens.dtype, 1e-3)


def worst_tap(activations: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> tuple[str, float, bool]:
    """The tap that differs most beyond its tolerance, its `difference`, and whether it lies within the tolerance."""
    differences = {name: difference(activations[name], reference[name]) for name in reference if name in activations}
    if not differences:
        return "", 0.0, True
    name = max(differences, key=lambda name: differences[name] / tolerance(reference[name]))
    return name, differences[name], differences[name] <= tolerance(reference[name])


NO_SITES = "it does not show a torch module and where in it its taps read"


def manual_forward(subject: EncoderUnderTest) -> Outcome:
    """Each tap equals what its module's `forward` took or gave, laid out in numpy from the Site alone.

    Once in the pass in which it is captured, to the bit, and once in a pass without hooks, within rounding (torch takes
    other kernels where hooks are).
    """
    if not subject.sites:
        return not_applicable(NO_SITES)
    with _record(subject) as hooked:
        captured = subject.capture()
    with _record(subject) as unhooked:
        subject.capture(taps=[])
    worst = 0.0
    for tap in subject.encoder.taps:
        assert tap.site is not None
        key = _key(tap.site)
        if key not in hooked:
            return failure(f"tap {tap.name}: no forward of '{tap.site.module}' ran as call {tap.site.call}")
        by_hand = torch.from_numpy(laid_out(hooked[key], tap, tap.site))
        got = captured[tap.name].cpu().to(by_hand.dtype)
        if not _same(got, by_hand, tap):
            return failure(
                f"tap {tap.name} differs by {difference(got, by_hand):.2g} of its spread from what '{tap.site.module}' "
                f"{'took' if tap.site.when == 'before' else 'gave'}, laid out as its Site declares"
            )
        if key in unhooked:
            differs = difference(got, torch.from_numpy(laid_out(unhooked[key], tap, tap.site)))
            worst = max(worst, differs)
            if differs > tolerance(captured[tap.name]):
                return failure(f"tap {tap.name} differs by {differs:.2g} of its spread from a pass without hooks")
    return ok(
        f"taps equal the inputs or outputs of their modules; a pass without hooks differs by {worst:.1g} of the spread "
        f"at most",
        difference=worst,
    )


def in_place(subject: EncoderUnderTest) -> Outcome:
    """Captured tensors stay when the tensor that the tap read is overwritten right after."""
    if not subject.sites:
        return not_applicable(NO_SITES)
    with _overwrite(subject) as count:
        captured = subject.capture()
    if not count[0]:
        return not_applicable("no tensor that its taps read could be overwritten")
    for name, tokens in subject.reference.items():
        if not isinstance(captured.get(name), Tensor) or difference(captured[name], tokens) > tolerance(tokens):
            if _keeps(subject, subject.encoder.tap(name), tokens):
                return not_applicable("the model itself keeps a tensor that a tap reads, for later")
            return failure(
                f"tap {name} changes when a later operation works in place on the tensor that it read: call "
                f"reduce at the moment the tap fires"
            )
    return ok(f"{count[0]} tensors were overwritten after they were read, and nothing captured changed")


def _keeps(subject: EncoderUnderTest, tap: Tap, tokens: Tensor) -> bool:
    """True if overwriting changes what a tap's module takes or gives even where no tap is read."""
    assert tap.site is not None
    with _overwrite(subject), _record(subject) as seen:
        subject.capture(taps=[])
    value = seen.get(_key(tap.site))
    return value is None or difference(torch.from_numpy(laid_out(value, tap, tap.site)), tokens) > tolerance(tokens)


def laid_out(value: np.ndarray, tap: Tap, site: Site) -> np.ndarray:
    """An array as a module took or gave it, as [sample, token, feature] by the Site, written apart from `as_tokens`."""
    if site.layout == "time_first":
        value = np.swapaxes(value, 0, 1)
    elif site.layout == "channels_first":
        value = np.moveaxis(value, 1, -1)
    elif site.layout == "packed":
        value = value.reshape(-1, site.padding + tap.tokens + site.trailing, value.shape[-1])
    value = value.reshape(value.shape[0], -1, value.shape[-1])
    value = value[:, site.padding : value.shape[1] - site.trailing]
    if site.order:
        value = np.stack([value[:, place] for place in site.order], axis=1)
    if site.rows == 1:
        return np.ascontiguousarray(value)
    prefix = tap.grid.prefix
    samples: list[np.ndarray] = []
    for start in range(0, len(value), site.rows):
        rows = value[start : start + site.rows]
        samples.append(np.concatenate([rows[:, :prefix].mean(axis=0), *(row[prefix:] for row in rows)]))
    return np.stack(samples)


def _same(got: Tensor, wanted: Tensor, tap: Tap) -> bool:
    """Equal bits; but means over rows, which prefix tokens are, round in an order of their own."""
    prefix = tap.grid.prefix if tap.site is not None and tap.site.rows > 1 else 0
    rounded = got.shape == wanted.shape and torch.allclose(got[:, :prefix], wanted[:, :prefix], rtol=1e-4, atol=1e-5)
    return rounded and torch.equal(got[:, prefix:], wanted[:, prefix:])


Key = tuple[str, int, str, int]


def _key(site: Site) -> Key:
    return site.module, site.call, site.when, site.item


@contextlib.contextmanager
def _record(subject: EncoderUnderTest) -> Generator[dict[Key, np.ndarray]]:
    """(module, call, before or after, which tensor) -> what its forward took or gave, while inside."""
    seen: dict[Key, np.ndarray] = {}
    calls: dict[str, int] = defaultdict(int)
    wanted = {(tap.site.module, tap.site.item) for tap in subject.encoder.taps if tap.site is not None}

    def note(name: str, call: int, when: str, value: Any) -> None:
        for item, tensor in enumerate(tensors_in(value)):
            if (name, item) in wanted:
                copied = tensor.detach().cpu().clone()
                half = copied.dtype in (torch.bfloat16, torch.float16)
                seen[name, call, when, item] = (copied.float() if half else copied).numpy()

    def begin(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            # Of an encoder that is cut before this module, the pass ends here.
            note(name, calls[name], "before", args or kwargs)
            calls[name] += 1
            return real(*args, **kwargs)

        return wrapper

    def watch(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            call = calls[name] - 1
            note(name, call, "before", args or kwargs)
            output = real(*args, **kwargs)
            note(name, call, "after", output)
            return output

        return forward

    with _replace_methods(subject, "_call_impl", begin), _replace_methods(subject, "forward", watch):
        yield seen


@contextlib.contextmanager
def _overwrite(subject: EncoderUnderTest) -> Generator[list[int]]:
    """Overwrite what a tap's module took and gave, once its hooks have run, while the model uses copies.

    Counts tensors.
    """
    count = [0]
    assert subject.module is not None
    weights = {t.untyped_storage().data_ptr() for t in [*subject.module.parameters(), *subject.module.buffers()]}

    def watch(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # Copies go in as well, so that overwriting what comes out, which may be what went in, harms nobody else.
            given, named = _copy_nested(args), _copy_nested(kwargs)
            output = real(*given, **named)
            passed = _copy_nested(output)
            for tensor in tensors_in([output, given, named]):
                if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in weights:
                    with contextlib.suppress(RuntimeError), torch.no_grad():  # expanded tensors cannot be written
                        tensor.fill_(float("nan"))
                        count[0] += 1
            return passed

        return call

    with _replace_methods(subject, "_call_impl", watch):
        yield count


@contextlib.contextmanager
def _replace_methods(
    subject: EncoderUnderTest, method: str, make: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Generator[None]:
    """A method of each tap's module replaced on that module alone, while inside."""
    assert subject.module is not None
    before: list[tuple[nn.Module, Any]] = []
    try:
        for name in dict.fromkeys(tap.site.module for tap in subject.encoder.taps if tap.site is not None):
            module = subject.module.get_submodule(name)
            before.append((module, module.__dict__.get(method)))
            module.__dict__[method] = make(name, getattr(module, method))
        yield
    finally:
        for module, own in reversed(before):
            if own is None:
                del module.__dict__[method]
            else:
                module.__dict__[method] = own


def _copy_nested(value: Any) -> Any:
    """The same nesting with copies of its tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, (tuple, list)):
        parts = [_copy_nested(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, Mapping):
        twin: Any = copy.copy(value)
        for key, part in value.items():
            twin[key] = _copy_nested(part)
        return twin
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _copy_nested(getattr(value, field.name)) for field in fields(value)})
    return value


# A prime, which no model has as its number of heads: which axis is that of samples can be told.
ATTENTION_BATCH = 5
MASS = 1e-3


def attention(subject: EncoderUnderTest) -> Outcome:
    """Each query's attention is over the tap's tokens, not negative, and sums to 1 (or nothing).

    Where a fused kernel hides it, it is recomputed, and times the values it must be what the kernel gave: `capture` of
    attention itself refuses it otherwise.
    """
    wrong: list[str] = []
    worst = [0.0]

    def look(tap: Tap, weights: Tensor) -> Tensor:
        if weights.ndim != 4 or tuple(weights.shape[-2:]) != (tap.tokens, tap.tokens):
            wrong.append(f"{tap.name} has shape {tuple(weights.shape)}, not over its {tap.tokens} tokens")
        else:
            mass = weights.sum(-1)
            off = float(torch.where(mass == 0, 0.0, (mass - 1).abs()).max())
            worst[0] = max(worst[0], off)
            if not off <= MASS or float(weights.min()) < 0:
                wrong.append(f"{tap.name} sums to 1 within {off:.2g} only, or is negative: it is no softmax")
        return torch.zeros(len(weights))

    samples = [subject.samples[i % len(subject.samples)] for i in range(ATTENTION_BATCH)]
    subject.passes += 1
    try:
        maps = subject.encoder.attention(subject.batch(samples), None, look)
    except DiagnosticsError as error:
        return not_applicable(str(error).rstrip(".").removeprefix(f"{subject.encoder.name} gives no attention: "))
    if wrong:
        return failure(f"attention at tap {wrong[0]}")
    left = f"; {len(maps.left_out)} taps have none of their own" if maps.left_out else ""
    return ok(f"attention of {len(maps)} taps sums to 1 within {worst[0]:.1g}{left}", off=worst[0])


def padding(subject: EncoderUnderTest) -> Outcome:
    """The content of padding does not change what is pooled."""
    encoder = subject.encoder
    sample = _sample_with_padding(subject)
    if sample is None:
        return not_applicable(f"{encoder.modality} samples are not padded")
    try:
        whole, part = (encoder.preprocess(s) for s in (subject.samples[0], sample))
    except Exception as error:
        return not_applicable(f"it takes no sample that is padded: {' '.join(str(error).split())}".rstrip("."))
    valid = {tap.name: encoder.valid(default_collate([part]), tap) for tap in encoder.taps}
    if all(mask is None for mask in valid.values()):
        return not_applicable("it declares no mask of valid tokens")
    for tap in encoder.taps:
        mask = valid[tap.name]
        if mask is not None and (tuple(mask.shape) != (1, tap.grid.tokens) or mask.dtype != torch.bool):
            return failure(
                f"valid gives {mask.dtype} of shape {tuple(mask.shape)} at tap {tap.name}, not bool [sample, grid "
                f"token] of {(1, tap.grid.tokens)}"
            )
    if not isinstance(part, Mapping) or not isinstance(whole, Mapping):
        return not_applicable("its prepared samples show no mask")
    other = _other_padding(whole, part)
    if other is None:
        return not_applicable("its prepared samples show no padding whose content could be changed")
    batch = default_collate([part, other])
    activations = subject.capture(batch, pool_batch(encoder, batch, encoder.poolings))
    worst = 0.0
    for tap in encoder.taps:
        differs = difference(activations[tap.name][1], activations[tap.name][0])
        worst = max(worst, differs)
        if differs > tolerance(activations[tap.name]):
            return failure(
                f"the content of padding changes the pooled activations of tap {tap.name} by {differs:.2g} of their "
                f"spread: hand the mask to the model and let valid leave those tokens out, or refuse such samples"
            )
    return ok(f"padding changes pooled activations by {worst:.1g} of their spread at most", difference=worst)


def _sample_with_padding(subject: EncoderUnderTest) -> np.ndarray | None:
    sample, modality = subject.samples[0], subject.encoder.modality
    if modality == "text":
        return np.array(str(sample)[: max(1, len(str(sample)) // 2)])
    if modality not in ("series", "audio") or len(sample) < 4:
        return None
    padded = np.array(sample, dtype=np.float64 if sample.dtype == np.float64 else np.float32)
    padded[: len(padded) // 2] = np.nan
    return padded


def _other_padding(whole: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The padded sample with other content where its mask differs from that of the whole one."""
    for key, mask in part.items():
        if (
            not isinstance(mask, Tensor)
            or not isinstance(whole.get(key), Tensor)
            or mask.shape != whole[key].shape
            or mask.ndim == 0
            or not ((mask == 0) | (mask == 1)).all()
        ):
            continue
        where = mask != whole[key]
        changed = dict(part)
        for name, content in part.items():
            if name != key and isinstance(content, Tensor) and content.shape == mask.shape and where.any():
                values = set(torch.unique(content).tolist())
                if content.is_floating_point():
                    changed[name] = torch.where(where, content + 3.0, content)
                elif not values <= {0, 1}:
                    changed[name] = torch.where(where, max(values), content)
        if any(changed[name] is not part[name] for name in part):
            return changed
    return None
