"""Six new users, each with commands of the docs alone: the screen says which layer, how sure that is, and whether an encoder is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import diagnostics as dx
from diagnostics.measures.verdict import Verdict
from diagnostics.runs.comparison.differences import Difference
from diagnostics.runs.results.profile import Profile
from tests.support.commands import diagnose

BIRDS, SCENES, SIDE, PATCHES = 240, 100, 16, 16
ODD = [0, 3, 5, 10, 12, 15]
"""Patches whose parity is a target: no linear map of pixels reads it, and no kernel of so few images."""

MODELS = """
import numpy as np
import torch
from torch import nn

import diagnostics as dx


class Block(nn.Module):
    "May add a product of other features as feature 7, and may forget features."

    def __init__(self, product=None, forget=()):
        super().__init__()
        self.linear = nn.Linear(8, 8, bias=False)
        self.product = product
        keep = torch.eye(8)
        keep[list(forget)] = 0
        self.linear.weight.data = keep

    def forward(self, x):
        if self.product is not None:
            x = x + self.product(x)[:, None, None] * torch.eye(8)[7]
        return self.linear(x)


def parity(x):
    return torch.tanh(8 * x[:, [0, 3, 5, 10, 12, 15], 0]).prod(dim=1)


class ViT(nn.Module):
    def __init__(self, forget=(7,), head=False):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4, bias=False)
        weight = torch.zeros(8, 3, 4, 4)
        weight[0, 0] = weight[1, 1] = weight[2, 2] = 1 / 16
        self.patches.weight.data = weight
        self.blocks = nn.ModuleList([Block(parity), Block(), Block(forget=forget)])
        self.head = nn.Linear(8, 8, bias=False) if head else None
        if head:
            self.head.weight.data = torch.eye(8)

    def forward(self, pixels):
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else self.head(x.mean(dim=1))


def vit():
    return ViT()


def before():
    return ViT(forget=(1,))


def clip():
    def preprocess(image):
        return torch.from_numpy((image.astype(np.float32) / 255 - 0.5) / 0.25).permute(2, 0, 1).contiguous()

    taps = dx.stack_taps("blocks", 3, 8, dx.Grid((4, 4), ("y", "x")))
    head = dx.Tap("head", 2.0, "head", 8, dx.Grid((), ()), dx.Site("head", layout="features"))
    example = np.full((16, 16, 3), 128, np.uint8)
    return dx.TorchEncoder("clip", "image", ViT(head=True), [*taps, head], "head", preprocess, example)


class Sensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv1d(1, 8, 4, 4, bias=False)
        weight = torch.zeros(8, 1, 4)
        weight[0], weight[1, 0, ::2], weight[1, 0, 1::2] = 1 / 4, 1, -1
        self.patches.weight.data = weight
        loud = lambda x: x[:, :, 1].abs().mean(dim=1)
        self.blocks = nn.ModuleList([Block(loud), Block(), Block()])

    def forward(self, series):
        x = self.patches(series).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x


def sensor():
    return Sensor()


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Identity()
        self.blocks = nn.ModuleList([Block(lambda x: x[:, :, 0].sum(1) * (1 - 2 * x[:, :, 1].sum(1))), Block(), Block()])

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x


def text():
    def preprocess(text):
        tokens = torch.zeros(8, 8)
        for token, word in zip(tokens, str(text).split(), strict=False):
            token[0] = {"g": 1.0, "b": -1.0}.get(word[0], 0.0) if word[1:].isdigit() else 0.0
            token[1], token[2] = float(word == "not"), float(word == "lamp")
        return tokens

    taps = dx.stack_taps("blocks", 3, 8, dx.Grid((8,), ("t",)))
    return dx.TorchEncoder("reader", "text", Text(), taps, "blocks.2", preprocess, "This lamp is g1 .")


def scenes():
    data = dx.build("dataset", "segmentation:scenes")
    masks = np.stack([np.asarray(mask)[::4, ::4].ravel() for mask in data.targets["segmentation"].values])
    odd = masks[:, [0, 3, 5, 10, 12, 15]].sum(axis=1) % 2
    targets = {**data.targets, "odd": dx.Target("label", odd, classes=("even", "odd"))}
    return dx.Dataset("scenes", "image", data.samples, data.ids, data.split, targets, groups=data.groups)
