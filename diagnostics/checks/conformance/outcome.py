"""The outcome of a check of an encoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "failed", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """One check: its verdict and a sentence; `figures` are what was measured, in the units that the sentence names."""

    verdict: Verdict
    message: str
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    check: str = ""

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"check": self.check, "verdict": self.verdict, "said": self.message, "figures": dict(self.figures)}


def ok(message: str, **figures: float) -> Outcome:
    """The encoder does what the check asks."""
    return Outcome("ok", message, figures)


def failed(message: str, **figures: float) -> Outcome:
    """It does not; the sentence says what was found and what to mend."""
    return Outcome("failed", message, figures)


def not_applicable(message: str) -> Outcome:
    """The check has nothing to ask of this encoder, for the reason given."""
    return Outcome("not applicable", message)
