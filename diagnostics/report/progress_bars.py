"""Progress bars on stderr, with the cost of the job."""

import contextlib
import sys
import time
from collections.abc import Generator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from diagnostics.progress import Cost, Progress, Watch
from diagnostics.report.escaping import printable
from diagnostics.report.layout import show

# Without a terminal, progress is a line now and then.
LINE_EVERY = 10.0


@contextlib.contextmanager
def watcher() -> Generator[Watch]:
    """Progress bars in a terminal, a line every ten seconds elsewhere; both on stderr."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines()
        return
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
