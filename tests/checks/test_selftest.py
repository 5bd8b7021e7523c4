from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import math
import types
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from diagnostics.checks import selftest
from diagnostics.checks.selftest import Outcome, all_cases, check, planted
from diagnostics.cli import main as cli
from diagnostics.measures import dynamics, geometry, load_bundled, locality, probes, similarity
from diagnostics.measures.base import Case, Measure
from tests.support.functions import exported

CASES = all_cases()


@pytest.mark.parametrize(("family", "case"), CASES, ids=[f"{case.measure}: {case.what}" for _, case in CASES])
def test_known_answer(family: str, case: Case) -> None:
    outcome = check(family, case)
    assert outcome.right, outcome.error or outcome.computed
    json.dumps(outcome.to_json(), allow_nan=False)


def test_there_are_well_over_a_hundred_and_each_says_where_it_comes_from() -> None:
    assert len(CASES) > 120
    assert all(
        case.source and case.what and math.isfinite(case.expected) and 0 < case.tolerance < 1 for _, case in CASES
    )
    names = [(case.measure, case.what) for _, case in CASES]
    assert len(set(names)) == len(names)


def test_every_measure_and_no_other_name_has_known_answers() -> None:
    functions = {name for package in (dynamics, geometry, locality, probes, similarity) for name in exported(package)}
    named = {case.measure for family, case in CASES if family != "answer"}
    # torch_cka is another package's estimator, wrong ones included.
    assert load_bundled().keys() - named == {"torch_cka"}
    assert named - load_bundled().keys() <= functions
    # A plain function that belongs to a probe stands under the probe.
    assert not {case.measure for family, case in CASES if family in ("probes", "dynamics")} - load_bundled().keys()


# Measures that no closed form fits, and why.
WITHOUT = {"torch_cka": "another package's estimator, wrong ones included"}


@pytest.mark.parametrize(("name", "measure"), load_bundled().items())
def test_a_bundled_measure_states_known_answers_on_its_class(name: str, measure: type[Measure]) -> None:
    named = {case.measure for case in vars(measure).get("known_answers", ())}
    assert (name in named) != (name in WITHOUT)
    # Beside its own there may be those of plain functions of its family, which no measure is named after.
    family = importlib.import_module(measure.__module__.rpartition(".")[0])
    assert named - {name} <= set(exported(family)) - load_bundled().keys()


def test_a_value_that_is_off_not_a_number_or_raises_is_not_right() -> None:
    case = Case("x", 1.0, "somewhere", lambda: 1.0 + 2e-6, measure="cka")
    assert not check("similarity", case).right
    assert check("similarity", dataclasses.replace(case, tolerance=3e-6)).right
    assert not check("similarity", dataclasses.replace(case, compute=lambda: math.nan)).right
    failed = check("similarity", dataclasses.replace(case, compute=lambda: 1 / 0))
    assert not failed.right and "ZeroDivisionError" in failed.error


def test_the_command_ends_with_1_when_one_is_off_and_names_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    good = Case("right one", 1.0, "a paper", lambda: 1.0, measure="cka")
    near = Case("near one", 1.0, "a paper", lambda: 1 - 5e-7, measure="cka")
    bad = Case("wrong one", 1.0, "a paper", lambda: 0.5, measure="cka")

    def few(watch: object) -> list[Outcome]:
        return [check("similarity", case) for case in chosen]

    monkeypatch.setattr(selftest, "run_selftest", few)
    chosen = [good]
    done = CliRunner().invoke(cli.app, ["selftest"])
    assert done.exit_code == 0 and "1 known answers, 1 right." in done.stdout
    assert done.stdout.splitlines()[2].split() == ["similarity", "1", "1", "0"]
    assert "right one" not in done.stdout
    done = CliRunner().invoke(cli.app, ["selftest", "--full"])
    assert "right one" in done.stdout and "within" in done.stdout and "a paper" in done.stdout
    chosen = [good, near, bad]
    done = CliRunner().invoke(cli.app, ["selftest"])
    assert done.exit_code == 1
    # Half a millionth off where a millionth is allowed, and half a million times that.
    assert done.stdout.splitlines()[2].split() == ["similarity", "3", "2", "5e+05"]
    assert "OFF" in done.stdout and "expected 1 within 1e-06, found 0.5" in done.stdout
    assert "right one" not in done.stdout and "near one" not in done.stdout
    chosen = [near, good]
    done = CliRunner().invoke(cli.app, ["selftest"])
    assert done.stdout.splitlines()[2].split() == ["similarity", "2", "2", "0.5"]
    chosen = [good, dataclasses.replace(bad, compute=lambda: math.nan), near]
    done = CliRunner().invoke(cli.app, ["selftest"])
    assert done.stdout.splitlines()[2].split() == ["similarity", "3", "2", "inf"]
    chosen = [good, bad]
    done = CliRunner().invoke(cli.app, ["selftest", "--json"])
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert result["wrong"] == 1 and [case["right"] for case in result["cases"]] == [True, False]


# Broken on purpose: one line of a measure changed, and a known answer must be off