"""

VIT = "models.py:{}?modality=image&size=16&mean=0.5&std=0.25"


def pictures(rng: np.random.Generator, n: int) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Images of red patches, with their signs, and a level of green."""
    for _ in range(n):
        signs, green = rng.choice([-1, 1], PATCHES), rng.standard_normal()
        pixels = rng.normal(128, 4, (SIDE, SIDE, 3))
        pixels[..., 0] += 40 * np.kron(signs.reshape(4, 4), np.ones((4, 4)))
        pixels[..., 1] += 20 * green
        yield pixels.round().clip(0, 255).astype(np.uint8), signs, green


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def birds(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows: list[tuple[str, float, float]] = []
    for i, (pixels, signs, green) in enumerate(pictures(rng, BIRDS)):
        name = f"{'robin' if signs[ODD].prod() > 0 else 'finch'}/{i}.png"
        save(pixels, folder / "birds" / name)
        rows.append((name, green + 0.3 * rng.standard_normal(), rng.standard_normal()))
    pd.DataFrame(rows, columns=["file", "weight", "luck"]).to_csv(folder / "birds.csv", index=False)


def scenes(folder: Path) -> None:
    for i, (pixels, signs, _) in enumerate(pictures(np.random.default_rng(1), SCENES)):
        save(pixels, folder / "scenes" / "images" / f"{i:03}.png")
        mask = np.kron(signs.reshape(4, 4), np.ones((4, 4))) > 0
        save(mask.astype(np.uint8), folder / "scenes" / "masks" / f"{i:03}.png")


def machines(path: Path, count: int, windows: int) -> None:
    """Vibration: a broken bearing is loud, a load lifts the level; both are plain in means and quantiles. `mood` is noise."""
    rng = np.random.default_rng(2)
    machine = np.repeat(np.arange(count), windows)
    n, faulty = len(machine), machine % 2
    load = rng.uniform(10, 90, n)
    series = rng.standard_normal((n, 64)) * (0.1 + 0.6 * faulty[:, None]) + load[:, None] / 20
    table = pd.DataFrame(series.round(4), columns=[str(step) for step in range(64)])
    table["group"] = [f"machine-{each}" for each in machine]
    table["fault"], table["load"] = np.where(faulty, "bearing", "none"), load
    table["mood"] = rng.standard_normal(n)
    table.to_csv(path, index=False)


def reviews(path: Path) -> None:
    """A folder for each opinion, that a negation turns; beside it a table of the word `lamp`, which counts of words read, and noise."""
    rng = np.random.default_rng(3)
    rows: list[tuple[str, str, float, str]] = []
    for number in range(60):
        for good in "gb":
            for no in ("", "not "):
                thing = rng.choice(["lamp", "chair"])
                opinion = "good" if (good == "g") == (no == "") else "bad"
                file = path / opinion / f"{len(rows)}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"This {thing} is {no}{good}{number}\n")
                rows.append((f"{opinion}/{file.name}", thing, rng.standard_normal(), f"{good}{number}"))
    pd.DataFrame(rows, columns=["file", "thing", "luck", "group"]).to_csv(path.with_suffix(".csv"), index=False)


@dataclass(frozen=True)
class Line:
    """A row of the first screen."""

    mark: str
    use: str
    score: float
    output: float
    note: str


@dataclass(frozen=True)
class Screen:
    """What a run printed: its rows by target, its sentences, and the same as JSON."""

    rows: dict[str, Line]
    words: str
    verdicts: dict[str, str]
    confidence: dict[str, str]

    def says(self, *sentences: str) -> None:
        for sentence in sentences:
            assert sentence in self.words, f"{sentence!r} is not in {self.words}"

    def never(self, *sentences: str) -> None:
        for sentence in sentences:
            assert sentence not in self.words, f"{sentence!r} is in {self.words}"

    def row(
        self, target: str, mark: str, use: str, score: tuple[float, float], output: tuple[float, float] | None
    ) -> Line:
        """The row of a target, which has this mark, one of these layers, and numbers near what was planted."""
        row = self.rows[target]
        assert row.mark == mark, row
        assert re.fullmatch(use, row.use), row
        assert score[0] <= row.score <= score[1], row
        assert np.isnan(row.output) if output is None else output[0] <= row.output <= output[1], row
        assert self.verdicts[target] == next(str(verdict) for verdict in Verdict if verdict.mark == mark)
        return row


ROW = re.compile(r"([+?=-]) (\S+) \([^)]*\) {2,}(\S.*?) {2,}(\S+)(?: \[.*?\])? {2,}(\S+)")


def number(text: str) -> float:
    return float("nan") if text == "-" else float(text)


def screen(run: Path, *options: str) -> Screen:
    """The first screen of a finished run, at 120 columns."""
    shown, plain = diagnose("show", run, *options), diagnose("show", run, "--json", *options)
    assert shown.status == plain.status == 0
    lines = shown.out.replace("\N{NO-BREAK SPACE}", " ").splitlines()
    rows: dict[str, Line] = {}
    for i, line in enumerate(lines):
        if row := ROW.fullmatch(line.rstrip()):
            mark, target, use, score, output = row.groups()
            notes = lines[i + 1 : next(at for at in range(i + 1, len(lines)) if not lines[at].startswith("    "))]
            rows[target] = Line(mark, use, number(score), number(output), " ".join(each.strip() for each in notes))
    told = json.loads(plain.out)
    probes = [p for p in told["profiles"] if p["verdict"] and p["measure"] != "kernel_probe"]
    return Screen(
        rows,
        " ".join(shown.out.split()),
        {p["target"]: p["verdict"] for p in probes},
        {each["target"]: each["confidence"] for each in told["recommendations"]},
    )


RUNS: dict[str, tuple[str, ...]] = {
    "vit": (VIT.format("vit"), "--data", "images:birds?table=birds.csv"),
    "before": (VIT.format("before"), "--data", "images:birds?table=birds.csv", "--no-controls"),
    "machines": ("models.py:sensor?modality=series&length=64", "--data", "series:machines.csv"),
    "four": ("models.py:sensor?modality=series&length=64", "--data", "series:four.csv"),
    "thirty": ("models.py:sensor?modality=series&length=64", "--data", "series:thirty.csv"),
    "text": ("models.py:text", "--data", "texts:reviews?table=reviews.csv"),
    "clip": ("models.py:clip", "--data", "models.py:scenes", "--no-controls"),
}
MEASURES = {"clip": "linear_probe,segmentation_probe"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """A folder with what the six users have; a run is made when it is first asked for."""
    folder = tmp_path_factory.mktemp("users")
    (folder / "models.py").write_text(MODELS)
    birds(folder)
    scenes(folder)
    machines(folder / "machines.csv", 100, 3)
    machines(folder / "four.csv", 20, 6)
    machines(folder / "thirty.csv", 30, 1)
    reviews(folder / "reviews")

    def run(name: str) -> Path:
        place = folder / "runs" / name
        if not place.exists():
            measures = MEASURES.get(name, "linear_probe")
            made = diagnose("run", *RUNS[name], "--measures", measures, "--out", place, "--quiet")
            assert made.status == 0, made.err
            assert "Warning" not in made.err
        return place

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "120")
        yield run


def own_vit(shown: Screen) -> None:
    label = shown.row("label", "+", "blocks.[01]", (0.9, 1.0), (0.2, 0.8))
    assert "needed" not in label.note and "not shown" not in label.note, "no control reads a parity"
    weight = shown.row("weight", "=", "blocks.2, the output", (0.8, 1.0), (0.8, 1.0))
    assert "no model needed: raw input 0.9" in weight.note
    shown.row("luck", "-", "none: at chance", (-0.2, 0.1), (-0.2, 0.1))
    shown.says(
        "The output hides from a linear readout: label, +0.",
        "The output is as good as any layer for weight (gaps above 0.",
        "weight is read no worse without a model: no score there shows that an encoder is needed.",
        "A linear probe fitted to 192 samples finds luck at no layer.",
        'features(target="label")',
    )
    shown.never("Cannot tell", "guess", "as good as any layer for label")
    assert shown.confidence == {"label": "shown", "weight": "no gap", "luck": "at chance"}


def many_machines(shown: Screen) -> None:
    """The raw statistics solve both targets."""
    load = shown.row("load", "=", ".*, the output", (0.9, 1.0), (0.9, 1.0))
    assert "no model needed: " in load.note
    fault = shown.row("fault", "?", ".*, the output|blocks.[01]", (0.9, 1.0), (0.9, 1.0))
    assert "not shown to beat: " in fault.note, "as high, and too few machines to exclude a gain"
    shown.row("mood", "-", "none: at chance", (-0.2, 0.1), (-0.2, 0.1))
    shown.says(
        "load is read no worse without a model: no score there shows that an encoder is needed.",
        "A control is not beaten for fault: no score there shows that this encoder is needed.",
        "The output is as good as any layer for load",
        " samples finds mood at no layer.",
        "Cannot tell for fault (gaps up to",
    )
    shown.never("hides", "guess")
    assert shown.confidence["load"] == "no gap" and shown.confidence["mood"] == "at chance"


def four_machines(shown: Screen) -> None:
    for target in ("fault", "load", "mood"):
        row = shown.row(target, "?", r"\S+|\S+, the output", (-2.0, 1.0), (-2.0, 1.0))
        assert "4 test units cannot tell" in row.note
        assert ("not shown to beat: " in row.note) == (target != "mood")
        assert shown.confidence[target] == "undecided"
    shown.says(
        "With only 4 test units the layer is a guess for",
        "at least 10 are needed.",
        "A control is not beaten for",
        "no score there shows that this encoder is needed.",
    )
    shown.never("as good as any layer", "hides", "at no layer", "no model needed", "no worse")


def thirty_samples(shown: Screen) -> None:
    for target in ("fault", "load", "mood"):
        assert (
            "6 test units cannot tell" in shown.row(target, "?", r"\S+|\S+, the output", (-9.0, 1.0), (-9.0, 1.0)).note
        )
        assert shown.confidence[target] == "undecided"
    shown.says("With only 6 test units the layer is a guess for", "at least 10 are needed.")
    shown.never("as good as any layer", "hides", "at no layer")


def texts(shown: Screen) -> None:
    opinion = shown.row("label", "?", "blocks.2, the output", (0.95, 1.0), (0.95, 1.0))
    assert "not shown to beat: fresh weights" in opinion.note, "its blocks multiply, whatever their weights"
    assert (
        "not shown to beat: raw input" in shown.row("thing", "?", "blocks.2, the output", (0.9, 1.0), (0.9, 1.0)).note
    )
    shown.says(
        "A control is not beaten for",
        "no score there shows that this encoder is needed.",
        "test units would tell",
    )
    shown.never("needed: ", "no worse", "hides", "guess", "as good as any layer for label")
    assert shown.confidence["label"] == "undecided"


def pooled_clip(shown: Screen) -> None:
    shown.row("segmentation", "?", r"embed|blocks\.\d", (0.95, 1.0), None)
    shown.row("odd", "+", r"blocks\.[01]", (0.8, 1.0), (0.1, 0.8))
    shown.says(
        "The output has no score for segmentation, so there is nothing to compare with.",
        "The output hides from a linear readout: odd, +0.",
    )
    shown.never("head, the output", "as good as any layer")
    assert shown.confidence == {"segmentation": "undecided", "odd": "shown"}


USERS: dict[str, Callable[[Screen], None]] = {
    "vit": own_vit,
    "machines": many_machines,
    "four": four_machines,
    "text": texts,
    "clip": pooled_clip,
    "thirty": thirty_samples,
}


SWAPPED = {
    Verdict.SHOWN: Verdict.EXCLUDED,
    Verdict.EXCLUDED: Verdict.SHOWN,
    Verdict.UNDECIDED: Verdict.AT_CHANCE,
    Verdict.AT_CHANCE: Verdict.UNDECIDED,
}


@pytest.mark.parametrize("name", USERS)
def test_one_screen_says_which_layer_how_sure_and_whether_an_encoder_is_needed(
    name: str, runs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # All that is asked of a user's run, so that it is made once, whichever worker takes it.
    place, true = runs(name), Profile.verdict.func
    shown = screen(place)
    USERS[name](shown)
    take_the_layer_of_the_screen(place, shown, tmp_path / "card.md")
    assert true is not None
    monkeypatch.setattr(Profile, "verdict", property(lambda profile: SWAPPED[true(profile)]))
    with pytest.raises(AssertionError):
        USERS[name](screen(place))


def take_the_layer_of_the_screen(place: Path, shown: Screen, card: Path) -> None:
    """Hold features and card to the layer that the screen names."""
    run = dx.open_run(place)
    assert diagnose("card", place, "--out", card).status == 0
    for target, row in shown.rows.items():
        read = run.recommend(target)
        assert read.tap and len(run.features(target=target)) == sum(run.n.values())
        if row.use != "none: at chance":
            assert read.place == row.use
            assert f"| {read.tap} |" in card.read_text()
    assert run.tap_for() in {tap.name for tap in run.store.taps}


def test_a_wider_margin_decides(runs: Callable[[str], Path]) -> None:
    shown = screen(runs("text"), "--margin", "0.3")
    assert shown.rows["label"].mark == "=" and shown.confidence["label"] == "no gap"
    shown.says("The output is as good as any layer for")


@pytest.mark.parametrize("name", ["vit", "four", "clip"])
def test_every_narrow_screen_says_the_same(
    name: str, runs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = screen(runs(name)).words
    said = wide[
        wide.index(next(word for word in ("The output hides", "is read no", "A control is not") if word in wide)) :
    ].split(" report: ")[0]
    for width in (60, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        out = diagnose("show", runs(name)).out
        assert said in " ".join(out.split())
        assert max(len(line) for line in out.split("\n  features: ")[0].splitlines() if "/" not in line) <= width, (
            "but for paths"
        )


def changes(before: Path, after: Path) -> dict[tuple[str, str], str]:
    """What the comparison says of each target at each place."""
    shown = diagnose("compare", f"before={before}", f"after={after}", "--similarity", "none")
    assert shown.status == 0
    words = " ".join(shown.out.split())
    found: dict[tuple[str, str], str] = {}
    for at in ("the layer to use", "the output"):
        line = words.split(f"after minus before at {at}: ")[1].split(". ")[0]
        for part in line.split("; "):
            what = next(each for each in ("lost", "gained", "cannot tell") if part.startswith(each))
            found |= {(target, at): what for target in ("label", "weight", "luck") if f"{target} (" in part}
    return found


def checkpoints(found: dict[tuple[str, str], str]) -> None:
    assert found == {
        ("label", "the output"): "lost",
        ("weight", "the output"): "gained",
        ("luck", "the output"): "cannot tell",
        ("label", "the layer to use"): "cannot tell",
        ("weight", "the layer to use"): "cannot tell",
        ("luck", "the layer to use"): "cannot tell",
    }


def test_two_checkpoints_are_told_apart_target_by_target(
    runs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = runs("before"), runs("vit")
    checkpoints(changes(before, after))
    told = json.loads(diagnose("compare", f"before={before}", f"after={after}", "--similarity", "none", "--json").out)
    outcome = {(d["profile"], d["quantity"]): d["outcome"] for d in told["differences"]}
    assert outcome["linear_probe/label", "output"] == "lost" and outcome["linear_probe/label", "hidden gap"] == "grew"
    assert (
        outcome["linear_probe/weight", "output"] == "gained"
        and outcome["linear_probe/weight", "hidden gap"] == "shrank"
    )
    with pytest.raises(AssertionError):
        checkpoints(changes(after, before))
    monkeypatch.setattr(Difference, "outcome", property(lambda difference: "cannot tell"))
    with pytest.raises(AssertionError):
        checkpoints(changes(before, after))
