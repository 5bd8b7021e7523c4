"""A module in the middle of its training is measured, and trains on as if nobody had looked."""

from __future__ import annotations

import contextlib
import copy
import random
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics.checks.conformance import check_encoder
from diagnostics.encoders.bare_module import wrap
from diagnostics.encoders.modules import evaluating, placing, random_kept, seeding
from diagnostics.encoders.places import verify_grid
from diagnostics.encoders.saved.cut import cut_encoder
from diagnostics.errors import DiagnosticsError, StorageError
from tests.support.refusals import refusal
from tests.support.tiny import LENGTH, tiny_dataset, tiny_encoder

WIDTH, PATCH = 8, 4


class Observed(nn.Module):
    """Writes the range of what it sees into buffers in either mode, as modules of quantisation-aware training do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("highest", torch.tensor(0.0))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.highest.copy_(torch.maximum(self.highest, x.detach().abs().max()))
        self.calls = self.calls + 1  # another tensor under the name of a buffer
        return x / (1 + self.highest)


class Block(nn.Module):
    def __init__(self, drawn: bool) -> None:
        super().__init__()
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, 2 * WIDTH))
        self.norm = nn.BatchNorm1d(2 * WIDTH)
        self.drop = nn.Dropout(0.2)
        self.outer = nn.utils.parametrizations.spectral_norm(nn.Linear(2 * WIDTH, WIDTH))
        self.drawn = drawn

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.inner(x).transpose(1, 2)).transpose(1, 2)
        if self.drawn:  # draws in eval mode too, from every generator that there is
            h = h + 1e-3 * (torch.rand(()) + float(np.random.rand()) + random.random())
        return x + self.outer(self.drop(torch.relu(h)))


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, WIDTH, PATCH, PATCH)
        self.observation_arrays = Observed()
        self.blocks = nn.ModuleList([Block(drawn) for drawn in (False, True, False)])
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.observation_arrays(self.stem(x).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Training:
    """A trunk in training: momentum, a frozen stem, a first block in eval mode, a forward hook of the user."""

    def __init__(self) -> None:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        self.module = Trunk()
        self.module.stem.requires_grad_(False)
        self.module.blocks[0].norm.eval()
        self.handle = self.module.blocks[1].register_forward_hook(lambda module, args, output: 1.5 * output)
        self.optimizer = torch.optim.SGD(
            [p for p in self.module.parameters() if p.requires_grad], lr=0.05, momentum=0.9
        )
        self.data = torch.randn(64, 1, LENGTH, generator=torch.Generator().manual_seed(1))
        self.losses: list[float] = []

    def step(self) -> None:
        """One of training; its gradients stay, as of a loop that clears them before the next."""
        self.optimizer.zero_grad()
        batch = self.data[torch.randperm(len(self.data))[:16]]
        loss = (self.module(batch) - batch.mean()).square().mean() + 0.1 * self.module(batch).std()
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())

    def encoder(self, **options: Any) -> dx.TorchEncoder:
        grid = dx.Grid((LENGTH // PATCH,), ("t",))
        taps = dx.stack_taps("blocks", 3, WIDTH, grid, norm="norm")
        example = np.sin(np.arange(LENGTH, dtype=np.float32))
        return dx.TorchEncoder("live", "series", self.module, taps, "norm", as_channel, example, **options)

    def state(self) -> dict[str, Any]:
        """All that measuring could change, as plain values."""
        module = self.module
        return {
            "state": {name: tensor.tolist() for name, tensor in module.state_dict().items()},
            "modes": {name: part.training for name, part in module.named_modules()},
            "wanted": {name: p.requires_grad for name, p in module.named_parameters()},
            "gradients": {name: None if p.grad is None else p.grad.tolist() for name, p in module.named_parameters()},
            "objects": [id(tensor) for tensor in (*module.parameters(), *module.buffers())],
            "places": [t.data_ptr() for t in (*module.parameters(), *module.buffers())],
            "hooks": [
                len(hooks)
                for part in module.modules()
                for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
            ],
            "random": (torch.get_rng_state().tolist(), str(np.random.get_state()), str(random.getstate())),
        }


def as_channel(sample: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(sample, dtype=np.float32))[None]


def batch_of(encoder: dx.TorchEncoder) -> Tensor:
    return torch.stack([encoder.preprocess(encoder.example())] * 3)


class Broken(Exception):
    pass


def broken(*_: Any) -> Any:
    raise Broken


def saved(training: Training) -> None:
    encoder = training.encoder().replace(skeleton="whatever")
    with tempfile.TemporaryDirectory() as folder:
        dx.save_encoder(folder, encoder, cut="blocks.1")


def breaks_off(training: Training) -> None:
    with pytest.raises(Broken):
        training.encoder().capture(batch_of(training.encoder()), ["blocks.1"], broken)


def no_attention(training: Training) -> None:
    with pytest.raises(DiagnosticsError):
        training.encoder().attention(batch_of(training.encoder()))


def interrupted(training: Training) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.encoder().capture(batch_of(training.encoder()), ["blocks.1"], stop)


def no_such_module(training: Training) -> None:
    """Its second tap names a module that is gone by the time of the pass: the hooks of the first come off."""
    encoder = training.encoder()
    norm = training.module.norm
    del training.module.norm
    with pytest.raises(AttributeError):
        encoder.capture(batch_of(encoder))
    training.module.norm = norm


def discovered(training: Training) -> None:
    captured = dx.TorchEncoder(
        "live", "series", training.module, preprocess=as_channel, example=np.sin(np.arange(LENGTH, dtype=np.float32))
    )
    assert captured.output_tap == "norm"


PASSES: dict[str, Callable[[Training], Any]] = {
    "constructed": lambda training: training.encoder(),
    "discovered": discovered,
    "bare": lambda training: wrap(training.module, "series", np.sin(np.arange(LENGTH, dtype=np.float32))),
    "measured": lambda training: dx.measure(training.module, tiny_dataset(40), measures="rankme"),
    "watched": lambda training: dx.LayerProfiles(training.module, tiny_dataset(40), measures="rankme").step(0),
    "captured": lambda training: training.encoder().capture(batch_of(training.encoder())),
    "under inference mode": lambda training: torch.inference_mode()(training.encoder().capture)(
        batch_of(training.encoder())
    ),
    "gradient": lambda training: training.encoder().input_gradient(batch_of(training.encoder())),
    "no attention": no_attention,
    "placement": lambda training: verify_grid(training.encoder()),
    "conformance": lambda training: check_encoder(training.encoder()),
    "fresh": lambda training: training.encoder().fresh(0),
    "permuted": lambda training: training.encoder().permuted(0),
    "identity": lambda training: training.encoder().identity,
    "cut": lambda training: cut_encoder(training.encoder(), "blocks.0"),
    "saved": saved,
    "breaks off": breaks_off,
    "interrupted": interrupted,
    "no such module": no_such_module,
}


@pytest.mark.parametrize("name", PASSES)
def test_what_is_looked_at_stays_as_it_was(name: str) -> None:
    training = Training()
    training.step()
    before = training.state()
    PASSES[name](training)
    after = training.state()
    for aspect in before:
        assert after[aspect] == before[aspect], aspect


def test_training_goes_on_bit_for_bit_between_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset(40)
    measured = Training()
    measured.step()
    run = dx.run(measured.encoder(), data, out=tmp_path / "run", device="cpu")
    assert {"fresh_weights", "permuted_weights"} <= run.controls.keys(), run.skipped
    measured.step()
    with monkeypatch.context() as patched:  # a pass that fails in the middle of a run
        patched.setattr(measured.module.blocks[2], "forward", broken)
        with refusal("foreign-error", "Broken"):
            dx.run(measured.encoder(), data, out=tmp_path / "broken", device="cpu")
    measured.step()

    twin = Training()
    for _ in range(3):
        twin.step()
    assert measured.losses == twin.losses
    assert len(set(twin.losses)) == 3
    for name, tensor in twin.module.state_dict().items():
        assert torch.equal(measured.module.state_dict()[name], tensor), name


def test_a_trained_module_is_refused_where_it_was_measured_before(tmp_path: Path) -> None:
    training, data = Training(), tiny_dataset(24)
    encoder = training.encoder()
    options: dict[str, Any] = {"out": tmp_path, "measures": "rankme", "controls": False, "report": False}
    dx.run(encoder, data, **options)
    dx.run(encoder, data, **options)  # the same weights
    training.step()
    with refusal("other-run", "weights", kind=StorageError):
        dx.run(encoder, data, **options)


def test_passes_run_in_eval_mode_whatever_mode_the_module_is_in() -> None:
    training = Training()
    training.module.blocks[1].drawn = False
    batch = training.data[:4]
    captured = training.encoder().capture(batch)["norm"]
    with torch.no_grad():
        training.module.observation_arrays.highest.zero_()
        expected = training.module.eval()(batch)
    torch.testing.assert_close(captured, expected, rtol=0, atol=0)
    assert not captured.requires_grad


def test_a_module_comes_back_from_a_device_with_the_tensors_that_it_had() -> None:
    training = Training()
    training.step()
    before = training.state()
    with contextlib.suppress(Broken), placing(training.module, "meta"):
        assert {t.device.type for t in training.module.state_dict().values()} == {"meta"}
        raise Broken
    assert training.state() == before
    encoder = training.encoder()
    with encoder.on("cpu"):
        assert training.state() == before


def test_taps_read_with_a_gradient_follow_the_mode_of_the_module() -> None:
    training = Training()
    batch = training.data[:4]
    calls = int(training.module.observation_arrays.calls)
    read = [training.encoder().capture(batch, ["norm"], gradient=True)["norm"] for _ in range(2)]
    assert all(tokens.requires_grad for tokens in read)
    assert not torch.equal(*read)  # dropout
    assert int(training.module.observation_arrays.calls) == calls + 2


def test_a_pass_that_ends_in_another_thread_draws_no_weights_again() -> None:
    entered, drawing = threading.Event(), threading.Event()

    def other() -> None:
        with random_kept():
            entered.set()
            drawing.wait(10)

    with seeding(3):
        alone = torch.rand(2)
    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    with seeding(3):
        first = torch.rand(1)
        drawing.set()
        thread.join(0.3)  # it would set the generator back now, and waits
        together = torch.cat([first, torch.rand(1)])
    thread.join(10)
    assert not thread.is_alive()
    assert torch.equal(together, alone)


def test_modes_are_kept_where_eval_is_overridden() -> None:
    """A module that merges weights in eval mode would come back rounded if `eval` and `train` were called."""

    class Merging(nn.Linear):
        merged = 0

        def train(self, mode: bool = True) -> Merging:
            self.merged += 1
            return super().train(mode)

    module = Merging(3, 3)
    with evaluating(module):
        assert not module.training
    assert module.training and module.merged == 0


def test_a_module_without_numbers_is_refused_in_a_sentence(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(LENGTH, WIDTH), nn.Linear(WIDTH, WIDTH)).to("meta")
    options: dict[str, Any] = {"measures": "rankme", "controls": False, "report": False, "out": tmp_path / "run"}
    encoder = tiny_encoder()
    on_meta = encoder.with_module(copy.deepcopy(encoder.module).to("meta"), "empty")
    for empty in (module, on_meta):
        with refusal("no-weights"):
            dx.run(empty, tiny_dataset(40), **options)
    with refusal("no-weights"):
        on_meta.transform(tiny_dataset(40)[:2])


def test_two_threads_read_one_module_as_one_thread_does() -> None:
    """They counted each other's calls, and were advised to correct the tap's Site."""
    encoder, data = tiny_encoder(blocks=6), tiny_dataset(40)
    encoder.module.train()
    expected = encoder.transform(data[:], tap="blocks.5")

    def read(_: int) -> np.ndarray:
        return np.asarray(encoder.transform(data[:], tap="blocks.5", batch_size=1))

    with ThreadPoolExecutor(4) as pool:
        for features in pool.map(read, range(8)):
            np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert encoder.module.training
