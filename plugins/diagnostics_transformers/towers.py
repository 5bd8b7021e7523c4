"""Towers that read one modality, the stacks of layers in them, and inputs as they are prepared for them."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from diagnostics.plugin import DiagnosticsError, Tap, check_known, describe, name_error
from diagnostics_transformers.load import Loaded, quiet

# Towers that read one modality, and the stacks of layers in them.


# Which part of a model is run: its one encoder, or the tower of one modality.


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
    """The tower of one modality.

    It has the projection into the space that it shares with other modalities, if there is one.

    Takes the tower's keyword arguments; gives the tower's output.
    """

    def __init__(self, tower: nn.Module, projection: nn.Module | None) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection

    def forward(self, batch: Mapping[str, Any]) -> Any:
        with _StableSort():
            out = self.tower(**batch)
        pooled = getattr(out, "pooler_output", None)
        if self.projection is not None and isinstance(pooled, Tensor):
            self.projection(pooled)
        return out


def choose(loaded: Loaded, wanted: str | None) -> tuple[str, nn.Module, nn.Module | None]:
    """(qualified name, module, projection) of the tower that is wanted, or of the first of `TOWERS` that there is.

    The root, under the name "", where the model has one encoder for one modality.
    """
    check_known("option tower", wanted, TOWERS)
    kind = str(getattr(loaded.config, "model_type", ""))
    if kind in _NEITHER and not any(
        name.endswith("prenet.feature_encoder") for name, _ in loaded.model.named_modules()
    ):
        raise DiagnosticsError(
            f"{loaded.name} ({kind}) takes {_NEITHER[kind]}, which no dataset here holds: tap it as a torch module of "
            f"your own (docs/how-to/plugins.md).",
            code="other-modality",
        )
    found_towers = towers(loaded.model)
    if not found_towers:
        name, module = _encoder_of(loaded.model)
        own = kind_of(module)
        if wanted is not None and own != wanted:
            raise DiagnosticsError(
                f"{loaded.name} has no {wanted} tower, only one for {own or 'no input that is known'}: leave out "
                f"tower=.",
                code="no-effect",
            )
        return name, module, None
    check_known(f"tower of {loaded.name}:", wanted, found_towers)
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
            tower = next((part for part in model.named_modules() if part[0].rpartition(".")[2] in _PLACES[kind]), None)
        if tower is not None and kind_of(_encoder_of(tower[1])[1]) == kind:
            of_kind[kind] = tower
    return of_kind


def _of_config(model: nn.Module, config: Any) -> tuple[str, nn.Module] | None:
    """The outermost module that is a model of that configuration, without a head of its own."""
    for name, module in model.named_modules():
        if name and isinstance(module, PreTrainedModel) and type(module.config) is type(config):
            base: Any = module.base_model if isinstance(module.base_model, PreTrainedModel) else module
            inner = next(key for key, part in module.named_modules() if part is base)
            return ".".join(part for part in (name, inner) if part), base
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
    """The one of `INPUTS` that a module takes; of one that takes texts, images are an addition."""
    takes = arguments(module)
    for kind in ("text", "vision", "audio", "series"):
        if any(name in takes for name in INPUTS[kind] if name != "hidden_states" or "grid_thw" in takes):
            return kind
    return None


def model_type(tower: Any) -> str:
    """The name of the tower's architecture in its configuration, "" where it has none."""
    return str(getattr(tower.config, "model_type", None) or "")


