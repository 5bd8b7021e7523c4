"""Selection of measures by name or suite, and comparison of the taps of two runs."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import xarray as xr

from diagnostics.activations.contract import Activations
from diagnostics.activations.run_files import CONTROLS
from diagnostics.activations.store import Store
from diagnostics.datasets.dataset import Dataset
from diagnostics.errors import DiagnosticsError, explaining, unknown
from diagnostics.measures.apply import too_few
from diagnostics.measures.base import Measure
from diagnostics.measures.result import ABOUT, FAMILY, LOSSES, MEASURE, SOURCE, TARGET, is_probe
from diagnostics.measures.similarity.base import Similarity
from diagnostics.registry import offered
from diagnostics.vocabulary import BY_PLACE, SAFE_NAME

SUITES = ("standard", "all")


def chosen_measures(chosen: Sequence[str | Measure] | None) -> tuple[list[Measure], dict[str, str]]:
    """The measures of these names, and of a suite's measures that cannot be made the reasons, by name.

    A name may be a suite: `standard` (also where `chosen` is None or empty) or `all`. A measure itself stands behind those that
    are named. Raises DiagnosticsError for an unknown name, where a measure that is named itself cannot be made, and for a measure
    whose name another one has.
    """
    own = [one for one in chosen or () if isinstance(one, Measure)]
    asked = [one for one in chosen or () if isinstance(one, str)] or ([] if own else ["standard"])
    known = offered("measure")
    _check_own(own, known)
    for name in asked:
        if name not in known and name not in SUITES:
            raise unknown("measure", name, [*SUITES, *known], "See `diagnostics list measures`.")
    measures: dict[str, Measure] = {}
    unusable: dict[str, str] = {}
    named = [name for name in asked if name not in SUITES]
    # Those named first, so that the first of them that fails is the one that is reported.
    for name in dict.fromkeys([*named, *known] if set(asked) & set(SUITES) else named):
        plugin, make = known[name]
        try:
            measure = _make(plugin.name, name, make)
        except DiagnosticsError as error:
            if name in named:
                raise
            unusable[name] = str(error)
        else:
            if name in named or measure.standard or "all" in asked:
                measures[name] = measure
    # In the order in which they are listed, whatever the order they were asked for.
    return [*(measures[name] for name in known if name in measures), *own], unusable


def read_tokens(measures: Sequence[Measure], dataset: Dataset) -> tuple[bool, bool]:
    """Whether any of the measures reads tokens of a dataset, and whether a probe may, for which more samples count.

    A target for every place has such probes, whether or not they are among the measures: others may follow in the same run.
    """
    kinds = {target.kind for target in dataset.targets.values()}
    by_place = kinds & set(BY_PLACE)
    probes = any(by_place & set(m.kinds) or (m.needs == "tokens" and kinds & set(m.kinds)) for m in measures)
    return probes or any(m.needs == "tokens" and not m.kinds for m in measures), probes or bool(by_place)


def _check_own(own: Sequence[Measure], known: Collection[str]) -> None:
    names = [measure.name for measure in own]
    for name in names:
        if name in known or names.count(name) > 1:
            raise DiagnosticsError(f"There is another measure {name}: give yours a name of its own.")
        _check_name(name, "A measure is called")


def _make(plugin: str, name: str, make: Callable[..., Any]) -> Measure:
    with explaining(f"Plugin {plugin} failed to make the measure {name}"):
        measure = make()
    if not isinstance(measure, Measure):
        raise DiagnosticsError(f"Plugin {plugin} offers {name}, which is not a diagnostics.Measure.")
    if measure.name != name:
        raise DiagnosticsError(
            f"Plugin {plugin} offers {name!r}, whose measure calls itself {measure.name!r}: give both one name."
        )
    _check_name(name, f"Plugin {plugin} offers")
    return measure


def _check_name(name: str, what: str) -> None:
    if not SAFE_NAME.fullmatch(name) or name == CONTROLS:
        raise DiagnosticsError(
            f"{what} {name!r}: give it a name of letters, digits, '_', '-' and '.', other than {CONTROLS}, since results are "
            "stored under it."
        )


def with_declaration(result: xr.Dataset, store: Store) -> xr.Dataset:
    """A result in a store; a probe's of an older version with what its measure declares now, the least where that is not here."""
    if LOSSES in result.attrs or not is_probe(result):
        return result
    target, known = store.targets().get(result.attrs[TARGET]), offered("measure").get(result.attrs[MEASURE])
    return result.assign_attrs(known[1]().declaration(target) if known else {LOSSES: "squares"})


def between(
    first: Activations, second: Activations, measure: str = "cka", seed: int = 0, most_rows: int | None = None
) -> xr.Dataset:
    """The similarity of each tap of one run to each tap of another, on the same samples: `matrix` [tap, tap_other], and
    its null distribution where the measure has one (see `Similarity`).

    `measure` names one that compares pairs of taps; `most_rows` limits the samples further than the measure itself does.
    Raises DiagnosticsError for any other measure, and where the sample ids of the two runs differ.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.runs.suites import between
        >>> run, other = dx.open_run("runs/forecast"), dx.open_run("runs/jepa")
        >>> cka = between(run.store, other.store, "cka")
        >>> cka["matrix"].sel(tap="norm", tap_other=["embed", "norm"]).values.round(2)
        array([0.94, 0.27])
    """
    chosen = _similarity(measure)
    stated = {MEASURE: chosen.name, SOURCE: chosen.source, ABOUT: chosen.answers, FAMILY: chosen.family}
    result = chosen.between(first, second, seed, most_rows).assign_attrs(stated)
    if reason := too_few(result):
        raise DiagnosticsError(reason)
    return result


def _similarity(name: str) -> Similarity:
    measures, _ = chosen_measures([name])
    if len(measures) != 1 or not isinstance(measures[0], Similarity):
        able = [measure.name for measure in chosen_measures(["all"])[0] if isinstance(measure, Similarity)]
        raise DiagnosticsError(f"{name} does not compare pairs of taps: choose one of {', '.join(sorted(able))}.")
    return measures[0]
