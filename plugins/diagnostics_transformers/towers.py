"""Which part of a model is run: its one encoder, or the tower of one modality."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from diagnostics.plugin import DiagnosticsError
from diagnostics_transformers.load import Loaded

TOWERS = ("vision", "audio", "text")
# What a sub-configuration's name says about its tower, in the order in which it is looked for.
_WORDS = {
    "vision": ("vision", "image", "video", "visual"),
    "audio": ("audio", "speech"),
    "text": ("text", "language", "llm"),
}
# Names under which towers stand that are no models of their own.
_PLACES = {
    "vision": ("vision_tower", "vision_model", "visual", "vision_encoder", "image_tower", "vision_embed_tokens"),
    "audio": ("audio_tower", "audio_encoder", "audio_model", "speech_encoder", "encoder"),
    "text": ("language_model", "text_model", "text_encoder"),
}
# Inputs of one modality, by which a module says that it takes it alone.
INPUTS = {
    "vision": ("pixel_values", "pixel_values_videos", "hidden_states"),
    "audio": ("input_features", "input_values", "audio_mel"),
    "text": ("input_ids",),
    "series": ("past_values",),
}
# They take one modality alone, although they have a tower of their own inside.
_ONE_MODALITY = {"pe_video_encoder": "its frames' tower gives one vector per frame", "timm_wrapper": ""}
# Their inputs have the names of texts or images and are something else.
_NEITHER = {
    "imagegpt": "sequences of colour clusters",
    "decision_transformer": "states, actions and returns",
    "efficientloftr": "pairs of images",
    "lightglue": "pairs of images",
    "kyutai_speech_to_text": "at each step a token of text with one of each of a codec's codebooks",
    "lxmert": "texts together with an object detector's regions",
    "seggpt": "images together with an example that is segmented",
    "speecht5": "what its prenet gives (only its architectures that recognise or convert speech have one for sounds)",
    "vilt": "texts together with images",
}
_PROJECTIONS = {
    "vision": ("visual_projection", "vision_projection"),
    "audio": ("audio_projection",),
    "text": ("text_projection",),
}


class _StableSort(TorchFunctionMode):
    """Sorts of equal numbers keep their order, on any device: V-JEPA 2's predictor sorts two tokens at each place."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return func(*args, **(kwargs | {"stable": True} if func is torch.argsort else kwargs))


class Tower(nn.Module):
    """The tower of one modality, with the projection into the space that it shares with other modalities, if there is one.

    Takes the tower's keyword arguments; gives the tower's output.
    """

    def __init__(self, tower: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.tower = tower
        self.projection = projection
        if projection is None:
            del self.projection

    def forward(self, batch: Mapping[str, Any]) -> Any:
        with _StableSort():
            out = self.tower(**batch)
        projection = getattr(self, "projection", None)
        pooled = getattr(out, "pooler_output", None)
        if projection is not None and isinstance(pooled, Tensor):
            projection(pooled)
        return out


def choose(loaded: Loaded, wanted: str | None) -> tuple[str, nn.Module, nn.Module | None]:
    """(qualified name, module, projection) of the tower that is wanted, or of the first of `TOWERS` that there is.

    The root, under the name "", where the model has one encoder for one modality.
    """
    if wanted is not None and wanted not in TOWERS:
        raise DiagnosticsError(f"tower={wanted} is none of {', '.join(TOWERS)}: choose one of them.")
    kind = str(getattr(loaded.config, "model_type", ""))
    if kind in _NEITHER and not any(
        name.endswith("prenet.feature_encoder") for name, _ in loaded.model.named_modules()
    ):
        raise DiagnosticsError(
            f"{loaded.name} ({kind}) takes {_NEITHER[kind]}, which no dataset here holds: tap it as a torch module of your own "
            "(docs/how-to/plugins.md)."
        )
    found_towers = towers(loaded.model)
    if not found_towers:
        name, module = _encoder_of(loaded.model)
        own = kind_of(module)
        if wanted is not None and own != wanted:
            raise DiagnosticsError(
                f"{loaded.name} has no {wanted} tower, only one for {own or 'no input that is known'}: leave out tower=."
            )
        return name, module, None
    if wanted is not None and wanted not in found_towers:
        raise DiagnosticsError(f"{loaded.name} has no {wanted} tower: choose tower={' or '.join(found_towers)}.")
    kind = wanted or next(iter(found_towers))
    name, module = found_towers[kind]
    inner, encoder = _encoder_of(module)
    projections = [getattr(loaded.model, key, None) for key in _PROJECTIONS[kind]]
    projection = next((p for p in projections if isinstance(p, nn.Module)), None)
    return ".".join(part for part in (name, inner) if part), encoder, projection


def towers(model: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """Kind of tower -> (qualified name, module), of a model of several modalities; nothing where there is only one."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) in _ONE_MODALITY:
        return {}
    keys = [key for key in getattr(config, "sub_configs", {}) if getattr(config, key, None) is not None]
    of_kind: dict[str, tuple[str, nn.Module]] = {}
    # A detector that reads texts as well: its backbone is what sees images alone.
    reads = any("input_ids" in name for name in arguments(model))
    for kind in TOWERS:
        words = (*_WORDS[kind], "backbone") if kind == "vision" and reads else _WORDS[kind]
        named = [key for key in keys if any(word in key for word in words)]
        tower = next((t for t in (_of_config(model, getattr(config, key)) for key in named) if t is not None), None)
        if tower is None and named:
            tower = _at_place(model, kind)
        if tower is not None and kind_of(_encoder_of(tower[1])[1]) == kind:
            of_kind[kind] = tower
    return of_kind


def _of_config(model: nn.Module, config: Any) -> tuple[str, nn.Module] | None:
    """The outermost module that is a model of that configuration, without a head of its own."""
    for name, module in model.named_modules():
        if name and isinstance(module, PreTrainedModel) and type(module.config) is type(config):
            base = module.base_model if isinstance(module.base_model, PreTrainedModel) else module
            inner = next(key for key, part in module.named_modules() if part is base)
            return ".".join(part for part in (name, inner) if part), base
    return None


def _at_place(model: nn.Module, kind: str) -> tuple[str, nn.Module] | None:
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _PLACES[kind]:
            return name, module
    return None


def _encoder_of(module: nn.Module) -> tuple[str, nn.Module]:
    """The encoder of an encoder-decoder, which would want a second input; the module itself otherwise."""
    takes = arguments(module)
    wants_more = any(key in takes for key in ("decoder_input_ids", "decoder_input_values", "decoder_input_features"))
    for name in ("encoder", "model.encoder", "text_encoder", "speecht5.encoder") if wants_more else ():
        try:
            encoder = module.get_submodule(name)
        except AttributeError:
            continue
        if kind_of(encoder) is not None:
            return name, encoder
    return "", module


def kind_of(module: nn.Module) -> str | None:
    """Which of `INPUTS` a module takes; of one that takes texts, images are an addition."""
    takes = arguments(module)
    for kind in ("text", "vision", "audio", "series"):
        names = INPUTS[kind]
        if any(name in takes for name in names if name != "hidden_states" or "grid_thw" in takes):
            return kind
    return None


def model_type(tower: Any) -> str:
    """The name of the tower's architecture in its configuration, "" where it has none."""
    return str(getattr(tower.config, "model_type", None) or "")


def arguments(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of a module's forward pass."""
    return tuple(inspect.signature(module.forward).parameters)
