"""Inspection of an encoder: its taps, their grids, and the cost of a sample."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from diagnostics.errors import explaining
from diagnostics.specs import build

if TYPE_CHECKING:
    import numpy as np

    from diagnostics.encoders.encoder import Encoder


def inspect_encoder(
    spec: str, data: str | None = None, device: str | None = None, *, verify: bool = False, trust_code: bool = False
) -> dict[str, Any]:
    """Taps, grids and the cost of a sample, after a forward pass in which every tap must fire.

    With `verify`, also `placement`: whether tokens lie where the grid declares them, from changing single cells of the input.
    """
    import torch
    from torch.utils.data import default_collate

    from diagnostics.activations.fit import fit
    from diagnostics.encoders.devices import usable_device
    from diagnostics.encoders.pooling import pool
    from diagnostics.runs.handed_out import handed_out

    encoder = build("encoder", spec, trust_code=trust_code)
    dataset = build("dataset", data) if data else None
    where = usable_device(device)
    encoder = fit(encoder, dataset) if dataset is not None else encoder
    seconds: list[float] = []
    with explaining(f"{encoder.name} fails on one sample"):
        sample = dataset[0] if dataset is not None else encoder.example()
        encoder = encoder.sized_for(sample).to(where)
        batch = default_collate([encoder.preprocess(sample)] * 2)
        for _ in range(3):
            start = time.perf_counter()
            encoder.capture(batch, None, lambda tap, tokens: pool(tap, tokens, encoder.poolings).cpu())
            seconds.append((time.perf_counter() - start) / 2)
        output = handed_out(encoder, dataset)
    module: Any = getattr(encoder, "module", None)
    return {
        **({"placement": _placement(encoder, sample)} if verify else {}),
        "encoder": encoder.name,
        "modality": encoder.modality,
        "parameters": sum(p.numel() for p in module.parameters()) if isinstance(module, torch.nn.Module) else None,
        "output_tap": encoder.output_tap,
        "handed_out": output.to_json(),
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
    from diagnostics.encoders.places.verify import NotVerifiableError, verify_grid

    try:
        verification = verify_grid(encoder, sample)
    except NotVerifiableError as error:
        return {"said": str(error), "right": None}
    return {"said": str(verification), **verification.to_json()}
