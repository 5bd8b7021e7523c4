"""An ONNX file as an encoder: the tensors to read become outputs of its graph, which onnxruntime computes."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from diagnostics_timm.pixels import Middle, example
from PIL import Image
from torch import Tensor

from diagnostics.plugin import (
    DiagnosticsError,
    Encoder,
    FirstBlockInput,
    Modality,
    Places,
    Reduce,
    Site,
    Tap,
    as_tokens,
    central_part,
    check_known,
    describe,
    explaining,
    keep,
)

# The blocks of an ONNX graph, by the scopes that exporters leave in the names of its nodes.

# `/encoder/layer.0/norm1/Add` as PyTorch writes it: the scope that ends in a number, and which number.
_NUMBERED = re.compile(r"((?:^|.*?[/.])[A-Za-z_]+)[./](\d+)(?=[/.]|$)")
_FEWEST = 2


def block_outputs(graph: Any, encoder: str) -> tuple[str, list[tuple[str, str]]]:
    """The tensor that enters the first block, and (block, tensor that it gives) in order of execution.

    Raises DiagnosticsError where no scope is repeated, since the exporter kept no names then.
    """
    prefix, scopes = _largest_series(graph, encoder)
    inside = {node.name: scope for scope, nodes in scopes.items() for node in nodes}
    used_by: dict[str, set[Any]] = defaultdict(set)
    for node in graph.node:
        for name in node.input:
            used_by[name].add(inside.get(node.name))
    for out in graph.output:
        used_by[out.name].add(None)
    handed: list[tuple[str, str]] = []
    for scope, nodes in scopes.items():
        leaving = [name for node in nodes for name in node.output if used_by[name] - {scope}]
        if not leaving:
            raise DiagnosticsError(
                f"{encoder} has a block {prefix}.{scope} that passes nothing on: name its taps with ?taps=.",
                code="no-trunk",
            )
        handed.append((f"{prefix.strip('/').replace('/', '.')}.{scope}", leaving[-1]))
    first = next(iter(scopes))
    outside = {
        name
        for node in graph.node
        if node.op_type != "Constant" and inside.get(node.name) != first
        for name in node.output
    }
    outside |= {value.name for value in graph.input}
    entering = [name for node in scopes[first] for name in node.input if name in outside]
    if not entering:
        raise DiagnosticsError(
            f"{encoder} has a first block that takes nothing: name its taps with ?taps=.", code="no-trunk"
        )
    return entering[0], handed


def _largest_series(graph: Any, encoder: str) -> tuple[str, dict[int, list[Any]]]:
    """The prefix whose numbered scopes hold the most nodes, and these nodes by number, in order of execution."""
    series: dict[str, dict[int, list[Any]]] = defaultdict(dict)
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        for match in _NUMBERED.finditer(node.name):
            series[node.name[: match.end(1)]].setdefault(int(match[2]), []).append(node)
    able = {prefix: scopes for prefix, scopes in series.items() if len(scopes) >= _FEWEST}
    if not able:
        raise DiagnosticsError(
            f"{encoder} names no repeated blocks in its graph: name the tensors to read with ?taps=, with commas.",
            code="no-trunk",
        )
    best = max(able, key=lambda prefix: (sum(map(len, able[prefix].values())), -len(prefix)))
    return best, able[best]


Preprocess = Callable[[np.ndarray], Tensor]


class OnnxEncoder(Encoder):
    """An ONNX graph as an encoder; runs on the CPU.

    It has no attention, no gradients and no fresh weights, since a file does not say how to draw them.
    """

    def __init__(
        self,
        name: str,
        modality: Modality,
        model: Any,
        taps: Sequence[Tap],
        preprocess: Preprocess,
        example: np.ndarray,
        fixed: int,
    ) -> None:
        self.name, self.modality, self.taps, self.output_tap = name, modality, tuple(taps), taps[-1].name
        self._model, self._preprocess, self._example = model, preprocess, example
        self._session = session_of(model, [tap.site.module for tap in self.taps if tap.site], name)
        self._fixed = fixed

    @property
    def identity(self) -> Mapping[str, str]:
        prepared = self.preprocess(self._example)
        return {
            "weights": hashlib.sha256(self._model.SerializeToString(deterministic=True)).hexdigest(),
            "configuration": self.name,
            "preprocessing": hashlib.sha256(
                prepared.numpy().tobytes() + repr(tuple(prepared.shape)).encode()
            ).hexdigest(),
        }

    def example(self) -> np.ndarray:
        return self._example

    def preprocess(self, sample: np.ndarray) -> Tensor:
        return self._preprocess(sample)

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        size = np.shape(self.preprocess(self._example))[-2:]
        return central_part(shape, size) if self.modality == "image" else super().covers(shape)

    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        wanted = self.taps if taps is None else tuple(self.tap(name) for name in taps)
        names = list(dict.fromkeys(cast(Site, tap.site).module for tap in wanted))
        values = dict(zip(names, run(self._session, names, batch.numpy(), self._fixed), strict=True))
        captured: dict[str, Any] = {}
        for tap in wanted:
            site = cast(Site, tap.site)
            captured[tap.name] = reduce(tap, as_tokens(tap, site, values[site.module]))
        return captured

    def permuted(self, seed: int) -> Encoder:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        rng = np.random.default_rng(seed)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype.kind == "f" and values.size > 1:
                shuffled = rng.permutation(values.ravel()).reshape(values.shape)
                tensor.CopyFrom(onnx.numpy_helper.from_array(shuffled, tensor.name))
        name = f"{self.name} (permuted weights)"
        return OnnxEncoder(
            name, self.modality, model, self.taps, self._preprocess, example=self._example, fixed=self._fixed
        )


def build(path: str, modality: str | None, taps: str | None, mean: str, std: str, length: int | None) -> OnnxEncoder:
    """See `diagnostics_onnx.plugin.build`."""
    name = f"onnx:{Path(path).name}"
    model = _read(path)
    inputs = [value for value in model.graph.input if value.name not in {t.name for t in model.graph.initializer}]
    if len(inputs) != 1:
        raise DiagnosticsError(
            f"{name} takes {len(inputs)} inputs: only models with one can be read from a file.", code="unsupported"
        )
    shape = [d.dim_value or None for d in inputs[0].type.tensor_type.shape.dim]
    kind = modality or ("image" if len(shape) == 4 else "series")
    if kind == "image" and len(shape) == 4:
        sample, preprocess, extents = _image(name, shape, mean, std)
    elif kind == "series" and len(shape) in (2, 3):
        sample, preprocess, extents = _series(name, shape, length)
    else:
        raise DiagnosticsError(
            f"{name} takes a tensor of {len(shape)} axes, which is no {kind}: give ?modality=image or series.",
            code="other-modality",
        )
    named = [tensor for tensor in (taps or "").split(",") if tensor]
    blocks = [(tensor.strip("/").replace("/", ".").replace(":", "."), tensor) for tensor in named]
    entered, blocks = ("", blocks) if taps else block_outputs(model.graph, name)
    # A first block that takes the input itself has no embedding before it.
    entered = "" if entered in {value.name for value in inputs} else entered
    tensors = {"embed": entered} | dict(blocks) if entered else dict(blocks)
    session = session_of(model, list(tensors.values()), name)
    batch = np.repeat(preprocess(sample)[None].numpy(), max(2, _batch_size(session)), axis=0)
    # Tracing may have fixed a batch of one inside, whatever the file declares.
    failures: list[Exception] = []
    for fixed in (_batch_size(session), 1):
        try:
            values = run(session, list(tensors.values()), batch, fixed)
            break
        except Exception as error:
            failures.append(error)
    else:
        raise DiagnosticsError(
            f"{name} does not run on an example: {describe(failures[-1])}.", code="foreign-error"
        ) from failures[-1]
    first = next(iter(tensors.values()))

    def read(given: Tensor) -> Tensor:
        return run(session, [first], given.numpy(), fixed)[0]

    places = _places(name, read, first, torch.from_numpy(batch), extents)
    read_at: list[Tap] = []
    for i, ((tap, tensor), value) in enumerate(zip(tensors.items(), values, strict=True)):
        depth = (i if entered else i + 1) / max(1, len(tensors) - bool(entered))
        place = places.of(value, tensor)
        if place.layout == "time_first":
            raise DiagnosticsError(
                f"{name} has time before samples at {tensor}, which cannot be read from a file yet.", code="unsupported"
            )
        site = Site(tensor, layout=place.layout, rows=place.rows)
        read_at.append(Tap(tap, depth, "embedding" if tap == "embed" else "trunk", place.features, place.grid, site))
    return OnnxEncoder(name, cast(Modality, kind), model, read_at, preprocess, example=sample, fixed=fixed)


def _places(
    name: str, read: Callable[[Tensor], Tensor], tensor: str, batch: Tensor, extents: Mapping[str, int]
) -> Places:
    """The places of the graph's tensors, given what changes of the input move in the first one."""
    first = FirstBlockInput(batch, read)
    special = first.special_tokens() or []
    if special != list(range(len(special))):
        raise DiagnosticsError(
            f"{name} has special tokens among the others at {tensor}, which cannot be read from a file yet.",
            code="unsupported",
        )
    features_first = first.features_first(extents)
    return Places(name, extents, len(batch), prefix=len(special), certain=False, features_first=features_first)


