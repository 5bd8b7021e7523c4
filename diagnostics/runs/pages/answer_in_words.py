"""The answer of a run, which comes first: a row a target with the layer to use, and how sure it is, in sentences."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from diagnostics.errors import join_names
from diagnostics.measures.result import HIGHER_IS_BETTER, read_interval
from diagnostics.measures.verdict import Verdict, round_count
from diagnostics.report.numbers import format_interval, format_number, nowrap
from diagnostics.report.page import (
    Block,
    Column,
    Finding,
    Findings,
    Legend,
    MapLegend,
    Number,
    Row,
    ScoreMap,
    Section,
    Sentence,
    Table,
    TaskCurve,
    TasksFigure,
    nonempty,
)
from diagnostics.runs.controls.names import NAMES, in_words
from diagnostics.runs.results.cautions import FEW, size_of_fit
from diagnostics.runs.results.profile import INTERVALS, OLDER, Profile
from diagnostics.runs.results.recommendation import (
    Recommendation,
    by_verdict,
    first_probes,
    nonlinear_reading,
    recommend,
)
from diagnostics.runs.results.redraws import SPREAD
from diagnostics.runs.results.run_data import RunData

# What opens a run's report: a verdict in a few sentences, one picture of all targets, and what to read for each.


def overview(
    answer: Sequence[str],
    probes: Sequence[tuple[str, Profile]],
    recommendations: Sequence[Recommendation],
    more: Sequence[Sentence],
) -> Section:
    """The first section of a report, from probes with the anchors of their sections.

    `answer` are its sentences, `more` is what has to be known of all.
    """
    anchors = {id(p): anchor for anchor, p in probes}
    rows = [(anchors[id(p)], p) for p in by_verdict([p for _, p in probes])]
    if not rows:
        return Section("In short", "short", nonempty(*map(Sentence, answer), *more))
    by_name = {(p.measure, p.target): (anchor, p) for anchor, p in rows}
    findings = [_finding(r, *by_name[r.measure, r.target]) for r in recommendations if (r.measure, r.target) in by_name]
    findings.sort(key=lambda finding: [anchor for anchor, _ in rows].index(finding.anchor))
    picture = score_map(rows)
    blocks: list[Block] = [
        *(Sentence(each, "verdict" if not i else "plain", only="full") for i, each in enumerate(answer)),
        *nonempty(tasks_figure({"": [p for _, p in rows]})),
        picture,
        MapLegend(tuple(dict.fromkeys(picture.verdicts)), tuple(dict.fromkeys(picture.unread))),
        Findings(tuple(findings)),
        *more,
    ]
    return Section("In short", "short", nonempty(*blocks))


def _finding(recommendation: Recommendation, anchor: str, profile: Profile) -> Finding:
    # After the verb: a target may have the name of a tap.
    link = f"use {recommendation.place}" if recommendation.tap else "nothing to recommend"
    if recommendation.confidence == "at chance":
        link = f"{recommendation.measure} finds no layer of use"
    return Finding(str(recommendation), profile.verdict, link, anchor)


def score_map(rows: Sequence[tuple[str, Profile]]) -> ScoreMap:
    """The first picture as arrays. A tap that only some probes read has no value for the others."""
    taps = max((p.taps for _, p in rows), key=len)
    taps = [*taps, *dict.fromkeys(tap for _, p in rows for tap in p.taps if tap not in taps)]
    data = [p.data.reindex(tap=taps) for _, p in rows]
    depths = {tap: float(at) for _, p in rows for tap, at in zip(p.taps, p.data["depth"].values, strict=True)}
    score, low, high = (np.stack([each[key].values for each in data]) for key in ("score", "low", "high"))
    return ScoreMap(
        targets=[p.label for _, p in rows],
        taps=taps,
        depth=np.array([depths[tap] for tap in taps]),
        score=score,
        low=low,
        high=high,
        floor=np.array([p.floor for _, p in rows]),
        verdicts=[p.verdict for _, p in rows],
        unread=[p.is_at_chance and not p.few for _, p in rows],
        chosen=[p.chosen_tap for _, p in rows],
        output=rows[0][1].output_tap,
        anchors=[anchor for anchor, _ in rows],
    )


def tasks_figure(encoders: Mapping[str, Sequence[Profile]]) -> TasksFigure:
    """All tasks over depth, each scaled to its best tap, from probes by the name of their encoder.

    No task that is not shown to be readable, and no encoder where they are of one family.
    """
    found = {name: tuple(filter(None, map(_task_curve, profiles))) for name, profiles in encoders.items()}
    families = {curve.family for curves in found.values() for curve in curves}
    return TasksFigure({name: curves for name, curves in found.items() if curves} if len(families) > 1 else {})


def _task_curve(profile: Profile) -> TaskCurve | None:
    """The curve up to the output, which cannot hide what is computed from it."""
    depth = profile.data["depth"].values
    upto = depth <= profile.depth_of(profile.output_tap)
    score = profile.data["score"].values[upto]
    floor, best = profile.floor, np.nanmax(score, initial=-np.inf)
    # Where smaller is better, or nothing is shown to be read, there is nothing to scale to: noise would fill the axis.
    if not profile.is_readable or not best > floor or profile.data.attrs[HIGHER_IS_BETTER] != "yes":
        return None
    taps = [tap for tap, inside in zip(profile.taps, upto, strict=True) if inside]
    return TaskCurve(
        name=profile.label,
        family=profile.family,
        taps=taps,
        depth=depth[upto],
        score=score,
        share=(score - floor) / (best - floor),
        inside=np.isin(taps, profile.tap_set),
        chosen=taps.index(profile.chosen_tap) if profile.chosen_tap in taps else None,
        output=taps.index(profile.output_tap),
    )


def legend_of(profiles: Sequence[Profile]) -> Legend:
    """Legend of the figures of a family."""
    controls = {name.replace("_", " "): NAMES.index(name) for p in profiles for name in p.controls}
    return Legend(
        controls=tuple(sorted(controls.items(), key=lambda entry: entry[1])),
        band=any(bool(np.isfinite(p.data["low"].values).any()) for p in profiles),
        chosen=any(p.chosen_tap is not None for p in profiles),
        lines=any(p.lines for p in profiles),
    )


SHORT = ".2f"
"""Format of the scores of a first screen."""
MOST_NAMED = 6
"""Targets that a sentence names."""
MARKS = "; ".join(f"{verdict.mark} {verdict.meaning}" for verdict in Verdict)
"""What the marks of verdicts mean."""
MOST_TAPS = 3
"""Other taps that a row names."""


def answer_blocks(run: RunData) -> tuple[Block, ...]:
    """The rows and the sentences of a brief page; nothing where no probe read a target."""
    read = list(first_probes(run.profiles()).values())
    if not read:
        return ()
    rows = [_row(profile, recommend(profile)) for profile in read]
    columns = (Column("  target"), Column("use"), Column("score"), Column("at output", bare=True))
    return nonempty(
        Table(columns, tuple(rows), only="brief"),
        *(Sentence(each, only="brief", apart=not i) for i, each in enumerate(answer(run.profiles()))),
    )


def _row(profile: Profile, read: Recommendation) -> Row:
    cells = (
        nowrap(f"{profile.verdict.mark} {profile.label}"),
        nowrap("none: at chance" if profile.verdict is Verdict.AT_CHANCE else read.place),
        Number(read.score, SHORT),
        Number(read.output, SHORT),
    )
    return Row(cells, note="; ".join(_notes(profile, read)))


def _notes(profile: Profile, read: Recommendation) -> list[str]:
    """Notes for a reader of the row: too few units, a gap that the rule did not follow, controls, other taps."""
    notes = [profile.few.removeprefix("only ").replace(": they", "")] if profile.few else []
    if read.at_output and profile.hidden_gap and profile.hidden_gap.low > 0 and not profile.few:
        notes.append(f"{profile.best_tap} shows {format_number(profile.hidden_gap.value, '+.3f')}")
    if read.confidence == "likely":
        notes.append("likely better than the output")
    notes += _controls(profile)
    if read.also and profile.verdict is not Verdict.AT_CHANCE:
        several = len(read.also) > MOST_TAPS
        notes.append(f"{len(read.also)} other layers may be as good" if several else f"also {join_names(read.also)}")
    return notes + [profile.redrawn] * bool(profile.redrawn)


def _controls(profile: Profile) -> list[str]:
    """The control that says most of those that the chosen tap is not shown to beat, with its score.

    No model, or no training, is needed where gains over it that matter are excluded.
    """
    if profile.rival is None:
        return []
    name, score = profile.rival
    says = f"no {profile.needless} needed" if profile.needless else "not shown to beat"
    return [f"{says}: {in_words(name)} {format_number(score.value, SHORT)}"]


def _shorten(names: Sequence[str]) -> list[str]:
    return [*names] if len(names) <= MOST_NAMED else [*names[:MOST_NAMED], f"{len(names) - MOST_NAMED} more"]


def answer(profiles: Sequence[Profile]) -> list[str]:
    """The findings of probes of targets, one sentence a verdict; empty where no probe read a target."""
    read = list(first_probes(profiles).values())
    groups = {verdict: [p for p in read if p.verdict is verdict] for verdict in Verdict}
    few = [p for p in groups[Verdict.UNDECIDED] if p.few]
    undecided = [p for p in groups[Verdict.UNDECIDED] if not p.few]
    readable = [p for p in undecided if p.is_readable and math.isfinite(p.gap_bound)]
    unread = [p for p in undecided if not p.is_readable]
    alone = [p for p in undecided if p.is_readable and not math.isfinite(p.gap_bound)]
    without = [p for p in alone if math.isnan(p.output.value)]
    alone = [p for p in alone if not math.isnan(p.output.value)]
    sentences = (
        _shown(groups[Verdict.SHOWN], profiles),
        *_matched(read),
        _named(
            "Cannot tell for {}.",
            readable,
            lambda p: f"{p.target} (gaps up to {p.gap_bound_text} are possible{_needed(p)})",
        ),
        _named(
            "The output is as good as any layer for {}.",
            groups[Verdict.EXCLUDED],
            lambda p: f"{p.target} (gaps above {p.gap_bound_text} are excluded)",
        ),
        *(_few([p for p in few if p.few == words]) for words in dict.fromkeys(p.few for p in few)),
        _named(
            "Too few samples to say that no layer holds {}.",
            [p for p in unread if p.lacks_samples],
            lambda p: f"{p.target} ({p.lacks_samples})",
        ),
        _named(
            "Cannot tell whether the layer chosen reads {}.",
            [p for p in unread if not p.lacks_samples],
            lambda p: (
                f"{p.target} (scores up to {format_number(p.ceiling, SHORT)} are possible, "
                f"{format_number(p.floor, SHORT)} is chance{_shuffled(p)})"
            ),
        ),
        _named("The output has no score for {}, so there is nothing to compare with.", without),
        _named(
            "Only the output was read for {}, so there is nothing to compare with.",
            [p for p in alone if not p.best_tap],
        ),
        _named("Cannot tell for {}: the gaps have no interval.", [p for p in alone if p.best_tap]),
        *_sets(profiles),
        SPREAD if any(p.redraws for p in read) else "",
        _named(f"{{}}: the layer was chosen on {OLDER}.", [p for p in read if p.chosen_on == OLDER]),
        *(
            _named(
                f"{fit} finds {{}} at no layer.",
                [p for p in groups[Verdict.AT_CHANCE] if _fit(p) == fit],
                lambda p: f"{p.target}{_nonlinear(p, profiles)}",
            )
            for fit in dict.fromkeys(map(_fit, groups[Verdict.AT_CHANCE]))
        ),
    )
    return [sentence for sentence in sentences if sentence]


def _fit(profile: Profile) -> str:
    """The probe of a target, and how many samples it was fitted to."""
    return " ".join(f"A {profile.readout} probe fitted to {size_of_fit(profile.data)[0]:,} samples".split())


def _nonlinear(profile: Profile, every: Sequence[Profile]) -> str:
    """The score of a kernel, in brackets; "" where it reads nothing either."""
    reading = nonlinear_reading(every, str(profile.target))
    if not reading or max(reading.output.low, reading.best.low) <= reading.floor:
        return ""
    tap, score = max(("the output", reading.output), (reading.tap, reading.best), key=lambda at: at[1].low)
    return f" (a kernel reads {format_number(score.value, SHORT)} from {tap})"


def _shuffled(profile: Profile) -> str:
    """The score with shuffled labels, where it alone keeps a target from counting as read."""
    score, over = profile.score, profile.over("shuffled_labels")
    reached = profile.control("shuffled_labels")
    if not (score and over and reached and score.low > profile.floor and over.low <= 0):
        return ""
    return f", and shuffled labels reach {format_number(reached.value, SHORT)}"


def _shown(profiles: Sequence[Profile], every: Sequence[Profile]) -> str:
    """Each hidden gap, and in the same breath what a nonlinear readout still reads from the output."""
    gaps = [
        f"{p.target}, {format_interval(p.hidden_gap, SHORT, signed=True)} at {nowrap(p.best_tap)}"
        + (f" ({reading.words})" if (reading := nonlinear_reading(every, str(p.target))) else "")
        for p in profiles
    ]
    readout = "a linear readout" if all(p.readout == "linear" for p in profiles) else "its probe"
    return f"The output hides from {readout}: {'; '.join(_shorten(gaps))}." if gaps else ""


def _matched(profiles: Sequence[Profile]) -> list[str]:
    """Targets for which no score shows that the encoder is needed.

    A control that lacks it, or its training, is not beaten.
    """
    sentences: list[str] = []
    for what, without, needed in (("model", "a model", "an encoder"), ("training", "training", "the training")):
        rest = f"read no worse without {without}: no score there shows that {needed} is needed."
        sentences.append(
            _named(f"{{}} is {rest}", [p for p in profiles if p.needless == what], plural=f"{{}} are {rest}")
        )
    others = [p for p in profiles if p.rival and not p.needless]
    return [
        *sentences,
        _named("A control is not beaten for {}: no score there shows that this encoder is needed.", others),
    ]


def _sets(profiles: Sequence[Profile]) -> list[str]:
    """Gains of several layers over one, of each target whose sets were read."""
    sentences: list[str] = []
    none: list[Profile] = []
    for p in profiles:
        gain = read_interval(p.data.attrs, "gain")
        if gain is not None and gain.low > 0:
            members = p.data["member"].sel(set=p.data.attrs["chosen_set"]).values
            taps = join_names([tap for tap, held in zip(p.taps, members, strict=True) if held])
            more = format_interval(gain, SHORT, signed=True)
            sentences.append(f"Several layers read more of {p.target} than {p.data.attrs['single']}: {taps}, {more}.")
        elif "chosen_set" in p.data.attrs:
            none.append(p)
    return [*sentences, _named("No set of layers is shown to read more of {} than one layer.", none)]


def wrong_scaling(profiles: Sequence[Profile]) -> str:
    """The scaling of the input under which the encoder reads more, and what to write; "" where none is shown to."""
    found = [p for p in profiles if "scaling_gain" in p.data.attrs]
    if not found:
        return ""
    p = max(found, key=lambda each: each.data.attrs["scaling_gain_low"])
    gain, attrs = read_interval(p.data.attrs, "scaling_gain"), p.data.attrs
    return (
        f"The input seems to be scaled wrongly: scaled {attrs['scaling']}, the encoder reads more of {p.target} "
        f"({format_interval(gain, SHORT, signed=True)} on {attrs['n']} samples). Give {attrs['write']}."
    )


def _needed(profile: Profile) -> str:
    needed, units = profile.units_needed, profile.units["test"]
    return f"; about {round_count(needed):,} test units would tell, {units:,} now" if needed else ""


def _few(profiles: Sequence[Profile]) -> str:
    if not profiles:
        return ""
    p = profiles[0]
    scores = p.data["score"].values[p.data["depth"].values <= p.depth_of(p.output_tap)]
    scores = scores[~(scores != scores)]
    between = (
        f" ({format_number(scores.min(), SHORT)} to {format_number(scores.max(), SHORT)} over the layers)"
        if len(profiles) == 1 and len(scores)
        else ""
    )
    return (
        f"With {p.few.removesuffix(': they cannot tell')} the layer is a guess for "
        f"{_named('{}', profiles)}{between}: at least {FEW} are needed."
    )


def _named(
    sentence: str,
    profiles: Sequence[Profile],
    words: Callable[[Profile], str] = lambda p: str(p.target),
    plural: str = "",
) -> str:
    """A sentence of the targets, each in `words`; "" without any."""
    if not profiles:
        return ""
    names = join_names(_shorten([words(p) for p in profiles]))
    return (plural if plural and len(profiles) > 1 else sentence).format(names)


def brief_cautions(profiles: Sequence[Profile]) -> list[str]:
    """Reasons why values or intervals are not to be believed, each reason once for all that it concerns."""
    skewed = [str(p.target or p.measure) for p in profiles if "carry" in p.skew]
    sparse = [p.measure for p in profiles if p.sparse]
    cautions: list[str] = []
    if skewed:
        names = join_names(dict.fromkeys(skewed))
        cautions.append(
            f"Beware: a few units decide {names}, so intervals may be too narrow. `?log=TARGET` reads a logarithm."
        )
    # Other probes of a target are thrown off by the same unit.
    cautions += [f"Beware: {p.outlier}." for p in first_probes(profiles).values() if p.outlier]
    if sparse:
        few = min(p.token_samples for p in profiles if p.sparse)
        cautions.append(
            f"Beware: {join_names(dict.fromkeys(sparse))} rest on the tokens of only {few} samples: a larger "
            "--token-budget gives more."
        )
    return cautions


def legend(profiles: Sequence[Profile]) -> str:
    """Meaning of the marks, and what chose and what scored."""
    chosen = ", or on ".join(dict.fromkeys(p.chosen_on for p in profiles if p.chosen_tap))
    return (
        f"{MARKS}. Layers were chosen without test{f' (on {chosen})' if chosen else ''}; scores are read on test; "
        f"{INTERVALS}."
    )


def example_target(profiles: Sequence[Profile]) -> str | None:
    """The target that an example of reading features names.

    It is the first with a tap to use, of those that some tap reads if there are.
    """
    targets = [profile for profile in first_probes(profiles).values() if profile.chosen_tap]
    return next((p.target for p in sorted(targets, key=lambda p: p.readability == "at chance")), None)
