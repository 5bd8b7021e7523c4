"""Names to objects: options, files, plugins that work, plugins that do not, and what must not be imported for it."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from diagnostics import DiagnosticsError, registry, specs
from diagnostics.cli import main as cli
from diagnostics.cli.tables import list_all
from diagnostics.runs.setup import select_measures
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

ROOT = Path(__file__).parent.parent.parent
HEADER = """
from __future__ import annotations
from typing import TYPE_CHECKING, Any, Optional
from diagnostics import hookimpl
from tests.support.tiny import tiny_dataset, tiny_encoder
"""
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(name=source)` adds plugins beside the real ones, each a module with that source."""
    real = list(importlib.metadata.entry_points(group=registry.GROUP))
    points = list(real)

    def add(**sources: str) -> None:
        for name, source in sources.items():
            module = f"fake_plugin_{name}"
            points.append(importlib.metadata.EntryPoint(name, module, registry.GROUP))
            loader = types.ModuleType(module)
            try:
                exec(compile(HEADER + source, module, "exec", dont_inherit=True), loader.__dict__)
            except Exception:
                continue  # not importable: `import fake_plugin_...` fails
            monkeypatch.setitem(sys.modules, module, loader)
        registry.plugins.cache_clear()

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: list(points))
    yield add
    registry.plugins.cache_clear()


def plugin(name: str) -> registry.Plugin:
    return next(loaded for loaded in registry.plugins() if loaded.name == name)


def called_with(make: Callable[..., Any], **options: str) -> Any:
    return specs.call(make, (), options, "Plugin mine", "dataset")


# Options


def takes(
    n: int = 1,
    rate: float = 0.5,
    flag: bool = False,
    name: str = "x",
    most: int | None = 3,
    limit: float | None = None,
    path: str | None = None,
    either: int | str = 0,
    anything=None,
) -> dict[str, Any]:
    return dict(locals())


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("n", "800", 800),
        ("n", "-3", -3),
        ("rate", "1e-3", 0.001),
        ("rate", "2", 2.0),
        ("flag", "true", True),
        ("flag", "False", False),
        ("name", "800", "800"),
        ("name", "none", "none"),
        ("name", "", ""),
        ("most", "5", 5),
        ("most", "none", None),
        ("most", "", None),
        ("limit", "0.5", 0.5),
        ("limit", "None", None),
        ("path", "a/b.pt", "a/b.pt"),
        ("path", "none", None),
        ("either", "7", 7),
        ("either", "seven", "seven"),
        ("anything", "text", "text"),
    ],
)
def test_options_become_what_their_annotation_says(key: str, text: str, value: Any) -> None:
    options = called_with(takes, **{key: text})
    assert options[key] == value
    assert type(options[key]) is type(value)
    assert {k: v for k, v in options.items() if k != key} == {k: v for k, v in takes().items() if k != key}


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        ("n", "many", "whole number"),
        ("n", "1.5", "whole number"),
        ("n", "", "whole number"),
        ("rate", "fast", "number"),
        ("flag", "maybe", "true or false"),
        ("most", "many", "whole number"),
    ],
)
def test_an_option_of_another_type_is_refused(key: str, text: str, wanted: str) -> None:
    with refusal("bad-value", f"{key}={text}", wanted):
        called_with(takes, **{key: text})


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with refusal("unknown-name", "dataset", "rat"):
        called_with(takes, rat="1")
    with refusal("unknown-name", "there are none"):
        called_with(lambda: None, n="1")


def test_options_written_with_optional_are_converted() -> None:
    def make(n: Optional[int] = None) -> Any:  # noqa: UP045  (the old spelling is what is tested)
        return n

    assert called_with(make, n="5") == 5
    assert called_with(make, n="none") is None


def test_options_of_a_class_and_of_a_partial_are_converted() -> None:
    import functools

    class Made:
        def __init__(self, n: int = 1) -> None:
            self.n = n

    assert called_with(Made, n="5").n == 5
    assert called_with(functools.partial(takes, rate=0.1), n="5")["n"] == 5


