"""Hostile encoder files: whatever one holds, none of its code runs, and it is refused in one sentence."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import diagnostics as dx
from diagnostics import DiagnosticsError
from diagnostics.checks.conformance import check_encoder, prepare_encoder
from diagnostics.cli.encoders import export, inspect_encoder
from diagnostics.cli.main import app
from diagnostics.specs import DEEPEST, UntrustedCodeError
from tests.support.refusals import refusal

SENTINEL = "code-has-run"
EVIL = f"""
import pathlib
pathlib.Path(__file__).resolve().parent.joinpath("{SENTINEL}").touch()
pathlib.Path("{SENTINEL}").touch()
from tests.support.tiny import tiny_dataset, tiny_encoder
def build(blocks: int = 3): return tiny_encoder(blocks=blocks)
def data(): return tiny_dataset(24)
class Config: pass
"""


class Reduced:
    """What a pickle of it runs when it is read."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path(SENTINEL),)


def written(path: str | Path, skeleton: str, **changes: Any) -> Path:
    """A file of the form that `save_encoder` writes, with this skeleton."""
    about: dict[str, Any] = {
        "name": "x",
        "modality": "series",
        "skeleton": skeleton,
        "configuration": "",
        "cut": None,
        "absent": [],
        "taps": ["norm"],
        "output_tap": "norm",
        "prepared": {"": [[1], 0.0, 1.0]},
        "sha256": "",
        "lineage": {},
        "files": {},
        "format": 1,
    }
    text = changes.pop("text", None) or json.dumps(about | changes)
    save_file({"weight": torch.zeros(2)}, path, metadata={"diagnostics": text})
    return Path(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with hostile files in it, in which all runs."""
    monkeypatch.chdir(tmp_path)
    evil = tmp_path / "evil.py"
    evil.write_text(EVIL)
    Path("evil.PY").write_text(EVIL)
    Path("link.py").symlink_to(evil)
    Path("folder").symlink_to(tmp_path)
    Path("evil.pt").write_bytes(pickle.dumps(Reduced()))
    torch.save({"state_dict": Reduced()}, "weights.pt")
    Path("hub").mkdir()
    auto = {"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Config"}}
    Path("hub/config.json").write_text(json.dumps(auto))
    Path("hub/evil.py").write_text(EVIL)
    Path("pickled").mkdir()
    Path("pickled/config.json").write_text(json.dumps(VIT))
    Path("pickled/pytorch_model.bin").write_bytes(pickle.dumps(Reduced()))
    written("inner.safetensors", f"{evil}:build")
    return tmp_path


VIT = {
    "model_type": "vit",
    "architectures": ["ViTModel"],
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
AUTO = {"auto_map": dict.fromkeys(("AutoConfig", "AutoModel", "AutoImageProcessor"), "evil.Config")}


def nested(inner: str, times: int) -> str:
    for _ in range(times):
        inner = f"aligned?base={quote(inner, safe='{}')}"
    return inner


def travelling(**files: Any) -> dict[str, Any]:
    return {"files": {name.replace("__", "."): text for name, text in files.items()}}


BASE64 = {"base64": base64.b64encode(pickle.dumps(Reduced())).decode()}
NO_NAME, LARGE = "no plain name of a .json", "1000000"
HOSTILE: dict[str, tuple[Callable[[Path], tuple[str, dict[str, Any]]], str]] = {
    "travels inside": (lambda p: ("{files}/evil.py:build", travelling(evil__py=EVIL)), NO_NAME),
    "travels as bytes": (lambda p: ("{files}/evil.py:build", travelling(evil__py=BASE64)), NO_NAME),
    "travels in capitals": (lambda p: ("{files}/evil.PY:build", travelling(evil__PY=EVIL)), NO_NAME),
    "a tokenizer in Python": (lambda p: ("hf:{files}", travelling(tokenizer__py=EVIL, config__json="{}")), NO_NAME),
    "two endings": (lambda p: ("{files}/a.json.py:build", {"files": {"a.json.py": EVIL}}), NO_NAME),
    "a shared library": (lambda p: ("hf:{files}", travelling(vocab__so=BASE64)), NO_NAME),
    "a pickle": (lambda p: ("hf:{files}?pretrained=true", travelling(pytorch_model__bin=BASE64)), NO_NAME),
    "compiled": (lambda p: ("hf:{files}", travelling(evil__pyc=BASE64)), NO_NAME),
    "climbs": (lambda p: ("link.py:build", {"files": {"../evil.json": EVIL}}), NO_NAME),
    "has a root": (lambda p: ("link.py:build", {"files": {f"{p}/evil2.json": EVIL}}), NO_NAME),
    "holds a zero byte": (lambda p: ("link.py:build", {"files": {"evil.py\0.json": EVIL}}), NO_NAME),
    "ends in a line": (lambda p: ("link.py:build", {"files": {"evil.json\n": EVIL}}), NO_NAME),
    "a device": (lambda p: ("link.py:build", {"files": {"NUL.json": "{}"}}), NO_NAME),
    "two names that differ in case": (lambda p: ("x", travelling(a__json="{}", A__json="{}")), "different names"),
    "ten thousand files": (lambda p: ("x", {"files": {f"{i}.json": "" for i in range(10_000)}}), "up to 64"),
    "too much in files": (lambda p: ("x", travelling(a__txt=11 * 10**6 * "a", b__txt=10**7 * "a")), "20 MB in all"),
    "too much text": (lambda p: ("x", {"configuration": 61 * 10**6 * "a"}), "more than the 60 MB"),
    "by path": (lambda p: (f"{p}/evil.py:build", {}), "evil.py"),
    "from here": (lambda p: ("evil.py:build?blocks=2", {}), "evil.py"),
    "over the files": (lambda p: ("{files}/../" + f"..{p}/evil.py:build", travelling(a__json="{}")), "evil.py"),
    "by a link": (lambda p: ("link.py:build", {}), "link.py"),
    "through a linked folder": (lambda p: ("folder/folder/evil.py:build", {}), "evil.py"),
    "in capitals": (lambda p: (f"{p}/evil.PY:build", {}), "Unknown encoder"),
    "with a line end": (lambda p: (f"{p}/evil.py:build\n", {}), "evil.py"),
    "with a zero byte": (lambda p: (f"{p}/evil.py\0:build", {}), "Unknown encoder"),
    "in a base": (lambda p: (nested(f"{p}/evil.py:build", 1), {}), "evil.py"),
    "in a base of a base": (lambda p: (nested(f"{p}/evil.py:build", 3), {}), "evil.py"),
    "percent-encoded": (
        lambda p: ("aligned?base=" + "".join(f"%{ord(c):02x}" for c in "evil.py:build"), {}),
        "evil.py",
    ),
    "in another file": (lambda p: ("inner.safetensors", {}), "evil.py"),
    "in another file that asks for trust": (lambda p: ("inner.safetensors?trust_code=true", {}), "trust_code"),
    "in the file of a base": (lambda p: (nested("inner.safetensors", 2), {}), "evil.py"),
    "the hub's own code": (lambda p: (f"hf:{p}/hub?pretrained=false", {}), "never run"),
    "the hub's code, travelling": (
        lambda p: ("hf:{files}?pretrained=false", travelling(config__json=json.dumps(AUTO | {"model_type": "odd"}))),
        "never run",
    ),
    "the hub's code beside a known model": (
        lambda p: (
            "hf:{files}?pretrained=false",
            travelling(config__json=json.dumps(VIT | AUTO), preprocessor_config__json=json.dumps(AUTO)),
        ),
        "not those that were saved",
    ),
    "a kernel of the hub": (
        lambda p: (
            "hf:{files}?pretrained=false",
            travelling(config__json=json.dumps(VIT | {"attn_implementation": "evil/kernel"})),
        ),
        "evil/kernel",
    ),
    "pickled weights": (lambda p: (f"hf:{p}/pickled", {}), "never unpickled"),
    "a pickled checkpoint": (lambda p: (f"timm:resnet10t?checkpoint={p}/evil.pt", {}), "names the checkpoint"),
    "a pickle among weights": (lambda p: (f"timm:resnet10t?checkpoint={p}/weights.pt", {}), "names the checkpoint"),
    "a pickle for another": (lambda p: (f"pe:core-t16-384?checkpoint={p}/weights.pt", {}), "weights.pt"),
    "a million blocks": (lambda p: (f"objective:random?depth={LARGE}", {}), f"depth={LARGE}"),
    "a million features": (lambda p: (f"objective:random?width={LARGE}", {}), f"width={LARGE}"),
    "a long sample": (lambda p: ("objective:random?length=1000000000000", {}), "1,000,000,000,000"),
    "a large sample": (lambda p: (f"objective:random?modality=image&size={LARGE}", {}), "1000000x1000000"),
    "a large image": (lambda p: (f"timm:resnet10t?pretrained=false&img_size={LARGE}", {}), f"img_size={LARGE}"),
    "a large image for another": (lambda p: (f"pe:core-t16-384?pretrained=false&img_size={LARGE}0", {}), "img_size"),
    "many frames": (lambda p: (f"pe-video:core-t16-384?pretrained=false&img_size=32&frames={LARGE}", {}), LARGE),
    "a million layers": (
        lambda p: (
            "hf:{files}?pretrained=false",
            travelling(config__json=json.dumps(VIT | {"num_hidden_layers": 10**6})),
        ),
        "20,000 parameters",
    ),
    "a matrix without end": (
        lambda p: ("hf:{files}?pretrained=false", travelling(config__json=json.dumps(VIT | {"hidden_size": 10**6}))),
        "transformers cannot build",
    ),
    "a large image, travelling": (
        lambda p: ("hf:{files}?pretrained=false&size=10000000", travelling(config__json=json.dumps(VIT))),
        "size=10000000",
    ),
    "names within names": (lambda p: (nested("fracast", 40), {}), f"more than {DEEPEST} names"),
    "itself": (lambda p: (f"{p}/x.safetensors", {}), "names itself"),
    "itself, by another name": (lambda p: ("folder/./x.safetensors", {}), "names itself"),
    "itself, in a base": (lambda p: (nested("x.safetensors", 1), {}), "names itself"),
    "a key twice": (
        lambda p: ("", {"text": '{"format": 1, "skeleton": "fracast", "skeleton": "evil.py:build"}'}),
        "twice",
    ),
    "mappings without end": (lambda p: ("", {"text": '{"a":' * 200_000 + "1" + "}" * 200_000}), "damaged"),
    "modules that are none": (lambda p: ("x", {"absent": [3]}), "absent: 3"),
    "taps that are none": (lambda p: ("x", {"taps": [["norm"]]}), "taps: "),
    "odd spread": (lambda p: ("x", {"prepared": {"": [[1], "a", None]}}), "prepared: "),
}


OF_A_HUB = {
    "transformers": "hf:evil/x",
    "transformers, its random weights": "hf:evil/x?pretrained=false",
    "timm": "timm:resnet10t.c3_in1k?pretrained=true",
    "Perception Encoder": "pe:core-t16-384",
    "chronos": "chronos:evil/x",
    "in a base": "aligned?base=hf%3Aevil/x",
}


@pytest.fixture
def hub() -> Iterator[tuple[str, list[Any]]]:
    """The address of a server that answers nothing but notes each connection."""
    calls: list[Any] = []
    server = socket.create_server(("127.0.0.1", 0))

    def note() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, address = server.accept()
                calls.append(address)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                connection.close()

    threading.Thread(target=note, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", calls
    server.close()


def test_opening_a_saved_encoder_calls_no_host(here: Path, hub: tuple[str, list[Any]]) -> None:
    """The author of a file chose what was asked of the hub, by whom it was opened and when."""
    pytest.importorskip("transformers")
    address, calls = hub
    for i, skeleton in enumerate(OF_A_HUB.values()):
        written(f"{i}.safetensors", skeleton)
    code = (
        "import sys, diagnostics as dx\nfor name in sys.argv[1:]:\n"
        "    try: dx.build('encoder', name)\n    except dx.DiagnosticsError as error: print(error)"
    )

    def built(*names: str) -> list[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(here / "hf"), "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-c", code, *names]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    said = built(*(f"{i}.safetensors" for i in range(len(OF_A_HUB))))
    assert not calls and len(said) == len(OF_A_HUB), said
    assert "a saved encoder is built offline: build that name once by itself, which fetches it" in said[0]
    built("hf:evil/x")
    assert calls  # what the user names herself is asked for


def test_a_saved_encoder_reads_no_checkpoint_but_its_own(here: Path) -> None:
    pytest.importorskip("timm")
    for skeleton in (f"timm:resnet10t?checkpoint={here}/weights.pt", nested(f"pe:core-t16-384?checkpoint={here}/x", 2)):
        with refusal("untrusted-code", kind=UntrustedCodeError):
            dx.load_encoder(written("x.safetensors", skeleton))


def none_has_run(folder: Path) -> None:
    assert not list(folder.rglob(SENTINEL))


@pytest.mark.parametrize("how", HOSTILE)
@pytest.mark.slow
def test_no_code_of_a_file_runs_and_it_is_refused_in_one_sentence(here: Path, how: str) -> None:
    if "objective" in how or "hub" in how:
        pytest.importorskip("transformers")
    make, part = HOSTILE[how]
    skeleton, changes = make(here)
    path = written("x.safetensors", skeleton, **changes)
    with pytest.raises(DiagnosticsError) as error:
        dx.load_encoder(path)
    text = str(error.value)
    assert "\n" not in text and part in text, text[:600]
    captured = CliRunner().invoke(app, ["inspect", "x.safetensors"])
    assert captured.exit_code == 2 and captured.stderr.count("\n") == 1 and part in captured.stderr
    none_has_run(here)


def _aligned(path: str, trust_code: bool = False) -> Any:
    pytest.importorskip("timm")
    from diagnostics_training.alignment.student import align_tap
    from diagnostics_training.jobs import TapJob

    return align_tap(
        TapJob(
            encoder=path, to="blocks.0", data="mine.py:data", steps=0, batch=2, out=Path("al"), trust_code=trust_code
        )
    )


def _taught(path: str, trust_code: bool = False) -> Any:
    from diagnostics_training.alignment.student import align_tap
    from diagnostics_training.jobs import TapJob

    teacher = f"{path}:blocks.1"
    return align_tap(
        TapJob(
            encoder="mine.py:build",
            to="blocks.0",
            data="mine.py:data",
            steps=0,
            batch=2,
            out=Path("ta"),
            teacher=(teacher,),
            trust_code=trust_code,
        )
    )


WAYS: dict[str, Callable[..., Any]] = {
    "load_encoder": dx.load_encoder,
    "build": lambda path, **k: dx.build("encoder", path, **k),
    "build within a name": lambda path, **k: dx.build("encoder", nested(path, 1), **k),
    "run": lambda path, **k: dx.run(
        path, "mine.py:data", controls=False, measures="rankme", out="r", report=False, **k
    ),
    "inspect": inspect_encoder,
    "check": check_encoder,
    "prepare_encoder": prepare_encoder,
    "export": lambda path, **k: export(path, "blocks.0", "cut", **k),
    "align": _aligned,
    "second teacher": _taught,
}
COMMANDS = {
    "run": ["run", "x.safetensors", "--data", "mine.py:data", "--no-controls", "--measures", "rankme", "--out", "r"],
    "inspect": ["inspect", "x.safetensors"],
    "check": ["check", "x.safetensors"],
    "cut": ["cut", "x.safetensors", "--tap", "blocks.0", "--out", "c"],
}


@pytest.fixture
def good(here: Path) -> Path:
    """A file that a Python file of the user builds, which leaves a sign when it is run, and data and encoder of her own."""
    Path("mine.py").write_text(
        "from tests.support.tiny import tiny_dataset, tiny_encoder\ndef data(): return tiny_dataset(24)\ndef build(): return tiny_encoder()\n"
    )
    path = dx.save_encoder("x.safetensors", dx.build("encoder", "evil.py:build"))
    for sign in here.rglob(SENTINEL):
        sign.unlink()
    return path


@pytest.mark.parametrize("way", WAYS)
def test_a_python_file_is_run_only_where_it_is_trusted(good: Path, way: str) -> None:
    with pytest.raises(DiagnosticsError) as error:
        WAYS[way]("x.safetensors")
    assert "x.safetensors names the Python file" in str(error.value) and "evil.py" in str(error.value)
    assert "--trust-code" in str(error.value)
    none_has_run(good.parent)
    WAYS[way]("x.safetensors", trust_code=True)
    assert list(good.parent.rglob(SENTINEL))  # the same file, trusted: the sign would have been seen above


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_ask_for_trust(good: Path, command: str) -> None:
    captured = CliRunner().invoke(app, COMMANDS[command])
    assert captured.exit_code == 2 and "evil.py" in captured.stderr and "--trust-code" in captured.stderr
    none_has_run(good.parent)
    captured = CliRunner().invoke(app, [*COMMANDS[command], "--trust-code"])
    assert captured.exit_code == 0, captured.stderr
    assert list(good.parent.rglob(SENTINEL))


def test_what_the_user_names_herself_is_run(good: Path) -> None:
    assert dx.build("encoder", "evil.py:build").name == "tiny"
    pytest.importorskip("timm")
    assert dx.build("encoder", nested("evil.py:build", 1)).name == "tiny-aligned"


def test_trust_ends_with_the_call_and_holds_for_other_sizes(good: Path) -> None:
    import numpy as np

    trusted = dx.load_encoder("x.safetensors", trust_code=True)
    with refusal("untrusted-code"):
        dx.load_encoder("x.safetensors")
    cut = dx.load_encoder(dx.save_encoder("c", trusted, cut="blocks.0"), trust_code=True)
    assert cut.sized_for(np.arange(48.0)).taps[0].grid.shape == (12,)


def test_data_that_a_file_names_are_trusted_no_more(good: Path) -> None:
    pytest.importorskip("timm")
    from diagnostics_training.alignment.student import align_tap
    from diagnostics_training.jobs import TapJob

    base = dx.build("encoder", "objective:random?length=32&width=8&depth=2&heads=2&patch=8")
    dx.save_encoder("base", base, lineage={"data": "evil.py:data, the 14 samples of its train split"})
    with refusal("untrusted-code", "base", "evil.py"):
        align_tap(TapJob(encoder="base", to="blocks.0", steps=0, batch=2, out=Path("o")))
    none_has_run(good.parent)
    align_tap(TapJob(encoder="base", to="blocks.0", steps=0, batch=2, out=Path("o"), trust_code=True))


@pytest.mark.parametrize("subject", ["os.system", "uni2ts.distribution.normal.torch.hub.load", "builtins.evalOutput"])
def test_a_distribution_is_one_of_the_packages_own(subject: str) -> None:
    from diagnostics_timeseries.forecasters import MOIRAI_SMALL, check_distribution

    check_distribution(MOIRAI_SMALL["distr_output"], "small")
    for message in ({"_target_": subject}, {"components": [{"_target_": subject}]}):
        with refusal("untrusted-code"):
            check_distribution(message, "FOLDER")
