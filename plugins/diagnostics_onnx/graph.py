"""The blocks of an ONNX graph, by the scopes that exporters leave in the names of its nodes."""

import re
from collections import defaultdict
from typing import Any

from diagnostics import DiagnosticsError

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
                f"{encoder} has a block {prefix}.{scope} that passes nothing on: name its taps with ?taps=."
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
        raise DiagnosticsError(f"{encoder} has a first block that takes nothing: name its taps with ?taps=.")
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
            f"{encoder} names no repeated blocks in its graph: name the tensors to read with ?taps=, with commas."
        )
    best = max(able, key=lambda prefix: (sum(map(len, able[prefix].values())), -len(prefix)))
    return best, able[best]
