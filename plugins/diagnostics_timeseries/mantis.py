"""Mantis, versions 1 and 2: encoders trained by contrast for classification, over 32 patches and a class token.

Series of any length are resized to 512 steps (linear interpolation), as its makers advise; leading NaN is left out before,
so that series of unequal length all fill the window. It has no mask: gaps are refused. Each of several variates is a
series of its own, as in the package's own transform.

Hooks never fire on the blocks of version 1, whose parts are called one by one with the residual sums outside them: there a
block's output is read as what the next block takes, and the last one's from the transformer.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Grid, Site, Tap, TorchEncoder, importing
from diagnostics_timeseries.series import (
    SeriesModel,
    called,
    folder_of,
    loading,
    places,
    read_config,
    seeded,
    special_last,
    stack,
    tensors_of,
)

SCHEME = "mantis:"
_FILES = ("*.json", "*.safetensors")
_STEPS = 512
_SMALL = {"hidden_dim": 64, "transf_depth": 3, "transf_num_heads": 4, "transf_mlp_dim": 128, "transf_dim_head": 16}
_STACK = "transf_unit.transformer"


def build(
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
        folder = folder_of(SCHEME, model, _FILES, "v2")
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

    with seeded(seed), loading("Mantis", Path(model)):
        module = untrained()
        if tensors is not None and pretrained:
            module.load_state_dict(tensors)
    width, depth = module.hidden_dim, len(module.transf_unit.transformer.layers)
    steps = getattr(module, "seq_len", _STEPS)
    trunk = _first_version if version == "v1" else _second_version

    return SeriesModel(
        called(SCHEME, model, pretrained, seed),
        module,
        lambda _, variates: [*trunk(depth, width, module.num_patches, variates), _head(depth, width, variates)],
        lambda series: {"series": _resized(series, steps)},
        lambda module, batch: module.prj(module(batch["series"].flatten(0, 1).unsqueeze(1))),  # pyright: ignore
        f"layers.{depth - 1}",
        None,
        untrained,
        fewest=2,
        several=True,
        configuration=f"resized to {steps} steps",
        maker_names={f"layers.{depth - 1}": "MantisTrainer.transform (class token)"},
    ).encoder()


def _first_version(depth: int, width: int, tokens: int, variates: int) -> list[Tap]:
    grid = places(tokens, variates, 1)
    layers = f"{_STACK}.layers"
    before = [Site(f"{layers}.{i}.0", when="before", rows=variates) for i in range(depth)]
    taps = [Tap("embed", 0.0, "embedding", width, grid, before[0])]
    for i, site in enumerate([*before[1:], Site(_STACK, rows=variates)]):
        taps.append(Tap(f"layers.{i}", (i + 1) / depth, "trunk", width, grid, site))
    return taps


def _second_version(depth: int, width: int, tokens: int, variates: int) -> list[Tap]:
    # [B, 1, token, F] with the class token behind the others.
    return stack(
        f"{_STACK}.layers", depth, width, places(tokens, variates, 1),
        layout="channels_last", order=special_last(tokens, 1), rows=variates,
    )  # fmt: skip


def _head(depth: int, width: int, variates: int) -> Tap:
    """The projector of training's contrast, of the class token; users are given what stands before it."""
    grid = places(1, 1) if variates == 1 else Grid((variates,), ("v",))
    return Tap("head.projector", 1.0 + 1.0 / depth, "head", width, grid, Site("prj", layout="features", rows=variates))


def _resized(series: Tensor, steps: int) -> Tensor:
    """[V, L] as [V, steps], without leading NaN."""
    observed = ~series.isnan().any(0)
    start = int(observed.int().argmax())
    series = series[:, start:]
    if bool(series.isnan().any()) or series.shape[1] < 2:
        raise DiagnosticsError("it has gaps (NaN), and Mantis has no mask: fill them, by interpolation for example.")
    return nn.functional.interpolate(series[None], size=steps, mode="linear", align_corners=False)[0]
