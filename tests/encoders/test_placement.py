"""Changing one cell of the input shows where its token lies: planted right and wrong orders, and two real models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from diagnostics import Grid, Site, Tap, TorchEncoder
from diagnostics.encoders.places import NotVerifiableError, Placement, verify_grid
from diagnostics.encoders.places.judge import all_cells, find_order, order_of_axes
from tests.support.refusals import refusal

WIDTH = 16


class Planted(nn.Module):
    """A convolutional stem whose tokens are put in any order behind or before special tokens; then `blocks`.

    `order[i]` says which token in raster order, special ones counted first, comes i-th.
    """

    def __init__(self, stem: nn.Module, order: Sequence[int] | None = None, prefix: int = 0) -> None:
        super().__init__()
        self.stem, self.order = stem, order
        self.special = nn.Parameter(torch.randn(prefix, WIDTH))
        self.blocks = nn.ModuleList([nn.Identity(), Failing()])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.special.expand(len(tokens), -1, -1), tokens], dim=1)
        if self.order is not None:
            tokens = tokens[:, list(self.order)]
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class Failing(nn.Module):
    """What lies behind the first tap: it never has to run."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the pass went on behind the tap")


def planted(
    modality: Any,
    grid: Grid,
    stem: nn.Module,
    example: np.ndarray,
    order: Sequence[int] | None = None,
    *,
    preprocess: Callable[[np.ndarray], Any] | None = None,
    site_order: tuple[int, ...] = (),
    **options: Any,
) -> TorchEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in stem.parameters():
            nn.init.normal_(parameter)
        module = Planted(stem, order, grid.prefix)
    site = Site("blocks.0", when="before", order=site_order)
    tap = Tap("embed", 0.0, "embedding", WIDTH, grid, site)

    def default(sample: np.ndarray) -> Tensor:
        values = np.asarray(sample, dtype=np.float32)
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values / 64, -1, 0)))

    return TorchEncoder("planted", modality, module, [tap], "embed", preprocess or default, example, **options)


def images(
    rows: int, columns: int, order: Sequence[int] | None = None, prefix: int = 0, **options: Any
) -> TorchEncoder:
    """Patches of 4 x 4 pixels."""
    grid = Grid((rows, columns), ("y", "x"), prefix)
    stem = options.pop("stem", None) or nn.Conv2d(3, WIDTH, 4, 4)
    return planted("image", grid, stem, np.zeros((4 * rows, 4 * columns, 3), np.uint8), order, **options)


def videos(
    shape: tuple[int, int, int], order: Sequence[int] | None = None, prefix: int = 0, **options: Any
) -> TorchEncoder:
    """Tubelets of 2 frames and 4 x 4 pixels."""
    extent = (2 * shape[0], 4 * shape[1], 4 * shape[2], 3)
    grid = Grid(shape, ("t", "y", "x"), prefix)
    return planted(
        "video", grid, nn.Conv3d(3, WIDTH, (2, 4, 4), (2, 4, 4)), np.zeros(extent, np.uint8), order, **options
    )


def normalised(sample: np.ndarray) -> Tensor:
    """[1, time], over which ordinary changes move every token."""
    values = np.asarray(sample, dtype=np.float64)
    return torch.from_numpy(((values - values.mean()) / values.std()).astype(np.float32))[None]


def series(tokens: int, step: int, order: Sequence[int] | None = None, **options: Any) -> TorchEncoder:
    """Patches of `step` values of a series that is normalised as a whole."""
    example = np.sin(np.arange(tokens * step, dtype=np.float32) ** 1.3)
    options = {"preprocess": normalised, "stem": nn.Conv1d(1, WIDTH, step, step), "modality": "series", **options}
    return planted(grid=Grid((tokens,), ("t",)), example=example, order=order, **options)


def texts(prefix: int, order: Sequence[int] | None = None) -> TorchEncoder:
    """Ids [start, one for each letter, end, padding] of at most 12, the first of them the prefix token where there is one."""

    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(40, WIDTH)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.table(batch["input_ids"]).transpose(1, 2)

    def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
        ids = [1, *(3 + ord(letter) % 32 for letter in str(sample)[:10]), 2]
        padding = 12 - len(ids)
        mask = [1] * len(ids) + [0] * padding
        return {"attention_mask": torch.tensor(mask), "input_ids": torch.tensor(ids + [0] * padding)}

    def valid(batch: dict[str, Tensor], tap: Tap) -> Tensor:
        return batch["attention_mask"][:, tap.grid.prefix :].bool()

    encoder = planted(
        "text", Grid((12,), ("t",)), Stem(), np.array("abcdefg"), order, preprocess=preprocess, valid=valid
    )
    grid = Grid((12 - prefix,), ("t",), prefix)
    return encoder.with_taps([Tap("embed", 0.0, "embedding", WIDTH, grid, Site("blocks.0", when="before"))])


