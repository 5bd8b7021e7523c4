"""What an alignment is made with: the data, the best tap for a target, a second teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics import Dataset, DiagnosticsError, Encoder, TorchEncoder, build, run
from diagnostics.encoders.trust import UntrustedCodeError
from diagnostics_training.alignment.objective import Teacher
from diagnostics_training.trainer.data import LENGTH, SIMULATED, training_spec

PROBED = 2_000
"""Samples of simulated data that are probed for the best tap."""
LEAST = 0.01
"""Of a score on val: what lies closer together than this shows nothing that is worth lifting."""


def data_for(asked: str | None, base: Encoder) -> str:
    """The specification of the data to align on: as asked for, or those that the encoder was trained on, in its own length.

    Simulated data named without number and seed are many fresh samples, as in `diagnostics train`.
    """
    if asked is not None:
        return training_spec(asked)[0]
    recorded = str(base.lineage.get("data", "")).partition(", the ")[0]
    if not recorded:
        raise DiagnosticsError(f"{base.name} does not tell what it was trained on: name a dataset with --data.")
    if not _simulated(recorded) or base.modality != "series":
        return recorded
    # Training draws windows from longer series than the encoder reads.
    return _with(recorded, "length", len(base.example()))


def plain(spec: str) -> str:
    """The specification of data to probe: simulated data as `diagnostics run` reads them, not those of training."""
    if not _simulated(spec):
        return spec
    name, _, query = spec.partition("?")
    kept = [
        part for part in query.split("&") if part.partition("=")[0] not in ("n", "seed") and part != f"length={LENGTH}"
    ]
    return f"{name}?{'&'.join(kept)}" if kept else name


def describe_data(spec: str, count: int) -> str:
    """For people and for the lineage, from which `data_for` reads it again."""
    return f"{spec}, the {count:,} samples of its train split"


def _simulated(spec: str) -> bool:
    return spec.partition("?")[0] in SIMULATED


def _with(spec: str, option: str, value: int) -> str:
    """The specification with another value of an option that it has."""
    name, _, query = spec.partition("?")
    parts = [f"{option}={value}" if part.startswith(f"{option}=") else part for part in query.split("&")]
    return f"{name}?{'&'.join(parts)}"


def check_modality(encoder: Encoder, dataset: Dataset) -> None:
    """Raises where an encoder cannot read a dataset."""
    if encoder.modality != dataset.modality:
        raise DiagnosticsError(
            f"{encoder.name} reads {encoder.modality} samples, but {dataset.name} holds {dataset.modality} samples: give other "
            "--data."
        )


def check_target(dataset: Dataset, target: str) -> None:
    """Raises where a dataset lacks a target."""
    if target not in dataset.targets:
        raise DiagnosticsError(
            f"{dataset.name} has no target '{target}': choose one of {', '.join(dataset.targets)} for --for."
        )


def with_module(encoder: Encoder) -> TorchEncoder:
    """The encoder itself; raises where it shows no torch module."""
    if not isinstance(encoder, TorchEncoder):
        raise DiagnosticsError(f"{encoder.name} shows no torch module, which aligning needs: name another encoder.")
    return encoder


def best_tap(
    base: TorchEncoder, sized: TorchEncoder, target: str, spec: str, device: str, watch: Callable[[Any], None]
) -> tuple[str, dict[str, Any]]:
    """The tap up to the output from which a linear probe reads a target best, fitted on train and chosen on val; and what
    was seen: `data`, `n` of each split, `val_scores`, `score` (what they are: R2 or accuracy), `gain` (the best one's minus
    the output's).

    Of simulated data of more samples than `PROBED`, as many of the next seed are probed. Taps of another grid than the output's cannot teach it and are no
    candidates. Raises where the best one is the output itself: then nothing is hidden.
    """
    if _simulated(spec):
        options = dict(part.split("=", 1) for part in spec.partition("?")[2].split("&"))
        if int(options["n"]) > PROBED:
            # Fewer of the same seed would be the same samples split in another way, those of training among val's.
            spec = _with(_with(spec, "n", PROBED), "seed", int(options["seed"]) + 1)
    dataset: Dataset = build("dataset", spec)
    check_target(dataset, target)
    output = sized.tap(sized.output_tap)
    upto = sized.taps[: sized.taps.index(output) + 1]
    able = [tap.name for tap in upto if (tap.grid.shape, tap.grid.axes) == (output.grid.shape, output.grid.axes)]
    key = f"linear_probe/{target}"
    with tempfile.TemporaryDirectory(prefix="diagnostics-") as folder:
        try:
            found = run(
                base, dataset, out=Path(folder, "run"), taps=able, measures="linear_probe", controls=False, report=False,
                device=device, watch=watch,
            )  # fmt: skip
        except KeyboardInterrupt:
            # The run's own words name a folder that goes with it.
            raise KeyboardInterrupt(
                "Interrupted while the best tap was looked for: the same command begins anew."
            ) from None
        if key not in {profile.name for profile in found.profiles()}:
            why = "; ".join(why for name, why in found.skipped.items() if name.startswith("linear_probe"))
            raise DiagnosticsError(
                f"A linear probe cannot read {target} of {dataset.name}, so no tap is its best: {why or 'name the tap itself'}."
            )
        profile = found.profile(key)
        best, taps = profile.best_tap, profile.taps
        scores = dict(zip(taps, (float(score) for score in profile.data["val_score"].values), strict=True))
        score = str(profile.data.attrs["score_name"])
    assert best is not None
    if best == sized.output_tap:
        raise DiagnosticsError(
            f"The best tap for {target} on val is the output {best} of {base.name} itself: nothing of it is hidden, so there is "
            "nothing to align."
        )
    gain = scores[best] - scores[sized.output_tap]
    return best, {"data": spec, "n": dataset.counts(), "val_scores": scores, "score": score, "gain": gain}


def second_teacher(name: str, sample: np.ndarray, dataset: Dataset, trust_code: bool = False) -> Teacher:
    """The encoder of `NAME` or `NAME:TAP`, and that tap or its output."""
    try:
        encoder, tap = build("encoder", name, trust_code=trust_code), ""
    except UntrustedCodeError:
        raise
    except DiagnosticsError as error:
        whole, colon, tap = name.rpartition(":")
        if not colon:
            raise
        try:
            encoder = build("encoder", whole, trust_code=trust_code)
        except UntrustedCodeError:
            raise
        except DiagnosticsError:
            raise error from None
    check_modality(encoder, dataset)
    sized = with_module(with_module(encoder).sized_for(sample))
    return Teacher(sized, sized.tap(tap or sized.output_tap), "second")
