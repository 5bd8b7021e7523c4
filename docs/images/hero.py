"""Draws the landing page's picture from the finished run of its command: `python docs/images/hero.py RUN PROFILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import diagnostics as dx

SHOWN = {
    "fresh_weights": "untrained",
    "raw_input_kernel": "no encoder: kernel on pixels",
    "shuffled_labels": "shuffled",
}


def main(run: dx.Run, name: str, path: Path) -> None:
    """A target by layer with its interval and controls, in letters that can be read at the width of a phone."""
    profile = run.profile(name)
    upto = profile.taps.index(profile.output_tap) + 1
    taps, data = profile.taps[:upto], profile.data
    score, low, high = (data[name].values[:upto] for name in ("score", "low", "high"))
    plt.rcParams |= {"font.size": 15, "axes.spines.top": False, "axes.spines.right": False}
    figure, axis = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    places = range(upto)
    axis.fill_between(places, low, high, color="#1f5fa8", alpha=0.18, linewidth=0)
    axis.plot(places, score, color="#1f5fa8", linewidth=2.5, marker="o")
    used = profile.chosen_tap
    assert used is not None
    axis.plot(taps.index(used), score[taps.index(used)], "*", color="#c2410c", markersize=24, label=f"use {used}")
    axis.plot(upto - 1, score[-1], "D", color="#5b6875", markersize=12, label=f"output, {profile.output_tap}")
    for (control, words), style in zip(SHOWN.items(), ("--", "-.", ":"), strict=True):
        if (reached := profile.control(control)) is not None:
            axis.axhline(reached.value, color="#5b6875", linestyle=style, linewidth=1.5, label=words)
    axis.set_ylim(0, 1)
    axis.set_xticks([0, taps.index(used), upto - 1], [taps[0], used, profile.output_tap])
    axis.set_ylabel(f"{profile.target}, {data.attrs['score_name']}")
    axis.legend(frameon=False, fontsize=13, loc="upper left")
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main(dx.open_run(sys.argv[1]), sys.argv[2], Path(__file__).parent / "hero.png")
