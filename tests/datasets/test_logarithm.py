"""The option `log` of every dataset: a target's logarithm in its place."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import diagnostics as dx
from diagnostics.datasets.dataset import with_logarithms
from diagnostics.errors import DiagnosticsError
from tests.support.refusals import refusal

OWN = """
import numpy as np
import diagnostics as dx

def build():
    series = np.zeros((10, 4)) + np.arange(10)[:, None]
    price = dx.Target("value", np.exp(np.arange(10.0)), units="EUR", about="what it costs")
    return dx.Dataset("own", "series", series, [str(i) for i in range(10)], ["train"] * 6 + ["val", "val", "test", "test"], {"price": price, "cost": price})

def with_its_own(log: int = 0):
    data = build()
    data.about = f"log {log}"
    return data
"""


def data(**targets: dx.Target) -> dx.Dataset:
    split = ["train"] * 2 + ["val", "test"]
    return dx.Dataset("four", "series", np.zeros((4, 3)), list("abcd"), split, targets)


def test_a_dataset_of_any_name_reads_the_logarithm(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    name = f"{tmp_path}/own.py:build"
    plain, logged = (dx.build("dataset", f"{name}{end}") for end in ("", "?log=price"))
    assert list(logged.targets) == ["log_price", "cost"]
    target = logged.targets["log_price"]
    np.testing.assert_allclose(target.values, np.arange(10))
    assert (target.units, target.about) == ("log EUR", "natural logarithm of what it costs")
    np.testing.assert_array_equal(logged.targets["cost"].values, plain.targets["cost"].values)
    assert logged.fingerprint != plain.fingerprint
    assert set(dx.build("dataset", f"{name}?log=cost,price").targets) == {"log_price", "log_cost"}
    bundled = dx.build("dataset", "lorenz?n=20&length=32&log=rho")
    np.testing.assert_array_equal(
        bundled.targets["log_rho"].values, np.log(dx.build("dataset", "lorenz?n=20&length=32").targets["rho"].values)
    )


def test_an_option_log_of_a_builder_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    assert dx.build("dataset", f"{tmp_path}/own.py:with_its_own?log=3").about == "log 3"


def test_a_stated_fingerprint_changes_with_it() -> None:
    plain = data(x=dx.Target("value", np.arange(4) + 1.0), y=dx.Target("value", np.arange(4) + 1.0))
    known = plain.fingerprint
    prints = {with_logarithms(plain, names).fingerprint for names in (["x"], ["y"], ["x", "y"])}
    assert len(prints | {known}) == 4
    assert plain.fingerprint == known and list(plain.targets) == ["x", "y"]


def test_unknown_values_stay_unknown_and_a_naive_forecast_is_logged_too() -> None:
    values = np.array([[1.0, np.nan], [2.0, 3.0], [1.0, 1.0], [1.0, 1.0]])
    logged = with_logarithms(data(x=dx.Target("future", values, naive=values * 2)), ["x"]).targets["log_x"]
    np.testing.assert_array_equal(np.isnan(logged.values), np.isnan(values))
    np.testing.assert_allclose(np.asarray(logged.naive) - logged.values, np.where(np.isnan(values), np.nan, np.log(2)))


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        (dx.Target("value", np.array([1.0, 0.0, 2.0, np.nan])), "x", "Target x of four has values down to 0, but log=x needs values above 0: leave it out, or mark those values as unknown."),
        (dx.Target("value", np.ones(4)), "z", "Unknown target of four 'z'"),
        (dx.Target("label", np.ones(4, int)), "x", "Target x of four is of kind label: leave out log=x, which takes numbers."),
        (dx.Target("value", np.ones(4), period=2.0), "x", "Target x of four is periodic (2): leave out log=x, which takes numbers."),
        (dx.Target("future", np.ones((4, 1)), naive=-np.ones((4, 1))), "x", "Target x of four has values down to -1, but log=x needs values above 0"),
    ],
)  # fmt: skip
def test_what_has_no_logarithm_is_refused(target: dx.Target, name: str, message: str) -> None:
    with pytest.raises(DiagnosticsError, match=f"^{re.escape(message)}"):
        with_logarithms(data(x=target), [name])


def test_a_target_of_that_name_is_kept() -> None:
    both = data(x=dx.Target("value", np.ones(4)), log_x=dx.Target("value", np.zeros(4)))
    with refusal("duplicate", "four"):
        with_logarithms(both, ["x"])


def test_maps_that_are_read_one_by_one_are_too() -> None:
    metres = [np.full((n, 2), np.nan if n == 3 else n) for n in (1, 2, 3, 4)]
    logged = with_logarithms(data(depth=dx.Target("token_value", metres, units="m")), ["depth"]).targets["log_depth"]
    for found, wanted in zip(logged.values, metres, strict=True):
        np.testing.assert_array_equal(found, np.log(wanted))
    metres[3][0] = 0
    late = with_logarithms(data(depth=dx.Target("token_value", metres)), ["depth"]).targets["log_depth"]
    with refusal("bad-target", "depth", "four", "0"):
        np.asarray(late.values[3])
