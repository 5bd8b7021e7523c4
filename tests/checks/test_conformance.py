"""Every check passes on encoders that keep the contract, and fails with a sentence on one that breaks just that."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnostics.encoders.hooks
from diagnostics import DiagnosticsError, Encoder, Grid, Site, Tap, TorchEncoder, stack_taps
from diagnostics.checks.conformance import CHECKS, EncoderUnderTest, Outcome, check_encoder, run_check
from diagnostics.checks.conformance.reading import difference, laid_out, variations
from diagnostics.encoders.encoder import Captured, Reduce, keep
from tests.support.commands import diagnose, refused
from tests.support.tiny import LENGTH, tiny_encoder, tiny_image_encoder

GRID = Grid((8,), ("t",))


def verdicts(encoder: Encoder) -> dict[str, str]:
    return {outcome.check: outcome.verdict for outcome in check_encoder(encoder).outcomes}


def outcome(check: str, encoder: Encoder, again: Callable[[], Encoder] | None = None) -> Outcome:
    return run_check(check, EncoderUnderTest(encoder, again=again))


def breaks(check: str, encoder: Encoder, sentence: str, *, alone: bool = True) -> None:
    """The encoder fails that check with these words; and no other check, unless what it does breaks more (`alone`)."""
    result = outcome(check, encoder)
    assert result.verdict == "failed", result.message
    assert sentence in result.message
    if alone:
        assert [name for name, verdict in verdicts(encoder).items() if verdict == "failed"] == [check]


class Trunk(nn.Module):
    """Patches of 4 steps, blocks, norm; `blocks` can be anything on [sample, token, feature]."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.stem = nn.Conv1d(1, 8, 4, 4)
            self.blocks = nn.ModuleList([nn.Linear(8, 8), *blocks])
            self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def encoder_of(*blocks: nn.Module, kind: type[TorchEncoder] = TorchEncoder, **options: Any) -> Any:
    trunk = Trunk(*blocks)

    def preprocess(sample: np.ndarray) -> Tensor:
        if np.shape(sample) != (LENGTH,):
            raise DiagnosticsError(f"it has shape {np.shape(sample)}, not ({LENGTH},).")
        return torch.from_numpy(np.asarray(sample, dtype=np.float32))[None]

    taps = stack_taps("blocks", len(trunk.blocks), 8, GRID, norm="norm")
    example = np.sin(np.arange(LENGTH, dtype=np.float32))
    return kind("planted", "series", trunk, taps, "norm", preprocess, example, **options)


