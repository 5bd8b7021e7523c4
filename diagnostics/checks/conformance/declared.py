"""Checks of what an encoder declares: description, shapes, grid, order by depth, sizes."""

import json
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from diagnostics.checks.conformance.encoder_under_test import EncoderUnderTest, NoPassError
from diagnostics.checks.conformance.outcome import Outcome, failed, not_applicable, ok
from diagnostics.encoders.places.judge import exchanged_between
from diagnostics.encoders.places.verify import NotVerifiableError, verify_taps
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, describe
from diagnostics.vocabulary import Modality

# Enough to tell any order of tokens from another; `inspect --verify-grid` looks at more.
CELLS = 64
IDENTITY = ("weights", "configuration", "preprocessing")


def description(subject: EncoderUnderTest) -> Outcome:
    """Name, modality, taps, output tap and identity are there and can be written down."""
    encoder = subject.encoder
    if encoder.modality not in get_args(Modality):
        return failed(f"its modality is {encoder.modality!r}: choose one of {', '.join(get_args(Modality))}")
    names = [tap.name for tap in encoder.taps]
    if len(set(names)) < len(names) or not names:
        return failed(f"it has {len(names)} taps under {len(set(names))} names: give each a name of its own")
    if encoder.output_tap not in names:
        return failed(f"its output tap {encoder.output_tap!r} is not one of its taps")
    identity: Any = dict(encoder.identity)
    if missing := [key for key in IDENTITY if key not in identity]:
        return failed(f"its identity lacks {', '.join(missing)}")
    if odd := [key for key, value in identity.items() if not isinstance(value, str)]:
        return failed(f"its identity gives no text for {', '.join(odd)}: give a digest or words")
    try:
        json.dumps([encoder.name, encoder.modality, encoder.rate, identity, encoder.poolings])
        json.dumps([[tap.name, tap.depth, tap.features, tap.grid.shape, tap.grid.axes] for tap in encoder.taps])
    except TypeError as error:
        return failed(f"what it declares cannot be written as JSON ({error}): use plain numbers and texts")
    return ok(f"{len(names)} taps, output {encoder.output_tap}", taps=len(names))


def shapes(subject: EncoderUnderTest) -> Outcome:
    """Each tap fires and hands over finite [sample, token, feature] as declared."""
    try:
        activations = subject.reference
    except NoPassError as error:
        return failed(f"a pass over three samples ends in {error}")
    for tap in subject.encoder.taps:
        tokens: Any = activations.get(tap.name)
        if not isinstance(tokens, Tensor):
            return failed(f"tap {tap.name} did not fire")
        wanted = (len(subject.samples), tap.tokens, tap.features)
        if tuple(tokens.shape) != wanted:
            return failed(f"tap {tap.name} gives shape {tuple(tokens.shape)}, but declares {wanted}")
        if not tokens.is_floating_point():
            return failed(f"tap {tap.name} gives {tokens.dtype}, not floating-point numbers")
        if not tokens.isfinite().all():
            return failed(f"tap {tap.name} gives {int((~tokens.isfinite()).sum())} numbers that are not finite")
    return ok("every tap gives finite numbers in the shape that it declares")


