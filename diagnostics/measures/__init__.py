"""The measures that come with the package, one module an idea; nothing is loaded before it is used.

Plain functions on arrays, usable without a run, live in the same modules: `similarity`, `geometry`, `locality`,
`probes`, `dynamics`.
"""

from diagnostics.measures.plugin import bundled, measures

__all__ = ["bundled", "measures"]
