"""A teacher of relations by its name: `masks`, `sam2:FOLDER`, or an encoder as `NAME` or `NAME:TAP`."""

import numpy as np

from diagnostics import Dataset, DiagnosticsError
from diagnostics.encoders.trust import UntrustedCodeError
from diagnostics_training.alignment.augmentation import Places
from diagnostics_training.alignment.objective import second_teacher
from diagnostics_training.alignment.relations.base import Relations
from diagnostics_training.alignment.relations.encoder import EncoderRelations
from diagnostics_training.alignment.relations.masks import MaskRelations
from diagnostics_training.alignment.relations.sam2 import Sam2Relations


def relations_of(
    name: str, dataset: Dataset, sample: np.ndarray, places: Places, trust_code: bool = False
) -> Relations:
    """The teacher of that name, for samples like `sample` and the student's tokens at `places`.

    Raises DiagnosticsError for an unknown name, and where the teacher cannot teach these data or this grid.
    """
    if name == "masks":
        return MaskRelations(dataset, places)
    if name.startswith("sam2:"):
        return Sam2Relations(name.removeprefix("sam2:"), dataset, places)
    try:
        teacher = second_teacher(name, sample, dataset, trust_code)
    except UntrustedCodeError:
        raise
    except DiagnosticsError as error:
        raise DiagnosticsError(
            f"'{name}' is no teacher of relations: give masks, sam2:FOLDER, or an encoder. As an encoder: {error}"
        ) from error
    return EncoderRelations(name, teacher, places)