# module below `diagnostics`, what is written there once, and what breaks it.
BROKEN = [
    ("measures.similarity.decomposed", "(s**2).cumsum(0)", "s.cumsum(0)"),
    ("measures.similarity.decomposed", "(u.to(features.dtype).T @ features).abs().sum(dim=1)", "(u.to(features.dtype).T @ features).square().sum(dim=1)"),
    ("measures.similarity.decomposed", "(u.to(features.dtype).T @ features).abs().sum(dim=1)", "torch.ones_like(rho)"),
    ("measures.similarity.kernels", "else (n - 1) ** 2)", "else n**2)"),
    ("measures.similarity.minibatch", "*sums.raw]) / (n - 3)", "*sums.raw]) / (n * (n - 3))"),
    ("measures.similarity.minibatch", "1 / ((n - 3) if weigh else", "1 / (n * (n - 3) if weigh else"),
    ("measures.geometry.views", "(len(count) * count)[classes].sqrt()", "(len(count) * (count - 1))[classes].sqrt()"),
    ("measures.geometry.spectrum", "sigma / sigma.sum() + 1e-7", "sigma / sigma.sum() + 1e-9"),
    ("measures.geometry.pooled", "int(n * (1 - DISCARD))", "int(n)"),
    ("measures.geometry.pooled", "device=x.device) / n)", "device=x.device) / (n + 1))"),
    ("measures.dynamics", "past[:, season:] - past[:, :-season]", "past[:, 1:] - past[:, :-1]"),
    ("measures.dynamics", "/ (length[:, 1:] * length[:, :-1])", "/ length.square().mean(dim=1, keepdim=True)"),
    ("measures.dynamics", "total / both.sum(dim=1)", "total / both.shape[1] ** 2"),
    ("measures.probes.nearest", "(as_tensor(similarities) / temperature)", "(as_tensor(similarities) / temperature**0.5)"),
    ("measures.probes.nearest", "(top[:, :k] / temperature)", "top[:, :k]"),
    ("measures.probes.nearest", "keepdim=True)) / temperature).exp()", "keepdim=True))).exp()"),
    ("measures.probes.least_squares", "[..., None] + self.n * shares", "[..., None] + shares"),
    ("measures.probes.linear", "fitted = task.rows.fit", "fitted = task.rows.train"),
    ("measures.tap_choice", "score[best] - score[output] > max(needed, TIE if favoured else 0.0)", "score[best] > score[output]"),
    ("measures.tap_choice", "stdtrit(units - 1, COVERAGE)", "stdtrit(units - 1, 0.8)"),
    ("measures.verdict", "(first - second).T", "(first - second[::-1]).T"),
    ("measures.apply", " and depth[tap] <= depth[output]]", "]"),
    ("measures.probes.out_of_fold", "y - mean_of_others(y, self.part)", "y - y.mean(axis=0)"),
    ("measures.probes.softmax", "short.mean(dim=2) <= error / 2", "short.mean(dim=2) <= error"),
    ("runs.results.profile", "self.gap_bound < self.margin", "gap and gap.value < self.margin"),
    ("runs.results.recommendation", "if profile.few or at_output", "if at_output"),
    ("runs.results.redraws", "attrs.get(attribute.CHOSEN_TAP, \"\")", "attrs.get(attribute.BEST_TAP, \"\")"),
    ("runs.comparison.differences", "(theirs, -1.0)", "(theirs, 1.0)"),
    ("runs.comparison.estimates", "np.arange(len(order), 0, -1) * p[order]", "len(order) * p[order]"),
    ("runs.comparison.differences", "part_score(part) for part in parts]) - floor", "part_score(part) for part in parts])"),
    ("runs.comparison.differences", "1 / len(parts)", "1.0"),
    ("runs.comparison.estimates", "self.depths > 1 + SAME", "self.depths > 2"),
    ("measures.statistics", "special.ndtr(-np.sqrt(count / (count - 1)) * t)", "(1 - LEVEL) / 2"),
    ("measures.statistics", "np.sqrt(1 + units / fit_units) if fit_units else 1.0", "1.0"),
    ("measures.locality.heads", "lengths(cell, len(grid)), dtype", "lengths(cell, len(grid))[::-1], dtype"),
]  # fmt: skip


def broken_functions(module: types.ModuleType, old: str, new: str) -> list[tuple[types.FunctionType, types.CodeType]]:
    """Functions and methods of a module whose code changes with the text, each with its broken code."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old} stands {source.count(old)} times in {module.__name__}"
    codes = {
        code.co_qualname: code
        for code in code_objects(compile(source.replace(old, new), module.__file__ or "", "exec"))
    }
    owners = [module, *(c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__)]
    members = [
        inspect.unwrap(getattr(f, "fget", None) or getattr(f, "func", f))
        for owner in owners
        for f in vars(owner).values()
    ]
    functions = [f for f in members if inspect.isroutine(f)]
    changed: list[tuple[types.FunctionType, types.CodeType]] = []
    for function in functions:
        function = getattr(function, "__func__", function)
        if isinstance(function, types.FunctionType) and function.__module__ == module.__name__:
            code = codes.get(function.__code__.co_qualname)  # none of what a decorator made
            if code is not None and text_of(code) != text_of(function.__code__):
                changed.append((function, code))
    assert changed, f"{old} changes no function of {module.__name__}"
    return changed


def code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from code_objects(constant)


def text_of(code: types.CodeType) -> list[object]:
    """What a function does, whatever the lines on which it does it."""
    inner = [
        text_of(constant) if isinstance(constant, types.CodeType) else repr(constant) for constant in code.co_consts
    ]
    return [code.co_code, code.co_names, inner]


@pytest.mark.parametrize(
    ("module", "old", "new"), BROKEN, ids=[f"{m.rpartition('.')[2]}: {old}" for m, old, _ in BROKEN]
)
def test_a_measure_broken_in_one_line_is_noticed(
    module: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = module.removeprefix("measures.").partition(".")[0]
    families = ("answer",) if room not in {family for family, _ in CASES} else (room, "answer")
    planted.result.cache_clear(), planted.profile.cache_clear()
    with monkeypatch.context() as broken:
        for function, code in broken_functions(importlib.import_module(f"diagnostics.{module}"), old, new):
            broken.setattr(function, "__code__", code)
        noticed = any(not check(family, case).right for family, case in CASES if family in families)
    planted.result.cache_clear(), planted.profile.cache_clear()
    assert noticed
