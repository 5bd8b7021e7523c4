"""Progress of a long job: immutable events, passed to a callback."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """The disk and time that a run will take, said before the first byte.

    Examples:
        >>> import diagnostics as dx
        >>> costs = []
        >>> def watch(event):
        ...     if not isinstance(event, dx.Progress):
        ...         costs.append(event)
        >>> encoder, data = "objectives:lorenz-forecast", "lorenz?n=40"
        >>> run = dx.run(encoder, data, controls=False, watch=watch)
        >>> costs[0].samples, costs[0].taps, costs[0].token_samples
        (40, 9, 40)
        >>> str(costs[0]).partition(";")[0]
        'lorenz-forecast on lorenz: 40 samples, 9 taps, no controls'
    """

    encoder: str
    dataset: str
    samples: int
    taps: int
    bytes: int
    """All that is written, tokens, results and report too; about, since results are estimated."""
    token_bytes: int
    token_samples: int
    seconds: float
    """0 where all is extracted already."""
    encoders: int
    path: str
    token_bytes_of_64: int = 0
    """What the tokens of 64 samples would take in each encoder, where fewer keep theirs; else 0."""
    again: int = 0
    """Samples that are extracted again for their tokens, which are not stored; 0 where all is extracted for the first
    time.
    """
    unprobeable: tuple[str, ...] = ()
    """Why targets of the dataset are not probed, a sentence each."""
    dense: str = ""
    """How dense targets are read and why, in a clause; empty where none is."""
    seconds_in_bf16: float = 0.0
    """Of an extraction on a GPU with `--compute bf16`, where that is worth saying; else 0."""
    measuring: str = ""
    """The cost of measures that are slow on this many samples, in a clause; empty where that is little."""

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> list[str]:
        """A line for each target that cannot be probed, and then the cost."""
        if self.again:
            of = f"{self.encoders} encoders with the controls" if self.encoders > 1 else "no controls"
            tokens = (
                f"{self.encoder} on {self.dataset}: the tokens of {self.token_samples:,} samples are not "
                f"stored and are extracted now, since measures read them ({of}); writes {size(self.bytes)} to "
                f"{self.path}; extraction takes about {duration(self.seconds)}."
            )
            return [*self.unprobeable, tokens]
        if not self.seconds:
            later = f"{self.encoder} on {self.dataset}: {self.dense}; writes {size(self.bytes)} to {self.path}."
            return [*self.unprobeable, later]
        budget = f"--token-budget {math.ceil(self.token_bytes_of_64 / 1e6)}MB"
        more = (
            f", of 64 they would take {size(self.token_bytes_of_64)} an encoder: {budget}"
            if self.token_bytes_of_64
            else ""
        )
        tokens = (
            f"tokens of {self.token_samples:,} samples: {size(self.token_bytes)}{more}"
            if self.token_samples
            else "no tokens"
        )
        less = f", with --compute bf16 {duration(self.seconds_in_bf16)}" if self.seconds_in_bf16 else ""
        cost = (
            f"{self.encoder} on {self.dataset}: {self.samples:,} samples, {self.taps} taps, "
            f"{f'{self.encoders} encoders with the controls' if self.encoders > 1 else 'no controls'}; writes about "
            f"{size(self.bytes)} to {self.path} ({tokens}); {f'{self.dense}; ' if self.dense else ''}"
            f"extraction takes about {duration(self.seconds)}{less}{f'; {self.measuring}' if self.measuring else ''}."
        )
        return [*self.unprobeable, cost]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` steps of a named piece of work, and what is being done `now`.

    Examples:
        >>> import diagnostics as dx
        >>> def watch(event):
        ...     if isinstance(event, dx.Progress):
        ...         print(f"{event.step}: {event.done} of {event.total}")
        >>> comparison = dx.compare(["runs/forecast", "runs/jepa"], watch=watch)
        comparing taps: 0 of 1
        comparing taps: 1 of 1
    """

    step: str
    done: int
    total: int
    now: str = ""


Watch = Callable[[Cost | Progress], None]


def silent(event: Cost | Progress) -> None:
    """Show nothing.

    Examples:
        >>> import diagnostics as dx
        >>> comparison = dx.compare(["runs/forecast", "runs/jepa"], watch=dx.silent)
    """


UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Bytes for people."""
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {UNITS[-1]}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
