"""Raw samples as features without a model: known answers by modality, padding and gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diagnostics import Grid, Site, Tap, TorchEncoder
from diagnostics.runs.controls.kinds import InputEncoder, control_encoders
from diagnostics.runs.controls.names import NAMES
from diagnostics.runs.controls.raw_input import BANDS, RAW, RAW_FRAMES, RAW_PIXELS, RAW_STEPS, STATISTICS, WORDS
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

RNG = np.random.default_rng(0)


def test_padding_on_the_left_changes_no_statistic() -> None:
    series = RNG.standard_normal((90, 2)).astype(np.float32)
    padded = np.concatenate([np.full((30, 2), np.nan, np.float32), series])
    np.testing.assert_allclose(STATISTICS["series"](padded), STATISTICS["series"](series), rtol=1e-5)
    np.testing.assert_array_equal(RAW["series"](padded), series[-RAW_STEPS:].ravel())


def test_a_shorter_series_gives_as_many_features() -> None:
    short = np.full(100, np.nan, np.float32)
    short[-3:] = [1.0, 2.0, 6.0]
    raw, whole = RAW["series"](short), RNG.standard_normal(100)
    assert raw.shape == RAW["series"](whole).shape == (RAW_STEPS,)
    np.testing.assert_array_equal(raw[:-3], 3.0)
    np.testing.assert_array_equal(raw[-3:], [1.0, 2.0, 6.0])
    for few in (short, np.where(np.arange(100) == 99, 5.0, np.nan)):
        features = STATISTICS["series"](few)
        assert features.shape == STATISTICS["series"](whole).shape and np.isfinite(features).all()


def test_gaps_hold_the_mean() -> None:
    series = np.array([1.0, np.nan, 3.0, np.nan, 5.0], dtype=np.float32)
    np.testing.assert_array_equal(RAW["series"](series), [1, 3, 3, 3, 5])


def test_a_tone_stands_in_its_band() -> None:
    steps = np.arange(4000)
    for share in (0.1, 0.5, 0.9):  # of half the sampling rate
        features = RAW["audio"](np.sin(np.pi * share * steps))
        assert features.shape == (BANDS,)
        of_bin = np.concatenate([[i] * len(part) for i, part in enumerate(np.array_split(np.arange(201), BANDS))])
        assert features.argmax() == of_bin[round(share * 200)]
    assert np.isfinite(RAW["audio"](np.full(50, np.nan))).all()


def test_a_video_is_some_of_its_frames_and_how_they_change() -> None:
    still = np.repeat(RNG.integers(0, 256, (1, 20, 30, 3), dtype=np.uint8), 9, axis=0)
    raw = RAW["video"](still).reshape(RAW_FRAMES, 3, RAW_PIXELS, RAW_PIXELS)
    assert np.ptp(raw, axis=0).max() == 0
    np.testing.assert_array_equal(STATISTICS["video"](still)[-3:], 0)
    blinking = still.copy()
    blinking[::2] = 0
    blinking[1::2] = 255
    np.testing.assert_allclose(STATISTICS["video"](blinking)[-3:], 1)


def test_words_of_a_text() -> None:
    one, same, other = (RAW["text"](np.asarray(text)) for text in ("the cat sat", "THE  sat cat", "the dog ran"))
    assert one.shape == (WORDS,) and np.array_equal(one, same) and not np.array_equal(one, other)
    assert one.sum() == pytest.approx(1)
    assert np.isfinite(RAW["text"](np.asarray(""))).all() and np.isfinite(STATISTICS["text"](np.asarray(""))).all()


def test_a_photograph_of_many_pixels() -> None:
    assert STATISTICS["image"](np.zeros((4200, 4100, 1), dtype=np.uint8)).shape == (9,)


@pytest.mark.parametrize(
    ("modality", "sample"),
    [
        ("video", RNG.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)),
        ("audio", RNG.standard_normal(800).astype(np.float32)),
        ("text", np.asarray("a few words")),
        ("image", RNG.integers(0, 256, (8, 8), dtype=np.uint8)),
    ],
)
def test_every_modality_has_raw_input_and_summary_statistics(modality: Any, sample: np.ndarray) -> None:
    tap = Tap("here", 1.0, "trunk", 3, Grid((1,), ("t",)), Site("", layout="features"))
    encoder = TorchEncoder("mine", modality, nn.Identity(), [tap], "here", lambda sample: torch.zeros(3), sample)
    features = control_encoders(encoder, tiny_dataset(), 0)
    for name in ("raw_input", "summary_statistics"):
        control = features[name]()
        result = control.capture({k: v[None] for k, v in control.preprocess(sample).items()})
        assert list(result) == [modality] and result[modality].isfinite().all()
    assert list(control_encoders(tiny_encoder(), tiny_dataset(), 0)) == list(NAMES[:-1])


def test_cells_beyond_the_image_are_black_and_the_others_stay_in_place() -> None:
    encoder = tiny_image_encoder()
    control = InputEncoder("raw_input", encoder)
    wide = InputEncoder("raw_input", tiny_image_encoder(covers=lambda shape: tuple((-4.0, n + 4.0) for n in shape)))
    image = RNG.integers(1, 256, (8, 8, 3), dtype=np.uint8)
    inner = wide.preprocess(image)["cells"].reshape(4, 4, -1)
    assert (inner[0] == 0).all() and (inner[:, 3] == 0).all()
    plain = control.preprocess(np.pad(image, ((4, 4), (4, 4), (0, 0))))["cells"].reshape(4, 4, -1)
    torch.testing.assert_close(inner, plain)
