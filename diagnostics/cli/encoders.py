"""Commands on an encoder: what it looks like from outside, with the cost of a sample, and its export cut at a tap.

Also those on all encoders of a training.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

import diagnostics
from diagnostics.activations.place import locate
from diagnostics.activations.prepare import fit
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.flops import count_flops
from diagnostics.encoders.modules import pool, usable_device
from diagnostics.encoders.places.verify import NotVerifiableError, verify_grid
from diagnostics.encoders.saved.cut import cut_encoder
from diagnostics.encoders.saved.files import SAVED, save_encoder
from diagnostics.encoders.taps import Grid
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, explaining
from diagnostics.progress import Watch, duration, size
from diagnostics.report.escaping import printable
from diagnostics.report.layout import show, show_table, terminal, whole
from diagnostics.report.numbers import SIGNIFICANT, format_number
from diagnostics.runs.derived import compare_output
from diagnostics.runs.job import perform
from diagnostics.runs.options import Request, default_folder
from diagnostics.specs import build

_HOW = re.compile(r"(?: as |, \d+ rows | without ).*$")
"""What stands behind the place in the text of a `Site`."""


def inspect_encoder(
    spec: str, data: str | None = None, device: str | None = None, *, verify: bool = False, trust_code: bool = False
) -> dict[str, Any]:
    """Taps, grids and the cost of a sample, after a forward pass in which every tap must fire.

    With `verify`, also `placement`: whether tokens lie where the grid declares them, from changing single cells of the
    input.
    """
    encoder = build("encoder", spec, trust_code=trust_code)
    dataset = build("dataset", data) if data else None
    where = usable_device(device)
    encoder = fit(encoder, dataset) if dataset is not None else encoder
    seconds: list[float] = []
    with explaining(f"{encoder.name} fails on one sample"):
        sample = dataset[0] if dataset is not None else encoder.example()
        encoder = encoder.sized_for(sample).to(where)
        batch = default_collate([encoder.preprocess(sample)] * 2)
        for _ in range(3):
            start = time.perf_counter()
            encoder.capture(batch, None, lambda tap, tokens: pool(tap, tokens, encoder.poolings).cpu())
            seconds.append((time.perf_counter() - start) / 2)
        output = compare_output(encoder, dataset)
    module: Any = getattr(encoder, "module", None)
    return {
        **({"placement": _placement(encoder, sample)} if verify else {}),
        "encoder": encoder.name,
        "modality": encoder.modality,
        "parameters": sum(p.numel() for p in module.parameters()) if isinstance(module, torch.nn.Module) else None,
        "output_tap": encoder.output_tap,
        "handed_out": output.to_json(),
        "pooling": list(encoder.poolings),
        "identity": dict(encoder.identity),
        "lineage": dict(encoder.lineage),
        "input": _spread(batch),
        "seconds_per_sample": min(seconds),
        "pooled_bytes_per_sample": 4 * len(encoder.poolings) * sum(tap.features for tap in encoder.taps),
        "token_bytes_per_sample": 4 * sum(tap.tokens * tap.features for tap in encoder.taps),
        "taps": [
            {
                "name": tap.name,
                "depth": tap.depth,
                "part": tap.part,
                "features": tap.features,
                "grid": list(tap.grid.shape),
                "axes": list(tap.grid.axes),
                "prefix": tap.grid.prefix,
                "read": str(tap.site) if tap.site else "",
            }
            for tap in encoder.taps
        ],
    }


def _spread(batch: Any) -> dict[str, float] | None:
    """Mean and standard deviation of what enters the first layer.

    Of a batch by name it is the one array of floats. None where there is none, as with tokens of texts, or several.
    """
    arrays = batch.values() if isinstance(batch, dict) else [batch]
    floats = [one for one in arrays if isinstance(one, torch.Tensor) and one.is_floating_point()]
    if len(floats) != 1:
        return None
    numbers = floats[0][0].double()
    return {"mean": float(numbers.mean()), "std": float(numbers.std(correction=0))}


def _placement(encoder: Encoder, sample: np.ndarray) -> dict[str, Any]:
    try:
        verification = verify_grid(encoder, sample)
    except NotVerifiableError as error:
        return {"said": str(error), "right": None}
    return {"said": str(verification), **verification.to_json()}


def print_inspection(inspected: dict[str, Any]) -> None:
    """An encoder's taps, and what a sample costs."""
    console = terminal()
    parameters = f", {inspected['parameters']:,} parameters" if inspected["parameters"] else ""
    show(console, f"{whole(inspected['encoder'])}: {inspected['modality']}{parameters}", "bold")
    # How tokens are made (their layout, and what is dropped of them), where that is the same for several taps.
    ways = {way[0] if (way := _HOW.search(tap["read"])) else "" for tap in inspected["taps"]}
    alike = ways.pop() if len(ways) == 1 and len(inspected["taps"]) > 1 else ""
    rows: list[list[str]] = []
    for tap in inspected["taps"]:
        # One token stands for the whole sample, and not for a place in it.
        placeless = not tap["prefix"] and set(tap["grid"]) == {1}
        grid = "-" if placeless else str(Grid(tuple(tap["grid"]), tuple(tap["axes"]), tap["prefix"]))
        mark = " (output)" if tap["name"] == inspected["output_tap"] else ""
        rows.append(
            [
                whole(tap["name"]) + mark,
                f"{tap['depth']:.2f}",
                printable(tap["part"]),
                str(tap["features"]),
                whole(grid),
                printable(tap["read"].removesuffix(alike)),
            ]
        )
    show_table(console, ["tap", "depth", "part", "features", "grid", "read"], rows)
    if alike:
        show(console, f"All taps are read{printable(alike)}.")
    show(console, printable(inspected["handed_out"]["sentence"]))
    configuration = inspected["identity"].get("configuration", "").removeprefix(inspected["encoder"]).strip()
    if configuration:
        show(console, f"Configuration: {printable(configuration)}.")
    lineage = inspected["lineage"]
    if how := lineage.get("how"):
        on = f", on {lineage['data']}" if lineage.get("data") else ""
        show(console, f"Made by: {printable(f'{how}{on}')}.")
    if entering := inspected["input"]:
        mean, std = (format_number(entering[key], SIGNIFICANT) for key in ("mean", "std"))
        show(console, f"What enters the first layer has mean {mean} and standard deviation {std}, of one sample.")
    show(
        console,
        f"A sample takes {inspected['seconds_per_sample'] * 1e3:.1f} ms; it stores "
        f"{size(inspected['pooled_bytes_per_sample'])} pooled ({' and '.join(inspected['pooling'])}) and "
        f"{size(inspected['token_bytes_per_sample'])} of tokens; 1,000 samples take about "
        f"{duration(inspected['seconds_per_sample'] * 1000)}.",
    )
    if placement := inspected.get("placement"):
        verdicts = {True: ("right", "green"), False: ("WRONG", "bold red"), None: ("not verified", "")}
        verdict, style = verdicts[placement["right"]]
        show(console, f"Grid {verdict}: {printable(placement['said'])}.", style)
        if placement.get("prefix_moved"):
            show(console, "Prefix tokens changed too: tokens are already mixed at this tap.")


