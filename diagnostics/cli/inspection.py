"""What is there: an encoder's taps, grids and cost, and what plugins offer."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any

from diagnostics.errors import DiagnosticsError, describe
from diagnostics.registry import offered, plugins
from diagnostics.specs import build

if TYPE_CHECKING:
    import numpy as np

    from diagnostics.encoders.encoder import Encoder

LISTED = ("encoders", "datasets", "measures", "plugins")


def list_all() -> dict[str, list[dict[str, Any]]]:
    """Encoders, datasets, measures and plugins as plain rows; nothing is built, so nothing heavy is loaded for encoders."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for what in ("encoder", "dataset"):
        rows[f"{what}s"] = [
            {
                "name": name,
                "takes": _takes(name, entry.make),
                "options": _options(name, entry.make),
                "plugin": plugin.name,
            }
            for name, (plugin, entry) in offered(what).items()
        ]
    rows["measures"] = [_measure_row(name, plugin.name, make) for name, (plugin, make) in offered("measure").items()]
    rows["plugins"] = [
        {
            "name": plugin.name,
            "version": plugin.version,
            "module": plugin.module,
            "offers": {what: sorted(names) for what, names in plugin.offers.items() if names},
            "error": plugin.error,
        }
        for plugin in plugins()
    ]
    return rows


def _takes(name: str, make: Any) -> str:
    """What follows the colon of a scheme, in its builder's own word."""
    parameters = list(inspect.signature(make).parameters)
    return parameters[0] if name.endswith(":") and parameters else ""


def _options(name: str, make: Any) -> dict[str, str]:
    parameters = list(inspect.signature(make).parameters.values())[1 if name.endswith(":") else 0 :]
    return {p.name: "" if p.default is p.empty else str(p.default) for p in parameters}


def _measure_row(name: str, plugin: str, make: Any) -> dict[str, Any]:
    try:
        measure = make()
        return {
            "name": name, "standard": measure.standard, "needs": measure.needs, "targets": list(measure.kinds),
            "answers": measure.answers, "source": measure.source, "plugin": plugin,
        }  # fmt: skip
    except (Exception, SystemExit) as error:
        return {
            "name": name, "standard": False, "needs": "", "targets": [], "answers": f"fails: {error}", "source": "",
            "plugin": plugin,
        }  # fmt: skip


def inspect_encoder(
    spec: str, data: str | None = None, device: str | None = None, *, verify: bool = False, trust_code: bool = False
) -> dict[str, Any]:
    """Taps, grids and the cost of a sample, from one forward pass that shows that every tap fires.

    With `verify`, also `placement`: what changing single cells of the input says about the grid, or why it cannot.
    """
    import torch
    from torch.utils.data import default_collate

    from diagnostics.activations.fit import fit, usable_device
    from diagnostics.encoders.hooks import pool

    encoder = build("encoder", spec, trust_code=trust_code)
    dataset = build("dataset", data) if data else None
    where = usable_device(device)
    encoder = fit(encoder, dataset) if dataset is not None else encoder
    seconds: list[float] = []
    try:
        sample = dataset[0] if dataset is not None else encoder.example()
        encoder = encoder.sized_for(sample).to(where)
        batch = default_collate([encoder.preprocess(sample)] * 2)
        for _ in range(3):
            start = time.perf_counter()
            encoder.capture(batch, None, lambda tap, tokens: pool(tap, tokens, encoder.poolings).cpu())
            seconds.append((time.perf_counter() - start) / 2)
    except DiagnosticsError:
        raise
    except Exception as error:
        raise DiagnosticsError(f"{encoder.name} fails on one sample: {describe(error)}") from error
    module: Any = getattr(encoder, "module", None)
    return {
        **({"placement": _placement(encoder, sample)} if verify else {}),
        "encoder": encoder.name,
        "modality": encoder.modality,
        "parameters": sum(p.numel() for p in module.parameters()) if isinstance(module, torch.nn.Module) else None,
        "output_tap": encoder.output_tap,
        "pooling": list(encoder.poolings),
        "identity": dict(encoder.identity),
        "lineage": dict(encoder.lineage),
        "seconds_per_sample": min(seconds),
        "pooled_bytes_per_sample": 4 * len(encoder.poolings) * sum(tap.features for tap in encoder.taps),
        "token_bytes_per_sample": 4 * sum(tap.tokens * tap.features for tap in encoder.taps),
        "taps": [
            {
                "name": tap.name, "depth": tap.depth, "part": tap.part, "features": tap.features,
                "grid": list(tap.grid.shape), "axes": list(tap.grid.axes), "prefix": tap.grid.prefix,
                "read": str(tap.site) if tap.site else "",
            }
            for tap in encoder.taps
        ],
    }  # fmt: skip


def _placement(encoder: Encoder, sample: np.ndarray) -> dict[str, Any]:
    from diagnostics.encoders.placement.verify import NotVerifiableError, verify_grid

    try:
        found = verify_grid(encoder, sample)
    except NotVerifiableError as error:
        return {"said": str(error), "right": None}
    return {"said": str(found), **found.to_json()}
