"""Forecasters of the makers' packages, read as encoders: Chronos, Moirai, TimesFM 3 and TiRex."""

import copy
import importlib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diagnostics_timm.weights import quiet, seeding
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Tap, TorchEncoder, importing
from diagnostics_timeseries.series import (
    Batch,
    SeriesModel,
    any_observed,
    by_variate,
    check_fits,
    folder_of,
    loading,
    name_of,
    patches,
    places,
    settings_of,
    special_last,
    stack,
    whole_patches,
    with_weights,
)

# Chronos: T5 (a token a step), Bolt (patches) and Chronos-2 (patches, groups of variates).
#
# Run through the package's own tokenizer and `encode`, so scaling, patching and padding are its own. NaN, on the left
# or within, is masked; `valid` leaves out tokens without an observed step. Special tokens stand behind the series and
# are handed over as prefix: EOS (T5), REG (Bolt), and of Chronos-2 first the masked patch of the future, which its
# forecasts are read from, then REG.


CHRONOS = "chronos:"
_SMALL = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 4, "num_decoder_layers": 1, "num_heads": 4}
_PATCHED = {
    "input_patch_size": 16,
    "input_patch_stride": 16,
    "quantiles": [i / 10 for i in range(1, 10)],
    "use_reg_token": True,
}
_T5 = {"feed_forward_proj": "relu", "tie_word_embeddings": False, "decoder_start_token_id": 0, "pad_token_id": 0}
# Untrained models by name, with the token and patch sizes of the published ones and few features.
CHRONOS_SMALL: Mapping[str, dict[str, Any]] = {
    "bolt": _SMALL | _T5 | {
        "architectures": ["ChronosBoltModelForForecasting"], "chronos_pipeline_class": "ChronosBoltPipeline",
        "vocab_size": 2, "eos_token_id": 1,
        "chronos_config": _PATCHED | {"context_length": 2048, "prediction_length": 64},
    },
    "t5": _SMALL | _T5 | {
        "architectures": ["T5ForConditionalGeneration"], "chronos_pipeline_class": "ChronosPipeline",
        "vocab_size": 4096, "eos_token_id": 1,
        "chronos_config": {
            "tokenizer_class": "MeanScaleUniformBins", "tokenizer_kwargs": {"low_limit": -15.0, "high_limit": 15.0},
            "context_length": 512, "prediction_length": 64, "n_tokens": 4096, "n_special_tokens": 2, "pad_token_id": 0,
            "eos_token_id": 1, "use_eos_token": True, "model_type": "seq2seq", "num_samples": 20, "temperature": 1.0,
            "top_k": 50, "top_p": 1.0,
        },
    },
    "2": _SMALL | {
        "architectures": ["Chronos2Model"], "chronos_pipeline_class": "Chronos2Pipeline", "feed_forward_proj": "relu",
        "chronos_config": _PATCHED | {
            "context_length": 8192, "output_patch_size": 16, "use_arcsinh": True, "max_output_patches": 64
        },
    },
}  # fmt: skip

# Not used by the encoder, or stored under another name.
_ASIDE = ("encoder.embed_tokens.", "decoder.", "lm_head.", "output_patch_embedding.")


def chronos(
    model: str, pretrained: bool = True, seed: int = 0, *, config: Mapping[str, Any] | None = None
) -> TorchEncoder:
    """A Chronos model of any of the three families, told by its config (other options: see `series`).

    model: folder of a checkpoint, or its name on the hub; for untrained weights also `t5`, `bolt` or `2` (small ones).
    """
    with importing("Chronos needs", "pip install chronos-forecasting"):
        importlib.import_module("chronos")
    folder, settings = settings_of(CHRONOS, model, pretrained, CHRONOS_SMALL)
    kind, read = _kind(settings, model)
    if pretrained and folder is not None:
        with loading("Chronos", folder), quiet():
            with torch.device("meta"):
                check_fits(_untrained(kind, settings), folder, _ASIDE)
            whole = kind.from_pretrained(folder, dtype=torch.float32)
    else:
        settings |= config or {}
        with seeding(seed):
            whole = _untrained(kind, settings)

    def fresh() -> nn.Module:
        return _encoder_of(_untrained(kind, settings))

    return read(name_of(CHRONOS, model, pretrained, seed), whole, fresh).encoder()