def export(encoder: str | Encoder, tap: str, out: str | Path, *, trust_code: bool = False) -> dict[str, Any]:
    """Cuts an encoder, or what a name builds, and saves it; refuses a file that is there. `trust_code` as of `build`.

    The name in the `file`, the `whole` encoder's, and the costs of both with what is saved. `flops` are those of matrix
    products, convolutions and attention in a pass over the example, a multiplication and an addition counting 2; None
    where a pass cannot be counted.
    """
    file = Path(out) if Path(out).suffix == ".safetensors" else Path(out) / SAVED
    if file.exists():
        raise DiagnosticsError(f"{file} is there already: choose another --out, or remove it.", code="occupied")
    entire: Encoder = build("encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else encoder
    cut = cut_encoder(entire, [name.strip() for name in tap.split(",")])
    assert isinstance(entire, TorchEncoder)
    written = save_encoder(file, cut)
    row = {
        "file": str(written),
        "name": cut.name,
        "whole": entire.name,
        "tap": tap,
        "taps": [tap.name for tap in cut.taps],
    }
    for cost, count in (
        ("parameters", lambda one: sum(each.numel() for each in one.module.parameters())),
        ("flops", lambda one: count_flops(one).get("")),
    ):
        kept, every = count(cut), count(entire)
        saved = None if kept is None or every is None else every - kept
        share = saved / every if saved is not None and every else None
        row |= {cost: kept, f"whole_{cost}": every, f"{cost}_saved": saved, f"{cost}_saved_share": share}
    return row


def print_export(row: dict[str, Any]) -> None:
    """Name and taps of an exported encoder, and what it saves."""
    taps = (
        f"{len(row['taps'])} taps from {row['taps'][0]} to {row['taps'][-1]}"
        if row["taps"][1:]
        else f"tap {row['tap']}"
    )
    print(printable(f"{row['file']}: {row['name']}, {taps}"))
    for title, cost in (("Parameters", "parameters"), ("FLOPs of a pass over the example", "flops")):
        if row[f"{cost}_saved"] is None:
            text = "not countable"
        elif cost == "flops" and not row["whole_flops"]:
            text = "0, since it has no matrix product or convolution that is counted"
        else:
            share = row[f"{cost}_saved_share"] or 0.0
            text = f"{row[cost]:,} of {row[f'whole_{cost}']:,} ({row[f'{cost}_saved']:,} saved, {share:.1%})"
        print(f"{title}: {text}")


# Encoders that a training kept on the way.


def requests_by_step(request: Request) -> list[Request]:
    """A request for each encoder in a folder where their names are steps, in this order, then for the one around it.

    Each has a run of its own in the folder of runs. [] for anything else.
    """
    folder = Path(str(request.encoder)).expanduser()
    if not folder.is_dir() or (folder / SAVED).is_file():
        return []
    names = [file.parent.name for file in folder.glob(f"*/{SAVED}") if file.parent.name.isdecimal()]
    encoders = {name: folder / name for name in sorted(names, key=int)}
    if encoders and (folder.parent / SAVED).is_file():
        encoders["last"] = folder.parent
    out = request.out or default_folder(str(request.encoder), str(request.dataset))
    return [
        replace(request, encoder=str(path), out=locate(f"{out}/{name}"))
        for name, path in encoders.items()
        if len(encoders) > 1
    ]


def measure_steps(requests: Sequence[Request], watch: Watch) -> diagnostics.Comparison:
    """Carries out all of them, and compares their runs, of which only the places are held meanwhile."""
    comparison = diagnostics.compare([perform(request, watch).path for request in requests], watch=watch)
    comparison.report(comparison.default_path)
    return comparison
