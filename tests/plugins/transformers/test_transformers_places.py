"""hf: where tokens of an order of their own lie, and which part of a sound tokens stand for, against what moves."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import default_collate

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "coverage"))

# Below the skip and the path, since these imports need transformers or the zoo of models beside the benchmarks.
from diagnostics_transformers.audio import Convolution, convolutions, span
from transformers_zoo import encoder, tiny_config

from diagnostics import TorchEncoder
from diagnostics.encoders.places import verify_grid
from tests.support.refusals import refusal

STACKS = {
    "wav2vec2": ([Convolution(10, 5), *[Convolution(3, 2)] * 4, *[Convolution(2, 2)] * 2], 16_000),
    "lasr_encoder": ([Convolution(5, 2)] * 2, 200),
    "nemotron_asr_streaming_encoder": ([Convolution(3, 2, before=2, behind=1)] * 3, 200),
    "voxtral_realtime_encoder": ([Convolution(3, 1, before=2), Convolution(3, 2, before=1)], 200),
}


@pytest.mark.parametrize("kind", STACKS)
def test_spans_are_those_of_the_convolutions_themselves(kind: str) -> None:
    """Which steps each token sees is asked of real convolutions, by gradients; the middles are those of the spans' cells."""
    stack, steps = STACKS[kind]
    assert convolutions(tiny_config(kind)) == stack
    x = torch.zeros(1, 1, steps, dtype=torch.float64, requires_grad=True)
    out: Any = x
    for one in stack:
        weight = torch.ones(1, 1, one.kernel, dtype=torch.float64)
        out = functional.conv1d(functional.pad(out, (one.before, one.behind)), weight, stride=one.stride)
    start, stop = span(steps, stack)
    count = out.shape[-1]
    for token in (count // 2, count // 2 + 1):
        (seen,) = torch.autograd.grad(out[0, 0, token], x, retain_graph=True)
        reached = seen[0, 0].nonzero()[:, 0]
        middle = (float(reached[0]) + float(reached[-1]) + 1) / 2
        assert start + (token + 0.5) * (stop - start) / count == pytest.approx(middle)


def test_features_without_convolutions_are_covered_evenly() -> None:
    assert convolutions(tiny_config("bert")) == []
    assert span(300, []) == (0.0, 300.0)


@pytest.mark.parametrize("kind", ["hiera", "yolos", "llama4", "radio", "molmo2", "mllama", "inkling2", "minicpmv4_6"])
def test_a_cell_moves_its_own_token(kind: str) -> None:
    assert verify_grid(encoder(kind)).right


def test_an_order_left_out_is_found_out() -> None:
    """The control: Hiera's windows and YOLOS's queries declared in raster order."""
    for kind in ("hiera", "yolos"):
        subject = encoder(kind)
        plain = [replace(tap, site=replace(tap.site, order=())) for tap in subject.taps if tap.site is not None]
        wrong = TorchEncoder(
            kind,
            "image",
            subject.module,
            plain,
            subject.output_tap,
            subject.preprocess,
            subject.example(),
            forward=subject.forward,
        )
        assert not verify_grid(wrong).right


def test_hiera_gives_the_maps_that_it_puts_back_itself() -> None:
    subject = encoder("hiera")
    image = subject.example()
    batch = {key: value[None] for key, value in subject.preprocess(image).items()}
    with torch.no_grad():
        theirs = subject.module.tower(**batch, output_hidden_states=True).reshaped_hidden_states
    first = next(tap for tap in subject.taps if tap.depth == 0)
    seen: list[np.ndarray] = []
    subject.capture(batch, [first.name], lambda tap, tokens: seen.append(tokens[0].numpy()))
    np.testing.assert_array_equal(seen[0], theirs[0][0].flatten(0, 1).numpy())


def test_mllama_hands_over_its_first_tile_without_what_fills_it_up() -> None:
    subject = encoder("mllama")
    assert [tap.name for tap in subject.taps] == [
        "embed",
        *[f"{part}.layers.{i}" for part in _MLLAMA for i in range(2)],
    ]
    assert {(tap.grid.shape, tap.grid.prefix, tap.site.dropped) for tap in subject.taps} == {((4, 4), 1, 4 * 24 - 17)}
    batch = {key: value[None] for key, value in subject.preprocess(subject.example()).items()}
    with torch.no_grad():
        theirs = subject.forward(subject.module, batch).last_hidden_state
    assert theirs.shape[:4] == (1, 1, 4, 17)
    torch.testing.assert_close(subject.capture(batch)[subject.output_tap][0], theirs[0, 0, 0, :, :32], rtol=0, atol=0)


_MLLAMA = ("transformer", "global_transformer")


def test_patches_that_are_merged_on_the_way_keep_their_places() -> None:
    """MiniCPM-V, without what attention mixes: a patch moves the token of its own four, and no other."""
    subject = encoder("minicpmv4_6")
    for name, part in subject.module.named_modules():
        if name.endswith("self_attn.out_proj"):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    assert [tap.grid.shape for tap in subject.taps] == [(4, 4), (4, 4), (2, 2), (2, 2)]
    plain = np.full((64, 64, 3), 100, dtype=np.uint8)
    for y, x in ((0, 3), (2, 1), (3, 2)):
        changed = plain.copy()
        changed[16 * y : 16 * y + 16, 16 * x : 16 * x + 16] = 250
        batch = default_collate([subject.preprocess(plain), subject.preprocess(changed)])
        for name, tokens in subject.capture(batch).items():
            side = subject.tap(name).grid.shape[0]
            moved = (tokens[1] - tokens[0]).abs().sum(-1) > 1e-6
            assert moved.nonzero().flatten().tolist() == [y * side // 4 * side + x * side // 4]


@pytest.mark.parametrize("kind", ["lxmert", "vilt", "lightglue", "kyutai_speech_to_text"])
def test_what_takes_several_things_at_once_is_refused_in_words(kind: str) -> None:
    with refusal("other-modality") as raised:
        encoder(kind)
    assert str(raised.value).count(". ") == 0
