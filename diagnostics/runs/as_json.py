"""What `--json` prints of a run: its findings as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diagnostics.report.numbers import is_plain
from diagnostics.runs.tap_map import map_json

if TYPE_CHECKING:
    from diagnostics.runs.run import Run


def run_json(run: Run) -> dict[str, Any]:
    """The findings of a run; None for what has no value."""
    return {
        "run": str(run.path),
        "encoder": run.encoder_name,
        "dataset": run.dataset,
        "n": run.n,
        "repeatable": not run.record.unrepeatable,
        "profiles": [profile.to_json() for profile in run.profiles()],
        "similarity": [
            map_json(result) | {"attributes": {key: value for key, value in result.attrs.items() if is_plain(value)}}
            for result in run.similarity()
        ],
        "recommendations": [recommendation.to_json() for recommendation in run.recommendations()],
        "controls": run.redrawn,
        "skipped": run.skipped,
        "failed": run.failed,
        "provenance": {key: run.provenance(key) for key in run.index.names()},
        "report": str(run.path / "report.html"),
    }
