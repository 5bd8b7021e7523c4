"""Granite time-series models of one package: TTM, TSPulse, FlowState and PatchTST-FM, told by the config's `model_type`.

The package pins versions of torch and scikit-learn and pip would exchange them here, so it is in no extra:
`pip install --no-deps granite-tsfm`.

- TTM (mixers over patches): reads exactly its context; NaN is marked unobserved. Tokens of frequencies, registers and
  resolution stand before the patches of each variate and are handed over as prefix; the resolution is given as unknown.
- TSPulse: patches of time, then patches of the Fourier transform, then registers. Time is the grid; registers and then
  frequencies are handed over as prefix, since a frequency is no place in time. Reads exactly its context; NaN as in TTM.
- FlowState (a state space, a token a step, time first): NaN on the left is a missing value to it, not padding, so a padded
  series is not quite the series alone. Its last layer is read at all steps; its forecasts start from the last one.
- PatchTST-FM: padded as its forecaster does; masked patches of the future are handed over as prefix.
"""

import copy
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Site, Tap, TorchEncoder, importing
from diagnostics_timeseries.series import (
    SeriesModel,
    any_observed,
    by_variate,
    called,
    check_fits,
    loading,
    patches,
    places,
    quiet,
    seeded,
    settings_of,
    special_last,
    stack,
    whole_patches,
)

SCHEME = "granite:"
_FILES = ("*.json", "*.safetensors")
SMALL: Mapping[str, Mapping[str, Any]] = {
    "ttm": {
        "model_type": "tinytimemixer", "context_length": 512, "patch_length": 64, "patch_stride": 64, "d_model": 64,
        "num_layers": 2, "adaptive_patching_levels": 2, "decoder_num_layers": 1, "decoder_d_model": 16, "dropout": 0.0,
    },
    "tspulse": {
        "model_type": "tspulse", "context_length": 512, "patch_length": 16, "patch_stride": 16, "d_model": 32, "num_layers": 3,
        "fuse_fft": True, "mask_type": "user", "decoder_d_model": 32, "decoder_num_layers": 1, "dropout": 0.0,
    },
    "flowstate": {
        "model_type": "flowstate", "context_length": 2048, "embedding_feature_dim": 32, "encoder_num_layers": 3,
        "encoder_state_dim": 32, "decoder_dim": 16,
    },
    "patchtst-fm": {
        "model_type": "patchtst_fm", "context_length": 1024, "prediction_length": 64, "d_patch": 16, "d_model": 32,
        "n_head": 4, "n_layer": 3, "num_quantile": 9, "pretrain_mask_cont": 2,
    },
}  # fmt: skip


def build(
    model: str, pretrained: bool = True, seed: int = 0, *, config: Mapping[str, Any] | None = None
) -> TorchEncoder:
    """A Granite model from its checkpoint, or untrained (other options: see `series`).

    model: folder of a checkpoint, or a name on the hub; for untrained weights also `ttm`, `tspulse`, `flowstate` or
        `patchtst-fm` (small ones).
    """
    with importing("Granite needs", "pip install --no-deps granite-tsfm (its pins would break this environment)"):
        importlib.import_module("tsfm_public")
    folder, settings = settings_of(SCHEME, model, pretrained, _FILES, SMALL, config)
    name = called(SCHEME, model, pretrained, seed)
    kind, read = _kind(settings, model)

    def untrained() -> Any:
        with quiet():
            return _encoder_of(kind(kind.config_class(**copy.deepcopy(settings))))

    with seeded(seed), loading("granite-tsfm", folder or model):
        if pretrained and folder is not None:
            with quiet():
                whole = kind.from_pretrained(folder, dtype=torch.float32)
            check_fits(whole, folder)
            module = _encoder_of(whole)
        else:
            module = untrained()
    return read(name, module, untrained).encoder()


def _encoder_of(whole: Any) -> Any:
    """Without decoder and head, where the class allows it."""
    return whole.backbone if whole.config.model_type in ("tinytimemixer", "tspulse") else whole


