"""Datasets of simulated series: options checked, simulated in blocks, targets described.

All take `n` series (10 to 1,000,000), `length` steps (32 to 65,536) and `seed`, which governs series and split alike.
Samples are float32 [n, length] without units; series i of a seed is the same whatever `n`. Definitions:
docs of `systems.py` and the README beside it.
"""

from __future__ import annotations

from typing import Literal

import diagnostics as dx

Described = dict[str, tuple[Literal["label", "value", "state", "future", "event"], str, str]]
"""Target -> kind, units, about."""
BLOCK = 4096
"""Series simulated at once, which bounds the memory beside the samples themselves."""
MOST_VALUES = 2**29
"""Values held in memory, 2 GiB as float32."""


def lorenz(n: int = 400, length: int = 512, seed: int = 0) -> dx.Dataset:
    """x(t) of the Lorenz system; its unobserved state, parameter and future as targets (Lorenz, 1963)."""
    return _dataset(
        "lorenz",
        (n, length, seed),
        {
            "hidden_z": (
                "state",
                "",
                "z at the last step; x -> -x does not change it, so no linear function of a window of x gives it",
            ),
            "hidden_y": ("state", "", "y at the last step"),
            "rho": ("value", "", "the parameter rho (scaled Rayleigh number)"),
            "log_switch": ("future", "log steps", "log of the steps from the last one until x changes sign"),
            "x_future": ("future", "z-normed x", "noise-free x 10 steps after the last one, normed as the series is"),
            "x_ahead": (
                "future",
                "z-normed x",
                "noise-free x 1, 2, 5, 10, 20 and 50 steps after the last one, normed as the series is; "
                "naive: the last value stays",
            ),
        },
        "Lorenz system seen through x(t) alone, dt 0.02, 2 % noise",
    )


def pendulum(n: int = 400, length: int = 512, seed: int = 0) -> dx.Dataset:
    """Sine of a pendulum's angle; velocity, energy, g/l and the cosine as targets."""
    return _dataset(
        "pendulum",
        (n, length, seed),
        {
            "angular_velocity": ("state", "rad/s", "angular velocity at the last step"),
            "energy": ("state", "rad^2/s^2", "energy per moment of inertia at the last step"),
            "g_over_l": ("value", "1/s^2", "gravity over length"),
            "cos_theta": ("state", "", "cosine of the angle at the last step, of which the series shows the sine"),
        },
        "swinging pendulum with slight friction, seen through the sine of its angle, dt 0.05 s",
    )


def damped_oscillator(n: int = 400, length: int = 512, seed: int = 0) -> dx.Dataset:
    """Displacement of a noise-driven damped oscillator; frequency, damping, velocity and phase as targets."""
    return _dataset(
        "damped_oscillator",
        (n, length, seed),
        {
            "log_frequency": ("value", "log rad/s", "log of the undamped angular frequency omega"),
            "log_damping": ("value", "log ratio", "log of the damping ratio zeta"),
            "velocity": ("state", "z-normed x/s", "velocity at the last step, in the units of the series"),
            "phase": ("state", "rad", "phase at the last step, x = A cos, v = -A omega sin; goes round at 2 pi"),
        },
        "damped oscillator driven by white noise, dt 0.05 s, 5 % noise",
    )


def arma(n: int = 400, length: int = 512, seed: int = 0) -> dx.Dataset:
    """AR(2) process; coefficients and poles as targets."""
    return _dataset(
        "arma",
        (n, length, seed),
        {
            "a1": ("value", "", "coefficient of the step before"),
            "a2": ("value", "", "coefficient of the step before that"),
            "pole_radius": ("value", "", "radius of the poles: how long the process remembers"),
            "pole_angle": ("value", "rad/step", "angle of the poles: how fast it oscillates"),
        },
        "AR(2) processes with complex poles",
    )


def changepoint(n: int = 400, length: int = 512, seed: int = 0) -> dx.Dataset:
    """AR(1) noise and a sine with at most one change of mean, variance or frequency; when and which as targets."""
    return _dataset(
        "changepoint",
        (n, length, seed),
        {
            "change_time": ("value", "series lengths", "first changed step over the length; NaN where there is none"),
            "change_kind": ("label", "", "what changes"),
            "change": ("event", "", "the first changed step"),
        },
        "AR(1) noise and a sine with at most one change of mean, variance or frequency",
    )


def _dataset(name: str, options: tuple[int, int, int], described: Described, about: str) -> dx.Dataset:
    n, length, seed = options
    if not 10 <= n <= 1_000_000:
        raise dx.DiagnosticsError(f"Dataset {name} cannot have n={n} series: give 10 to 1000000.")
    if not 32 <= length <= 65_536:
        raise dx.DiagnosticsError(f"Dataset {name} cannot have series of length={length}: give 32 to 65536 steps.")
    if n * length > MOST_VALUES:
        raise dx.DiagnosticsError(
            f"Dataset {name} with n={n} and length={length} does not fit in memory: "
            f"keep n x length at {MOST_VALUES} or less."
        )
    if seed < 0:
        raise dx.DiagnosticsError(f"Dataset {name} cannot have seed={seed}: give 0 or more.")
    import numpy as np

    from diagnostics_data import systems

    samples = np.empty((n, length), np.float32)
    parts: list[dict[str, np.ndarray]] = []
    for first in range(0, n, BLOCK):
        count = min(BLOCK, n - first)
        samples[first : first + count], block = getattr(systems, name)(seed, first, count, length)
        parts.append(block)
    latents = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    ids = [f"{name}-{seed}-{i:05d}" for i in range(n)]
    targets = {
        target: dx.Target(
            kind,
            latents[target] if kind == "label" else latents[target].astype(np.float64),
            units=units,
            about=about,
            classes=systems.CHANGES if kind == "label" else (),
            family="dynamics",
            period=2 * np.pi if target == "phase" else None,
            naive=latents.get(f"{target}_naive"),
        )
        for target, (kind, units, about) in described.items()
    }
    split = list(dx.split_groups(ids, seed))
    return dx.Dataset(name, "series", samples, ids, split, targets, about=about, exchangeable=True)
