"""Weights from files: Meta's layout in all its wrappings, timm's; and what does not fit is told, never passed over."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("timm")

# Below the skip, since these imports need timm.
from diagnostics_perception.models import ARCHITECTURES, fitted_positions
from diagnostics_perception.plugin import build

from diagnostics import DiagnosticsError
from tests.support.perceiver import CORE, TINY, images, meta_state
from tests.support.refusals import refusal

State = dict[str, Tensor]
TEXT = {
    "token_embedding.weight": torch.ones(5, 4),
    "positional_embedding": torch.ones(3, 4),
    "transformer.resblocks.0.ln_1.weight": torch.ones(4),
    "ln_final.bias": torch.ones(4),
    "text_projection": torch.ones(4, 4),
    "logit_scale": torch.ones(()),
}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, one in {"core": CORE, "g": TINY["core like G"], "lang": TINY["lang"], "spatial": TINY["spatial"]}.items():
        monkeypatch.setitem(ARCHITECTURES, f"tiny-{name}", one)
    monkeypatch.setitem(ARCHITECTURES, "tiny-lang-cut", replace(TINY["lang like G"], depth=2, image=48))


def saved(state: Any, folder: Path, name: str = "weights.pt") -> str:
    if name.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)
    return str(folder / name)


def visual(state: State) -> State:
    return {f"visual.{name}": tensor for name, tensor in state.items()} | TEXT


def module_of(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "a whole CLIP": visual,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "weights": lambda state: {"weights": visual(state)},
    "module": module_of,
    "module of a CLIP in weights": lambda state: {"weights": module_of(visual(state))},
    "half precision": lambda state: {name: tensor.half() for name, tensor in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("model", ["tiny-core", "tiny-g", "tiny-lang", "tiny-spatial"])
def test_metas_files_load_in_all_wrappings(model: str, wrapping: str, tmp_path: Path) -> None:
    state = meta_state(ARCHITECTURES[model])
    if wrapping == "half precision":
        state = {name: tensor.half().float() for name, tensor in state.items()}
    encoder = build(model, checkpoint=saved(WRAPPINGS[wrapping](state), tmp_path))
    plain = build(model, checkpoint=saved(state, tmp_path, "plain.pt"))
    assert encoder.identity == plain.identity
    assert str(tmp_path) not in str(encoder.identity) and "checkpoint" not in str(encoder.identity)
    assert all(p.dtype == torch.float32 for p in encoder.module.parameters())


def test_timms_layout_and_safetensors_give_the_same_encoder(tmp_path: Path) -> None:
    encoder = build("tiny-core", checkpoint=saved(visual(meta_state(CORE)), tmp_path, "clip.safetensors"))
    again = build("tiny-core", checkpoint=saved(encoder.module.state_dict(), tmp_path, "timm.safetensors"))
    assert again.identity == encoder.identity
    assert build("tiny-core", pretrained=False).identity != encoder.identity


def test_conversion_is_timms(tmp_path: Path) -> None:
    import timm

    one = ARCHITECTURES["core-t16-384"]
    state = meta_state(one)
    theirs: Any = timm.create_model("vit_pe_core_tiny_patch16_384", num_classes=512)
    converted: Any = timm.models.eva.checkpoint_filter_fn(visual(state), theirs)
    ours = build("core-t16-384", checkpoint=saved(visual(state), tmp_path)).module.state_dict()
    assert set(converted) == set(ours)
    assert all(torch.equal(converted[name], ours[name]) for name in ours)


def without(state: State, *parts: str) -> State:
    return {name: tensor for name, tensor in state.items() if not any(part in name for part in parts)}


DAMAGES: dict[str, tuple[str, Callable[[State], State], str]] = {
    "a tensor missing": (
        "tiny-core",
        lambda s: without(s, "attn_pool.probe"),
        r"1 tensors missing: attn_pool\.probe\)",
    ),
    "a block missing": (
        "tiny-core",
        lambda s: without(s, "resblocks.2."),
        r"12 tensors missing: transformer\.resblocks\.2\.ln_1\.weight, .*, \.\.\.\)",
    ),
    "one too many": ("tiny-core", lambda s: s | {"odd": torch.ones(1)}, r"1 tensors unexpected: odd\)"),
    "a head too many": ("tiny-core", lambda s: s | {"attn_pool.odd": torch.ones(1)}, r"unexpected: attn_pool\.odd\)"),
    "LayerScale too many": (
        "tiny-spatial",
        lambda s: s | {"transformer.resblocks.0.ls_1.gamma": torch.ones(96)},
        r"1 tensors unexpected: transformer\.resblocks\.0\.ls_1\.gamma\)",
    ),
    "another width": (
        "tiny-core",
        lambda s: s | {"ln_pre.weight": torch.ones(95)},
        r"1 tensors of another shape: ln_pre\.weight \[95\]\)",
    ),
    "half of the positions": (
        "tiny-core",
        lambda s: s | {"positional_embedding": s["positional_embedding"][:11]},
        r"of another shape: positional_embedding \[11, 96\]\)",
    ),
    "positions of another width": (
        "tiny-core",
        lambda s: s | {"positional_embedding": torch.ones(10, 90)},
        r"of another shape: positional_embedding \[10, 90\]\)",
    ),
    "a class token too few": (
        "tiny-g",
        lambda s: s | {"class_embedding": torch.ones(96)},
        r"1 tensors unexpected: class_embedding\)",
    ),
}


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_nothing_can_make_good_is_refused(damage: str, partial: bool, tmp_path: Path) -> None:
    model, change, says = DAMAGES[damage]
    path = saved(change(meta_state(ARCHITECTURES[model])), tmp_path)
    with pytest.raises(
        DiagnosticsError, match=rf"does not fit pe:{model} \({says}|does not fit pe:{model} \(.*{says}"
    ) as e:
        build(model, checkpoint=path, partial=partial)
    assert "\n" not in str(e.value) and str(e.value).endswith(".")


PARTS: dict[str, tuple[str, Callable[[State], State], str]] = {
    "LayerScale missing": (
        "tiny-lang",
        lambda s: without(s, "ls_"),
        "LayerScale is not in it and stays at its initial value (6 tensors)",
    ),
    "positions of another grid": (
        "tiny-core",
        lambda s: s | {"positional_embedding": torch.randn(37, 96)},
        "its positions of 6 x 6 patches are fitted to 4 x 4 (bilinear)",
    ),
    "a head too many": (
        "tiny-spatial",
        lambda s: s | {"proj": torch.ones(96, 24), "ln_post.weight": torch.ones(96)},
        "2 tensors after its blocks are dropped (proj, ln_post.weight)",
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_what_fits_in_part_is_taken_when_asked_and_the_run_says_so(part: str, tmp_path: Path) -> None:
    model, change, says = PARTS[part]
    path = saved(change(meta_state(ARCHITECTURES[model])), tmp_path)
    with pytest.raises(DiagnosticsError) as refused:
        build(model, checkpoint=path)
    assert f"fits pe:{model} only in part ({says})" in str(refused.value)
    assert str(refused.value).endswith("or add partial=true to take it so.")
    encoder = build(model, checkpoint=path, partial=True)
    assert encoder.identity["configuration"].endswith(f"; checkpoint: {says}")


def test_a_long_core_file_becomes_a_shorter_lang_encoder_as_in_metas_training(tmp_path: Path) -> None:
    state = meta_state(replace(TINY["core like G"], depth=5))
    path = saved(visual(state), tmp_path)
    with refusal("other-weights", "blocks 2 to 4"):
        build("tiny-lang-cut", checkpoint=path)
    encoder = build("tiny-lang-cut", checkpoint=path, partial=True)
    message = encoder.identity["configuration"]
    for part in (
        "blocks 2 to 4",
        "LayerScale is not in it",
        "positions of 4 x 4 patches are fitted to 6 x 6 (bilinear)",
    ):
        assert part in message
    kept = encoder.module.state_dict()
    assert torch.equal(kept["blocks.1.attn.qkv.weight"], state["transformer.resblocks.1.attn.in_proj_weight"])
    assert bool((kept["blocks.1.gamma_2"] == 0.1).all())
    expected = fitted_positions(state["positional_embedding"][None], 0, 6, "index")
    assert torch.equal(kept["pos_embed"], expected)
    assert len(encoder.module.blocks) == 2


def test_a_size_that_was_asked_for_is_no_damage_but_said(tmp_path: Path) -> None:
    path = saved(meta_state(CORE), tmp_path)
    encoder = build("tiny-core", checkpoint=path, img_size=64)
    assert encoder.identity["configuration"].endswith("its positions of 4 x 4 patches are fitted to 8 x 8 (bilinear)")
    rescaled = build("tiny-core", checkpoint=path, img_size=64, positions="rescaled")
    assert "(bicubic, antialiased)" in rescaled.identity["configuration"]
    batch = images(64).float()
    one, other = encoder.capture(batch)["norm"], rescaled.capture(batch)["norm"]
    assert float((one - other).abs().max()) > 0.1
    # Saved at that size, it needs no fitting.
    resized = {**meta_state(CORE), "positional_embedding": encoder.module.pos_embed.data[0]}
    same = build("tiny-core", checkpoint=saved(resized, tmp_path), img_size=64)
    assert same.identity["weights"] == encoder.identity["weights"]
    assert "checkpoint" not in same.identity["configuration"]


def test_a_file_of_another_size_is_recognised(tmp_path: Path) -> None:
    state = meta_state(replace(ARCHITECTURES["spatial-t16-512"], image=64))
    path = saved(state, tmp_path)
    with refusal("other-weights", "pe:spatial-t16-512") as refused:
        build("core-t16-384", checkpoint=path)
    assert "missing: ln_post.weight" in str(refused.value)
    with refusal("other-weights", "of another shape", "pe:spatial-t16-512"):
        build("spatial-s16-512", checkpoint=path)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with refusal("missing-file"):
        build("tiny-core", checkpoint=str(tmp_path / "none.pt"))
    with refusal("missing-file"):
        build("tiny-core", checkpoint=str(tmp_path))
    code = {"conv1.weight": Dangerous(str(tmp_path / "ran"))}
    path = tmp_path / "code.pt"
    path.write_bytes(pickle.dumps(code, protocol=2))
    for wrapped in (path, Path(saved(code, tmp_path, "zip.pt"))):
        with refusal("unreadable") as refused:
            build("tiny-core", checkpoint=str(wrapped))
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())  # noqa: S301  (it would have run)
    assert (tmp_path / "ran").exists()
    (tmp_path / "cut.pt").write_bytes(Path(saved(meta_state(CORE), tmp_path)).read_bytes()[:5000])
    (tmp_path / "cut.safetensors").write_bytes(b"")
    for name in ("cut.pt", "cut.safetensors"):
        with refusal("unreadable"):
            build("tiny-core", checkpoint=str(tmp_path / name))
    for content in ({"epoch": 3}, TEXT, [torch.ones(1)], torch.ones(3)):
        with refusal("other-weights"):
            build("tiny-core", checkpoint=saved(content, tmp_path, "other.pt"))


class Dangerous:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def test_weights_of_the_hub_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from diagnostics_timm import encoder as timm_encoder

    trained = build("core-t16-384", pretrained=False, seed=4)
    asked: list[tuple[Any, ...]] = []

    def model_of(*args: Any) -> Any:
        asked.append(args)
        return trained.module

    monkeypatch.setattr(timm_encoder, "model_of", model_of)
    encoder = build("core-t16-384")
    assert asked == [("vit_pe_core_tiny_patch16_384.fb", True, None, None, 0)]
    assert encoder.identity["weights"] == trained.identity["weights"]
    assert encoder.name == "pe:core-t16-384"
    assert build("core-t16-384", img_size=64).taps[0].grid.shape == (4, 4)
    with refusal("other-weights", "pe:core-s16-384"):
        build("core-s16-384")


def test_no_weights_without_a_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refusal("not-fetched", "?checkpoint=", "?pretrained=false"):
        build("core-t16-384")


FILES = "DIAGNOSTICS_PE_FILES"


@pytest.mark.skipif(FILES not in os.environ, reason=f"Meta's files are not here: {FILES} can name a folder with some")
def test_metas_own_files() -> None:
    """Each of them, under its own name (`PE-Core-T16-384.pt`), fits its encoder exactly and runs."""
    files = {path.stem.lower().removeprefix("pe-"): path for path in Path(os.environ[FILES]).glob("*.pt")}
    known = {name: path for name, path in files.items() if name in ARCHITECTURES}
    assert known, f"none of {sorted(files)} is named as Meta names its files"
    for model, path in known.items():
        encoder = build(model, checkpoint=str(path))
        assert "checkpoint" not in encoder.identity["configuration"]
        captured = encoder.capture(encoder.preprocess(encoder.example())[None])
        assert all(bool(tokens.isfinite().all()) for tokens in captured.values())
