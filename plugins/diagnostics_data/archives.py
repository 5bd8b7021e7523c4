"""Series of the UCR and UEA archives that arrive inside the wheel of aeon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnostics import DiagnosticsError

if TYPE_CHECKING:
    from diagnostics import Dataset
else:
    Dataset = Any

TUTORIAL = ("UnitTest", "Covid3Month_disc")
"""In the wheel for aeon's own tests, not data sets of the archives."""


def ucr(name: str, seed: int = 0) -> Dataset:
    """A bundled data set by its name in the archives (GunPoint, JapaneseVowels, Covid3Month, ...), target `label` or `value`.

    Test is the official test split; a fifth of the official train split, drawn with `seed`, is val. Series of unequal length
    are padded with NaN on the left. Source: Dau et al., The UCR time series archive (2019); Bagnall et al., The UEA
    multivariate time series classification archive (2018), as in `aeon.datasets`.
    """
    import importlib.util

    spec = importlib.util.find_spec("aeon")
    if spec is None or not spec.submodule_search_locations:
        raise DiagnosticsError("Data sets of ucr: come with aeon, which is not installed: pip install aeon")
    at = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    known = bundled(at)
    if name not in known:
        raise DiagnosticsError(
            f"aeon bundles no data set '{name}': choose of {', '.join(sorted(known))}, or give your own file as ts:FILE.ts."
        )
    from diagnostics_files.ts import archive

    return archive(name, {split: at / name / f"{name}_{split.upper()}.ts" for split in ("train", "test")}, seed)


def bundled(at: Path) -> set[str]:
    """Names of the data sets that have both splits."""
    return {
        path.name
        for path in at.iterdir()
        if path.name not in TUTORIAL
        and all((path / f"{path.name}_{split}.ts").is_file() for split in ("TRAIN", "TEST"))
    }