def session_of(model: Any, tensors: Sequence[str], encoder: str) -> Any:
    """An onnxruntime session whose outputs are these tensors; DiagnosticsError for unknown names."""
    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    known = {name for node in model.graph.node for name in node.output}
    for tensor in tensors:
        check_known(f"tensor of {encoder}:", tensor, known, "A viewer such as Netron shows all.")
    present = {out.name for out in widened.graph.output}
    widened.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in present
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    with explaining(f"{encoder} cannot be run"):
        return onnxruntime.InferenceSession(widened.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: Any, names: list[str], given: np.ndarray, fixed: int) -> list[Tensor]:
    """The named tensors of a batch, in parts where the file has `fixed` the batch size (0 where it has not).

    The last part is filled up with its own last sample.
    """
    step = fixed or len(given)
    whole = np.concatenate([given, np.repeat(given[-1:], -len(given) % step, axis=0)])
    name = session.get_inputs()[0].name
    parts = [session.run(names, {name: whole[i : i + step]}) for i in range(0, len(whole), step)]
    return [torch.from_numpy(np.concatenate(part)[: len(given)]) for part in zip(*parts, strict=True)]


def _batch_size(session: Any) -> int:
    """Batch size that the file declares, 0 where it leaves it open."""
    size = session.get_inputs()[0].shape[0]
    return size if isinstance(size, int) else 0


