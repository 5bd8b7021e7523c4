"""Both towers as encoders, saved side by side and read again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("open_clip")

# Below the skip, since these imports need open_clip and timm.
from diagnostics_pretraining.towers import Pair, encoders_of, load_pair, towers_of

from diagnostics import DiagnosticsError, Grid, build, run, save_encoder
from diagnostics.encoders.saved.cut import cut_encoder
from tests.support.pairs import batch_of, save_pair, trained
from tests.support.refusals import refusal


@pytest.mark.parametrize(
    ("whole", "more"),
    [(False, {}), (True, {"rope": False, "pool": "class"}), (False, {"image": 8})],
    ids=["row 9", "row 1", "smaller images"],
)
def test_a_saved_pair_is_read_back_bit_for_bit(whole: bool, more: dict[str, Any], tmp_path: Path) -> None:
    both = trained(whole=whole, **more)
    both.train()
    pair = encoders_of(both, "mine", {"group": "row 9", "seed": 3})
    assert all(module.training for module in both.modules())
    images, texts = batch_of(pair)
    assert torch.equal(pair.image.capture(images)["head"][:, 0], both.embed_images(images))
    embedded = both.embed_texts(texts["tokens"])
    torch.testing.assert_close(pair.text.capture(texts)["head"][:, 0], embedded, atol=1e-6, rtol=0)
    folder = save_pair(pair, tmp_path / "models" / "mine")
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == [
        "encoder.safetensors",
        "text/encoder.safetensors",
    ]
    back = load_pair(folder)
    for encoder, again, batch in ((pair.image, back.image, images), (pair.text, back.text, texts)):
        assert [tap.name for tap in again.taps][:4] == ["embed", "blocks.0", "blocks.1", "norm"]
        assert (again.output_tap, again.taps[-1].name) == ("norm", "head") and again.taps[-1].depth > 1
        expected, given = encoder.capture(batch), again.capture(batch)
        assert all(torch.equal(given[tap], tokens) for tap, tokens in expected.items())
        assert again.identity == encoder.identity and again.name == encoder.name
        assert again.lineage["group"] == "row 9" and again.lineage["seed"] == 3
    assert back.scale == pair.scale == pytest.approx(float(both.log_scale.detach().exp()))
    # And again as towers, every parameter but the mask token's.
    further = towers_of(back).state_dict()
    assert further.keys() == both.state_dict().keys() - {"mask_token"}
    assert all(torch.equal(value, both.state_dict()[name]) for name, value in further.items())
    assert towers_of(back, masked=True).mask_token is not None


def test_the_text_encoder_sees_words_and_the_end() -> None:
    pair = encoders_of(trained(), "mine")
    tap, head = pair.text.tap("blocks.1"), pair.text.tap("head")
    assert (tap.grid, head.grid) == (Grid((15,), ("t",), 1), Grid((1,), ("t",)))
    texts = {key: value[None] for key, value in pair.text.preprocess("a red star").items()}
    valid = pair.text.valid(texts, tap)
    assert valid is not None and valid.tolist() == [[True] * 4 + [False] * 11]
    assert pair.text.valid(texts, head) is None
    # The last of the tokens that are data is the end, from which the embedding is taken.
    last = pair.text.transform(["a red star"], tap="norm", pooling="last")
    projected = torch.from_numpy(last) @ pair.text.module.text_projection
    given = torch.from_numpy(pair.text.transform(["a red star"], tap="head", pooling="mean"))
    torch.testing.assert_close(projected, given, atol=1e-6, rtol=0)
    with refusal("bad-data", "'  '"):
        pair.text.preprocess("  ")


def test_a_run_on_the_texts_of_a_file(tmp_path: Path) -> None:
    save_pair(encoders_of(trained(), "mine"), tmp_path / "mine")
    shapes = ("star", "circle", "square", "zebra")
    (tmp_path / "captions.txt").write_text("\n".join(f"a {kind} {i}" for i in range(10) for kind in shapes))
    done = run(
        str(tmp_path / "mine" / "text"),
        f"texts:{tmp_path}/captions.txt",
        measures=["rankme"],
        controls=False,
        report=False,
        out=tmp_path / "run",
    )
    assert done.profile("rankme").taps == ["embed", "blocks.0", "blocks.1", "norm", "head"]


def test_what_is_no_pair_is_refused(tmp_path: Path) -> None:
    first, second = (save_pair(encoders_of(trained(seed=i), f"mine-{i}"), tmp_path / f"{i}") for i in (0, 1))
    shutil.rmtree(second / "text")
    with refusal("missing-file", "1"):
        load_pair(second)
    shutil.copytree(first / "text", second / "text")
    with refusal("other-run", "text", "1"):
        load_pair(second)
    save_encoder(tmp_path / "alone", build("encoder", "pe:micro?pretrained=false"))
    with refusal("missing-file", "alone"):
        load_pair(tmp_path / "alone")
    with refusal("unknown-name", "none"):
        load_pair(tmp_path / "none")
    pair = load_pair(first)
    cut = cut_encoder(pair.image, "blocks.0")
    with refusal("other-weights", "micro"):
        towers_of(Pair(cut, pair.text, pair.scale))
    with refusal("other-weights"):
        towers_of(Pair(pair.image, pair.image, pair.scale))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("pe-text:nano", "The text tower of nano comes from a file: give checkpoint=, Meta's .pt"),
        ("pe-text:nanno?pretrained=false", "Unknown size 'nanno': did you mean nano"),
        ("pe-text:micro?pretrained=false&context=2", "Texts have 3 to 4,096 tokens, start and end included, not 2"),
        ("pe-text:micro?checkpoint=no.pt", "There is no checkpoint no.pt"),
        ("pe-text:FOLDER?pretrained=false&context=9", "The context of .* is 16: leave out context"),
        ("pe-text:FOLDER/odd?pretrained=false", "odd/text.json says of no text tower how it is built .KeyError."),
        ("pe-text:FOLDER/endless?pretrained=false", "endless/text.json says of no text tower how .*OverflowError."),
        (
            "pe-text:micro?checkpoint=FOLDER/vision.pt",
            "does not hold the text tower of micro .28 tensors missing: .*; 1 tensors of another shape: positional_embedding",
        ),
    ],
)
def test_text_towers_that_cannot_be_are_one_sentence(spec: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "endless").mkdir()
    (tmp_path / "endless" / "text.json").write_text('{"size": "micro", "context": Infinity, "kept": null}')
    (tmp_path / "odd" / "text.json").write_text('{"size": "micro"}')
    (tmp_path / "text.json").write_text('{"size": "micro", "context": 16, "kept": null}')
    torch.save({"conv1.weight": torch.zeros(2), "positional_embedding": torch.zeros(3, 3)}, tmp_path / "vision.pt")
    with pytest.raises(DiagnosticsError, match=says) as message:
        build("encoder", spec.replace("FOLDER", str(tmp_path)))
    assert "\n" not in str(message.value)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"rope": False, "pool": "class"}], ids=["row 9", "row 1"])
def test_both_saved_encoders_conform(more: dict[str, Any], tmp_path: Path, conforms: Any) -> None:
    folder = save_pair(encoders_of(trained(**more), "mine"), tmp_path / "mine")
    conforms(str(folder))
    conforms(str(folder / "text"))
