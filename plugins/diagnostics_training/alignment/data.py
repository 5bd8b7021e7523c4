"""The data that an alignment is made with, and which tap is to teach the output: the best one for a target."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnostics.plugin import Dataset, DiagnosticsError, Encoder, TorchEncoder, build, run
from diagnostics_training.trainer.data import SIMULATED, parse_spec, spec_of, training_spec

PROBED = 2_000
"""Samples of simulated data that are probed for the best tap."""
PROBES = {"token_label": "segmentation_probe", "event": "event_probe", "caption": "caption_probe"}
"""Kind of target -> the probe that reads it, where that is not the linear one."""
PLACES = ("token_label", "token_value", "event")
"""Kinds of target with a value for every place, which are read from tokens."""
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
        raise DiagnosticsError(f"{base.name} has no record of its training data: name a dataset with --data.")
    name, options = parse_spec(recorded)
    if name not in SIMULATED or base.modality != "series":
        return recorded
    # Training draws windows from longer series than the encoder reads.
    return spec_of(name, options | {"length": len(base.example())})


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


def best_tap(
    base: TorchEncoder, target: str, spec: str, device: str, watch: Callable[[Any], None]
) -> tuple[str, dict[str, Any]]:
    """The tap of an encoder, up to its output, from which the target's own probe reads it best, fitted on train and chosen on val; and what was
    seen: `tap`, `data`, `probe`, `n` of each split, `chosen_on`, `scores` (on test), `score` (what they are: R2, accuracy, mean IoU), `gain` (the best
    one's minus the output's).

    Of simulated data of more samples than `PROBED`, as many of the next seed are probed. Of targets with a value for every
    place, the tokens of all samples are kept, of others none. Taps of other axes or features than the output's cannot teach it and
    are no candidates. Raises where the best one is the output itself: then nothing is hidden.
    """
    name, options = parse_spec(spec)
    if name in SIMULATED and int(options["n"]) > PROBED:
        # Fewer of the same seed would be the same samples split in another way, those of training among val's.
        spec = spec_of(name, options | {"n": PROBED, "seed": int(options["seed"]) + 1})
    dataset: Dataset = build("dataset", spec)
    check_target(dataset, target)
    sized, output = base.sized_for(dataset[0]), base.output_tap
    last = sized.tap(output)
    upto = sized.taps[: sized.taps.index(last) + 1]
    able = [tap.name for tap in upto if (tap.grid.axes, tap.features) == (last.grid.axes, last.features)]
    kind = dataset.targets[target].kind
    probe = PROBES.get(kind, "linear_probe")
    key = f"{probe}/{target}"
    # The others would be probed too.
    alone = copy.copy(dataset)
    alone.targets = {target: dataset.targets[target]}
    # What is read pooled needs no tokens.
    budget = f"{sum(tap.tokens * tap.features for tap in upto) * 4 * (len(dataset) + 1)} B" if kind in PLACES else 0
    with tempfile.TemporaryDirectory(prefix="diagnostics-") as folder:
        try:
            probed = run(
                base, alone, out=Path(folder, "run"), taps=able, measures=probe, controls=False, report=False,
                device=device, token_budget=budget, watch=watch,
            )  # fmt: skip
        except KeyboardInterrupt:
            # The run's own words name a folder that goes with it.
            raise KeyboardInterrupt(
                "Interrupted while searching for the best tap: the same command starts again."
            ) from None
        if key not in {profile.name for profile in probed.profiles()}:
            why = "; ".join(why for name, why in probed.skipped.items() if name.startswith(probe))
            raise DiagnosticsError(
                f"{probe} cannot read {target} of {dataset.name}, so no tap is its best: {why or 'name the tap itself'}."
            )
        profile = probed.profile(key)
        best, chosen_on = profile.chosen_tap, profile.chosen_on
        scores = dict(zip(profile.taps, map(float, profile.data["score"].values), strict=True))
        score = str(profile.data.attrs["score_name"])
    assert best is not None
    if best == output:
        raise DiagnosticsError(
            f"The tap to use for {target} is {best} of {base.name} itself, the tap to be aligned: by {chosen_on} no other is better by "
            "one standard error, so there is nothing to align. Name a tap with --to if you know one."
        )
    gain = scores[best] - scores[output]
    return best, {
        "tap": best,
        "data": spec,
        "probe": probe,
        "n": dataset.counts(),
        "chosen_on": chosen_on,
        "scores": scores,
        "score": score,
        "gain": gain,
    }