def _read(path: str) -> Any:
    if not Path(path).is_file():
        raise DiagnosticsError(f"There is no file {path}: give the path of an .onnx file.", code="missing-file")
    with explaining(f"{path} is not a complete ONNX file", code="unreadable"):
        model = onnx.load(path)
        onnx.checker.check_model(model)
    return model


def _image(
    name: str, shape: Sequence[int | None], mean: str, std: str
) -> tuple[np.ndarray, Preprocess, dict[str, int]]:
    channels, height, width = shape[1:]
    if channels not in (1, 3) or not height or not width:
        raise DiagnosticsError(
            f"{name} takes {list(shape)}: only images [B, 1 or 3 channels, y, x] of one size can be read.",
            code="unsupported",
        )
    centre, spread = (_numbers(text, channels) for text in (mean, std))

    middle = Middle(name, (height, width), channels, centre, spread, Image.Resampling.BILINEAR)
    return example(), middle.pixels, {"y": height, "x": width}


def _series(
    name: str, shape: Sequence[int | None], length: int | None
) -> tuple[np.ndarray, Preprocess, dict[str, int]]:
    steps = next((n for n in shape[1:] if n and n > 1), None) or length
    if not steps:
        raise DiagnosticsError(f"{name} leaves the length of its series open: give ?length=.", code="missing-option")

    def preprocess(sample: np.ndarray) -> Tensor:
        series = torch.as_tensor(np.asarray(sample, dtype=np.float32).reshape(-1))
        if len(series) != steps:
            raise DiagnosticsError(
                f"{name} reads one variate of {steps} steps, not {list(np.shape(sample))}: cut the samples.",
                code="bad-sample",
            )
        return series if len(shape) == 2 else series[None] if shape[1] == 1 else series[:, None]

    return np.random.default_rng(0).standard_normal(steps).astype(np.float32), preprocess, {"t": steps}


def _numbers(text: str, channels: int) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 3 and channels == 1:
        values = [sum(values) / 3]
    if len(values) not in (1, channels):
        raise DiagnosticsError(
            f"'{text}' is not one number, or one for each of {channels} channels: separate them with commas.",
            code="bad-value",
        )
    return values