class Attending(nn.Module):
    """One head over the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]


@pytest.mark.parametrize(
    "make",
    [tiny_encoder, tiny_image_encoder, lambda: encoder_of(Attending()), lambda: encoder_of(nn.BatchNorm1d(8))],
    ids=["series", "image", "attention", "batch norm of [token] channels"],
)
def test_encoders_that_keep_the_contract_pass_every_check(make: Callable[[], Encoder]) -> None:
    result = check_encoder(make())
    assert result.failed == 0, [o for o in result.outcomes if o.verdict == "failed"]
    assert [o.check for o in result.outcomes] == list(CHECKS)
    idle = {o.check for o in result.outcomes if o.verdict == "not applicable"}
    assert idle <= {"attention", "padding", "sizes"}
    assert all(o.message and "\n" not in o.message for o in result.outcomes)
    json.dumps(result.to_json(), allow_nan=False)


def test_it_takes_a_handful_of_passes_and_says_how_many() -> None:
    encoder = tiny_encoder()
    result = check_encoder(encoder)
    assert result.passes <= 16
    # Those of the grid end at its first tap, so they are counted by the stem alone.
    assert result.passes <= encoder.module.passes <= result.passes + 5


# description


class Described(TorchEncoder):
    changed: Mapping[str, Any] = {}

    @property
    def identity(self) -> Mapping[str, str]:
        return {key: value for key, value in {**super().identity, **self.changed}.items() if value is not None}


def test_description() -> None:
    encoder = encoder_of()
    encoder = Encoder.replace(encoder, output_tap="nowhere")  # unchecked
    breaks("description", encoder, "its output tap 'nowhere' is not one of its taps")
    encoder = encoder_of()
    encoder = encoder.replace(modality="smell")
    breaks("description", encoder, "choose one of image", alone=False)
    encoder = encoder_of()
    encoder = Encoder.replace(encoder, taps=(*encoder.taps, encoder.taps[0]))  # unchecked
    breaks("description", encoder, "4 taps under 3 names", alone=False)
    encoder = encoder_of(kind=Described)
    encoder.changed = {"configuration": None}
    breaks("description", encoder, "its identity lacks configuration")
    encoder.changed = {"weights": 3}
    breaks("description", encoder, "no text for weights", alone=False)
    encoder = encoder_of()
    encoder = encoder.replace(rate=np.float32(3))
    breaks("description", encoder, "cannot be written as JSON")


# shapes


class NotFinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x == x.flatten().max(), torch.nan, x)


class Declares(TorchEncoder):
    """Hands over what is not as declared."""

    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        return super().capture(batch, taps, lambda tap, tokens: reduce(tap, self.other(tap, tokens)))

    def other(self, tap: Tap, tokens: Tensor) -> Tensor:
        return tokens


def test_shapes() -> None:
    breaks("shapes", encoder_of(NotFinite()), "gives 1 numbers that are not finite", alone=False)
    encoder = encoder_of(kind=Declares)
    encoder.other = lambda tap, tokens: tokens[:, :-1] if tap.name == "norm" else tokens
    breaks("shapes", encoder, "tap norm gives shape (3, 7, 8), but declares (3, 8, 8)", alone=False)
    encoder.other = lambda tap, tokens: tokens.long() if tap.name == "norm" else tokens
    breaks("shapes", encoder, "tap norm gives torch.int64", alone=False)
    breaks("shapes", encoder_of(forward=lambda m, x: m.stem(x)), "expects module 'blocks.0' to run 1 time", alone=False)


def test_without_a_pass_that_succeeds_the_rest_refers_to_shapes() -> None:
    result = check_encoder(encoder_of(forward=lambda m, x: 1 / 0))
    by = {o.check: o for o in result.outcomes}
    assert "ends in ZeroDivisionError" in by["shapes"].message
    assert by["determinism"] == Outcome("not applicable", "no forward pass succeeds: see shapes", {}, "determinism")


# grid


def test_grid() -> None:
    encoder = tiny_image_encoder()
    stem = encoder.module.stem.forward
    encoder.module.stem.forward = lambda x: stem(x).transpose(2, 3)
    breaks("grid", encoder, "wrong order: tokens lie in the order x, y (last fastest), not y, x")
    figures = {"cells": 16, "share": 1.0, "tolerance": 0, "taps_right": 5, "taps_wrong": 0, "taps_not_verified": 0}
    assert outcome("grid", tiny_image_encoder()).figures == figures
    one = layouts().with_taps(layouts().taps[-1:])
    assert outcome("grid", one).message == "no tap has a grid of more than one token"


# depth


def test_depth() -> None:
    encoder = encoder_of(nn.Linear(8, 8))
    encoder = encoder.replace(taps=[encoder.taps[i] for i in (0, 2, 1, 3)])
    breaks("depth", encoder, "tap blocks.0 fires where blocks.1 is declared: list taps in order of execution")
    encoder = encoder_of(nn.Linear(8, 8))
    late = Tap("blocks.0", 1.0, "trunk", 8, GRID, Site("blocks.0"))
    early = Tap("blocks.1", 0.5, "trunk", 8, GRID, Site("blocks.1"))
    encoder = encoder.replace(taps=[encoder.taps[0], late, early, encoder.taps[3]])
    breaks("depth", encoder, "tap blocks.1 (depth 0.5) runs after blocks.0 (depth 1)")
    head = Tap("embed", 0.5, "head", 8, GRID, Site("blocks.0", when="before"))
    encoder = encoder.replace(taps=[head, late, encoder.taps[3]])
    breaks("depth", encoder, "tap blocks.0 of the trunk runs after embed of the head")


# determinism, batch invariance


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.1, training=True)


class BatchNorm(nn.Module):
    """By the statistics of the batch, eval mode or not."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x.transpose(1, 2), None, None, training=True).transpose(1, 2)


