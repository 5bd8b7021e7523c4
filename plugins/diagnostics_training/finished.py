"""What a finished training left in its folder: one JSON file with what it came to and what it was made with.

The same command given again then leaves it as it is, and another one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagnostics_training import checkpoints


def finished(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a training of the same identity came to; None where it is not finished. Raises where it is of another."""
    if not path.is_file():
        return None
    kept = json.loads(path.read_text())
    checkpoints.refuse_other(f"The encoder in {path.parent}", kept["identity"], identity)
    return kept["row"]


def finish(path: Path, row: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Writes it, in one move, after which the checkpoint is of no use."""
    beside = path.with_name(f"{path.name}.partial")
    beside.write_text(json.dumps({"row": dict(row), "identity": dict(identity)}, indent=1))
    beside.replace(path)
    (path.parent / checkpoints.FILE).unlink(missing_ok=True)
