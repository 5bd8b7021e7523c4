"""Parts that all models here share: how samples are read, and one encoder for each length and number of variates.

Shape suffixes: B sample, V variate, L step, T token, F feature.
"""

import contextlib
import json
import pickle
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostics_timm.weights import seeding
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Grid, Tap, TorchEncoder, describe, explaining, misfits, stack_taps

# Weights on disk or from the hub, and the errors when they do not come.
#
# Options of every builder here: `pretrained` takes trained weights, otherwise initial ones of `seed`; `config` is what
# to change in the configuration of untrained weights.

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+")
# Seconds that the hub has to answer before the local cache is asked.
_PATIENCE = 5.0


FILES = ("*.json", "*.safetensors")
"""What most checkpoints consist of."""


class SampleError(DiagnosticsError):
    """A sample that a model does not take."""

    code = "bad-sample"


def folder_of(scheme: str, spec: str, files: Sequence[str], small: str) -> Path:
    """The folder of a checkpoint: `spec` itself, or what the hub (or its cache here) has under that name.

    `files` are the patterns of what is needed, `small` names an untrained model for those who have no checkpoint.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        check_files(path)
        return path
    if path.is_file():
        raise DiagnosticsError(
            f"{scheme}{spec} is a file: give the folder that holds it and its config.json.", code="missing-file"
        )
    if not _HUB_ID.fullmatch(spec):
        raise DiagnosticsError(
            f"There is no folder {spec}: give {scheme}FOLDER, {scheme}OWNER/MODEL of the hub, or for untrained weights "
            f"{scheme}{small}?pretrained=false.",
            code="missing-file",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec, allow_patterns=list(files), etag_timeout=_PATIENCE))
    except Exception as error:
        offline = isinstance(error, LocalEntryNotFoundError)
        why = "the hub does not answer, and its cache here has nothing of that name" if offline else describe(error)
        raise DiagnosticsError(
            f"{scheme}{spec} is no folder here and cannot be fetched ({why}): give the folder of a checkpoint, or for "
            f"untrained weights {scheme}{small}?pretrained=false.",
            code="not-fetched",
        ) from error


def check_files(folder: Path) -> None:
    """Raise where a checkpoint's folder holds a pipe, a socket or a device, reading which may never end."""
    for file in sorted(folder.iterdir()):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise DiagnosticsError(
                f"{file} is no regular file: give the folder of a checkpoint as its authors published it.",
                code="strange-file",
            )