class AcrossBatch(nn.Module):
    """Attention along the wrong axis."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(0, 1)
        return x + nn.functional.scaled_dot_product_attention(y, y, y).transpose(0, 1)


def test_determinism() -> None:
    breaks("determinism", encoder_of(Noisy()), "two passes over the same batch differ at tap blocks.1", alone=False)


@pytest.mark.parametrize("block", [BatchNorm(), AcrossBatch()], ids=["batch norm", "attention across the batch"])
def test_batch_invariance(block: nn.Module) -> None:
    breaks("batch_invariance", encoder_of(block), "a sample alone differs from itself in a batch at tap")


def test_batch_invariance_looks_at_samples_that_differ() -> None:
    for example, modality in (
        (np.zeros((8, 8, 3), np.uint8), "image"),
        (np.zeros(9), "series"),
        (np.array("ab c"), "text"),
    ):
        samples = variations(example, modality)
        assert len({np.asarray(s).tobytes() for s in samples}) == 3
        assert all(np.asarray(s).shape == example.shape for s in samples)


# in place, manual forward


class InPlace(nn.Module):
    """Overwrites what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2).add_(1)


class ReducesLate(TorchEncoder):
    """Keeps the tensors and reduces them once the pass is over."""

    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        result = super().capture(batch, taps, lambda tap, tokens: (tap, tokens))
        return {name: reduce(*pair) for name, pair in result.items()}


def test_in_place() -> None:
    assert outcome("in_place", encoder_of(InPlace())).verdict == "ok"
    breaks(
        "in_place",
        encoder_of(nn.Linear(8, 8), kind=ReducesLate),
        "tap embed changes when a later operation works in place",
    )


class Keeps(nn.Module):
    """Keeps what it gave to add it later on, as models with hooks of their own do."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        first = x + 1
        self.kept.append(first)
        return first


class AddsKept(nn.Module):
    def __init__(self, keeps: Keeps) -> None:
        super().__init__()
        self.from_there = [keeps]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.from_there[0].kept.pop()


def test_in_place_cannot_be_asked_of_a_model_that_keeps_its_tensors() -> None:
    result = outcome("in_place", encoder_of(keeps := Keeps(), AddsKept(keeps)))
    assert (result.verdict, result.message[:16]) == ("not applicable", "the model itself")


class ByName(nn.Module):
    """Gives a mapping and takes its input by name, as transformers' modules do."""

    def forward(self, *, hidden: Tensor) -> dict[str, Tensor]:
        return {"hidden": hidden + 1, "twice": 2 * hidden}


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = ByName()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(hidden=x)["hidden"]


