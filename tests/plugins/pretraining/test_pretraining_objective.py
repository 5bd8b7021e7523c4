"""Mask regularisation is the equation, and it and the contrast share no gradient but in the image tower."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("open_clip")

from diagnostics_pretraining.objective import (
    HIDDEN,
    Batches,
    Pretraining,
    check_masks,
    contrast,
    cut_padding,
    regularisation,
)
from diagnostics_pretraining.recipe import Stage
from diagnostics_pretraining.text_encoder import vocabulary_of
from diagnostics_pretraining.towers import Towers, build_towers

from tests.support.refusals import refusal

WORDS = ("a red star", "a blue disc", "a green ring", "a grey cross")
VOCABULARY = vocabulary_of(WORDS, 16)


@dataclass
class Drawn:
    """Random pixels, and the words in turn."""

    batch: int = 16
    seed: int = 0

    def stage(self, step: int) -> Stage:
        return (Stage(8, self.batch), Stage(16, self.batch))[step]

    def ids(self, step: int, rank: int = 0, world: int = 1) -> list[str]:
        return [str(i) for i in range(self.batch // world)]

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        size, own = self.stage(step).size, slice(rank * self.batch // world, (rank + 1) * self.batch // world)
        pixels = torch.randn(self.batch, 3, size, size, generator=torch.Generator().manual_seed(step))
        return {"pixels": pixels[own], "tokens": VOCABULARY.encode([WORDS[i % 4] for i in range(self.batch)])[0][own]}


def towers(masked: bool = True) -> Towers:
    return build_towers("micro", rope=True, pool="attention", vocabulary=VOCABULARY, seed=0, masked=masked)


def masked_feed(batch: int = 16) -> Batches:
    return Batches(Drawn(batch), 4, 1 / 8, 0.4)  # type: ignore[arg-type]  (what of a feed is used)


def test_it_is_the_equation() -> None:
    torch.manual_seed(0)
    masked, whole = torch.randn(2, 3, 5, 7)
    hidden = torch.rand(3, 5) < 0.5
    cosines = [
        masked[i, j].double() @ whole[i, j].double() / masked[i, j].double().norm() / whole[i, j].double().norm()
        for i, j in hidden.nonzero().tolist()
    ]
    assert float(regularisation(masked, whole, hidden)) == pytest.approx(-float(sum(cosines)) / len(cosines), abs=1e-6)
    assert float(regularisation(whole, whole, hidden)) == pytest.approx(-1)


def gradients(values: dict[str, Tensor], name: str, both: Towers) -> dict[str, Tensor]:
    both.zero_grad(set_to_none=False)
    values[name].backward(retain_graph=True)
    return {key: torch.zeros_like(p) if p.grad is None else p.grad.clone() for key, p in both.named_parameters()}


def test_gradients_are_disjoint_but_in_the_image_tower() -> None:
    both = towers()
    values = Pretraining(both)(masked_feed()(1))
    assert float(values["loss"].detach()) == pytest.approx(float((values["contrast"] + values["masked"]).detach()))
    masks, contrasts = gradients(values, "masked", both), gradients(values, "contrast", both)
    assert not contrasts["mask_token"].any()
    assert masks["mask_token"].any()
    for name in contrasts:
        if name.startswith("text.") or name == "log_scale":
            assert not masks[name].any()
    assert masks["image.patch_embed.proj.weight"].any()
    assert contrasts["log_scale"].any()
    assert contrasts["text.token_embedding.weight"].any()


def test_the_target_has_no_gradient_and_is_the_whole_images() -> None:
    both, batch = towers(), masked_feed()(1)
    pixels = batch["pixels"][::8]
    tokens, masked = both.image_tokens(pixels), both.image_tokens(pixels, batch[HIDDEN])
    expected = regularisation(masked, tokens, batch[HIDDEN])
    assert float(Pretraining(both)(batch)["masked"].detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert torch.autograd.grad(expected, tokens, allow_unused=True) == (None,)


def test_only_whole_images_are_pooled_and_projected() -> None:
    both, seen = towers(), list[int]()
    both.image.head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    Pretraining(both)(masked_feed()(1))
    assert seen == [16]


def test_a_batch_without_masks_has_the_same_contrast() -> None:
    batch = masked_feed()(1)
    bare = {key: value for key, value in batch.items() if key != HIDDEN}
    one, two = Pretraining(towers())(batch), Pretraining(towers(False))(bare)
    assert float(one["contrast"].detach()) == pytest.approx(float(two["loss"].detach()), abs=1e-6)
    assert "masked" not in two


@pytest.mark.parametrize(("step", "patches"), [(0, 4), (1, 16)])
def test_hidden_patches_are_counted_and_dealt_out(step: int, patches: int) -> None:
    feed = masked_feed(64)
    whole = feed(step)[HIDDEN]
    assert whole.shape == (8, patches)
    assert set(whole.sum(1).tolist()) == {round(0.4 * patches)}
    assert len(whole.unique(dim=0)) > 1
    parts = [feed(step, rank, 2) for rank in (0, 1)]
    assert torch.equal(torch.cat([part[HIDDEN] for part in parts]), whole)
    # Of the same images whatever the processes.
    again = torch.cat([part["pixels"][::8] for part in parts])
    assert torch.equal(again, feed(step)["pixels"][::8])


def test_batches_that_cannot_be_masked_are_refused() -> None:
    check_masks(32, 2, 1 / 16)
    with refusal("bad-value", "32", "3", "48"):
        check_masks(32, 3, 1 / 16)


def test_the_scale_is_held_after_a_step() -> None:
    objective = Pretraining(towers())
    with torch.no_grad():
        objective.towers.log_scale.fill_(9.0)
    objective.after_step(1, 2)
    assert float(objective.towers.log_scale.detach().exp()) == pytest.approx(100)


def test_blocks_of_both_towers_can_be_computed_twice() -> None:
    assert len(Pretraining(towers()).blocks()) == 4


def test_texts_without_padding_have_the_same_embeddings() -> None:
    both, tokens = towers(), VOCABULARY.encode([*WORDS, "a red red red red red star"])[0]
    for few in (tokens[:4], tokens):
        cut = cut_padding(few)
        assert cut.shape[1] == (8 if len(few) == 4 else 16)
        whole = both.text(few)
        assert float((both.embed_texts(cut) - whole).detach().abs().max()) < 1e-6
        assert torch.equal(both.embed_texts(few), whole)


def test_a_clip_is_the_mean_of_its_frames_and_their_order_changes_nothing() -> None:
    both, tokens = towers(), VOCABULARY.encode(WORDS[:3])[0]
    pixels, frames = torch.randn(2, 3, 16, 16), torch.randn(1, 4, 3, 16, 16)
    batch = {"pixels": pixels, "frames": frames, "tokens": tokens}
    mean = both.embed_images(frames[0]).mean(0, keepdim=True)
    expected = contrast(torch.cat([both.embed_images(pixels), mean]), both.embed_texts(tokens), both.log_scale)
    loss = Pretraining(both)(batch)["loss"].detach()
    assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-6)
    turned = Pretraining(both)(batch | {"frames": frames.flip(1)})["loss"].detach()
    assert float(turned) == pytest.approx(float(loss), abs=1e-6)