def variates(axes: tuple[str, ...], order: Sequence[int] | None = None) -> TorchEncoder:
    """Three variates of 32 steps, each cut into patches of 4, variate by variate; each normalised by itself."""

    class Stem(nn.Conv1d):
        def forward(self, input: Tensor) -> Tensor:
            of_all = super().forward(input.flatten(0, 1)[:, None])
            return of_all.unflatten(0, (-1, 3)).transpose(1, 2)

    def preprocess(sample: np.ndarray) -> Tensor:
        return torch.cat([normalised(column) for column in np.asarray(sample).T])

    shape = tuple({"v": 3, "t": 8}[axis] for axis in axes)
    example = np.random.default_rng(0).standard_normal((32, 3))
    return planted("series", Grid(shape, axes), Stem(1, WIDTH, 4, 4), example, order, preprocess=preprocess)


def fixed(encoder: TorchEncoder, outcome: Placement) -> TorchEncoder:
    """The same encoder with the order that was found in its Site."""
    tap = encoder.taps[0]
    site = Site("blocks.0", when="before", order=outcome.order)
    return encoder.with_taps([Tap(tap.name, 0.0, "embedding", WIDTH, tap.grid, site)])


def raster(shape: tuple[int, ...], axes: tuple[int, ...]) -> list[int]:
    """The tokens of a grid in raster order of its axes in another order."""
    return np.arange(int(np.prod(shape))).reshape(shape).transpose(axes).ravel().tolist()


def unrolled(side: int) -> list[int]:
    """Hiera's: the lowest bits of y and x run slowest."""
    cells = all_cells((side, side))
    keys = [tuple(int(c) >> bit & 1 for bit in range(side.bit_length() - 1) for c in cell) for cell in cells]
    return sorted(range(side * side), key=lambda i: keys[i])


def shuffled(n: int) -> list[int]:
    return np.random.default_rng(3).permutation(n).tolist()