def grid(subject: EncoderUnderTest) -> Outcome:
    """Tokens of every tap stand for the places that its grid declares: see `diagnostics.encoders.places.verify_taps`.

    Of grids larger than `CELLS`, two tokens that are exchanged are also looked for between taps, in a plain pass.
    """
    try:
        placement, later = verify_taps(subject.encoder, subject.samples[0], most=CELLS)
    except NotVerifiableError as error:
        return not_applicable(str(error))
    verdicts = ("wrong", "not verified", "right")
    wrong, unknown, right = ([tap for tap in later if tap.verdict == verdict] for verdict in verdicts)
    figures = {
        "cells": placement.cells, "share": placement.share, "tolerance": placement.tolerance,
        "taps_right": int(placement.right) + len(right), "taps_wrong": int(not placement.right) + len(wrong),
        "taps_not_verified": len(unknown),
    }  # fmt: skip
    if not placement.right:
        return failed(str(placement), **figures)
    if wrong:
        more = f"; so do {', '.join(tap.tap for tap in wrong[1:4])}{', ...' * (len(wrong) > 4)}" if wrong[1:] else ""
        return failed(f"tap {wrong[0].tap} has a {wrong[0].explanation}{more}; {placement}", **figures)
    for before, after in pairwise(subject.encoder.taps):
        if change := exchanged_between(before, after, subject.reference):
            return failed(change, **figures)
    parts = [str(placement)]
    if right:
        parts.append(f"so do those of {len(right)} later tap{'s' * (len(right) > 1)}")
    if unknown:
        names = f"{', '.join(tap.tap for tap in unknown[:3])}{', ...' * (len(unknown) > 3)}"
        parts.append(f"not verified at tap {names}: {unknown[0].explanation}")
    return ok("; ".join(parts), **figures)


def depth(subject: EncoderUnderTest) -> Outcome:
    """Taps fire in the order in which they are declared, and depth never falls along it."""
    declared = [tap.name for tap in subject.encoder.taps]
    seen = subject.order
    if seen != declared:
        first = next(i for i, pair in enumerate(zip(seen, declared, strict=False)) if pair[0] != pair[1])
        return failed(f"tap {seen[first]} fires where {declared[first]} is declared: list taps in order of execution")
    for before, after in zip(subject.encoder.taps, subject.encoder.taps[1:], strict=False):
        if after.depth < before.depth:
            return failed(
                f"tap {after.name} (depth {after.depth:g}) runs after {before.name} (depth {before.depth:g}): "
                "let depth never fall along the execution"
            )
        if before.part == "head" and after.part != "head":
            return failed(f"tap {after.name} of the {after.part} runs after {before.name} of the head")
    first, last = subject.encoder.taps[0].depth, subject.encoder.taps[-1].depth
    return ok(f"taps fire as declared, from depth {first:g} to {last:g}")


def sizes(subject: EncoderUnderTest) -> Outcome:
    """A sample of another size is taken with the grids it has, or refused in a sentence."""
    sample = _halved(subject.samples[0], subject.encoder.modality)
    if sample is None:
        return not_applicable("a text has no size, or the sample is too small to be halved")
    shape = "x".join(map(str, sample.shape))
    try:
        encoder = subject.encoder.sized_for(sample)
        batch = torch.utils.data.default_collate([encoder.preprocess(sample)])
    except DiagnosticsError as error:
        return not_applicable(f"takes no sample of {shape}: {error}")
    except Exception as error:
        return failed(f"a sample of {shape} ends in {describe(error)}: let sized_for or preprocess refuse it")
    wrong: list[str] = []

    def look(tap: Tap, tokens: Tensor) -> None:
        if tuple(tokens.shape[1:]) != (tap.tokens, tap.features):
            wrong.append(f"tap {tap.name} gives {tuple(tokens.shape[1:])} tokens and features, not {tap.grid}")

    subject.passes += 1
    try:
        encoder.capture(batch, None, look)
    except Exception as error:
        return failed(f"sized for a sample of {shape}, a pass ends in {describe(error)}")
    if wrong:
        return failed(f"sized for a sample of {shape}, {wrong[0]}")
    before, after = subject.encoder.taps[0].grid, encoder.taps[0].grid
    return ok(f"a sample of {shape} gives {'the same grid' if before == after else f'a grid of {after}'}")


def _halved(sample: np.ndarray, modality: Modality) -> np.ndarray | None:
    axes = {"image": 2, "video": 3, "series": 1, "audio": 1, "text": 0}[modality]
    if axes == 0 or min(sample.shape[:axes]) < 2:
        return None
    return sample[tuple(slice(n // 2) for n in sample.shape[:axes])]
