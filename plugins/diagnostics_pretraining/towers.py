"""An image tower and a text tower that are trained together, at any size of image up to the final one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from diagnostics_perception.models import Architecture, fitted_positions, initial, skeleton, varied
from torch import Tensor, nn

from diagnostics import DiagnosticsError
from diagnostics_pretraining.text import embedded, initial_text, known_size, seed_of

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer
    from timm.models.eva import Eva

    from diagnostics_pretraining.text import Vocabulary


class Towers(nn.Module):
    """Both towers, the scale of their similarities, and the token that stands for a hidden patch.

    Images have any size that patches divide, up to the architecture's own: the table of positions is that of the final grid,
    and is resampled on the way in (bilinear, as Meta's code resamples a trained one), while rotary positions count patches. So no
    parameter changes its shape from stage to stage.

    size, architecture, vocabulary: what they were built from. log_scale: logarithm of what multiplies cosines. mask_token:
    [width], or None where no patch is ever hidden.
    """

    def __init__(
        self,
        size: str,
        architecture: Architecture,
        vocabulary: Vocabulary,
        image: Eva,
        text: TextTransformer,
        mask_token: Tensor | None,
    ) -> None:
        super().__init__()
        self.size, self.architecture, self.vocabulary = size, architecture, vocabulary
        self.image: Any = image
        self.text = text
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.mask_token = None if mask_token is None else nn.Parameter(mask_token)
        # Meta's projection has no bias, timm's has one: it stays at zero.
        self.image.head.bias.requires_grad_(False)

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Of images [b, 3, y, x], as preprocessing gives them: [b, embedding], not normalised."""
        return self._head(self._encode(pixels, None))

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """Of tokens int64 [b, up to context]: [b, embedding], not normalised."""
        return embedded(self.text, tokens)

    def image_tokens(self, pixels: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Grid tokens [b, grid, width] after the last norm.

        hidden: bool [b, grid], patches of which the mask token takes the place, before positions are added.
        """
        return self._encode(pixels, hidden)[:, self.architecture.prefix :]

    def tokens_and_embeddings(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What `image_tokens` and `embed_images` give, in one pass."""
        tokens = self._encode(pixels, None)
        return tokens[:, self.architecture.prefix :], self._head(tokens)

    def _encode(self, pixels: Tensor, hidden: Tensor | None) -> Tensor:
        one, image = self.architecture, self.image
        grid = self._grid(pixels)
        x = image.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        if hidden is not None:
            if self.mask_token is None:
                raise DiagnosticsError("These towers have no mask token: build them with masked=True.")
            x = torch.where(hidden[..., None], self.mask_token.to(x.dtype), x)
        if one.class_token:
            x = torch.cat([image.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        x = image.norm_pre(x + fitted_positions(image.pos_embed, one.prefix, grid, "index"))
        rope = self._rotary(grid)
        for block in image.blocks:
            x = block(x, rope=rope)
        return image.norm(x)

    def _head(self, tokens: Tensor) -> Tensor:
        return self.image.forward_head(tokens)

    def _grid(self, pixels: Tensor) -> int:
        side = pixels.shape[-1]
        if pixels.shape[-2] != side or side > self.architecture.image:
            raise DiagnosticsError(
                f"Images of {pixels.shape[-2]} x {side} pixels do not fit towers of {self.architecture.image}: give squares of "
                "that size or smaller."
            )
        return self.architecture.grid(side)

    def _rotary(self, grid: int) -> Tensor | None:
        """Of the k-th patch k, at any size: the corner of the final grid's table. [grid * grid, 2 * head width]"""
        if self.image.rope is None:
            return None
        table, native = self.image.rope.get_embed(), self.architecture.grid()
        return table if grid == native else table.unflatten(0, (native, native))[:grid, :grid].flatten(0, 1)


def build_towers(
    size: str,
    *,
    rope: bool,
    pool: str,
    vocabulary: Vocabulary,
    seed: int,
    masked: bool = False,
    image: int | None = None,
) -> Towers:
    """Both towers of a size (`nano`, `b16-224`, ...) with initial weights.

    Each part is drawn from the seed by itself, so that what is left out of one changes nothing in the others.

    masked: whether there is a mask token. image: side of the final images in pixels, by default the size's own. Raises
    DiagnosticsError for an unknown size, for images that patches do not fit, and for `pool="class"` of a size without a class token.
    """
    name = known_size(size)
    one = varied(name, rope=rope, pool=pool)
    one = one if image is None else replace(one, image=image)
    with torch.random.fork_rng(devices=[]):
        tower = _image_tower(name, one, seed)
        text = initial_text(name, vocabulary, seed)
        torch.manual_seed(seed_of("mask", seed))
        mask_token = one.width**-0.5 * torch.randn(one.width) if masked else None
    return Towers(name, one, vocabulary, tower, text, mask_token)


def _image_tower(name: str, one: Architecture, seed: int) -> Eva:
    """Drawn whole, at the size's own grid; without what is left out, and with a table of positions of its own for another grid."""
    grid = one.grid()
    torch.manual_seed(seed)
    drawn = initial(varied(name)).state_dict()
    if grid != varied(name).grid():
        torch.manual_seed(seed_of("positions", seed))
        drawn["pos_embed"] = one.width**-0.5 * torch.randn(1, one.prefix + grid**2, one.width)
    tower = skeleton(one)
    tower.load_state_dict({key: drawn[key] for key in tower.state_dict()}, assign=True)
    return tower
