"""Cut encoders: nothing behind the tap runs or is stored, what is before it is the same to the bit."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import default_collate
from typer.testing import CliRunner

from diagnostics import DiagnosticsError, Grid, Site, Tap, TorchEncoder, build, load_encoder, save_encoder, stack_taps
from diagnostics.checks.conformance import check_encoder
from diagnostics.cli.encoders import export
from diagnostics.cli.main import app
from diagnostics.encoders.encoder import Encoder, keep
from diagnostics.encoders.flops import count_flops
from diagnostics.encoders.hooks import capture_at
from diagnostics.encoders.saved.cut import cut_encoder
from diagnostics.sklearn import TapFeatures
from tests.support.refusals import refusal
from tests.support.tiny import tiny_encoder, tiny_image_encoder
from tests.support.unusual import Stack, as_floats

OWN = """
from tests.support.tiny import tiny_encoder, tiny_image_encoder
from tests.support.unusual import discovered, recurrent


def build(): return tiny_encoder(1)
def images(): return tiny_image_encoder(1)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return path


def sentence(error: pytest.ExceptionInfo[DiagnosticsError], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", "?")) and all(part in text for part in parts), text


def batch_of(encoder: Encoder) -> Any:
    return default_collate([encoder.preprocess(encoder.example())] * 2)


def assert_part(cut: Encoder, whole: Encoder, taps: list[str]) -> None:
    """The cut encoder has these taps, and each gives what it gives in the whole one."""
    assert [tap.name for tap in cut.taps] == taps
    part, all_ = cut.capture(batch_of(cut)), whole.capture(batch_of(whole))
    assert all(torch.equal(part[name], all_[name]) for name in taps)


class Residual(nn.Module):
    """`blocks` linear layers, then a head; raises where a module that may not runs."""

    def __init__(self, width: int = 8, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(1, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(blocks)])
        self.head = nn.Sequential(nn.Linear(width, 3), nn.ReLU(), nn.Linear(3, 2))
        self.unused = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x[..., None])
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(dim=1))


def encoder_of(module: nn.Module, taps: list[Tap] | None = None, **options: Any) -> TorchEncoder:
    example = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    grid = Grid((6,), ("t",))
    head = Tap("head", 2.0, "head", 2, Grid((1,), ("t",)), Site("head", layout="features"))
    taps = taps or [*stack_taps("blocks", 4, 8, grid), head]
    return TorchEncoder("residual", "series", module, taps, "blocks.3", as_floats, example, **options)


def residual() -> TorchEncoder:
    torch.manual_seed(0)
    return encoder_of(Residual())


def raising(*_: Any) -> None:
    raise AssertionError("a module behind the cut runs")


@pytest.mark.parametrize(("tap", "first"), [("embed", 0), ("blocks.0", 1), ("blocks.2", 3)])
def test_nothing_behind_the_tap_runs(tap: str, first: int) -> None:
    encoder = residual()
    cut = cut_encoder(encoder, tap)
    # With the modules in place, each of which would raise: only leaving the pass keeps them from running.
    whole = cut.with_module(encoder.module, "planted")
    for part in [*encoder.module.blocks[first:], encoder.module.head, *encoder.module.head]:
        part.forward = raising
    with pytest.raises(AssertionError, match="behind the cut"):
        encoder.capture(batch_of(encoder))
    whole.capture(batch_of(whole))
    whole.capture(batch_of(whole), [])
    if first:
        whole.input_gradient(batch_of(whole))
    with torch.enable_grad():
        whole.capture(batch_of(whole), [tap], gradient=True)


def test_what_is_left_out() -> None:
    encoder = residual()
    before = {name: value.clone() for name, value in encoder.module.state_dict().items()}
    cut = cut_encoder(encoder, "blocks.1")
    assert_part(cut, encoder, ["embed", "blocks.0", "blocks.1"])
    assert set(cut.absent) == {"blocks.2", "blocks.3", "head", "unused"}
    assert set(cut.module.state_dict()) == {
        f"{m}.{t}" for m in ("stem", "blocks.0", "blocks.1") for t in ("weight", "bias")
    }
    assert cut.output_tap == "blocks.1" and [tap.depth for tap in cut.taps] == [0, 0.5, 1]
    assert cut.identity["weights"] != encoder.identity["weights"] and cut.name == "residual cut at blocks.1"
    # The whole one is as it was, and the tensors are its own.
    assert {name: value.tolist() for name, value in encoder.module.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }
    assert cut.module.stem.weight is encoder.module.stem.weight
    with pytest.raises(DiagnosticsError) as error:
        cut.module.head(torch.zeros(1))
    sentence(error, "'head' is not in residual cut at blocks.1")


