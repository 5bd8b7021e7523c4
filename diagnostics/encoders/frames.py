"""Image encoders applied to videos: some frames of a clip are encoded one by one, and averaged.

This is how Perception Encoder and CLIP models are used on video. The order of frames has no effect, so such an encoder
can tell what is in a clip and never in which direction it moves.
"""

import math
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics.encoders.modules import map_tensors
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, check_known, refuse_values

Sampler = Literal["floor", "endpoints"]
MOST_FRAMES = 4096


def sample_frames(frames: int, count: int, sampler: str) -> list[int]:
    """Indices of the `count` frames that are encoded of a clip of `frames`; some are repeated in a shorter clip.

    `floor` takes int(i * frames / count), the first of equal parts, as in the demonstrations of Perception Encoder;
    `endpoints` takes int(i * (frames - 1) / (count - 1)), first and last included, as in clip_benchmark.
    """
    if sampler == "floor":
        return [i * frames // count for i in range(count)]
    return [i * (frames - 1) // (count - 1) for i in range(count)]


def frames_of(encoder: TorchEncoder, count: int, sampler: str = "floor") -> TorchEncoder:
    """An image encoder applied to `count` frames of each video, uint8 [t, y, x, channel].

    A tap with a grid [y, x] gets a grid [t, y, x] with the tokens of all frames; prefix tokens are averaged over
    frames. A token for a whole image becomes one grid token per frame, so that its mean over the grid is the average
    over frames that is used as the embedding of a clip (without normalising embeddings to length 1 before or after). In
    time, a frame represents the part of the clip around it.

    Raises DiagnosticsError for an encoder of other samples than images, a count below 1, an unknown sampler, and
    `endpoints` with a single frame.

    Examples:
        >>> import numpy as np
        >>> import diagnostics as dx
        >>> images = dx.build("encoder", "objectives:shapes-jepa")
        >>> videos = dx.frames_of(images, 4)
        >>> print(images.tap("norm").grid, "->", videos.tap("norm").grid)
        8 x 8 (y, x) -> 4 x 8 x 8 (t, y, x)
        >>> clip = np.zeros((8, 64, 64, 3), dtype=np.uint8)
        >>> videos.transform([clip]).shape
        (1, 48)
    """
    if encoder.modality != "image" or any(tap.site is not None and tap.site.rows > 1 for tap in encoder.taps):
        raise DiagnosticsError(
            f"{encoder.name} reads {encoder.modality} samples: frames of a video need an encoder of single images.",
            code="other-modality",
        )
    check_known("sampler of frames", sampler, get_args(Sampler))
    least = 2 if sampler == "endpoints" else 1
    refuse_values(
        (count < least, f"Sampler {sampler} takes at least {least} frame(s), not {count}: ask for more frames."),
        (
            count > MOST_FRAMES,
            f"At most {MOST_FRAMES:,} frames of a video are seen, not {count}: ask for fewer frames.",
        ),
    )

    def preprocess(sample: np.ndarray) -> Any:
        if sample.ndim != 4 or 0 in sample.shape:
            raise DiagnosticsError(
                f"{video.name} takes videos of shape [t, y, x, channel], not {list(sample.shape)}: convert the "
                f"samples.",
                code="bad-sample",
            )
        return default_collate([encoder.preprocess(sample[i]) for i in sample_frames(len(sample), count, sampler)])

    def forward(module: nn.Module, batch: Any) -> Any:
        return encoder.forward(module, _fold(batch))

    def sized_for(sample: np.ndarray) -> TorchEncoder | None:
        sized = encoder.sized_for(sample[0])
        return frames_of(sized, count, sampler) if sized is not encoder and isinstance(sized, TorchEncoder) else None

    def covers(extents: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        return (_time_span(int(extents[0]), count, sampler), *encoder.covers(extents[1:]))

    def valid(batch: Any, tap: Tap) -> Tensor | None:
        of_frames = encoder.valid(_fold(batch), image_taps[tap.name])
        return None if of_frames is None else of_frames.reshape(-1, tap.grid.tokens)

    image_taps, image = {tap.name: tap for tap in encoder.taps}, encoder.example()
    video = TorchEncoder(
        f"{encoder.name} over {count} frames ({sampler})",
        "video",
        encoder.module,
        taps=[_over_frames(tap, count, encoder.name) for tap in encoder.taps],
        output_tap=encoder.output_tap,
        preprocess=preprocess,
        # Twice as many frames as are encoded, each shifted by one more row.
        example=np.stack([np.roll(image, i, axis=0) for i in range(2 * count)]),
        forward=forward,
        fresh=encoder.fresh_module,
        configuration=f"{encoder.configuration}; {count} frames by {sampler}",
        sized_for=sized_for,
        covers=covers,
        valid=valid,
    ).replace(maker_names=encoder.maker_names)
    return video


def _over_frames(tap: Tap, count: int, encoder: str) -> Tap:
    """The tap with time as the first axis of its grid."""
    if tap.site is None or not (tap.grid.axes == ("y", "x") or tap.grid.tokens == 1):
        raise DiagnosticsError(
            f"Tap {tap.name} of {encoder} has a grid of {tap.grid}, not of y and x: leave it out.", code="no-grid"
        )
    shape = tap.grid.shape if tap.grid.axes == ("y", "x") else (1, 1)
    grid = Grid((count, *shape), ("t", "y", "x"), tap.grid.prefix)
    return replace(tap, grid=grid, site=replace(tap.site, rows=count))


def _fold(batch: Any) -> Any:
    """[B, count, ...] as [B * count, ...]."""
    return map_tensors(lambda tensor: tensor.flatten(0, 1), batch)


def _time_span(frames: int, count: int, sampler: str) -> tuple[float, float]:
    """Span of what the cells cover, (start, stop) in frames, each centred on its frame.

    It reaches beyond the clip where frames are skipped.
    """
    step = frames / count if sampler == "floor" else (frames - 1) / (count - 1)
    if step == 0:
        return 0.0, float(frames)
    start = min(0.0, (1 - step) / 2)
    if step.is_integer():
        # Cells of whole frames, with the frame shown in the middle (of an even number, the earlier of the two).
        start = float(math.ceil(start))
    return start, start + step * count
