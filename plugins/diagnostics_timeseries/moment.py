"""MOMENT: a T5 encoder over patches of 8 steps of a window of 512, trained to reconstruct masked patches.

Shorter series stand at the window's end with a mask before them. The model hides a patch of which one step is masked, so a
first patch that is only partly filled is no token, and a patch with a gap is left out of pooling. Each of several variates
is a row of its own, as in the package.

The package pins versions that cannot be installed beside this one, so it is in no extra: `pip install --no-deps momentfm`.
"""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, TorchEncoder, importing
from diagnostics_timeseries.series import SeriesModel, called, places, settings_of, stack, with_weights

SCHEME = "moment:"
_FILES = ("config.json", "*.safetensors")
SMALL: Mapping[str, Any] = {
    "task_name": "embedding", "model_name": "MOMENT", "transformer_type": "encoder_only", "d_model": 64, "seq_len": 512,
    "patch_len": 8, "patch_stride_len": 8, "transformer_backbone": "google/flan-t5-small",
    "t5_config": {
        "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 4, "num_heads": 4, "feed_forward_proj": "gated-gelu",
        "vocab_size": 8,
    },
}  # fmt: skip


def build(
    model: str, pretrained: bool = True, seed: int = 0, *, config: Mapping[str, Any] | None = None
) -> TorchEncoder:
    """MOMENT from its checkpoint, or untrained (other options: see `series`).

    model: folder with `config.json` and `model.safetensors`, or a name on the hub; for untrained weights also `small`.
    """
    with importing("MOMENT needs", "pip install --no-deps momentfm (its pins would break this environment)"):
        from momentfm.models.moment import MOMENT  # pyright: ignore[reportMissingImports]
    folder, settings = settings_of(SCHEME, model, pretrained, _FILES, {"small": SMALL}, config)

    def untrained() -> Any:
        own = {"task_name": "embedding", "enable_gradient_checkpointing": False}
        with warnings.catch_warnings():
            # Heads other than reconstruction are untrained; there is none here.
            warnings.simplefilter("ignore", UserWarning)
            return MOMENT(copy.deepcopy(settings), model_kwargs=own)

    module = with_weights("MOMENT", untrained, folder, pretrained, seed, aside=("head.", "encoder.embed_tokens."))
    size, window = module.patch_len, module.seq_len
    if module.config.patch_stride_len != size:
        raise DiagnosticsError(f"{model} cuts overlapping patches, which have no grid here: use another checkpoint.")

    def taps(steps: int, variates: int) -> Any:
        tokens = steps // size
        return stack(
            "encoder.block", len(module.encoder.block), module.config.d_model, places(tokens, variates),
            "encoder.final_layer_norm", padding=window // size - tokens, rows=variates,
        )  # fmt: skip

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
        called(SCHEME, model, pretrained, seed),
        module,
        taps,
        prepare,
        lambda module, batch: module.embed(x_enc=batch["series"], input_mask=batch["mask"], reduction="none"),  # pyright: ignore
        "norm",
        window,
        untrained,
        lambda batch: batch["observed"],
        fewest=size,
        several=True,
        covered=lambda steps: (float(steps % size), float(steps)),
        maker_names={"norm": "embed(reduction='none')"},
    ).encoder()