class Layouts(nn.Module):
    """One identity for each layout: what comes before and after it brings the tensor there and back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 8, 4, 4)
        for name in ("plain", "first", "last", "time", "rows", "padded", "ordered", "features"):
            self.add_module(name, nn.Identity())
        self.nested = Nested()
        self.special = nn.Parameter(torch.randn(1, 2, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.nested(self.plain(self.stem(x).transpose(1, 2)))
        x = self.first(x.transpose(1, 2).unflatten(2, (2, 4))).flatten(2).transpose(1, 2)
        x = self.last(x.unflatten(1, (2, 4))).flatten(1, 2)
        x = self.time(x.transpose(0, 1)).transpose(0, 1)
        special = self.special.expand(2 * len(x), -1, -1)
        x = self.rows(torch.cat([special, x.reshape(2 * len(x), 4, 8)], 1))[:, 2:].reshape(len(x), 8, 8)
        x = self.padded(torch.cat([special[: len(x)], x], 1))[:, 2:]
        x = self.ordered(torch.cat([x.flip(1), special[: len(x), :1]], 1))[:, :-1].flip(1)
        return self.features(x.mean(1))


def layouts(kind: type[TorchEncoder] = TorchEncoder) -> TorchEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Layouts()
    square = Grid((2, 4), ("v", "t"))
    sites = [
        ("plain", GRID, Site("plain")),
        ("named", GRID, Site("nested.inner", when="before")),
        ("mapping", GRID, Site("nested.inner")),
        ("second", GRID, Site("nested.inner", item=1)),
        ("first", square, Site("first", layout="channels_first")),
        ("last", square, Site("last", layout="channels_last")),
        ("time", GRID, Site("time", layout="time_first")),
        ("rows", Grid((2, 4), ("v", "t"), 2), Site("rows", rows=2)),
        ("padded", GRID, Site("padded", padding=2)),
        ("ordered", Grid((8,), ("t",), 1), Site("ordered", order=(8, *range(7, -1, -1)))),
        ("features", Grid((1,), ("t",)), Site("features", layout="features")),
    ]
    taps = [Tap(name, i / 20, "trunk", 8, grid, site) for i, (name, grid, site) in enumerate(sites)]
    example = np.sin(np.arange(LENGTH, dtype=np.float32))
    return kind("layouts", "series", module, taps, "features", lambda s: torch.from_numpy(np.float32(s))[None], example)


def test_manual_forward_reads_every_layout() -> None:
    result = outcome("manual_forward", layouts())
    assert result.verdict == "ok", result.message
    assert outcome("in_place", layouts()).verdict == "ok"


@pytest.mark.parametrize(
    "name", ["plain", "named", "mapping", "second", "first", "last", "time", "rows", "padded", "ordered", "features"]
)
def test_manual_forward_finds_a_tap_that_hands_over_something_else(name: str) -> None:
    encoder = layouts(Declares)
    encoder.other = lambda tap, tokens: tokens.roll(1, dims=-1) if tap.name == name else tokens
    breaks("manual_forward", encoder, f"tap {name} differs", alone=False)


def test_manual_forward_does_not_share_the_taps_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    real = diagnostics.encoders.hooks._rows_as_places
    monkeypatch.setattr(
        diagnostics.encoders.hooks, "_rows_as_places", lambda tokens, rows, prefix: real(tokens, rows, prefix).flip(1)
    )
    breaks("manual_forward", layouts(), "tap rows differs", alone=False)


class Watched(nn.Module):
    """Computes something else while it is watched."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if self._forward_hooks else x


def test_manual_forward_finds_a_module_that_watching_changes() -> None:
    breaks("manual_forward", encoder_of(Watched()), "from a pass without hooks")


def test_laid_out_by_hand() -> None:
    value = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    tap = Tap("t", 0, "trunk", 4, Grid((2, 2), ("v", "t"), 1))
    assert laid_out(value, tap, Site("m", layout="time_first"))[2, 1, 3] == value[1, 2, 3]
    assert laid_out(value, tap, Site("m", layout="channels_first"))[1, 2, 0] == value[1, 0, 2]
    assert laid_out(value, tap, Site("m", order=(2, 0, 1)))[1, 0, 3] == value[1, 2, 3]
    folded = laid_out(value, tap, Site("m", rows=2))
    assert folded.shape == (1, 5, 4)
    assert (folded[0, 0] == (value[0, 0] + value[1, 0]) / 2).all()
    assert (folded[0, 1:] == np.concatenate([value[0, 1:], value[1, 1:]])).all()


# gradients, hooks


class KeepsGraph(TorchEncoder):
    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        def undone(tap: Tap, tokens: Tensor) -> Any:
            with torch.enable_grad():
                return reduce(tap, tokens.clone().requires_grad_() * 1)

        return super().capture(batch, taps, undone)


class Trains(TorchEncoder):
    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        return super().capture(batch, taps, reduce, gradient=True)


