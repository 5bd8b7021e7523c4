"""Standard output carries results alone."""

from __future__ import annotations

import os
import sys


def keep_results_alone() -> None:
    """For the rest of this process, what is written to file descriptor 1 goes to stderr; `sys.stdout` still reaches stdout.

    Libraries write there past Python, and so do processes that they start, which would break `--json`. Of what Python code
    prints see `aside`.
    """
    if sys.stdout is None or sys.stdout is not sys.__stdout__:
        return
    try:
        sys.stdout.flush()
        results = os.dup(1)
        os.dup2(2, 1)
    except OSError:
        # One of the two is closed: nothing to keep apart.
        return
    # What the terminal's encoding lacks is shown as its escape.
    sys.stdout = open(  # noqa: SIM115  (for the rest of the process)
        results, "w", encoding=sys.stdout.encoding, errors="backslashreplace", buffering=1 if os.isatty(results) else -1
    )
