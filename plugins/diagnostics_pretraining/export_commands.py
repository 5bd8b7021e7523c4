"""`diagnostics export open_clip`; importing it imports nothing heavy."""

import importlib
import shlex
from dataclasses import asdict
from json import dumps as to_json
from pathlib import Path
from typing import Annotated

import typer

from diagnostics import DiagnosticsError, printable


def export_open_clip(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="An image encoder with its text encoder, as `train pe` writes them."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="A new folder, which open_clip reads.")],
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Run a Python file that a saved encoder names to build it.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Write both towers under open_clip's names, with its configuration; a folder that is there is refused.

    \b
    Example:
      diagnostics export open_clip models/pe9 --out models/pe9-open_clip
    """
    needs_open_clip()
    from diagnostics_pretraining.export import export

    exported = export(folder, out, trust_code)
    if json:
        print(to_json(asdict(exported)))
        return
    print(printable(f"{exported.folder}: {exported.encoder}, {exported.tensors:,} tensors, {exported.bytes:,} bytes"))
    if exported.unknown:
        print(f"{exported.unknown:,} of CLIP's tokens, which its text tower does not know, have the row of the unknown")
    code = f"import open_clip; open_clip.create_model_from_pretrained({exported.name!r})"
    print(printable(f"Next: python -c {shlex.quote(code)}"))


def needs_open_clip() -> None:
    """Raises where what both towers are made of is missing."""
    try:
        for needed in ("open_clip", "timm", "ftfy", "regex"):
            importlib.import_module(needed)
    except ImportError as error:
        raise DiagnosticsError(
            f"Text towers of Perception Encoders need {error.name}: pip install 'encoder-diagnostics[pretraining]'."
        ) from error