def test_before_the_first_block_no_block_is_kept() -> None:
    cut = cut_encoder(residual(), "embed")
    assert [tap.name for tap in cut.taps] == ["embed"] and cut.taps[0].depth == 0
    assert set(cut.absent) == {"blocks.0", "blocks.1", "blocks.2", "blocks.3", "head", "unused"}


def test_at_a_head_the_trunk_keeps_its_depths() -> None:
    encoder = residual()
    cut = cut_encoder(encoder, "head")
    assert [(tap.name, tap.depth) for tap in cut.taps] == [(tap.name, tap.depth) for tap in encoder.taps]
    assert cut.output_tap == "head" and cut.absent == ("unused",)


def test_flops_of_a_known_stack_are_exact() -> None:
    encoder = residual()
    tokens, width = 6, 8
    stem, block, head = 2 * tokens * width, 2 * tokens * width**2, 2 * (width * 3 + 3 * 2)
    assert count_flops(encoder)[""] == stem + 4 * block + head
    assert count_flops(cut_encoder(encoder, "blocks.1"))[""] == stem + 2 * block
    assert count_flops(cut_encoder(encoder, "embed"))[""] == stem


def attentive() -> TorchEncoder:
    torch.manual_seed(1)
    return encoder_of(Stack(1))


def test_layers_that_use_their_parts_tensors_keep_them() -> None:
    encoder = attentive()
    cut = cut_encoder(encoder, "blocks.1")
    assert set(cut.absent) == {"blocks.2", "blocks.3", "head"}
    assert_part(cut, encoder, ["embed", "blocks.0", "blocks.1"])
    tokens, width = 6, 8
    products = 2 * tokens * width * (3 * width + width + 16 + 16) + 4 * tokens**2 * width
    assert count_flops(cut)[""] == 2 * tokens * width + 2 * products
    whole, part = encoder.attention(batch_of(encoder)), cut.attention(batch_of(cut))
    assert set(part) == {"blocks.0", "blocks.1"} and all(torch.equal(part[name], whole[name]) for name in part)
    one, other = encoder.input_gradient(batch_of(encoder)), cut.input_gradient(batch_of(cut))
    assert set(other) == set(part) | {"embed"} and all(torch.equal(other[name], one[name]) for name in other)


