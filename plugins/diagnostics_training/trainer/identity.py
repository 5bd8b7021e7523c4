"""Whether what is in a folder was made with the settings and data that are asked for, and the sentence where not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from diagnostics import DiagnosticsError

OPTIONS = frozenset({
    "data", "batch", "steps", "lr", "seed", "width", "depth", "heads", "patch", "likelihood", "positives", "regulariser",
    "precision", "to", "for", "mask", "layer_scale", "drop_path", "second_teacher",
})  # fmt: skip
"""Parts of an identity that are options of a command."""


UNTELLING = {"fingerprint": "other samples of these data", "base": "other weights of the base encoder"}
"""Parts whose values tell people nothing."""


FOLLOWS = {
    "data": ("fingerprint", "modality", "length", "variates", "size", "frames", "outputs"),
    "fingerprint": ("outputs",),
    "to": ("tap",),
    "for": ("tap",),
    "base": ("tap",),
}
"""What differs because something else does."""


def refuse_other(subject: str, kept: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises where what is there was made with other settings or data than are asked for, and names them all."""
    old, new = _parts(kept), _parts(json.loads(json.dumps(dict(identity))))
    different = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    # What follows from something else that is named is no news.
    reported = [key for key in different if not any(key in FOLLOWS.get(other, ()) for other in different)]
    if reported:
        raise DiagnosticsError(
            f"{subject} was made otherwise ({'; '.join(_difference(key, old.get(key), new.get(key)) for key in reported)}): give "
            "another --out, or remove that folder to begin anew."
        )


def _parts(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with the options that an architecture's name holds each by itself."""
    name, _, query = str(identity.get("architecture") or "").partition("?")
    options = dict(part.split("=", 1) for part in query.split("&") if "=" in part)
    return {**identity, **options, "architecture": name or None}


def _difference(key: str, old: Any, new: Any) -> str:
    if key in UNTELLING:
        return UNTELLING[key]
    option = f"--{key.replace('_', '-')}" if key in OPTIONS else key
    if old is None:
        return f"{option} was not given"
    return f"{option} {old}, which is not given now" if new is None else f"{option} {old}, not {new}"
