"""SAM 2 as a teacher of relations, with a tiny random one: points, masks, the cache, and folders of other models.

What it says of images needs its weights; what is held here is what is asked of it and what becomes of the answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnostics_training.alignment import spatial
from diagnostics_training.alignment.feed import Places, View
from diagnostics_training.alignment.spatial import Sam2Relations, mask_logits, relation_loss
from diagnostics_training.trainer.objective import World
from torch.utils.data import default_collate

import diagnostics as dx
from diagnostics import Dataset, DiagnosticsError
from diagnostics.cli.main import main
from tests.support import naming, tiny_sam2
from tests.support.refusals import refusal

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
pytest.importorskip("torchvision", reason="the extra `transformers` is not installed")

PLACES = Places((8, 8), lambda extent: tuple((0.0, float(n)) for n in extent))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam2")
    tiny_sam2.save(path)
    return path


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatial, "SIDE", 4)


def test_each_map_is_the_single_mask_of_its_point_and_none_is_replaced(folder: Path) -> None:
    model, _ = spatial.load_sam2(folder)
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 64, 64)
    maps = mask_logits(model, pixels, (8, 8), side=4, block=5)
    assert maps.shape == (16, 8, 8)
    # By hand, one point at a time from the image itself: row by row, the third of the second row lies at (x, y) = (40, 24).
    for number, point in ((0, (8.0, 8.0)), (6, (40.0, 24.0)), (15, (56.0, 56.0))):
        where = torch.tensor(point)[None, None, None]
        with torch.no_grad():
            mask = model(pixel_values=pixels, input_points=where, multimask_output=False).pred_masks[0, 0]
        small = torch.nn.functional.interpolate(mask[None], (8, 8), mode="bilinear", antialias=True)[0, 0]
        assert torch.allclose(maps[number], small, atol=1e-5)
    # As transformers has it, masks that seem unstable give way to others: that is a threshold.
    model.mask_decoder.dynamic_multimask_via_stability = True
    model.mask_decoder.dynamic_multimask_stability_thresh = 2.0
    assert float((mask_logits(model, pixels, (8, 8), side=4) - maps).abs().max()) > 0.1 * float(maps.std())


def test_logits_are_computed_once_and_go_where_the_image_goes(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    data = naming.data(20)
    first = Sam2Relations(str(folder), data, PLACES, tmp_path)
    events: list[Any] = []
    first.prepare([0, 3], World(), events.append)
    assert (events[-1].done, events[-1].total) == (2, 2)
    assert len(list(tmp_path.iterdir())) == 2
    told = first.relations(default_collate([first.inputs(row, data[row], View()) for row in (0, 3)]))
    assert told.shape == (2, 64, 16)
    again = Sam2Relations(str(folder), data, PLACES, tmp_path)
    model, processor = spatial.load_sam2(folder)
    pixels = processor(images=data[0], return_tensors="pt")["pixel_values"]
    assert torch.equal(mask_logits(model, pixels, (8, 8), side=4).half().flatten(1).T, told[0])
    monkeypatch.setattr(spatial, "mask_logits", lambda *_: pytest.fail("computed again"))
    again.prepare([0, 3], World())
    # Of several processes each computes its part.
    monkeypatch.undo()
    monkeypatch.setattr(spatial, "SIDE", 4)
    another = Sam2Relations(str(folder), data, PLACES, tmp_path / "parts")
    another.prepare([0, 3, 5], World(1, 2))
    assert [file.is_file() for file in another.files.values()] == [False, True, False]
    # Mirrored, the columns are; and cosines are all that counts.
    mirrored = again.inputs(3, data[3], View((0.0, 1.0), (1.0, 0.0)))["relations"]
    assert torch.allclose(mirrored.float(), told[1].float().unflatten(0, (8, 8)).flip(1).flatten(0, 1), atol=1e-2)
    assert torch.isfinite(relation_loss(torch.randn(2, 64, 8), told))


def test_the_cache_knows_weights_image_id_and_grid_and_no_id_is_a_path(folder: Path, tmp_path: Path) -> None:
    images = np.stack([naming.data(20)[0]] * 3)
    split = ["train", "val", "test"]
    data = Dataset("odd", "image", images, ["../../a", "b", "c"], split, {})
    other = Dataset("odd", "image", images + 1, ["../../a", "b", "c"], split, {})
    tiny_sam2.save(tmp_path / "other", seed=1)
    told = Sam2Relations(str(folder), data, PLACES, tmp_path)
    files = [
        told.file(0),
        told.file(1),
        Sam2Relations(str(folder), other, PLACES, tmp_path).file(0),
        Sam2Relations(str(tmp_path / "other"), data, PLACES, tmp_path).file(0),
        Sam2Relations(str(folder), data, Places((4, 4), PLACES.covers), tmp_path).file(0),
    ]
    assert len(set(files)) == len(files)
    assert {file.parent for file in files} == {tmp_path}
    assert Sam2Relations(str(folder), data, PLACES, tmp_path).file(0) == files[0]
    told.prepare([0], World())
    whole = files[0].read_bytes()
    for damage in (whole[:50], b"", np.zeros(3).tobytes()):
        files[0].write_bytes(damage)
        with refusal("damaged"):
            told.inputs(0, data[0], View())


def test_metas_own_folders_say_video_and_are_read(tmp_path: Path, capsys: Any) -> None:
    model = tiny_sam2.save(tmp_path, video=True)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam2_video"
    capsys.readouterr()
    loaded, _ = spatial.load_sam2(tmp_path)
    assert capsys.readouterr().err == ""
    own = model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())


def test_folders_of_other_models_are_refused(folder: Path, tmp_path: Path) -> None:
    data = naming.data(20)
    for name, config in (("vit", {"model_type": "vit"}), ("none", []), ("odd", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    for name, message in (
        ("vit", "holds a model of type 'vit', and relations by masks need SAM 2"),
        ("none", "is no folder of SAM 2"),
        ("odd", "is no folder of SAM 2"),
        ("missing", "is no folder of SAM 2"),
    ):
        with pytest.raises(DiagnosticsError, match=message):
            Sam2Relations(str(tmp_path / name), data, PLACES, tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(DiagnosticsError, match="SAM 2 cannot be loaded from"):
        Sam2Relations(str(tmp_path), data, PLACES, tmp_path)


def test_the_command_asks_it_once_and_its_encoder_says_so(
    folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    encoder = Path(naming.__file__)
    words = f"align spatial --encoder {encoder}:build --data {encoder}:data?n=20 --to blocks.0 --relations sam2:{folder} --steps 2"
    for out in ("first", "second"):
        monkeypatch.setattr(
            "sys.argv", ["diagnostics", *words.split(), "--batch", "4", "--out", str(tmp_path / out), "--json"]
        )
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0
        printed = capsys.readouterr()
        assert ("relations of 8 samples" in printed.err) == (out == "first")
    files = list((tmp_path / "cache" / "encoder-diagnostics" / "relations").iterdir())
    assert len(files) == 2 * 4
    row = json.loads(printed.out)
    assert row["relations"].startswith("SAM 2 (weights ")
    assert row["control"]["relations"] is None
    lineage = dx.load_encoder(tmp_path / "second", trust_code=True).lineage
    assert f"--relations sam2:{folder}" in lineage["how"]
    assert lineage["relations"] == row["relations"]
