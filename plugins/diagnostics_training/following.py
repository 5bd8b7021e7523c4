"""The commands that are next, as the last lines of a command; importing it imports nothing heavy."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence


def run_folder(encoder: str, data: str) -> str:
    """Where `diagnostics run` puts a run by default, so that one that is there already is gone on with."""
    short = [re.sub(r"^.*/(?=[^/]*\.py:)", "", name) for name in (encoder, data)]
    return f"runs/{re.sub(r'[^A-Za-z0-9_.]+', '-', '-'.join(short)).strip('-.')[:150]}"


def next_lines(encoders: Sequence[str], data: str) -> list[str]:
    """How to run encoders on data and to hold them against each other where there are several."""
    probe = [f"diagnostics run {shlex.quote(encoder)} --data {shlex.quote(data)}" for encoder in encoders]
    if len(encoders) == 1:
        return [f"Next: {probe[0]}"]
    if len(encoders) == 2:
        first = f"Next: {' && '.join(probe)}"
    else:
        names = shlex.join(encoders)
        first = f'Next: for model in {names}; do diagnostics run "$model" --data {shlex.quote(data)}; done'
    return [first, f"Then: diagnostics compare {shlex.join(run_folder(encoder, data) for encoder in encoders)}"]
