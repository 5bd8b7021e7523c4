"""What a report says, as plain data that the templates only lay out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from diagnostics.measures.statistics import Interval
from diagnostics.report.html import templates, write_page
from diagnostics.runs.controls import kinds as control
from diagnostics.runs.profile import INTERVALS, Profile, control_heading, lines_shown

if TYPE_CHECKING:
    from diagnostics.runs.details import Details
    from diagnostics.runs.run import Run


@dataclass(frozen=True)
class Section:
    """One profile or similarity: title, what it answers, figure (HTML that plotly made; "" for none), what a reader must
    know to read it, how it was computed, and its numbers.
    """

    title: str
    about: str
    reading: str
    figure: str
    said: list[str]
    facts: str
    details: Details | None
    anchor: str


@dataclass(frozen=True)
class Group:
    """The sections of one family."""

    title: str
    anchor: str
    profiles: list[Section]
    maps: list[Section]


@dataclass(frozen=True)
class Row:
    """A row of a table, with the anchor of the section that shows it ("" where the page has none)."""

    anchor: str
    cells: list[str]


@dataclass(frozen=True)
class Summary:
    """The whole report."""

    title: str
    lead: str
    probe_columns: list[str]
    probes: list[Row]
    control_columns: list[str]
    controls: list[Row]
    control_notes: list[tuple[str, str]]
    other_columns: list[str]
    others: list[Row]
    groups: list[Group]
    skipped: dict[str, str]
    provenance: list[tuple[str, str]]


def summarise(run: Run, *, figures: bool) -> Summary:
    """The findings of a run in words and tables, with figures when asked."""
    profiles = run.profiles()
    at = [(f"s{i}" if figures else "", p) for i, p in enumerate(profiles)]
    probes = [(anchor, p) for anchor, p in at if p.is_probe]
    names = [name for name in control.NAMES if any(name in p.controls for p in profiles)]
    weights = [name for name in control.WEIGHTS if name in names]
    n = run.n
    groups = run.store.attrs["dataset"]["groups"]
    lead = (
        f"{sum(n.values())} samples ({n['train']} train, {n['val']} val, {n['test']} test) in {groups} independent groups. "
        f"Penalties and the best tap were chosen on val; every score is read on test. Brackets are {INTERVALS}. Where units "
        "are too few there is none. The hidden gap is paired: the tap chosen minus the output tap on the same samples."
        + f" {run.untrained}".rstrip()
        + "".join(f" Beware: {caution}." for caution in dict.fromkeys(each for _, p in at for each in p.cautions))
    )
    return Summary(
        title=f"{run.encoder} on {run.dataset}",
        lead=lead,
        probe_columns=["measure", "target", "family", "best tap (depth)", "score", "output", "hidden gap", "reading"],
        probes=[Row(anchor, _probe_row(p)) for anchor, p in probes],
        control_columns=["measure", "the encoder", *(control_heading(name, profiles) for name in names)],
        controls=[Row(anchor, _control_row(p, names)) for anchor, p in probes] if names else [],
        control_notes=_control_notes(names, run, max((len(p.drawn(name)) for p in profiles for name in weights), default=0)),
        other_columns=[
            "measure", "family", "output tap", "value there", *(control_heading(name, profiles, chosen=False) for name in weights),
            "reference lines",
        ],
        others=[Row(anchor, _other_row(p, weights)) for anchor, p in at if not p.is_probe],
        groups=_groups(run, profiles) if figures else [],
        skipped=run.skipped,
        provenance=_provenance(run),
    )  # fmt: skip


def shown(found: Interval | None) -> str:
    """A value with its interval where there is one, or a dash for what has no value."""
    if found is None or math.isnan(found.value):
        return "–"
    digits = 3 if abs(found.value) < 10 else 1
    value = f"{found.value:.{digits}f}"
    if math.isnan(found.low) or math.isnan(found.high):
        return value
    # A narrow column may break before the interval and never within it.
    return f"{value} [{found.low:.{digits}f},\u00a0{found.high:.{digits}f}]"


def _probe_row(p: Profile) -> list[str]:
    best = f"{p.best_tap} ({p.depth_of(p.best_tap):.2f})" if p.best_tap else "–"
    return [p.measure, p.target or "–", p.family, best, shown(p.best), shown(p.output), shown(p.hidden_gap), p.reading]


def _control_row(p: Profile, names: list[str]) -> list[str]:
    return [p.name, shown(p.best), *(_control_shown(p, name) for name in names)]


def _control_shown(p: Profile, name: str) -> str:
    """What a control reaches, and of several draws the smallest and the largest."""
    spread = p.spread(name)
    return shown(p.control(name)) + (f" ({spread[0]:.3g}\u00a0to\u00a0{spread[1]:.3g})" if spread else "")


def _control_notes(names: list[str], run: Run, draws: int) -> list[tuple[str, str]]:
    own = {name: found["note"] for name, found in run.redrawn.items() if found["note"]}
    notes = [
        (name.replace("_", " "), ". ".join([control.ABOUT[name], *([own[name]] if name in own else [])]))
        for name in names
    ]
    dash = (
        "the control does not apply to this row, or has no value there: those without a model make one vector of a "
        "sample (of an image also one a cell), so what reads tokens over time, or other tokens than these, finds none. A "
        "control that could not be made is named under what is left out"
    )
    several = (
        f"{draws} draws: the value is that of the draw whose own best tap is best on val, with the smallest and the largest that "
        "draws reach in parentheses. What beats the control beats every draw"
        if draws > 1
        else "one draw, and another reaches more or less: --control-draws N shows by how much"
    )
    return [*notes, *([("fresh and permuted weights", several)] if draws else []), ("–", dash)] if names else []


def _other_row(p: Profile, weights: list[str]) -> list[str]:
    found = [_control_shown(p, name) for name in weights]
    return [p.measure, p.family, p.output_tap, shown(p.output), *found, lines_shown(p)]


def _groups(run: Run, profiles: list[Profile]) -> list[Group]:
    by_family: dict[str, tuple[list[Section], list[Section]]] = {}
    for i, profile in enumerate(profiles):
        by_family.setdefault(profile.family, ([], []))[0].append(_of_profile(profile, f"s{i}"))
    for i, found in enumerate(run.similarity()):
        by_family.setdefault(str(found.attrs["family"]), ([], []))[1].append(_of_similarity(found, f"m{i}"))
    return [Group(family, f"f{i}", *sections) for i, (family, sections) in enumerate(by_family.items())]


def _of_profile(profile: Profile, anchor: str) -> Section:
    from diagnostics.report.plots import html, profile_figure
    from diagnostics.runs import captions
    from diagnostics.runs.details import details

    data = profile.data
    drawn = bool(np.isfinite(data["score"].values).any())
    return Section(
        profile.name,
        captions.questions(data.attrs),
        profile.reading,
        html(profile_figure(profile)) if drawn else "",
        captions.of_profile(profile) if drawn else [captions.why_no_figure(data)],
        captions.facts(data),
        details(profile),
        anchor,
    )


def _of_similarity(found: xr.Dataset, anchor: str) -> Section:
    from diagnostics.report.plots import html, similarity_figure
    from diagnostics.runs import captions

    drawn = bool(np.isfinite(found["matrix"].values).any())
    return Section(
        str(found.attrs["measure"]),
        captions.questions(found.attrs),
        "",
        html(similarity_figure(found)) if drawn else "",
        captions.of_similarity(found) if drawn else [captions.why_no_figure(found)],
        captions.facts(found),
        None,
        anchor,
    )


def _provenance(run: Run) -> list[tuple[str, str]]:
    attrs = run.store.attrs
    return [
        ("encoder", attrs["encoder"]["asked"] or attrs["encoder"]["name"]),
        ("dataset", attrs["dataset"]["asked"] or attrs["dataset"]["name"]),
        ("about the dataset", attrs["dataset"]["about"]),
        ("seed of controls and bootstrap", str(run.index.calls[-1]["seed"])),
        *_calls(run),
        *((f"identity: {key}", value) for key, value in attrs["identity"].items()),
    ]


def _calls(run: Run) -> list[tuple[str, str]]:
    """When and with which versions the results were measured; each call with what it gave, where there were several."""
    found: list[tuple[str, str]] = []
    for i, call in enumerate(run.index.calls):
        versions = ", ".join(f"{name} {version}" for name, version in call["versions"].items())
        options = ", ".join(f"{name} {value}" for name, value in call["options"].items() if value is not None)
        entries = [entry for entries in run.index.entries.values() for entry in entries if entry.call == i]
        given = ", ".join(dict.fromkeys(entry.measure for entry in entries)) or "nothing"
        what = f" ({given})" if len(run.index.calls) > 1 else ""
        found.append(
            (f"measured{what}", f"{call['created']}, {options}; Python {call['python']}, {versions}, {call['machine']}")
        )
    return found


def write_report(run: Run, path: Path) -> Path:
    """Writes the report whole or not at all; everything it needs, plotly.js too, lies inside the file."""
    return write_page("page.html.j2", path, summary=summarise(run, figures=True))


def summary_html(run: Run) -> str:
    """The tables of the report alone, for notebooks."""
    return templates().get_template("tables.html.j2").render(summary=summarise(run, figures=False))
