from __future__ import annotations

import dataclasses
import json
import math

import pytest
from typer.testing import CliRunner

from diagnostics import cli, selftest
from diagnostics.measures import bundled, dynamics, geometry, locality, probes, similarity
from diagnostics.selftest import Outcome, all_cases, check
from diagnostics.selftest.cases import Case

CASES = all_cases()


@pytest.mark.parametrize(("family", "case"), CASES, ids=[f"{case.measure}: {case.what}" for _, case in CASES])
def test_known_answer(family: str, case: Case) -> None:
    outcome = check(family, case)
    assert outcome.right, outcome.error or outcome.found


def test_there_are_well_over_a_hundred_and_each_says_where_it_comes_from() -> None:
    assert len(CASES) > 120
    assert all(case.source and case.what and math.isfinite(case.expected) and case.tolerance < 1 for _, case in CASES)
    names = [(case.measure, case.what) for _, case in CASES]
    assert len(set(names)) == len(names)


def test_every_measure_and_no_other_name_has_known_answers() -> None:
    functions = {name for package in (dynamics, geometry, locality, probes, similarity) for name in package.__all__}
    named = {case.measure for _, case in CASES}
    # torch_cka is another package's estimator, wrong ones included.
    assert bundled().keys() - named == {"torch_cka"}
    assert named - bundled().keys() <= functions
    # A plain function that belongs to a probe stands under the probe.
    assert not {case.measure for family, case in CASES if family in ("probes", "dynamics")} - bundled().keys()


def test_a_value_that_is_off_not_a_number_or_raises_is_not_right() -> None:
    case = Case("cka", "x", 1.0, "somewhere", lambda: 1.0 + 2e-6)
    assert not check("similarity", case).right
    assert check("similarity", dataclasses.replace(case, tolerance=3e-6)).right
    assert not check("similarity", dataclasses.replace(case, found=lambda: math.nan)).right
    failed = check("similarity", dataclasses.replace(case, found=lambda: 1 / 0))
    assert not failed.right and "ZeroDivisionError" in failed.error


def test_the_command_ends_with_1_when_one_is_off_and_names_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    good = Case("cka", "right one", 1.0, "a paper", lambda: 1.0)
    bad = Case("cka", "wrong one", 1.0, "a paper", lambda: 0.5)

    def few(watch: object) -> list[Outcome]:
        return [check("similarity", case) for case in chosen]

    monkeypatch.setattr(selftest, "run_selftest", few)
    chosen = [good]
    done = CliRunner().invoke(cli.app, ["selftest"])
    assert done.exit_code == 0 and "1 known answers, 1 right." in done.stdout
    assert "within" in done.stdout and "1e-06" in done.stdout and "similarity 1 of 1 right." in done.stdout
    chosen = [good, bad]
    done = CliRunner().invoke(cli.app, ["selftest"])
    assert done.exit_code == 1 and "similarity 1 of 2 right." in done.stdout
    assert "OFF" in done.stdout and "expected 1 within 1e-06, found 0.5" in done.stdout
    done = CliRunner().invoke(cli.app, ["selftest", "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["wrong"] == 1 and [case["right"] for case in found["cases"]] == [True, False]
