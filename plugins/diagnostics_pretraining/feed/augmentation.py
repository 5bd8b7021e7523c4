"""Which changes of its images a dataset's texts survive, and what is left of an augmentation.

A caption that says left and right is false of a mirrored scene, and one that says red of a scene in another hue.
"""

from collections.abc import Mapping
from dataclasses import replace

from diagnostics_training.models.picture_changes import PictureChanges

from diagnostics import Dataset, DiagnosticsError
from diagnostics.errors import enumerated

UNCHANGED: Mapping[str, Mapping[str, float | tuple[float, float]]] = {
    "crop": {"area": (1.0, 1.0), "aspect": (1.0, 1.0)},
    "mirror": {"mirror": 0.0},
    "brightness": {"brightness": 0.0},
    "contrast": {"contrast": 0.0},
    "saturation": {"saturation": 0.0},
    "hue": {"grey": 0.0},
}
"""Each change of an image, as of `Dataset.text_survives` -> the ranges in which nothing of the kind is drawn."""


def changes_in(changes: PictureChanges) -> frozenset[str]:
    """The names of what these ranges change."""
    return frozenset(
        name for name, kept in UNCHANGED.items() if any(getattr(changes, key) != value for key, value in kept.items())
    )


def survivable(changes: PictureChanges, dataset: Dataset) -> tuple[PictureChanges | None, tuple[str, ...]]:
    """What is left of an augmentation when the changes are left out that the dataset's texts do not survive, None for nothing;
    and the names of these."""
    left_out = tuple(sorted(changes_in(changes) - dataset.text_survives))
    kept = replace(changes, **{key: value for name in left_out for key, value in UNCHANGED[name].items()})
    return (kept if changes_in(kept) else None), left_out


def explain_left_out(left_out: tuple[str, ...], dataset: Dataset) -> str:
    """One line for people; "" where nothing is left out."""
    if not left_out:
        return ""
    return f"leaves {enumerated(left_out)} of the augmentation out, under which texts of {dataset.name} would be false"


def check_survives(changes: PictureChanges, dataset: Dataset) -> None:
    """Raises where one of the changes, asked for by name, would make the dataset's texts false."""
    if false := sorted(changes_in(changes) - dataset.text_survives):
        left = sorted(dataset.text_survives)
        raise DiagnosticsError(
            f"Texts of {dataset.name} would be false under a change of {enumerated(false)}: "
            f"{f'augment by {enumerated(left)}, or not at all' if left else 'leave augmentation out'}."
        )