def _kind(settings: Mapping[str, Any], model: str) -> tuple[Any, Callable[..., SeriesModel]]:
    """The class that was trained, and who reads it."""
    import chronos.chronos2
    import transformers
    from chronos.chronos_bolt import ChronosBoltModelForForecasting

    known = {
        "T5ForConditionalGeneration": (transformers.T5ForConditionalGeneration, _t5),
        "ChronosBoltModelForForecasting": (ChronosBoltModelForForecasting, _bolt),
        "Chronos2Model": (chronos.chronos2.Chronos2Model, _bolt),
    }
    named = (settings.get("architectures") or ["none"])[0]
    if named not in known or "chronos_config" not in settings:
        raise DiagnosticsError(
            f"{model} is a {named}, not a Chronos encoder ({', '.join(known)} with a chronos_config): name another "
            f"folder.",
            code="other-weights",
        )
    return known[named]


def _untrained(kind: Any, settings: Mapping[str, Any]) -> Any:
    return kind(kind.config_class(**copy.deepcopy(dict(settings))))


def _encoder_of(whole: Any) -> nn.Module:
    """The part that `encode` uses: the decoder and the forecasting head are no part of the encoder."""
    if type(whole).__name__ == "T5ForConditionalGeneration":
        return whole.encoder
    for unused in ("decoder", "output_patch_embedding"):
        if hasattr(whole, unused):
            delattr(whole, unused)
    return whole


