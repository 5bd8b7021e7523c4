"""Time-series foundation models: taps against the packages' own outputs, tokens against the steps that they stand for."""

from __future__ import annotations

import dataclasses
import importlib
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from diagnostics import DiagnosticsError, TorchEncoder
from diagnostics.encoders.modules import pool
from tests.support.refusals import refusal


@dataclasses.dataclass(frozen=True)
class Case:
    """A small untrained model: package and module of the plugin, its name there, and what is known of it.

    `size` steps make a token; `steps` a sample of the tests; `tolerance` is relative to the largest activation.
    """

    package: str
    module: str
    name: str
    size: int
    variates: int = 1
    tolerance: float = 1e-5
    steps: int = 96
    cut: bool = False
    """Whether a first patch that is only partly filled is no token."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def tokens(self, steps: int) -> int:
        return steps // self.size if self.cut else -(-steps // self.size)


ONE = {
    "t5": Case("chronos", "chronos", "t5", 1),
    "bolt": Case("chronos", "chronos", "bolt", 16),
    "chronos2": Case("chronos", "chronos", "2", 16),
    # The package computes its recurrence in bfloat16.
    "tirex": Case("tirex", "tirex", "small", 32, tolerance=3e-2, options={"context": 256}),
    "timesfm3": Case("timesfm3", "timesfm3", "small", 32, tolerance=1e-4),
    # In no extra: these run where the packages were installed with --no-deps.
    "moment": Case("momentfm", "moment", "small", 8, cut=True),
    "moirai": Case("uni2ts", "moirai", "small", 32),
    "patchtst-fm": Case("tsfm_public", "granite", "patchtst-fm", 16),
}
SEVERAL = ("chronos2", "tirex", "timesfm3", "moment", "moirai", "patchtst-fm")
CASES = ONE | {f"{name} of 3": dataclasses.replace(ONE[name], variates=3) for name in SEVERAL}
MANTIS = {"v1": Case("mantis", "mantis", "v1", 16), "v2": Case("mantis", "mantis", "v2", 16)}
REST = {
    "ttm": Case("tsfm_public", "granite", "ttm", 64, steps=512),
    "ttm of 3": Case("tsfm_public", "granite", "ttm", 64, 3, steps=512),
    "tspulse": Case("tsfm_public", "granite", "tspulse", 16, steps=512),
    "tspulse of 3": Case("tsfm_public", "granite", "tspulse", 16, 3, steps=512),
    "flowstate": Case("tsfm_public", "granite", "flowstate", 1),
}
ALL = CASES | MANTIS | REST
WINDOWED = pytest.mark.parametrize("case", CASES)
EVERY = pytest.mark.parametrize("case", ALL)


def builder(family: str) -> Any:
    """What builds an encoder of a family of models."""
    homes = (importlib.import_module(f"diagnostics_timeseries.{home}") for home in ("forecasters", "representations"))
    return next(getattr(home, family) for home in homes if hasattr(home, family))


def built(case: str, **options: Any) -> TorchEncoder:
    known = ALL[case]
    pytest.importorskip(known.package)
    return builder(known.module)(known.name, pretrained=False, **known.options, **options)


def noise(steps: int, variates: int, seed: int = 0) -> np.ndarray:
    """White noise about a level: no trend, so that nothing is detrended."""
    walk = np.random.default_rng(seed).standard_normal((steps, variates)).astype(np.float32) + 1.0
    return walk[:, 0] if variates == 1 else walk


def captured(encoder: TorchEncoder, *samples: np.ndarray, taps: list[str] | None = None) -> dict[str, torch.Tensor]:
    return encoder.capture(default_collate([encoder.preprocess(sample) for sample in samples]), taps)


@EVERY
def test_every_tap_is_what_its_module_gave_or_took(case: str) -> None:
    # The oracle replaces `forward` of the modules by one that keeps a copy; it shares nothing with the hooks.
    sample = noise(ALL[case].steps, ALL[case].variates)
    encoder = built(case).sized_for(sample)
    assert isinstance(encoder, TorchEncoder)
    result = captured(encoder, sample)
    kept: dict[tuple[str, str], Any] = {}
    names = {tap.site.module for tap in encoder.taps if tap.site}

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            kept[name, "before"] = (args or tuple(kwargs.values()))[0].clone()
            given = original(*args, **kwargs)
            first = given if isinstance(given, torch.Tensor) else given[0]
            kept[name, "after"] = first.clone()
            return given

        return forward

    for name in names:
        module = encoder.module.get_submodule(name)
        module.forward = wrapped(name, module.forward)
    captured(encoder, sample, taps=[])
    for tap in encoder.taps:
        assert tap.site is not None
        raw = kept[tap.site.module, tap.site.when]
        of_rows = raw.reshape(tap.site.rows, -1, tap.features)[:, tap.site.padding :]
        if tap.site.order:
            of_rows = of_rows[:, list(tap.site.order)]
        prefix = tap.grid.prefix
        expected = torch.cat([of_rows[:, :prefix].mean(0), of_rows[:, prefix:].flatten(0, 1)])
        torch.testing.assert_close(result[tap.name][0], expected, rtol=0, atol=0)


def moved(encoder: TorchEncoder, sample: np.ndarray, changed: np.ndarray) -> list[int]:
    """Grid tokens of `embed` that differ between two samples, as much as the one that differs most."""
    grid = encoder.tap("embed").grid
    before, after = (captured(encoder, one, taps=["embed"])["embed"][0, grid.prefix :] for one in (sample, changed))
    difference = (before - after).abs().amax(-1)
    return torch.nonzero(difference > 1e-3 * difference.max()).flatten().tolist()


@WINDOWED
def test_values_permuted_in_one_window_move_its_token_and_no_other(case: str) -> None:
    # Mean and spread of the series stay, so scaling does; only what the window holds can move.
    size, variates = CASES[case].size, CASES[case].variates
    # Half a window more than whole ones, so that padding on the left is in play.
    steps = 5 * size + size // 2
    sample = noise(steps, variates)
    encoder = built(case).sized_for(sample)
    assert isinstance(encoder, TorchEncoder)
    grid = encoder.tap("embed").grid
    tokens = grid.shape[-1]
    assert tokens == CASES[case].tokens(steps)
    window = 2 if size == 1 else size
    for variate in range(variates):
        for start in range(steps - window, -1, -window):
            changed = sample.copy()
            column = changed if variates == 1 else changed[:, variate]
            column[start : start + window] = column[start : start + window][::-1]
            # Counted from the end, where no padding is.
            first = tokens - (steps - start) // size
            expected = [variate * tokens + first + i for i in range(window // size)]
            assert moved(encoder, sample, changed) == expected
    # The same test must see a wrong order that is planted: the last window of the last variate, tokens in reverse.
    reverse = encoder.with_taps([_in_reverse(tap) for tap in encoder.taps])
    changed = sample.copy()
    column = changed if variates == 1 else changed[:, -1]
    column[-window:] = column[-window:][::-1]
    assert moved(reverse, sample, changed) != moved(encoder, sample, changed)


def _in_reverse(tap: Any) -> Any:
    order = tap.site.order or tuple(range(tap.tokens // tap.site.rows))
    prefix = tap.grid.prefix
    site = dataclasses.replace(tap.site, order=(*order[:prefix], *reversed(order[prefix:])))
    return dataclasses.replace(tap, site=site)


@pytest.mark.parametrize("case", MANTIS)
def test_mantis_tokens_stand_for_their_window_and_the_convolution_around_it(case: str) -> None:
    sample = noise(512, 1)
    encoder = built(case)
    for token in (0, 7, 31):
        changed = sample.copy()
        changed[16 * token : 16 * (token + 1)] = changed[16 * token : 16 * (token + 1)][::-1]
        before, after = (captured(encoder, one, taps=["embed"])["embed"][0, 1:] for one in (sample, changed))
        assert int((before - after).square().sum(-1).argmax()) == token


@WINDOWED
def test_a_series_padded_on_its_left_has_the_tokens_that_it_has_alone(case: str) -> None:
    variates, tolerance = CASES[case].variates, CASES[case].tolerance
    # 70 steps are no whole number of windows; 40 more are NaN.
    alone = noise(70, variates)
    wide = np.concatenate([np.full((40, *alone.shape[1:]), np.nan, np.float32), alone])
    short, long = built(case).sized_for(alone), built(case).sized_for(wide)
    result, expected = captured(long, wide), captured(short, alone)
    batch = default_collate([long.preprocess(one) for one in (wide, noise(110, variates, 1))])
    for tap, narrow in zip(long.taps, short.taps, strict=True):
        valid = long.valid(batch, tap)
        assert valid is not None
        # The second sample has no padding, the first as many real tokens as it has alone.
        assert bool(valid[1].all())
        assert int(valid[0].sum()) == narrow.grid.tokens == variates * CASES[case].tokens(70)
        seen = result[tap.name][0, tap.grid.prefix :][valid[0]]
        scale = float(expected[tap.name].abs().max())
        torch.testing.assert_close(
            seen, expected[tap.name][0, narrow.grid.prefix :], rtol=0, atol=10 * tolerance * scale
        )
        mean = pool(tap, result[tap.name], ("mean",), valid[:1])[0, 0]
        torch.testing.assert_close(mean, seen.mean(0), rtol=1e-4, atol=1e-4)
        # Without the mask the padding would have counted.
        assert (pool(tap, result[tap.name], ("mean",))[0, 0] - mean).abs().max() > 1e-3 * scale


@EVERY
def test_a_sample_alone_is_a_sample_in_a_batch(case: str) -> None:
    steps, variates, tolerance = ALL[case].steps, ALL[case].variates, ALL[case].tolerance
    samples = [noise(steps, variates), 50 * noise(steps, variates, 1), noise(steps, variates, 2).cumsum(0)]
    encoder = built(case).sized_for(samples[0])
    assert isinstance(encoder, TorchEncoder)
    together = captured(encoder, *samples)
    for i, sample in enumerate(samples):
        for name, tokens in captured(encoder, sample).items():
            scale = float(tokens.abs().max())
            torch.testing.assert_close(tokens[0], together[name][i], rtol=0, atol=tolerance * scale)


def test_chronos2_would_mix_samples_without_their_groups() -> None:
    encoder = built("chronos2").sized_for(noise(96, 1))
    assert isinstance(encoder, TorchEncoder)
    batch = default_collate([encoder.preprocess(noise(96, 1, seed)) for seed in (0, 1)])
    apart = encoder.capture(batch)["norm"]
    series = batch["series"].flatten(0, 1)
    mixed = encoder.module.encode(series, group_ids=torch.zeros(2, dtype=torch.long))[0][0]
    assert (mixed[:, :6] - apart[:, 2:]).abs().max() > 1e-3


@EVERY
def test_untrained_weights_are_those_of_their_seed(case: str) -> None:
    # Memory full of other numbers, so that what is never initialised would show.
    junk = [torch.full((size,), 7e3) for size in (64, 256, 4096, 16384)]
    one = built(case, seed=1)
    del junk
    state = torch.random.get_rng_state()
    again, other = built(case, seed=1), built(case, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.identity == again.identity
    assert one.identity["weights"] != other.identity["weights"]
    assert one.fresh(3).identity["weights"] == again.fresh(3).identity["weights"] != one.identity["weights"]
    assert one.permuted(3).identity["weights"] not in (one.identity["weights"], one.fresh(3).identity["weights"])
    assert all(p.isfinite().all() and p.abs().max() < 1e3 for p in one.module.parameters())
    sample = noise(ALL[case].steps, ALL[case].variates)
    sized = one.fresh(3).sized_for(sample)
    assert isinstance(sized, TorchEncoder)
    assert all(tokens.isfinite().all() for tokens in captured(sized, sample).values())


@WINDOWED
def test_a_gap_is_masked_or_filled_and_left_out_of_pooling(case: str) -> None:
    size, variates = CASES[case].size, CASES[case].variates
    sample = noise(4 * size if size > 1 else 64, variates)
    gap = slice(size, 2 * size)
    sample[gap] = np.nan
    encoder = built(case).sized_for(sample)
    batch = default_collate([encoder.preprocess(sample)])
    assert all(tokens.isfinite().all() for tokens in encoder.capture(batch).values())
    valid = encoder.valid(batch, encoder.taps[0])
    assert valid is not None
    per_variate = valid[0].reshape(variates, -1)
    assert bool((~per_variate[:, 1]).all()) and int((~per_variate).sum()) == variates


def test_mantis_leaves_out_leading_nan_and_refuses_gaps() -> None:
    encoder = built("v2")
    alone = noise(70, 1)
    wide = np.concatenate([np.full(40, np.nan, np.float32), alone])
    sized = encoder.sized_for(wide)
    result, expected = captured(sized, wide), captured(encoder.sized_for(alone), alone)
    assert all(torch.equal(result[name], expected[name]) for name in result)
    alone[30] = np.nan
    with refusal("not-finite"):
        encoder.sized_for(alone).preprocess(alone)


@pytest.mark.parametrize(
    ("case", "steps", "covered"), [("t5", 40, 0.0), ("bolt", 40, -8.0), ("tirex", 40, -24.0), ("v1", 40, 0.0)]
)
def test_the_grid_reaches_as_far_as_the_padding_to_a_whole_patch(case: str, steps: int, covered: float) -> None:
    encoder = built(case).sized_for(noise(steps, 1))
    assert encoder.covers((steps,)) == ((covered, float(steps)),)
    # The same places in a target that is twice as fine.
    assert encoder.covers((2 * steps,)) == ((2 * covered, 2.0 * steps),)


@pytest.mark.parametrize("case", ["t5", "bolt"])
def test_attention_of_chronos_is_what_its_encoder_gives(case: str) -> None:
    encoder = built(case).sized_for(noise(96, 1))
    assert isinstance(encoder, TorchEncoder)
    batch = default_collate([encoder.preprocess(noise(96, 1, seed)) for seed in (0, 1, 2)])
    result = encoder.attention(batch)
    stack: Any = encoder.module if case == "t5" else encoder.module.encoder
    stack.config._attn_implementation = "eager"
    kept: list[Any] = []
    original = stack.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        kept.append(original(*args, **kwargs, output_attentions=True))
        return kept[-1]

    stack.forward = forward
    encoder.capture(batch, [])
    tokens = encoder.taps[0].tokens
    order = [tokens - 1, *range(tokens - 1)]
    for i, weights in enumerate(kept[0].attentions):
        torch.testing.assert_close(result[f"block.{i}"], weights[..., order, :][..., order], rtol=1e-4, atol=1e-5)
    assert result["block.0"].shape[-1] == tokens


def test_attention_of_mantis_v2_sums_to_one_and_the_others_say_why_not() -> None:
    sample = noise(96, 1)
    for case, why in (
        ("v1", "read before a module"),
        ("chronos2", "2 attentions inside"),
        ("tirex", "no attention inside"),
        ("timesfm3", "2 attentions inside"),
    ):
        encoder = built(case).sized_for(sample)
        with pytest.raises(DiagnosticsError, match=why):
            encoder.attention(default_collate([encoder.preprocess(sample)]))
    encoder = built("v2")
    result = encoder.attention(default_collate([encoder.preprocess(noise(512, 1))]))
    assert set(result) == {"layers.0", "layers.1", "layers.2"}
    torch.testing.assert_close(result["layers.1"].sum(-1), torch.ones(1, 4, 33), rtol=0, atol=1e-5)


def test_mantis_layers_are_those_that_its_package_returns() -> None:
    trainer = pytest.importorskip("mantis.trainer")
    sample = noise(512, 1)
    for case in MANTIS:
        encoder = built(case)
        result = captured(encoder, sample)
        network: Any = encoder.module
        assert dict(encoder.maker_names) == {"layers.2": "MantisTrainer.transform (class token)"}
        handed = trainer.MantisTrainer(device="cpu", network=network).transform(sample[None, None])
        torch.testing.assert_close(result["layers.2"][:, 0], torch.from_numpy(handed))
        network.output_token = "combined"
        with torch.no_grad():
            for i in range(3):
                network.return_transf_layer = i
                expected = network(encoder.preprocess(sample)["series"][None])[0]
                tokens = result[f"layers.{i}"][0]
                torch.testing.assert_close(torch.cat([tokens[0], tokens[1:].mean(0)]), expected)
            network.output_token, network.return_transf_layer, network.pre_training = "cls_token", -1, True
            torch.testing.assert_close(result["head.projector"][0], network(encoder.preprocess(sample)["series"][None]))


def test_tirex_blocks_are_those_that_its_package_embeds() -> None:
    sample = noise(70, 1)
    encoder = built("tirex").sized_for(sample)
    assert isinstance(encoder, TorchEncoder)
    assert dict(encoder.maker_names) == {"blocks.3": "_embed_context (last layer)"}
    result = captured(encoder, sample)
    expected = encoder.module._embed_context(torch.from_numpy(sample)[None])
    assert expected.shape == (1, 3, 4, 64)
    for i in range(4):
        torch.testing.assert_close(result[f"blocks.{i}"], expected[:, :, i], rtol=0, atol=0)


@pytest.mark.parametrize("case", ["moment", "moment of 3", "ttm", "ttm of 3", "tspulse", "tspulse of 3", "flowstate"])
def test_what_makers_name_stands_at_the_tap_of_that_name(case: str) -> None:
    """Every grid token is a row of what the package hands out by the name, and no other tap's tokens are."""
    sample = noise(ALL[case].steps, ALL[case].variates)
    encoder = built(case).sized_for(sample)
    assert isinstance(encoder, TorchEncoder)
    batch = default_collate([encoder.preprocess(sample)])
    ((name, called),) = encoder.maker_names.items()
    result = encoder.capture(batch)
    network: Any = encoder.module
    with torch.no_grad():
        if case == "flowstate":
            handed = network.model(batch["series"][..., None], batch_first=True, return_dict=True)
        elif called == "last_hidden_state":
            options = {"freq_token": torch.zeros(1)} if "ttm" in case else {"enable_masking": False}
            handed = network(batch["series"] * batch["mask"], past_observed_mask=batch["mask"], **options)
        else:
            handed = network.embed(x_enc=batch["series"], input_mask=batch["mask"], reduction="none")
    attribute = {"embed(reduction='none')": "embeddings", "last_hidden_state": "last_hidden_state"}
    rows = getattr(handed, attribute.get(called, "backbone_hidden_state")).flatten(0, -2)
    apart: dict[str, float] = {}
    for tap in encoder.taps:
        tokens = result[tap.name][0, tap.grid.prefix :][-1 if called.endswith("(last step)") else 0 :]
        apart[tap.name] = float(torch.cdist(tokens.double(), rows.double()).amin(1).max() / tokens.norm(dim=1).mean())
    assert apart.pop(name) < 1e-5 and min(apart.values()) > 1e-3, apart


