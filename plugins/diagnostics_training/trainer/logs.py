"""Metrics as JSON lines, and in TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"
BOARD = "tensorboard"


class Log:
    """Appends to `metrics.jsonl` of a folder; lines after `step` (of a run that was killed) are cut off first."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / FILE
        kept = [line for line in lines(folder) if line["step"] <= step]
        beside = folder / f"{FILE}.partial"
        try:
            beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)
        self.file = self.path.open("a")
        self.board: Any = None
        # What its import chain says about other libraries is of no use here.
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / BOARD), purge_step=step + 1 if step else None)

    def write(self, values: Mapping[str, Any]) -> None:
        """One line; `step` is its key."""
        self.file.write(json.dumps(dict(values)) + "\n")
        self.file.flush()
        if self.board is not None:
            for key, value in values.items():
                if key != "step":
                    self.board.add_scalar(key, float(value), values["step"])

    def close(self) -> None:
        """Lets both go."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    """What was logged, in order; a last line that a kill cut short is left out."""
    path = folder / FILE
    if not path.is_file():
        return []
    entries: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries
