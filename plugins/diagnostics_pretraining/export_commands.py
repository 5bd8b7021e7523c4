"""`diagnostics export open_clip`; importing it imports nothing heavy."""

import importlib
import shlex
from dataclasses import asdict
from json import dumps as to_json
from pathlib import Path
from typing import Annotated

import typer

from diagnostics.plugin import DiagnosticsError, printable


def export_open_clip(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="An image encoder with its text encoder, saved by `diagnostics train pe`."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write, which open_clip then reads.")
    ],
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow a saved encoder to run the Python file that builds it.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Write an image encoder and its text encoder for open_clip.

    The folder gets the weights under open_clip's names and an open_clip configuration. An existing folder is refused.

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
            f"Text towers of Perception Encoders need {error.name}: pip install -e '.[pretraining]'."
        ) from error
