"""What the report's words mean, for readers who point at them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from markupsafe import Markup, escape

GLOSSARY: Mapping[str, str] = {
    "output tap": "the tap whose activations the encoder gives its users (its usual output)",
    "chosen tap": "the tap to use: chosen without test, by the score out of fold on train and val, or on val; the output where no other is better by one standard error",
    "best tap": "the best tap other than the output, chosen without test",
    "hidden gap": "the best tap's score minus the output tap's on test, paired over units",
    "tap": "a named place of the encoder where activations are read",
    "output": "the activations at the output tap, the encoder's usual output",
    "depth": "the position of a tap: 0 after the embedding, 1 at the trunk's output; taps of a head lie beyond 1",
    "target": "what a probe reads out of activations",
    "probe": "a readout of a target, fitted on frozen activations",
    "profile": "one measure as a function of depth, with its uncertainty and its controls",
    "control": "a baseline measured by the same code, such as an untrained encoder, the raw input or shuffled labels",
    "fresh weights": "a control: the same architecture with newly drawn random weights",
    "permuted weights": "a control: the trained weights, shuffled within each tensor",
    "raw input": "a control without a model: the sample itself, reduced in size",
    "raw input kernel": "a control without a model: kernel regression on the samples themselves",
    "summary statistics": "a control without a model: moments, quantiles and autocorrelations of a sample",
    "shuffled labels": "a control: the encoder's own activations with the targets shuffled among samples",
    "train": "the samples on which probes are fitted",
    "val": "samples on which penalties and taps are chosen, alone or with train out of fold",
    "test": "the samples on which every score is read",
    "unit": "samples that share a source (video, series, subject); intervals resample units",
    "R2": "share of a target's variance that is predicted: 1 is all of it, 0 is no better than the mean, below 0 is worse",
    "skill": "1 minus the ratio of the error to that of the naive forecast: 0 is as good as the naive forecast",
    "accuracy": "share of correct answers",
    "mean": "as a pooling: the average over a sample's tokens",
}
_FORMS = {form: term for term in GLOSSARY for form in (term, f"{term}s")}
_TERM = re.compile(rf"(?<![\w./])(?:{'|'.join(sorted(map(re.escape, _FORMS), key=len, reverse=True))})(?![\w/]|\.\w)")


def explained(text: object, known: Iterable[str] = ()) -> Markup:
    """Text as HTML in which each term has its meaning on hover, where it first stands; `known` terms have none."""
    parts: list[Markup] = []
    text, end, seen = str(text), 0, set(known)
    for match in _TERM.finditer(text):
        term = _FORMS[match[0]]
        if term not in seen:
            seen.add(term)
            abbr = Markup('<abbr title="{}">{}</abbr>').format(GLOSSARY[term], match[0])
            parts += [escape(text[end : match.start()]), abbr]
            end = match.end()
    return Markup("").join([*parts, escape(text[end:])])
