"""The study of six tasks says what its result files say, and judges as its claims were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_docs import module_in

FOLDER = Path(__file__).parents[1] / "docs" / "studies" / "six-tasks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="tests run without the docs beside them")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    return module_in(FOLDER, "study", monkeypatch)


def test_claims_are_the_papers_orders(study: Any) -> None:
    claims = study.claims()
    assert ("tracking", "grounding") in claims.values()
    assert ("detection", "classes") in claims.values()
    # Within five layers of each other nothing is claimed.
    assert not {("grounding", "detection"), ("questions", "classes"), ("classes", "detection")} & set(claims.values())
    assert len(claims) == 14 + 5


def rows(peak: float, draws: int = 5) -> dict[str, Any]:
    """Results of a task whose curve is highest at a depth, a little different in each draw."""
    depth = np.linspace(0, 1, 13)
    rng = np.random.default_rng(0)
    return {
        str(draw): {
            "cpu_seconds": 1.0,
            "tasks": {
                name: {"depth": depth.tolist(), "score": (1 - (depth - peak) ** 2 + 0.002 * rng.standard_normal(13)).tolist(), "gap": 0.2}
                for name in ("grounding", "detection", "depth", "segmentation", "classes", "tracking")
            },
        }
        for draw in range(1, draws + 1)
    }  # fmt: skip


def test_an_order_is_shown_where_curves_have_it(study: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    (tmp_path / "dinov2-scenes.json").write_text(json.dumps(rows(0.9)))
    (tmp_path / "dinov2-clips.json").write_text(json.dumps(rows(0.5)))
    (tmp_path / "pe-scenes.json").write_text(json.dumps(rows(0.5)))
    (tmp_path / "pe-clips.json").write_text(json.dumps(rows(0.9)))
    (tmp_path / "lite0-scenes.json").write_text(json.dumps(rows(0.9, draws=4)))
    found = study.outcomes()["tracking before detection"]
    assert found["dinov2"].value > 0.1
    assert [found[name].verdict for name in ("dinov2", "pe", "lite0", "fresh")] == [
        "shown",
        "excluded",
        "no result",
        "no result",
    ]
    assert study.over_encoders(found) == "excluded"
    assert found["lite0"].why
    gap = study.outcomes()["the output hides detection"]["dinov2"]
    assert (gap.value, gap.verdict) == (pytest.approx(0.2), "shown")
    assert any("lite0-scenes" in line for line in study.missing())
