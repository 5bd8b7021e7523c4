"""SAM 2.1 as a teacher: how each place answers to a point at each of 32 x 32 places.

Perception Encoder (arXiv 2504.13181, section 5 and appendix B.3.1): the logits of the mask that SAM gives for each point, none
left out and none cut at a threshold, brought to the student's grid.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

from diagnostics.plugin import Dataset, DiagnosticsError, Progress, describe
from diagnostics_training.alignment.augmentation import Places, View, sampled
from diagnostics_training.alignment.relations import SECTION, Relations
from diagnostics_training.trainer.checkpoints import digest_of_tensors
from diagnostics_training.trainer.distributed import World, barrier
from diagnostics_training.trainer.monitor import Watch, say, silent

SIDE = 32
"""Points along each side of an image."""
BLOCK = 64
"""Points whose masks, of 256 x 256 logits, are held at once."""
TYPES = ("sam2", "sam2_video")
"""Configurations that `Sam2Model` reads; Meta's own folders are of the second."""


class Sam2Relations(Relations):
    """The logits [T, 1024] of transformers' `Sam2Model`, computed once for each sample and kept on disk as float16.

    They are of the whole image as it is, on as many cells as the student's grid has; a view of an image takes them from where it
    lies (bilinear). Raises DiagnosticsError for a folder of another model or without one, and where transformers is missing.

    folder: a local folder as `save_pretrained` writes it, with its image processor.
    cache: where the logits go; by default `encoder-diagnostics/relations` in the user's cache.
    """

    def __init__(self, folder: str, dataset: Dataset, places: Places, cache: Path | None = None) -> None:
        self.name, self.folder, self.dataset, self.places = f"sam2:{folder}", Path(folder), dataset, places
        # Only what is missing on disk needs the model: it is not kept.
        self.weights = digest_of_tensors(load(self.folder)[0].state_dict())
        self.about = f"SAM 2 (weights {self.weights[:12]}) at {SIDE} x {SIDE} points"
        self.cache = cache or user_cache_path("encoder-diagnostics", False) / "relations"
        self.files: dict[int, Path] = {}

    def prepare(self, rows: Sequence[int], world: World, watch: Watch = silent) -> None:
        """Computes what is not on disk yet, each process its part."""
        self.files = {row: self.file(row) for row in rows}
        # Dealt out before looking, since the others write meanwhile.
        missing = [row for row in list(self.files)[world.rank :: world.size] if not self.files[row].is_file()]
        if missing:
            each = 2 * SIDE**2 * self.places.tokens
            say(
                f"{self.name}: relations of {len(missing):,} samples, {each * len(missing) / 1e9:.2g} GB in {self.cache}"
            )
            model, processor = load(self.folder)
            model.to(world.device)
            for done, row in enumerate(missing):
                watch(Progress("relations by SAM 2", done, len(missing), str(self.dataset.ids[row])))
                pixels = processor(images=as_colours(self.dataset[row]), return_tensors="pt")["pixel_values"]
                logits = mask_logits(model, pixels.to(world.device), self.places.shape, SIDE)
                self._write(self.files[row], logits.half().cpu().numpy())
            watch(Progress("relations by SAM 2", len(missing), len(missing), ""))
        barrier()

    def file(self, row: int) -> Path:
        """Where the logits of a sample are: by its id, its pixels, the weights, the points and the grid."""
        image = np.ascontiguousarray(self.dataset[row])
        facts = [self.dataset.ids[row], self.weights, SIDE, *self.places.shape, image.dtype.str, *image.shape]
        digest = hashlib.sha256(json.dumps(facts).encode())
        digest.update(image.data)
        return self.cache / f"{digest.hexdigest()}.npy"

    def inputs(self, row: int, image: np.ndarray, view: View) -> dict[str, Tensor]:
        maps = torch.from_numpy(self._read(self.files[row])).float()
        extent = image.shape[:2]
        part = view.part(self.places.covers(extent), extent)
        in_cells = [
            [end / n * cells for end in ends] for ends, n, cells in zip(part, extent, maps.shape[1:], strict=True)
        ]
        return {SECTION: sampled(maps[None], torch.tensor([in_cells]), self.places.shape)[0].flatten(1).T.half()}

    def _read(self, file: Path) -> np.ndarray:
        with contextlib.suppress(OSError, ValueError, EOFError):
            maps = np.load(file, allow_pickle=False)
            if maps.dtype == np.float16 and maps.shape == (SIDE * SIDE, *self.places.shape):
                return maps
        raise DiagnosticsError(
            f"{file} cannot be read as the relations of a sample: remove it, and it is computed again."
        )

    def _write(self, file: Path, maps: np.ndarray) -> None:
        """Beside its place and renamed, so that no process sees half a file."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=".partial-") as folder:
                np.save(Path(folder, file.name), maps, allow_pickle=False)
                Path(folder, file.name).replace(file)
        except OSError as error:
            raise DiagnosticsError(
                f"Relations cannot be kept in {file.parent} ({error.strerror}): set XDG_CACHE_HOME to a folder that can be written, "
                "with 2 MB for each sample of 32 x 32 tokens."
            ) from error


@torch.no_grad()
def mask_logits(model: Any, pixels: Tensor, shape: tuple[int, int], side: int, block: int = BLOCK) -> Tensor:
    """Logits float32 [side * side, *shape] of the single mask for each point of a grid, row by row, in the whole image.

    model: a `Sam2Model`; pixels: what it reads of one image, [1, 3, y, x]. Embeddings of the image are computed once and handed
    back for each `block` of points. Masks become smaller with antialiasing.
    """
    embeddings = model.get_image_embeddings(pixels)
    x, y = ((torch.arange(side, device=pixels.device) + 0.5) / side * n for n in reversed(pixels.shape[2:]))
    points = torch.stack([x.expand(side, side), y[:, None].expand(side, side)], -1).reshape(1, -1, 1, 2)
    maps: list[Tensor] = []
    for some in points.split(block, 1):
        masks = model(input_points=some, image_embeddings=list(embeddings), multimask_output=False).pred_masks[:, :, 0]
        maps.append(nn.functional.interpolate(masks.float(), shape, mode="bilinear", antialias=True)[0])
    return torch.cat(maps)


def load(folder: Path) -> tuple[Any, Any]:
    """`Sam2Model` and its image processor from a local folder, in float32; nothing is fetched, and no code in it is run.

    Raises DiagnosticsError for what is no such folder, and where weights are missing.
    """
    try:
        from transformers import Sam2ImageProcessor, Sam2Model
        from transformers.utils import logging
    except ImportError as error:
        raise DiagnosticsError("SAM 2 is read by transformers: pip install -e '.[transformers]'.") from error
    folder = folder.expanduser()
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DiagnosticsError(
            f"{folder} is no folder of SAM 2 (no config.json with a model_type): give one that transformers' save_pretrained wrote."
        ) from error
    if kind not in TYPES:
        raise DiagnosticsError(
            f"{folder} holds a model of type {kind!r:.80}, and relations by masks need SAM 2: give its folder, or the encoder's own "
            "name to take its tokens."
        )
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded: Any = Sam2Model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        processor = Sam2ImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise DiagnosticsError(
            f"SAM 2 cannot be loaded from {folder} ({describe(error)}): it needs config.json, preprocessor_config.json and "
            "model.safetensors."
        ) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    model, about = loaded
    if missing := sorted(about["missing_keys"]):
        raise DiagnosticsError(
            f"{folder} lacks {len(missing)} weights of SAM 2, {missing[0]} first: give a complete one."
        )
    # Else masks that seem unstable are replaced: that is a threshold.
    model.mask_decoder.dynamic_multimask_via_stability = False
    return model.eval().requires_grad_(False), processor


def as_colours(image: np.ndarray) -> np.ndarray:
    """A raw image as [y, x, 3]."""
    image = np.atleast_3d(image)
    return image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, 2)
