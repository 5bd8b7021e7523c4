"""Plans with small shards, and digests of what a run holds."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from diagnostics.activations.plan import Plan, plan
from diagnostics.encoders.encoder import Encoder

BUDGET = 10**9


def planned(encoder: Encoder, n: int, budget: int = BUDGET, shard: int = 8, precision: str = "float32") -> Plan:
    """A plan with small shards, so that small data has several."""
    made = plan(encoder, encoder.taps, n, budget, precision)
    affordable = budget // (4 * sum(tap.tokens * tap.features for tap in encoder.taps))
    kept = n if affordable >= n else affordable // shard * shard
    return dataclasses.replace(made, token_samples=kept, shard=shard, pooled_shard=2 * shard)


def digests(run: Path) -> dict[str, str]:
    """Digest of every file below a run that holds data."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in ("zarr.json", "report.html")]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
