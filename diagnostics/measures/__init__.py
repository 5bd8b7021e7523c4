"""The bundled measures, by family, imported when first used.

Plain functions on arrays, usable without a run, live in the same modules: `similarity`, `geometry`, `locality`,
`probes`, `dynamics`.
"""

from diagnostics.measures.plugin import bundled, measures

__all__ = ["bundled", "measures"]
