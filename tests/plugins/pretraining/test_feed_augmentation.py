"""What texts survive of an augmentation."""

from __future__ import annotations

import numpy as np
from diagnostics_pretraining.train import changes_in, survivable
from diagnostics_training.models.inputs import PictureChanges

from diagnostics import Dataset, build
from tests.support.refusals import refusal

ROW_8 = PictureChanges((0.08, 1), (3 / 4, 4 / 3), mirror=0.5, brightness=0.32, contrast=0, saturation=0.32, grey=0)


def dataset(*survives: str) -> Dataset:
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    return Dataset(
        "mine",
        "image",
        pixels,
        list("abc"),
        ["train", "val", "test"],
        {},
        texts=list("abc"),
        extras={"text_survives": survives},
    )


def test_shapes_keeps_brightness_and_saturation_alone() -> None:
    shapes = build("dataset", "shapes?n=10&size=32")
    kept, left_out = survivable(ROW_8, shapes)
    assert left_out == ("crop", "mirror") and kept is not None
    assert changes_in(kept) == {"brightness", "saturation"}
    assert (kept.brightness, kept.saturation) == (0.32, 0.32)
    drawn = kept.draw(np.random.default_rng(0), 1000)
    assert (drawn["half"] == 1).all() and (drawn["centre"] == 0).all() and (drawn["mirror"] == 1).all()
    assert (drawn["colour"][:, 1] == 1).all() and np.ptp(drawn["colour"][:, [0, 2]]) > 0.6
    with refusal("conflict", "crop and mirror"):
        survivable(ROW_8, shapes, asked=True)
    assert survivable(kept, shapes, asked=True) == (kept, ())


def test_captions_of_ones_own_survive_all_unless_they_say_otherwise() -> None:
    assert survivable(ROW_8, Dataset("a", "image", np.zeros((3, 8, 8)), list("abc"), ["train", "val", "test"], {})) == (
        ROW_8,
        (),
    )
    assert survivable(ROW_8, dataset("hue")) == (None, ("brightness", "crop", "mirror", "saturation"))
    assert survivable(PictureChanges(), dataset("saturation", "contrast"))[1] == ("brightness", "crop", "hue", "mirror")
    with refusal("conflict", "mirror and saturation"):
        survivable(ROW_8, dataset(), asked=True)


def test_a_change_that_there_is_not_is_refused() -> None:
    with refusal("unknown-name", "mine", "miror"):
        survivable(ROW_8, dataset("miror"))
