"""TimesFM 3: patches of 32 steps, attention along time and then across variates in each block.

Through the package's own `decode`, whose padding, running normalisation and detrending are kept. As in its forecaster,
leading NaN is padding and gaps are filled by linear interpolation; `valid` leaves out patches that hold nothing observed.
Masked patches of the horizon stand behind the series and are handed over as prefix.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.plugin import TorchEncoder, importing
from diagnostics_timeseries.series import (
    SeriesModel,
    any_observed,
    by_variate,
    called,
    patches,
    places,
    settings_of,
    stack,
    whole_patches,
    with_weights,
)

SCHEME = "timesfm3:"
_FILES = ("config.json", "*.safetensors")
_TRANSFORMER = {
    "model_dims": 64, "hidden_dims": 64, "num_heads": 4, "attention_norm": "rms", "feedforward_norm": "rms",
    "qk_norm": "rms", "use_bias": False, "use_rope_seq": True, "use_rope_var": True, "ff_activation": "relu",
    "deterministic": True,
}  # fmt: skip
SMALL: Mapping[str, Any] = {
    "residual_block_config": {"hidden_dims": 64, "output_dims": 64, "use_bias": False, "activation": "relu"},
    "transformer_config": {"num_layers": 4, "transformer": _TRANSFORMER},
}


def build(
    model: str, pretrained: bool = True, seed: int = 0, *, config: Mapping[str, Any] | None = None
) -> TorchEncoder:
    """TimesFM 3 from its checkpoint, or untrained (other options: see `series`).

    model: folder with `config.json` and safetensors, or a name on the hub; for untrained weights also `small`.
    """
    with importing("TimesFM 3 needs", "pip install 'timesfm>=3'"):
        from timesfm3.torch import TimesFM3Torch, timesfm3_forecaster
    folder, settings = settings_of(SCHEME, model, pretrained, _FILES, {"small": SMALL}, config)

    def untrained() -> Any:
        return TimesFM3Torch(**copy.deepcopy(settings))

    module = with_weights("TimesFM 3", untrained, folder, pretrained, seed)
    size, future = module.input_patch_len, module.rolls
    width = module.residual_block_config.output_dims

    def taps(steps: int, variates: int) -> Any:
        tokens = patches(steps, size)
        return stack(
            "transformer_stack.layers", len(module.transformer_stack.layers), width,
            places(tokens, variates, variates * future), layout="channels_last", order=by_variate(variates, tokens, after=future),
        )  # fmt: skip

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
        called(SCHEME, model, pretrained, seed),
        module,
        taps,
        prepare,
        # The least horizon: what stands before it does not see it.
        lambda module, batch: module.decode(batch["series"], horizon=1, mask=batch["padding"]),  # pyright: ignore
        f"layers.{len(module.transformer_stack.layers) - 1}",
        vars(timesfm3_forecaster)["_MAX_CONTEXT_LENGTH"],  # its cap, which the package names nowhere else
        untrained,
        lambda batch: batch["observed"].flatten(1),
        several=True,
        covered=whole_patches(size),
        maker_names={
            f"layers.{len(module.transformer_stack.layers) - 1}": "transformer_output (of decode's aux outputs)"
        },
    ).encoder()