RIGHT = {
    "image": lambda: images(5, 4),
    "image with prefix": lambda: images(5, 4, prefix=3),
    "video": lambda: videos((3, 2, 4), prefix=1),
    "series of patches": lambda: series(10, 4),
    "series of steps": lambda: series(40, 1),
    "series of pairs": lambda: series(20, 2),
    "variates": lambda: variates(("v", "t")),
    "audio": lambda: series(12, 40, modality="audio"),
    "text": lambda: texts(0),
    "text after a start token": lambda: texts(1),
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_a_right_grid_is_right_in_every_cell(make: Callable[[], TorchEncoder]) -> None:
    outcome = verify_grid(make())
    assert outcome.right
    assert outcome.exact == outcome.cells >= 8
    assert (outcome.tolerance, outcome.near, outcome.silent) == (0, 0, 0)
    assert not outcome.prefix_moved
    assert outcome.explanation == ""


WRONG = {
    "transposed": (
        lambda: images(5, 4, raster((5, 4), (1, 0))),
        "tokens lie in the order x, y (last fastest), not y, x",
    ),
    "transposed, square": (lambda: images(4, 4, raster((4, 4), (1, 0))), "in the order x, y"),
    "transposed, two by two": (lambda: images(2, 2, raster((2, 2), (1, 0))), "in the order x, y"),
    "upside down": (
        lambda: images(4, 5, np.arange(20).reshape(4, 5)[::-1].ravel().tolist()),
        "y runs backwards",
    ),
    "backwards in time": (lambda: series(10, 4, range(9, -1, -1)), "t runs backwards"),
    "patch by patch through time": (
        lambda: videos((3, 2, 4), [0, *(1 + i for i in raster((3, 2, 4), (1, 2, 0)))], prefix=1),
        "tokens lie in the order y, x, t (last fastest), not t, y, x",
    ),
    "variates fastest": (lambda: variates(("v", "t"), raster((3, 8), (1, 0))), "in the order t, v"),
    "special token last": (
        lambda: images(4, 4, [*range(1, 17), 0], prefix=1),
        "each token lies 1 place earlier than declared",
    ),
    "two special tokens last": (lambda: images(4, 4, [*range(2, 18), 0, 1], prefix=2), "2 places earlier"),
    "unrolled": (lambda: images(8, 8, unrolled(8)), "tokens are unrolled or lie window by window"),
    "windows": (
        lambda: images(6, 6, np.arange(36).reshape(2, 3, 2, 3).transpose(0, 2, 1, 3).ravel().tolist()),
        "from slowest to fastest they run over y in 2 steps of 3, x in 2 steps of 3, y in 3 steps of 1, x in 3 steps of 1",
    ),
    "shuffled": (lambda: images(5, 4, shuffled(20)), "in no order that could be recognised"),
    "two swapped": (lambda: images(4, 5, [0, 1, 3, 2, *range(4, 20)]), "2 cells changed another token than declared"),
    "steps backwards": (lambda: series(40, 1, range(39, -1, -1)), "t runs backwards"),
    "text backwards": (lambda: texts(0, range(11, -1, -1)), "t runs backwards"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_a_planted_wrong_order_is_found_and_said(make: Callable[[], TorchEncoder], message: str) -> None:
    outcome = verify_grid(make())
    assert not outcome.right
    assert message in str(outcome)


@pytest.mark.parametrize("name", WRONG)
def test_the_order_that_is_found_mends_the_site(name: str) -> None:
    encoder = WRONG[name][0]()
    outcome = verify_grid(encoder)
    again = verify_grid(fixed(encoder, outcome))
    assert again.right
    assert again.exact == again.cells


def test_an_order_is_told_on_top_of_the_one_that_the_site_has() -> None:
    wrong = tuple(np.arange(20).reshape(5, 4)[:, ::-1].ravel().tolist())
    encoder = images(4, 5, raster((4, 5), (1, 0)), site_order=wrong)
    assert verify_grid(fixed(encoder, verify_grid(encoder))).right


class Overlapping(nn.Sequential):
    """A stem of patches, smoothed over the neighbours that a kernel of `reach` cells reaches."""

    def __init__(self, reach: int = 3) -> None:
        smooth = nn.Conv2d(WIDTH, WIDTH, reach, padding=reach // 2, groups=WIDTH)
        super().__init__(nn.Conv2d(3, WIDTH, 4, 4), smooth)


def smoothed(rows: int, columns: int, order: Sequence[int] | None = None, prefix: int = 0) -> TorchEncoder:
    encoder = images(rows, columns, order, prefix, stem=Overlapping())
    assert isinstance(encoder.module.stem, Overlapping)
    with torch.no_grad():  # the middle weighs most, as in trained stems
        weight = torch.tensor([[0.4, 0.6, 0.4], [0.6, 1.0, 0.6], [0.4, 0.6, 0.4]])
        encoder.module.stem[1].weight.copy_(weight.expand(WIDTH, 1, 3, 3))
    return encoder


def test_a_stem_that_reaches_neighbours_is_right_within_a_tolerance_that_is_stated() -> None:
    outcome = verify_grid(smoothed(5, 4))
    assert outcome.right
    assert outcome.tolerance == 1
    assert outcome.exact == outcome.cells


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (4, 5)])
def test_a_tolerance_hides_no_wrong_order(shape: tuple[int, int]) -> None:
    outcome = verify_grid(smoothed(*shape, raster(shape, (1, 0))))
    assert outcome.tolerance == 1
    assert not outcome.right
    assert "x, y" in outcome.explanation


STEMS = {
    "patches": lambda: nn.Conv2d(3, WIDTH, 4, 4),
    "one convolution": lambda: nn.Conv2d(3, WIDTH, 7, 4, 3),
    "two convolutions": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, WIDTH, 3, 2, 1)),
    "with pooling": lambda: nn.Sequential(nn.Conv2d(3, WIDTH, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
}
ORDERS = {
    "transposed": raster((4, 5), (1, 0)),
    "flipped": np.arange(20).reshape(4, 5)[:, ::-1].ravel().tolist(),
    "shifted": np.roll(np.arange(20), 1).tolist(),
}


@pytest.mark.parametrize("stem", STEMS.values(), ids=STEMS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_untrained_stems_are_told_right_from_wrong(stem: Callable[[], nn.Module], seed: int) -> None:
    def made(order: Sequence[int] | None) -> TorchEncoder:
        encoder = images(4, 5, order, stem=stem())
        torch.manual_seed(seed)
        for module in encoder.module.stem.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
        return encoder

    assert verify_grid(made(None)).right
    for name, order in ORDERS.items():
        assert not verify_grid(made(order)).right, name


@pytest.mark.parametrize(("side", "kernel"), [(24, 3), (28, 5), (32, 5)])
def test_kernels_without_padding_are_told_right_from_wrong(side: int, kernel: int) -> None:
    rows = side - kernel + 1
    there = np.arange(rows * rows).reshape(rows, rows)
    units = there.reshape(rows // 2, 2, rows // 2, 2).transpose(0, 2, 1, 3)
    for order in (None, there.T, there[:, ::-1], np.roll(there, rows // 3, 1), units):
        wrong = None if order is None else order.ravel().tolist()
        stem = nn.Sequential(nn.Conv2d(3, WIDTH, kernel), nn.ReLU())
        encoder = planted("image", Grid((rows, rows), ("y", "x")), stem, np.zeros((side, side, 3), np.uint8), wrong)
        assert verify_grid(encoder, most=64).right == (order is None)


def test_of_two_cells_neither_may_stand_for_the_other() -> None:
    assert verify_grid(smoothed(1, 2)).right
    outcome = verify_grid(smoothed(1, 2, [1, 0]))
    assert not outcome.right
    assert outcome.order == (1, 0)


def test_a_tolerance_hides_no_shift() -> None:
    outcome = verify_grid(smoothed(1, 12, [*range(2, 14), 0, 1], prefix=2))
    assert not outcome.right
    assert "2 places earlier" in outcome.explanation


def test_an_axis_that_samples_do_not_have_is_said_to_be_unchecked() -> None:
    """A spectrogram: two bands, each over time, told apart by nothing that can be changed in the sample alone."""

    class Bands(nn.Conv1d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(torch.cat([input, input.abs()])).unflatten(0, (2, -1)).permute(1, 2, 0, 3)

    encoder = planted(
        "audio", Grid((2, 6), ("y", "t")), Bands(1, WIDTH, 40, 40), np.zeros(240, np.float32), preprocess=normalised
    )
    outcome = verify_grid(encoder)
    assert (outcome.axes, outcome.unchecked, outcome.right, outcome.cells) == (("t",), ("y",), True, 6)
    other = encoder.with_taps([Tap("embed", 0.0, "embedding", WIDTH, Grid((6, 2), ("t", "y")), encoder.taps[0].site)])
    assert not verify_grid(other).right


def cropping(sample: np.ndarray) -> Tensor:
    """The middle 16 x 16 pixels."""
    top, left = ((n - 16) // 2 for n in sample.shape[:2])
    part = np.asarray(sample[top : top + 16, left : left + 16], dtype=np.float32) / 64
    return torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1)))


def test_what_preprocessing_crops_is_known_from_covers() -> None:
    def covers(shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        return tuple(((n - 16) / 2, (n + 16) / 2) for n in shape)

    example = np.zeros((24, 32, 3), np.uint8)
    stem = nn.Conv2d(3, WIDTH, 4, 4)
    right = planted("image", Grid((4, 4), ("y", "x")), stem, example, preprocess=cropping, covers=covers)
    assert verify_grid(right).exact == 16
    wrong = verify_grid(planted("image", Grid((4, 4), ("y", "x")), stem, example, preprocess=cropping))
    assert not wrong.right


def test_the_first_tap_with_a_grid_decides_whatever_its_resolution() -> None:
    encoder = images(4, 4)
    tap = encoder.taps[0]
    pooled = Tap("pooled", 1.0, "head", WIDTH, Grid((1,), ("t",)), Site("blocks.1", layout="features"))
    assert verify_grid(encoder.with_taps([pooled, tap])).tap == "embed"


def test_mixing_before_the_first_tap_shows_in_the_prefix() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0.5 * x.mean(dim=1, keepdim=True)

    encoder = images(4, 4, prefix=1)
    encoder.module.blocks[0] = Mixed()
    site = Site("blocks.0")
    mixed = encoder.with_taps([Tap("embed", 0.0, "embedding", WIDTH, encoder.taps[0].grid, site)])
    # Each cell still moves its own token most; the class token has seen it too.
    assert verify_grid(encoder).prefix_moved is False
    assert verify_grid(mixed).prefix_moved is False  # a sixteenth of the half is below what counts
    encoder.module.blocks[0].forward = lambda x: x + 4 * x.mean(dim=1, keepdim=True)
    outcome = verify_grid(mixed)
    assert outcome.prefix_moved
    assert outcome.right


def test_a_tap_that_the_sample_does_not_move_is_wrong() -> None:
    class Constant(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 0 * super().forward(input) + 1

    outcome = verify_grid(images(4, 4, stem=Constant(3, WIDTH, 4, 4)))
    assert not outcome.right
    assert (outcome.silent, outcome.explanation[:16]) == (16, "no token changed")


def test_of_a_large_grid_a_seeded_subset_with_its_corners_is_changed() -> None:
    encoder = images(24, 24)
    outcome = verify_grid(encoder, most=40, seed=5)
    cells = [cell for cell, _ in outcome.winners]
    assert outcome.cells == len(set(cells)) == 40
    assert {(0, 0), (0, 23), (23, 0), (23, 23)} <= set(cells)
    assert verify_grid(encoder, most=40, seed=5) == outcome
    assert "40 of 576 cells" in str(outcome)
    assert not verify_grid(images(24, 24, unrolled_of_24()), most=40).right


def unrolled_of_24() -> list[int]:
    return np.arange(576).reshape(3, 8, 3, 8).transpose(1, 3, 0, 2).ravel().tolist()


def test_the_hooks_are_gone_after_passes_that_were_ended_early() -> None:
    encoder = images(4, 4)
    verify_grid(encoder)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.module.modules())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: images(4, 4).with_taps([Tap("embed", 0.0, "head", WIDTH, Grid((1,), ("t",)), Site("stem"))]),
            "no tap has a grid",
        ),
        (
            lambda: planted(
                "image", Grid((8, 8), ("y", "x")), nn.Conv2d(3, WIDTH, 4, 4), np.zeros((4, 4, 3), np.uint8)
            ),
            "its 8 cells along y are smaller than a place of a sample of 4",
        ),
        (
            lambda: planted("image", Grid((8,), ("t",)), nn.Conv2d(3, WIDTH, 4, 4), np.zeros((4, 4, 3), np.uint8)),
            r"no axis of its grid, 8 t, is one of those of image samples",
        ),
        (lambda: series(2, 1), "too few cells"),
    ],
)
def test_what_cannot_be_verified_says_why(make: Callable[[], TorchEncoder], message: str) -> None:
    with pytest.raises(NotVerifiableError, match=message):
        verify_grid(make())


def test_a_model_that_fails_on_a_changed_sample_says_so() -> None:
    encoder = images(4, 4)
    encoder.module.stem.forward = lambda x: 1 / 0
    with refusal("foreign-error", "ZeroDivisionError"):
        verify_grid(encoder)


@given(data=st.data())
def test_any_order_of_axes_backwards_or_not_is_explained(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(2, 5), min_size=1, max_size=3)))
    axes = ("t", "y", "x")[: len(shape)]
    order = data.draw(st.permutations(range(len(shape))))
    flipped = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    cells = all_cells(shape)
    turned = np.where(flipped, np.array(shape) - 1 - cells, cells)[:, order]
    places = np.ravel_multi_index(tuple(turned.T), tuple(shape[i] for i in order))
    outcome = find_order(axes, shape, cells, places)
    if len(cells) > len(shape) + 1:
        assert outcome is not None
        assert (outcome.all_places() == places).all()
        assert outcome.share == 1


@given(seed=st.integers(0, 1000))
def test_no_order_is_seen_in_a_shuffle(seed: int) -> None:
    places = np.random.default_rng(seed).permutation(25)
    assert find_order(("y", "x"), (5, 5), all_cells((5, 5)), places) is None


def test_the_order_of_axes_is_the_one_whose_tokens_lie_near_their_cells() -> None:
    cells = all_cells((20, 32))
    raster = cells @ (32, 1)
    assert order_of_axes((20, 32), cells, raster) == (0, 1)
    assert order_of_axes((20, 32), cells, cells @ (1, 20)) == (1, 0)
    assert order_of_axes((20, 32), cells, raster[::-1]) is None
    # Of the cells a fifth may move another token or none.
    some = np.arange(len(cells)) % 5 == 0
    assert order_of_axes((20, 32), cells, np.where(some, -1, raster)) == (0, 1)
    assert order_of_axes((20, 32), cells, np.where(some | np.roll(some, 1), -1, raster)) is None
    assert order_of_axes((9,), np.array([[2.0]]), np.array([5]), [3]) == (0,)
    assert order_of_axes((9,), np.array([[2.0]]), np.array([6]), [3]) is None


def test_some_places_may_be_off() -> None:
    cells = all_cells((8, 8))
    places = cells[:, 1] * 8 + cells[:, 0]
    places[::5] = np.random.default_rng(0).integers(0, 64, len(places[::5]))
    outcome = find_order(("y", "x"), (8, 8), cells, places)
    assert outcome is not None
    assert outcome.description == "tokens lie in the order x, y (last fastest), not y, x"


def as_tensor(sample: np.ndarray) -> Tensor:
    return torch.from_numpy((np.asarray(sample, dtype=np.float32) - 128) / 64)


def test_hiera_of_timm_is_found_to_be_unrolled() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("hiera_tiny_224", pretrained=False, img_size=(64, 64))
    tokens = 16 * 16
    grid = Grid((16, 16), ("y", "x"))

    def encoder(order: tuple[int, ...] = ()) -> TorchEncoder:
        tap = Tap("embed", 0.0, "embedding", 96, grid, Site("blocks.0", when="before", order=order))
        example = np.zeros((64, 64, 3), np.uint8)
        return TorchEncoder("hiera", "image", model, [tap], "embed", lambda s: as_tensor(s).permute(2, 0, 1), example)

    outcome = verify_grid(encoder())
    assert not outcome.right
    assert "y in 2 steps of 1, x in 2 steps of 1, y in 2 steps of 2, x in 2 steps of 2" in outcome.explanation
    assert outcome.prefix + len(outcome.order) == tokens
    again = verify_grid(encoder(outcome.order))
    assert again.right
    assert again.tolerance == 1  # its stem of 7 x 7 pixels with a stride of 4
    # What timm itself does to put them back, as an oracle: a map whose numbers are the tokens' places.
    places = torch.arange(tokens, dtype=torch.float32).view(1, 16, 16, 1)
    unrolled = model.unroll(places.flatten(1, 2))[0, :, 0].long()
    assert [int(i) for i in torch.argsort(unrolled)] == list(outcome.order)


def test_timesformer_of_transformers_is_found_to_be_patch_major() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.TimesformerConfig(
        image_size=32,
        patch_size=8,
        num_frames=3,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = transformers.TimesformerModel(config)

    def encoder(order: tuple[int, ...] = ()) -> TorchEncoder:
        site = Site("encoder.layer.0", when="before", order=order)
        tap = Tap("embed", 0.0, "embedding", 16, Grid((3, 4, 4), ("t", "y", "x"), 1), site)
        example = np.zeros((3, 32, 32, 3), np.uint8)
        return TorchEncoder("t", "video", model, [tap], "embed", lambda s: as_tensor(s).permute(0, 3, 1, 2), example)

    outcome = verify_grid(encoder())
    assert not outcome.right
    assert "tokens lie in the order y, x, t (last fastest), not t, y, x" in outcome.explanation
    assert verify_grid(encoder(outcome.order)).exact == 48


@pytest.mark.parametrize("last", [False, True])
def test_a_special_token_at_the_end_of_overlapping_windows_is_a_shift(last: bool) -> None:
    """Windows of 16 steps every 8 reach two cells each, so a shift by one token could pass as overlap."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.stem, self.special = nn.Conv1d(1, 24, 16, 8, 4), nn.Parameter(torch.randn(1, 1, 24))
            self.block = nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x[:, None]).transpose(1, 2)
            special = self.special.expand(len(x), -1, -1)
            return self.block(torch.cat([x, special] if last else [special, x], dim=1))

    grid = Grid((64,), ("t",), 1)
    taps = [
        Tap("embed", 0.0, "embedding", 24, grid, Site("block", when="before")),
        Tap("block", 1.0, "trunk", 24, grid, Site("block")),
    ]
    encoder = TorchEncoder(
        "windows",
        "series",
        Windows(),
        taps,
        "block",
        lambda s: torch.as_tensor(s, dtype=torch.float32),
        np.random.default_rng(0).standard_normal(512),
    )
    assert verify_grid(encoder).right is not last
