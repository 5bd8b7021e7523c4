"""The kernel probe beside the linear one, where that chooses another tap than the output."""

from collections.abc import Callable, Mapping

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.measures import result as attribute
from diagnostics.measures.apply import Measured
from diagnostics.measures.probes.linear import KernelProbe, LinearProbe, too_few


def measure_nonlinear(
    main: Measured,
    activations: Activations,
    targets: Mapping[str, StoredTarget],
    what: str,
    measure: Callable[..., Measured],
) -> None:
    """Adds `kernel_probe` at the output and at the linear probe's best tap, for each target that it read at another tap
    too. `measure`: as `measure_all`.

    Where it is asked for at all taps it stays. From too few training samples it is left out once, not for each target.
    """
    probe = KernelProbe()
    for name, target in targets.items():
        linear = main.results.get(f"{LinearProbe.name}/{name}")
        if linear is None or not probe.reads(target) or f"{probe.name}/{name}" in main.results | main.skipped:
            continue
        ends = {activations.output_tap, linear.attrs.get(attribute.BEST_TAP)}
        taps = [tap for tap in activations.taps if tap.name in ends]
        if len(taps) < 2:
            continue
        if why := too_few(int((activations.split == "train").sum())):
            main.skipped[probe.name] = why
            return
        main.add(measure([probe], activations.with_other(taps=taps), {name: target}, what=what))