def test_annotations_that_only_type_checkers_can_read_do_no_harm(install: Install) -> None:
    install(
        typed="""
if TYPE_CHECKING:
    from pathlib import Path
def make(where: Path | None = None, seed: int = 0) -> Any:
    return tiny_dataset(seed=seed)
@hookimpl
def datasets(): return {"typed": make}
"""
    )
    assert specs.build("dataset", "typed?seed=3").fingerprint == tiny_dataset(seed=3).fingerprint


def test_options_of_a_name_reach_its_builder() -> None:
    data = specs.build("dataset", "arma?n=12&length=40&seed=3")
    assert len(data) == 12
    assert data[0].shape == (40,)
    assert len(specs.build("dataset", "arma?length=40&n=12")) == 12


@pytest.mark.parametrize("query", ["n", "n=12&seed", "&", "n=12&&seed=1", "12"])
def test_a_malformed_query_is_refused(query: str) -> None:
    with refusal("bad-value", "?key=value&key=value"):
        specs.build("dataset", f"arma?{query}")


def test_an_option_given_twice_is_refused() -> None:
    with refusal("duplicate", "Option n"):
        specs.build("dataset", "arma?n=12&n=20")


def test_a_plus_in_a_value_stays_a_plus(install: Install) -> None:
    install(path="@hookimpl\ndef datasets(): return {'path': lambda where: tiny_dataset(name=where)}")
    assert specs.build("dataset", "path?where=a+b.pt").name == "a+b.pt"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with refusal("unknown-name", "dataset", "lorentz"):
        specs.build("dataset", "lorentz?n=3")
    with refusal("unknown-name", "encoder", "fracas"):
        specs.build("encoder", "fracas")


def test_a_name_with_a_scheme_gets_the_rest(install: Install) -> None:
    source = "@hookimpl\ndef datasets(): return {'mine:': lambda rest, n=24: tiny_dataset(int(n), name=rest)}"
    install(scheme=source)
    data = specs.build("dataset", "mine:a:b?n=30")
    assert (data.name, len(data)) == ("a:b", 30)
    with refusal("unknown-name", "dataset", "rest"):
        specs.build("dataset", "mine:a?rest=b")


# Files


def written(folder: Path, source: str) -> Path:
    path = folder / "mine.py"
    path.write_text(HEADER + source, encoding="utf-8")
    return path


def test_a_function_in_a_file_makes_an_encoder_and_a_dataset(tmp_path: Path) -> None:
    path = written(tmp_path, "def build(seed: int = 0): return tiny_encoder(seed)\ndef data(): return tiny_dataset()")
    assert specs.build("encoder", f"{path}:build?seed=7").identity == tiny_encoder(7).identity
    assert specs.build("dataset", f"{path}:data").fingerprint == tiny_dataset().fingerprint


