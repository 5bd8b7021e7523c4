"""A teacher of relations by its name: `masks`, `sam2:FOLDER`, or an encoder as `NAME` or `NAME:TAP`."""

from diagnostics import DiagnosticsError
from diagnostics.encoders.trust import UntrustedCodeError
from diagnostics_training.alignment.augmentation import places_of
from diagnostics_training.alignment.relations.base import SECTION, Relations
from diagnostics_training.alignment.relations.encoder import EncoderRelations
from diagnostics_training.alignment.relations.masks import MaskRelations
from diagnostics_training.alignment.relations.sam2 import Sam2Relations
from diagnostics_training.alignment.start import Start
from diagnostics_training.alignment.teachers import named_teacher


def relations_of(name: str, start: Start, trust_code: bool = False) -> Relations:
    """The teacher of that name, for the samples of an alignment and the tokens of the tap that learns.

    Raises DiagnosticsError for an unknown name, and where the teacher cannot teach these data or this grid.
    """
    places = places_of(start.own, start.tap)
    if name == "masks":
        return MaskRelations(start.dataset, places)
    if name.startswith("sam2:"):
        return Sam2Relations(name.removeprefix("sam2:"), start.dataset, places)
    try:
        teacher = named_teacher(name, start, SECTION, trust_code)
    except UntrustedCodeError:
        raise
    except DiagnosticsError as error:
        raise DiagnosticsError(
            f"'{name}' is no teacher of relations: give masks, sam2:FOLDER, or an encoder. As an encoder: {error}"
        ) from error
    if teacher.weight != 1:
        raise DiagnosticsError(f"Relations have no weight but 1: give --relations {name.rpartition('@')[0]}.")
    return EncoderRelations(name, teacher, places)
