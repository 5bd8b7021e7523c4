"""The process of the command line: `diagnostics`, or `python -m diagnostics`."""

from __future__ import annotations

import contextlib
import os
import sys

from diagnostics.cli.streams import keep_results_alone
from diagnostics.stopping import asked, watch_signals


def main() -> None:
    """Entry point of `diagnostics`: signals are watched before anything slow is imported."""
    watch_signals()
    keep_results_alone()
    from diagnostics.cli.commands import main as run

    try:
        run()
    except SystemExit as left:
        if not asked() or not isinstance(left.code, int):
            raise
        # All is kept and said: what Python does at its end may take long, and a further signal there has another status.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(left.code)


if __name__ == "__main__":
    main()
