"""Names in little room are whole, in lines, or short and still tell taps apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnostics.report.layout import breakable, name_lines, short_names


@given(st.text("ab_./ x1\u00a0", max_size=60), st.integers(1, 30))
def test_lines_hold_the_whole_name(name: str, most: int) -> None:
    lines = name_lines(name, most)
    assert all(len(line) <= most for line in lines)
    assert "".join("".join(lines).split()) == "".join(name.split())


def test_lines_break_between_parts_and_never_in_a_number() -> None:
    assert name_lines("mean_wall_shear_x02 (knn_probe R2)", 20) == ["mean_wall_shear_x02", "(knn_probe R2)"]
    assert name_lines("mean_wall_shear_stress", 12) == ["mean_wall_", "shear_stress"]
    assert name_lines("0.123456", 6) == ["0.1234", "56"], "only where nothing else is possible"
    assert name_lines("abcdefgh", 3) == ["abc", "def", "gh"]


def test_html_breaks_long_names_alone_and_escapes_them() -> None:
    name = "encoder.layers.10.attention<b>"
    assert str(breakable(f"tap {name}, 0.907")) == "tap encoder.<wbr>layers.<wbr>10.attention&lt;b&gt;, 0.907"
    assert str(breakable("blocks.10")) == "blocks.10", "found by whoever searches the file"


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["encoder.layers.3", "norm"], ["encoder.layers.3", "norm"]),
        (["encoder.transformer.layers.13.mlp"], ["…layers.13.mlp"]),
        (["base_model.encoder.layers.23.attention.output.dense"], ["…layers.23…"]),
        (["stages.2.blocks.11.mlp.activation"], ["…2.blocks.11…"]),
        (["a_tower_of_many.output_projection"], ["…output_projection"]),
        (
            ["vision_model.encoder.layers.3", "text_model.encoder.layers.3"],
            ["vision…er.layers.3", "text_m…er.layers.3"],
        ),
    ],
)
def test_short_names_keep_numbers(names: list[str], short: list[str]) -> None:
    assert all(len(name) <= 18 for name in short_names(names, 18))
    assert short_names(names, 18) == short
