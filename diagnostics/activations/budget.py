"""The number of samples that keep their tokens: a default rule, or a size given by the user (256MB, 2GB)."""

import re

from diagnostics.errors import DiagnosticsError
from diagnostics.progress import UNITS

# By the rule: WANTED samples where MOST bytes hold them, and for probes all that PLENTY bytes hold; FEWEST whatever they take.
PLENTY, MOST = 256 * 10**6, 2 * 10**9
WANTED, FEWEST = 64, 8


def parse_budget(text: str | int | None) -> int | None:
    """Bytes from a number with a unit (kB, MB, GB, TB: powers of 1,000), or 0; None, the rule, stays None.

    Raises DiagnosticsError for a number without a unit, which could mean bytes or megabytes.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text), re.IGNORECASE | re.ASCII)
    sizes = {unit.lower(): 1000**power for power, unit in enumerate(UNITS)}
    if match is None or match[2].lower() not in (*sizes, ""):
        raise DiagnosticsError(
            f"A token budget of {text!r} is not a size: give a number with a unit, like 256MB or 2GB, or 0."
        )
    number, unit = float(match[1]), match[2].lower()
    if number and not unit:
        raise DiagnosticsError(
            f"A token budget of {text} has no unit: give one, like {text}MB or 2GB, or 0 for no tokens."
        )
    return round(number * sizes.get(unit, 1))


def samples_with_tokens(samples: int, each: int, budget: int | None, probes: bool = True) -> int:
    """How many of the samples keep their tokens, of `each` bytes a sample; `probes`: whether probes are fitted on them."""
    by_rule = max(PLENTY // each if probes else 0, min(WANTED, MOST // each), FEWEST)
    return min(samples, by_rule if budget is None else budget // each)
