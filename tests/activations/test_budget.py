"""How many samples keep their tokens, by the rule and by a size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import diagnostics as dx
from diagnostics import Grid, Tap
from diagnostics.activations.plan import parse_budget, plan, samples_with_tokens
from diagnostics.progress import Cost, size
from diagnostics.report.terminal import print_page
from diagnostics.runs.page import run_page
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

# Bytes of a sample's tokens in float32: taps x (prefix + grid) x features x 4.
VIT_TINY = 14 * 197 * 192 * 4
VIT_L_336 = 26 * 577 * 1024 * 4
PE_G_448 = 52 * 1024 * 1536 * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("256MB", 256 * 10**6),
        ("2 GB", 2 * 10**9),
        ("1.5gb", 15 * 10**8),
        ("10kB", 10**4),
        ("0", 0),
        (0, 0),
        (None, None),
        ("9B", 9),
    ],
)
def test_a_size_has_a_unit(text: Any, expected: int | None) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    "text", ["256", 256, 256 * 10**6, "1e9", "-1MB", "nan", "inf", "MB", "", "12 parsecs", "1,5GB", 0.5, True]
)
def test_a_number_without_a_unit_is_refused(text: Any) -> None:
    with refusal("bad-value"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["256", 256])
def test_command_line_and_python_refuse_it_alike(text: Any, tmp_path: Path) -> None:
    with refusal("bad-value", "256"):
        dx.run(tiny_encoder(), tiny_dataset(40), out=tmp_path / "run", token_budget=text)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("each", "budget", "expected"),
    [
        (VIT_TINY, None, 256 * 10**6 // VIT_TINY),  # more than 64 samples: as much as 256 MB hold
        (10**7, None, 64),  # 640 MB
        (VIT_L_336, None, 2 * 10**9 // VIT_L_336),  # 32: what 2 GB hold
        (PE_G_448, None, 8),  # 2.6 GB, and never fewer
        (VIT_L_336, 256 * 10**6, 4),  # a size that is given holds
        (PE_G_448, 256 * 10**6, 0),
        (VIT_TINY, 10**12, 10_000),
        (VIT_TINY, 0, 0),
    ],
)
def test_the_rule_keeps_64_samples_up_to_2_gb_and_never_fewer_than_8(
    each: int, budget: int | None, expected: int
) -> None:
    assert samples_with_tokens(10_000, each, budget) == expected
    assert samples_with_tokens(5, each, budget) == min(5, expected)


class Wide:
    """Only what a plan reads of an encoder."""

    poolings, output_tap = ("mean",), "blocks.49"
    taps = tuple(Tap(f"blocks.{i}", i / 49, "trunk", 1536, Grid((32, 32), ("y", "x"))) for i in range(50))


def test_a_plan_at_the_width_of_pe_g() -> None:
    encoder: Any = Wide()
    for budget, kept in ((None, 8), ("256MB", 0), ("1GB", 3)):
        planned = plan(encoder, encoder.taps, 2000, parse_budget(budget), "float32")
        assert planned.token_samples == kept
        assert planned.token_bytes_per_sample == 50 * 1024 * 1536 * 4


def test_the_cost_says_how_many_samples_keep_tokens_and_what_64_would_take(tmp_path: Path) -> None:
    events: list[Any] = []
    encoder = tiny_image_encoder()
    each = sum(tap.tokens * tap.features for tap in encoder.taps) * 4
    # Each of three encoders has a budget of its own.
    more = f", of 64 they would take {size(64 * each)} an encoder: --token-budget {-(-64 * each // 10**6)}MB"
    for budget, controls, words in (
        (f"{10 * each}B", False, more),
        (f"{10 * each}B", True, more),
        (None, False, "tokens of 80 samples"),
    ):
        dx.run(
            encoder,
            tiny_dataset(80, "image"),
            out=tmp_path / f"{budget} {controls}",
            measures="linear_probe",
            controls=controls,
            report=False,
            token_budget=budget,
            dense="stored",
            watch=events.append,
        )
        cost = next(event for event in reversed(events) if isinstance(event, Cost))
        assert words in str(cost)
        assert f"tokens of {10 if budget else 80} samples: {size(cost.token_bytes)}" in str(cost)
        assert ("of 64 they would take" in str(cost)) is (budget is not None)


def test_what_reads_few_tokens_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, dataset = tiny_image_encoder(), tiny_dataset(80, "image")
    each = sum(tap.tokens * tap.features for tap in encoder.taps) * 4
    for count in (19, 20):
        run = dx.run(
            encoder,
            dataset,
            out=tmp_path / str(count),
            measures="self_similarity,linear_probe,rankme",
            controls=False,
            report=False,
            token_budget=f"{count * each}B",
            dense="stored",
        )
        few = {p.name for p in run.profiles() if any("rests on the tokens of only 19 samples" in c for c in p.cautions)}
        assert few == ({"self_similarity", "linear_probe/height"} if count == 19 else set())
        print_page(run_page(run), Path("report.html"))
        shown = " ".join(capsys.readouterr().out.split())
        assert ("Beware: linear_probe and self_similarity rest on the tokens of only 19 samples" in shown) is (
            count == 19
        )
        assert ("Beware: self_similarity rests on the tokens of only 19" in run.report().read_text("utf-8")) is (
            count == 19
        )


def test_controls_without_a_model_are_paired_with_the_samples_that_keep_tokens(tmp_path: Path) -> None:
    encoder = tiny_image_encoder()
    each = sum(tap.tokens * tap.features for tap in encoder.taps) * 4
    run = dx.run(
        encoder,
        tiny_dataset(80, "image"),
        out=tmp_path / "run",
        measures="linear_probe",
        report=False,
        token_budget=f"{50 * each}B",
        dense="stored",
    )
    height = run.profile("linear_probe/height")
    for name in ("raw_input", "summary_statistics", "permuted_weights"):
        assert list(height.controls[name]["unit"].values) == list(height.data["unit"].values)
        assert height.over(name) is not None


def test_controls_that_no_measure_reads_are_not_made(tmp_path: Path) -> None:
    run = dx.run(
        tiny_image_encoder(),
        tiny_dataset(40, "image"),
        out=tmp_path / "run",
        measures="rankme",
        report=False,
        control_measures="all",
    )
    assert {path.name for path in (run.path / "controls").iterdir()} >= {"fresh_weights", "permuted_weights"}
    assert not (run.path / "controls" / "raw_input").exists()
    assert "raw_input_kernel" not in run.skipped
