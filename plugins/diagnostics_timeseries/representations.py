"""Models that are trained to represent series: Granite's, Mantis, MOMENT and Fracast."""

import copy
import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostics_timm.weights import quiet, seeding
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Grid, Site, Tap, TorchEncoder, importing
from diagnostics_timeseries.series import (
    FILES,
    SampleError,
    SeriesModel,
    any_observed,
    by_variate,
    check_files,
    check_fits,
    folder_of,
    loading,
    name_of,
    patches,
    places,
    read_config,
    settings_of,
    special_last,
    stack,
    tensors_of,
    whole_patches,
    with_weights,
)

# Granite time-series models of one package: TTM, TSPulse, FlowState and PatchTST-FM, told by the config's `model_type`.
#
# The package pins versions of torch and scikit-learn and pip would exchange them here, so it is in no extra:
# `pip install --no-deps granite-tsfm`.
#
# - TTM (mixers over patches): reads exactly its context; NaN is marked unobserved. Tokens of frequencies, registers and
#   resolution stand before the patches of each variate and are handed over as prefix; the resolution is given as
#   unknown.
# - TSPulse: patches of time, then patches of the Fourier transform, then registers. Time is the grid; registers and
#   then frequencies are handed over as prefix, since a frequency is no place in time. Reads exactly its context; NaN as
#   in TTM.
# - FlowState (a state space, a token a step, time first): NaN on the left is a missing value to it, not padding, so a
#   padded series is not quite the series alone. Its last layer is read at all steps; its forecasts start from the last
#   one.
# - PatchTST-FM: padded as its forecaster does; masked patches of the future are handed over as prefix.

