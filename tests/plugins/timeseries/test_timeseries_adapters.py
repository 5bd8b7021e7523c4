"""Adapters of packages that no extra installs (MOMENT, Moirai, Granite): against the packages' own outputs.

These run where the packages were installed with `pip install --no-deps`; what holds for all models is in
`test_timeseries_models`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from diagnostics import DiagnosticsError, TorchEncoder


def builder(family: str) -> Any:
    """What builds an encoder of a family of models."""
    homes = (importlib.import_module(f"diagnostics_timeseries.{home}") for home in ("forecasters", "representations"))
    return next(getattr(home, family) for home in homes if hasattr(home, family))


def built(module: str, name: str, sample: np.ndarray, **options: Any) -> TorchEncoder:
    package = {"moment": "momentfm", "moirai": "uni2ts", "granite": "tsfm_public"}[module]
    pytest.importorskip(package)
    encoder = builder(module)(name, pretrained=False, **options)
    return encoder.sized_for(sample)


def noise(steps: int, variates: int = 1, seed: int = 0) -> np.ndarray:
    walk = np.random.default_rng(seed).standard_normal((steps, variates)).astype(np.float32) + 1.0
    return walk[:, 0] if variates == 1 else walk


def captured(encoder: TorchEncoder, sample: np.ndarray) -> dict[str, torch.Tensor]:
    return encoder.capture(default_collate([encoder.preprocess(sample)]))


def test_moment_norm_is_what_its_package_embeds() -> None:
    sample = noise(70, 3)
    encoder = built("moment", "small", sample)
    result = captured(encoder, sample)["norm"][0]
    window = torch.zeros(1, 3, 512)
    window[0, :, -70:] = torch.from_numpy(sample.T)
    mask = torch.zeros(1, 512)
    mask[:, -70:] = 1
    with torch.no_grad():
        module: Any = encoder.module
        given = module(x_enc=window, input_mask=mask, reduction="none").embeddings[0]
    assert given.shape == (3, 64, 64)
    torch.testing.assert_close(result, given[:, -8:].flatten(0, 1), rtol=0, atol=1e-6)
    # The six steps of the first patch, which is only partly filled, are no part of the grid.
    assert encoder.covers((70,)) == ((6.0, 70.0),)


@pytest.mark.parametrize("variates", [1, 3])
def test_moirai_is_given_what_its_forecaster_would_give(variates: int) -> None:
    pytest.importorskip("uni2ts")
    sample = noise(150, variates)
    sample[:40] = np.nan
    sample[70:75] = np.nan
    encoder = built("moirai", "small", sample)
    from uni2ts.model.moirai import MoiraiForecast

    forecaster = MoiraiForecast(
        prediction_length=32,
        target_dim=variates,
        feat_dynamic_real_dim=0,
        past_feat_dynamic_real_dim=0,
        context_length=150,
        module=encoder.module,
        patch_size=32,
    )
    series = torch.from_numpy(sample.reshape(150, variates))[None]
    padding = torch.zeros(1, 150)
    padding[:, :40] = 1
    expected = forecaster._convert(32, series.nan_to_num(), ~series.isnan(), padding)
    batch = default_collate([encoder.preprocess(sample)])
    names = ("target", "observed_mask", "sample_id", "time_id", "variate_id", "prediction_mask")
    for name, wanted in zip(names, expected, strict=True):
        if name == "sample_id":
            # The package calls a patch padding where all its steps are padding; the first 40 steps hold one and a bit.
            torch.testing.assert_close(batch[name], wanted.long())
        else:
            torch.testing.assert_close(batch[name], wanted.to(batch[name].dtype))
    assert bool((batch["patch_size"] == 32).all())


def test_moirai_refuses_a_patch_size_that_it_has_not() -> None:
    with pytest.raises(DiagnosticsError, match=r"patches of \[8, 16, 32, 64, 128\] steps, not 10"):
        built("moirai", "small", noise(70), patch_size=10)


@pytest.mark.parametrize("variates", [1, 3])
def test_ttm_blocks_and_their_order(variates: int) -> None:
    # With a frequency token, registers and a resolution token before the patches.
    options = {"resolution_prefix_tuning": True, "register_tokens": 2, "fft_length": 3}
    sample = noise(512, variates)
    encoder = built("granite", "ttm", sample, config=options)
    grid = encoder.tap("embed").grid
    assert grid.tokens == 8 * variates and grid.prefix == 6 * variates
    batch = default_collate([encoder.preprocess(sample)])
    result = encoder.capture(batch)
    module: Any = encoder.module
    with torch.no_grad():
        last = module(batch["series"], past_observed_mask=batch["mask"], freq_token=torch.zeros(1)).last_hidden_state[0]
    torch.testing.assert_close(result["mixers.1"][0, grid.prefix :], last[:, 6:].flatten(0, 1), rtol=0, atol=0)
    torch.testing.assert_close(result["mixers.1"][0, : grid.prefix], last[:, :6].flatten(0, 1), rtol=0, atol=0)
    for variate, patch in ((0, 0), (variates - 1, 5)):
        changed = sample.copy().reshape(512, variates)
        window = slice(64 * patch, 64 * (patch + 1))
        changed[window, variate] = changed[window, variate][::-1]
        other = captured(encoder, changed.reshape(sample.shape))["embed"][0, grid.prefix :]
        moved = (other - result["embed"][0, grid.prefix :]).abs().amax(-1)
        # Scaling sums in another order, which moves the others by rounding.
        assert (moved > 1e-3 * moved.max()).nonzero().flatten().tolist() == [8 * variate + patch]


@pytest.mark.parametrize("variates", [1, 3])
def test_tspulse_keeps_time_and_frequencies_apart(variates: int) -> None:
    sample = noise(512, variates)
    encoder = built("granite", "tspulse", sample)
    grid = encoder.tap("embed").grid
    assert grid.tokens == 32 * variates and grid.prefix == 40 * variates
    batch = default_collate([encoder.preprocess(sample)])
    result = encoder.capture(batch)
    module: Any = encoder.module
    kept: list[torch.Tensor] = []
    original = module.time_encoding.forward
    module.time_encoding.forward = lambda *args: kept.append(original(*args)) or kept[-1]
    with torch.no_grad():
        last = module(batch["series"], past_observed_mask=batch["mask"], enable_masking=False).last_hidden_state[0]
    tokens = result["mixers.2"][0]
    torch.testing.assert_close(tokens[grid.prefix :], last[:, :32].flatten(0, 1), rtol=0, atol=0)
    special = tokens[: grid.prefix].unflatten(0, (variates, 40))
    torch.testing.assert_close(special[:, :8], last[:, 64:], rtol=0, atol=0)
    torch.testing.assert_close(special[:, 8:], last[:, 32:64], rtol=0, atol=0)
    # A norm over all tokens precedes the first block, so that every token moves a little: the encoding before it tells.
    changed = sample.copy().reshape(512, variates)
    changed[80:96, -1] = changed[80:96, -1][::-1]
    other = captured(encoder, changed.reshape(sample.shape))["embed"][0, grid.prefix :]
    moved = (kept[-1] - kept[0])[0].abs().amax(-1)
    assert (moved > 1e-3 * moved.max()).nonzero().tolist() == [[variates - 1, 5]]
    assert int((other - result["embed"][0, grid.prefix :]).square().sum(-1).argmax()) == 32 * (variates - 1) + 5


def test_flowstate_layers_are_those_of_its_forecaster_and_causal() -> None:
    sample = noise(96)
    encoder = built("granite", "flowstate", sample)
    result = captured(encoder, sample)
    module: Any = encoder.module
    module.model.config.min_context = 0
    for layer in module.model.encoder.layers:
        layer.config.min_context = layer.ssm.config.min_context = 0
    with torch.no_grad():
        given = module(torch.from_numpy(sample)[None, :, None])
    for i in range(2):
        torch.testing.assert_close(result[f"layers.{i}"][0], given.hidden_states[i][:, 0])
    # The forecaster reads its last layer at the last step only.
    torch.testing.assert_close(result["layers.2"][0, -1:], given.backbone_hidden_state[:, 0], rtol=1e-4, atol=1e-5)
    changed = sample.copy()
    changed[40:42] = changed[40:42][::-1]
    difference = (captured(encoder, changed)["embed"] - result["embed"])[0].abs().amax(-1)
    assert bool((difference[:40] == 0).all()) and int(difference.argmax()) in (40, 41)


@pytest.mark.parametrize("name", ["ttm", "tspulse", "flowstate", "patchtst-fm"])
def test_granite_reads_what_its_package_saves(name: str, tmp_path: Path, capfd: Any) -> None:
    pytest.importorskip("tsfm_public")
    from diagnostics_timeseries import representations

    settings = dict(representations.GRANITE_SMALL[name])
    kind, _ = representations._kind(settings, name)
    torch.manual_seed(3)
    whole = kind(kind.config_class(**settings))
    whole.save_pretrained(tmp_path / name)
    capfd.readouterr()
    encoder = representations.granite(str(tmp_path / name))
    reported = capfd.readouterr()
    assert reported == ("", ""), "loading prints nothing"
    assert encoder.name == f"granite:{name}"
    ours, theirs = dict(encoder.module.named_parameters()), dict(whole.named_parameters())
    inner = "backbone." if name in ("ttm", "tspulse") else ""
    assert ours and all(torch.equal(value, theirs[inner + key]) for key, value in ours.items())
    again = encoder.fresh(1)
    assert again.identity["weights"] == encoder.fresh(1).identity["weights"] != encoder.identity["weights"]


@pytest.mark.parametrize("module", ["moment", "moirai"])
def test_moment_and_moirai_read_what_their_packages_save(module: str, tmp_path: Path, capfd: Any) -> None:
    encoder = built(module, "small", noise(70), seed=3)
    from safetensors.torch import save_file

    build = builder(module)
    settings = dict(getattr(sys.modules[build.__module__], f"{module.upper()}_SMALL"))
    import json

    (tmp_path / "config.json").write_text(json.dumps(settings))
    state = {key: value.contiguous() for key, value in encoder.module.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    capfd.readouterr()
    again = build(str(tmp_path))
    assert capfd.readouterr() == ("", ""), "loading prints nothing"
    assert again.identity["weights"] == encoder.identity["weights"]
    state.pop(next(iter(state)))
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(DiagnosticsError, match="1 tensors missing"):
        build(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "sample", "why"),
    [
        ("ttm", noise(500), "reads exactly 512 steps, a series has 500"),
        ("tspulse", noise(500), "reads exactly 512 steps, a series has 500"),
        ("flowstate", noise(100, 2), "reads one variate, not 2"),
        ("patchtst-fm", noise(1000), "exceeds the 960"),
    ],
)
def test_granite_refuses_what_does_not_fit(name: str, sample: np.ndarray, why: str) -> None:
    with pytest.raises(DiagnosticsError, match=why):
        built("granite", name, sample)


@pytest.mark.parametrize(
    ("package", "module", "line"),
    [
        ("momentfm.models.moment", "moment", r"pip install --no-deps momentfm"),
        ("uni2ts.model.moirai.module", "moirai", r"pip install jax && pip install --no-deps 'uni2ts>=1.2,<3'"),
        ("tsfm_public", "granite", r"pip install --no-deps granite-tsfm"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(
    package: str, module: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = package.split(".")
    for i in range(len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[: i + 1]), None)
    with pytest.raises(DiagnosticsError, match=line):
        builder(module)("any")
