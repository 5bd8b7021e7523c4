"""A folder in COCO's format, with images and boxes of `shapes`: `python -m tests.support.coco_folder FOLDER [IMAGES]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import diagnostics as dx


def write(root: Path, n: int = 24, size: int = 48, sets: tuple[str, ...] = ("train2017", "val2017")) -> dict[str, Any]:
    """Write `n` scenes, dealt out to sets of images; returns the annotations of each set as they were written.

    Numbers of categories have gaps, images of the sets differ in size, and some boxes are crowds, as in COCO.
    """
    written = dict[str, Any]()
    for k, name in enumerate(sets):
        data = dx.build("dataset", f"shapes?n={n}&size={size + 8 * k}&seed={k}")
        target, where = data.targets["boxes"], root / name
        where.mkdir(parents=True, exist_ok=True)
        images, annotations, captions = list[Any](), list[Any](), list[Any]()
        for i in range(n):
            file, number, extent = f"{i:012}.png", 100 * k + i, size + 8 * k
            Image.fromarray(data[i]).save(where / file)
            images.append({"id": number, "file_name": file, "height": extent, "width": extent})
            captions.append({"id": i, "image_id": number, "caption": data.texts[i]})
            for x0, y0, x1, y1, of, _, area in target.values[i, 1:][~np.isnan(target.values[i, 1:, 4])].tolist():
                box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": 10 * int(of) + 1, "area": area}
                annotations.append(box | {"id": len(annotations), "image_id": number, "iscrowd": int(i % 8 == 7)})
        categories = [{"id": 10 * of + 1, "name": named} for of, named in enumerate(target.classes)]
        written[name] = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(written[name]))
        said = {"images": images, "annotations": captions}
        (root / "annotations" / f"captions_{name}.json").write_text(json.dumps(said))
    return written


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
