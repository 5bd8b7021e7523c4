"""The pages, index.md and full.md, and their figures, from results/ and the commands of study.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import study
from study import CONTROL, HERE, TARGETS

Json = Mapping[str, Any]
PARTS = ("rates", "tap", "spatial", "language")
ALIGNED = {"tap": "tap", "spatial": "both", "language": "language"}
"""Of each kind, the label that stands for it where all three are compared."""
NAMES = {"tap": "align tap", "spatial": "align spatial", "language": "align language"}
GOALS = {"recovered": 0.8, "over_control": 0.3, "kept": 0.95, "cosine": 0.98, "minutes": 20.0, "near_0": 0.1}
"""What was asked of `align tap` before it was tried; 10 minutes of two cores are 20 CPU minutes."""
YES, MISS = "yes", "**a miss**"
COLOURS = {"base": "#5b6875", CONTROL: "#a6761d", "tap": "#1f5fa8", "spatial": "#c2410c", "language": "#2f7d4f"}


def results() -> dict[str, Any]:
    """What was measured so far, by part."""
    files = {part: HERE / "results" / f"{part}.json" for part in PARTS}
    return {part: json.loads(file.read_text()) for part, file in files.items() if file.is_file()}


def write_page() -> None:
    """The pages and their figures."""
    found = results()
    draw_outputs(found)
    if "spatial" in found:
        draw_followed(found["spatial"])
    for name in ("index", "full"):
        (HERE / f"{name}.md").write_text(render(found, name))


def render(found: Mapping[str, Json], name: str = "index") -> str:
    """A page's text: `index`, or `full` with all tables. Raises KeyError where a result lacks a part: give its `study.py run` again."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"interval": interval, "ends": ends, "plain": plain}
    page = environment.get_template(f"{name}.md.j2").render(
        found=found, study=study, kinds=[kind for kind in ALIGNED if kind in found], aligned=ALIGNED, names=NAMES, goals=GOALS,
        targets=TARGETS, control=CONTROL, share=share, standing=standing, cut=cut, over_control=over_control, verdict=verdict,
        unrecovered=unrecovered, cosines=cosines, minutes=minutes, followed=followed, followed_over_control=followed_over_control, missing=[part for part in PARTS if part not in found], kept=kept_rows(found.get("tap")),
    )  # fmt: skip
    return page.rstrip() + "\n"


def profile(part: Json, target: str) -> str:
    return next(one["profile"] for one in part["groups"] if one["profile"].partition("/")[2] == target)


def share(part: Json, label: str, target: str) -> Json:
    """Recovered and kept shares of an alignment, or of its control."""
    name = profile(part, target)
    return next(one for one in part["shares"] if (one["profile"], one["alignment"]) == (name, label))


def standing(part: Json, label: str, target: str) -> Json:
    """What a label reaches of a target: `best`, `output`, `hidden_gap`, `best_taps`."""
    name = profile(part, target)
    return next(one for one in part["groups"] if (one["profile"], one["group"]) == (name, label))


def cut(part: Json, label: str, target: str) -> tuple[float | None, float | None]:
    """The recovered and the kept share of the base read at the tap that was lifted, with no training; None as of an alignment.

    Both None where an alignment names no tap.
    """
    own, name = share(part, label, target), profile(part, target)
    at = [tap for tap, _ in part["taps"]].index(study.TAP)
    here, output = part["curves"][name][at], best(standing(part, "base", target)["output"])["value"]
    if label == ALIGNED["language"]:
        return None, None
    recovered = None if own["recovered"] is None else (here - output) / own["hidden_gap_of_base"]["value"]
    kept = None if own["kept_output"] is None else (here - own["floor"]) / (output - own["floor"])
    return recovered, kept


def over_control(part: Json, label: str, target: str) -> dict[str, float]:
    """The output's score minus the control's, paired over samples, with the ends of its interval."""
    name = profile(part, target)
    if (own := share(part, label, target)["over_control"]) is not None:
        return dict(own)
    for one in part["differences"]:
        if one["profile"] == name and {one["first"], one["second"]} == {label, CONTROL}:
            value, low, high = (best(one)[key] for key in ("value", "low", "high"))
            turned = one["first"] == CONTROL
            return dict(
                zip(("value", "low", "high"), (-value, -high, -low) if turned else (value, low, high), strict=True)
            )
    raise KeyError(f"{label} and its control are not compared in {name}")


