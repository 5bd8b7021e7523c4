"""Taps of modules that nobody described: stacks, grids, layouts, orders of tokens, heads; and refusals where unsure."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError, Grid, TorchEncoder, discover
from diagnostics.encoders.places import extents_of
from diagnostics.encoders.places.propose import raster
from tests.support.refusals import refusal


class Block(nn.Module):
    """[..., F], residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(width), nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(torch.relu_(self.inner(self.norm(x))))


class Images(nn.Module):
    """Patches of 4 x 4 pixels, `prefix` tokens, three blocks in `trunk.layers`, a norm, a projector and a classifier."""

    def __init__(self, prefix: int = 1, order: str = "raster", width: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.special = nn.Parameter(torch.randn(1, prefix, width))
        self.trunk = nn.Module()
        self.trunk.layers = nn.ModuleList([Block(width) for _ in range(3)])
        self.final = nn.LayerNorm(width)
        self.projector = nn.Sequential(nn.Linear(width, 7), nn.ReLU(), nn.Linear(7, 5))
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = {"raster": x.flatten(2), "columns": x.transpose(2, 3).flatten(2), "random": x.flatten(2)}[self.order]
        if self.order == "random":
            tokens = tokens[..., torch.randperm(tokens.shape[-1], generator=torch.Generator().manual_seed(1))]
        x = torch.cat([self.special.expand(len(x), -1, -1), tokens.transpose(1, 2)], dim=1)
        for layer in self.trunk.layers:
            x = layer(x)
        return self.projector(self.final(x)[:, self.special.shape[1] :].mean(1))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_a_transformer_on_images(prefix: int) -> None:
    discovered = discover(Images(prefix), images(2, 3, 24, 24), "mine", {"y": 24, "x": 24})
    names = ["embed", "trunk.layers.0", "trunk.layers.1", "trunk.layers.2", "final", "pooled", "projector"]
    assert [tap.name for tap in discovered.taps] == names
    assert [tap.depth for tap in discovered.taps] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1.5, 2])
    assert [tap.part for tap in discovered.taps] == ["embedding", *["trunk"] * 4, "head", "head"]
    assert {tap.grid for tap in discovered.taps[:5]} == {Grid((6, 6), ("y", "x"), prefix)}
    assert (discovered.output_tap, discovered.left_out) == ("final", {})
    assert [tap.features for tap in discovered.taps] == [12] * 6 + [5]


def test_what_the_taps_hand_over_is_what_the_modules_gave() -> None:
    module, batch = Images(2).eval(), images(2, 3, 24, 24)
    encoder = TorchEncoder(
        "mine", "image", module, preprocess=lambda s: torch.as_tensor(s), example=np.zeros((3, 24, 24), "f")
    )
    discovered = encoder.capture(batch)
    with torch.no_grad():
        x = torch.cat([module.special.expand(2, -1, -1), module.stem(batch).flatten(2).transpose(1, 2)], dim=1)
        assert torch.equal(discovered["embed"], x)
        for i, layer in enumerate(module.trunk.layers):
            x = layer(x)
            assert torch.equal(discovered[f"trunk.layers.{i}"], x)
        assert torch.equal(discovered["final"], module.final(x))
        pooled = module.final(x)[:, 2:].mean(1)
        assert torch.equal(discovered["pooled"][:, 0], pooled)
        assert torch.equal(discovered["projector"][:, 0], module.projector(pooled))


