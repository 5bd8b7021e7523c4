"""`diagnostics export meta`: Meta's names and numbers, read back bit for bit; and what is no Perception Encoder."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner

pytest.importorskip("timm")

# Below the skip, since these imports need timm.
from diagnostics_perception import checkpoint as exporting
from diagnostics_perception.checkpoint import Known, export, metas_line
from diagnostics_perception.models import ARCHITECTURES, Architecture
from diagnostics_perception.plugin import build, export_meta
from timm.models.eva import Eva

import diagnostics.cli.main as cli
from diagnostics import DiagnosticsError, Grid, Site, Tap, TorchEncoder, save_encoder
from diagnostics.encoders.saved.cut import cut_encoder
from diagnostics.specs import build as registered
from tests.support.perceiver import CORE, TINY, VARIED, images, meta_state
from tests.support.refusals import refusal

MODELS = {
    "tiny-core": CORE,
    "tiny-core-g": TINY["core like G"],
    "tiny-spatial": TINY["spatial"],
    "tiny-lang": TINY["lang"],
    "tiny-lang-g": TINY["lang like G"],
}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, one in MODELS.items():
        monkeypatch.setitem(ARCHITECTURES, name, one)


def contents(file: str | Path) -> dict[str, Tensor]:
    """As those read it who know nothing of this package."""
    if str(file).endswith(".pt"):
        return torch.load(file, weights_only=True)
    from safetensors.torch import load_file

    return load_file(file)


def given(model: str, folder: Path) -> tuple[str, dict[str, Tensor]]:
    """The name of an encoder of random weights, norms and LayerScale too, and these weights in Meta's layout."""
    state = meta_state(MODELS[model])
    torch.save(state, folder / f"{model}.pt")
    return f"pe:{model}?checkpoint={folder / model}.pt", state


def random_scales(encoder: TorchEncoder) -> TorchEncoder:
    """The encoder with another number in each LayerScale, as training leaves them."""
    module, draw = copy.deepcopy(encoder.module), torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        if "gamma_" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw)
    return encoder.with_module(module, encoder.name)


def aligned(base: str) -> TorchEncoder:
    return random_scales(registered("encoder", f"aligned?base={quote(base, safe='')}&layer_scale=0.1"))


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("model", MODELS)
def test_metas_own_names_and_numbers(model: str, ending: str, tmp_path: Path) -> None:
    name, state = given(model, tmp_path)
    result = export(name, tmp_path / f"written{ending}")
    written = contents(result.file)
    assert set(written) == set(state)
    assert all(torch.equal(written[key], state[key]) for key in state)
    assert (result.tensors, result.bytes) == (len(state), (tmp_path / f"written{ending}").stat().st_size)
    # No more than its tensors, but for what says which they are.
    assert result.bytes < 1.1 * sum(tensor.nbytes for tensor in state.values())
    assert result.name == f"pe:{model}?checkpoint={result.file}"
    assert registered("encoder", result.name).identity["weights"] == registered("encoder", name).identity["weights"]
    assert result.left_out == []


@pytest.mark.parametrize(
    ("model", "cut", "scaled", "options"),
    [
        ("tiny-core", None, True, "tiny-core?checkpoint={}&layer_scale=0.1"),
        ("tiny-core", "blocks.1", False, "tiny-spatial?checkpoint={}&depth=2"),
        ("tiny-core", "blocks.2", False, "tiny-spatial?checkpoint={}"),
        ("tiny-core", "blocks.2", True, "tiny-lang?checkpoint={}"),
        ("tiny-core", "blocks.0", True, "tiny-lang?checkpoint={}&depth=1"),
        ("tiny-core-g", "blocks.1", False, "tiny-lang-g?checkpoint={}&depth=2&layer_scale=0"),
        ("tiny-lang-g", "blocks.1", False, "tiny-lang-g?checkpoint={}&depth=2"),
        ("tiny-spatial", None, True, "tiny-lang?checkpoint={}"),
        ("tiny-lang", None, True, "tiny-lang?checkpoint={}"),
    ],
)
def test_cut_and_aligned_ones_are_read_back(
    model: str, cut: str | None, scaled: bool, options: str, tmp_path: Path
) -> None:
    name, state = given(model, tmp_path)
    encoder = aligned(name) if scaled else registered("encoder", name)
    save_encoder(tmp_path / "saved", encoder, cut=cut)
    saved = registered("encoder", str(tmp_path / "saved"))
    result = export(str(tmp_path / "saved"), tmp_path / "written.pt")
    assert result.name == "pe:" + options.format(tmp_path / "written.pt")
    written, depth = contents(result.file), MODELS[model].depth if cut is None else int(cut[-1]) + 1
    assert {key.split(".")[2] for key in written if "resblocks" in key} == {str(block) for block in range(depth)}
    for key, tensor in written.items():
        if "ls_" in key and scaled:
            scale = saved.module.get_parameter(f"blocks.{key.split('.')[2]}.gamma_{key.split('.')[3][-1]}")
            assert torch.equal(tensor, scale) and float(tensor.std()) > 0.5
        else:
            assert torch.equal(tensor, state[key])
    assert any("ls_" in key for key in written) == (scaled or MODELS[model].layer_scale is not None)
    back, batch = registered("encoder", result.name), images(32).float()
    assert [tap.name for tap in back.taps] == [tap.name for tap in saved.taps]
    expected = saved.capture(batch)
    assert all(torch.equal(tokens, expected[tap]) for tap, tokens in back.capture(batch).items())


