"""The one decoder of JSON as the type that an annotation names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from diagnostics.options import decode


@dataclass(frozen=True)
class Inner:
    """With every kind of field that is stored."""

    at: tuple[float, float]
    kind: Literal["one", "other"]
    names: tuple[str, ...] = ()
    left: str | dict[str, str] | None = None


@dataclass(frozen=True)
class Outer:
    """Of others, by name and in a row."""

    seed: int
    by_name: Mapping[str, Inner]
    rows: Sequence[Inner] = ()
    rest: Mapping[str, Any] = field(default_factory=dict[str, Any])


INNER: dict[str, Any] = {"at": [1, 2.5], "kind": "one", "names": ["a"], "left": {"b": "c"}}
VALUE: dict[str, Any] = {"seed": 3, "by_name": {"x": INNER}, "rows": [INNER], "rest": {"y": [1, None]}, "unknown": 1}


def test_what_is_stored_comes_back() -> None:
    inner = Inner((1.0, 2.5), "one", ("a",), {"b": "c"})
    assert decode(Outer, VALUE) == Outer(3, {"x": inner}, [inner], {"y": [1, None]})
    assert decode(Inner, {"at": [1, 2], "kind": "other", "left": None}) == Inner((1.0, 2.0), "other")
    assert isinstance(decode(Inner, INNER).at[0], float)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": "3"},
        {"seed": True},
        {"seed": 3.0},
        {"by_name": [INNER]},
        {"rows": [{**INNER, "kind": "third"}]},
        {"rows": [{**INNER, "at": [1.0]}]},
        {"rows": [{**INNER, "at": [1.0, None]}]},
        {"rows": [{**INNER, "names": "ab"}]},
        {"rows": [{**INNER, "left": 3}]},
        {"rows": [{"at": [1, 2]}]},
    ],
    ids=str,
)
def test_another_type_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        decode(Outer, VALUE | wrong)