def kept_rows(part: Json | None) -> list[tuple[str, str]]:
    """Label and weight of each `--keep` that was measured, the weight 0 first; empty where there is none above it."""
    if part is None:
        return []
    there = {one["label"] for one in part["trainings"]}
    rows = [(f"keep {weight}", weight) for weight in study.KEEP if f"keep {weight}" in there]
    return [("tap", f"0 ({len(cosines(part, 'tap'))} seeds)"), *rows] if rows else []


def best(one: Json) -> Json:
    """The interval to believe of an estimate."""
    return one["over_samples_and_seeds"] or one["over_samples"]


def interval(one: Json | None, digits: int = 2, signed: bool = False) -> str:
    """An estimate, or an interval, for a table; a dash where there is none."""
    if one is None:
        return "–"
    own = one if "low" in one else best(one)
    return ends([own["value"], own["low"], own["high"]], digits, signed)


def plain(value: float | None) -> str:
    """A number without an interval; a dash where there is none."""
    return "–" if value is None else f"{value:.2f}"


def ends(three: Sequence[float | None], digits: int = 2, signed: bool = False) -> str:
    """A value and the ends of its interval, which are never parted at the end of a line."""
    value, low, high = three
    if value is None:
        return "–"
    written = f"{value:{'+' if signed else ''}.{digits}f}"
    return written if low is None or high is None else f"{written} [{low:.{digits}f},\u00a0{high:.{digits}f}]"


def cosines(part: Json, label: str) -> list[float]:
    """To the base's output on val scenes, of each seed."""
    return [one["cosine_to_base"] for one in part["trainings"] if one["label"] == label]


def minutes(part: Json, label: str) -> list[float]:
    """CPU minutes of each command, the control's training in them where one was made."""
    return [one["cpu_minutes"] for one in part["trainings"] if one["label"] == label and one["cpu_minutes"] is not None]


def followed(part: Json, label: str) -> list[float | None]:
    """Mean J over clips and seeds, with a bootstrap interval over clips (the same for all labels, so that they can be compared)."""
    return _over_clips(_by_clip(part, label))


def followed_over_control(part: Json, label: str) -> list[float | None]:
    """Mean J minus the control's, paired over clips."""
    return _over_clips(_by_clip(part, label) - _by_clip(part, CONTROL))


def _by_clip(part: Json, label: str) -> np.ndarray:
    """J of each clip, mean over seeds."""
    return np.array([one["j"] for one in part["followed"] if one["label"] == label]).mean(0)


def _over_clips(by_clip: np.ndarray) -> list[float | None]:
    draws = np.random.default_rng(0).integers(len(by_clip), size=(2000, len(by_clip)))
    low, high = np.percentile(by_clip[draws].mean(1), [2.5, 97.5])
    return [float(by_clip.mean()), float(low), float(high)]


def verdict(part: Json) -> list[tuple[str, str, str]]:
    """What was asked of `align tap`, what came, and whether that is it."""
    own, control = share(part, "tap", "depth"), share(part, CONTROL, "depth")["recovered"]
    asked = [
        ("recovered share of `depth` at least 0.8", own["recovered"], GOALS["recovered"]),
        ("of which above the control's at least 0.3", own["recovered_over_control"], GOALS["over_control"]),
    ]
    asked += [
        (
            f"kept share of `{target}` at the output at least 0.95",
            share(part, "tap", target)["kept_output"],
            GOALS["kept"],
        )
        for target in ("label", "segmentation")
    ]
    lowest, longest = min(cosines(part, CONTROL)), max(minutes(part, "tap")) + part["best_tap"]["cpu_minutes"]
    near = control is not None and abs(control["value"]) < GOALS["near_0"]
    return [
        *((words, interval(one), reached(one, least)) for words, one, least in asked),
        ("the control's own recovered share near 0", interval(control), YES if near else MISS),
        (
            "control's cosine to the base's output above 0.98, on val",
            f"{lowest:.3f} at least",
            YES if lowest > GOALS["cosine"] else MISS,
        ),
        (
            "under 10 minutes of two cores, control included",
            f"{longest:.1f} CPU minutes at most",
            YES if longest < GOALS["minutes"] else MISS,
        ),
    ]