@pytest.mark.parametrize("one", VARIED.values(), ids=list(VARIED))
def test_what_no_published_one_lacks_is_said_in_the_name(one: Architecture, tmp_path: Path) -> None:
    options = ("" if one.rope else "&rope=false") + ("" if one.pool == "attention" else "&pool=class")
    torch.save(state := meta_state(one), tmp_path / "given.pt")
    encoder = registered("encoder", f"pe:tiny-core?checkpoint={tmp_path}/given.pt{options}")
    result = export(encoder, tmp_path / "written.pt")
    written = contents(result.file)
    assert set(written) == set(state) and all(torch.equal(written[key], state[key]) for key in state)
    assert result.name == f"pe:tiny-core?checkpoint={tmp_path}/written.pt{options}"
    back, batch = registered("encoder", result.name), images(32).float()
    assert list(back.maker_names) == ["blocks.2", "norm", *["attn_pool"] * (one.pool == "attention"), "head"]
    assert all(torch.equal(tokens, encoder.capture(batch)[tap]) for tap, tokens in back.capture(batch).items())


def test_another_size_is_said_in_the_name(tmp_path: Path) -> None:
    name, _ = given("tiny-core", tmp_path)
    encoder = registered("encoder", f"{name}&img_size=64")
    result = export(encoder, tmp_path / "a & b.pt")
    assert result.name == f"pe:tiny-core?checkpoint={tmp_path}/a%20%26%20b.pt&img_size=64"
    assert registered("encoder", result.name).identity["weights"] == encoder.identity["weights"]


def test_a_head_that_meta_has_not_is_left_out(tmp_path: Path) -> None:
    """As language alignment leaves a projector behind the output."""
    whole = cut_encoder(registered("encoder", given("tiny-core", tmp_path)[0]), "blocks.1")
    whole.module.projector = nn.Linear(96, 8)

    def forward(module: Any, batch: Tensor) -> None:
        tokens = whole.with_module(module, "trunk").capture(batch, ["blocks.1"])["blocks.1"]
        module.projector(tokens[:, 1:])

    head = Tap("head.projector", 2.0, "head", 8, Grid((4, 4), ("y", "x")), Site("projector"))
    encoder = whole.replace(taps=[*whole.taps, head], forward=forward, cut="", absent=())
    assert "head.projector" in encoder.capture(images(32).float())
    result = export(encoder, tmp_path / "written.pt")
    assert result.left_out == ["projector"]
    assert not any("projector" in key for key in contents(result.file))
    assert result.name == f"pe:tiny-spatial?checkpoint={tmp_path / 'written.pt'}&depth=2"


def another_eva(encoder: TorchEncoder) -> TorchEncoder:
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3}
    return encoder.with_module(
        Eva(**sizes, num_classes=0, use_post_transformer_norm=False, use_fc_norm=False), "EVA-02"
    )


def eps_of_another(encoder: TorchEncoder) -> TorchEncoder:
    encoder.module.blocks[1].norm1.eps = 1e-6
    return encoder


def with_bias(encoder: TorchEncoder) -> TorchEncoder:
    nn.init.ones_(encoder.module.head.bias)
    return encoder


def scaled_in_one_block(encoder: TorchEncoder) -> TorchEncoder:
    for name in ("gamma_1", "gamma_2"):
        setattr(encoder.module.blocks[1], name, nn.Parameter(torch.ones(96)))
    return encoder


def with_a_part(encoder: TorchEncoder) -> TorchEncoder:
    encoder.module.blocks[1].adapter = nn.Linear(2, 2)
    return encoder


def half(encoder: TorchEncoder) -> TorchEncoder:
    encoder.module.blocks[1].half()
    return encoder


