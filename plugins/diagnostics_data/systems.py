"""Simulations of dynamical systems whose latent state is known: numpy only, vectorised over series.

Suffixes name axes: N series, T steps, D state variables. Each function takes (seed, first, count, length) and gives the
observed series [N, T], z-normed one by one, with the latents [N] of series first ... first + count - 1. Series i draws
from a generator of its own, `default_rng([seed, i])`, so that it is the same however many there are.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

Simulated = tuple[np.ndarray, dict[str, np.ndarray]]

LORENZ_SIGMA, LORENZ_BETA, LORENZ_DT = 10.0, 8 / 3, 0.02
LORENZ_BURN_IN = 1000
FUTURE_STEPS = 10
"""How far after the last observed step `x_future` lies."""
HORIZONS = (1, 2, 5, 10, 20, 50)
"""Steps after the last observed one that `x_ahead` holds."""
SWITCH_CAP = 2000
"""Steps after the last observed one within which a change of lobe is looked for."""

PENDULUM_FRICTION, PENDULUM_DT = 0.02, 0.05
OSCILLATOR_DT, OSCILLATOR_BURN_IN = 0.05, 400

CHANGES = ("none", "mean", "variance", "frequency")
CHANGE_MEAN, CHANGE_VARIANCE = 3.0, 3.0
FREQUENCY_BEFORE, FREQUENCY_AFTER = 1 / 20, 1 / 8


def draws(seed: int, first: int, count: int, uniform: int, normal: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws [uniform, N] from U(0, 1) and [normal, N] from N(0, 1).

    The uniform ones come first, so that the parameters do not depend on the length either.
    """
    u_N = np.empty((count, uniform))
    e_N = np.empty((count, normal))
    for j in range(count):
        rng = np.random.default_rng([seed, first + j])
        u_N[j] = rng.random(uniform)
        e_N[j] = rng.standard_normal(normal)
    return np.ascontiguousarray(u_N.T), np.ascontiguousarray(e_N.T)


def rk4(derivative: Callable[[np.ndarray], np.ndarray], state: np.ndarray, dt: float) -> np.ndarray:
    """One step of the classical fourth-order Runge-Kutta method for state [D, N] (Kutta, 1901)."""
    k1 = derivative(state)
    k2 = derivative(state + (dt / 2) * k1)
    k3 = derivative(state + (dt / 2) * k2)
    k4 = derivative(state + dt * k3)
    return state + (dt / 6) * (k1 + 2 * (k2 + k3) + k4)