def reached(one: Json | None, least: float) -> str:
    """Whether a share is at least so much: shown by its interval, by the estimate alone, or not."""
    if one is None or one["value"] < least:
        return MISS
    return YES if one["low"] >= least else "by the estimate; its interval reaches below"


def unrecovered(found: Mapping[str, Json]) -> list[tuple[str, str, str]]:
    """Each kind and target whose output is not shown to hold more than the control's, and why it is no lift."""
    lines: list[tuple[str, str, str]] = []
    for kind, label in ALIGNED.items():
        if kind not in found:
            continue
        for target in TARGETS:
            more = over_control(found[kind], label, target)
            if not more["low"] > 0:
                side = (
                    "less than the control's, shown" if more["high"] < 0 else "not shown to be more than the control's"
                )
                lines.append((NAMES[kind], target, f"{interval(more, 3, True)}, {side}"))
    return lines


def draw_outputs(found: Mapping[str, Json]) -> None:
    """A panel for each target: the base over depth, and beside it the outputs of each kind of alignment and of its control."""
    plt.rcParams |= {"svg.hashsalt": "diagnostics", "font.size": 9, "svg.fonttype": "none"}
    figure, axes = plt.subplots(1, len(TARGETS), figsize=(2.5 * len(TARGETS), 2.8), layout="constrained")
    first = next(found[kind] for kind in ALIGNED if kind in found)
    for axis, target in zip(axes, TARGETS, strict=True):
        name = profile(first, target)
        curve = [
            (at, value)
            for at, value in zip(first["depth"], first["curves"][name], strict=True)
            if value is not None and at > 0
        ]
        axis.plot(*zip(*curve, strict=True), color=COLOURS["base"], linewidth=1.5, label="base, over depth")
        place = 1.0
        for kind, label in ALIGNED.items():
            if kind not in found:
                continue
            for own, colour, marker in ((CONTROL, COLOURS[CONTROL], "s"), (label, COLOURS[kind], "o")):
                place += 0.07
                one = best(standing(found[kind], own, target)["output"])
                bar = [[one["value"] - one["low"]], [one["high"] - one["value"]]]
                words = (
                    NAMES[kind]
                    if own == label
                    else ("controls" if kind == next(iter(found.keys() & ALIGNED)) else None)
                )
                axis.errorbar(
                    place, one["value"], bar, color=colour, marker=marker, markersize=4, linewidth=1, label=words
                )
            place += 0.05
        axis.axvline(1.0, color="#9aa5b1", linewidth=0.8, linestyle=":")
        axis.set_title(target, fontsize=10)
        axis.set_xlabel("relative depth | outputs")
        axis.grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=len(unique), frameon=False)
    figure.savefig(HERE / "outputs.svg", metadata={"Date": None})
    plt.close(figure)


def draw_followed(part: Json) -> None:
    """J of the base's tap and output, the control and the three ablations."""
    labels = [study.TAP, "base", CONTROL, *study.SPATIAL]
    figure, axis = plt.subplots(figsize=(5.5, 2.2), layout="constrained")
    for place, label in enumerate(labels):
        value, low, high = followed(part, label)
        assert value is not None and low is not None and high is not None
        axis.errorbar(
            value,
            place,
            xerr=[[value - low], [high - value]],
            color=COLOURS["spatial" if label in study.SPATIAL else CONTROL if label == CONTROL else "base"],
            marker="o",
            markersize=4,
        )
    axis.set_yticks(range(len(labels)), ["base, lifted tap", "base, output", *labels[2:]])
    axis.invert_yaxis()
    axis.set_xlabel("J, mean over clips and seeds")
    axis.grid(alpha=0.25)
    figure.savefig(HERE / "followed.svg", metadata={"Date": None})
    plt.close(figure)
