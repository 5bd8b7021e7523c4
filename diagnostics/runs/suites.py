"""Which measures a run applies: suites and names, and the measures that plugins offer by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diagnostics.activations.results import CONTROLS
from diagnostics.errors import DiagnosticsError, describe, unknown
from diagnostics.measures.base import Measure
from diagnostics.registry import offered
from diagnostics.vocabulary import SAFE_NAME

SUITES = ("standard", "all")


def chosen_measures(names: Sequence[str] | None) -> tuple[list[Measure], dict[str, str]]:
    """The measures of these names; and which of those that nobody named cannot be had, and why.

    A name may be a suite: `standard` (what None means) or `all`. A measure that is named and cannot be had raises.
    """
    asked = list(names) if names else ["standard"]
    known = offered("measure")
    for name in asked:
        if name not in known and name not in SUITES:
            raise unknown("measure", name, [*SUITES, *known], "See `diagnostics list measures`.")
    chosen: dict[str, Measure] = {}
    unusable: dict[str, str] = {}
    named = [name for name in asked if name not in SUITES]
    for name in [*named, *known] if set(asked) & set(SUITES) else named:
        if name in chosen or name in unusable:
            continue
        plugin, make = known[name]
        try:
            measure = _make(plugin.name, name, make)
        except DiagnosticsError as error:
            if name in named:
                raise
            unusable[name] = str(error)
            continue
        if name in named or measure.standard or "all" in asked:
            chosen[name] = measure
    # In the order in which they are listed, whatever the order they were asked for.
    return [chosen[name] for name in known if name in chosen], unusable


def _make(plugin: str, name: str, make: Callable[..., Any]) -> Measure:
    try:
        measure = make()
    except DiagnosticsError:
        raise
    except (Exception, SystemExit) as error:
        raise DiagnosticsError(f"Plugin {plugin} failed to make the measure {name}: {describe(error)}") from error
    if not isinstance(measure, Measure):
        raise DiagnosticsError(f"Plugin {plugin} offers {name}, which is not a diagnostics.Measure.")
    if measure.name != name or not SAFE_NAME.fullmatch(name) or name == CONTROLS:
        raise DiagnosticsError(
            f"Plugin {plugin} offers {name!r}, whose measure calls itself {measure.name!r}: give both one name of letters, "
            f"digits, '_', '-' and '.', other than {CONTROLS}, since results are stored under it."
        )
    return measure
