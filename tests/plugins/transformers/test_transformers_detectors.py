"""hf: detectors of two stacks: the backbone's blocks, then the layers of the encoder, against what the models themselves hand over."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "coverage"))

# Below the skip and the path, since these imports need transformers or the zoo of models beside the benchmarks.
from diagnostics_transformers.encoder import encoder_of  # noqa: E402  (below the skip of a missing package)
from diagnostics_transformers.load import Loaded, quiet, settled  # noqa: E402  (below the skip of a missing package)
from diagnostics_transformers.towers import Wanted  # noqa: E402  (below the skip of a missing package)
from transformers_zoo import build  # noqa: E402  (below the skip of a missing package)

SIZE = 96
SINGLE = ("detr", "table-transformer")
STAGES = {f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)}
"""The blocks of timm's ResNet-18, which the zoo gives to detectors that take their backbone from timm."""


def made_of(kind: str) -> Any:
    with quiet():
        model = build(kind)
        return encoder_of(Loaded(kind, model, settled(model.config), None), kind, None, Wanted(size=SIZE))


def both(subject: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """What the taps hand over, and what the model's own forward gives for the same batch."""
    image = subject.example()
    batch = default_collate([subject.preprocess(image), subject.preprocess(image[::-1])])
    with torch.no_grad():
        return subject.capture(batch), subject.module.tower(**batch)


@pytest.mark.parametrize("kind", SINGLE)
def test_the_encoder_goes_on_where_the_backbone_ends(kind: str) -> None:
    subject = made_of(kind)
    captured, theirs = both(subject)
    trunk = [tap for tap in subject.taps if tap.part == "trunk"]
    blocks = [tap for tap in trunk if tap.name.startswith("backbone.")]
    assert {".".join(tap.name.split(".")[-2:]) for tap in blocks} == STAGES
    assert [tap.name for tap in trunk[len(blocks) : len(blocks) + 2]] == ["encoder.layers.0", "encoder.layers.1"]
    depths = [tap.depth for tap in trunk]
    assert depths[:10] == pytest.approx([(i + 1) / 10 for i in range(10)]) and depths[-1] == 1
    assert str(subject.taps[0].grid) == f"{SIZE // 4} x {SIZE // 4} (y, x)" and subject.taps[0].depth == 0
    # The queries of its decoder stand for no place.
    assert subject.output_tap == trunk[-1].name == subject.taps[-1].name
    torch.testing.assert_close(captured[subject.output_tap], theirs.encoder_last_hidden_state, rtol=0, atol=0)


def test_levels_of_a_deformable_encoder_are_maps_of_their_own() -> None:
    subject = made_of("deformable_detr")
    captured, theirs = both(subject)
    levels = [tap for tap in subject.taps if tap.name.startswith("encoder.layers.1.level")]
    assert [tap.grid.shape for tap in levels] == [(3, 3), (2, 2), (1, 1), (1, 1)]
    assert {tap.grid.prefix for tap in subject.taps} == {0} and {tap.depth for tap in levels} == {1.0}
    assert subject.output_tap == levels[0].name
    whole = torch.cat([captured[tap.name] for tap in levels], dim=1)
    torch.testing.assert_close(whole, theirs.encoder_last_hidden_state, rtol=0, atol=0)


def test_an_encoder_down_and_up_again_is_all_trunk() -> None:
    subject = made_of("rt_detr")
    names = [tap.name for tap in subject.taps if tap.part == "trunk"]
    assert names[0] == "backbone.model.encoder.stages.0.layers.0" and subject.output_tap == names[-1]
    later = [name.removeprefix("encoder.") for name in names if name.startswith("encoder.")]
    assert later == ["aifi.0", "fpn_blocks.0", "fpn_blocks.1", "pan_blocks.0", "pan_blocks.1"]
    captured, theirs = both(subject)
    maps = theirs.encoder_last_hidden_state
    for name, level in (("fpn_blocks.1", 0), ("pan_blocks.0", 1), ("pan_blocks.1", 2)):
        torch.testing.assert_close(captured[f"encoder.{name}"], maps[level].flatten(2).mT, rtol=0, atol=0)


def test_the_image_side_of_a_detector_that_reads() -> None:
    """Grounding DINO: its backbone by default, its text encoder where that is asked for."""
    with quiet():
        model = build("grounding-dino")
        loaded = Loaded("grounding", model, settled(model.config), None)
        image = encoder_of(loaded, "grounding")
        text = encoder_of(loaded, "grounding", "text", Wanted(length=40))
    assert (image.modality, text.modality) == ("image", "text")
    assert np.ndim(image.example()) == 3 and image.taps[0].grid.axes == ("y", "x")
