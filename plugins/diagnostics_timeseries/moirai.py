"""Moirai: one sequence of patches of all variates, and masked patches of the horizon at its end.

Patches, time and variate numbers are laid out as the package's forecaster does for a fixed patch size (`patch_size`, one of
the checkpoint's). Each variate has one masked patch of the future, which is handed over as prefix. Steps before the first
observed one are padding, later NaN is masked.

The package pins versions that cannot be installed beside this one, so it is in no extra; see `_INSTALL`.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, TorchEncoder, importing
from diagnostics_timeseries.series import (
    SeriesModel,
    called,
    patches,
    places,
    settings_of,
    special_last,
    stack,
    whole_patches,
    with_weights,
)

SCHEME = "moirai:"
_FILES = ("config.json", "*.safetensors")
_INSTALL = (
    "pip install jax && pip install --no-deps 'uni2ts>=1.2,<3' lightning pytorch-lightning lightning-utilities torchmetrics gluonts toolz hydra-core "
    "omegaconf antlr4-python3-runtime==4.9.3 jaxtyping wadler-lindig"
)
_STUDENT = "uni2ts.distribution.student_t.StudentTOutput"
# A class of the package's own, and nothing that its modules import.
_DISTRIBUTION = re.compile(r"uni2ts\.distribution\.\w+\.\w+Output")
SMALL: Mapping[str, Any] = {
    "distr_output": {"_target_": _STUDENT}, "d_model": 64, "num_layers": 4, "patch_sizes": [8, 16, 32, 64, 128],
    "max_seq_len": 512, "attn_dropout_p": 0.0, "dropout_p": 0.0, "scaling": True,
}  # fmt: skip


def build(
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
        from uni2ts.model.moirai.module import MoiraiModule, decode_distr_output  # pyright: ignore[reportMissingImports]
    folder, settings = settings_of(SCHEME, model, pretrained, _FILES, {"small": SMALL}, config)
    check_distribution(settings.get("distr_output"), model)
    sizes = list(settings.get("patch_sizes", []))
    if patch_size not in sizes:
        raise DiagnosticsError(
            f"{SCHEME}{model} has patches of {sizes} steps, not {patch_size}: choose ?patch_size= of these."
        )

    def untrained() -> Any:
        own = copy.deepcopy(settings)
        return MoiraiModule(**own | {"distr_output": decode_distr_output(own["distr_output"])})

    module = with_weights("Moirai", untrained, folder, pretrained, seed)

    def taps(steps: int, variates: int) -> Any:
        tokens = patches(steps, patch_size)
        return stack(
            "encoder.layers", module.num_layers, module.d_model, places(tokens, variates, variates), "encoder.norm",
            order=special_last(variates * tokens, variates),
        )  # fmt: skip

    return SeriesModel(
        called(SCHEME, model, pretrained, seed),
        module,
        taps,
        lambda series: _sequence(series, patch_size, max(sizes)),
        _forward,
        "norm",
        (module.max_seq_len - 1) * patch_size,
        untrained,
        lambda batch: batch["seen"],
        several=True,
        covered=whole_patches(patch_size),
        configuration=f"patches of {patch_size} steps,",
    ).encoder()


def check_distribution(part: Any, model: str) -> None:
    """Raises where a configuration has the package make something else than its own distributions: it would make anything."""
    inside: list[Any] = list(part.values()) if isinstance(part, Mapping) else part if isinstance(part, list) else []
    for value in inside:
        check_distribution(value, model)
    target = str(part.get("_target_", _STUDENT)) if isinstance(part, Mapping) else _STUDENT
    if not _DISTRIBUTION.fullmatch(target):
        raise DiagnosticsError(
            f"{SCHEME}{model} names {target} as its distribution, which could be any code and is never run: get the config.json that its authors published."
        )


def _forward(module: Any, batch: Mapping[str, Tensor]) -> None:
    inputs = {key: value for key, value in batch.items() if key != "seen"}
    # Zeros stand for what was not observed: the mask alone does not hide it.
    module(**inputs | {"target": inputs["target"] * inputs["observed_mask"]})


def _sequence(series: Tensor, size: int, widest: int) -> dict[str, Tensor]:
    """What the module takes of one sample [V, L]: tokens variate by variate, then the future of each variate."""
    variates, steps = series.shape
    cut = nn.functional.pad(series, (-steps % size, 0), value=torch.nan).unflatten(1, (-1, size))
    observed = ~cut.isnan()
    anywhere = observed.any(0).any(-1)
    # Time counts from the first patch with anything observed; what lies before it is another sample, numbered 0.
    began = anywhere.long().cummax(0).values
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
