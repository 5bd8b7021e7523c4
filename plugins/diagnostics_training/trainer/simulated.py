"""Names of simulated datasets, which have no end: what training draws of them, and what is left to probe.

Named without number and seed, they are trained on many series (or scenes) drawn from another seed than the one that
`diagnostics run` reads by default, so that nothing that is probed later was seen in training.
"""

from __future__ import annotations

SEED = 1000


SIMULATED = {
    **dict.fromkeys(("lorenz", "pendulum", "damped_oscillator", "arma", "changepoint"), 20_000),
    "shapes": 6_000,
}
"""Data sets that are made on demand, and how many samples are made, three fifths of which are train."""


CLIPS = 1_500


LENGTH = 512
"""Of simulated series where no length is given."""


def training_spec(data: str) -> tuple[str, int | None]:
    """The specification to train on for what was asked for, and the length that a simulated series is wanted in (None for
    other data): number and seed are filled in where a simulated data set was named without them."""
    name, _, query = data.partition("?")
    if name not in SIMULATED:
        return data, None
    given = {key: value for key, _, value in (part.partition("=") for part in query.split("&") if part)}
    count = CLIPS if given.get("frames", "1") != "1" else SIMULATED[name]
    given.setdefault("n", str(count))
    given.setdefault("seed", str(SEED))
    length = None
    if name != "shapes":
        text = given.setdefault("length", str(LENGTH))
        length = int(text) if text.isdigit() else None
    return f"{name}?{'&'.join(f'{key}={value}' for key, value in given.items())}", length


def rendering_notice(data: str) -> str:
    """A notice that rendering samples takes a while; empty unless the data are hundreds of scenes or clips."""
    spec, _ = training_spec(data)
    name, _, query = spec.partition("?")
    count = next((part.removeprefix("n=") for part in query.split("&") if part.startswith("n=")), "")
    if name != "shapes" or not count.isdigit() or int(count) < 500:
        return ""
    return f"makes {int(count):,} {'clips' if 'frames=' in query else 'scenes'} of {spec}, which takes a while"


def plain(spec: str) -> str:
    """The specification of data to probe: simulated data as `diagnostics run` reads them, not those of training."""
    if not is_simulated(spec):
        return spec
    name, _, query = spec.partition("?")
    kept = [
        part for part in query.split("&") if part.partition("=")[0] not in ("n", "seed") and part != f"length={LENGTH}"
    ]
    return f"{name}?{'&'.join(kept)}" if kept else name


def is_simulated(spec: str) -> bool:
    """Whether a dataset is drawn on demand."""
    return spec.partition("?")[0] in SIMULATED


def with_option(spec: str, option: str, value: int) -> str:
    """The specification with another value of an option that it has."""
    name, _, query = spec.partition("?")
    parts = [f"{option}={value}" if part.startswith(f"{option}=") else part for part in query.split("&")]
    return f"{name}?{'&'.join(parts)}"