REFUSED: dict[str, tuple[str, Callable[[TorchEncoder], TorchEncoder], str]] = {
    "no module of timm": (
        "objective:jepa?modality=image&size=16&width=16&depth=1&heads=2&patch=8",
        lambda e: e,
        r"objective-jepa is a Model, where a Perception Encoder is an Eva of timm: name one",
    ),
    "another model of timm": ("timm:resnet10t?pretrained=false", lambda e: e, "is a ResNet, where"),
    "another Eva": (
        "tiny-spatial",
        another_eva,
        r"is no Perception Encoder, since its tensors are not those of one \(\d+ tensors missing: .*ln_pre\.weight",
    ),
    "cut before its blocks": ("tiny-core", lambda e: cut_encoder(e, "embed"), "cut at embed has no block: "),
    "cut in its head": (
        "tiny-core",
        lambda e: cut_encoder(e, "norm"),
        r"has norm but not all of norm, attn_pool, head, of which Meta's encoders have all or none: .*cut at a block",
    ),
    "a bias": ("tiny-core", with_bias, "has a bias in its projection, which Meta's has not"),
    "half precision": ("tiny-core", half, "has weights in float16, which are read back in float32"),
    "LayerScale in one block": (
        "tiny-core",
        scaled_in_one_block,
        r"its tensors are not those of one \(LayerScale is not in it and stays at its initial value \(4 tensors\)\)",
    ),
    "a part of another": ("tiny-core", with_a_part, r"2 tensors unexpected: transformer\.resblocks\.1\.adapter"),
    "other positions": (
        "tiny-core?img_size=64&positions=rescaled",
        lambda e: e,
        "gives other activations at blocks.0 than Meta's code would with its tensors, as with positions=rescaled: .*index",
    ),
    "another epsilon": ("tiny-core", eps_of_another, "gives other activations at blocks.1 than Meta's code would"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_any_other_encoder_is_refused(case: str, tmp_path: Path) -> None:
    name, change, says = REFUSED[case]
    if name.startswith("tiny-"):
        model, _, options = name.partition("?")
        name = f"pe:{model}?pretrained=false{'&' if options else ''}{options}"
    with pytest.raises(DiagnosticsError, match=says) as refused:
        export(change(registered("encoder", name)), tmp_path / "written.pt")
    assert "name one that `pe:` builds, whole or cut at a block, as it is, saved or aligned" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_without_a_name_for_its_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = given("tiny-core", tmp_path)
    encoder = registered("encoder", name)
    for model in MODELS:
        monkeypatch.delitem(ARCHITECTURES, model)
    with refusal("unsupported", "its patches, blocks and head"):
        export(encoder, tmp_path / "written.pt")


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "there.pt").write_text("mine")
    (tmp_path / "link.pt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.pt").mkdir()
    for name in ("there.pt", "link.pt", "folder.pt"):
        with refusal("occupied", name):
            export("pe:tiny-core?pretrained=false", tmp_path / name)
    assert (tmp_path / "there.pt").read_text() == "mine"
    for name in ("weights", "weights.bin", "weights.pt.gz"):
        with refusal("unsupported", ".safetensors or .pt"):
            export("pe:tiny-core?pretrained=false", tmp_path / name)
    with refusal("unwritable", "no.pt", "Not a directory"):
        export("pe:tiny-core?pretrained=false", tmp_path / "there.pt" / "no.pt")


@pytest.mark.parametrize(
    ("ending", "error", "raised"),
    [
        (".pt", OSError(28, "No space left on device"), DiagnosticsError),
        (".pt", RuntimeError("PytorchStreamWriter failed writing file"), DiagnosticsError),
        (".safetensors", OSError(28, "No space left on device"), DiagnosticsError),
        (".safetensors", KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_nothing_half_written_stays(
    ending: str, error: BaseException, raised: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any, file: Path) -> None:
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr(exporting, "save_file", fail)
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(raised):
        export("pe:tiny-core?pretrained=false", tmp_path / f"written{ending}")
    assert list(tmp_path.iterdir()) == []


def run(*words: object) -> Any:
    app = typer.Typer()
    app.command()(cli.guard(export_meta, "perception"))
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_says_what_it_wrote_and_how_to_read_it(tmp_path: Path) -> None:
    done = run("pe:tiny-core?pretrained=false", "--out", tmp_path / "one.pt")
    assert done.exit_code == 0, done.stderr
    bytes_written = (tmp_path / "one.pt").stat().st_size
    assert done.stdout.splitlines() == [
        f"{tmp_path}/one.pt: pe:tiny-core?pretrained=false, 55 tensors, {bytes_written:,} bytes",
        f"Next: diagnostics inspect 'pe:tiny-core?checkpoint={tmp_path}/one.pt'",
    ]
    name = shlex.split(done.stdout.splitlines()[1])[-1]
    assert registered("encoder", name).identity["weights"] == build("tiny-core", pretrained=False).identity["weights"]
    shown = json.loads(run("pe:tiny-core?pretrained=false", "-o", tmp_path / "two.safetensors", "--json").stdout)
    assert shown == {
        "file": f"{tmp_path}/two.safetensors",
        "encoder": "pe:tiny-core?pretrained=false",
        "name": f"pe:tiny-core?checkpoint={tmp_path}/two.safetensors",
        "text": "",
        "tensors": 55,
        "bytes": (tmp_path / "two.safetensors").stat().st_size,
        "left_out": [],
        "code": "",
    }
    refused = run("pe:tiny-core?pretrained=false", "--out", tmp_path / "one.pt", "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == f"diagnostics: {tmp_path}/one.pt is there already: choose another --out, or remove it.\n"


def test_a_file_of_code_is_run_only_when_trusted(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from diagnostics import build as named\n\n\ndef build():\n    return named('encoder', 'pe:tiny-core?pretrained=false')\n"
    )
    made = registered("encoder", f"{tmp_path}/mine.py:build")
    save_encoder(tmp_path / "saved", made.replace(skeleton=f"{tmp_path}/mine.py:build"))
    refused = run(tmp_path / "saved", "--out", tmp_path / "written.pt")
    assert refused.exit_code == 2 and "mine.py" in refused.stderr and "--trust-code" in refused.stderr
    assert not (tmp_path / "written.pt").exists()
    assert run(tmp_path / "saved", "--out", tmp_path / "written.pt", "--trust-code").exit_code == 0


def test_models_with_fewer_blocks_and_other_layer_scale() -> None:
    encoder = registered("encoder", "pe:tiny-core?pretrained=false&depth=2&layer_scale=0.3")
    assert encoder.name == encoder.skeleton == "pe:tiny-core?pretrained=false&depth=2&layer_scale=0.3"
    assert [tap.name for tap in encoder.taps] == ["embed", "blocks.0", "blocks.1", "norm", "attn_pool", "head"]
    assert [tap.depth for tap in encoder.taps[:4]] == [0, 0.5, 1, 1]
    for module in (encoder.module, encoder.fresh(1).module):
        assert len(module.blocks) == 2 and bool((module.blocks[1].gamma_2 == 0.3).all())
    plain = registered("encoder", "pe:tiny-lang?pretrained=false&layer_scale=0")
    assert plain.module.blocks[0].gamma_1 is None
    video = registered("encoder", "pe-video:tiny-core?frames=2&pretrained=false&depth=1")
    assert len(video.module.blocks) == 1 and registered("encoder", video.skeleton).identity == video.identity
    for options, says in {
        "depth=0": "has 3 blocks and cannot have depth=0: give 1 to 3",
        "depth=4": "has 3 blocks and cannot have depth=4: give 1 to 3",
        "layer_scale=-1": r"cannot start at layer_scale=-1\.0: give a number above 0, as 0\.1, or 0 for none",
        "layer_scale=nan": "cannot start at layer_scale=nan",
    }.items():
        with pytest.raises(DiagnosticsError, match=says):
            registered("encoder", f"pe:tiny-core?pretrained=false&{options}")


def test_the_loader_names_the_options_that_a_file_needs(tmp_path: Path) -> None:
    name, _ = given("tiny-core", tmp_path)
    written = export(cut_encoder(aligned(name), "blocks.1"), tmp_path / "written.pt")
    with refusal("other-weights", "pe:tiny-lang?depth=2"):
        build("tiny-core", checkpoint=written.file)


def test_the_line_for_metas_code_has_the_options_of_a_cut_encoder() -> None:
    class Meta:
        """What Meta's classes were called with."""

        def from_config(self, name: str, **options: object) -> tuple[str, dict[str, object]]:
            return name, options

    pe = SimpleNamespace(CLIP=Meta(), VisionTransformer=Meta())
    known = {"pretrained": True, "checkpoint_path": "l.pt"}

    def line(model: str, file: str = "l.pt", whole: bool = False, **options: object) -> str:
        return metas_line(Known(model, ARCHITECTURES[model], options), {}, file, whole)

    assert line("core-l14-336", whole=True).startswith("pe.CLIP.")
    assert eval(line("core-l14-336"), {"pe": pe}) == ("PE-Core-L14-336", known)
    cut = eval(line("lang-l14-448-tiling", depth=20, layer_scale=0), {"pe": pe})
    assert cut == ("PE-Lang-L14-448-Tiling", known | {"layers": 20, "ls_init_value": None})
    # What Meta's code does not know, cannot read or has no option for.
    assert [line("nano"), line("core-l14-336", "l.safetensors"), line("core-l14-336", rope="false")] == [""] * 3
