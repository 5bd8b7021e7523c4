"""A timm model at hand as an encoder."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from diagnostics.plugin import (
    DiagnosticsError,
    Discovered,
    Grid,
    Tap,
    TorchEncoder,
    discover,
    last_taps,
    names_of_outputs,
)
from diagnostics_timm.images import Preprocess
from diagnostics_timm.pixels import example


def encoder_of(
    module: nn.Module, name: str, img_size: int | None = None, fresh: Callable[[], nn.Module] | None = None
) -> TorchEncoder:
    """The model with timm's own evaluation transform and the taps that discovery gives.

    `img_size` is the side of the square input where that is not the model's own; `fresh` draws new weights.
    """
    preprocess = Preprocess.of(module, name, img_size)
    size = preprocess.input_size

    def settled() -> nn.Module:
        """New weights after one pass, in which some models (ConViT) make tables that are part of what they are."""
        assert fresh is not None
        model = fresh().eval()
        with torch.no_grad():
            model(torch.zeros(1, *size))
        return model

    discovered = model_taps(module, name, size)
    encoder = TorchEncoder(
        name,
        "image",
        module,
        discovered.taps,
        discovered.output_tap,
        preprocess,
        example(),
        fresh=None if fresh is None else settled,
        configuration=f"input {'x'.join(str(n) for n in size)}",
        covers=preprocess.covers,
    )
    ends = last_taps(encoder.taps, encoder.output_tap)[-1:]
    names = names_of_outputs(
        encoder, lambda model, image: {"forward_features": _trunk(model, image)}, [encoder.output_tap, *ends]
    )
    return encoder.replace(left_out=discovered.left_out, maker_names=names)


def model_taps(model: nn.Module, encoder: str, input_size: tuple[int, int, int]) -> Discovered:
    """`embed`, every block, the trunk's end, and the heads; in order of execution."""
    _check_size(model, encoder, input_size)
    image = torch.randn((2, *input_size), generator=torch.Generator().manual_seed(0))
    declared = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    prefix = getattr(model, "num_prefix_tokens", None)
    grid = Grid(tuple(int(n) for n in declared), ("y", "x"), prefix or 0) if declared is not None else None
    return discover(
        model,
        image,
        encoder,
        {"y": input_size[1], "x": input_size[2]},
        grid=grid,
        prefix=prefix,
        channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC",
        trunk=_trunk,
        with_order=_unrolled(model) if hasattr(model, "reroll") else lambda tap: tap,
    )


def _trunk(module: nn.Module, batch: Any) -> Any:
    return module.forward_features(batch)  # pyright: ignore[reportCallIssue]  (every timm model has it)


def _unrolled(model: nn.Module) -> Callable[[Tap], Tap]:
    """For Hiera, whose tokens lie in units that later stages pool: their order, from indices sent through its own reroll."""
    reroll: Any = model.reroll

    def with_order(tap: Tap) -> Tap:
        site = tap.site
        if site is None or site.layout != "tokens":
            return tap
        name, _, block = site.module.partition(".")
        at = int(block) if name == "blocks" else max(reroll.schedule)
        places = torch.arange(tap.tokens, dtype=torch.float64)[None, :, None]
        order = tuple(int(place) for place in reroll(places, at).flatten())
        return tap if order == tuple(range(tap.tokens)) else replace(tap, site=replace(site, order=order))

    return with_order


def _check_size(model: nn.Module, encoder: str, input_size: tuple[int, int, int]) -> None:
    """Patches that do not divide the image would leave its last rows and columns unseen."""
    cut = getattr(getattr(model, "patch_embed", None), "proj", None)
    # Overlapping patches are padded, and leave nothing out.
    if not isinstance(cut, nn.Conv2d) or cut.kernel_size != cut.stride:
        return
    if any(n % side for n, side in zip(input_size[1:], cut.stride, strict=True)):
        raise DiagnosticsError(
            f"{encoder} cuts images of {list(input_size[1:])} pixels into patches of {list(cut.stride)}, "
            "which do not fit: choose an img_size that is a multiple of the patch."
        )
