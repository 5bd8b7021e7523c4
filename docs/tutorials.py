"""Runs tutorials and writes each as a page and a notebook: `python docs/tutorials.py [NAME ...]`.

A tutorial is a folder of `docs/tutorials` with a `tutorial.py` in jupytext's percent format. Its cells run in order, in an empty folder
of their own; what they print and show goes below them into `index.md`, and with them into `NAME.ipynb`. Progress (stderr) is left out.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.util import run_sync

FOLDER = Path(__file__).parent / "tutorials"
WIDTH = 76
"""Columns that cells print, which a page shows beside its contents."""
PICTURES = {"image/svg+xml": "svg", "image/png": "png"}
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]\d+)?")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NOTE = (
    "*Outputs come from running this page's code, on one draw. It ran in {seconds} on two CPU cores. "
    "[Download it as a notebook]({name}.ipynb).*"
)


def names() -> list[str]:
    """Of all tutorials."""
    return sorted(source.parent.name for source in FOLDER.glob("*/tutorial.py"))


def read(name: str) -> Any:
    """The tutorial's source as a notebook without outputs."""
    book = jupytext.read(FOLDER / name / "tutorial.py", fmt="py:percent")
    book.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    )
    for i, cell in enumerate(book.cells):
        cell["id"] = f"cell-{i}"
    return book


def run(book: Any, folder: Path, commands: Path = Path(sys.executable).parent) -> Any:
    """A tutorial's notebook with the outputs of its cells.

    It is run in a folder with the `diagnostics` that lies in `commands`. Raises nbclient's error where a cell raises.
    """
    # As at a user's: within a test the package would show no progress, and say less.
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    path = os.pathsep.join([str(commands), os.environ["PATH"]])
    # Sockets in the file system, since those of TCP may be read by others on the machine.
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(folder / ".kernel"))
    client = NotebookClient(book, kernel, timeout=900, resources={"metadata": {"path": str(folder)}})
    try:
        client.execute(env=environment | {"COLUMNS": str(WIDTH), "PATH": path})
    finally:
        # nbclient leaves a kernel alone that it did not start.
        run_sync(kernel.shutdown_kernel)(now=True)
    for cell in book.cells:
        cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items() if key != "execution"})
        printed = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        cell.outputs = [_plain(output, folder) for output in _joined(printed)]
        if cell.cell_type == "markdown":
            del cell["outputs"]
    return book


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs with what a cell prints in one piece, however the pipe cut it."""
    joined: list[Any] = []
    for output in outputs:
        if joined and "text" in output and "text" in joined[-1]:
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _plain(output: Any, folder: Path) -> Any:
    """An output without colours, and without the folder that it was made in."""
    if "text" in output:
        output["text"] = COLOUR.sub("", output["text"]).replace(f"{folder}{os.sep}", "")
    data = output.get("data", {})
    # A page shows the first of these that there is; plotly's own JSON would weigh as much as all the rest.
    for kind in [kind for kind in data if kind not in (*PICTURES, "text/plain")]:
        del data[kind]
    return output


def page(name: str, book: Any, seconds: str) -> tuple[str, dict[str, bytes]]:
    """The page's text, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in book.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        shell = cell.source.startswith("%%bash\n")
        parts.append(fenced("console" if shell else "python", cell.source.removeprefix("%%bash\n")))
        for output in cell.outputs:
            data = output.get("data", {})
            kind = next((kind for kind in PICTURES if kind in data), None)
            if kind:
                file = f"figure-{len(pictures) + 1}.{PICTURES[kind]}"
                pictures[file] = base64.b64decode(data[kind]) if kind == "image/png" else data[kind].encode()
                parts.append(f"![The figure that the code above draws]({file})")
            elif text := (output.get("text") or data.get("text/plain", "")).rstrip():
                parts.append(fenced("text", narrow(text)))
    title, *rest = parts
    head, _, first = title.partition("\n\n")
    note = NOTE.format(name=name, seconds=seconds)
    return "\n\n".join([head, note, *([first] if first else []), *rest]) + "\n", pictures


def fenced(language: str, text: str) -> str:
    """A block of Markdown; the first line keeps its indent, as that of a table."""
    inside = text.strip("\n")
    return f"```{language}\n{inside}\n```"


def narrow(text: str) -> str:
    """The text with the prose of cells that know no width broken at `WIDTH`."""
    return "\n".join(
        "\n".join(textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False))
        if len(line) > WIDTH and "  " not in line.strip()
        else line
        for line in text.splitlines()
    )


def lines(book: Any) -> list[str]:
    """What a notebook's cells print, line by line, but for how long something takes."""
    texts = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for cell in book.cells
        for output in cell.get("outputs", [])
    ]
    return [
        " ".join(line.split())
        for text in texts
        for line in text.splitlines()
        if line.strip() and "extraction takes" not in line
    ]


def alike(one: str, other: str) -> bool:
    """Whether two printed lines have the same words, and numbers that differ by no more than processors do."""
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    values = [(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs]
    return all(abs(a - b) <= 0.02 + 0.05 * abs(b) for a, b in values)


def write(name: str) -> None:
    """Run a tutorial and write its page, pictures and notebook."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        book = run(read(name), Path(folder))
    took = time.perf_counter() - begun
    home = FOLDER / name
    seconds = f"{5 * max(1, round(took / 5))} seconds" if took < 100 else f"{took / 60:.0f} minutes"
    text, pictures = page(name, book, seconds)
    for old in home.glob("figure-*"):
        old.unlink()
    for file, data in pictures.items():
        (home / file).write_bytes(data)
    (home / "index.md").write_text(text, encoding="utf-8")
    nbformat.write(book, home / f"{name}.ipynb")
    print(f"{name}: {took:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or names():
        write(chosen)
