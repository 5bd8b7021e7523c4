"""From raw samples to what a tower takes, by its modality; and a tower tried on two samples."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.plugin import Call, DiagnosticsError, Discovered, Site, describe, discover, recorded, tensor_at
from diagnostics_transformers.audio import prepare_audio
from diagnostics_transformers.images import prepare_images
from diagnostics_transformers.patches import prepare_patches, takes_patches
from diagnostics_transformers.prepared import Arguments, Prepared, Wanted
from diagnostics_transformers.series import prepare_series
from diagnostics_transformers.text import prepare_text
from diagnostics_transformers.towers import Tower, arguments, kind_of
from diagnostics_transformers.videos import is_video, prepare_videos


def prepare(tower: nn.Module, source: str | None, name: str, wanted: Wanted) -> Prepared:
    """The preprocessing of a tower: that of its own directory where it has one, otherwise the configuration's sizes."""
    kind, takes = kind_of(tower), arguments(tower)
    if kind == "text":
        return prepare_text(tower, source, name, wanted)
    if kind == "audio":
        return prepare_audio(tower, source, name, wanted.length)
    if kind == "series":
        return prepare_series(tower, name, wanted.length)
    if kind == "vision":
        if takes_patches(tower):
            return prepare_patches(tower, source, name, wanted.size)
        if is_video(tower):
            return prepare_videos(tower, source, name, wanted)
        return prepare_images(tower, source, name, wanted.size)
    raise DiagnosticsError(
        f"{name} ({type(tower).__name__}) takes {', '.join(t for t in takes[:3])}, which is no image, video, audio, text or "
        "series by itself: tap it as a torch module of your own (docs/how-to/plugins.md)."
    )


class Passes:
    """A tower with its preprocessing, run on a batch of the example and of another sample.

    Raises DiagnosticsError where it runs with none of the forms of its input.
    """

    def __init__(self, name: str, module: Tower, prepared: Prepared) -> None:
        self.name, self.module, self.prepared = name, module, prepared
        self.batch: Any = default_collate(
            [prepared.preprocess(s) for s in (prepared.example, _another(prepared.example))]
        )
        self.arguments = self._form()

    def _form(self) -> Arguments:
        """The first way to give the input with which the model runs."""
        errors: list[Exception] = []
        for form in self.prepared.forms or [self.prepared.arguments]:
            try:
                with torch.no_grad():
                    self.module(form(self.batch))
                return form
            except Exception as error:
                errors.append(error)
        raise DiagnosticsError(
            f"{self.name} ({type(self.module.tower).__name__}) does not run on {self.prepared.modality} alone "
            f"({describe(errors[0])}): it is not supported yet."
        ) from errors[0]

    def forward(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Any:
        """One pass of the tower, or of another like it."""
        return module(self.arguments(batch))

    def calls(self, names: Iterable[str]) -> list[Call]:
        """The calls of some modules in a pass."""
        with torch.no_grad(), recorded(self.module, names) as calls:
            self.forward(self.module, self.batch)
        return calls

    def entering(self, layer: str, batch: Any) -> Tensor | None:
        """The first tensor that a layer takes."""
        return tensor_at(self.module, Site(layer, when="before"), batch, self.forward)

    def discover(self, place: str, extents: Mapping[str, int], **options: Any) -> Discovered:
        """What discovery finds in the part of that name; raises as `diagnostics.discover`, which has these options."""
        part = self.module.get_submodule(place)
        return discover(
            part, self.batch, self.name, extents, forward=lambda _, batch: self.forward(self.module, batch), **options
        )


def _another(sample: np.ndarray) -> np.ndarray:
    """Another sample of the same size."""
    if sample.ndim == 0:
        return np.asarray(" ".join(reversed(str(sample).split())))
    return np.ascontiguousarray(sample[::-1])
