"""Files on disk through extraction and measures, and what the command line says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

import diagnostics as dx
from diagnostics.cli.main import app
from diagnostics.specs import build
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder


def image_folder(root: Path) -> Path:
    """tiny's images in class folders, a bit wider than tiny takes them."""
    tiny = tiny_dataset(60, modality="image")
    kind = tiny.targets["kind"]
    for i in range(60):
        path = root / kind.classes[kind.values[i]] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny[i]).save(path)
    return root


def test_an_image_folder_runs_and_goes_on_after_it_was_moved(tmp_path: Path) -> None:
    image_folder(tmp_path / "waves")
    out = tmp_path / "run"
    run = dx.run(
        tiny_image_encoder(),
        f"images:{tmp_path / 'waves'}",
        out=out,
        measures="linear_probe",
        controls=False,
        report=False,
    )
    assert run.dataset == "waves" and "label" in targets_of(run)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "waves").rename(tmp_path / "elsewhere/waves")
    stamps = {path: path.stat().st_mtime_ns for path in (out / "taps").rglob("c*")}
    options = {"out": out, "measures": "linear_probe", "controls": False, "report": False}
    dx.run(tiny_image_encoder(), f"images:{tmp_path / 'elsewhere/waves'}", **options)
    assert stamps and stamps == {path: path.stat().st_mtime_ns for path in (out / "taps").rglob("c*")}
    first = next((tmp_path / "elsewhere/waves").rglob("*.png"))
    Image.fromarray(255 - np.array(Image.open(first))).save(first)
    with refusal("other-run"):
        dx.run(tiny_image_encoder(), f"images:{tmp_path / 'elsewhere/waves'}", out=out, controls=False)


def test_a_segmentation_folder_runs(tmp_path: Path) -> None:
    """The class of a pixel is its brightness, so that even a random encoder's tokens hold it."""
    for i in range(40):
        cells = np.random.default_rng(i).integers(0, 2, (4, 4)).repeat(4, axis=0).repeat(4, axis=1)
        for name, pixels in (("images", (60 + 130 * cells)[..., None].repeat(3, 2)), ("masks", 1 + cells)):
            (tmp_path / "s" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "s" / name / f"{i:02d}.png")
    run = dx.run(
        tiny_image_encoder(),
        f"segmentation:{tmp_path / 's'}",
        out=tmp_path / "run",
        controls=False,
        report=False,
    )
    profile = run.profile("segmentation_probe/segmentation")
    assert float(profile.data["score"].sel(tap="embed")) > 0.9


def targets_of(run: dx.Run) -> set[str]:
    return {key.partition("/")[2] for key in run.index.names(pairwise=False)}


def test_a_series_file_runs(tmp_path: Path) -> None:
    tiny = tiny_dataset(60)
    kind = tiny.targets["kind"]
    np.savez(
        tmp_path / "waves.npz",
        series=np.asarray(tiny.samples),
        kind=np.array(kind.classes)[kind.values],
        level=tiny.targets["level"].values,
    )
    run = dx.run(tiny_encoder(), f"series:{tmp_path / 'waves.npz'}", out=tmp_path / "run", controls=False, report=False)
    assert targets_of(run) >= {"kind", "level"}


def test_a_damaged_file_ends_a_run_by_name(tmp_path: Path) -> None:
    image_folder(tmp_path / "waves")
    first = next((tmp_path / "waves").rglob("*.png"))
    first.write_text("no image")
    name = first.relative_to(tmp_path / "waves").as_posix()
    with refusal("unreadable", name, "on_error=skip"):
        dx.run(tiny_image_encoder(), f"images:{tmp_path / 'waves'}", out=tmp_path / "run", controls=False)
    run = dx.run(
        tiny_image_encoder(),
        f"images:{tmp_path / 'waves'}?on_error=skip",
        out=tmp_path / "run",
        controls=False,
        report=False,
        measures="linear_probe",
    )
    assert "1 of 60 left out as damaged" in run.store.attrs["dataset"]["about"]


def test_every_scheme_is_listed_with_its_options() -> None:
    shown = CliRunner().invoke(app, ["list", "datasets", "--json"])
    assert shown.exit_code == 0
    options = {row["name"]: row["options"] for row in json.loads(shown.stdout)["datasets"]}
    folders = {"images:", "segmentation:", "depth:", "coco:", "davis:", "captions:", "videos:", "audio:", "datasets:"}
    assert all({"on_error", "seed"} <= set(options[scheme]) for scheme in folders)
    assert all("seed" in options[scheme] for scheme in ("texts:", "series:", "ts:"))


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with refusal("unknown-name", "dataset", "sede"):
        build("dataset", f"images:{tmp_path}?sede=3")