def test_no_graph() -> None:
    breaks("no_graph", encoder_of(kind=KeepsGraph), "tap embed returns a tensor with a gradient graph", alone=False)
    # Of frozen parameters there is no graph to keep: the check has them want gradients, and puts back what they wanted.
    encoder = encoder_of(kind=Trains)
    encoder.module.requires_grad_(False)
    breaks("no_graph", encoder, "tap embed returns a tensor with a gradient graph", alone=False)
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())
    encoder = encoder_of()
    encoder.module.train().requires_grad_(True)
    assert outcome("no_graph", encoder).verdict == "ok"


class LeavesHooks(TorchEncoder):
    """Adds a hook in each pass and forgets it: always, or only when the pass breaks off."""

    always = True

    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        handle = self.module.norm.register_forward_hook(lambda *_: None)
        result = super().capture(batch, taps, reduce)
        if not self.always:
            handle.remove()
        return result


def test_hooks() -> None:
    breaks("hooks", encoder_of(kind=LeavesHooks), "1 hook left on its modules after a pass: remove them")
    encoder = encoder_of(kind=LeavesHooks)
    encoder.always = False
    breaks("hooks", encoder, "1 hook left on its modules after a pass that fails")


class Swallows(TorchEncoder):
    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        def quiet(tap: Tap, tokens: Tensor) -> Any:
            try:
                return reduce(tap, tokens)
            except Exception:
                return None

        return super().capture(batch, taps, quiet)


def test_hooks_finds_an_error_that_is_swallowed() -> None:
    breaks("hooks", encoder_of(kind=Swallows), "an error at tap blocks.0 is swallowed")


# identity


class Digests(TorchEncoder):
    """Digests only some of what decides the activations."""

    reads: Callable[[Digests], str] = staticmethod(lambda self: "")

    @property
    def identity(self) -> Mapping[str, str]:
        return {
            "weights": type(self).reads(self),
            "configuration": "",
            "preprocessing": super().identity["preprocessing"],
        }


def digesting(read: Callable[[Any], str], *blocks: nn.Module) -> Any:
    return encoder_of(*blocks, kind=type("Some", (Digests,), {"reads": staticmethod(read)}))


def test_identity_weights() -> None:
    first = digesting(lambda self: str(float(self.module.stem.weight.sum())))
    breaks("identity_weights", first, "one element of blocks.0.bias changes and the identity does not", alone=False)
    parameters = digesting(lambda self: str([p.tolist() for p in self.module.parameters()]), nn.BatchNorm1d(8))
    breaks("identity_weights", parameters, "one element of blocks.1.running_mean changes")
    calls = iter(range(10**6))
    breaks("identity_weights", digesting(lambda self: str(next(calls))), "was changed and put back", alone=False)


def test_identity_weights_leaves_the_weights_as_they_were() -> None:
    encoder = encoder_of(nn.BatchNorm1d(8))
    before = {name: t.clone() for name, t in encoder.module.state_dict().items()}
    assert outcome("identity_weights", encoder).verdict == "ok"
    assert all(torch.equal(t, before[name]) for name, t in encoder.module.state_dict().items())


def test_identity_preprocessing() -> None:
    encoder = encoder_of(kind=Described)
    encoder.changed = {"preprocessing": "scaled by 2"}
    breaks("identity_preprocessing", encoder, "one number of a prepared sample changes and the identity does not")


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x


