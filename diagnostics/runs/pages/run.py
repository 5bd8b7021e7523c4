"""The page of a run: what its taps hold, what its output hides, what its controls reach, all figures and captions."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.activations.place import Location
from diagnostics.activations.run_files import REPORT
from diagnostics.measures.result import FEWER, FUNCTIONAL, LOSSES, read_reasons, sets_of
from diagnostics.progress import duration
from diagnostics.report.html import write_page
from diagnostics.report.numbers import SIGNIFICANT, format_compact, format_number, format_reasons, nowrap
from diagnostics.report.page import (
    Block,
    Column,
    Details,
    Figure,
    Finding,
    Findings,
    MapFigure,
    Note,
    Notes,
    Number,
    Page,
    Row,
    Section,
    Sentence,
    Table,
    left_out_section,
    nonempty,
)
from diagnostics.report.plots.profile import FLOOR, below_floor, lines_outside
from diagnostics.runs.controls.kinds import ABOUT
from diagnostics.runs.controls.names import NAMES, WEIGHTS, in_words
from diagnostics.runs.derived import compare_stored_output
from diagnostics.runs.pages.answer_in_words import (
    answer,
    answer_blocks,
    brief_cautions,
    example_target,
    legend,
    legend_of,
    overview,
    wrong_scaling,
)
from diagnostics.runs.results.profile import CUT, Profile
from diagnostics.runs.results.recommendation import without_nonlinear
from diagnostics.runs.results.record import store_page, with_folder
from diagnostics.runs.results.run_data import RunData

# The scores of a target's parts, its classes or horizons, of which the score of the whole is the mean.

# Scores by part that a measure stores itself, and what a part of them is.
STORED = {"iou": "class", "skill_by_horizon": "horizon"}


def part_scores(profile: Profile) -> tuple[str, list[str], np.ndarray] | None:
    """The kind of part, names of the parts, and their scores [tap, part] on test; None of a target without parts."""
    data = profile.data
    for name, part in STORED.items():
        if name in data and data[name].ndim == 2:
            (axis,) = (str(axis) for axis in data[name].dims if axis != "tap")
            return part, _names(profile, axis), data[name].transpose("tap", axis).values
    if "loss" not in data or "part" not in data["loss"].dims:
        return None
    loss, reference = (data[key].sum("unit").transpose("tap", "part").values for key in ("loss", "reference_loss"))
    # A part that no test sample has, or that does not vary, has no score.
    score = 1 - np.divide(loss, reference, out=np.full(loss.shape, np.nan), where=reference > 0)
    part = "column" if "column" in str(data.attrs.get(FUNCTIONAL, "")) else "part"
    return part, _names(profile, "part"), score


def _names(profile: Profile, axis: str) -> list[str]:
    if axis in profile.data.coords:
        return [str(name) for name in profile.data[axis].values]
    return [str(i + 1) for i in range(profile.data.sizes[axis])]


def parts_table(profile: Profile) -> Details | None:
    """Scores of the parts at the tap chosen for the whole and at the output; None of a target without parts."""
    scores = part_scores(profile)
    if scores is None or profile.chosen_tap is None:
        return None
    part, names, values = scores
    chosen, output = (values[profile.taps.index(tap)] for tap in (profile.chosen_tap, profile.output_tap))
    rows = [
        Row((name, *map(format_compact, ends), format_number(float(ends[0] - ends[1]), "+.3g")))
        for name, *ends in zip(names, chosen, output, strict=True)
    ]
    columns = (part, f"at the chosen tap, {profile.chosen_tap}", f"at the output, {profile.output_tap}", "difference")
    return Details(f"Score by {part}", Table(tuple(map(Column, columns)), tuple(rows)), Notes(()))


def sets_table(profile: Profile) -> Details | None:
    """The score of each set of taps, and its gain over the single tap; None of a measure of single taps."""
    rows = [
        Row((name, ", ".join(held), str(width), Number(score), Number(gain, signed=True)))
        for name, held, width, score, gain in sets_of(profile.data)
    ]
    if not rows:
        return None
    columns = ("set", "taps", "features", "score", f"more than {profile.data.attrs['single']}")
    return Details("Several taps side by side", Table(tuple(map(Column, columns)), tuple(rows)), Notes(()))


ABOUT_DASH = (
    "the control does not apply to this row, or has no value there. Controls without a model give one vector per "
    "sample (for an image also one per cell), so a measure of tokens over time, or of other tokens, has no input from "
    "them. A control that could not be built is listed under what is left out"
)


def run_page(run: RunData) -> Page:
    """The findings of a run."""
    return with_folder(_findings(run), run.path, run.disk_use, *_example_and_omissions(run))


def write_report(run: RunData, path: Location | None) -> Location:
    """Write the findings as one HTML file; where none is named, into the run, which keeps them for `show` too."""
    page = _findings(run)
    if path is None:
        store_page(run.store, run.index, page, *_example_and_omissions(run))
    return write_page(page, path or run.path / REPORT)


def _example_and_omissions(run: RunData) -> tuple[str | None, int]:
    return example_target(run.profiles()), len(run.skipped) - len(run.failed)


def _findings(run: RunData) -> Page:
    """The part of the page that depends on the results alone."""
    profiles, maps = run.profiles(), run.similarity()
    # The sections of profiles are numbered as they stand in the run.
    probes = [(f"s{i}", p) for i, p in enumerate(profiles) if p.is_probe and p.target]
    others = [(f"s{i}", p) for i, p in enumerate(profiles) if not (p.is_probe and p.target)]
    own = without_nonlinear(profiles)
    cautions = [f"Beware: {caution}." for caution in dict.fromkeys(each for p in profiles for each in p.cautions)]
    return Page(
        title=f"{run.encoder_name} on {run.dataset}",
        lead=tuple(_lead(run)),
        sections=nonempty(
            Section("", "", answer_blocks(run)),
            overview(
                answer(profiles),
                [(anchor, p) for anchor, p in probes if any(p is each for each in own)],
                run.recommendations(),
                [*(Sentence(caution, "caution", only="full") for caution in cautions), _how_read(run)],
            ),
            _probes(probes),
            _controls(run, probes),
            Section("Without a target", "others", nonempty(_others(others, brief=not probes))),
            Section("", "", tuple(Sentence(each, "caution", only="brief") for each in brief_cautions(profiles))),
            _left_out(run),
            *_families(profiles, maps),
        ),
        provenance=tuple(_provenance(run)),
    )


def _lead(run: RunData) -> list[Sentence]:
    n, groups = run.n, run.record.dataset.groups
    total = sum(n.values())
    splits = f"{n['train']} train, {n['val']} val, {n['test']} test"
    units = f" (samples of {groups} independent groups)" if groups != total else ""
    older = "An older version wrote this run: it is read, and not resumed." if run.store.older else ""
    return [
        *(Sentence(each, "caution") for each in (wrong_scaling(run.profiles()),) if each),
        Sentence(
            f"{nowrap(run.encoder_name)} on {nowrap(run.dataset)}, n = {splits}{units}",
            "strong",
            only="brief",
        ),
        *(
            Sentence(caution, "caution")
            for caution in (run.untrained, run.record.unrepeatable, run.record.beware, run.record.mixture, older)
            if caution
        ),
    ]


def _how_read(run: RunData) -> Sentence:
    n, groups = run.n, run.record.dataset.groups
    return Sentence(
        f"{sum(n.values())} samples ({n['train']} train, {n['val']} val, {n['test']} test) in {groups} independent "
        f"groups. {legend(run.profiles())} Where units are too few there is no interval. The hidden gap is "
        f"paired: the best tap other than the output minus the output, on the same samples.",
        only="full",
    )


def _probes(probes: Sequence[tuple[str, Profile]]) -> Section:
    rows = [
        Row(
            (
                p.name,
                nowrap(p.family),
                f"{nowrap(p.chosen_tap)} ({p.depth_of(p.chosen_tap):.2f})" if p.chosen_tap else "-",
                Number(p.score),
                Number(p.output),
                nowrap(p.best_tap or "-"),
                Number(p.hidden_gap, signed=True),
                Finding(p.reading, p.verdict),
            ),
            anchor,
        )
        for anchor, p in probes
    ]
    columns = (
        Column("profile"),
        Column("family"),
        Column("chosen tap (depth)"),
        Column("score"),
        Column("output"),
        Column("best tap"),
        Column("hidden gap"),
        Column("reading", prose=True),
    )
    if not rows:
        return Section("", "")
    return Section(
        "What the taps hold, and what the output hides",
        "probes",
        nonempty(Table(columns, tuple(rows), only="full")),
        label="Probes",
    )


def _controls(run: RunData, probes: Sequence[tuple[str, Profile]]) -> Section:
    profiles = [p for _, p in probes]
    names = [name for name in NAMES if any(name in p.controls for p in profiles)]
    if not names:
        return Section("", "")
    rows = [Row((p.name, Number(p.score), *(_reach(p, c) for c in names)), anchor) for anchor, p in probes]
    columns = (
        Column("profile"),
        *(Column(name, bare=True) for name in ("the encoder", *(control_heading(name, profiles) for name in names))),
    )
    own = {name: about["note"] for name, about in run.redrawn.items() if about["note"]}
    return Section(
        "Controls (baselines)",
        "controls",
        nonempty(
            Table(columns, tuple(rows), only="full"),
            Notes(tuple(Note(note, in_words(name)) for name, note in own.items()), "quiet", only="brief"),
            Notes(tuple(_about_controls(names, own, profiles)), "quiet", only="full"),
        ),
        label="Controls",
    )


def _reach(p: Profile, name: str, spec: str = ".3f") -> Number:
    """The score of a control, and of several draws the smallest and the largest."""
    return Number(p.control(name), spec, draws=p.spread(name))


def control_heading(name: str, profiles: Sequence[Profile], chosen: bool = True) -> str:
    """A control over its column.

    It says of how many draws, if it is one of weights, and whether the best was `chosen` of them.
    """
    label, of = in_words(name), [profile.controls[name].attrs for profile in profiles if name in profile.controls]
    if name not in WEIGHTS:
        return label
    if fewer := {attrs[FEWER] for attrs in of if FEWER in attrs}:
        label += f" on {min(fewer):,} samples"
    counts = {len(profile.drawn(name)) for profile in profiles} - {0} or {1}
    if counts == {1}:
        return f"{label} (one draw)"
    # Calls with other numbers of draws may have measured other rows.
    draws = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(max(counts))
    return f"{label} ({'best' if chosen else 'first'} of {draws} draws)"


def _about_controls(names: Sequence[str], own: dict[str, str], profiles: Sequence[Profile]) -> list[Note]:
    notes = [Note(ABOUT[name] + (f". {own[name]}" if name in own else ""), in_words(name)) for name in names]
    draws = max((len(p.drawn(name)) for p in profiles for name in WEIGHTS), default=0)
    if draws:
        about = (
            f"{draws} draws: the value is from the draw whose chosen tap scores highest by what chooses, with the "
            f"lowest and the highest value of all draws in parentheses. A score beats the control only if it beats "
            f"every draw"
            if draws > 1
            else "one random draw; other draws score higher or lower: --control-draws N shows by how much"
        )
        notes.append(Note(about, "fresh and permuted weights"))
    return [*notes, Note(ABOUT_DASH, "-")]


def _others(others: Sequence[tuple[str, Profile]], brief: bool) -> Table:
    """Measures that choose no tap: where they are smallest and largest, and what stands at the output.

    On a brief page where there is nothing else to show.
    """
    profiles = [p for _, p in others]
    weights = [name for name in WEIGHTS if any(name in p.controls for p in profiles)]
    columns = (
        Column("measure without target"),
        Column("family"),
        Column("smallest"),
        Column("largest"),
        Column("output"),
        *(Column(control_heading(name, profiles, chosen=False), bare=True) for name in weights),
        Column("reference lines at output"),
    )
    rows = [
        Row(
            (
                nowrap(p.name),
                nowrap(p.family),
                *_extremes(p),
                Number(p.output, SIGNIFICANT),
                *(_reach(p, name, SIGNIFICANT) for name in weights),
                _lines_at_output(p),
            ),
            anchor,
        )
        for anchor, p in others
    ]
    return Table(columns, tuple(rows), only=None if brief else "full")


def _extremes(p: Profile) -> tuple[str, str]:
    score = p.data["score"].values
    if not np.isfinite(score).any():
        return "-", "-"
    at = int(np.nanargmin(score)), int(np.nanargmax(score))
    smallest, largest = (f"{format_number(score[i], SIGNIFICANT)} at {nowrap(p.taps[i])}" for i in at)
    return smallest, largest


def _lines_at_output(p: Profile) -> str:
    """Reference lines at the output tap in words.

    At the last tap that has any where the output has none, as of attention.
    """
    at = p.taps.index(p.output_tap)
    for i in (at, *reversed(range(len(p.taps)))):
        known = [f"{name} {values[i]:.3g}" for name, values in p.lines.items() if math.isfinite(values[i])]
        if known:
            known[-1] += "" if i == at else f" at {p.taps[i]}"
            return ", ".join(map(nowrap, known))
    return ""


def _families(profiles: Sequence[Profile], maps: Sequence[xr.Dataset]) -> list[Section]:
    """A section for each family, with one for each profile and then one for each map in it; profiles share a legend."""
    by_family: dict[str, list[Section]] = {}
    own: dict[str, list[Profile]] = {}
    for i, profile in enumerate(profiles):
        by_family.setdefault(profile.family, []).append(_of_profile(profile, f"s{i}"))
        own.setdefault(profile.family, []).append(profile)
    for i, similarity in enumerate(maps):
        by_family.setdefault(str(similarity.attrs["family"]), []).append(_of_map(similarity, f"m{i}"))
    legends = {family: (legend_of(theirs),) for family, theirs in own.items()}
    return [
        Section(family, f"f{i}", legends.get(family, ()), tuple(within))
        for i, (family, within) in enumerate(by_family.items())
    ]


def _of_profile(profile: Profile, anchor: str) -> Section:
    drawn = bool(np.isfinite(profile.data["score"].values).any())
    figure, texts = (profile.figure(), profile_captions(profile)) if drawn else (None, [])
    # What has no target is no finding about one.
    reading = Finding(profile.reading, profile.verdict) if profile.target and profile.reading else None
    finding = Findings((reading,)) if reading else Sentence(profile.reading, "small")
    tables = (parts_table(profile), sets_table(profile), profile.table(facts(profile.data)))
    return Section(profile.name, anchor, _describe(profile.data, figure, texts, finding, *tables), wide=False)


def _of_map(similarity: xr.Dataset, anchor: str) -> Section:
    drawn = bool(np.isfinite(similarity["matrix"].values).any())
    figure, texts = (map_figure(similarity), map_captions(similarity)) if drawn else (None, [])
    return Section(
        str(similarity.attrs["measure"]),
        anchor,
        _describe(similarity, figure, texts, None, Sentence(facts(similarity), "quiet")),
        wide=False,
    )


def _describe(
    data: xr.Dataset, figure: Figure | None, texts: list[str], finding: Block | None, *more: Block | None
) -> tuple[Block, ...]:
    """A result in full: what it asks, its finding, its figure with captions (or why there is none), and more."""
    return nonempty(
        Sentence(questions(data.attrs)),
        finding,
        figure,
        Sentence(" ".join(texts) if figure is not None else why_no_figure(data), "small"),
        *more,
    )


def _left_out(run: RunData) -> Section:
    """All that is left out in full; in brief what failed."""
    section = left_out_section(run.skipped)
    return replace(
        section,
        blocks=nonempty(
            *(replace(block, only="full") for block in section.blocks if isinstance(block, Notes)),
            Notes(
                tuple(Note(reason, nowrap(name)) for name, reason in run.failed.items()),
                lead="left out: ",
                only="brief",
            ),
        ),
    )


def _provenance(run: RunData) -> list[tuple[str, str]]:
    encoder, dataset = run.record.encoder, run.record.dataset
    return [
        ("encoder", encoder.asked or encoder.name),
        ("about the output tap", str(compare_stored_output(run))),
        ("dataset", dataset.asked or dataset.name),
        ("about the dataset", dataset.about),
        ("seed of controls and bootstrap", str(run.index.calls[-1]["seed"])),
        *_calls(run),
        *((f"identity: {key}", value) for key, value in run.store.identity.items()),
    ]


def _calls(run: RunData) -> list[tuple[str, str]]:
    """The times and versions of the measurements; each call with what it gave, where there were several."""
    calls: list[tuple[str, str]] = []
    for i, call in enumerate(run.index.calls):
        versions = ", ".join(f"{name} {version}" for name, version in call["versions"].items())
        options = ", ".join(f"{name} {value}" for name, value in call["options"].items() if value is not None)
        entries = [entry for entries in run.index.entries.values() for entry in entries if entry.call == i]
        given = ", ".join(dict.fromkeys(entry.measure for entry in entries)) or "nothing"
        results = f" ({given})" if len(run.index.calls) > 1 else ""
        took = f" in {duration(seconds)}" if (seconds := call.get("seconds")) is not None else ""
        about = f"{call['created']}{took}, {options}; Python {call['python']}, {versions}, {call['machine']}"
        calls.append((f"measured{results}", about))
        if call.get("command"):
            calls.append((f"command{results}", call["command"]))
        if config := call.get("config"):
            calls.append(
                (f"configuration file{results}", ", ".join(f"{key} = {value}" for key, value in config.items()))
            )
    return calls


# Attributes of a result that stand elsewhere in the report or say nothing to a reader.
_HIDDEN = {
    "measure", "target", "family", "higher_is_better", "output_tap", "best_tap", "about", "answers", "units",
    "penalties", "losses", "chance", "score_name", "metric", "reason", "alike", "tau", "permutations", "no_null",
    "hidden_gap", "hidden_gap_low", "hidden_gap_high", "gap_bound", "chosen_gap_low", "margin", "chosen_tap", "tap_set",
}  # fmt: skip


def questions(attrs: dict[str, Any]) -> str:
    """The question: of a target its text, and of the measure the question that it answers."""
    texts = [str(attrs.get(key, "")).strip() for key in ("about", "answers")]
    return " · ".join(dict.fromkeys(text for text in texts if text))


def reasons(data: xr.Dataset) -> str:
    """The reasons why values or intervals of a result are missing, each once; "" where none is."""
    taps = [str(tap) for tap in data["tap"].values]
    return format_reasons(read_reasons(str(data.attrs.get("reason", "")), taps), taps)


def profile_captions(profile: Profile) -> list[str]:
    """Sentences under a profile."""
    captions: list[str] = []
    if reason := reasons(profile.data):
        captions.append(f"Missing values or intervals: {reason}.")
    figure = profile.figure()
    captions.extend(f"Reference line {line} the part shown." for line in lines_outside(figure))
    if below_floor(figure):
        captions.append(f"Values below {FLOOR} are not drawn; the table below has them.")
    # Of other scores, which may be negative, an interval below 0 says nothing odd.
    if profile.data.attrs.get(LOSSES) == "counts" and (profile.data["low"].values < 0).any():
        captions.append(f"{CUT[0].upper()}{CUT[1:]}.")
    return captions


def why_no_figure(data: xr.Dataset) -> str:
    """The reason why there is nothing to draw."""
    reason = reasons(data)
    if not reason:
        return f"No figure: no {'pair of taps' if 'matrix' in data else 'tap'} has a value."
    return f"No figure, since nothing has a value. {reason[0].upper()}{reason[1:]}."


def facts(data: xr.Dataset) -> str:
    """The way in which it was computed: the attributes, but those that other parts of the report show."""
    return "; ".join(
        f"{key.replace('_', ' ')}: {format_compact(value) if isinstance(value, float) else value}"
        for key, value in data.attrs.items()
        if not _hidden(str(key), value, data)
    )


def _hidden(key: str, value: Any, data: xr.Dataset) -> bool:
    return (
        key in _HIDDEN
        or key.startswith("over_")
        or np.size(value) == 0
        or str(value).strip() == ""
        or (key.startswith("units_") and value == data.attrs.get(f"n_{key.removeprefix('units_')}"))
        # What explains a number beside the score stands at the table of these.
        or (key in data.data_vars and not key.startswith("line_"))
    )


def map_figure(similarity: xr.Dataset, titles: tuple[str, str] = ("", "")) -> MapFigure:
    """The map as arrays; `titles` name the encoders of its rows and columns, where they are two."""
    attrs = similarity.attrs
    return MapFigure(
        name=str(attrs.get("score_name", attrs.get("measure", ""))),
        matrix=similarity["matrix"].values,
        rows=[str(tap) for tap in similarity["tap"].values],
        columns=[str(tap) for tap in similarity["tap_other"].values],
        distance=attrs.get("alike") == "smaller",
        beside={name: similarity[name].values for name in ("p", "calibrated") if name in similarity},
        titles=titles,
    )


def map_captions(similarity: xr.Dataset) -> list[str]:
    """Sentences under a map whose values are known."""
    attrs, matrix = similarity.attrs, similarity["matrix"].values
    captions: list[str] = []
    if reason := reasons(similarity):
        captions.append(f"Missing values: {reason}.")
    smaller = attrs.get("alike") == "smaller"
    if "tau" in attrs:
        tau, way = float(attrs["tau"]), "falls to" if smaller else "passes"
        shown = f"{tau:.3f}" if 0.001 <= abs(tau) < 100 else f"{tau:.3g}"
        pairs = "p and the calibrated value of each pair" if "calibrated" in similarity else "p of each pair"
        captions.append(f"The most similar pair of permuted samples {way} {shown} once in 20; hover for {pairs}.")
    elif attrs.get("no_null"):
        captions.append(f"No p: {attrs['no_null']}.")
    if not smaller and (matrix < 0).any():
        captions.append("Negative values have the colour of 0.")
    if not smaller and (matrix > 1 + 1e-6).any():
        captions.append("Values above 1 have the colour of 1.")
    return captions
