"""Checks of an encoder's identity, which changes only with what decides its activations, and of saving its weights."""

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from diagnostics.checks.conformance.encoder_under_test import EncoderUnderTest
from diagnostics.checks.conformance.outcome import Outcome, failed, not_applicable, ok
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError

NO_MODULE = "it exposes no torch module"
SEED = 40_000_003


def identity_weights(subject: EncoderUnderTest) -> Outcome:
    """One element of one parameter, or of one buffer, changes the identity; put back, it is as before."""
    if subject.module is None:
        return not_applicable(NO_MODULE)
    parameters = [(name, p) for name, p in subject.module.named_parameters() if p.numel()]
    some = [parameters[i] for i in sorted({0, len(parameters) // 2, len(parameters) - 1})] if parameters else []
    buffers = [(name, b) for name, b in subject.module.named_buffers() if b.numel()][:1]
    if not some and not buffers:
        return not_applicable("its module has neither parameters nor buffers")
    before = dict(subject.encoder.identity)
    for name, tensor in [*some, *buffers]:
        with _changed(tensor):
            if dict(subject.encoder.identity) == before:
                return failed(f"one element of {name} changes and the identity does not: let it digest every tensor")
        if dict(subject.encoder.identity) != before:
            return failed(f"one element of {name} was changed and put back, and the identity is another")
    return ok(f"the identity changes with one element of {len(some)} parameters and {len(buffers)} buffers, each alone")


@contextlib.contextmanager
def _changed(tensor: Tensor) -> Generator[None]:
    place = (-1,) * tensor.ndim
    with torch.no_grad():
        old = tensor[place].clone()
        if tensor.dtype == torch.bool:
            tensor[place] = ~old
        else:
            tensor[place] = 0 if old != 0 else 1
        try:
            yield
        finally:
            tensor[place] = old


def identity_preprocessing(subject: EncoderUnderTest) -> Outcome:
    """One number of a prepared sample changes the identity."""
    encoder = subject.encoder
    # Over its method, also where its class has one of its own.
    changed = Encoder.replace(encoder, preprocess=lambda sample: _off_by_one(encoder.preprocess(sample)))
    if dict(changed.identity) != dict(encoder.identity):
        return ok("the identity changes with one number of a prepared sample")
    if not isinstance(encoder, TorchEncoder):
        return not_applicable(
            "it is no TorchEncoder, so what its identity reads of preprocessing cannot be changed here"
        )
    return failed(
        "one number of a prepared sample changes and the identity does not: let it digest what preprocess makes of the "
        "example"
    )


def _off_by_one(prepared: Any) -> Any:
    """The prepared sample with the middle element of its first tensor changed."""
    if isinstance(prepared, Mapping):
        key = next(iter(prepared))
        return {**prepared, key: _off_by_one(prepared[key])}
    if isinstance(prepared, (tuple, list)):
        return type(prepared)([_off_by_one(prepared[0]), *prepared[1:]])
    other = torch.as_tensor(prepared).clone()
    flat = other.flatten()
    middle = flat.numel() // 2
    flat[middle] = ~flat[middle] if other.dtype == torch.bool else flat[middle] + 1
    return flat.view(other.shape)


def identity_stable(subject: EncoderUnderTest) -> Outcome:
    """Passes over batches of any size leave it, and the same encoder built again has the same."""
    before = subject.identity
    subject.capture(subject.batch(subject.samples[:1]))
    if changed := _unlike(before, subject.encoder.identity):
        return failed(f"a forward pass changes {changed} of its identity: keep no state in buffers or configuration")
    if subject.again is None:
        return ok(
            "passes over batches of one and of three samples do not change the identity; the encoder was not built again"
        )
    if changed := _unlike(before, subject.again().sized_for(subject.samples[0]).identity):
        return failed(f"a second build differs in {changed}: seed its random weights, or load weights")
    return ok("a second build has the same identity, and passes do not change it")


def _unlike(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    return " and ".join(key for key in before if before[key] != after.get(key))


def save_and_load(subject: EncoderUnderTest) -> Outcome:
    """Weights saved as safetensors and loaded strictly into a fresh module give the same identity and the same bits."""
    if subject.module is None:
        return not_applicable(NO_MODULE)
    if not subject.module.state_dict():
        return not_applicable("its module has no weights to save")
    try:
        fresh = subject.encoder.fresh(SEED)
    except DiagnosticsError as error:
        return not_applicable(str(error))
    other: Any = getattr(fresh, "module", None)
    if not isinstance(other, nn.Module):
        return not_applicable("its fresh encoder exposes no torch module")
    own = {p.untyped_storage().data_ptr() for p in subject.module.parameters() if p.numel()}
    if other is subject.module or any(p.untyped_storage().data_ptr() in own for p in other.parameters() if p.numel()):
        return failed("fresh weights are its own weights: let fresh build a new module")
    if fresh.identity["weights"] == subject.encoder.identity["weights"]:
        return failed("fresh draws the weights that the encoder has: let it draw from the random state it is given")
    # Copies, since tied weights are one tensor under two names, which the format refuses.
    saved = save({name: t.detach().cpu().clone().contiguous() for name, t in subject.module.state_dict().items()})
    try:
        other.load_state_dict(load(saved), strict=True)
    except RuntimeError as error:
        return failed(f"its weights do not load into a fresh module: {' '.join(str(error).split())[:200]}")
    subject.passes += 1
    again = fresh.capture(subject.batch())
    for name, tokens in subject.reference.items():
        if not torch.equal(again[name], tokens):
            return failed(
                f"with its weights loaded, a fresh module gives other activations at tap {name}: something that decides the "
                "activations is not in its state_dict"
            )
    if fresh.identity["weights"] != subject.encoder.identity["weights"]:
        return failed("with its weights loaded, a fresh module has another identity: an unsaved buffer differs")
    return ok(f"{len(saved) / 1e6:.1f} MB of weights, loaded into a fresh module, give the same bits")