class Lazy(nn.Module):
    """Makes its table in the first pass, and keeps it."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.zeros(8))
        return x + self.table


def test_identity_stable() -> None:
    breaks("identity_stable", encoder_of(Lazy()), "a forward pass changes weights of its identity", alone=False)
    # What a pass writes into a buffer that was there is put back.
    assert outcome("identity_stable", encoder_of(Counting())).verdict == "ok"
    seeds = iter(range(10**6))
    result = outcome("identity_stable", tiny_encoder(next(seeds)), lambda: tiny_encoder(next(seeds)))
    assert (result.verdict, "a second build differs in weights" in result.message) == ("failed", True)
    result = outcome("identity_stable", tiny_encoder(), lambda: tiny_encoder(mean=1.0))
    assert "differs in preprocessing" in result.message
    assert outcome("identity_stable", tiny_encoder(), tiny_encoder).verdict == "ok"


# save and load


class Hidden(nn.Module):
    """Decides the activations by a number that no state_dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = float(torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Unsaved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.rand(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * self.table


class Tied(nn.Module):
    """Two names for one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.one(x))


def with_fresh(block: Callable[[], nn.Module], **options: Any) -> Any:
    return encoder_of(block(), fresh=lambda: _redrawn(Trunk(block())), **options)


def _redrawn(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def test_save_and_load() -> None:
    pytest.importorskip("safetensors")
    breaks(
        "save_and_load", with_fresh(Hidden), "other activations at tap blocks.1: something that decides the activations"
    )
    breaks("save_and_load", with_fresh(Unsaved), "an unsaved buffer differs")
    assert outcome("save_and_load", with_fresh(Tied)).verdict == "ok"
    encoder = encoder_of()
    own = encoder.module
    encoder = encoder.replace(fresh=lambda: own)
    breaks("save_and_load", encoder, "fresh weights are its own weights")
    breaks("save_and_load", encoder_of(fresh=Trunk), "fresh draws the weights that the encoder has")
    other = encoder_of(fresh=lambda: _redrawn(Trunk(nn.Linear(8, 8))))
    breaks("save_and_load", other, "its weights do not load into a fresh module")


# attention, padding


class Weighs(TorchEncoder):
    """Hands over attention that is changed on the way."""

    factor = 1.0

    def attention(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> Captured:
        return super().attention(batch, taps, lambda tap, weights: reduce(tap, self.other(weights)))

    def other(self, weights: Tensor) -> Tensor:
        return weights


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (lambda w: 2 * w, "sums to 1 within 1 only"),
        (lambda w: 2 * w.clamp(0, 1) - w.roll(1, -1), "or is negative"),
        (lambda w: w[..., :-1], "has shape (5, 1, 8, 7), not over its 8 tokens"),
    ],
)
def test_attention(other: Callable[[Tensor], Tensor], sentence: str) -> None:
    assert outcome("attention", encoder_of(Attending())).verdict == "ok"
    encoder = encoder_of(Attending(), kind=Weighs)
    encoder.other = other
    breaks("attention", encoder, sentence)
    assert "no attention inside" in outcome("attention", encoder_of()).message


class Heeding(nn.Module):
    """Patches of 4 steps, and the mean of all that the mask allows added to each; or of all, where it is not heeded."""

    def __init__(self, heeds: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Linear(4, 8)
        self.norm, self.heeds = nn.Identity(), heeds

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        tokens = self.stem(batch["values"].unflatten(1, (-1, 4)))
        real = batch["mask"].unflatten(1, (-1, 4)).all(-1, keepdim=True).float()
        real = real if self.heeds else torch.ones_like(real)
        return self.norm(tokens + (tokens * real).sum(1, keepdim=True) / real.sum(1, keepdim=True))


def masked(heeds: bool = True, valid: bool = True, shape: int = 2) -> TorchEncoder:
    def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
        if len(sample) != LENGTH:
            raise DiagnosticsError(f"it has {len(sample)} steps, not {LENGTH}.")
        values = torch.from_numpy(np.asarray(sample, dtype=np.float32))
        return {"mask": values.isfinite(), "values": values.nan_to_num(0.0)}

    def real(batch: Mapping[str, Tensor], tap: Tap) -> Tensor:
        mask = batch["mask"].unflatten(1, (-1, 4)).all(-1)
        return mask if shape == 2 else mask[:, None]

    tap = Tap("norm", 1.0, "trunk", 8, GRID, Site("norm"))
    example = np.sin(np.arange(LENGTH, dtype=np.float32))
    options = {"valid": real} if valid else {}
    return TorchEncoder("masked", "series", Heeding(heeds), [tap], "norm", preprocess, example, **options)


def test_padding() -> None:
    assert outcome("padding", masked()).verdict == "ok"
    breaks("padding", masked(heeds=False), "the content of padding changes the pooled activations of tap norm")
    breaks("padding", masked(shape=3), "valid gives torch.bool of shape (1, 1, 8)", alone=False)
    assert outcome("padding", masked(valid=False)).message == "it declares no mask of valid tokens"
    assert outcome("padding", tiny_image_encoder()).message == "image samples are not padded"
    refusing = outcome("padding", encoder_of(valid=lambda batch, tap: None))
    assert refusing.verdict == "not applicable"


# sizes


def test_sizes() -> None:
    assert outcome("sizes", tiny_encoder()).message == "a sample of 16 gives a grid of 4 t"
    encoder = tiny_encoder(sized_for=None)
    encoder = encoder.replace(preprocess=lambda sample: torch.from_numpy(np.float32(sample))[None])
    breaks("sizes", encoder, "sized for a sample of 16, a pass ends in DiagnosticsError", alone=False)
    encoder = encoder.replace(preprocess=lambda sample: torch.from_numpy(np.float32(sample)).view(1, LENGTH))
    breaks("sizes", encoder, "a sample of 16 ends in RuntimeError", alone=False)
    refusing = outcome("sizes", tiny_image_encoder())
    assert (refusing.verdict, refusing.message[:27]) == ("not applicable", "takes no sample of 8x8x3: i")


# whatever else


class Unlike(Encoder):
    """A model that is no torch module, as an outsider may write one."""

    name, modality, output_tap = "unlike", "series", "all"
    taps = (Tap("all", 1.0, "trunk", 2, GRID),)

    @property
    def identity(self) -> Mapping[str, str]:
        return {"weights": "none", "configuration": "squares", "preprocessing": "none"}

    def example(self) -> np.ndarray:
        return np.arange(8.0)

    def preprocess(self, sample: np.ndarray) -> Tensor:
        if len(sample) != 8:
            raise DiagnosticsError(f"it has {len(sample)} steps, not 8.")
        return torch.from_numpy(np.float32(sample))

    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        return {"all": reduce(self.taps[0], torch.stack([batch, batch**2], dim=-1))} if taps != [] else {}


def test_an_encoder_that_shows_no_torch_module_is_checked_as_far_as_it_can_be() -> None:
    result = {o.check: o for o in check_encoder(Unlike()).outcomes}
    assert [name for name, o in result.items() if o.verdict == "failed"] == []
    ok = {name for name, o in result.items() if o.verdict == "ok"}
    assert ok >= {
        "description",
        "shapes",
        "grid",
        "depth",
        "determinism",
        "batch_invariance",
        "no_graph",
        "identity_stable",
    }
    assert all(
        result[name].verdict == "not applicable" for name in ("in_place", "manual_forward", "hooks", "save_and_load")
    )


def test_difference_is_relative_and_sees_what_is_not_finite() -> None:
    one = torch.tensor([[0.0, 10.0]])
    assert difference(one, one) == 0
    assert difference(one + 1, one) == pytest.approx(0.2)
    assert difference(one, one[:, :1]) == float("inf")
    assert difference(one * torch.nan, one) == float("inf")


def test_an_error_within_a_check_is_a_failure_in_words() -> None:
    subject = EncoderUnderTest(tiny_encoder().replace(sized_for=None, attention=lambda *_: 1 / 0))
    assert run_check("attention", subject).message == "it ends in ZeroDivisionError: division by zero"


MINE = """
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder
def build(): return tiny_encoder()
def images(): return tiny_image_encoder()
def data(length: int = 32): return tiny_dataset(length=length)
def turned():
    encoder = tiny_image_encoder()
    stem = encoder.module.stem.forward
    encoder.module.stem.forward = lambda x: stem(x).transpose(2, 3)
    return encoder
"""


@pytest.fixture
def mine(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("mine")
def test_the_command_says_each_check_in_a_line_and_ends_with_1_when_one_fails() -> None:
    good = diagnose("check", "mine.py:build")
    assert good.status == 0
    for name in CHECKS:
        assert sum(line.startswith(name + " ") for line in good.out.splitlines()) == 1
    assert "tiny: 15 ok, 0 failed, 2 not applicable, from " in good.out
    bad = diagnose("check", "mine.py:turned")
    assert bad.status == 1
    assert "FAILED" in bad.out
    assert "1 failed" in bad.out
    shown = diagnose("check", "mine.py:turned", "--json")
    assert shown.status == 1
    result = json.loads(shown.out)
    assert result["failed"] == 1
    assert {c["check"]: c["verdict"] for c in result["checks"]}["grid"] == "failed"
    assert result["passes"] > 5


@pytest.mark.usefixtures("mine")
def test_the_command_takes_samples_of_a_dataset() -> None:
    result = diagnose("check", "mine.py:build", "--data", "mine.py:data?length=64", "--json")
    checks = {c["check"]: c for c in json.loads(result.out)["checks"]}
    assert checks["grid"]["figures"]["cells"] == 16
    assert refused("check", "mine.py:images", "--data", "mine.py:data") == (
        "tiny-image reads image samples, but tiny-series holds series samples: give image samples."
    )


@pytest.mark.usefixtures("mine")
def test_inspect_verifies_the_grid() -> None:
    good = diagnose("inspect", "mine.py:images", "--verify-grid")
    assert good.status == 0
    assert (
        "Grid right: tap embed, 4 x 4 (y, x): all 16 cells changed one at a time; 16 changed their own token most."
        in good.out
    )
    bad = diagnose("inspect", "mine.py:turned", "--verify-grid")
    assert bad.status == 1
    assert "Grid WRONG" in bad.out
    assert "order x, y" in " ".join(bad.out.split())
    result = json.loads(diagnose("inspect", "mine.py:turned", "--verify-grid", "--json").out)["placement"]
    assert (result["right"], result["share"], len(result["found"]), len(result["order"])) == (False, 0.25, 16, 18)
    assert "placement" not in json.loads(diagnose("inspect", "mine.py:images", "--json").out)


class Exchanging(nn.Module):
    """Exchanges two tokens, in front of a block."""

    def __init__(self, block: nn.Module, one: int, other: int) -> None:
        super().__init__()
        self.block, self.pair = block, (one, other)

    def forward(self, x: Tensor) -> Tensor:
        order = torch.arange(x.shape[1])
        order[list(self.pair)] = order[list(reversed(self.pair))]
        return self.block(x[:, order])


@pytest.mark.parametrize("block", [nn.Linear(8, 8), Attending()], ids=["no residuals", "residuals"])
@pytest.mark.parametrize("pair", [(2, 3), (0, 7)])
def test_two_tokens_that_are_exchanged_after_a_later_block_fail(block: nn.Module, pair: tuple[int, int]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = encoder_of(nn.Linear(8, 8), Exchanging(block, *pair), Attending())
    result = outcome("grid", made)
    assert result.verdict == "failed" and "exchanged" in result.message, result.message
    assert str(pair[0]) in result.message and str(pair[1]) in result.message


@pytest.mark.parametrize("pair", [(17, 140), (100, 101), (0, 143)])
def test_two_tokens_of_a_large_grid_that_are_exchanged_fail(pair: tuple[int, int]) -> None:
    made = tiny_image_encoder(side=48, prefix=0)
    blocks = made.module.blocks
    assert outcome("grid", made).verdict == "ok"
    blocks[1] = Exchanging(blocks[1], *pair)
    result = outcome("grid", made)
    one, other = (tuple(map(int, np.unravel_index(place, (12, 12)))) for place in pair)
    assert result.verdict == "failed"
    # Of corners, which are always changed, the cells tell it, in other words.
    said = [
        f"tap blocks.1 has the tokens of {one} and {other} exchanged against",
        "(y 0, x 0) and (y 11, x 11) are exchanged",
    ]
    assert any(words in result.message for words in said[: 1 + (pair == (0, 143))]), result.message