@pytest.mark.parametrize("size", [(24, 24), (24, 16), (16, 48)])
def test_columns_before_rows_are_put_into_raster_order(size: tuple[int, int]) -> None:
    extents = dict(zip("yx", size, strict=True))
    batch = images(1, 3, *size)
    straight, turned = Images(1), Images(1, "columns")
    plain = discover(straight, batch, "mine", extents)
    discovered = discover(turned, batch, "mine", extents, grid=Grid((size[0] // 4, size[1] // 4), ("y", "x"), 1))
    assert all(tap.site.order and tap.grid == plain.taps[0].grid for tap in discovered.taps if tap.part != "head")
    for one, other in zip(plain.taps[:5], discovered.taps[:5], strict=True):
        a = TorchEncoder("a", "image", straight, [one], one.name, example=np.zeros(1)).capture(batch)[one.name]
        b = TorchEncoder("b", "image", turned, [other], other.name, example=np.zeros(1)).capture(batch)[other.name]
        torch.testing.assert_close(a, b)


def test_tokens_in_no_order_of_axes_are_refused() -> None:
    with refusal("token-order"):
        discover(Images(1, "random"), images(1, 3, 24, 24), "mine", {"y": 24, "x": 24})


def orders(rows: int) -> dict[str, Tensor]:
    """Orders of rows x rows tokens: as they lie, and wrong ones."""
    there = torch.arange(rows * rows).view(rows, rows)
    snake = there.clone()
    snake[1::2] = snake[1::2].flip(1)
    units = there.view(rows // 2, 2, rows // 2, 2).transpose(1, 2)
    wrong = {"backwards": there.flip(0, 1), "mirrored": there.flip(1), "rolled": there.roll(rows // 3, 1)}
    wrong |= {"snake": snake, "units": units, "shuffled": there.flatten()[torch.randperm(rows * rows)]}
    return {name: order.flatten() for name, order in ({"raster": there} | wrong).items()}


@pytest.mark.parametrize(("side", "kernel", "padding"), [(28, 5, 2), (28, 5, 0), (28, 3, 0), (32, 5, 0), (16, 7, 3)])
def test_convolutions_whose_kernels_reach_many_tokens_are_told_right_from_wrong(
    side: int, kernel: int, padding: int
) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        convolutions = nn.Conv2d(3, 6, kernel, padding=padding), nn.Conv2d(6, 16, 3), nn.Conv2d(16, 16, 3)
        module = nn.Sequential(*(layer for each in convolutions for layer in (each, nn.ReLU())))
        rows = side + 2 * padding - kernel + 1
        for name, order in orders(rows).items():

            def forward(module: Any, x: Tensor, order: Tensor = order, rows: int = rows) -> Tensor:
                return module[1:](module[0](x).flatten(2)[:, :, order].unflatten(2, (rows, rows)))

            with nullcontext() if name == "raster" else pytest.raises(DiagnosticsError):
                discover(module, images(2, 3, side, side), "mine", {"y": side, "x": side}, forward=forward)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 1, 0), (2, 0, 1)])
def test_raster_undoes_an_order_of_axes(axes: tuple[int, ...]) -> None:
    cells = np.arange(24).reshape(2, 3, 4)
    lying = np.concatenate([[100, 101], cells.transpose(axes).ravel()])
    assert lying[list(raster((2, 3, 4), axes, 2))].tolist() == [100, 101, *range(24)]


class Clips(nn.Module):
    """Tubelets of 2 x 4 x 4 as tokens, or each frame for itself with the frames in the batch."""

    def __init__(self, frames_in_batch: bool) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, (1 if frames_in_batch else 2, 4, 4), (1 if frames_in_batch else 2, 4, 4))
        self.blocks = nn.ModuleList([Block(8) for _ in range(2)])
        self.frames_in_batch = frames_in_batch

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.transpose(1, 2))  # [B, F, t, y, x]
        x = x.permute(0, 2, 3, 4, 1)
        x = x.flatten(0, 1).flatten(1, 2) if self.frames_in_batch else x.flatten(1, 3)
        for block in self.blocks:
            x = block(x)
        return x


def test_clips_with_their_frames_in_the_batch() -> None:
    discovered = discover(Clips(True), images(2, 6, 3, 16, 16), "mine", {"t": 6, "y": 16, "x": 16})
    assert {tap.site.rows for tap in discovered.taps} == {6}
    assert {tap.grid for tap in discovered.taps} == {Grid((6, 4, 4), ("t", "y", "x"))}


def test_a_grid_that_is_not_certain_is_asked_for() -> None:
    batch, extents = images(2, 8, 3, 16, 16), {"t": 8, "y": 16, "x": 16}
    with refusal("unclear", "64", "1x8x8 or 4x4x4"):
        discover(Clips(False), batch, "mine", extents)
    sure = discover(Clips(False), images(2, 6, 3, 16, 16), "mine", {"t": 6, "y": 16, "x": 16})
    assert {tap.grid for tap in sure.taps} == {Grid((3, 4, 4), ("t", "y", "x"))}
    grid = Grid((4, 4, 4), ("t", "y", "x"))
    assert {tap.grid for tap in discover(Clips(False), batch, "mine", extents, grid=grid).taps} == {grid}


class Steps(nn.Module):
    """Convolutions over time: [B, F, T], halved once."""

    def __init__(self, layout: str = "channels_first") -> None:
        super().__init__()
        kind = [nn.Conv1d(1, 24, 3, 2, 1), nn.Conv1d(24, 24, 3, 1, 1), nn.Conv1d(24, 24, 3, 1, 1)]
        self.layers = nn.ModuleList([nn.Sequential(conv, nn.ReLU()) for conv in kind])
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for layer in self.layers:
            x = layer(x)
        return x


def test_convolutions_over_time() -> None:
    discovered = discover(Steps(), images(2, 48), "mine", {"t": 48})
    assert [(tap.site.layout, str(tap.grid), tap.features) for tap in discovered.taps] == [
        ("channels_first", "48 t", 1),
        *[("channels_first", "24 t", 24)] * 3,
    ]


class Turns(nn.Module):
    """Time first, one block called four times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.norm = nn.Linear(1, 8), Block(8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x[..., None]).transpose(0, 1)
        for _ in range(4):
            x = self.block(x)
        return self.norm(x).transpose(0, 1)


def test_one_block_called_several_times_with_time_first() -> None:
    module, batch = Turns().eval(), images(2, 10)
    discovered = discover(module, batch, "mine", {"t": 10}, blocks=["block"])
    assert [tap.name for tap in discovered.taps] == ["embed", "block.0", "block.1", "block.2", "block.3", "norm"]
    assert {tap.site.layout for tap in discovered.taps} == {"time_first"}
    encoder = TorchEncoder("mine", "series", module, discovered.taps, "norm", example=np.zeros(10))
    with torch.no_grad():
        x = module.embed(batch[..., None])
        for i in range(4):
            x = module.block(x)
            torch.testing.assert_close(encoder.capture(batch)[f"block.{i}"], x)


class Variates(nn.Module):
    """Patches of 8 steps of each variate: [B, V, n, F], or with the variates in the batch."""

    def __init__(self, fold: bool) -> None:
        super().__init__()
        self.embed, self.layers, self.fold = nn.Linear(8, 6), nn.ModuleList([Block(6) for _ in range(2)]), fold

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.transpose(1, 2).unflatten(2, (-1, 8)))
        x = x.flatten(0, 1) if self.fold else x
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("fold", [False, True])
def test_variates_are_an_axis_of_the_grid(fold: bool) -> None:
    module, batch = Variates(fold).eval(), images(2, 32, 3)
    discovered = discover(module, batch, "mine", {"v": 3, "t": 32})
    assert {tap.grid for tap in discovered.taps} == {Grid((3, 4), ("v", "t"))}
    encoder = TorchEncoder("mine", "series", module, discovered.taps, "layers.1", example=np.zeros(1))
    embedded = module.embed(batch.transpose(1, 2).unflatten(2, (-1, 8))).detach()
    assert torch.equal(encoder.capture(batch)["embed"], embedded.flatten(1, 2))


def test_extents_follow_the_sample() -> None:
    def preprocess(sample: np.ndarray) -> Tensor:
        return torch.as_tensor(sample, dtype=torch.float32)

    encoder = TorchEncoder("mine", "series", Steps(), preprocess=preprocess, example=np.zeros(48))
    longer = encoder.sized_for(np.zeros(96))
    assert longer.tap("layers.2").grid.shape == (48,) and encoder.tap("layers.2").grid.shape == (24,)
    assert encoder.sized_for(np.ones(48)) is encoder
    assert longer.sized_for(np.zeros(48)).identity == encoder.identity


@pytest.mark.parametrize(
    ("modality", "shape", "extents"),
    [
        ("image", (3, 32, 48), {"y": 32, "x": 48}),
        ("image", (32, 48, 3), {"y": 32, "x": 48}),
        ("image", (32, 48), {"y": 32, "x": 48}),
        ("video", (8, 3, 32, 48), {"t": 8, "y": 32, "x": 48}),
        ("video", (3, 8, 32, 48), {"t": 8, "y": 32, "x": 48}),
        ("series", (512,), {"t": 512}),
        ("series", (512, 1), {"t": 512}),
        ("series", (4, 512), {"v": 4, "t": 512}),
        ("audio", (80, 3000), {"t": 3000}),
        ("text", (128,), {"t": 128}),
    ],
)
def test_extents_of_a_batch(modality: Any, shape: tuple[int, ...], extents: dict[str, int]) -> None:
    assert extents_of(modality, torch.zeros(2, *shape), "mine") == extents


@pytest.mark.parametrize(("modality", "shape"), [("image", (3,)), ("video", (8, 32, 48)), ("series", (1, 2, 3))])
def test_extents_that_a_shape_leaves_open(modality: Any, shape: tuple[int, ...]) -> None:
    with refusal("unclear"):
        extents_of(modality, torch.zeros(2, *shape), "mine")


class Several(nn.Module):
    """Two branches side by side; where the second is `kept`, blocks hand it on as it was."""

    def __init__(self, kept: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Pair(kept), Pair(kept)])

    def forward(self, x: Tensor) -> Any:
        x = y = x[..., None].expand(-1, -1, 4)
        for block in self.blocks:
            x, y = block(x, y)
        return x


class Wrong(Several):
    """Of a width that its blocks do not take."""

    def forward(self, x: Tensor) -> Any:
        return self.blocks[0](x[..., None], x[..., None])


class Pair(nn.Module):
    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.kept = kept
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), y if self.kept else self.two(y)


def test_branches_that_a_block_changes_have_a_tap_each() -> None:
    module = Several(kept=False)
    discovered = discover(module, images(2, 8), "mine", {"t": 8})
    names = [f"{name}.branch{i}" for name in ("embed", "blocks.0", "blocks.1") for i in range(2)]
    assert [tap.name for tap in discovered.taps] == names and discovered.output_tap == "blocks.1.branch0"
    assert [tap.depth for tap in discovered.taps] == [0, 0, 0.5, 0.5, 1, 1]
    subject = TorchEncoder(
        "mine", "series", module, discovered.taps, discovered.output_tap, example=np.zeros(8, np.float32)
    )
    seen = subject.capture(images(2, 8))
    y = images(2, 8)[..., None].expand(-1, -1, 4)
    assert torch.equal(seen["blocks.0.branch1"], module.blocks[0].two(y))
    assert torch.equal(seen["blocks.1.branch0"], module.blocks[1].one(module.blocks[0].one(y)))
    assert "tensor 2" in str(subject.tap("blocks.0.branch1").site)
    kept = discover(Several(kept=True), images(2, 8), "mine", {"t": 8})
    assert [tap.name for tap in kept.taps] == ["embed", "blocks.0", "blocks.1"]


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Linear(8, 8), "no stack of blocks"),
        (
            nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Flatten(0)) for _ in range(3)]),
            "a tensor of activations first",
        ),
        (Wrong(), "does not run on an example"),
    ],
)
def test_modules_that_show_no_taps(module: nn.Module, says: str) -> None:
    with pytest.raises(DiagnosticsError, match=says):
        discover(module, images(2, 8), "mine", {"t": 8})


def test_a_block_that_never_runs_is_named() -> None:
    module = Steps()
    with refusal("bad-tap", "idle"):
        discover(module, images(2, 48), "mine", {"t": 48}, blocks=["layers.0", "idle"])


def test_an_example_is_needed() -> None:
    with refusal("missing-option", "mine"):
        TorchEncoder("mine", "series", Steps())


def test_hooks_are_gone_after_a_failure_too() -> None:
    module = Images(1, "random")
    for batch in (images(1, 3, 24, 24), images(1, 2, 24, 24)):
        with pytest.raises(DiagnosticsError):
            discover(module, batch, "mine", {"y": 24, "x": 24})
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


# What shapes leave open


class Variously(nn.Module):
    """Blocks over what `enter` makes of the input, then what `leave` makes of the result."""

    def __init__(
        self, enter: Any, leave: Any = lambda self, x: x, width: int = 12, depth: int = 3, **parts: Any
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        for name, part in parts.items():
            setattr(self, name, part)
        self.enter, self.leave = enter, leave

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(self, x)
        for block in self.blocks:
            x = block(x)
        return self.leave(self, x)


def embedded(module: nn.Module, batch: Tensor, discovered: Any) -> Tensor:
    tap = discovered.taps[0]
    return TorchEncoder("a", "series", module, [tap], tap.name, example=np.zeros(1)).capture(batch)["embed"]


def test_tokens_of_time_that_mix_the_variates() -> None:
    module = Variously(lambda self, x: self.stem(x), stem=nn.Linear(3, 12))
    for extent in (96, 84):
        discovered = discover(module, images(2, extent, 3), "mine", {"v": 3, "t": extent})
        assert {str(tap.grid) for tap in discovered.taps} == {f"{extent} t"}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("variates", "extent"), [(3, 64), (9, 128), (2, 50)])
def test_variates_that_the_first_block_takes_as_features(variates: int, extent: int, scaled: bool) -> None:
    """As the input has an axis of them, they were taken for tokens, and the channels for prefix tokens and places."""
    widths = [variates, 16, 32, 32]
    layers = [nn.Sequential(nn.Conv1d(n, m, 5, padding=2), nn.ReLU()) for n, m in itertools.pairwise(widths)]
    module = nn.Sequential(*layers).eval()

    def forward(module: Any, x: Tensor) -> Tensor:
        return module((x - x.mean(2, keepdim=True)) / x.std(2, keepdim=True) if scaled else x)

    batch = images(2, variates, extent)
    discovered = discover(module, batch, "mine", {"v": variates, "t": extent}, forward=forward)
    assert [(str(tap.grid), tap.features) for tap in discovered.taps] == [(f"{extent} t", n) for n in widths]
    encoder = TorchEncoder("mine", "series", module, discovered.taps, "2", example=np.zeros(1), forward=forward)
    assert torch.equal(encoder.capture(batch)["2"], forward(module, batch).mT)


def test_variates_that_the_first_block_keeps_apart() -> None:
    module = nn.Sequential(*(nn.Sequential(nn.Conv1d(3, 3, 5, padding=2, groups=3), nn.ReLU()) for _ in range(3)))
    discovered = discover(module, images(2, 3, 64), "mine", {"v": 3, "t": 64})
    assert {str(tap.grid) for tap in discovered.taps} == {"3 v"}


@pytest.mark.parametrize("extent", [32, 12])
def test_each_variate_a_token(extent: int) -> None:
    module = Variously(lambda self, x: self.stem(x.transpose(1, 2)), stem=nn.Linear(extent, 12))
    batch = images(2, extent, 64)
    discovered = discover(module, batch, "mine", extents_of("series", batch, "mine", (extent, 64)))
    assert {str(tap.grid) for tap in discovered.taps} == {"64 v"}


def placed_special(where: int) -> Any:
    def enter(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        special = self.special.expand(len(x), -1, -1)
        return torch.cat([x[:, :where], special, x[:, where:]], dim=1)

    return enter


@pytest.mark.parametrize("side", [16, 20, 24, 32])
@pytest.mark.parametrize("where", [0, 5, 1000])
@pytest.mark.parametrize("count", [1, 3])
def test_special_tokens_anywhere_come_first(side: int, where: int, count: int) -> None:
    stem, special = nn.Conv2d(3, 12, 4, 4), nn.Parameter(torch.randn(1, count, 12))
    module, batch = Variously(placed_special(where), stem=stem, special=special), images(2, 3, side, side)
    discovered = discover(module, batch, "mine", {"y": side, "x": side})
    assert {tap.grid for tap in discovered.taps} == {Grid((side // 4, side // 4), ("y", "x"), count)}
    tokens = embedded(module, batch, discovered)
    assert torch.equal(tokens[:, :count], special.detach().expand(2, -1, -1))
    assert torch.equal(tokens[:, count:], stem(batch).flatten(2).transpose(1, 2).detach())


def test_frames_that_divide_nothing_are_no_special_tokens() -> None:
    stem = nn.Conv1d(1, 12, 400, 320)
    module = Variously(lambda self, x: self.stem(x[:, None]).transpose(1, 2), stem=stem)
    discovered = discover(module, images(2, 16000), "mine", {"t": 16000})
    assert {str(tap.grid) for tap in discovered.taps} == {"49 t"}


@pytest.mark.parametrize("wide", [24, 64])
def test_tokens_with_convolutions_and_as_many_features_as_places(wide: int) -> None:
    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.conv = nn.LayerNorm(wide), nn.Linear(wide, 64), nn.Conv1d(wide, wide, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2) + self.up(x)[..., :wide]

    module = Variously(lambda self, x: self.stem(x[..., None]), stem=nn.Linear(1, wide))
    module.blocks = nn.ModuleList([Conv() for _ in range(2)])
    discovered = discover(module, images(2, 64), "mine", {"t": 64})
    assert {(tap.site.layout, str(tap.grid), tap.features) for tap in discovered.taps} == {("tokens", "64 t", wide)}


def test_maps_with_features_last_and_as_many_places() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.up(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    module = Variously(lambda self, x: self.stem(x).permute(0, 2, 3, 1), stem=nn.Conv2d(3, 16, 2, 2))
    module.blocks = nn.ModuleList([Last() for _ in range(2)])
    discovered = discover(module, images(2, 3, 32, 32), "mine", {"y": 32, "x": 32})
    assert {tap.site.layout for tap in discovered.taps} == {"channels_last"}


@pytest.mark.parametrize("mixed", [False, True])
def test_frames_of_all_samples_among_one_another_are_refused(mixed: bool) -> None:
    def enter(self: Any, x: Tensor) -> Tensor:  # [B, t, 3, y, x]
        frames = (x.transpose(0, 1) if mixed else x).flatten(0, 1)
        return self.stem(frames).flatten(2).transpose(1, 2)

    module, extents = Variously(enter, stem=nn.Conv2d(3, 12, 4, 4)), {"t": 6, "y": 16, "x": 16}
    if not mixed:
        assert {tap.site.rows for tap in discover(module, images(2, 6, 3, 16, 16), "mine", extents).taps} == {6}
        return
    with refusal("token-order"):
        discover(module, images(2, 6, 3, 16, 16), "mine", extents)


def test_a_head_for_each_token_is_no_end_of_the_trunk() -> None:
    module = Variously(
        lambda self, x: self.stem(x[..., None]),
        lambda self, x: self.lm_head(self.norm(x)),
        stem=nn.Linear(1, 12),
        norm=nn.LayerNorm(12),
        lm_head=nn.Linear(12, 30),
    )
    discovered = discover(module, images(2, 64), "mine", {"t": 64})
    assert discovered.output_tap == "norm" and [tap.name for tap in discovered.taps][-2:] == ["norm", "lm_head"]
    assert [tap.part for tap in discovered.taps][-2:] == ["trunk", "head"]


def test_a_head_that_shares_a_norm_with_the_trunk() -> None:
    module = Variously(
        lambda self, x: self.stem(x[..., None]),
        lambda self, x: self.norm(self.proj(self.norm(x).mean(1))),
        stem=nn.Linear(1, 12),
        norm=nn.LayerNorm(12),
        proj=nn.Linear(12, 12),
    )
    batch = images(2, 64)
    discovered = discover(module, batch, "mine", {"t": 64})
    assert [tap.name for tap in discovered.taps][-4:] == ["norm.0", "pooled", "proj", "norm.1"]
    encoder = TorchEncoder("a", "series", module, discovered.taps, discovered.output_tap, example=np.zeros(1))
    captured = encoder.capture(batch)
    torch.testing.assert_close(captured["proj"][:, 0], module.proj(captured["norm.0"].mean(1)).detach())


class Biased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(12, 12)
        self.down = nn.Linear(12, 12)

    def forward(self, bias: Tensor, x: Tensor) -> Tensor:
        return x + self.down(torch.softmax(bias, -1) @ self.up(x))


def test_what_a_block_takes_before_its_activations_is_no_embedding() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks = nn.Linear(1, 12), nn.ModuleList([Biased(), Biased()])

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.stem(x[..., None])
            for block in self.blocks:
                tokens = block(torch.zeros(len(x), 64, 64), tokens)
            return tokens

    module, batch = Model(), images(2, 64)
    discovered = discover(module, batch, "mine", {"t": 64})
    assert (discovered.taps[0].features, str(discovered.taps[0].grid)) == (12, "64 t")
    assert torch.equal(embedded(module, batch, discovered), module.stem(batch[..., None]).detach())


def test_two_stacks_one_behind_the_other_are_asked_about() -> None:
    module = Variously(lambda self, x: self.first(self.stem(x[..., None])), stem=nn.Linear(1, 12))
    module.first = nn.Sequential(*[Block(12) for _ in range(3)])
    with refusal("unclear", "first", "blocks.0"):
        discover(module, images(2, 64), "mine", {"t": 64})
    names = [f"first.{i}" for i in range(3)] + [f"blocks.{i}" for i in range(3)]
    discovered = discover(module, images(2, 64), "mine", {"t": 64}, blocks=names)
    assert [tap.name for tap in discovered.taps] == ["embed", *names]


def test_chosen_taps_stay_chosen_for_another_size() -> None:
    encoder = TorchEncoder(
        "mine", "series", Steps(), preprocess=lambda s: torch.as_tensor(s, dtype=torch.float32), example=np.zeros(48)
    )
    few = encoder.with_taps([encoder.tap("embed"), encoder.tap("layers.2")])
    longer = few.sized_for(np.zeros(96))
    assert [tap.name for tap in longer.taps] == ["embed", "layers.2"] and longer.tap("layers.2").grid.shape == (48,)
    assert longer.sized_for(np.zeros(192)).tap("layers.2").grid.shape == (96,)


def test_maps_with_another_stride_along_each_axis() -> None:
    module = nn.Sequential(nn.Conv2d(3, 12, 3, (2, 1), 1), nn.Sequential(*[Convolved() for _ in range(3)]))
    discovered = discover(module, images(2, 3, 32, 32), "mine", {"y": 32, "x": 32})
    assert {(tap.site.layout, tap.grid) for tap in discovered.taps} == {("channels_first", Grid((16, 32), ("y", "x")))}


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x))


@pytest.mark.parametrize("turned", [False, True])
def test_time_that_runs_backwards_is_refused(turned: bool) -> None:
    module = Variously(lambda self, x: self.stem(x[..., None]).flip(1 if turned else 2), stem=nn.Linear(1, 12))
    if turned:
        with refusal("token-order"):
            discover(module, images(2, 64), "mine", {"t": 64})
    else:
        assert discover(module, images(2, 64), "mine", {"t": 64}).output_tap == "blocks.2"


class Chooser(nn.Module):
    """Places [B, T, F] as the number of the nearest of five entries [B, T]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.entries = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.entries(x).argmax(-1)


@pytest.mark.parametrize("stacked", [False, True])
def test_choices_in_integers_are_no_activations(stacked: bool) -> None:
    """A head that chooses is left out with the reason, and is no end of the trunk; the head before it stays."""
    module = Variously(
        lambda self, x: self.stem(x[..., None]),
        lambda self, x: self.choose(self.proj(x))[..., None].expand(-1, -1, 12 if stacked else 1),
        stem=nn.Linear(1, 12),
        proj=nn.Linear(12, 8),
        choose=Chooser(8),
    )
    discovered = discover(module, images(2, 64), "mine", {"t": 64})
    assert [tap.name for tap in discovered.taps] == ["embed", *[f"blocks.{i}" for i in range(3)], "proj"]
    assert discovered.output_tap == "blocks.2"
    assert list(discovered.left_out) == ["choose"] and "torch.int64" in discovered.left_out["choose"]
