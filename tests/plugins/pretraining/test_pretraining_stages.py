"""Samples are counted to the last one over stages."""

from __future__ import annotations

import pytest
from diagnostics_pretraining.recipe import Stage, scaled, stage_at, steps_of

from tests.support.refusals import refusal

STAGES = (Stage(16, 400), Stage(24, 320), Stage(32, 160), Stage(48, 80))


def test_every_step_belongs_to_the_stage_of_its_samples() -> None:
    assert steps_of(STAGES, 40) == 24
    sizes = [stage_at(STAGES, 40, step).size for step in range(24)]
    assert [sizes.count(stage.size) * 40 for stage in STAGES] == [400, 320, 160, 80]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("samples", [160, 200, 520, 960, 40_000])
def test_scaled_stages_have_exactly_as_many_samples(samples: int) -> None:
    few = scaled(STAGES, samples, 40)
    assert sum(stage.samples for stage in few) == samples
    assert steps_of(few, 40) == samples // 40
    assert [stage.size for stage in few] == [16, 24, 32, 48]
    for stage, original in zip(few, STAGES, strict=True):
        share = original.samples * samples / 960
        assert abs(stage.samples - share) < 40 or stage.samples == 40 or samples < 400


def test_scaled_as_they_are_they_stay() -> None:
    assert scaled(STAGES, 960, 40) == STAGES


def test_what_is_no_whole_number_of_batches_is_refused() -> None:
    with refusal("bad-value", "24", "320", "50", "300"):
        steps_of(STAGES[1:2], 50)
    with refusal("bad-value", "1,000", "48", "1008"):
        scaled(STAGES, 1000, 48)
    with refusal("bad-value", "2", "40", "80", "4", "160"):
        scaled(STAGES, 80, 40)