def name_of(scheme: str, spec: str, pretrained: bool, seed: int) -> str:
    """The encoder's name: where a file lies does not decide the activations, so only its last part stands in it."""
    path = Path(spec).expanduser()
    name = path.resolve().name if path.exists() else spec
    return f"{scheme}{name}" + ("" if pretrained else "?pretrained=false" + (f"&seed={seed}" if seed else ""))


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint."""
    path = folder / "config.json"
    with explaining(f"{path} cannot be read", "copy the checkpoint again", "unreadable", (OSError, ValueError)):
        if not path.is_file():
            raise DiagnosticsError(
                f"{folder} holds no config.json: give the folder of a checkpoint.", code="missing-file"
            )
        settings = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise DiagnosticsError(f"{path} is no mapping: copy the checkpoint again.", code="damaged")
    return settings


def settings_of(
    scheme: str, spec: str, pretrained: bool, small: Mapping[str, Any], config: Any = None
) -> tuple[Path | None, dict[str, Any]]:
    """Folder and configuration of a checkpoint; of an untrained model in `small`, no folder, and `config` changes it.

    Scheme and spec as of `folder_of`, whose errors offer the first of `small`.
    """
    if not pretrained and spec in small:
        return None, {**small[spec], **(config or {})}
    folder = folder_of(scheme, spec, FILES, next(iter(small)))
    return folder, read_config(folder)


@contextlib.contextmanager
def loading(library: str, folder: Path | str) -> Generator[None]:
    """Turn what goes wrong between a checkpoint and the library that reads it into one sentence."""
    with explaining(
        f"{library} cannot load {folder}", "it is damaged, or saved from another model or version", "damaged"
    ):
        try:
            yield
        except pickle.UnpicklingError as error:
            raise DiagnosticsError(
                f"{folder} is no checkpoint, or holds more than tensors and could run code: it is not loaded; get the "
                f"file that its authors published.",
                code="unreadable",
            ) from error


def check_fits(module: nn.Module, folder: Path, aside: Sequence[str] = ()) -> None:
    """Raise where a folder's weights lack a parameter of the module, or have another shape.

    A parameter that is missing would keep random values.

    Names that begin with one of `aside` are not asked for. Reads no tensors.
    """
    stored = _stored_shapes(folder)
    wanted = {
        name: tuple(p.shape)
        for name, p in module.named_parameters(remove_duplicate=False)
        if not name.startswith(tuple(aside))
    }
    odd = sorted(name for name, shape in wanted.items() if stored.get(name) != shape)
    if odd:
        first = f"{odd[0]} is {list(stored[odd[0]])}" if odd[0] in stored else f"{odd[0]} is missing"
        raise DiagnosticsError(
            f"{folder} does not hold the weights of a {type(module).__name__} of its config.json: {len(odd)} of "
            f"{len(wanted)} parameters are missing or of another shape ({first}, not {list(wanted[odd[0]])}); copy the "
            f"checkpoint again.",
            code="other-weights",
        )


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a folder's .safetensors or torch files; unpickles nothing but tensors."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            # The file is no mapping and cannot be iterated over.
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for path in sorted(folder.glob("*.bin")) if not shapes else []:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        shapes |= {name: tuple(tensor.shape) for name, tensor in loaded.items()}
    if not shapes:
        raise DiagnosticsError(
            f"{folder} holds no weights (*.safetensors or *.bin): give the folder of a checkpoint.", code="missing-file"
        )
    return shapes


def with_weights(
    library: str,
    untrained: Callable[[], Any],
    folder: Path | None,
    pretrained: bool,
    seed: int,
    aside: Sequence[str] = (),
) -> Any:
    """The module that `untrained` makes, with a checkpoint's weights or, untrained, with initial ones of a seed.

    Raises where a tensor lacks or is left over, but for names that begin with one of `aside`.
    """
    with seeding(seed), loading(library, folder or "its own configuration"):
        module = untrained()
        if folder is None or not pretrained:
            return module
        tensors = tensors_of(library, folder)
        read = [
            {name: each for name, each in state.items() if not name.startswith(tuple(aside))}
            for state in (module.state_dict(), tensors)
        ]
        if odd := misfits(*read):
            raise DiagnosticsError(
                f"{folder} does not fit a {type(module).__name__} of its config.json: {odd}; it was saved from another "
                f"model or version.",
                code="other-weights",
            )
        module.load_state_dict(tensors, strict=False)
    return module


def tensors_of(library: str, folder: Path) -> dict[str, Tensor]:
    """The tensors of `model.safetensors`."""
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    if not path.is_file():
        raise DiagnosticsError(
            f"{folder} holds no model.safetensors: give the folder of a {library} checkpoint.", code="missing-file"
        )
    with loading(library, path):
        return load_file(path)


Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class SeriesModel:
    """A model of series, before it is known how long they are.

    Parameters
    ----------
    name: as the encoder is called.
    module: the part of it that runs.
    taps: (steps, variates) -> taps.
    prepare: series [V, L] float32 with NaN where nothing was observed -> tensors without the batch axis.
    forward: one pass over a batch.
    output_tap: what its makers hand to users.
    longest, fewest: steps that it takes.
    several: whether it takes several variates.
    fresh: the module with untrained weights.
    valid: (batch) -> which grid tokens hold anything observed, bool [B, grid token]; None where all always do.
    covered: steps -> (start, stop) of the steps that the grid spans; below 0 where the model pads to a whole patch.
    example: steps of the example.
    maker_names: tap -> what its makers call what stands there.
    configuration: what else decides the activations, in words.
    """

    name: str
    module: nn.Module
    taps: Callable[[int, int], list[Tap]]
    prepare: Callable[[Tensor], Batch]
    forward: Callable[[nn.Module, Any], Any]
    output_tap: str
    longest: int | None
    fresh: Callable[[], nn.Module]
    valid: Callable[[Batch], Tensor] | None = None
    fewest: int = 1
    several: bool = False
    covered: Callable[[int], tuple[float, float]] | None = None
    example: int = 512
    configuration: str = ""
    maker_names: Mapping[str, str] = field(default_factory=dict[str, str])

    def encoder(self, steps: int | None = None, variates: int = 1) -> TorchEncoder:
        """The encoder of series of that many steps and variates; `sized_for` gives that of another size."""
        length = min(self.example, self.longest or self.example) if steps is None else steps
        shape = (length,) if variates == 1 else (length, variates)
        noise = np.random.default_rng(0).standard_normal(shape).cumsum(axis=0).astype(np.float32)

        def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
            series = self.series(sample)
            if series.shape != (variates, length):
                raise DiagnosticsError(
                    f"it has {series.shape[1]} steps of {series.shape[0]} variate(s) among series of {length} of "
                    f"{variates}: cut all to one length, or pad them with diagnostics.pad_series.",
                    code="bad-shape",
                )
            return dict(self.prepare(torch.from_numpy(series)))

        def valid(batch: Batch, tap: Tap) -> Tensor | None:
            observed = self.valid(batch) if self.valid else None
            # A tap of another grid (pooled, a head) has none of the padding in it.
            if observed is None or observed.shape[1] != tap.grid.tokens or bool(observed.all()):
                return None
            return observed

        def covers(extents: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
            time = self.covered(length) if self.covered else (0.0, float(length))
            scale = extents[-1] / length
            return (*((0.0, float(n)) for n in extents[:-1]), (time[0] * scale, time[1] * scale))

        return TorchEncoder(
            self.name,
            "series",
            self.module.eval(),
            self.taps(length, variates),
            self.output_tap,
            preprocess=preprocess,
            example=noise,
            forward=self.forward,
            fresh=self.fresh,
            sized_for=lambda sample: self.encoder(*reversed(self.series(sample).shape)),
            covers=covers,
            valid=valid,
            configuration=f"{self.configuration} series of {length} steps of {variates} variate(s)".strip(),
        ).replace(maker_names=self.maker_names)

    def series(self, sample: np.ndarray) -> np.ndarray:
        """A raw sample [L] or [L, V] as float32 [V, L]; raises where the model cannot read it."""
        series = np.asarray(sample)
        if series.ndim not in (1, 2) or series.dtype.kind not in "fiub" or 0 in series.shape:
            raise DiagnosticsError(
                f"{self.name} reads numbers [time] or [time, variate], not {series.dtype} of shape "
                f"{list(series.shape)}.",
                code="bad-shape",
            )
        series = np.ascontiguousarray(series.reshape(len(series), -1).T, dtype=np.float32)
        variates, steps = series.shape
        if variates > 1 and not self.several:
            raise SampleError(f"{self.name} reads one variate, not {variates}: choose one, or average them.")
        if self.longest is not None and steps > self.longest:
            raise SampleError(
                f"A series of {steps} steps exceeds the {self.longest} that {self.name} reads: cut it first."
            )
        if np.isinf(series).any():
            raise DiagnosticsError(
                f"{self.name} was given an infinite value: mark what is not known with NaN.", code="not-finite"
            )
        observed = int(np.isfinite(series).any(axis=0).sum())
        if observed < self.fewest:
            raise DiagnosticsError(
                f"{self.name} needs at least {self.fewest} observed step(s), a series has {observed}.", code="too-few"
            )
        return series


def places(tokens: int, variates: int, prefix: int = 0) -> Grid:
    """`tokens` in time, for each variate where there are several."""
    return Grid((tokens,), ("t",), prefix) if variates == 1 else Grid((variates, tokens), ("v", "t"), prefix)


def stack(name: str, count: int, features: int, grid: Grid, norm: str | None = None, **site: Any) -> list[Tap]:
    """The taps of `diagnostics.stack_taps`, with these further fields of `Site` at all of them."""
    taps = stack_taps(name, count, features, grid, norm=norm)
    return [replace(tap, site=replace(tap.site, **site)) for tap in taps if tap.site]


def special_last(tokens: int, special: int) -> tuple[int, ...]:
    """The order that hands over `special` tokens, which lie behind `tokens` others, first."""
    return (*range(tokens, tokens + special), *range(tokens))


def by_variate(variates: int, tokens: int, before: int = 0, after: int = 0) -> tuple[int, ...]:
    """The order for [B, V, before + tokens + after, F]: the special tokens of all variates first, then the others."""
    whole = before + tokens + after
    special = (*range(before), *range(before + tokens, whole))
    firsts = range(0, variates * whole, whole)
    return (
        *(first + i for first in firsts for i in special),
        *(first + before + i for first in firsts for i in range(tokens)),
    )


def patches(steps: int, size: int) -> int:
    """Patches of `size` steps that it takes to hold so many, the first of them padded on its left."""
    return -(-steps // size)


def whole_patches(size: int) -> Callable[[int], tuple[float, float]]:
    """The extent of patches of that size that end with the series and reach beyond its start."""
    return lambda steps: (float(steps - patches(steps, size) * size), float(steps))


def any_observed(series: Tensor, size: int) -> Tensor:
    """The patches that hold an observed step: [..., L] with NaN -> bool [..., patch]; patches end with the series."""
    observed = ~series.isnan()
    return nn.functional.pad(observed, (-series.shape[-1] % size, 0)).unflatten(-1, (-1, size)).any(-1)
