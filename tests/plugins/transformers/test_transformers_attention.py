"""hf: attention recomputed from fused kernels against what the models themselves return, run eagerly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "coverage"))

# Below the skip and the path, since these imports need transformers or the zoo of models beside the benchmarks.
from diagnostics_transformers.encoder import encoder_of  # noqa: E402  (below the skip of a missing package)
from diagnostics_transformers.load import Loaded, quiet, settled  # noqa: E402  (below the skip of a missing package)
from diagnostics_transformers.towers import Wanted  # noqa: E402  (below the skip of a missing package)
from transformers_zoo import build as tiny  # noqa: E402  (below the skip of a missing package)

from tests.support.refusals import refusal  # noqa: E402  (below the skip of a missing package)

# Model type -> prefix of the layers' taps. Rotary and learnt positions, biases, norms of queries and keys, grouped heads.
FAMILIES = {
    "bert": "encoder.layer",
    "llama": "layers",
    "qwen3": "layers",
    "dinov3_vit": "model.layer",
    "clip": "encoder.layers",
    "wav2vec2": "encoder.layers",
    "whisper": "layers",
    "vjepa2": "encoder.layer",
    "timesfm2_5": "layers",
}


def encoder(kind: str, implementation: str) -> Any:
    with quiet():
        model = tiny(kind)
        model.set_attn_implementation(implementation)
    settled(model.config)
    # Whisper pads shorter sounds with silence, which its tokens attend to.
    length = dict.fromkeys(("bert", "llama", "qwen3", "mamba"), 40) | {"whisper": 480_000}
    return encoder_of(Loaded(kind, model, model.config, None), f"hf:{kind}", None, Wanted(length=length.get(kind)))


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.slow
def test_attention_is_what_the_model_returns(kind: str) -> None:
    fused, eager = encoder(kind, "sdpa"), encoder(kind, "eager")
    sample = np.asarray("The dog runs over the grass.") if fused.modality == "text" else fused.example()
    # Three samples: as many as no model here has heads.
    batch = default_collate([fused.preprocess(s) for s in (fused.example(), sample, fused.example())])
    names = [tap.name for tap in fused.taps if tap.name.startswith(f"{FAMILIES[kind]}.")]
    given: dict[str, Any] = {}
    tower = eager.module.tower
    eager.module.forward = lambda arguments: given.update(arguments)
    eager.forward(eager.module, batch)
    with torch.no_grad():
        returned = tower(**given, output_attentions=True).attentions
    assert len(names) == len(returned) == 2
    captured = fused.attention(batch, names)
    kept = captured[names[0]]
    assert kept.shape == (3, returned[0].shape[1], fused.taps[0].tokens, fused.taps[0].tokens)
    real = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones(kept.shape[0], kept.shape[2]) > 0
    for name, expected in zip(names, returned, strict=True):
        # What a query of the padding looks at is nobody's business, and implementations differ there.
        queries = real[:, None].expand(kept.shape[:3])
        torch.testing.assert_close(captured[name][queries], expected[queries], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "qwen3", "dinov3_vit"])
def test_eager_attention_is_caught_too(kind: str) -> None:
    fused, eager = encoder(kind, "sdpa"), encoder(kind, "eager")
    batch = default_collate([fused.preprocess(fused.example())] * 3)
    for name, expected in fused.attention(batch).items():
        torch.testing.assert_close(eager.attention(batch)[name], expected, rtol=1e-3, atol=1e-5)


def test_tokens_that_attend_to_added_silence_have_no_attention_of_their_own() -> None:
    subject = encoder_of_short_whisper()
    with refusal("no-attention", "attend to padding"):
        subject.attention(default_collate([subject.preprocess(subject.example())] * 3))


def encoder_of_short_whisper() -> Any:
    with quiet():
        model = tiny("whisper")
    settled(model.config)
    return encoder_of(Loaded("whisper", model, model.config, None), "hf:whisper", None, Wanted(length=32_000))


def test_a_model_without_attention_says_so() -> None:
    subject = encoder("mamba", "eager")
    with refusal("no-attention"):
        subject.attention(default_collate([subject.preprocess(subject.example())] * 3))
