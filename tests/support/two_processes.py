"""Two processes of one training, which a test compares with one."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path


def start_two(python: Path, file: str, call: str) -> list[subprocess.Popen[str]]:
    """Both call a function of a test file; `python` is the fixture `warm_python`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(Path(file).parent), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    known = os.environ | {"PYTHONPATH": path, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    script = (
        f"from pathlib import Path; import torch; torch.set_num_threads(1); import {Path(file).stem} as t; t.{call}"
    )
    return [
        subprocess.Popen(
            [python, "-c", script],
            env=known | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


def end_two(running: list[subprocess.Popen[str]]) -> None:
    """Wait for both, neither of which may fail."""
    for process in running:
        message, _ = process.communicate(timeout=300)
        assert process.returncode == 0, message
