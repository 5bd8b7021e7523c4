"""Runs the commands of README.md and puts what they print into its blocks: `python docs/readme.py` (some minutes).

A block of text belongs to the last `diagnostics run` above it, up to the next heading. Time and size of each run are said on stderr.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
WIDTH = 76
BLOCK = re.compile(
    r"diagnostics run (?P<arguments>(?:[^`\n\\]|\\\n)+)(?P<between>(?:(?!^#|diagnostics run ).)*?^```text\n)(?P<printed>.*?)^```$",
    re.M | re.S,
)


def replaced(text: str, printed: Callable[[str], str]) -> str:
    """The text with each block as `printed` gives it for the arguments of its command."""

    def block(found: re.Match[str]) -> str:
        return f"diagnostics run {found['arguments']}{found['between']}{printed(found['arguments'])}```"

    return BLOCK.sub(block, text)


def printed(arguments: str) -> str:
    """What `diagnostics run ARGUMENTS` prints in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "diagnostics", "run", *shlex.split(arguments.replace("\\\n", ""))]
        environment = os.environ | {"COLUMNS": str(WIDTH)}
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        seconds = time.perf_counter() - begun
    print(f"{arguments}: {seconds:.0f} s, {size / 1e6:.0f} MB on disk", file=sys.stderr)
    return done.stdout


if __name__ == "__main__":
    README.write_text(replaced(README.read_text(encoding="utf-8"), printed), encoding="utf-8")
