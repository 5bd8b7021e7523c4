"""Hidden, or harder to read: the output and the best other tap, read by a kernel beside the linear probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.measures.apply import Measured, measure_all
from diagnostics.measures.probes.linear import KernelProbe, LinearProbe, too_few
from diagnostics.measures.result import BEST_TAP
from diagnostics.measures.statistics import Interval
from diagnostics.progress import Watch
from diagnostics.report.numbers import format_number
from diagnostics.runs.profile import Profile


def measure_nonlinear(
    main: Measured, activations: Activations, targets: Mapping[str, StoredTarget], seed: int, what: str, watch: Watch
) -> None:
    """Adds `kernel_probe` at the output and at the linear probe's best tap, for each target that it read at another tap too.

    Where it is asked for at all taps it stays. From too few training samples it is left out once, not for each target.
    """
    probe = KernelProbe()
    for name, target in targets.items():
        linear = main.results.get(f"{LinearProbe.name}/{name}")
        if linear is None or not probe.reads(target) or f"{probe.name}/{name}" in main.results | main.skipped:
            continue
        ends = {activations.output_tap, linear.attrs.get(BEST_TAP)}
        taps = [tap for tap in activations.taps if tap.name in ends]
        if len(taps) < 2:
            continue
        if why := too_few(int((activations.split == "train").sum())):
            main.skipped[probe.name] = why
            return
        read = measure_all([probe], activations.with_other(taps=taps), {name: target}, seed, what=what, watch=watch)
        main.results |= read.results
        main.skipped |= read.skipped
        main.failed |= read.failed


@dataclass(frozen=True)
class NonlinearReading:
    """What a kernel reads of a target from the output and from another tap, on test, beside what the linear probe does.

    gap: by how much it reads more from that tap, paired over test units; None where the taps it was chosen among are others.
    """

    output: Interval
    best: Interval
    linear_output: Interval
    linear_best: Interval
    gap: Interval | None
    tap: str
    n_train: int
    floor: float

    @property
    def words(self) -> str:
        """What it reads, beside what the linear probe does not, as half a sentence."""
        output, best = (format_number(each.value, ".2f") for each in (self.output, self.best))
        chance = f"; {format_number(self.floor, '.2f')} is chance" if self.floor > 0 else ""
        return f"a kernel reads {output} of {best} from the output{chance}"


def nonlinear_reading(profiles: Sequence[Profile], target: str) -> NonlinearReading | None:
    """Of the profiles of a run; None where the kernel did not read the target at the output and at the linear probe's best tap."""
    linear, kernel = (_profile(profiles, measure.name, target) for measure in (LinearProbe, KernelProbe))
    if linear is None or kernel is None or linear.best_tap in (None, linear.output_tap):
        return None
    if linear.best_tap not in kernel.taps:
        return None
    return NonlinearReading(
        kernel.output, kernel.at(linear.best_tap), linear.output, linear.at(linear.best_tap),
        kernel.hidden_gap if kernel.best_tap == linear.best_tap else None, linear.best_tap, int(kernel.data.attrs["n_train"]), linear.floor,
    )  # fmt: skip


def without_nonlinear(profiles: Sequence[Profile]) -> list[Profile]:
    """The profiles that have a row and a curve of their own: not those of a kernel at two taps beside the linear probe."""
    return [
        profile
        for profile in profiles
        if profile.measure != KernelProbe.name
        or (linear := _profile(profiles, LinearProbe.name, profile.target)) is None
        or len(profile.taps) == len(linear.taps)
    ]


def _profile(profiles: Sequence[Profile], measure: str, target: str | None) -> Profile | None:
    found = (profile for profile in profiles if (profile.measure, profile.target) == (measure, target))
    return next(found, None)
