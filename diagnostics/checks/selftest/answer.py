"""Known answers of choice, verdict and comparison, from a planted encoder and from planted losses.

`answers.json` holds what is known; `tests/checks/test_answer.py` computes it the plain way, from the definitions and without the code
under test.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.resources import files
from typing import Any

import numpy as np

from diagnostics.checks.selftest.comparison import (
    above_chance,
    after_minus_before,
    along_depth,
    certain,
    losses_by_name,
    of_base,
    of_groups,
    of_little,
    of_one,
    without_value,
)
from diagnostics.checks.selftest.findings import cautions, choice, controls, drawn_again, finding, several
from diagnostics.checks.selftest.losses import TIES, amounts, classes, folds, left_out, of_parts, ranks, sets, ties
from diagnostics.checks.selftest.planted import PLANTED
from diagnostics.measures.known_answers import Case

BY_HAND = "computed by hand in tests/checks/test_answer.py"


def deviation(found: Any, known: Any) -> float:
    """The largest difference of what is found from what is known, relative above 1; infinite where they differ in another way."""
    if isinstance(known, list):
        return max((deviation(*pair) for pair in zip(found, known, strict=True)), default=0.0)
    if isinstance(known, dict):
        return deviation(list(found.values()), list(known.values()))
    if isinstance(known, (int, float)) and found is not None and not np.isnan(known):
        return float(np.nan_to_num(abs(found - known) / max(1, abs(known)), nan=np.inf))
    return 0.0 if found == known or (found != found and known != known) else np.inf


ASKED: Mapping[str, Callable[[], Any]] = {
    **{f"choice of {name} on {on}": partial(choice, name, on) for name in PLANTED for on in ("fit", "val")},
    **{f"finding of {name}": partial(finding, name) for name in PLANTED},
    **{f"controls of {name}": partial(controls, name) for name in ("hidden", "late", "alike", "class")},
    "cautions": cautions, **{f"parts, {what}": partial(of_parts, share) for what, share in (("R2", False), ("share", True))},
    **{f"choice with {name}": partial(ties, name) for name in TIES}, **{f"sets of {units} units": partial(sets, units) for units in (1, 3, 8, 40)},
    "closed forms": amounts, **{f"ranks of {samples} samples": partial(ranks, samples) for samples in (60, 12000)},
    **{f"ridge without groups of {most}": partial(left_out, most) for most in (1, 3, 256, 257)}, "folds": folds, "classes out of fold": classes,
    "after minus before": after_minus_before, "shares of the base": of_base, "shares of one seed": of_one, "shares above chance": above_chance,
    **{f"shares of {name}": partial(without_value, name, cut) for name, cut in (("alike", "late"), ("noise", "gone"), ("class", ""), ("hidden", ""))},
    **{f"shares of a gap of {gap}": partial(of_little, gap) for gap in (0.0095, 0.0105)}, "scores of groups": of_groups, "along depth": along_depth, "certain differences": certain, "losses by name": losses_by_name,
    "redraws": drawn_again, "several targets": several,
}  # fmt: skip


@cache
def known() -> dict[str, Any]:
    """The answers, by the same names."""
    return json.loads((files("diagnostics.checks.selftest") / "answers.json").read_text())


def cases() -> list[Case]:
    """All of them: 0 each, where what is found is what is known."""
    return [
        Case(name, 0.0, BY_HAND, lambda name=name: deviation(ASKED[name](), known()[name]), 1e-7, measure="answer")
        for name in ASKED
    ]
