"""Draws the first picture of README and of the landing page: `python docs/hero.py RUN`, a run of README's first command."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

import diagnostics as dx

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

PICTURE = Path(__file__).parent / "images" / "hero.png"
LINES = {
    "fresh_weights": ("untrained", "--"),
    "raw_input_kernel": ("no encoder: kernel on pixels", "-."),
    "shuffled_labels": ("shuffled", ":"),
}


def draw_picture(run: dx.Run, picture: Path = PICTURE, target: str = "segmentation") -> Figure:
    """Segmentation by tap, into a file: intervals, the tap to use, the output, and controls."""
    profile, advice = run.profile(f"segmentation_probe/{target}"), run.recommend(target)
    data, taps = profile.data, profile.taps
    plt.rcParams |= {"font.size": 23, "axes.spines.top": False, "axes.spines.right": False}
    figure, axes = plt.subplots(figsize=(11.52, 7.36), dpi=100, layout="constrained")
    places, score = range(len(taps)), data["score"].values
    axes.fill_between(places, data["low"].values, data["high"].values, color="#d6e2f1")
    axes.plot(places, score, "o-", color="#1f5fad", linewidth=3.5, markersize=8)
    use, output = taps.index(advice.tap), taps.index(advice.output_tap)
    axes.plot(use, score[use], "*", color="#c8420a", markersize=36, linestyle="none", label=f"use {advice.tap}")
    label = f"output, {advice.output_tap}"
    axes.plot(output, score[output], "D", color="#5d6b78", markersize=18, linestyle="none", label=label)
    for name, (label, style) in LINES.items():
        if (control := profile.control(name)) is not None:
            axes.axhline(control.value, color="#5d6b78", linestyle=style, linewidth=2.2, label=label)
    axes.set(ylim=(0, 1), ylabel=f"{target}, mIoU")
    axes.set_xticks([0, use, output], [taps[0], advice.tap, advice.output_tap])
    axes.legend(loc="upper left", frameon=False)
    figure.savefig(picture)
    return figure


if __name__ == "__main__":
    draw_picture(dx.open_run(sys.argv[1]))
