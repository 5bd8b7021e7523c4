"""What a finished training left in its folder: one JSON file with what it came to and what it was made with.

The same command given again then leaves it as it is, and another one is refused; so is any folder whose encoder is another's.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagnostics.plugin import DiagnosticsError, Encoder, save_encoder
from diagnostics_training.trainer import checkpoints
from diagnostics_training.trainer.checkpoints import refuse_other

ENCODER = "encoder.safetensors"


def finished(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a training of the same identity came to; None where it is not finished.

    Raises where the folder holds a training of another identity, or an encoder that no such training made: it would be
    overwritten.
    """
    folder, encoder = path.parent, path.parent / ENCODER
    if path.is_file():
        kept = _read(path)
        refuse_other(f"The encoder in {folder}", kept["identity"], identity)
        if encoder.is_file():
            if kept["encoder"] != _digest(encoder):
                raise DiagnosticsError(
                    f"{encoder} is not the encoder that {path.name} in that folder describes, and would be overwritten: give another --out."
                )
            # Of no use any more, where a kill left it.
            (folder / checkpoints.FILE).unlink(missing_ok=True)
            return kept["row"]
    if checkpoint := checkpoints.about(folder):
        whole = checkpoint["identity"]
        if not identity.keys() <= whole.keys():
            raise DiagnosticsError(
                f"The checkpoint in {folder} is that of another kind of training: give another --out."
            )
        refuse_other(f"The checkpoint in {folder}", {key: whole[key] for key in identity}, identity)
    if encoder.is_file():
        raise DiagnosticsError(
            f"{encoder} is an encoder that this command did not make, and would be overwritten: give another --out."
        )
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept.pop("digest") != checkpoints.digest_of_json(kept):
            raise ValueError
        return {key: kept[key] for key in ("row", "identity", "encoder")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DiagnosticsError(f"{path} cannot be read as the summary of a training: give another --out.") from error


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def finish(
    path: Path, encoder: Encoder, lineage: Mapping[str, Any], row: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Saves the encoder, and beside it what it came to; after that the checkpoint is of no use.

    The file says which encoder is to be there before that one takes its place, so that a kill in between leaves no
    encoder of which nothing tells: the same command then does the rest again.
    """
    folder = path.parent
    partial_encoder, partial_summary = folder / f"partial-{ENCODER}", path.with_name(f"{path.name}.partial")
    try:
        save_encoder(partial_encoder, encoder, lineage=lineage)
        kept = {"row": dict(row), "identity": dict(identity), "encoder": _digest(partial_encoder)}
        kept["digest"] = checkpoints.digest_of_json(kept)
        try:
            partial_summary.write_text(json.dumps(kept, indent=1))
            partial_summary.replace(path)
            partial_encoder.replace(folder / ENCODER)
            (folder / checkpoints.FILE).unlink(missing_ok=True)
        except OSError as error:
            raise DiagnosticsError(
                f"{path} cannot be written ({error.strerror}): free some room there and give the same command again."
            ) from error
    finally:
        for left in (partial_encoder, partial_summary):
            left.unlink(missing_ok=True)