def test_a_file_may_define_dataclasses(tmp_path: Path) -> None:
    source = """
from dataclasses import dataclass
@dataclass
class Settings:
    seed: int = 3
def build(): return tiny_encoder(Settings().seed)
"""
    path = written(tmp_path, source)
    assert specs.build("encoder", f"{path}:build").identity == tiny_encoder(3).identity


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{folder}/absent.py:build", r"There is no file .*absent\.py: give the path of a Python file"),
        ("{folder}/mine.py:bild", r"Unknown function in .*mine\.py: 'bild': did you mean build\?"),
        ("{folder}/mine.py:", r"Unknown function in .*mine\.py: ''"),
        ("{folder}/mine.py:NUMBER", r"Unknown function in .*mine\.py: 'NUMBER'"),
        ("{folder}/mine.py", r"To use a file, name the function in it: .*mine\.py:build"),
        ("{folder}/mine.py:other", r"mine\.py gave a int for .*, not a diagnostics\.Encoder"),
        ("{folder}/mine.py:data", r"mine\.py gave a Dataset for .*, not a diagnostics\.Encoder"),
        ("{folder}/mine.py:fails", r"mine\.py failed to make the encoder: ZeroDivisionError: division by zero"),
        ("{folder}/mine.py:refuses", r"^only on Tuesdays$"),
        ("{folder}/mine.py:needs", r"mine\.py failed to make the encoder: TypeError: .*missing 1 required"),
        ("{folder}/mine.py:build?sed=1", r"Unknown option of this encoder 'sed': did you mean seed"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, spec: str, message: str) -> None:
    written(
        tmp_path,
        """
from diagnostics import DiagnosticsError
NUMBER = 3
def build(seed: int = 0): return tiny_encoder(seed)
def data(): return tiny_dataset()
def other(): return 3
def fails(): return 1 / 0
def refuses(): raise DiagnosticsError("only on Tuesdays")
def needs(x): return x
""",
    )
    with pytest.raises(DiagnosticsError, match=message) as caught:
        specs.build("encoder", spec.format(folder=tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def build(:", "SyntaxError"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_that_raises_is_named_with_its_error(tmp_path: Path, source: str, message: str) -> None:
    path = written(tmp_path, source)
    with refusal("foreign-error", "could not be run") as caught:
        specs.build("encoder", f"{path}:build")
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_builder_that_exits_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    path = written(tmp_path, "def build(): raise SystemExit('no licence')")
    with refusal("foreign-error", "no licence"):
        specs.build("encoder", f"{path}:build")


# Plugins


BROKEN = {
    "unimportable": ("import no_such_module", "No module named"),
    "interrupting": ("@hookimpl\ndef encoders(): raise KeyboardInterrupt('ha')", "KeyboardInterrupt: ha"),
    "generating": ("@hookimpl\ndef encoders(): raise GeneratorExit", "GeneratorExit"),
    "wrong_hook": ("@hookimpl\ndef encoder(): return {}", "encoder"),
    "raising": ("@hookimpl\ndef encoders(): raise RuntimeError('not today\\nnor tomorrow')", "RuntimeError: not today"),
    "exiting": ("@hookimpl\ndef datasets(): raise SystemExit('bye')", "SystemExit: bye"),
    "listing": ("@hookimpl\ndef measures(): return ['a']", "hook measures returned a list, not a mapping"),
    "uncallable": (
        "@hookimpl\ndef datasets(): return {'mine': 3}",
        "offers 'mine', which is not a name with something",
    ),
    "nameless": (
        "@hookimpl\ndef datasets(): return {3: print}",
        "offers 3, which is not a name with something callable",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_named_with_its_error_and_the_others_work(install: Install, name: str) -> None:
    source, message = BROKEN[name]
    install(**{name: source}, good="@hookimpl\ndef datasets(): return {'good': tiny_dataset}")
    loaded = plugin(name)
    assert message in loaded.error
    assert "\n" not in loaded.error
    assert loaded.offers == {}
    assert [p.name for p in registry.plugins() if p.error] == [name]
    assert len(specs.build("dataset", "good?n=30")) == 30
    assert len(specs.build("dataset", "arma?n=12&length=40")) == 12
    row = next(row for row in list_all()["plugins"] if row["name"] == name)
    assert row["error"] == loaded.error
    with refusal("unknown-name", "nothing", name):
        specs.build("encoder", "nothing")


@pytest.mark.parametrize(("command", "told"), [(["list", "plugins"], '"raising"'), (["choose"], '"rules"')])
def test_a_broken_plugin_is_told_on_stderr_and_the_command_works(
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    told: str,
) -> None:
    install(raising=BROKEN["raising"][0])
    monkeypatch.setattr(sys, "argv", ["diagnostics", *command, "--json"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, err = capsys.readouterr()
    assert not caught.value.code
    assert told in out
    assert err == (
        "diagnostics: plugin raising unknown could not be loaded (RuntimeError: not today); the others work.\n"
    )


def test_names_and_errors_of_plugins_are_shown_and_not_obeyed(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b[31m\u202e\x9b2J"
    install(raising=f"@hookimpl\ndef encoders(): raise RuntimeError({hostile!r})")
    install(naming=f"def make(x={hostile!r}): ...\n@hookimpl\ndef datasets(): return {{{hostile!r}: make}}")
    # Its name, and the error of the other plugin or the default of an option.
    for what, times in (([], 2), (["datasets"], 2), (["plugins"], 2)):
        monkeypatch.setattr(sys, "argv", ["diagnostics", "list", *what])
        with pytest.raises(SystemExit):
            cli.main()
        out, err = capsys.readouterr()
        assert not set(out + err) & set(hostile[:1] + hostile[5:7])
        assert out.count("\\x1b[31m\\u202e\\x9b2J") == times
    assert "plugin raising unknown could not be loaded (RuntimeError: \\x1b[31m" in err


def test_what_a_plugin_prints_stands_on_stderr(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
def make():
    print("of a measure")
    raise SystemExit(3)
@hookimpl
def encoders():
    print("of a hook")
    return {}
@hookimpl
def measures(): return {"leaving": make}
"""
    install(printing=source)
    monkeypatch.setattr(sys, "argv", ["diagnostics", "list", "--json"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    out, err = capsys.readouterr()
    row = next(row for row in json.loads(out)["measures"] if row["name"] == "leaving")
    assert row["answers"] == "fails: 3"
    assert err == "of a hook\nof a measure\n"


def test_ctrl_c_while_plugins_are_loaded_is_no_fault_of_theirs(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(slow="import signal\n@hookimpl\ndef encoders(): signal.raise_signal(signal.SIGINT)")
    # A suite that is started in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            registry.plugins()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_two_plugins_that_claim_one_name_are_both_named(install: Install) -> None:
    source = "@hookimpl\ndef datasets(): return {'twin': tiny_dataset, '%s_own': tiny_dataset}"
    install(first=source % "first", second=source % "second")
    message = "Plugins first and second both offer the dataset 'twin'"
    with pytest.raises(DiagnosticsError, match=message):
        specs.build("dataset", "twin")
    with pytest.raises(DiagnosticsError, match=message):
        specs.build("dataset", "twin?n=30")
    assert len(specs.build("dataset", "first_own")) == len(specs.build("dataset", "second_own")) == 24
    assert "twin" in [row["name"] for row in list_all()["datasets"]]


def test_a_stranger_cannot_replace_a_bundled_name_silently(install: Install) -> None:
    install(stranger="@hookimpl\ndef measures(): return {'cka': lambda: None}")
    with refusal("duplicate", "measures", "stranger", "measure", "cka"):
        select_measures(["cka"])
    assert [m.name for m in select_measures(["rankme"])[0]] == ["rankme"]
    # Nobody asked for it by name: the others go on.
    chosen, unusable = select_measures(None)
    assert "rankme" in [m.name for m in chosen]
    assert "both offer" in unusable["cka"]


def test_a_measure_that_cannot_be_made_is_named_and_listed(install: Install) -> None:
    install(bad="@hookimpl\ndef measures(): return {'sick': lambda: 1 / 0, 'number': lambda: 3}")
    with refusal("foreign-error", "Plugin bad", "sick", "division by zero"):
        select_measures(["sick"])
    with refusal("bad-type", "bad", "number"):
        select_measures(["number"])
    row = next(row for row in list_all()["measures"] if row["name"] == "sick")
    assert row["answers"] == "fails: division by zero"


@pytest.mark.parametrize(
    ("offered", "own"), [("../evil", "../evil"), ("a/b", "a/b"), ("one", "other"), ("zarr.json", "zarr.json")]
)
def test_a_measure_whose_name_is_no_name_is_refused(install: Install, offered: str, own: str) -> None:
    install(
        bad=f"""import diagnostics
@hookimpl
def measures():
    class Mine(diagnostics.Measure):
        name = {own!r}
        def compute(self, activations, target, seed): ...
    return {{{offered!r}: Mine}}
"""
    )
    with pytest.raises(DiagnosticsError, match=r"give (both one name|it a name of letters)"):
        select_measures([offered])


def test_suites_are_names_too(install: Install) -> None:
    standard, everything = ([m.name for m in select_measures([suite])[0]] for suite in ("standard", "all"))
    assert [m.name for m in select_measures(None)[0]] == standard
    assert set(standard) < set(everything) and len(everything) > 45
    assert "two_nn" in standard and "gulp" not in standard and "gulp" in everything
    both = [m.name for m in select_measures(["gulp", "standard"])[0]]
    assert set(both) == {*standard, "gulp"} and both == [name for name in everything if name in both]


# Described entries

DESCRIBED = """
from diagnostics.registry import Entry
PACKAGES = {"pytest": "pytest"}
def hint(path): return 1 / 0 if path.endswith("odd") else f"mine:{path} opens it"
@hookimpl
def encoders(): return {"mine:": Entry(lambda path: tiny_encoder(), path_hint=hint)}
"""


def test_a_plugin_says_how_a_path_that_is_no_saved_encoder_is_opened(install: Install, tmp_path: Path) -> None:
    install(mine=DESCRIBED)
    assert specs.build("encoder", "mine:anything").name == tiny_encoder().name
    for name, hinted in (("folder", True), ("odd", False)):
        (tmp_path / name).mkdir()
        with refusal("missing-file", tmp_path / name) as caught:
            specs.build("encoder", str(tmp_path / name))
        assert (f"mine:{tmp_path / name} opens it" in str(caught.value)) is hinted


def test_what_an_entry_says_is_shown_in_place_of_what_it_makes(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(
        mine="""
from diagnostics.registry import Entry
def documented(n: int = 3):
    "Waves of n steps."
@hookimpl
def datasets(): return {"waves": Entry(documented, modalities=("series", "audio"), kinds=("label",))}
@hookimpl
def measures(): return {"mine": Entry(lambda: 1 / 0, "How long?", kinds=("value",), needs="tokens", source="a book")}
"""
    )
    assert next(row for row in list_all()["measures"] if row["name"] == "mine") == {
        "name": "mine",
        "standard": True,
        "needs": "tokens",
        "targets": ["value"],
        "answers": "How long?",
        "source": "a book",
        "plugin": "mine",
    }
    assert ran(monkeypatch, "list", "datasets") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "waves Waves of n steps. series or audio; target label; n=3; plugin mine" in out


def test_a_plugin_names_the_packages_of_its_encoders(install: Install) -> None:
    install(mine=DESCRIBED, other="@hookimpl\ndef encoders(): return {}")
    assert plugin("mine").packages == {"pytest": "pytest"}
    assert plugin("other").packages == {}


# Commands of plugins

COMMAND = """
def greet(name: str = "you", times: int = 1) -> None:
    "Greets."
    print(f"hello {name} " * times)
def fails() -> None:
    raise ValueError("two\\nlines")
@hookimpl
def commands(): return {%s}
"""


def ran(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    monkeypatch.setattr(sys, "argv", ["diagnostics", *args])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_a_command_of_a_plugin_becomes_a_command(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(greeter=COMMAND % "'greet': greet, 'list': greet")
    assert ran(monkeypatch, "greet", "--name", "tap", "--times", "2") == 0
    assert capsys.readouterr().out == "hello tap hello tap \n"
    assert ran(monkeypatch, "list", "plugins") == 0  # the product's own command goes before a plugin's
    assert "hello" not in capsys.readouterr().out


def test_a_command_of_a_plugin_that_raises_is_an_error_in_a_sentence(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(greeter=COMMAND % "'fails': fails, 'greet': greet")
    assert ran(monkeypatch, "fails") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "ValueError: two lines" in err


def test_a_command_that_two_plugins_claim_does_no_harm_to_the_others(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(first=COMMAND % "'greet': greet", second=COMMAND % "'greet': greet")
    assert ran(monkeypatch, "--version") == 0
    capsys.readouterr()
    assert ran(monkeypatch, "greet") == 2
    assert "Plugins first and second both offer the command 'greet'" in capsys.readouterr().err


def test_a_command_that_cannot_become_one_does_no_harm_to_the_others(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(odd="def odd(x: dict[str, complex]) -> None: ...\n@hookimpl\ndef commands(): return {'odd': odd}")
    assert ran(monkeypatch, "--help") == 0
    assert "inspect" in capsys.readouterr().out
    assert ran(monkeypatch, "list", "plugins") == 0
    assert "odd" in "".join(capsys.readouterr())


# Packaging and imports


def bundled() -> list[Path]:
    return sorted(path for path in (ROOT / "plugins").glob("diagnostics_*") if (path / "__init__.py").is_file())


@pytest.mark.smoke
def test_every_bundled_plugin_is_in_the_wheel_and_in_the_entry_points() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    points = project["project"]["entry-points"][registry.GROUP]
    folders = bundled()
    assert len(folders) >= 3
    command = (
        "plugins/encoder_diagnostics"  # no plugin: what starts where another package lies in the place of this one
    )
    assert sorted(packages) == sorted(["diagnostics", command, *(f"plugins/{folder.name}" for folder in folders)])
    assert sorted(points.values()) == sorted(["diagnostics.measures", *(f"{folder.name}.plugin" for folder in folders)])
    assert all((folder / "plugin.py").is_file() for folder in folders)


@pytest.mark.smoke
def test_every_entry_point_is_installed_and_loads() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    loaded = {p.name: p for p in registry.plugins()}
    for name, module in project["project"]["entry-points"][registry.GROUP].items():
        assert (loaded[name].module, loaded[name].error) == (module, "")
        assert any(loaded[name].offers.values())


HEAVY = (
    *(
        "torch",
        "numpy",
        "scipy",
        "sklearn",
        "skimage",
        "PIL",
        "zarr",
        "xarray",
        "timm",
        "transformers",
        "onnx",
        "open_clip",
    ),
    *("safetensors", "aeon", "fracast", "plotly", "jinja2", "diagnostics.datasets.dataset"),
)
LIGHT = ["diagnostics", "diagnostics.cli.main", *(f"{path.name}.plugin" for path in bundled()), "diagnostics.measures"]
IMPORTED = f"""
import importlib, sys
for name in {LIGHT}:
    module = importlib.import_module(name)
    if name.endswith(".plugin"):
        for hook in ("encoders", "datasets", "commands"):
            getattr(module, hook, dict)()
    print(name, *(heavy for heavy in {HEAVY} if heavy in sys.modules))
module.measures()
print(*(heavy for heavy in ("torch", "scipy", "sklearn") if heavy in sys.modules))
"""


def test_importing_and_asking_what_a_plugin_offers_loads_nothing_heavy() -> None:
    """Nor do the names of measures load what only their numbers need."""
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.splitlines() == [*LIGHT, ""]


@pytest.mark.parametrize("command", [["--help"], ["list"], ["list", "--json"]], ids=" ".join)
def test_help_and_the_list_of_what_plugins_offer_load_nothing_heavy(command: list[str]) -> None:
    code = f"""
import sys
from diagnostics.cli import main as cli
sys.argv = ["diagnostics", *{command}]
try:
    cli.main()
except SystemExit:
    print("heavy:", *(m for m in {HEAVY} if m in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.splitlines()[-1].split() == ["heavy:"]