class Odd(Residual):
    """Uses a tensor of one module directly, a setting of another that never runs, and one block twice."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x[..., None]) + self.unused.weight[0, 0] + 0 * self.head[0].out_features
        for _ in range(2):
            x = x + self.blocks[0](x)
        for block in self.blocks[1:]:
            x = x + block(x)
        return self.head(x.mean(dim=1))


def test_where_modules_are_read_without_running_they_stay() -> None:
    torch.manual_seed(2)
    grid = Grid((6,), ("t",))
    sites = [Site("blocks.0", 0, 2), Site("blocks.0", 1, 2), *(Site(f"blocks.{i}") for i in (1, 2, 3))]
    taps = [Tap(f"call.{i}", (i + 1) / 5, "trunk", 8, grid, site) for i, site in enumerate(sites)]
    whole = TorchEncoder("odd", "series", Odd(), taps, example=np.ones(6, np.float32))
    first = cut_encoder(whole, "call.0")
    assert first.taps[0].site == Site("blocks.0", 0, 1)
    assert_part(first, whole, ["call.0"])
    # The list within the head is kept for its length, but the code asks a module in it for its width.
    assert first.absent == ()
    assert_part(cut_encoder(whole, "call.2"), whole, ["call.0", "call.1", "call.2"])


class Swallows(Residual):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        except Exception:
            return torch.zeros(len(x), 2)


class Shifts(Residual):
    """Gives others each time that it runs."""

    count = 0

    def forward(self, x: Tensor) -> Tensor:
        Shifts.count += 1
        return super().forward(x + Shifts.count)


@pytest.mark.parametrize(("kind", "part"), [(Swallows, "continues after an error"), (Shifts, "gives others at tap")])
def test_what_cannot_be_cut_says_why(kind: Any, part: str) -> None:
    encoder = encoder_of(kind())
    with pytest.raises(DiagnosticsError) as error:
        cut_encoder(encoder, "blocks.1")
    sentence(error, "residual", "blocks.1", part)


class Plain(Encoder):
    name, modality, output_tap = "plain", "series", "x"


def test_other_errors() -> None:
    with pytest.raises(DiagnosticsError) as error:
        cut_encoder(residual(), "block.1")
    sentence(error, "Unknown tap 'block.1'", "blocks.1")
    Plain.__abstractmethods__ = frozenset()
    with pytest.raises(DiagnosticsError) as error:
        cut_encoder(Plain(), "x")
    sentence(error, "no torch module")


def test_an_error_in_the_pass_or_its_reader_comes_through() -> None:
    cut = cut_encoder(residual(), "blocks.1")

    def broken(tap: Tap, tokens: Tensor) -> None:
        raise KeyError("reader")

    with pytest.raises(KeyError) as caught:
        cut.capture(batch_of(cut), None, broken)
    assert caught.value.args == ("reader",)
    with pytest.raises(RuntimeError):
        cut.capture(torch.zeros(2, 6, dtype=torch.float64))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in cut.module.modules())


def test_cut_again(own: Path) -> None:
    whole = build("encoder", "own.py:build").replace(lineage={"group": "jepa", "seed": 1})
    save_encoder("two", whole, cut="blocks.1")
    once = build("encoder", "two", trust_code=True)
    assert once.lineage == {"group": "jepa cut at blocks.1", "seed": 1}
    assert (once.spec, once.skeleton, cut_encoder(whole, "blocks.1").spec) == ("two", f"{own}:build", "")
    again = cut_encoder(once, "blocks.0")
    assert again.name == "tiny cut at blocks.0" and again.configuration == cut_encoder(whole, "blocks.0").configuration
    assert set(cut_encoder(whole, "blocks.0").absent) == set(again.absent)
    loaded = load_encoder(save_encoder("one", again), trust_code=True)
    assert_part(loaded, whole, ["embed", "blocks.0"])
    assert dict(loaded.identity) == dict(again.identity) == dict(cut_encoder(whole, "blocks.0").identity)


@pytest.mark.parametrize("name", ["build", "images", "discovered"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_cut_encoder_passes_every_check(own: Path, name: str, count: int) -> None:
    spec = f"own.py:{name}"
    whole = build("encoder", spec)
    tap = whole.taps[count - 1].name
    export(spec, tap, "cut")
    cut = build("encoder", "cut", trust_code=True)
    assert_part(cut, whole, [tap.name for tap in whole.taps[:count]])
    assert dict(cut.identity) == dict(cut_encoder(whole, tap).identity)
    found = check_encoder("cut", trust_code=True)
    assert not found.failed, [outcome for outcome in found.outcomes if outcome.verdict == "failed"]
    assert sum(outcome.verdict == "ok" for outcome in found.outcomes) >= 13
    fresh, permuted = cut.fresh(0), cut.permuted(0)
    for control in (fresh, permuted):
        assert set(control.module.state_dict()) == set(load_file("cut/encoder.safetensors"))
        assert not torch.equal(control.capture(batch_of(control))[tap], cut.capture(batch_of(cut))[tap])


@pytest.mark.parametrize("name", ["build", "discovered"])
def test_samples_of_another_size(own: Path, name: str) -> None:
    whole = build("encoder", f"own.py:{name}")
    tap = whole.taps[2].name
    save_encoder("cut", whole, cut=tap)
    sample = np.random.default_rng(1).standard_normal(48).astype(np.float32)
    expected = whole.sized_for(sample)
    for cut in (
        cut_encoder(whole, tap),
        build("encoder", "cut", trust_code=True),
        build("encoder", "cut", trust_code=True).fresh(0),
    ):
        sized = cut.sized_for(sample)
        assert sized is not cut and sized.output_tap == tap and sized.taps[0].grid.shape == (12,)
        batch = default_collate([sized.preprocess(sample)])
        found = sized.capture(batch)
        assert list(found) == [tap.name for tap in whole.taps[:3]]
        if "fresh" not in cut.name:
            wanted = expected.capture(batch)
            assert all(torch.equal(found[name], wanted[name]) for name in found)
        # What was sized once is sized again, from a whole one too.
        again = sized.sized_for(np.resize(sample, 32))
        assert again.taps[0].grid.shape == (8,) and list(again.capture(batch_of(again))) == list(found)
        back = again.sized_for(sample).capture(batch)
        assert all(torch.equal(back[name], found[name]) for name in found)


@pytest.mark.parametrize("tap", ["blocks.0", "norm"])
def test_heads_that_plugins_ask_for_their_taps(own: Path, tap: str) -> None:
    pytest.importorskip("diagnostics_training")
    whole = build("encoder", "objective:jepa?length=64&width=16&depth=2&heads=2")
    save_encoder("cut", whole, cut=tap)
    cut = build("encoder", "cut", trust_code=True)
    assert isinstance(cut, TorchEncoder) and "head" in cut.absent
    found = check_encoder("cut", trust_code=True)
    assert not found.failed, [outcome for outcome in found.outcomes if outcome.verdict == "failed"]
    assert {outcome.check: outcome.verdict for outcome in found.outcomes}["sizes"] == "ok"
    sample = np.random.default_rng(2).standard_normal(32).astype(np.float32)
    resized = cut.sized_for(np.resize(sample, 48)).sized_for(sample)
    for sized in (cut.sized_for(sample), resized, cut_encoder(whole, tap).sized_for(sample)):
        batch = default_collate([sized.preprocess(sample)])
        wanted = whole.sized_for(sample).capture(batch)
        assert all(torch.equal(value, wanted[name]) for name, value in sized.capture(batch).items())


def test_the_group_says_where_it_was_cut(own: Path) -> None:
    whole = build("encoder", "own.py:build")
    assert isinstance(whole, TorchEncoder)
    assert dict(cut_encoder(whole, "blocks.1").lineage) == {}
    lineage = {"group": "forecast", "seed": 3, "steps": 10}
    whole = whole.replace(lineage=lineage)
    assert cut_encoder(whole, "blocks.1").lineage == {**lineage, "group": "forecast cut at blocks.1"}
    assert whole.lineage == lineage == {"group": "forecast", "seed": 3, "steps": 10}
    save_encoder("whole", whole)
    export("whole", "blocks.1", "cut", trust_code=True)
    cut = build("encoder", "cut", trust_code=True)
    assert cut.lineage == cut.sized_for(np.arange(48.0)).lineage == {**lineage, "group": "forecast cut at blocks.1"}
    # A cut of a cut was cut once, as its name says too.
    assert cut_encoder(cut, "blocks.0").lineage == {**lineage, "group": "forecast cut at blocks.0"}
    save_encoder("told", whole, cut="blocks.1", lineage={"group": "mine"})
    assert build("encoder", "told", trust_code=True).lineage == {"group": "mine"}


def test_the_command(own: Path) -> None:
    run = CliRunner()
    whole = build("encoder", "own.py:build")
    found = run.invoke(app, ["cut", "own.py:build", "--tap", "blocks.1", "--out", "a", "--json"])
    assert found.exit_code == 0, found.stderr
    summary = json.loads(found.stdout)
    width, tokens = 8, 8
    block = 2 * width * 2 * width + 2 * width + width
    kept = 4 * width + width + 2 * block
    every = kept + block + 2 * width
    assert (summary["parameters"], summary["whole_parameters"], summary["parameters_saved"]) == (
        kept,
        every,
        every - kept,
    )
    assert summary["parameters_saved_share"] == pytest.approx((every - kept) / every)
    products = 2 * tokens * 4 * width + 2 * (2 * tokens * width * 2 * width) * 2
    assert (summary["flops"], summary["flops_saved"]) == (products, 2 * (2 * tokens * width * 2 * width))
    assert summary["taps"] == ["embed", "blocks.0", "blocks.1"] and summary["file"] == "a/encoder.safetensors"
    assert_part(build("encoder", "a", trust_code=True), whole, summary["taps"])
    found = run.invoke(app, ["cut", "own.py:build", "--tap", "blocks.1", "--out", "b.safetensors"])
    assert f"Parameters: {kept:,} of {every:,} ({every - kept:,} saved" in found.stdout and "FLOPs" in found.stdout
    assert run.invoke(app, ["inspect", "b.safetensors", "--trust-code", "--json"]).exit_code == 0
    found = run.invoke(app, ["cut", "own.py:recurrent", "--tap", "blocks.0", "--out", "c"])
    assert found.exit_code == 0 and "FLOPs of a pass over the example: 0" in found.stdout
    wrong = {
        ("--tap", "blocks.1", "--out", "a"): "there already",
        ("--tap", "blocks.9", "--out", "z"): "Unknown tap",
    }
    for options, part in wrong.items():
        found = run.invoke(app, ["cut", "own.py:build", *options])
        assert found.exit_code == 2 and found.stderr.count("\n") == 1 and part in found.stderr
    assert not Path("z").exists()
    mine = "from tests.support.tiny import tiny_dataset\ndef data(): return tiny_dataset(24)\n"
    Path("mine.py").write_text(mine)
    found = run.invoke(
        app, ["run", "a", "--trust-code", "--data", "mine.py:data", "--measures", "rankme", "--out", "r", "--json"]
    )
    assert found.exit_code == 0, found.stderr
    assert not {"fresh_weights", "permuted_weights"} & json.loads(found.stdout)["skipped"].keys()


def test_at_the_output_tap_nothing_but_heads_goes(own: Path) -> None:
    summary = export("own.py:build", "norm", "a")
    assert summary["parameters_saved"] == 0 and summary["flops_saved"] == 0 and len(summary["taps"]) == 5


def tensors_alive() -> int:
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if type(tensor) in (Tensor, nn.Parameter)
    }
    return sum(storages.values())


def test_what_was_left_out_takes_no_memory(own: Path) -> None:
    (own.parent / "wide.py").write_text(
        "from tests.support.tiny import tiny_encoder\ndef build(): return tiny_encoder(1, width=256, blocks=6)\n"
    )
    export("wide.py:build", "blocks.0", "cut")
    before = tensors_alive()
    whole = build("encoder", "wide.py:build")
    full = tensors_alive() - before
    del whole
    before = tensors_alive()
    cut = build("encoder", "cut", trust_code=True)
    sized = cut.sized_for(np.arange(48.0))
    kept = tensors_alive() - before
    assert sized.module is cut.module
    assert full > 6 * 1_000_000 and kept < 1.3 * full / 6


def test_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    spec = "timm:resnet18?pretrained=false&seed=3"
    whole = build("encoder", spec)
    found = export(spec, "layer2.0", tmp_path / "cut")
    cut = load_encoder(tmp_path / "cut")
    assert_part(cut, whole, ["embed", "layer1.0", "layer1.1", "layer2.0"])
    stages = [name for name in load_file(found["file"]) if name.startswith(("layer2.1", "layer3", "layer4", "fc"))]
    assert not stages and found["whole_parameters"] == 11_689_512
    # Published for 224 x 224: 1.8 G multiply-adds.
    assert found["whole_flops"] == pytest.approx(2 * 1.814e9, rel=1e-3)


def test_checkpoint_directories_are_cut_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(tmp_path / "m")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "m")
    whole = build("encoder", f"hf:{tmp_path / 'm'}")
    tap = whole.taps[1].name
    save_encoder(tmp_path / "cut", whole, cut=tap)
    (tmp_path / "m" / "config.json").unlink()
    cut = build("encoder", str(tmp_path / "cut"))
    assert_part(cut, whole, [whole.taps[0].name, tap])
    found = check_encoder(str(tmp_path / "cut"))
    assert not found.failed, [outcome for outcome in found.outcomes if outcome.verdict == "failed"]


def test_fracast_stops_within_its_shared_block(tmp_path: Path) -> None:
    pytest.importorskip("fracast")
    whole = build("encoder", "fracast")
    save_encoder(tmp_path / "cut", whole, cut="block.3")
    cut = build("encoder", str(tmp_path / "cut"))
    assert_part(cut, whole, ["embed", "block.0", "block.1", "block.2", "block.3"])
    assert cut.tap("block.3").site == Site("block", 3, 4) and count_flops(cut)[""] < 0.5 * count_flops(whole)[""]
    short = np.random.default_rng(0).standard_normal(64).cumsum()
    part, all_ = cut.sized_for(short), whole.sized_for(short)
    batch = default_collate([part.preprocess(short)])
    wanted = all_.capture(batch)
    assert all(torch.equal(value, wanted[name]) for name, value in part.capture(batch).items())


def test_hooks_of_the_cut_come_after_those_that_read() -> None:
    """A reader that is hooked in by itself, before the pass, still reads the last tap."""
    cut = cut_encoder(residual(), "blocks.1")
    with capture_at(cut.module, cut.taps, cut.name, keep, whole_pass=True) as captured:
        cut.capture(batch_of(cut), [])
    assert list(captured) == ["embed", "blocks.0", "blocks.1"]
    assert tiny_encoder().cut == "" and tiny_image_encoder().absent == ()


def test_flops_are_counted_where_a_parameter_is_a_layers_input() -> None:
    class Probed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.probe = nn.Parameter(torch.zeros(1, 1, 8))
            self.query, self.tokens = nn.Linear(8, 8), nn.Linear(1, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.query(self.probe.expand(len(x), -1, -1)) + self.tokens(x[..., None])

    taps = [Tap("tokens", 0.0, "embedding", 8, Grid((6,), ("time",)), Site("tokens"))]
    encoder = TorchEncoder("probed", "series", Probed(), taps, "tokens", as_floats, np.zeros(6, np.float32))
    assert count_flops(encoder)[""] == 2 * 8 * 8 + 2 * 6 * 8


def test_flops_until_a_tap_are_those_of_the_encoder_cut_there() -> None:
    encoder = tiny_image_encoder()
    counted = count_flops(encoder, [tap.name for tap in encoder.taps])
    assert {counted[tap.name] for tap in encoder.taps} != {0}
    for tap in encoder.taps:
        assert counted[tap.name] == count_flops(cut_encoder(encoder, tap.name))[""]
    assert counted[""] >= max(counted.values())


def test_several_taps_keep_up_to_the_deepest_and_are_handed_out_side_by_side(tmp_path: Path) -> None:
    encoder, data = build("encoder", "objectives:lorenz-forecast"), build("dataset", "lorenz?n=10")
    made = cut_encoder(encoder, ["blocks.2", "blocks.0"])
    # In the order given, as features of several taps are everywhere: a head fitted on those meets the same columns.
    assert made.output_tap == "blocks.2" and made.side_by_side == ("blocks.2", "blocks.0")
    wanted = np.concatenate([encoder.transform(data, tap=tap) for tap in made.side_by_side], axis=1)
    np.testing.assert_array_equal(made.transform(data), wanted)
    again = build("encoder", str(save_encoder(tmp_path / "cut", encoder, cut=["blocks.2", "blocks.0"])))
    assert TapFeatures(again).fit(data).transform(data).shape == wanted.shape
    first = cut_encoder(again, "blocks.0").transform(data)
    np.testing.assert_array_equal(first, encoder.transform(data, tap="blocks.0"))
    assert [tap.name for tap in again.taps] == [tap.name for tap in made.taps]
    np.testing.assert_array_equal(again.transform(data), wanted)
    np.testing.assert_array_equal(again.transform(data, tap="blocks.2"), encoder.transform(data, tap="blocks.2"))
    assert cut_encoder(encoder, ["blocks.2"]).side_by_side == ()
    with refusal("bad-value"):
        cut_encoder(encoder, ["blocks.2", "blocks.2"])
    with refusal("unknown-name", "nowhere"):
        cut_encoder(encoder, ["blocks.2", "nowhere"])
