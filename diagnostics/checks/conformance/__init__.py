"""Conformance checks: whether an encoder keeps its contract, tested one property at a time with few forward passes."""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diagnostics.activations.prepare import fit
from diagnostics.checks.conformance import declared, identity, masks, passes, reading
from diagnostics.checks.conformance.encoder_under_test import EncoderUnderTest, NoPassError
from diagnostics.checks.conformance.outcome import Outcome, failed, not_applicable
from diagnostics.encoders.encoder import Encoder
from diagnostics.errors import DiagnosticsError, describe, explaining
from diagnostics.progress import Progress, Watch
from diagnostics.report.progress_bars import watching
from diagnostics.specs import build

CHECKS: Mapping[str, Callable[[EncoderUnderTest], Outcome]] = {
    "description": declared.description,
    "shapes": declared.shapes,
    "grid": declared.grid,
    "depth": declared.depth,
    "determinism": passes.determinism,
    "batch_invariance": passes.batch_invariance,
    "in_place": reading.in_place,
    "manual_forward": reading.manual_forward,
    "no_graph": passes.no_graph,
    "hooks": passes.hooks,
    "identity_weights": identity.identity_weights,
    "identity_preprocessing": identity.identity_preprocessing,
    "identity_stable": identity.identity_stable,
    "save_and_load": identity.save_and_load,
    "attention": masks.attention,
    "padding": masks.padding,
    "sizes": declared.sizes,
}

__all__ = ["CHECKS", "Conformance", "EncoderUnderTest", "Outcome", "check_encoder", "prepare_encoder", "run_check"]


@dataclass(frozen=True)
class Conformance:
    """The outcomes of all checks of an encoder, with the number of forward passes and seconds that they took."""

    encoder: str
    outcomes: tuple[Outcome, ...]
    passes: int
    seconds: float

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(outcome.verdict == "failed" for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "encoder": self.encoder,
            "checks": [outcome.to_json() for outcome in self.outcomes],
            "failed": self.failed,
            "passes": self.passes,
            "seconds": self.seconds,
        }


def prepare_encoder(encoder: Encoder | str, data: str | None = None, *, trust_code: bool = False) -> EncoderUnderTest:
    """An encoder, or what a name builds, made ready for checks on its example or on three samples of a dataset.

    Raises DiagnosticsError where the encoder cannot be built or sized, and where it does not fit the dataset.
    """
    built: Encoder = build("encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else encoder
    samples: list[np.ndarray] = []
    if data is not None:
        dataset = build("dataset", data)
        built = fit(built, dataset)
        samples = [dataset[i] for i in (0, len(dataset) // 2, len(dataset) - 1)]
    again = functools.partial(build, "encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else None
    with explaining(f"{built.name} cannot be sized for a sample"):
        return EncoderUnderTest(built, samples, again)


def run_check(name: str, subject: EncoderUnderTest) -> Outcome:
    """One check; an error that it meets is a failure, in words. Where no pass succeeds, only the first two say so."""
    try:
        if name not in ("description", "shapes"):
            assert subject.reference
        outcome = CHECKS[name](subject)
    except NoPassError:
        outcome = not_applicable("no forward pass succeeds: see shapes")
    except DiagnosticsError as error:
        outcome = failed(str(error))
    except Exception as error:
        outcome = failed(f"it ends in {describe(error)}")
    return replace(outcome, check=name)


def check_encoder(
    encoder: Encoder | str, data: str | None = None, watch: Watch | None = None, *, trust_code: bool = False
) -> Conformance:
    """All checks of an encoder, or of what a name builds; raises as `prepare_encoder` does. Progress is shown where no
    `watch` is given.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.checks.conformance import check_encoder
        >>> conformance = check_encoder("objectives:lorenz-forecast")
        >>> conformance.failed, len(conformance.outcomes)
        (0, 17)
        >>> for outcome in conformance.outcomes[2:4]:
        ...     print(outcome.check, outcome.verdict, outcome.message)
        grid ok tap embed, 32 t: all 32 cells changed one at a time; 32 changed their own
        token most; so do those of 8 later taps
        depth ok taps fire as declared, from depth 0 to 1.16667
    """
    started = time.perf_counter()
    subject = prepare_encoder(encoder, data, trust_code=trust_code)
    outcomes: list[Outcome] = []
    with watching(watch) as shown:
        for name in CHECKS:
            shown(Progress(f"checking {subject.encoder.name}", len(outcomes), len(CHECKS), name))
            outcomes.append(run_check(name, subject))
        shown(Progress(f"checking {subject.encoder.name}", len(CHECKS), len(CHECKS)))
    return Conformance(subject.encoder.name, tuple(outcomes), subject.passes, time.perf_counter() - started)
