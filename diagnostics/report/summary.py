"""What a report says, as plain data that the templates only lay out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diagnostics import controls as control
from diagnostics.profiles import Profile, lines_shown
from diagnostics.statistics import Interval

if TYPE_CHECKING:
    from diagnostics.runs import Run

# Attributes of a result that its caption gives elsewhere or that say nothing to a reader.
_HIDDEN = {
    "measure", "target", "family", "higher_is_better", "output_tap", "best_tap", "about", "units", "penalties",
    "best_score", "best_score_low", "best_score_high", "hidden_gap", "hidden_gap_low", "hidden_gap_high",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """One profile or similarity: title, what it answers, figure (HTML that plotly made), and how it was computed."""

    title: str
    about: str
    reading: str
    figure: str
    facts: str
    anchor: str


@dataclass(frozen=True)
class Summary:
    """The whole report."""

    title: str
    lead: str
    probe_columns: list[str]
    probes: list[list[str]]
    control_columns: list[str]
    controls: list[list[str]]
    control_notes: list[tuple[str, str]]
    other_columns: list[str]
    others: list[list[str]]
    sections: list[Section]
    skipped: dict[str, str]
    provenance: list[tuple[str, str]]


def summarise(run: Run, *, figures: bool) -> Summary:
    """The findings of a run in words and tables, with figures when asked."""
    profiles = run.profiles()
    probes = [p for p in profiles if p.is_probe]
    others = [p for p in profiles if not p.is_probe]
    names = [name for name in control.NAMES if any(name in p.controls for p in profiles)]
    n = run.n
    groups = run.store.attrs["dataset"]["groups"]
    lead = (
        f"{sum(n.values())} samples ({n['train']} train, {n['val']} val, {n['test']} test) in {groups} independent groups. "
        "Penalties and the best tap were chosen on val; every score is read on test. Brackets are 95 % intervals over "
        "independent units, and the hidden gap is paired: best tap minus output tap on the same samples."
    )
    return Summary(
        title=f"{run.encoder} on {run.dataset}",
        lead=lead,
        probe_columns=["target", "measure", "family", "best tap (depth)", "score", "output", "hidden gap", "reading"],
        probes=[_probe_row(p) for p in probes],
        control_columns=["target", "the encoder", *(name.replace("_", " ") for name in names)],
        controls=[_control_row(p, names) for p in probes] if names else [],
        control_notes=[(name.replace("_", " "), control.ABOUT[name]) for name in names],
        other_columns=[
            "measure",
            "family",
            "output tap",
            "value there",
            "fresh weights",
            "permuted weights",
            "reference lines",
        ],
        others=[_other_row(p) for p in others],
        sections=_sections(run, profiles) if figures else [],
        skipped=run.skipped,
        provenance=_provenance(run),
    )


def shown(found: Interval | None) -> str:
    """A value with its interval, or a dash for what has no value."""
    if found is None or found.value != found.value:
        return "–"
    digits = 3 if abs(found.value) < 10 else 1
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _probe_row(p: Profile) -> list[str]:
    best = f"{p.best_tap} ({p.depth_of(p.best_tap):.2f})" if p.best_tap else "–"
    return [p.target or "–", p.measure, p.family, best, shown(p.best), shown(p.output), shown(p.hidden_gap), p.reading]


def _control_row(p: Profile, names: list[str]) -> list[str]:
    return [p.name, shown(p.best), *(shown(p.control(name)) for name in names)]


def _other_row(p: Profile) -> list[str]:
    found = [p.control(name) for name in control.WEIGHTS]
    return [p.measure, p.family, p.output_tap, shown(p.output), *(shown(value) for value in found), lines_shown(p)]


def _sections(run: Run, profiles: list[Profile]) -> list[Section]:
    from diagnostics.report.figures import html, profile_figure, similarity_figure

    sections = [
        Section(p.name, str(p.data.attrs["about"]), p.reading, html(profile_figure(p)), _facts(p.data.attrs), f"s{i}")
        for i, p in enumerate(profiles)
    ]
    for i, found in enumerate(run.similarity()):
        title, about = str(found.attrs["measure"]), str(found.attrs["about"])
        figure = html(similarity_figure(found))
        sections.append(Section(title, about, "", figure, _facts(found.attrs), f"m{i}"))
    return sections


def _facts(attrs: dict[str, Any]) -> str:
    return "; ".join(
        f"{key.replace('_', ' ')}: {value}"
        for key, value in attrs.items()
        if key not in _HIDDEN and not key.startswith("over_")
    )


def _provenance(run: Run) -> list[tuple[str, str]]:
    attrs = run.store.attrs
    facts = attrs["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [
        ("encoder", attrs["encoder"]["asked"] or attrs["encoder"]["name"]),
        ("dataset", attrs["dataset"]["asked"] or attrs["dataset"]["name"]),
        ("about the dataset", attrs["dataset"]["about"]),
        ("created", facts["created"]),
        ("seed of controls and bootstrap", str(facts["seed"])),
        ("versions", f"Python {facts['python']}, {versions}, {facts['machine']}"),
        *((f"identity: {key}", value) for key, value in attrs["identity"].items()),
    ]
