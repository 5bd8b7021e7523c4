"""Questions in a run: cells of all samples recorded in blocks or read from stored tokens, text encoders and controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from diagnostics import Dataset, Grid, Question, Run, Tap
from diagnostics.activations.store import Store
from diagnostics.measures.probes.questions import Cells
from diagnostics.progress import Cost
from diagnostics.runs.setup import embed_phrases, with_questions
from tests.support.tiny import tiny_image_encoder

N, SIDE, NAME = 100, 32, "question_probe/questions"
COLOURS = {"red": (250, 20, 20), "blue": (20, 20, 250), "green": (20, 220, 20)}


def asked(n: int = N) -> Dataset:
    """A colour in the left and one in the right half, each asked for."""
    rng = np.random.default_rng(0)
    samples, questions = rng.integers(90, 110, (n, SIDE, SIDE, 3)).astype(np.uint8), list[Any]()
    for sample in samples:
        left, right = rng.choice(list(COLOURS), 2)
        sample[8:24, 2:14], sample[8:24, 18:30] = COLOURS[left], COLOURS[right]
        ways = {"left": left, "right": right}
        questions.append(
            [
                Question(side, str(of), (f"which colour is {side}?",), (f"{side} is which?",))
                for side, of in ways.items()
            ]
        )
    ids = [f"image-{i:03}" for i in range(n)]
    return Dataset("asked", "image", samples, ids, list(dx.split_groups(ids, 0)), {}, questions=questions)


def measure(out: Path, **options: Any) -> Run:
    default = {
        "measures": ["question_probe"],
        "controls": False,
        "report": False,
        "watch": dx.silent,
        "taps": ["blocks.0"],
    }
    return dx.run(tiny_image_encoder(side=SIDE), asked(), out=out, **default | options)


COSTS: list[Cost] = []
"""Those that were told of `recorded`."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    def watch(event: Any) -> None:
        COSTS.extend([event] if isinstance(event, Cost) else [])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cells, "block", 32)
        patch.setattr("diagnostics.runs.cost.LONG", 0)
        return measure(tmp_path_factory.mktemp("asked") / "run", controls=True, watch=watch)


def test_cells_of_all_samples_are_recorded_in_blocks(recorded: Run) -> None:
    assert recorded.store.token_samples < N
    rows = recorded.store.read_blocks("cells", "blocks.0")
    assert len(rows) == N
    assert [recorded.store.observation(f"cells-{i}").samples for i in range(4)] == [32, 32, 32, 4]
    # The mean of cells of one size is the mean of the tokens.
    np.testing.assert_allclose(rows.mean(axis=1), recorded.store.pooled("blocks.0", "mean"), atol=1e-5)


def test_the_cost_of_cells_is_told(recorded: Run) -> None:
    assert "question_probe" in COSTS[0].measuring
    cells = [file for file in Path(recorded.store.path).rglob("observed/cells-*/**/c.*") if file.is_file()]
    taps = [tap for tap in recorded.store.taps if Cells().values_at(tap) == 16 * tap.features]
    assert len(taps) == 2
    recorded_bytes = sum(file.stat().st_size for file in cells)
    assert recorded_bytes > 3 * 2 * N * 16 * 4 * taps[0].features
    assert COSTS[0].bytes > recorded_bytes
    # Of 5,000 images of a PE-L.
    large = Tap("x", 1.0, "trunk", 1024, Grid((24, 24), ("y", "x"), 1))
    assert 24 * 5000 * 4 * Cells().values_at(large) == pytest.approx(8e9, rel=0.02)


def test_a_question_finds_what_it_asks_for(recorded: Run) -> None:
    profile = recorded.profile(NAME)
    data = profile.data
    assert float(data["score"].max()) > float(data["line_chance"].max()) + 0.2
    assert data.attrs["family"] == "language"
    assert data.attrs["n_test"] == 2 * data.attrs["units_test"]
    assert {"fresh_weights", "raw_input", "shuffled_labels"} <= set(profile.controls)
    shuffled = profile.controls["shuffled_labels"]
    assert float(shuffled["score"].max()) < float(data["score"].max()) - 0.15


def test_cells_of_stored_tokens_are_those_that_are_recorded(recorded: Run, tmp_path: Path) -> None:
    stored = measure(tmp_path / "run", token_budget="1GB")
    assert stored.store.token_samples == N
    assert stored.store.observation("cells-0") is None
    ours, theirs = (run.profile(NAME).data for run in (recorded, stored))
    np.testing.assert_allclose(ours["score"], theirs["score"], atol=0.05)


def test_a_kill_between_blocks_costs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cells, "block", 32)
    passed, whole = list[int](), Cells.observe

    def dying(self: Cells, encoder: Any, batch: Any, taps: Any) -> Any:
        passed.append(len(batch))
        if len(passed) == 6:
            raise KeyboardInterrupt
        return whole(self, encoder, batch, taps)

    with monkeypatch.context() as patch:
        patch.setattr(Cells, "observe", dying)
        with pytest.raises(KeyboardInterrupt):
            measure(tmp_path / "run")
    assert Store(tmp_path / "run").observation("cells-0") is not None
    with monkeypatch.context() as patch:
        patch.setattr(Cells, "observe", lambda *given: passed.append(len(given[2])) or whole(*given))
        measure(tmp_path / "run")
    assert sum(passed[6:]) == N - 32


def test_a_text_encoder_embeds_questions(tmp_path: Path) -> None:
    told = embed_phrases(
        with_questions(dx.build("dataset", "shapes?n=12&size=32")), "pe-text:core-t16-384?pretrained=false&context=12"
    )
    assert {"phrases", "questions"} <= {target.kind for target in told.targets.values()}
    assert "pe-text" in told.targets["questions"].about
