"""Data as they are read for training alone."""

from diagnostics_training.trainer.data import parse_spec, spec_of


def without_target(spec: str) -> str:
    """The specification of the same data, captions without the embeddings that `diagnostics run` probes: 2 kB a sample, which are
    held in memory and that nothing here reads."""
    name, options = parse_spec(spec)
    if not name.startswith("captions:") or "embeddings" in options:
        return spec
    return spec_of(name, {**options, "features": 0})