@EVERY
def test_names_are_of_taps_and_the_same_for_every_length(case: str) -> None:
    encoder = built(case)
    named = encoder.maker_names
    assert set(named) <= {tap.name for tap in encoder.taps}
    # Moirai's and PatchTST-FM's own functions hand out forecasts alone.
    assert bool(named) == (ALL[case].module != "moirai" and ALL[case].name != "patchtst-fm")
    assert encoder.sized_for(noise(ALL[case].steps, ALL[case].variates)).maker_names == named


def test_timesfm3_context_does_not_depend_on_the_horizon() -> None:
    sample = noise(70, 3)
    encoder = built("timesfm3").sized_for(sample)
    assert isinstance(encoder, TorchEncoder)
    assert dict(encoder.maker_names) == {"layers.3": "transformer_output (of decode's aux outputs)"}
    result = captured(encoder, sample)
    network: Any = encoder.module
    _, kept = network.decode(torch.from_numpy(sample.T)[None], horizon=300, return_aux_outputs=True)
    for tap, key in (("embed", "transformer_input"), ("layers.3", "transformer_output")):
        expected = kept[f"__call__:{key}"][:, :, :3].flatten(1, 2)
        torch.testing.assert_close(result[tap][:, 6:], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of every Chronos family, saved by its own library."""
    pytest.importorskip("chronos")
    from diagnostics_timeseries import forecasters

    root = tmp_path_factory.mktemp("chronos")
    for name, settings in forecasters.CHRONOS_SMALL.items():
        kind, _ = forecasters._kind(settings, name)
        torch.manual_seed(5)
        forecasters._untrained(kind, settings).save_pretrained(root / name)
    return root


@pytest.mark.parametrize(("name", "variates"), [("t5", 1), ("bolt", 1), ("2", 3)])
def test_chronos_of_a_folder_embeds_as_the_packages_pipeline(folders: Path, name: str, variates: int) -> None:
    from chronos import BaseChronosPipeline
    from diagnostics_timeseries.forecasters import chronos as build

    sample = noise(70, variates)
    sample[:5] = np.nan
    encoder = build(str(folders / name)).sized_for(sample)
    assert isinstance(encoder, TorchEncoder) and encoder.name == f"chronos:{name}"
    result = captured(encoder, sample)["norm"][0]
    pipeline: Any = BaseChronosPipeline.from_pretrained(folders / name, dtype=torch.float32)
    assert dict(encoder.maker_names) == {"norm": f"{type(pipeline).__name__}.embed"}
    if name == "2":
        given = pipeline.embed([sample.T])[0][0]
        # Patches, REG, the future: the future and REG come first, and their variates are averaged.
        expected = torch.cat([given[:, [-1, -2]].mean(0), given[:, :-2].flatten(0, 1)])
    else:
        given = pipeline.embed(torch.from_numpy(sample))[0][0]
        expected = torch.cat([given[-1:], given[:-1]])
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_chronos_weights_that_do_not_fit_are_refused(folders: Path, tmp_path: Path, capfd: Any) -> None:
    from diagnostics_timeseries.forecasters import chronos as build

    capfd.readouterr()
    build(str(folders / "bolt"))
    assert capfd.readouterr() == ("", ""), "loading prints nothing"
    mixed, cut = tmp_path / "mixed", tmp_path / "cut"
    shutil.copytree(folders / "t5", mixed)
    shutil.copy(folders / "bolt" / "config.json", mixed)
    # The library alone would load this one, with random patch embeddings.
    with refusal("other-weights", "input_patch_embedding.hidden_layer.bias is missing"):
        build(str(mixed))
    shutil.copytree(folders / "bolt", cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:3000])
    with refusal("damaged"):
        build(str(cut))
    (cut / "config.json").write_text('{"architectures": ["BertModel"]}')
    with refusal("other-weights", "BertModel"):
        build(str(cut))


@pytest.mark.parametrize(
    ("package", "module"), [("chronos", "chronos"), ("tirex", "tirex"), ("mantis", "mantis"), ("timesfm3", "timesfm3")]
)
def test_what_is_neither_folder_nor_on_the_hub_is_told_in_one_sentence(
    package: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    build = builder(module)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refusal("not-fetched", "nobody/nothing"):
        build("nobody/nothing")
    with refusal("missing-file", "nowhere"):
        build(str(tmp_path / "nowhere" / "deep"))
    with refusal("missing-file", tmp_path):
        build(str(tmp_path))


def test_tirex_reads_its_checkpoint_and_no_other_pickle(tmp_path: Path) -> None:
    encoder = built("tirex", seed=4)
    from diagnostics_timeseries.forecasters import TIREX_SMALL as SMALL
    from diagnostics_timeseries.forecasters import tirex as build

    state = {
        "hyper_parameters": {"model_config": dict(SMALL), "train_ctx_len": 2048},
        "state_dict": encoder.module.state_dict(),
    }
    torch.save(state, tmp_path / "model.ckpt")
    assert build(str(tmp_path)).identity["weights"] == encoder.identity["weights"]
    assert build(str(tmp_path / "model.ckpt")).identity["weights"] == encoder.identity["weights"]
    (tmp_path / "model.ckpt").write_bytes(pickle.dumps(Path("x"), protocol=2))
    with refusal("unreadable"):
        build(str(tmp_path))


@pytest.mark.parametrize("module", ["mantis", "timesfm3"])
def test_mantis_and_timesfm3_read_what_their_packages_save(module: str, tmp_path: Path, capfd: Any) -> None:
    for case in ("v1", "v2") if module == "mantis" else ("timesfm3",):
        encoder = built(case, seed=4)
        network: Any = encoder.module
        network.save_pretrained(tmp_path / case)
        capfd.readouterr()
        again = builder(module)(str(tmp_path / case))
        assert capfd.readouterr() == ("", ""), "loading prints nothing"
        assert again.identity["weights"] == encoder.identity["weights"]
        assert again.fresh(1).identity["weights"] == encoder.fresh(1).identity["weights"]


@pytest.mark.parametrize(
    ("case", "sample", "why"),
    [
        ("t5", np.zeros((20, 2)), "reads one variate, not 2"),
        ("bolt", np.zeros((2049,)), "exceeds the 2048"),
        ("chronos2", np.full(30, np.nan), "needs at least 1 observed"),
        ("tirex", np.full(30, np.inf), "infinite value"),
        ("v1", np.zeros((2, 3, 4)), "not float64 of shape"),
        ("timesfm3", np.zeros((0,)), "not float64 of shape"),
    ],
)
def test_samples_that_do_not_fit_are_refused(case: str, sample: np.ndarray, why: str) -> None:
    with pytest.raises(DiagnosticsError, match=why):
        built(case).sized_for(sample)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for package, module in (
        ("chronos", "chronos"),
        ("tirex.models.tirex", "tirex"),
        ("mantis.architecture", "mantis"),
        ("timesfm3.torch", "timesfm3"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with refusal("missing-package"):
            builder(module)("any")


@pytest.mark.parametrize(
    "case", [*(name for name in CASES if name.endswith("of 3")), *MANTIS, "ttm of 3", "tspulse of 3"]
)
def test_encoders_of_several_variates_conform(case: str, conforms: Callable[..., None]) -> None:
    conforms(built(case).sized_for(noise(ALL[case].steps, 3)))
