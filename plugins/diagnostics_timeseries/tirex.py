"""TiRex: a stack of sLSTM blocks over patches of a context that is padded on its left.

Scaling and patching are the package's tokenizer's. Padding runs through the recurrence (masked, as in its own embedding)
but never becomes a token. Each of several variates is a series of its own, as in the package's own embedding.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, TorchEncoder, importing
from diagnostics_timeseries.series import (
    SeriesModel,
    any_observed,
    called,
    folder_of,
    loading,
    patches,
    places,
    seeded,
    stack,
    whole_patches,
)

SCHEME = "tirex:"
_CHECKPOINT = "model.ckpt"
SMALL: Mapping[str, Any] = {
    "input_patch_size": 32,
    "output_patch_size": 32,
    "quantiles": [i / 10 for i in range(1, 10)],
    "block_kwargs": {"embedding_dim": 64, "num_heads": 4, "num_blocks": 4},
    "input_ff_dim": 128,
}
_CONTEXT = 2048


def build(
    model: str,
    pretrained: bool = True,
    seed: int = 0,
    *,
    config: Mapping[str, Any] | None = None,
    context: int = _CONTEXT,
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
    sizes: dict[str, Any] = {"model_config": dict(SMALL) | dict(config or {}), "train_ctx_len": context}
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

    with seeded(seed), loading("TiRex", path or model):
        module = untrained()
        if pretrained:
            module.on_load_checkpoint(checkpoint)
            module.load_state_dict(checkpoint["state_dict"])
    settings = module.config
    size, longest, width = settings.input_patch_size, settings.train_ctx_len, module.out_norm.weight.shape[0]

    def taps(steps: int, variates: int) -> Any:
        tokens = patches(steps, size)
        return stack(
            "blocks", len(module.blocks), width, places(tokens, variates), "out_norm",
            padding=longest // size - tokens, rows=variates,
        )  # fmt: skip

    def prepare(series: Tensor) -> dict[str, Tensor]:
        context = nn.functional.pad(series, (longest - series.shape[1], 0), value=math.nan)
        scaled, _ = module.tokenizer.input_transform(context)
        observed = ~scaled.isnan()
        scaled = scaled.nan_to_num(nan=settings.nan_mask_value)
        return {"patches": torch.cat([scaled, observed.to(scaled)], dim=-1), "observed": any_observed(series, size)}

    return SeriesModel(
        called(SCHEME, model, pretrained, seed),
        module,
        taps,
        prepare,
        lambda module, batch: module._forward_model(batch["patches"].flatten(0, 1)),  # pyright: ignore
        "norm",
        longest,
        untrained,
        lambda batch: batch["observed"].flatten(1),
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
    checkpoint = folder_of(SCHEME, model, (_CHECKPOINT,), "small") / _CHECKPOINT
    if not checkpoint.is_file():
        raise DiagnosticsError(f"{checkpoint.parent} holds no {_CHECKPOINT}: give the folder of a TiRex checkpoint.")
    return checkpoint