def trajectory(
    derivative: Callable[[np.ndarray], np.ndarray], state: np.ndarray, dt: float, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first variable at `length` steps [T, N], the first of them that of `state` [D, N], and the last state."""
    first_TN = np.empty((length, state.shape[1]))
    first_TN[0] = state[0]
    for t in range(1, length):
        state = rk4(derivative, state, dt)
        first_TN[t] = state[0]
    return first_TN, state


def z_norm(series_NT: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each series with mean 0 and standard deviation 1, and the mean [N] and deviation [N] that it had."""
    mean_N, std_N = series_NT.mean(axis=1), series_NT.std(axis=1)
    return (series_NT - mean_N[:, None]) / std_N[:, None], mean_N, std_N


def _noisy(clean_TN: np.ndarray, noise_TN: np.ndarray, share: float) -> np.ndarray:
    """[N, T] with observation noise of `share` times each series' own standard deviation."""
    clean_NT = np.ascontiguousarray(clean_TN.T)
    return clean_NT + share * clean_NT.std(axis=1)[:, None] * noise_TN.T


# Lorenz


def lorenz_field(state: np.ndarray, rho: np.ndarray | float) -> np.ndarray:
    """d(x, y, z)/dt, [3, N] (Lorenz, 1963); invariant under (x, y, z) -> (-x, -y, z)."""
    x, y, z = state
    return np.stack((LORENZ_SIGMA * (y - x), x * (rho - z) - y, x * y - LORENZ_BETA * z))


def lorenz_start(seed: int, first: int, count: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rho [N] from U(26, 40), the state [3, N] before the burn-in, and the observation noise [T, N]."""
    u, noise_TN = draws(seed, first, count, 4, length)
    state = np.stack((20 * u[1] - 10, 20 * u[2] - 10, 10 + 30 * u[3]))
    return 26 + 14 * u[0], state, noise_TN


def lorenz(seed: int, first: int, count: int, length: int) -> Simulated:
    """x of the Lorenz system with 2 % noise, dt 0.02."""
    rho, state, noise_TN = lorenz_start(seed, first, count, length)
    field = partial(lorenz_field, rho=rho)
    for _ in range(LORENZ_BURN_IN):
        state = rk4(field, state, LORENZ_DT)
    x_TN, state = trajectory(field, state, LORENZ_DT, length)
    series, mean, std = z_norm(_noisy(x_TN, noise_TN, 0.02))
    x_last, hidden_y, hidden_z = state
    switch, ahead = np.full(count, np.nan), np.empty((max(HORIZONS), count))
    for k in range(1, SWITCH_CAP + 1):
        state = rk4(field, state, LORENZ_DT)
        if k <= len(ahead):
            ahead[k - 1] = state[0]
        switch[np.isnan(switch) & (np.sign(state[0]) != np.sign(x_last))] = k
        if k >= len(ahead) and not np.isnan(switch).any():
            break
    ahead_NH = ((ahead - mean) / std).T[:, [h - 1 for h in HORIZONS]]
    latents = {"hidden_z": hidden_z, "hidden_y": hidden_y, "rho": rho, "log_switch": np.log(switch)}
    return series, latents | {
        "x_future": ahead_NH[:, HORIZONS.index(FUTURE_STEPS)],
        "x_ahead": ahead_NH,
        "x_ahead_naive": np.repeat(series[:, -1:], len(HORIZONS), axis=1),
    }


# Pendulum


def pendulum_field(state: np.ndarray, g_over_l: np.ndarray | float, friction: float) -> np.ndarray:
    """d(angle, angular velocity)/dt, [2, N]."""
    angle, velocity = state
    return np.stack((velocity, -g_over_l * np.sin(angle) - friction * velocity))


def pendulum_energy(state: np.ndarray, g_over_l: np.ndarray | float) -> np.ndarray:
    """Energy per moment of inertia [N], in rad^2/s^2; 0 at rest, 2 g/l at the top."""
    angle, velocity = state
    return velocity**2 / 2 + g_over_l * (1 - np.cos(angle))


def pendulum_start(seed: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """g/l [N] from U(2, 10) and the first state [2, N], somewhere on a swing of amplitude U(0.3, 2.8) rad."""
    u, _ = draws(seed, first, count, 3, 0)
    g_over_l, amplitude, phase = 2 + 8 * u[0], 0.3 + 2.5 * u[1], 2 * np.pi * u[2]
    angle = amplitude * np.sin(phase)
    # From the energy of the amplitude, so that it swings and never goes over the top; friction only takes from it.
    kinetic = g_over_l * (np.cos(angle) - np.cos(amplitude))
    velocity = np.copysign(np.sqrt(2 * np.maximum(kinetic, 0)), np.cos(phase))
    return g_over_l, np.stack((angle, velocity))


def pendulum(seed: int, first: int, count: int, length: int) -> Simulated:
    """Sine of the angle of a swinging pendulum with friction 0.02/s, dt 0.05 s, without noise."""
    g_over_l, state = pendulum_start(seed, first, count)
    angle_TN, state = trajectory(lambda s: pendulum_field(s, g_over_l, PENDULUM_FRICTION), state, PENDULUM_DT, length)
    series, _, _ = z_norm(np.ascontiguousarray(np.sin(angle_TN).T))
    return series, {
        "angular_velocity": state[1],
        "energy": pendulum_energy(state, g_over_l),
        "g_over_l": g_over_l,
        "cos_theta": np.cos(state[0]),
    }


# Damped oscillator


def oscillator_field(state: np.ndarray, omega: np.ndarray, zeta: np.ndarray, force: np.ndarray | float) -> np.ndarray:
    """d(x, v)/dt, [2, N], of x'' + 2 zeta omega x' + omega^2 x = force."""
    x, v = state
    return np.stack((v, force - 2 * zeta * omega * v - omega**2 * x))


def damped_oscillator(seed: int, first: int, count: int, length: int) -> Simulated:
    """Displacement of a noise-driven damped oscillator with 5 % noise, dt 0.05 s.

    The force is white noise of intensity 4 zeta omega^3, held constant over each step: the one that gives x a standard
    deviation of 1 and v one of omega for ever, whatever the parameters.
    """
    steps = OSCILLATOR_BURN_IN + length
    u, e = draws(seed, first, count, 2, 2 + steps + length)
    log_omega, log_zeta = u[0] * np.log(6.0), np.log(0.005) + u[1] * np.log(0.1 / 0.005)
    omega, zeta = np.exp(log_omega), np.exp(log_zeta)
    # Starting in the stationary state: the burn-in alone is shorter than the memory, 1 / (zeta omega), of the slowest.
    state = np.stack((e[0], omega * e[1]))
    force_TN = np.sqrt(4 * zeta * omega**3 / OSCILLATOR_DT) * e[2 : 2 + steps]
    x_TN = np.empty((steps, count))
    for t in range(steps):
        state = rk4(lambda s, t=t: oscillator_field(s, omega, zeta, force_TN[t]), state, OSCILLATOR_DT)
        x_TN[t] = state[0]
    series, _, std = z_norm(_noisy(x_TN[OSCILLATOR_BURN_IN:], e[2 + steps :], 0.05))
    x, v = state
    return series, {
        "log_frequency": log_omega,
        "log_damping": log_zeta,
        "velocity": v / std,
        "phase": np.arctan2(-v / omega, x) % (2 * np.pi),
    }


# Autoregressive processes


def ar2(a1: np.ndarray, a2: np.ndarray, noise_TN: np.ndarray) -> np.ndarray:
    """x_t = a1 x_{t-1} + a2 x_{t-2} + e_t, [T, N], stationary from the first step (Box and Jenkins, 1970, 3.2)."""
    x_TN = noise_TN.copy()
    correlation = a1 / (1 - a2)
    std = np.sqrt((1 - a2) / ((1 + a2) * ((1 - a2) ** 2 - a1**2)))
    x_TN[0] = std * noise_TN[0]
    x_TN[1] = correlation * x_TN[0] + std * np.sqrt(1 - correlation**2) * noise_TN[1]
    for t in range(2, len(x_TN)):
        x_TN[t] += a1 * x_TN[t - 1] + a2 * x_TN[t - 2]
    return x_TN


def arma(seed: int, first: int, count: int, length: int) -> Simulated:
    """AR(2) process with poles r exp(+-i phi)."""
    u, noise_TN = draws(seed, first, count, 2, length)
    radius, angle = 0.5 + 0.49 * u[0], 0.1 + 2.7 * u[1]
    a1, a2 = 2 * radius * np.cos(angle), -(radius**2)
    series, _, _ = z_norm(np.ascontiguousarray(ar2(a1, a2, noise_TN).T))
    return series, {"a1": a1, "a2": a2, "pole_radius": radius, "pole_angle": angle}


def changepoint(seed: int, first: int, count: int, length: int) -> Simulated:
    """AR(1) noise (coefficient 0.5, unit innovations) and a sine of amplitude 1, with at most one change.

    The first changed step is tau; the phase of the sine goes on without a jump.
    """
    u, noise_TN = draws(seed, first, count, 3, length)
    kind = np.floor(u[0] * len(CHANGES)).astype(np.int64)
    tau = np.round((0.2 + 0.6 * u[1]) * length)
    changed_TN = np.arange(length)[:, None] >= tau
    frequency_TN = np.where(changed_TN & (kind == CHANGES.index("frequency")), FREQUENCY_AFTER, FREQUENCY_BEFORE)
    sine_TN = np.sin(2 * np.pi * (u[2] + np.cumsum(frequency_TN, axis=0)))
    ar_TN = ar2(np.full(count, 0.5), np.zeros(count), noise_TN)
    # Scaling the process, not its innovations, makes the change of variance complete at tau.
    scale_TN = np.where(changed_TN & (kind == CHANGES.index("variance")), np.sqrt(CHANGE_VARIANCE), 1.0)
    shift_TN = np.where(changed_TN & (kind == CHANGES.index("mean")), CHANGE_MEAN, 0.0)
    series, _, _ = z_norm(np.ascontiguousarray((scale_TN * ar_TN + sine_TN + shift_TN).T))
    none = kind == CHANGES.index("none")
    change_NT = (np.arange(length) == tau[:, None]) & ~none[:, None]
    return series, {
        "change_time": np.where(none, np.nan, tau / length),
        "change_kind": kind,
        "change": change_NT.astype(np.float32),
    }