def arguments(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of a module's forward pass."""
    return tuple(inspect.signature(module.forward).parameters)


# Where a tower's layers stand: the classes whose outputs transformers records, then its structure.


# Parts of a model that are no trunk.
_SIDE = ("decoder", "predictor", "quantizer", "feature_extractor", "pooler", "head", "neck", "resampler")
# Layers without a module of their own: what ends each of them, so that its output is the whole layer's.
_STANDING = {"xlm": "layer_norm2", "flaubert": "layer_norm2", "swiftformer": "encoder.network"}
# Stacks that run one after the other on the same tokens.
_CONTINUED = {"mllama_vision_model": ("transformer.layers", "global_transformer.layers")}
# Layers whose forward pass is called past the module: the part that ends each of them.
_PARTS = {"squeezebert": ("encoder.layers", "output")}
FIRST = {
    "xlm": "tower.attentions.0",
    "flaubert": "tower.attentions.0",
    "squeezebert": "tower.encoder.layers.0.attention",
}
"""What takes the embedding where it is not the first of these."""


# Stacks that run one after the other: list of layers, axes of its tokens, special tokens before them.
CHAINS = {
    "pe_video_encoder": (
        ("embedder.vision_model.timm_model.blocks", ("t", "y", "x"), 1),
        ("layers", ("t",), 1),
    )
}
_OF_TIMM = ("timm_wrapper", "timm_backbone")


def stacks(tower: nn.Module) -> list[list[str] | None]:
    """Qualified names of the layers, the most likely first; None stands for what discovery finds by itself."""
    kind = model_type(tower.get_submodule("tower"))
    if kind in _STANDING:
        return [children(tower, _STANDING[kind])]
    if kind in _CONTINUED:
        return [[name for place in _CONTINUED[kind] for name in children(tower, place)]]
    if kind in _PARTS:
        place, part = _PARTS[kind]
        return [[f"{name}.{part}" for name in children(tower, place)]]
    if kind in _OF_TIMM:
        return [None]
    candidates: list[list[str] | None] = [names for names in _recorded(tower) if names]
    listed = _listed(tower)
    if listed and listed not in candidates:
        candidates.append(listed)
    return [*candidates, None]


def children(tower: nn.Module, place: str) -> list[str]:
    """Qualified names of the layers that stand at a place of the tower."""
    return [f"tower.{place}.{key}" for key, _ in tower.get_submodule(f"tower.{place}").named_children()]


def _listed(tower: nn.Module) -> list[str]:
    """The list of at least two modules of one class with most parameters, not inside another one's."""
    best: list[str] = []
    most, only_side = 0, _only_side(tower)
    for name, part in _lists(tower, nn.ModuleList, nn.Sequential).items():
        if is_side(name) and not only_side:
            continue
        alike = len({type(child) for child in part}) == 1
        size = sum(p.numel() for p in part.parameters())
        if alike and size > most:
            best, most = [f"{name}.{key}" for key, _ in part.named_children()], size
    return best


def inner_layers(module: nn.Module) -> list[str]:
    """Names within a head of the layers that it stacks; nothing where it has no such stack."""
    alike = {name: part for name, part in _lists(module, nn.ModuleList).items() if len({type(p) for p in part}) == 1}
    longest = max(alike, key=lambda name: len(alike[name]), default="")
    return [f"{longest}.{i}" for i in range(len(alike[longest]))] if alike else []


def _lists(tower: nn.Module, *kinds: type[nn.ModuleList | nn.Sequential]) -> dict[str, Any]:
    """Lists of at least two modules with parts of their own, by name."""
    lists = {name: part for name, part in tower.named_modules() if isinstance(part, kinds)}
    return {n: part for n, part in lists.items() if len(part) > 1 and next(part[0].children(), None) is not None}


def _only_side(tower: nn.Module) -> bool:
    """True if all that stacks layers has the name of a side branch: decoders alone are a trunk."""
    return all(is_side(name) for name in _lists(tower, nn.ModuleList, nn.Sequential))


def _recorded(tower: nn.Module) -> Iterable[list[str]]:
    """Instances of each class that some part records as its hidden states, outermost only, those of the trunk alone."""
    by_class: dict[type, list[str]] = {}
    for owner_name, owner in tower.named_modules():
        for kind, place in _targets(owner):
            for name, part in owner.named_modules():
                whole = f"{owner_name}.{name}" if owner_name else name
                if isinstance(part, kind) and place in name and whole not in by_class.setdefault(kind, []):
                    by_class[kind].append(whole)

    def size(names: Iterable[str]) -> int:
        return sum(p.numel() for name in names for p in tower.get_submodule(name).parameters())

    candidates: list[tuple[int, list[str]]] = []
    for names in by_class.values():
        outer = [n for n in names if not any(n.startswith(f"{other}.") for other in names)]
        trunk = [n for n in outer if not is_side(n)] or (outer if _only_side(tower) else [])
        groups: dict[str, list[str]] = {}
        for name in trunk:
            groups.setdefault(re.sub(r"\.\d+$", "", name), []).append(name)
        if groups:
            candidates.append((size(trunk), trunk))
        if len(groups) > 1:
            # Stages hold layers of one class in several lists; lists of another width or purpose stand elsewhere.
            candidates.append((size(trunk) - 1, max(groups.values(), key=size)))
    return [names for _, names in sorted(candidates, key=lambda pair: -pair[0])]


def _targets(owner: Any) -> list[tuple[type, str]]:
    recorded: Any = (getattr(owner, "_can_record_outputs", None) or {}).get("hidden_states")
    entries: list[Any] = list(recorded) if isinstance(recorded, (list, tuple)) else [recorded] if recorded else []
    targets: list[tuple[type, str]] = []
    for entry in entries:
        kind = getattr(entry, "target_class", entry)
        if isinstance(kind, type):
            targets.append((kind, getattr(entry, "layer_name", None) or ""))
    return targets


def is_side(name: str) -> bool:
    """True if a module stands in a part that is no trunk (a decoder, a quantizer)."""
    return any(part.removesuffix("s").endswith(_SIDE) for part in name.split("."))


# What every modality's preprocessing is made of: `Prepared`, the sizes asked for, and a look into configuration and
# directory.


_LOADERS = {
    "tokenizer": ("AutoTokenizer", "tokenizer.json, tokenizer_config.json"),
    "feature extractor": ("AutoFeatureExtractor", "preprocessor_config.json"),
    "image processor": ("AutoImageProcessor", "preprocessor_config.json"),
    "video processor": ("AutoVideoProcessor", "video_preprocessor_config.json"),
}
"""What may lie beside a model: the class that loads it, and its files."""

Arguments = Callable[[Mapping[str, Tensor]], dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """A user's wishes: side of images in pixels, length in tokens, steps or samples, frames of a video.

    `tokenizer`: `bytes`.
    """

    size: int | None = None
    length: int | None = None
    frames: int | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.tokenizer not in (None, "bytes"):
            raise name_error("tokenizer", self.tokenizer, ["bytes"], "Leave it out for the directory's own.")
        for key, most in (("size", 8192), ("length", 10**7), ("frames", 4096)):
            if (getattr(self, key) or 0) > most:
                raise DiagnosticsError(
                    f"No encoder takes {key}={getattr(self, key)}: give at most {most:,}.", code="bad-value"
                )


def whole(shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
    """(start, stop) along each axis of a sample, where nothing is cut off."""
    return tuple((0.0, float(n)) for n in shape)


@dataclass
class Prepared:
    """Preparation of a modality's samples as a tower's input.

    Parameters
    ----------
    preprocess: raw sample -> tensors by name, without the batch axis.
    example: a raw sample.
    extents: of the input along each axis that tokens can lie on, slowest first.
    places: grids (one extent for each axis) that the trunk's tokens may have by the configuration.
    packed: the tower takes and keeps the tokens of all samples in one row [B * T, F].
    description: what preprocessing is, for the configuration.
    arguments: batch -> the tower's keyword arguments.
    forms: several ways to do that, of which the first that runs is taken.
    covers, valid, rate: see `TorchEncoder`.
    special: tokens that stand for no place before those of the frames, where their number cannot be told from a grid.
    reach: of how many tokens' steps before its own a token knows (lags).
    any_length: whether the same model can be prepared for samples of another length.
    guessed: what the directory lacks, so that the preparation is a guess (`tokenizer`); "" where it lacks nothing.
    """

    modality: Any
    preprocess: Callable[[np.ndarray], dict[str, Tensor]]
    example: np.ndarray
    extents: dict[str, int]
    places: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    packed: bool = False
    description: str = ""
    arguments: Arguments = dict
    forms: list[Arguments] = field(default_factory=list[Arguments])
    covers: Callable[[tuple[int, ...]], tuple[tuple[float, float], ...]] = whole
    valid: Callable[[Any, Tap], Tensor | None] | None = None
    rate: float | None = None
    special: int = 0
    reach: int = 0
    any_length: bool = False
    guessed: str = ""


def setting(config: Any, *names: str, default: Any = None) -> Any:
    """The first of some settings that a configuration has."""
    for name in names:
        try:
            value = getattr(config, name, None)
        except Exception:  # some settings differ from layer to layer and refuse to be read as one
            value = None
        if value is not None:
            return value
    return default


def from_directory(part: str, source: str | None) -> Any:
    """A part of `_LOADERS` as transformers loads it from a directory; None where nothing there works here."""
    try:
        return _load(part, source)
    except Exception:
        # Whatever is missing (files, packages; OSError from a torchaudio of another torch): the fallback takes over.
        return None


def refuse_guess(loaded: Loaded, prepared: Prepared) -> None:
    """Raise where a model with stored weights would get samples that are prepared by a guess."""
    if not (loaded.stored and prepared.guessed):
        return
    try:
        _load(prepared.guessed, loaded.source)
        why = "it holds special tokens alone"
    except Exception as error:
        why = "none of its files is there" if "Can't load" in str(error) else describe(error)
    other = ", or give ?tokenizer=bytes where it was trained on bytes" if prepared.guessed == "tokenizer" else ""
    raise DiagnosticsError(
        f"{loaded.name} has weights and no {prepared.guessed} that can be used ({why}), without which its "
        f"features would be wrong: copy into its directory what save_pretrained of its {prepared.guessed} writes "
        f"({_LOADERS[prepared.guessed][1]}){other}.",
        code="missing-file",
    )


def _load(part: str, source: str | None) -> Any:
    if source is None:
        raise DiagnosticsError("there is no directory", code="missing-file")
    with quiet():
        return getattr(transformers, _LOADERS[part][0]).from_pretrained(source, trust_remote_code=False)