def _t5(name: str, whole: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    from chronos import ChronosConfig

    settings = ChronosConfig(**whole.config.chronos_config)
    tokenizer = settings.create_tokenizer()
    special = int(settings.use_eos_token)

    def prepare(series: Tensor) -> dict[str, Tensor]:
        tokens, mask, _ = tokenizer.context_input_transform(series)
        return {"tokens": tokens[0], "mask": mask[0]}

    return SeriesModel(
        name,
        _encoder_of(whole),
        lambda steps, _: stack(
            "block",
            whole.config.num_layers,
            whole.config.d_model,
            places(steps, 1, special),
            "final_layer_norm",
            order=special_last(steps, special),
        ),
        prepare,
        lambda module, batch: module(input_ids=batch["tokens"], attention_mask=batch["mask"]),
        "norm",
        longest=settings.context_length,
        fresh=fresh,
        valid=lambda batch: batch["mask"][:, : batch["mask"].shape[1] - special],
        maker_names={"norm": "ChronosPipeline.embed"},
    )


def _bolt(name: str, whole: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    """Bolt, and Chronos-2, which reads several variates and has a masked patch of the future."""
    settings = whole.chronos_config
    size = settings.input_patch_size
    if size != settings.input_patch_stride:
        raise DiagnosticsError(
            f"{name} cuts patches of {size} steps every {settings.input_patch_stride}: overlapping patches have no "
            f"grid here, use another checkpoint.",
            code="no-grid",
        )
    special = int(settings.use_reg_token)
    groups = type(whole).__name__ == "Chronos2Model"

    def taps(steps: int, variates: int) -> list[Tap]:
        tokens = patches(steps, size)
        order = special_last(tokens, special)
        if groups:
            # The masked patch of the future lies last of all, behind REG.
            order = (tokens + special, *order)
        return stack(
            "encoder.block",
            whole.config.num_layers,
            whole.config.d_model,
            places(tokens, variates, special + groups),
            "encoder.final_layer_norm",
            order=order,
            rows=variates,
        )

    def forward(module: Any, batch: Batch) -> None:
        series = batch["series"]
        if not groups:
            module.encode(series)
            return
        # The variates of a sample are a group; without this, samples of a batch could see each other.
        ids = torch.arange(len(series), device=series.device).repeat_interleave(series.shape[1])
        module.encode(series.flatten(0, 1), group_ids=ids, num_output_patches=1)

    return SeriesModel(
        name,
        _encoder_of(whole),
        taps,
        lambda series: {"series": series if groups else series[0]},
        forward,
        "norm",
        longest=settings.context_length,
        fresh=fresh,
        valid=lambda batch: any_observed(batch["series"], size).flatten(1),
        several=groups,
        covered=whole_patches(size),
        maker_names={"norm": "Chronos2Pipeline.embed" if groups else "ChronosBoltPipeline.embed"},
    )


# Moirai: one sequence of patches of all variates, and masked patches of the horizon at its end.
#
# Patches, time and variate numbers are laid out as the package's forecaster does for a fixed patch size (`patch_size`,
# one of the checkpoint's). Each variate has one masked patch of the future, which is handed over as prefix. Steps
# before the first observed one are padding, later NaN is masked.
#
# The package pins versions that cannot be installed beside this one, so it is in no extra; see `_INSTALL`.


MOIRAI = "moirai:"
_INSTALL = (
    "pip install jax && pip install --no-deps 'uni2ts>=1.2,<3' lightning pytorch-lightning lightning-utilities "
    "torchmetrics gluonts toolz hydra-core omegaconf antlr4-python3-runtime==4.9.3 jaxtyping wadler-lindig"
)
_STUDENT = "uni2ts.distribution.student_t.StudentTOutput"
# A class of the package's own, and nothing that its modules import.
_DISTRIBUTION = re.compile(r"uni2ts\.distribution\.\w+\.\w+Output")
MOIRAI_SMALL: Mapping[str, Any] = {
    "distr_output": {"_target_": _STUDENT},
    "d_model": 64,
    "num_layers": 4,
    "patch_sizes": [8, 16, 32, 64, 128],
    "max_seq_len": 512,
    "attn_dropout_p": 0.0,
    "dropout_p": 0.0,
    "scaling": True,
}


def moirai(
    model: str,
    pretrained: bool = True,
    seed: int = 0,
    patch_size: int = 32,
    *,
    config: Mapping[str, Any] | None = None,
) -> TorchEncoder:
    """Moirai 1 from its checkpoint, or untrained (other options: see `series`).

    model: folder with `config.json` and `model.safetensors`, or a name on the hub; for untrained weights also `small`.
    patch_size: steps of a token, one of those that the checkpoint knows.
    """
    with importing("Moirai needs", f"{_INSTALL} (their pins would break this environment)"):
        from uni2ts.model.moirai.module import MoiraiModule, decode_distr_output
    folder, settings = settings_of(MOIRAI, model, pretrained, {"small": MOIRAI_SMALL}, config)
    check_distribution(settings.get("distr_output"), model)
    sizes = list(settings.get("patch_sizes", []))
    if patch_size not in sizes:
        raise DiagnosticsError(
            f"{MOIRAI}{model} has patches of {sizes} steps, not {patch_size}: choose ?patch_size= of these.",
            code="bad-value",
        )

    def untrained() -> Any:
        own = copy.deepcopy(settings)
        return MoiraiModule(**own | {"distr_output": decode_distr_output(own["distr_output"])})

    module = with_weights("Moirai", untrained, folder, pretrained, seed)

    def taps(steps: int, variates: int) -> Any:
        tokens = patches(steps, patch_size)
        return stack(
            "encoder.layers",
            module.num_layers,
            module.d_model,
            places(tokens, variates, variates),
            "encoder.norm",
            order=special_last(variates * tokens, variates),
        )

    return SeriesModel(
        name_of(MOIRAI, model, pretrained, seed),
        module,
        taps,
        lambda series: _sequence(series, patch_size, max(sizes)),
        _forward,
        "norm",
        longest=(module.max_seq_len - 1) * patch_size,
        fresh=untrained,
        valid=lambda batch: batch["seen"],
        several=True,
        covered=whole_patches(patch_size),
        configuration=f"patches of {patch_size} steps,",
    ).encoder()


def check_distribution(part: Any, model: str) -> None:
    """Raise where a configuration has the package make something else than its own distributions.

    It would make anything.
    """
    inside: list[Any] = list(part.values()) if isinstance(part, Mapping) else part if isinstance(part, list) else []
    for value in inside:
        check_distribution(value, model)
    target = str(part.get("_target_", _STUDENT)) if isinstance(part, Mapping) else _STUDENT
    if not _DISTRIBUTION.fullmatch(target):
        raise DiagnosticsError(
            f"{MOIRAI}{model} names {target} as its distribution, which could be any code and is never run: get the "
            f"config.json that its authors published.",
            code="untrusted-code",
        )


def _forward(module: Any, batch: Mapping[str, Tensor]) -> None:
    inputs = {key: value for key, value in batch.items() if key != "seen"}
    # Zeros stand for what was not observed: the mask alone does not hide it.
    module(**inputs | {"target": inputs["target"] * inputs["observed_mask"]})


def _sequence(series: Tensor, size: int, widest: int) -> dict[str, Tensor]:
    """The input of the module for one sample [V, L]: tokens variate by variate, then the future of each variate."""
    variates, steps = series.shape
    cut = nn.functional.pad(series, (-steps % size, 0), value=torch.nan).unflatten(1, (-1, size))
    observed = ~cut.isnan()
    # Time counts from the first patch with anything observed; what lies before it is another sample, numbered 0.
    began = observed.any(0).any(-1).long().cummax(0).values
    time = (began.cumsum(0) - 1).clamp_min(0)
    future = torch.ones(variates, dtype=torch.long)

    def flat(past: Tensor, ahead: Tensor) -> Tensor:
        return torch.cat([past.flatten(0, 1), ahead])

    def wide(past: Tensor, ahead: Tensor) -> Tensor:
        return nn.functional.pad(flat(past, ahead), (0, widest - size))

    return {
        "target": wide(cut.nan_to_num(), torch.zeros(variates, size)),
        "observed_mask": wide(observed, torch.ones(variates, size, dtype=torch.bool)),
        "sample_id": flat(began.expand(variates, -1), future),
        "time_id": flat(time.expand(variates, -1), future * (time.max() + 1)),
        "variate_id": flat(torch.arange(variates)[:, None].expand(-1, len(time)), torch.arange(variates)),
        "prediction_mask": flat(torch.zeros(variates, len(time), dtype=torch.bool), future.bool()),
        "patch_size": flat(torch.full((variates, len(time)), size), future * size),
        "seen": observed.any(-1).flatten(),
    }


# TimesFM 3: patches of 32 steps, attention along time and then across variates in each block.
#
# Through the package's own `decode`, whose padding, running normalisation and detrending are kept. As in its
# forecaster, leading NaN is padding and gaps are filled by linear interpolation; `valid` leaves out patches that hold
# nothing observed. Masked patches of the horizon stand behind the series and are handed over as prefix.


TIMESFM3 = "timesfm3:"
_TRANSFORMER = {
    "model_dims": 64,
    "hidden_dims": 64,
    "num_heads": 4,
    "attention_norm": "rms",
    "feedforward_norm": "rms",
    "qk_norm": "rms",
    "use_bias": False,
    "use_rope_seq": True,
    "use_rope_var": True,
    "ff_activation": "relu",
    "deterministic": True,
}
TIMESFM3_SMALL: Mapping[str, Any] = {
    "residual_block_config": {"hidden_dims": 64, "output_dims": 64, "use_bias": False, "activation": "relu"},
    "transformer_config": {"num_layers": 4, "transformer": _TRANSFORMER},
}


def timesfm3(
    model: str, pretrained: bool = True, seed: int = 0, *, config: Mapping[str, Any] | None = None
) -> TorchEncoder:
    """TimesFM 3 from its checkpoint, or untrained (other options: see `series`).

    model: folder with `config.json` and safetensors, or a name on the hub; for untrained weights also `small`.
    """
    with importing("TimesFM 3 needs", "pip install 'timesfm>=3'"):
        from timesfm3.torch import TimesFM3Torch, timesfm3_forecaster
    folder, settings = settings_of(TIMESFM3, model, pretrained, {"small": TIMESFM3_SMALL}, config)

    def untrained() -> Any:
        return TimesFM3Torch(**copy.deepcopy(settings))

    module = with_weights("TimesFM 3", untrained, folder, pretrained, seed)
    size, future = module.input_patch_len, module.rolls
    width = module.residual_block_config.output_dims

    def taps(steps: int, variates: int) -> Any:
        tokens = patches(steps, size)
        return stack(
            "transformer_stack.layers",
            len(module.transformer_stack.layers),
            width,
            places(tokens, variates, variates * future),
            layout="channels_last",
            order=by_variate(variates, tokens, after=future),
        )

    def prepare(series: Tensor) -> dict[str, Tensor]:
        padding = series.isnan().all(0).int().cumprod(0).bool()
        start = int(padding.sum())
        filled = torch.from_numpy(timesfm3_forecaster.linear_interpolation(series[:, start:].numpy()))
        return {
            "series": nn.functional.pad(filled, (start, 0)),
            "padding": padding,
            "observed": any_observed(series, size),
        }

    return SeriesModel(
        name_of(TIMESFM3, model, pretrained, seed),
        module,
        taps,
        prepare,
        # The least horizon: what stands before it does not see it.
        # pyrefly: ignore[not-callable]
        lambda module, batch: module.decode(batch["series"], horizon=1, mask=batch["padding"]),
        f"layers.{len(module.transformer_stack.layers) - 1}",
        longest=vars(timesfm3_forecaster)["_MAX_CONTEXT_LENGTH"],  # its cap, which the package names nowhere else
        fresh=untrained,
        valid=lambda batch: batch["observed"].flatten(1),
        several=True,
        covered=whole_patches(size),
        maker_names={
            f"layers.{len(module.transformer_stack.layers) - 1}": "transformer_output (of decode's aux outputs)"
        },
    ).encoder()


# TiRex: a stack of sLSTM blocks over patches of a context that is padded on its left.
#
# Scaling and patching are the package's tokenizer's. Padding runs through the recurrence (masked, as in its own
# embedding) but never becomes a token. Each of several variates is a series of its own, as in the package's own
# embedding.


TIREX = "tirex:"
_CHECKPOINT = "model.ckpt"
TIREX_SMALL: Mapping[str, Any] = {
    "input_patch_size": 32,
    "output_patch_size": 32,
    "quantiles": [i / 10 for i in range(1, 10)],
    "block_kwargs": {"embedding_dim": 64, "num_heads": 4, "num_blocks": 4},
    "input_ff_dim": 128,
}


def tirex(
    model: str,
    pretrained: bool = True,
    seed: int = 0,
    *,
    config: Mapping[str, Any] | None = None,
    context: int = 2048,
) -> TorchEncoder:
    """TiRex from its checkpoint, or a small untrained one.

    Parameters
    ----------
    model: folder that holds `model.ckpt`, or that file, or a name on the hub; for untrained weights also `small`.
    pretrained: trained weights; otherwise initial ones of `seed`, in the sizes of the checkpoint where there is one.
    config, context: what to change in the configuration of the small untrained model, and the steps it reads.
    """
    with importing("TiRex needs", "pip install tirex-ts"):
        from tirex.models.tirex import TiRexZero
    sizes: dict[str, Any] = {"model_config": dict(TIREX_SMALL) | dict(config or {}), "train_ctx_len": context}
    path = _file(model) if pretrained or model != "small" else None
    checkpoint: dict[str, Any] = {}
    if path is not None:
        with loading("TiRex", path):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            sizes = dict(checkpoint["hyper_parameters"])
            sizes.pop("backend", None)

    def untrained() -> Any:
        network = TiRexZero(backend="torch", **sizes)
        initialise(network)
        return network

    with seeding(seed), loading("TiRex", path or model):
        module = untrained()
        if pretrained:
            module.on_load_checkpoint(checkpoint)
            module.load_state_dict(checkpoint["state_dict"])
    settings = module.config
    size, longest, width = settings.input_patch_size, settings.train_ctx_len, module.out_norm.weight.shape[0]

    def taps(steps: int, variates: int) -> Any:
        tokens = patches(steps, size)
        return stack(
            "blocks",
            len(module.blocks),
            width,
            places(tokens, variates),
            "out_norm",
            padding=longest // size - tokens,
            rows=variates,
        )

    def prepare(series: Tensor) -> dict[str, Tensor]:
        context = nn.functional.pad(series, (longest - series.shape[1], 0), value=math.nan)
        scaled, _ = module.tokenizer.input_transform(context)
        observed = ~scaled.isnan()
        scaled = scaled.nan_to_num(nan=settings.nan_mask_value)
        return {"patches": torch.cat([scaled, observed.to(scaled)], dim=-1), "observed": any_observed(series, size)}

    return SeriesModel(
        name_of(TIREX, model, pretrained, seed),
        module,
        taps,
        prepare,
        # pyrefly: ignore[not-callable]
        lambda module, batch: module._forward_model(batch["patches"].flatten(0, 1)),
        "norm",
        longest=longest,
        fresh=untrained,
        valid=lambda batch: batch["observed"].flatten(1),
        several=True,
        covered=whole_patches(size),
        configuration=f"context {longest}",
        maker_names={f"blocks.{len(module.blocks) - 1}": "_embed_context (last layer)"},
    ).encoder()


def initialise(model: Any) -> None:
    """Draws what the package leaves as memory happened to be: the maps into the gates, the recurrence and its biases.

    Gaussians with a variance of one over the number of inputs, biases 0; everything else has torch's initial values.
    """
    with torch.no_grad():
        for part in model.modules():
            kind = type(part).__name__
            if kind == "LinearHeadwiseExpand":
                part.weight.normal_(0.0, part.weight.shape[-1] ** -0.5)
            elif kind == "sLSTMCell":
                part._recurrent_kernel_.normal_(0.0, part._recurrent_kernel_.shape[1] ** -0.5)
                part._bias_.zero_()


def _file(model: str) -> Path:
    path = Path(model).expanduser()
    if path.is_file():
        return path
    checkpoint = folder_of(TIREX, model, (_CHECKPOINT,), "small") / _CHECKPOINT
    if not checkpoint.is_file():
        raise DiagnosticsError(
            f"{checkpoint.parent} holds no {_CHECKPOINT}: give the folder of a TiRex checkpoint.", code="missing-file"
        )
    return checkpoint