GRANITE = "granite:"
GRANITE_SMALL: Mapping[str, Mapping[str, Any]] = {
    "ttm": {
        "model_type": "tinytimemixer", "context_length": 512, "patch_length": 64, "patch_stride": 64, "d_model": 64,
        "num_layers": 2, "adaptive_patching_levels": 2, "decoder_num_layers": 1, "decoder_d_model": 16, "dropout": 0.0,
    },
    "tspulse": {
        "model_type": "tspulse", "context_length": 512, "patch_length": 16, "patch_stride": 16, "d_model": 32,
        "num_layers": 3,
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


def granite(
    model: str, pretrained: bool = True, seed: int = 0, *, config: Mapping[str, Any] | None = None
) -> TorchEncoder:
    """A Granite model from its checkpoint, or untrained (other options: see `series`).

    model: folder of a checkpoint, or a name on the hub; for untrained weights also `ttm`, `tspulse`, `flowstate` or
        `patchtst-fm` (small ones).
    """
    with importing("Granite needs", "pip install --no-deps granite-tsfm (its pins would break this environment)"):
        importlib.import_module("tsfm_public")
    folder, settings = settings_of(GRANITE, model, pretrained, GRANITE_SMALL, config)
    name = name_of(GRANITE, model, pretrained, seed)
    kind, read = _kind(settings, model)

    def untrained() -> Any:
        with quiet():
            return _encoder_of(kind(kind.config_class(**copy.deepcopy(settings))))

    with seeding(seed), loading("granite-tsfm", folder or model):
        if pretrained and folder is not None:
            with quiet():
                whole = kind.from_pretrained(folder, dtype=torch.float32)
            check_fits(whole, folder)
            module = _encoder_of(whole)
        else:
            module = untrained()
    return read(name, module, untrained).encoder()


def _refusal(name: str, why: str) -> DiagnosticsError:
    return DiagnosticsError(f"{name} {why}: use another checkpoint.", code="unsupported")


def _encoder_of(whole: Any) -> Any:
    """Without decoder and head, where the class allows it."""
    return whole.backbone if whole.config.model_type in ("tinytimemixer", "tspulse") else whole


def _kind(settings: Mapping[str, Any], model: str) -> tuple[Any, Callable[..., SeriesModel]]:
    """The package's class that was trained, and who reads it."""
    from tsfm_public.models import flowstate, patchtst_fm, tinytimemixer, tspulse

    known = {
        "tinytimemixer": lambda: (tinytimemixer.TinyTimeMixerForPrediction, _ttm),
        "tspulse": lambda: (tspulse.TSPulseForReconstruction, _tspulse),
        "flowstate": lambda: (flowstate.FlowStateForPrediction, _flowstate),
        "patchtst_fm": lambda: (patchtst_fm.PatchTSTFMForPrediction, _patchtst_fm),
    }
    named = settings.get("model_type")
    if named not in known:
        raise DiagnosticsError(
            f"{model} is of model type {named}, not of {', '.join(known)}: name another folder.", code="unsupported"
        )
    return known[named]()


def _ttm(name: str, module: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    settings = module.config
    if settings.multi_scale:
        raise _refusal(name, "has patches of several scales, which have no common grid")
    tokens = settings.context_length // settings.patch_length
    special = settings.num_patches - tokens
    blocks = len(module.encoder.mlp_mixer_encoder.mixers)

    def taps(variates: int) -> list[Tap]:
        return stack(
            "encoder.mlp_mixer_encoder.mixers",
            blocks,
            settings.d_model,
            places(tokens, variates, variates * special),
            layout="channels_last",
            order=by_variate(variates, tokens, before=special),
        )

    def forward(module: Any, batch: Mapping[str, Tensor]) -> None:
        unknown = torch.zeros(len(batch["series"]), device=batch["series"].device)
        module(batch["series"] * batch["mask"], past_observed_mask=batch["mask"], freq_token=unknown)

    return _of_window(name, module, taps, forward, f"mixers.{blocks - 1}", fresh)


def _tspulse(name: str, module: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    settings = module.config
    tokens = settings.context_length // settings.patch_length
    frequencies = tokens if settings.fuse_fft else 0
    registers = settings.patch_register_tokens
    layers = [i for i, part in enumerate(module.encoder_block.mixers) if type(part).__name__ == "TSPulseLayer"]
    if len(set(settings.num_patches_layerwise)) > 1:
        raise _refusal(name, "mixes its patches into fewer, which have no position in the series")

    def taps(variates: int) -> list[Tap]:
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

    def forward(module: Any, batch: Mapping[str, Tensor]) -> None:
        module(batch["series"] * batch["mask"], past_observed_mask=batch["mask"], enable_masking=False)

    return _of_window(name, module, taps, forward, f"mixers.{len(layers) - 1}", fresh)


def _of_window(
    name: str,
    module: Any,
    taps: Callable[[int], list[Tap]],
    forward: Callable[[nn.Module, Any], None],
    last: str,
    fresh: Callable[[], nn.Module],
) -> SeriesModel:
    """A model that reads exactly its context, [L, V], with zeros in the place of what was not observed."""
    settings = module.config
    window = settings.context_length

    def taps_of(steps: int, variates: int) -> list[Tap]:
        if steps != window:
            raise SampleError(
                f"{name} reads exactly {window} steps, a series has {steps}: cut or resample it, or put NaN before it."
            )
        if settings.mode != "common_channel" and variates != settings.num_input_channels:
            raise SampleError(
                f"{name} mixes {settings.num_input_channels} variates, a series has {variates}: give as many."
            )
        return taps(variates)

    def prepare(series: Tensor) -> dict[str, Tensor]:
        return {"series": series.nan_to_num().T.contiguous(), "mask": (~series.isnan()).float().T.contiguous()}

    return SeriesModel(
        name,
        module,
        taps_of,
        prepare,
        forward,
        last,
        longest=window,
        fresh=fresh,
        valid=lambda batch: batch["mask"].transpose(1, 2).unflatten(-1, (-1, settings.patch_length)).any(-1).flatten(1),
        several=True,
        example=window,
        maker_names={last: "last_hidden_state"},
    )


def _flowstate(name: str, module: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    settings = module.model.config

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
            raise SampleError("it has missing values (NaN), and this FlowState knows none: fill them.")
        return {"series": series[0]}

    return SeriesModel(
        name,
        module,
        lambda steps, _: stack(
            "model.encoder.layers",
            settings.encoder_num_layers,
            settings.embedding_feature_dim,
            places(steps, 1),
            layout="time_first",
        ),
        prepare,
        forward,
        f"layers.{settings.encoder_num_layers - 1}",
        longest=settings.context_length,
        fresh=fresh,
        valid=lambda batch: ~batch["series"].isnan(),
        fewest=2,
        configuration=f"scale factor {settings.scale_factor},",
        maker_names={f"layers.{settings.encoder_num_layers - 1}": "backbone_hidden_state (last step)"},
    )


def _patchtst_fm(name: str, module: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    settings = module.config
    size = settings.d_patch
    if settings.patch_stride is not None:
        raise _refusal(name, "cuts overlapping patches, which have no grid here")
    contiguous = settings.pretrain_mask_cont * (2 if settings.randomize_cpm else 1)
    # The package's least horizon.
    ahead = max(settings.prediction_length, size * max(contiguous, 2))
    future = ahead // size
    if ahead % size:
        raise _refusal(name, f"forecasts {ahead} steps, no whole number of patches of {size}")
    norm = "backbone.prehead_norm" if settings.prehead_norm else None

    def taps(steps: int, variates: int) -> list[Tap]:
        tokens = patches(steps, size)
        left = 0 if settings.use_pruning else settings.n_patch - tokens - future
        return stack(
            "backbone.blocks",
            settings.n_layer,
            settings.d_model,
            places(tokens, variates, future),
            norm,
            padding=left,
            order=special_last(tokens, future),
            rows=variates,
        )

    def prepare(series: Tensor) -> dict[str, Tensor]:
        padding = series.isnan().all(0).int().cumprod(0).bool()
        return {
            "series": series.T.contiguous(),
            "padding": padding[:, None].expand(-1, len(series)).contiguous(),
            "seen": any_observed(series, size).flatten(),
        }

    return SeriesModel(
        name,
        module,
        taps,
        prepare,
        lambda module, batch: module(batch["series"], pad_mask=batch["padding"], return_dict=True),
        "norm" if norm else f"blocks.{settings.n_layer - 1}",
        longest=settings.context_length - ahead,
        fresh=fresh,
        valid=lambda batch: batch["seen"],
        several=True,
        covered=whole_patches(size),
    )


# Mantis, versions 1 and 2: encoders trained by contrast for classification, over 32 patches and a class token.
#
# Series of any length are resized to 512 steps (linear interpolation), as its makers advise; leading NaN is left out
# before, so that series of unequal length all fill the window. It has no mask: gaps are refused. Each of several
# variates is a series of its own, as in the package's own transform.
#
# Hooks never fire on the blocks of version 1, whose parts are called one by one with the residual sums outside them:
# there a block's output is read as what the next block takes, and the last one's from the transformer.

MANTIS = "mantis:"
_SMALL = {"hidden_dim": 64, "transf_depth": 3, "transf_num_heads": 4, "transf_mlp_dim": 128, "transf_dim_head": 16}
_STACK = "transf_unit.transformer"


def mantis(
    model: str, pretrained: bool = True, seed: int = 0, *, config: Mapping[str, Any] | None = None
) -> TorchEncoder:
    """Mantis of either version, told by its weights (other options: see `series`).

    model: folder of a checkpoint (`model.safetensors`, with or without `config.json`), or its name on the hub; for
        untrained weights `v1` or `v2` (small ones).
    """
    with importing("Mantis needs", "pip install mantis-tsfm"):
        from mantis.architecture import MantisV1, MantisV2
    versions: dict[str, Any] = {"v1": MantisV1, "v2": MantisV2}
    if not pretrained and model in versions:
        version, sizes, tensors = model, _SMALL | dict(config or {}), None
    else:
        folder = folder_of(MANTIS, model, FILES, "v2")
        tensors = tensors_of("Mantis", folder)
        version = "v2" if any(".attention.wQKV." in name for name in tensors) else "v1"
        sizes = read_config(folder) if (folder / "config.json").is_file() else {}
    # What decides what the module returns, not what its taps hold.
    sizes = {
        k: v for k, v in sizes.items() if k not in ("device", "output_token", "return_transf_layer", "pre_training")
    }

    def untrained() -> Any:
        network = versions[version](device="cpu", **sizes)
        for part in network.modules():
            # Unused, and it keeps version 2 from being copied.
            part.__dict__.pop("apply_rotary_emb", None)
        return network

    with seeding(seed), loading("Mantis", Path(model)):
        module = untrained()
        if tensors is not None and pretrained:
            module.load_state_dict(tensors)
    steps, last = getattr(module, "seq_len", 512), f"layers.{len(module.transf_unit.transformer.layers) - 1}"
    return SeriesModel(
        name_of(MANTIS, model, pretrained, seed),
        module,
        lambda _, variates: _mantis_taps(module, version, variates),
        lambda series: {"series": _resize(series, steps)},
        # pyrefly: ignore[not-callable]
        lambda module, batch: module.prj(module(batch["series"].flatten(0, 1).unsqueeze(1))),
        last,
        longest=None,
        fresh=untrained,
        fewest=2,
        several=True,
        configuration=f"resized to {steps} steps",
        maker_names={last: "MantisTrainer.transform (class token)"},
    ).encoder()


def _mantis_taps(module: Any, version: str, variates: int) -> list[Tap]:
    width, depth, tokens = module.hidden_dim, len(module.transf_unit.transformer.layers), module.num_patches
    layers, grid = f"{_STACK}.layers", places(tokens, variates, 1)
    if version == "v2":
        # [B, 1, token, F] with the class token behind the others.
        site = {"layout": "channels_last", "order": special_last(tokens, 1), "rows": variates}
        taps = stack(layers, depth, width, grid, **site)
    else:
        before = [Site(f"{layers}.{i}.0", when="before", rows=variates) for i in range(depth)]
        taps = [Tap("embed", 0.0, "embedding", width, grid, before[0])]
        for i, site in enumerate([*before[1:], Site(_STACK, rows=variates)]):
            taps.append(Tap(f"layers.{i}", (i + 1) / depth, "trunk", width, grid, site))
    # The projector of training's contrast, of the class token; users are given what stands before it.
    projected = places(1, 1) if variates == 1 else Grid((variates,), ("v",))
    site = Site("prj", layout="features", rows=variates)
    return [*taps, Tap("head.projector", 1.0 + 1.0 / depth, "head", width, projected, site)]


def _resize(series: Tensor, steps: int) -> Tensor:
    """[V, L] as [V, steps], without leading NaN."""
    observed = ~series.isnan().any(0)
    series = series[:, int(observed.int().argmax()) :]
    if bool(series.isnan().any()) or series.shape[1] < 2:
        raise DiagnosticsError(
            "it has gaps (NaN), and Mantis has no mask: fill them, by interpolation for example.", code="not-finite"
        )
    return nn.functional.interpolate(series[None], size=steps, mode="linear", align_corners=False)[0]


# MOMENT: a T5 encoder over patches of 8 steps of a window of 512, trained to reconstruct masked patches.
#
# Shorter series stand at the window's end with a mask before them. The model hides a patch of which one step is masked,
# so a first patch that is only partly filled is no token, and a patch with a gap is left out of pooling. Each of
# several variates is a row of its own, as in the package.
#
# The package pins versions that cannot be installed beside this one, so it is in no extra: `pip install --no-deps
# momentfm`.

MOMENT_SCHEME = "moment:"
MOMENT_SMALL: Mapping[str, Any] = {
    "task_name": "embedding", "model_name": "MOMENT", "transformer_type": "encoder_only", "d_model": 64, "seq_len": 512,
    "patch_len": 8, "patch_stride_len": 8, "transformer_backbone": "google/flan-t5-small",
    "t5_config": {
        "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 4, "num_heads": 4, "feed_forward_proj": "gated-gelu",
        "vocab_size": 8,
    },
}  # fmt: skip


def moment(
    model: str, pretrained: bool = True, seed: int = 0, *, config: Mapping[str, Any] | None = None
) -> TorchEncoder:
    """MOMENT from its checkpoint, or untrained (other options: see `series`).

    model: folder with `config.json` and `model.safetensors`, or a name on the hub; for untrained weights also `small`.
    """
    with importing("MOMENT needs", "pip install --no-deps momentfm (its pins would break this environment)"):
        from momentfm.models.moment import MOMENT
    folder, settings = settings_of(MOMENT_SCHEME, model, pretrained, {"small": MOMENT_SMALL}, config)

    def untrained() -> Any:
        own = {"task_name": "embedding", "enable_gradient_checkpointing": False}
        with warnings.catch_warnings():
            # Heads other than reconstruction are untrained; there is none here.
            warnings.simplefilter("ignore", UserWarning)
            return MOMENT(copy.deepcopy(settings), model_kwargs=own)

    module = with_weights("MOMENT", untrained, folder, pretrained, seed, aside=("head.", "encoder.embed_tokens."))
    size, window = module.patch_len, module.seq_len
    if module.config.patch_stride_len != size:
        raise _refusal(model, "cuts overlapping patches, which have no grid here")

    def taps(steps: int, variates: int) -> Any:
        tokens = steps // size
        return stack(
            "encoder.block",
            len(module.encoder.block),
            module.config.d_model,
            places(tokens, variates),
            "encoder.final_layer_norm",
            padding=window // size - tokens,
            rows=variates,
        )

    def prepare(series: Tensor) -> dict[str, Tensor]:
        observed = ~series.isnan().any(0)
        whole = observed[len(observed) % size :].unflatten(0, (-1, size)).all(-1)
        padding = (window - series.shape[1], 0)
        return {
            "series": nn.functional.pad(series.nan_to_num(), padding),
            "mask": nn.functional.pad(observed.long(), padding),
            "observed": whole.repeat(len(series)),
        }

    return SeriesModel(
        name_of(MOMENT_SCHEME, model, pretrained, seed),
        module,
        taps,
        prepare,
        # pyrefly: ignore[not-callable]
        lambda module, batch: module.embed(x_enc=batch["series"], input_mask=batch["mask"], reduction="none"),
        "norm",
        longest=window,
        fresh=untrained,
        valid=lambda batch: batch["observed"],
        fewest=size,
        several=True,
        covered=lambda steps: (float(steps % size), float(steps)),
        maker_names={"norm": "embed(reduction='none')"},
    ).encoder()


# Fracast-0: ten calls of one shared causal block over a context of 2,048 steps.
#
# The trained weights (85,001 parameters with the forecasting head, 25,536 in the encoder; Apache-2.0) arrive in the
# `fracast` wheel. A series is scaled to [0, 1] by its own minimum and range and right-aligned in the context, as the
# package's own forecasting does; the padding on the left is masked, and the taps hand over the tokens of real steps
# only. NaN is masked too: on the left (series padded to one length) it is the model's own padding, and pooling leaves
# out the tokens of steps that were not observed.

FEWEST_STEPS = 8
"""The package refuses fewer observed steps, since their range says nothing."""


def fracast(path: str | None = None) -> TorchEncoder:
    """The encoder for series of the full context; `sized_for` a sample it hands over that sample's steps."""
    with importing("Fracast needs", "pip install fracast"):
        from fracast import FracastModel
    if path is not None:
        if not Path(path).is_dir():
            raise DiagnosticsError(
                f"There is no folder {path}: give a Fracast release directory, or leave ?path= out.",
                code="missing-file",
            )
        check_files(Path(path))
    model = FracastModel.from_pretrained(path, weights="fp32")
    core: nn.Module = model.core.eval()
    context = model.context_length
    # pyrefly: ignore[not-callable]
    stages = len(core.dilations())
    if getattr(core, "block", None) is None or getattr(core, "scale", None) is None:
        raise DiagnosticsError(
            "This Fracast release does not share one scaled block: only Fracast-0 is known here.", code="unsupported"
        )

    def fresh() -> nn.Module:
        import fracast

        config = read_config(Path(path) if path else Path(fracast.__file__).parent / "weights")
        return type(core)({key: config[key] for key in ("model", "pyramid")})

    def for_length(length: int) -> TorchEncoder:
        def preprocess(sample: np.ndarray) -> dict[str, torch.Tensor]:
            series = _check_sample(sample, context)
            if len(series) != length:
                raise SampleError(f"it has {len(series)} steps among series of {length}: cut all to one length.")
            return _in_context(series, context)

        def valid(batch: dict[str, torch.Tensor], tap: Tap) -> torch.Tensor | None:
            observed = batch["mask"][:, 0, context - length :]
            return None if bool(observed.all()) else observed

        return TorchEncoder(
            "fracast",
            "series",
            core,
            # pyrefly: ignore[bad-argument-type]
            _taps(stages, core.d, context, length),
            "norm",
            preprocess,
            example=np.random.default_rng(0).standard_normal(length).cumsum(),
            forward=lambda core, batch: core(batch["values"], batch["mask"], batch["mask"].float()),
            fresh=fresh,
            configuration=f"series of {length} steps in a context of {context}",
            sized_for=lambda sample: for_length(len(_check_sample(sample, context))),
            valid=valid,
        )

    return for_length(context)


def _taps(stages: int, width: int, context: int, length: int) -> list[Tap]:
    grid = Grid((length,), ("t",))
    padding = context - length
    # The residual stream before the first block is what `scale` takes first: projection plus periodic phase.
    taps = [Tap("embed", 0.0, "embedding", width, grid, Site("scale", 0, stages, "before", padding=padding))]
    for i in range(stages):
        site = Site("block", i, stages, padding=padding)
        taps.append(Tap(f"block.{i}", (i + 1) / stages, "trunk", width, grid, site))
    return [*taps, Tap("norm", 1.0, "trunk", width, grid, Site("norm", padding=padding))]


def _check_sample(sample: np.ndarray, context: int) -> np.ndarray:
    series = np.asarray(sample, dtype=np.float32)
    if series.ndim == 2 and series.shape[1] == 1:
        series = series[:, 0]
    if series.ndim != 1:
        raise SampleError(f"Fracast reads one variate [time], not a sample of shape {np.shape(sample)}.")
    if len(series) > context:
        raise SampleError(f"A series of {len(series)} steps exceeds Fracast's context of {context}: cut it first.")
    if np.isfinite(series).sum() < FEWEST_STEPS:
        raise SampleError(f"Fracast needs at least {FEWEST_STEPS} finite steps in a series of {len(series)}.")
    return series


def _in_context(series: np.ndarray, context: int) -> dict[str, torch.Tensor]:
    """`values` in [0, 1] and `mask` of observed steps, both [1, context], right-aligned; gaps (NaN) are masked."""
    observed = np.isfinite(series)
    low = np.float64(series[observed].min())
    span = max(np.float64(series[observed].max()) - low, 1e-5)
    values = np.zeros((1, context), dtype=np.float32)
    mask = np.zeros((1, context), dtype=bool)
    values[0, context - len(series) :] = np.where(observed, (series - low) / span, 0.0)
    mask[0, context - len(series) :] = observed
    return {"values": torch.from_numpy(values), "mask": torch.from_numpy(mask)}
