"""Progress as whoever reads it can see it: bars in a terminal or a notebook, else lines on stderr.

The cost of the job is shown too.

A notebook is found without importing IPython, and its progress is plain HTML that needs no widgets.
"""

import contextlib
import os
import sys
import time
from collections.abc import Generator
from html import escape
from typing import Any

from rich.console import Console
from rich.errors import LiveError

from diagnostics.progress import Cost, Progress, Watch, silent
from diagnostics.report.escaping import printable
from diagnostics.report.layout import show

# Without a terminal, progress is a line now and then.
LINE_EVERY = 10.0


@contextlib.contextmanager
def watching(watch: Watch | None) -> Generator[Watch]:
    """The watch that a caller gave; where there is none, `watcher`, and nothing within a test of pytest."""
    if watch is not None:
        yield watch
    elif "PYTEST_CURRENT_TEST" in os.environ:
        yield silent
    else:
        with watcher() as shown:
            yield shown


@contextlib.contextmanager
def watcher(quiet: bool = False, verbose: bool = False) -> Generator[Watch]:
    """Progress bars in a terminal and in a notebook, a line every ten seconds elsewhere.

    `verbose`, a line for each step; all but a notebook's on stderr.

    Examples:
        >>> import diagnostics as dx
        >>> with dx.watcher() as watch:  # on stderr, where it is no notebook
        ...     comparison = dx.compare(["runs/forecast", "runs/jepa"], watch=watch)
    """
    with contextlib.ExitStack() as stack:
        console = Console(stderr=True, highlight=False, force_jupyter=False)
        if quiet or verbose:
            watch = silent if quiet else _log()
        elif in_notebook():
            watch = stack.enter_context(notebook_bars())
        elif console.is_terminal:
            try:
                watch = stack.enter_context(_bars(console))
            except LiveError:
                # Older versions of rich draw one display at a time, and the caller's own is running.
                watch = _lines()
        else:
            watch = _lines()
        yield watch


@contextlib.contextmanager
def _bars(console: Console) -> Generator[Watch]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    # Where there is little room the description takes a second line, and the numbers stay whole.
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        BarColumn(10 if console.width < 80 else 20, table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def watch(event: Cost | Progress) -> None:
            if isinstance(event, Cost):
                for line in event.lines:
                    show(console, printable(line))
                return
            if event.step not in tasks:
                tasks[event.step] = bars.add_task(printable(event.step), total=event.total)
            now = f": {event.now}" if event.now else ""
            task, text = tasks[event.step], printable(event.step + now)
            bars.update(task, completed=event.done, visible=event.done < event.total, description=text)

        yield watch


def _lines() -> Watch:
    last = time.monotonic()

    def watch(event: Cost | Progress) -> None:
        nonlocal last
        if isinstance(event, Cost):
            for line in event.lines:
                print(printable(line), file=sys.stderr, flush=True)
        elif time.monotonic() - last > LINE_EVERY:
            last = time.monotonic()
            now = f", now {event.now}" if event.now else ""
            print(printable(f"{event.step}: {event.done} of {event.total}{now}"), file=sys.stderr, flush=True)

    return watch


def _log() -> Watch:
    """A line with the seconds since the start at each new step, and at each new part of one."""
    start, before = time.monotonic(), ("", "")

    def watch(event: Cost | Progress) -> None:
        nonlocal before
        if isinstance(event, Cost):
            lines = event.lines
        elif (event.step, event.now) == before and event.done < event.total:
            return
        else:
            before = event.step, event.now
            lines = [f"{event.step}: {event.done} of {event.total}{f', now {event.now}' if event.now else ''}"]
        for line in lines:
            print(printable(f"{time.monotonic() - start:8.1f} s  {line}"), file=sys.stderr, flush=True)

    return watch


# A browser gains nothing from more pictures a second, and a saved notebook would keep them all.
REDRAWN_EVERY = 0.2


def in_notebook() -> bool:
    """True if this is the kernel of a notebook. IPython is imported by whoever runs one, and here never."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # The shell of a kernel knows it (Jupyter's, VS Code's, Colab's); IPython in a terminal has none.
    return getattr(shell, "kernel", None) is not None


def show_bundle(bundle: dict[str, Any]) -> Any:
    """Show one thing in several formats (`text/html`, ...) below the cell.

    Returns the handle by which it is replaced.
    """
    return sys.modules["IPython"].display.display(bundle, raw=True, display_id=True)


@contextlib.contextmanager
def notebook_bars() -> Generator[Watch]:
    """The cost and a bar for each piece of work under way, in one output that is redrawn.

    At the end the cost remains.
    """
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
