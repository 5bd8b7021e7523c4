"""A notebook as a place to show things: found without importing IPython; progress is plain HTML that needs no widgets."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator
from html import escape
from typing import Any

from diagnostics.progress import Cost, Progress, Watch
from diagnostics.report.escaping import printable

# A browser gains nothing from more pictures a second, and a saved notebook would keep them all.
REDRAWN_EVERY = 0.2


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook. IPython is imported by whoever runs one, and here never."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # The shell of a kernel knows it (Jupyter's, VS Code's, Colab's); IPython in a terminal has none.
    return getattr(shell, "kernel", None) is not None


def show_bundle(bundle: dict[str, Any]) -> Any:
    """Shows one thing in several formats (`text/html`, ...) below the cell; returns the handle by which it is replaced."""
    return sys.modules["IPython"].display.display(bundle, raw=True, display_id=True)


@contextlib.contextmanager
def notebook_bars() -> Generator[Watch]:
    """The cost and a bar for each piece of work under way, in one output that is redrawn; at the end the cost remains."""
    output = _Output()
    try:
        yield output.watch
    finally:
        output.end()


class _Output:
    """One output of a cell."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: dict[str, Progress] = {}
        self.handle: Any = None
        self.drawn = -REDRAWN_EVERY

    def watch(self, event: Cost | Progress) -> None:
        if isinstance(event, Cost):
            self.lines += event.lines
        elif event.done < event.total:
            self.steps[event.step] = event
        else:
            self.steps.pop(event.step, None)
        if isinstance(event, Cost) or time.monotonic() - self.drawn >= REDRAWN_EVERY:
            self.draw()

    def end(self) -> None:
        self.steps.clear()
        if self.handle is not None:
            self.draw()

    def draw(self) -> None:
        self.drawn = time.monotonic()
        texts = [printable(line) for line in self.lines]
        html = "".join(f"<p>{escape(text)}</p>" for text in texts)
        for step in self.steps.values():
            now = f", now {step.now}" if step.now else ""
            text = printable(f"{step.step}: {step.done} of {step.total}{now}")
            html += f'<p><progress max="{step.total}" value="{step.done}"></progress> {escape(text)}</p>'
            texts.append(text)
        bundle = {"text/html": f"<div>{html}</div>", "text/plain": "\n".join(texts)}
        if self.handle is None:
            self.handle = show_bundle(bundle)
        else:
            self.handle.update(bundle, raw=True)
