"""The bundled datasets, against answers known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from diagnostics_data import plugin, systems
from diagnostics_data.plugin import datasets
from scipy.integrate import solve_ivp

from diagnostics import Dataset
from diagnostics.vocabulary import FAMILY_OF
from tests.support.refusals import refusal

SERIES = {
    "lorenz": ["hidden_z", "hidden_y", "rho", "log_switch", "x_future", "x_ahead"],
    "pendulum": ["angular_velocity", "energy", "g_over_l", "cos_theta"],
    "damped_oscillator": ["log_frequency", "log_damping", "velocity", "phase"],
    "arma": ["a1", "a2", "pole_radius", "pole_angle"],
    "changepoint": ["change_time", "change_kind", "change"],
}


def make(name: str, **options: int) -> Dataset:
    return datasets()[name](**options)


def r2_of_ridge(features: np.ndarray, values: np.ndarray) -> float:
    """R2 on the second half of a ridge fitted on the first."""
    from sklearn.linear_model import RidgeCV

    half = len(features) // 2
    model = RidgeCV(np.logspace(-3, 4, 15)).fit(features[:half], values[:half])
    return float(model.score(features[half:], values[half:]))


# All series


def test_options_reach_the_builders_through_their_annotations() -> None:
    from diagnostics.specs import call

    dataset = call(plugin.lorenz, (), {"n": "12", "length": "40", "seed": "3"}, "Plugin data", "dataset")
    assert (len(dataset), dataset[0].shape, dataset.ids[0]) == (12, (40,), "lorenz-3-00000")
    assert len(call(plugin.digits, (), {"n": "20"}, "Plugin data", "dataset")) == 20
    assert len(call(plugin.digits, (), {"n": "none"}, "Plugin data", "dataset")) == 1797


@pytest.mark.parametrize("name", SERIES)
def test_series_follow_the_contract(name: str) -> None:
    dataset = make(name, n=40, length=64)
    assert list(dataset.targets) == SERIES[name]
    samples = np.asarray(dataset.samples)
    assert samples.dtype == np.float32 and samples.shape == (40, 64)
    np.testing.assert_allclose(samples.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(samples.std(1), 1, atol=1e-5)
    assert dataset.counts() == {"train": 24, "val": 8, "test": 8}
    assert dataset.groups.tolist() == dataset.ids
    for target in dataset.targets.values():
        assert (target.family or FAMILY_OF[target.kind]) == "dynamics" and target.about
        assert target.kind == "label" or target.values.dtype == np.float64


@pytest.mark.parametrize("name", SERIES)
def test_a_series_depends_on_seed_and_index_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many, other = (make(name, n=n, length=64, seed=seed) for n, seed in ((20, 1), (40, 1), (20, 2)))
    assert few.ids == many.ids[:20]
    np.testing.assert_array_equal(few.samples, many.samples[:20])
    for key, target in few.targets.items():
        np.testing.assert_array_equal(target.values, many.targets[key].values[:20])
    assert not np.array_equal(few.samples, other.samples)
    monkeypatch.setattr(plugin, "BLOCK", 7)
    again = make(name, n=20, length=64, seed=1)
    assert again.fingerprint == few.fingerprint != other.fingerprint


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("options", [{"n": 9}, {"n": 1_000_001}, {"length": 31}, {"length": 10**7}, {"seed": -1}])
def test_odd_options_are_refused_in_a_sentence(name: str, options: dict[str, int]) -> None:
    key, value = next(iter(options.items()))
    with refusal("bad-value", name, f"{key}={value}"):
        make(name, **options)


def test_what_does_not_fit_in_memory_is_refused() -> None:
    with refusal("too-large", "536870912"):
        make("arma", n=1_000_000, length=1000)


# Lorenz


def test_fixed_points_of_lorenz_stay_put() -> None:
    rho = np.array([26.0, 33.0, 40.0])
    c = np.sqrt(systems.LORENZ_BETA * (rho - 1))
    start = np.stack((c, c, rho - 1))
    state = start
    for _ in range(20):
        state = systems.rk4(lambda s: systems.lorenz_field(s, rho), state, systems.LORENZ_DT)
    np.testing.assert_allclose(state, start, rtol=1e-11)


def test_lorenz_is_symmetric_in_x_and_y() -> None:
    state = np.array([[3.0], [-2.0], [20.0]])
    mirror = state * np.array([[-1], [-1], [1]])
    for _ in range(500):
        state, mirror = (
            systems.rk4(lambda s: systems.lorenz_field(s, 28.0), s, systems.LORENZ_DT) for s in (state, mirror)
        )
    np.testing.assert_array_equal(state * np.array([[-1], [-1], [1]]), mirror)


def test_rk4_agrees_with_scipy_and_is_of_fourth_order() -> None:
    start, end = np.array([3.0, -2.0, 20.0]), 0.64
    truth = solve_ivp(lambda _, s: systems.lorenz_field(s, 28.0), (0, end), start, "DOP853", rtol=1e-13, atol=1e-13)
    errors: list[float] = []
    for dt in (0.02, 0.01, 0.005, 0.0025):
        state = start[:, None]
        for _ in range(round(end / dt)):
            state = systems.rk4(lambda s: systems.lorenz_field(s, 28.0), state, dt)
        errors.append(float(np.abs(state[:, 0] - truth.y[:, -1]).max()))
    assert errors[0] < 2e-2 and errors[-1] < 1e-5
    assert np.log2(errors[-2] / errors[-1]) == pytest.approx(4, abs=0.3)


def test_lorenz_targets_equal_a_plain_loop() -> None:
    n, length = 25, 64
    dataset = make("lorenz", n=n, length=length, seed=5)
    rho, starts, _ = systems.lorenz_start(5, 0, n, length)
    for i in range(n):
        state, path = starts[:, i : i + 1], []
        for _ in range(1000 + length + 1000):
            path.append(state[:, 0])
            state = systems.rk4(lambda s, i=i: systems.lorenz_field(s, rho[i]), state, 0.02)
        xs, last = np.array(path)[:, 0], 1000 + length - 1
        seen, (_, y_last, z_last) = xs[1000 : 1000 + length], path[last]
        k = 1
        while xs[last + k] * xs[last] > 0:
            k += 1
        got = {key: target.values[i] for key, target in dataset.targets.items()}
        assert got["hidden_y"] == y_last and got["hidden_z"] == z_last and got["rho"] == rho[i]
        assert got["log_switch"] == np.log(k)
        # The noise of 2 % moves the norm a little.
        assert got["x_future"] == pytest.approx((xs[last + 10] - seen.mean()) / seen.std(), abs=0.04)
        assert np.std(dataset.samples[i] - (seen - seen.mean()) / seen.std()) == pytest.approx(0.02, rel=0.4)


def test_log_switch_is_unknown_beyond_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    full = make("lorenz", n=30, length=32).targets["log_switch"].values
    monkeypatch.setattr(systems, "SWITCH_CAP", 20)
    capped = make("lorenz", n=30, length=32).targets["log_switch"].values
    np.testing.assert_array_equal(np.isnan(capped), full > np.log(20.5))
    assert 0 < np.isnan(capped).sum() < 30 and not np.isnan(full).any()


def test_hidden_z_is_hidden_from_a_linear_window_and_not_from_the_state() -> None:
    dataset = make("lorenz", n=800)
    window = np.asarray(dataset.samples)[:, -64:]
    z, y = (dataset.targets[key].values for key in ("hidden_z", "hidden_y"))
    assert r2_of_ridge(window, z) < 0.2
    # x, y and their products, which no longer change sign with x.
    x, slope = window[:, -4:].mean(1), window[:, -1] - window[:, -8]
    even = np.stack((x**2, slope**2, x * slope, np.abs(x), y**2, x * y, dataset.targets["rho"].values), axis=1)
    assert r2_of_ridge(even, z) > 0.6
    assert r2_of_ridge(window, y) > 0.6


# The other systems


def test_pendulum_keeps_its_energy_without_friction_and_agrees_with_scipy() -> None:
    g_over_l, start = systems.pendulum_start(0, 0, 50)
    energy = systems.pendulum_energy(start, g_over_l)
    assert (energy < 2 * g_over_l).all()
    state = start
    for _ in range(512):
        state = systems.rk4(lambda s: systems.pendulum_field(s, g_over_l, 0.0), state, systems.PENDULUM_DT)
    np.testing.assert_allclose(systems.pendulum_energy(state, g_over_l), energy, rtol=2e-3)

    dataset = make("pendulum", n=10, length=100)
    got = {key: target.values for key, target in dataset.targets.items()}
    for i in range(10):
        theta, velocity = solve_ivp(
            lambda _, s, g=g_over_l[i]: [s[1], -g * np.sin(s[0]) - 0.02 * s[1]],
            (0, 99 * 0.05),
            start[:, i],
            t_eval=np.arange(100) * 0.05,
            rtol=1e-10,
            atol=1e-10,
        ).y
        seen = np.sin(theta)
        np.testing.assert_allclose(dataset.samples[i], (seen - seen.mean()) / seen.std(), atol=2e-3)
        assert got["angular_velocity"][i] == pytest.approx(velocity[-1], abs=2e-3)
        assert got["cos_theta"][i] == pytest.approx(np.cos(theta[-1]), abs=2e-3)
        assert got["energy"][i] == pytest.approx(
            velocity[-1] ** 2 / 2 + g_over_l[i] * (1 - np.cos(theta[-1])), abs=5e-3
        )


def test_lorenz_ahead_goes_on_from_the_series_and_its_naive_forecast_is_the_last_value() -> None:
    dataset = make("lorenz", n=30, length=64)
    ahead, naive = dataset.targets["x_ahead"].values, dataset.targets["x_ahead"].naive
    assert naive is not None and ahead.shape == naive.shape == (30, 6)
    last = np.asarray(dataset.samples)[:, -1:]
    np.testing.assert_allclose(naive, np.repeat(last, 6, axis=1), atol=1e-6)
    np.testing.assert_array_equal(ahead[:, systems.HORIZONS.index(10)], dataset.targets["x_future"].values)
    error = np.abs(ahead - naive).mean(axis=0)
    assert error[0] < error[1] < error[2] < error[3]


def test_oscillator_has_its_frequency_and_does_not_die() -> None:
    dataset = make("damped_oscillator", n=60, length=2048)
    got = {key: target.values for key, target in dataset.targets.items()}
    samples = np.asarray(dataset.samples, np.float64)
    frequency = 2 * np.pi * np.fft.rfftfreq(2048, 0.05)
    peak = frequency[np.argmax(np.abs(np.fft.rfft(samples)) ** 2, axis=1)]
    light = np.exp(got["log_damping"]) < 0.03
    assert light.sum() > 20
    np.testing.assert_allclose(np.log(peak[light]), got["log_frequency"][light], atol=0.15)
    first, last = samples[:, :1024].std(), samples[:, 1024:].std()
    assert 0.8 < last / first < 1.25
    assert dataset.targets["phase"].period == pytest.approx(2 * np.pi)
    assert got["phase"].min() >= 0 and got["phase"].max() < 2 * np.pi
    # The velocity is the slope of the series: the window is short against the fastest period.
    slope = np.array([np.polyfit(np.arange(-5, 1) * 0.05, tail, 2)[1] for tail in samples[:, -6:]])
    assert np.corrcoef(slope, got["velocity"])[0, 1] > 0.9
    same_sign = np.sign(np.cos(got["phase"])) == np.sign(samples[:, -1])
    assert same_sign.mean() > 0.8
    np.testing.assert_array_equal(np.sign(np.sin(got["phase"])), -np.sign(got["velocity"]))


def test_oscillator_is_stationary_with_unit_deviation() -> None:
    # Var x = S / (4 zeta omega^3) for white noise of intensity S; `velocity` is v over the deviation of the series.
    got = {key: t.values for key, t in make("damped_oscillator", n=1500, length=64).targets.items()}
    omega = np.exp(got["log_frequency"])
    u, _ = systems.draws(0, 0, 1500, 2, 0)
    np.testing.assert_allclose(omega, 6 ** u[0])
    np.testing.assert_allclose(np.exp(got["log_damping"]), 0.005 * 20 ** u[1])
    # Uniform phase: mean 0, mean square a half.
    sine = np.sin(got["phase"])
    assert abs(sine.mean()) < 0.06 and (sine**2).mean() == pytest.approx(0.5, abs=0.04)


def test_ar2_obeys_yule_walker() -> None:
    rng = np.random.default_rng(0)
    a1, a2 = np.array([1.2]), np.array([-0.8])
    x = systems.ar2(np.repeat(a1, 4000), np.repeat(a2, 4000), rng.standard_normal((60, 4000)))
    for first in (0, 40):  # stationary from the first step on
        c0, c1, c2 = (float((x[first : first + 10] * x[first + k : first + k + 10]).mean()) for k in range(3))
        assert c1 == pytest.approx(a1[0] * c0 + a2[0] * c1, abs=0.05 * c0)
        assert c2 == pytest.approx(a1[0] * c1 + a2[0] * c0, abs=0.05 * c0)
        assert c0 == pytest.approx(1 + a1[0] * c1 + a2[0] * c2, abs=0.05 * c0)


def test_arma_targets_are_the_coefficients_of_the_series() -> None:
    dataset = make("arma", n=20, length=4096)
    got = {key: target.values for key, target in dataset.targets.items()}
    for i, x in enumerate(np.asarray(dataset.samples, np.float64)):
        fit = np.linalg.lstsq(np.stack((x[1:-1], x[:-2]), axis=1), x[2:], rcond=None)[0]
        np.testing.assert_allclose(fit, (got["a1"][i], got["a2"][i]), atol=0.07)
        roots = np.roots((1, -got["a1"][i], -got["a2"][i]))
        np.testing.assert_allclose(np.abs(roots), got["pole_radius"][i])
        np.testing.assert_allclose(np.abs(np.angle(roots)), got["pole_angle"][i])


def test_changepoints_change_what_they_say_when_they_say() -> None:
    length = 2000
    dataset = make("changepoint", n=200, length=length)
    time, kind = dataset.targets["change_time"].values, dataset.targets["change_kind"].values
    assert dataset.targets["change_kind"].classes == ("none", "mean", "variance", "frequency")
    assert (np.bincount(kind, minlength=4) > 25).all()
    np.testing.assert_array_equal(np.isnan(time), kind == 0)
    change = dataset.targets["change"].values
    np.testing.assert_array_equal(change.sum(axis=1), kind > 0)
    np.testing.assert_array_equal(change[kind > 0].argmax(axis=1), np.round(time[kind > 0] * length))
    assert np.nanmin(time) >= 0.2 and np.nanmax(time) <= 0.8
    steps = np.arange(1, length)
    for x, t, what in zip(np.asarray(dataset.samples, np.float64), time, kind, strict=True):
        if what == 0:
            halves = x[: length // 2], x[length // 2 :]
            assert abs(halves[0].mean() - halves[1].mean()) < 0.3 and 0.8 < halves[0].std() / halves[1].std() < 1.25
            continue
        tau = round(t * length)
        before, after = x[:tau], x[tau:]
        differences = np.diff(before).var(), np.diff(after).var()
        if what == 1:
            # Deviation about the level: sqrt(4/3 + 1/2), the AR(1) and the sine; the shift is 3.
            assert (after.mean() - before.mean()) / before.std() == pytest.approx(3 / np.sqrt(4 / 3 + 1 / 2), abs=0.45)
            cusum = np.abs(np.cumsum(x)[:-1] - steps * x.mean()) / np.sqrt(steps * (length - steps))
            assert abs(int(steps[np.argmax(cusum)]) - tau) <= 15
        elif what == 2:
            # Variance of the differences: 2 (1 - .5) 4/3 of the AR(1), and 4 sin^2(pi f) / 2 of the sine.
            sine = 2 * np.sin(np.pi / 20) ** 2
            assert differences[1] / differences[0] == pytest.approx((4 + sine) / (4 / 3 + sine), rel=0.3)
        else:
            for part, expected in ((before, 1 / 20), (after, 1 / 8)):
                power = [abs(np.exp(-2j * np.pi * f * np.arange(len(part))) @ part) for f in (1 / 20, 1 / 8)]
                assert (1 / 20, 1 / 8)[int(np.argmax(power))] == expected