def _kind(settings: Mapping[str, Any], model: str) -> tuple[Any, Callable[..., SeriesModel]]:
    """The package's class that was trained, and who reads it."""
    from tsfm_public.models import flowstate, patchtst_fm, tinytimemixer, tspulse  # pyright: ignore[reportMissingImports]

    known = {
        "tinytimemixer": lambda: (tinytimemixer.TinyTimeMixerForPrediction, _ttm),
        "tspulse": lambda: (tspulse.TSPulseForReconstruction, _tspulse),
        "flowstate": lambda: (flowstate.FlowStateForPrediction, _flowstate),
        "patchtst_fm": lambda: (patchtst_fm.PatchTSTFMForPrediction, _patchtst_fm),
    }
    named = settings.get("model_type")
    if named not in known:
        raise DiagnosticsError(f"{model} is of model type {named}, not of {', '.join(known)}: name another folder.")
    return known[named]()


def _ttm(name: str, module: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    settings = module.config
    size, window = settings.patch_length, settings.context_length
    if settings.multi_scale:
        raise DiagnosticsError(
            f"{name} has patches of several scales, which have no common grid: use another checkpoint."
        )
    tokens = window // size
    special = settings.num_patches - tokens
    blocks = len(module.encoder.mlp_mixer_encoder.mixers)

    def taps(steps: int, variates: int) -> list[Tap]:
        _check_size(name, settings, steps, variates)
        return stack(
            "encoder.mlp_mixer_encoder.mixers", blocks, settings.d_model, places(tokens, variates, variates * special),
            layout="channels_last", order=by_variate(variates, tokens, before=special),
        )  # fmt: skip

    def forward(module: Any, batch: Mapping[str, Tensor]) -> None:
        unknown = torch.zeros(len(batch["series"]), device=batch["series"].device)
        module(batch["series"] * batch["mask"], past_observed_mask=batch["mask"], freq_token=unknown)

    return SeriesModel(
        name, module, taps, _time_last, forward, f"mixers.{blocks - 1}", window, fresh,
        lambda batch: _seen(batch, size), several=True, example=window,
        maker_names={f"mixers.{blocks - 1}": "last_hidden_state"},
    )  # fmt: skip


def _tspulse(name: str, module: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    settings = module.config
    size, window = settings.patch_length, settings.context_length
    tokens = window // size
    frequencies = tokens if settings.fuse_fft else 0
    registers = settings.patch_register_tokens
    layers = [i for i, part in enumerate(module.encoder_block.mixers) if type(part).__name__ == "TSPulseLayer"]
    if len(set(settings.num_patches_layerwise)) > 1:
        raise DiagnosticsError(
            f"{name} mixes its patches into fewer, which have no position in the series: use another checkpoint."
        )

    def taps(steps: int, variates: int) -> list[Tap]:
        _check_size(name, settings, steps, variates)
        whole = tokens + frequencies + registers
        # Registers before frequencies, so that `prefix` pools a register.
        special = (*range(tokens + frequencies, whole), *range(tokens, tokens + frequencies))
        starts = range(0, variates * whole, whole)
        order = (*(s + i for s in starts for i in special), *(s + i for s in starts for i in range(tokens)))
        grid = places(tokens, variates, variates * len(special))
        common: dict[str, Any] = {"layout": "channels_last", "order": order}
        first = Site("encoder_block.mixers.0", when="before", **common)
        all_taps = [Tap("embed", 0.0, "embedding", settings.d_model, grid, first)]
        for i, (place, width) in enumerate(zip(layers, settings.d_model_layerwise, strict=True)):
            site = Site(f"encoder_block.mixers.{place}", **common)
            all_taps.append(Tap(f"mixers.{i}", (i + 1) / len(layers), "trunk", width, grid, site))
        return all_taps

    return SeriesModel(
        name, module, taps, _time_last,
        lambda module, batch: module(batch["series"] * batch["mask"], past_observed_mask=batch["mask"], enable_masking=False),  # pyright: ignore
        f"mixers.{len(layers) - 1}", window, fresh, lambda batch: _seen(batch, size), several=True, example=window,
        maker_names={f"mixers.{len(layers) - 1}": "last_hidden_state"},
    )  # fmt: skip


def _flowstate(name: str, module: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    inner = module.model
    settings = inner.config

    def forward(module: Any, batch: Mapping[str, Tensor]) -> None:
        model, series = module.model, batch["series"]
        # Read at all steps, not only where a forecast starts; every layer shares this configuration.
        model.config.min_context = 1
        for layer in model.encoder.layers:
            layer.config.min_context = layer.ssm.config.min_context = 1
        marked = torch.stack([series.nan_to_num(), series.isnan().to(series)], dim=-1)
        normed = model.norm(marked if settings.with_missing else marked[..., :1], "norm")
        model.encoder(model.embed(normed.transpose(0, 1)), scale_factor=settings.scale_factor)

    def prepare(series: Tensor) -> dict[str, Tensor]:
        if not settings.with_missing and bool(series.isnan().any()):
            raise DiagnosticsError("it has missing values (NaN), and this FlowState knows none: fill them.")
        return {"series": series[0]}

    return SeriesModel(
        name, module,
        lambda steps, _: stack(
            "model.encoder.layers", settings.encoder_num_layers, settings.embedding_feature_dim, places(steps, 1),
            layout="time_first",
        ),
        prepare, forward, f"layers.{settings.encoder_num_layers - 1}", settings.context_length, fresh,
        lambda batch: ~batch["series"].isnan(), fewest=2, configuration=f"scale factor {settings.scale_factor},",
        maker_names={f"layers.{settings.encoder_num_layers - 1}": "backbone_hidden_state (last step)"},
    )  # fmt: skip


def _patchtst_fm(name: str, module: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    settings = module.config
    size = settings.d_patch
    if settings.patch_stride is not None:
        raise DiagnosticsError(f"{name} cuts overlapping patches, which have no grid here: use another checkpoint.")
    contiguous = settings.pretrain_mask_cont * (2 if settings.randomize_cpm else 1)
    # The package's least horizon.
    ahead = max(settings.prediction_length, size * max(contiguous, 2))
    future = ahead // size
    if ahead % size:
        raise DiagnosticsError(
            f"{name} forecasts {ahead} steps, no whole number of patches of {size}: use another checkpoint."
        )
    norm = "backbone.prehead_norm" if settings.prehead_norm else None

    def taps(steps: int, variates: int) -> list[Tap]:
        tokens = patches(steps, size)
        left = 0 if settings.use_pruning else settings.n_patch - tokens - future
        return stack(
            "backbone.blocks", settings.n_layer, settings.d_model, places(tokens, variates, future), norm,
            padding=left, order=special_last(tokens, future), rows=variates,
        )  # fmt: skip

    def prepare(series: Tensor) -> dict[str, Tensor]:
        padding = series.isnan().all(0).int().cumprod(0).bool()
        return {
            "series": series.T.contiguous(), "padding": padding[:, None].expand(-1, len(series)).contiguous(),
            "seen": any_observed(series, size).flatten(),
        }  # fmt: skip

    return SeriesModel(
        name, module, taps, prepare,
        lambda module, batch: module(batch["series"], pad_mask=batch["padding"], return_dict=True),
        "norm" if norm else f"blocks.{settings.n_layer - 1}",
        settings.context_length - ahead, fresh, lambda batch: batch["seen"], several=True, covered=whole_patches(size),
    )  # fmt: skip


def _check_size(name: str, settings: Any, steps: int, variates: int) -> None:
    window = settings.context_length
    if steps != window:
        raise DiagnosticsError(
            f"{name} reads exactly {window} steps, a series has {steps}: cut or resample it, or put NaN before it."
        )
    if settings.mode != "common_channel" and variates != settings.num_input_channels:
        raise DiagnosticsError(
            f"{name} mixes {settings.num_input_channels} variates, a series has {variates}: give as many."
        )


def _time_last(series: Tensor) -> dict[str, Tensor]:
    """[V, L] as [L, V], and what of it was observed; the models see zeros in the place of what was not."""
    return {"series": series.nan_to_num().T.contiguous(), "mask": (~series.isnan()).float().T.contiguous()}


def _seen(batch: Mapping[str, Tensor], size: int) -> Tensor:
    """Which patches of `_time_last` hold anything observed, [B, V * patch]."""
    return batch["mask"].transpose(1, 2).unflatten(-1, (-1, size)).any(-1).flatten(1)
