"""Chronos: T5 (a token a step), Bolt (patches) and Chronos-2 (patches, groups of variates).

Run through the package's own tokenizer and `encode`, so scaling, patching and padding are its own. NaN, on the left or
within, is masked; `valid` leaves out tokens without an observed step. Special tokens stand behind the series and are handed
over as prefix: EOS (T5), REG (Bolt), and of Chronos-2 first the masked patch of the future, which its forecasts are read
from, then REG.
"""

import copy
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Tap, TorchEncoder, importing
from diagnostics_timeseries.series import (
    Batch,
    SeriesModel,
    any_observed,
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

SCHEME = "chronos:"
_FILES = ("*.json", "*.safetensors")
_SMALL = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 4, "num_decoder_layers": 1, "num_heads": 4}
_QUANTILES = [i / 10 for i in range(1, 10)]
_PATCHED = {"input_patch_size": 16, "input_patch_stride": 16, "quantiles": _QUANTILES, "use_reg_token": True}
_T5 = {"feed_forward_proj": "relu", "tie_word_embeddings": False, "decoder_start_token_id": 0, "pad_token_id": 0}
# Untrained models by name, with the token and patch sizes of the published ones and few features.
SMALL: Mapping[str, dict[str, Any]] = {
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


def build(
    model: str, pretrained: bool = True, seed: int = 0, *, config: Mapping[str, Any] | None = None
) -> TorchEncoder:
    """A Chronos model of any of the three families, told by its config (other options: see `series`).

    model: folder of a checkpoint, or its name on the hub; for untrained weights also `t5`, `bolt` or `2` (small ones).
    """
    with importing("Chronos needs", "pip install chronos-forecasting"):
        importlib.import_module("chronos")
    folder, settings = settings_of(SCHEME, model, pretrained, _FILES, SMALL)
    kind, read = _kind(settings, model)
    if pretrained and folder is not None:
        with loading("Chronos", folder), quiet():
            with torch.device("meta"):
                check_fits(_untrained(kind, settings), folder, _ASIDE)
            whole = kind.from_pretrained(folder, dtype=torch.float32)
    else:
        settings |= config or {}
        with seeded(seed):
            whole = _untrained(kind, settings)

    def fresh() -> nn.Module:
        return _encoder_of(_untrained(kind, settings))

    return read(called(SCHEME, model, pretrained, seed), whole, fresh).encoder()


def _kind(settings: Mapping[str, Any], model: str) -> tuple[Any, Callable[..., SeriesModel]]:
    """The class that was trained, and who reads it."""
    import chronos.chronos2
    import transformers
    from chronos.chronos_bolt import ChronosBoltModelForForecasting

    known = {
        "T5ForConditionalGeneration": (transformers.T5ForConditionalGeneration, _t5),
        "ChronosBoltModelForForecasting": (ChronosBoltModelForForecasting, _patched),
        "Chronos2Model": (chronos.chronos2.Chronos2Model, _patched),
    }
    named = (settings.get("architectures") or ["none"])[0]
    if named not in known or "chronos_config" not in settings:
        raise DiagnosticsError(
            f"{model} is a {named}, not a Chronos encoder ({', '.join(known)} with a chronos_config): name another folder."
        )
    return known[named]


def _untrained(kind: Any, settings: Mapping[str, Any]) -> Any:
    return kind(kind.config_class(**copy.deepcopy(dict(settings))))


def _encoder_of(whole: Any) -> nn.Module:
    """What `encode` uses: the decoder and the forecasting head are no part of the encoder."""
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
            "block", whole.config.num_layers, whole.config.d_model, places(steps, 1, special), "final_layer_norm",
            order=special_last(steps, special),
        ),
        prepare,
        lambda module, batch: module(input_ids=batch["tokens"], attention_mask=batch["mask"]),
        "norm",
        settings.context_length,
        fresh,
        lambda batch: batch["mask"][:, : batch["mask"].shape[1] - special],
        maker_names={"norm": "ChronosPipeline.embed"},
    )  # fmt: skip


def _patched(name: str, whole: Any, fresh: Callable[[], nn.Module]) -> SeriesModel:
    """Bolt, and Chronos-2, which reads several variates and has a masked patch of the future."""
    settings = whole.chronos_config
    size = settings.input_patch_size
    if size != settings.input_patch_stride:
        raise DiagnosticsError(
            f"{name} cuts patches of {size} steps every {settings.input_patch_stride}: overlapping patches have no grid here, "
            "use another checkpoint."
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
            "encoder.block", whole.config.num_layers, whole.config.d_model, places(tokens, variates, special + groups),
            "encoder.final_layer_norm", order=order, rows=variates,
        )  # fmt: skip

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
        settings.context_length,
        fresh,
        lambda batch: any_observed(batch["series"], size).flatten(1),
        several=groups,
        covered=whole_patches(size),
        maker_names={"norm": "Chronos2Pipeline.embed" if groups else "ChronosBoltPipeline.embed"},
    )
