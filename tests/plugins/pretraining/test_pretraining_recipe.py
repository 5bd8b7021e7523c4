"""The recipes: a row differs from the one before in what the paper changed, and in nothing else; what cannot be is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from diagnostics_pretraining.recipe import NAMES, ROWS, Recipe, named_recipe, read_recipe

from diagnostics import DiagnosticsError
from tests.support.refusals import refusal

CHANGED = {
    2: {"stages"},
    3: {"stages", "batch"},
    4: {"optimiser", "lr"},
    5: {"stages"},
    6: {"rope"},
    7: {"pool"},
    8: {"augment"},
    9: {"mask"},
}
PAPER = {
    1: {224: 12},
    2: {98: 4, 154: 4, 224: 4},
    3: {98: 8, 154: 8, 224: 8},
    5: {98: 10, 154: 8, 224: 4, 336: 2},
}
"""Billions of samples at each size (table 26)."""

OWN = """
batch = 8
lr = 1e-3
stages = [
    { size = 8, samples = 80 },
    { size = 16, samples = 40 },
]
"""


@pytest.mark.parametrize("row", ROWS[1:])
def test_a_row_changes_what_the_paper_changed(row: int) -> None:
    before, after = named_recipe(str(row - 1)), named_recipe(str(row))
    assert {f.name for f in fields(Recipe) if getattr(before, f.name) != getattr(after, f.name)} == CHANGED[row]


def test_rows_are_the_papers_in_its_proportions() -> None:
    recipes = {row: named_recipe(str(row)) for row in ROWS}
    for row, stages in PAPER.items():
        assert {stage.size: stage.samples / 20_480 for stage in recipes[row].stages} == stages
    assert recipes[3].batch == 2 * recipes[2].batch
    assert recipes[4].lr == 4 * recipes[3].lr
    assert recipes[9].mask == 1 / 16
    for row, recipe in recipes.items():
        assert sum(stage.samples for stage in recipe.stages) == (12 if row < 3 else 24) * 20_480
        assert not any(stage.samples % recipe.batch for stage in recipe.stages)


def test_sizes_are_brought_to_the_models() -> None:
    recipe = named_recipe("9")
    assert [stage.size for stage in recipe.for_model(336, 14).stages] == [98, 154, 224, 336]
    assert [stage.size for stage in recipe.for_model(48, 8).stages] == [16, 24, 32, 48]
    assert [stage.size for stage in recipe.for_model(16, 4).stages] == [8, 8, 12, 16]
    assert sum(stage.samples for stage in recipe.for_model(48, 8, 51_200).stages) == 51_200


@pytest.mark.parametrize("name", NAMES)
def test_all_recipes_can_be_read(name: str) -> None:
    assert named_recipe(name).identity


def written(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{OWN}ropes = true\nbathc = 3",
            r"'ropes' in line 8 \(did you mean rope\?\), 'bathc' in line 9 \(did you mean batch\?\)",
        ),
        (OWN.replace("samples = 40", "sample = 40"), r"'sample' in line 6 \(did you mean samples\?\)"),
        (f"{OWN}[augment]\nmirrored = 0.5", r"'mirrored' in line 9 \(did you mean mirror\?\)"),
        (f'{OWN}pool = "mean"', "pool in line 8 of .* is attention or class, not 'mean'"),
        (f"{OWN}mask = true", "mask in line 8 of .* is a number, not True"),
        (OWN.replace("= 80", "= 0"), "samples in line 5 of .* is a whole number above 0, not 0"),
        (f"{OWN}[augment]\ncrop = [1.0]", "crop in line 9 of .* is a list of two numbers"),
        (f"{OWN}[augment]\naspect = [1.0, inf]", "aspect in line 9 of .* is a list of two numbers"),
        (f"{OWN}[augment]\ncrop = [0.5, 4.0]", "A crop cannot be 4.0 of an image's area"),
        (f"{OWN}mask = 0.3", "1 divided by a whole number"),
        (f"{OWN}mask = 2", "mask = 2: give a share"),
        (f"{OWN}[augment]\nmirror = 1.5", "mirror = 1.5: give a share"),
        (OWN.replace("lr = 1e-3", "").replace(", samples = 40", ""), "lacks lr and samples of a stage"),
        (OWN.replace("lr = ", "lr : "), "is not valid TOML"),
        ("batch = 1\nlr = 1.0\nstages = []", "without stages"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DiagnosticsError, match=message):
        read_recipe(written(tmp_path, text))


def test_sizes_that_no_patch_divides_are_refused(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, OWN))
    assert [stage.size for stage in recipe.for_model(16, 4).stages] == [8, 16]
    for image, patch in ((18, 6), (8, 4)):
        with refusal("bad-value", "patches"):
            recipe.for_model(image, patch)


def test_there_is_no_such_recipe(tmp_path: Path) -> None:
    with refusal("unknown-name", "10"):
        named_recipe("10")
    with refusal("unreadable"):
        read_recipe(tmp_path / "none.toml")
