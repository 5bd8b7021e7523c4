"""`diagnostics export meta`; importing it imports nothing heavy."""

import importlib
import shlex
from dataclasses import asdict
from json import dumps as to_json
from pathlib import Path
from typing import Annotated

import typer

from diagnostics.plugin import DiagnosticsError, printable


def export_meta(
    encoder: Annotated[
        str,
        typer.Argument(
            metavar="ENCODER",
            help="A Perception Encoder by any name for `diagnostics run`: pe:NAME, or a saved, cut or aligned one.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="File to write: .safetensors, or .pt for Meta's own code."),
    ],
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow a saved encoder to run the Python file that builds it.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Write a Perception Encoder's weights under Meta's names.

    The layout is that of the published files. An existing file is refused.

    \b
    Example:
      diagnostics export meta models/lifted --out lifted.pt
    """
    needs_timm()
    from diagnostics_perception.export import export

    exported = export(encoder, out, trust_code)
    if json:
        print(to_json(asdict(exported)))
        return
    print(printable(f"{exported.file}: {exported.encoder}, {exported.tensors:,} tensors, {exported.bytes:,} bytes"))
    if exported.left_out:
        print(printable(f"Meta's layout has no place for {', '.join(exported.left_out)}, which the file does without"))
    print(printable(f"Next: diagnostics inspect {shlex.quote(exported.name)}"))
    if exported.text:
        print(printable(f"its text tower: diagnostics inspect {shlex.quote(exported.text)}"))


def needs_timm() -> None:
    """Raises where what Perception Encoders are made of is missing."""
    try:
        for needed in ("timm", "PIL"):
            importlib.import_module(needed)
    except ImportError as error:
        raise DiagnosticsError(f"Perception Encoders need {error.name}: pip install timm torchvision.") from error
