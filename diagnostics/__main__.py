"""Entry point of the command line: `diagnostics`, or `python -m diagnostics`."""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    # The current folder, which Python puts first for `-m`: a stranger may have left a torch.py there.
    del sys.path[0]

import gc
import io
from typing import Any

from diagnostics.errors import DiagnosticsError
from diagnostics.interrupts import end_if_stopped, watch_signals


def main() -> None:
    """Entry point of `diagnostics`: signals are watched before anything slow is imported."""
    watch_signals()
    _keep_results_alone()
    # All that these imports make stays: looking for garbage among it takes as long as a fifth of them.
    gc.disable()
    from diagnostics.cli.main import main as run

    gc.freeze()
    gc.enable()
    try:
        try:
            run()
        finally:
            # Python's own flush, at its end, would say it in its own words.
            if sys.stdout is not None:
                sys.stdout.flush()
    except DiagnosticsError as error:
        from diagnostics.cli.app import say

        say(str(error))
        sys.exit(2)
    except SystemExit as left:
        end_if_stopped(left.code)
        raise


def _keep_results_alone() -> None:
    """For the rest of this process, what is written to file descriptor 1 goes to stderr.

    `sys.stdout` still reaches stdout.

    Libraries write there past Python, and so do processes that they start, which would break `--json`. What Python code
    prints during a command is redirected by `cli.guard.working`.
    """
    if sys.stdout is None or sys.stdout is not sys.__stdout__:
        return
    try:
        # pyrefly: ignore[missing-attribute]
        sys.stdout.flush()
        results = os.dup(1)
        os.dup2(2, 1)
    except OSError:
        # One of the two is closed: nothing to keep apart.
        return
    # What the terminal's encoding lacks is shown as its escape.
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Results(results, "w")),
        # pyrefly: ignore[missing-attribute]
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
        line_buffering=os.isatty(results),
    )


class _Results(io.FileIO):
    """Standard output that may be full.

    Where it takes no more, on a full disk say, a command ends in one sentence and the rest is dropped.
    """

    _failed = False

    def write(self, data: Any) -> int:
        try:
            return len(data) if self._failed else super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._failed = True
            raise DiagnosticsError(
                f"The output of this command cannot be written ({error.strerror or error}): redirect it elsewhere; "
                f"stored results are kept.",
                code="unwritable",
            ) from None


if __name__ == "__main__":
    main()
