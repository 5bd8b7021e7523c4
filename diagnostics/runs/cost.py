"""Cost of a run, reckoned before its first byte and before a later pass: bytes, seconds, and what they are of."""

import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from diagnostics.activations.contract import StoredTarget
from diagnostics.activations.extract import OnGrids
from diagnostics.activations.plan import ARRAY_BYTES, WANTED, Plan, plan, row_order
from diagnostics.datasets.boxes import CLASS, there
from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.target import Target
from diagnostics.encoders.encoder import Encoder
from diagnostics.measures.probes.dense import mask_of_known
from diagnostics.measures.probes.dense_sets import bytes_of_sets, joined_taps, seconds_of_sets
from diagnostics.measures.probes.grounding import MOST_RANK
from diagnostics.measures.probes.nearest import KnnProbe
from diagnostics.measures.probes.protocol import FOLDS
from diagnostics.measures.probes.questions import QuestionProbe
from diagnostics.measures.probes.several_taps import TapSet
from diagnostics.progress import Cost, duration
from diagnostics.report.html import PAGE_BYTES
from diagnostics.runs.controls.kinds import plan_taps
from diagnostics.runs.controls.names import INPUTS, control_of
from diagnostics.runs.machine import free_bytes
from diagnostics.runs.setup import Setup, targets_to_stream
from diagnostics.runs.streaming.block_sums import block_bytes, fits_along, held_of, tokens_read
from diagnostics.runs.streaming.stream import passes_over
from diagnostics.vocabulary import BOXED, SPLITS

# As measured: files of the result of a probe, beside what it has of every unit and tap, and of another measure.
PROBE_BYTES, RESULT_BYTES = 16_000, 8_000
LONG = 60
"""Seconds of measuring that are announced."""
UNIT_BYTES = 12
"""Losses and what they are relative to, of a unit at a tap."""
ID_BYTES = 25
"""Id, group and split of a sample, about."""
SHRUNK = 16
"""Samples of a map that are compressed to see what all take."""


def cost_of(
    setup: Setup,
    planned: Plan,
    controls: Mapping[str, bool],
    *,
    seconds: float,
    again: int,
    dense: OnGrids,
) -> Cost:
    """The cost of extracting the encoder, planned so, and its controls, and of measuring them.

    `controls` says of each whether it keeps tokens, `seconds` is what a sample takes, `again` how many samples' tokens
    were removed and are extracted anew: nothing else is then written. `dense`: targets on grids, as `create` is given
    them. Results and what shrinks on disk (maps) are estimated; the rest is known to the byte.
    """
    encoder, dataset = setup.encoder, setup.dataset
    controls = {name: tokens for name, tokens in controls.items() if tokens or not again}
    plans = _plans(setup, planned, controls)
    stores = [planned, *(other if controls[name] else other.without_tokens for name, other in plans.items())]
    token_bytes = sum(each.token_bytes for each in stores)
    written = sum(each.bytes + _sample_bytes(dataset, dense) for each in stores)
    written += _result_bytes(setup, controls) + PAGE_BYTES * setup.request.report
    # Shuffled labels are read from the encoder's own activations.
    sums = [_sum_bytes(setup, each, dense, own=not i) for i, each in enumerate(stores)]
    seen_all = [] if planned.token_samples == planned.samples else [one.observation for one in setup.measures]
    observed = [seen for seen in seen_all if seen and seen.block and seen.reads(dataset)]
    written += sum(4 * each.samples * seen.values_at(tap) for seen in observed for each in stores for tap in each.taps)
    passes = 0.0
    if any(sums):
        in_order, along = dataset.split[row_order(len(dataset))], fits_along(max(sums))
        judged = np.flatnonzero((in_order != "train") | (setup.choose_on == "fit"))
        judged = judged[judged >= tokens_read(planned)]
        held = held_of(len(judged), _held_bytes(planned), free_bytes()) if along else 0
        # Up to the first that is not held.
        stored = max(tokens_read(planned), [*judged, len(in_order)][held] if held else 0)
        passes = passes_over(in_order, setup.choose_on, gathered=along, stored=stored)
    alike = 1 + sum(_has_weights(name, encoder) for name in plans)
    # In tokens that are extracted again, controls have their share.
    share = (again or planned.samples) / planned.samples
    times = 1 + passes + len(observed)
    passed = (alike - 1) * len(setup.control_positions) * share * times
    written += sum(sums)
    enough = planned.token_samples >= min(WANTED, planned.samples)
    return Cost(
        encoder=encoder.name,
        dataset=dataset.name,
        samples=planned.samples,
        taps=len(planned.taps),
        bytes=token_bytes if again else written,
        token_bytes=token_bytes,
        token_samples=planned.token_samples,
        seconds=seconds * ((again or planned.samples) * times + passed),
        encoders=alike,
        path=str(setup.out),
        token_bytes_of_64=0 if enough else WANTED * planned.token_bytes_per_sample,
        again=again,
        unprobeable=(*setup.unprobeable.values(), *setup.unread),
        dense=_dense_clause(setup, passes if any(sums) else None),
        measuring=_measuring_clause(setup, planned, read=1 + len(controls) + bool(setup.draws)),
    )


def later_cost(
    setup: Setup,
    planned: Plan,
    controls: Collection[str],
    targets: Iterable[StoredTarget],
    passes: float,
    missing: int,
) -> Cost:
    """The cost of reading dense targets of a run that is extracted.

    `missing`: bytes of the sums that the encoder lacks, of which its controls are taken to lack the same share.
    """
    read = [target for target in targets if not target.shuffled]
    dense = {target.name: {str(grid): values for grid, values in target.on_grid.items()} for target in read}
    own = _sum_bytes(setup, planned, dense, own=True)
    plans = _plans(setup, planned, controls).values()
    theirs = sum(_sum_bytes(setup, each, dense, own=False) for each in plans)
    return Cost(
        encoder=setup.encoder.name,
        dataset=setup.dataset.name,
        samples=len(setup.dataset),
        taps=len(setup.taps),
        bytes=missing + round(theirs * missing / own),
        token_bytes=0,
        token_samples=0,
        seconds=0.0,
        encoders=1,
        path=str(setup.out),
        dense=_dense_clause(setup, passes),
    )


def _dense_clause(setup: Setup, passes: float | None) -> str:
    """The way in which dense targets are read in so many passes beside the extraction, and why, in a clause.

    Empty where no measure reads one; None: nothing is summed.
    """
    # Tokens of samples of unequal length are neither stored nor summed.
    if setup.dataset.ragged or not targets_to_stream(setup) or (setup.dense == "streamed" and passes is None):
        return ""
    asked, samples = setup.request.dense is not None, len(setup.dataset)
    if setup.dense == "stored":
        return f"dense targets are read from stored tokens, {'as asked' if asked else 'which the budget holds'}"
    why = "as asked" if asked else f"since the token budget holds {setup.token_samples:,} of {samples:,} samples"
    way = f"in {passes:.1f} more passes of each encoder" if passes else "as they pass"
    return f"dense targets are read from all samples {way}, {why}"


def _held_bytes(planned: Plan) -> int:
    """Those of a sample's tokens, about, that are held until they are judged."""
    taps = [tap for tap in planned.taps if tap.grid.tokens > 1]
    own = [tap.grid.tokens for tap in taps if tap.name == planned.output_tap]
    cells = (own or [tap.grid.tokens for tap in taps[-1:]] or [0])[0]
    return 4 * cells * sum(tap.features for tap in taps)


def _measuring_clause(setup: Setup, planned: Plan, read: int) -> str:
    """The cost of slow probes of so many sets of activations and labels, in a clause; empty where none is `LONG`."""
    names, split = [measure.name for measure in setup.measures], setup.dataset.split
    there = [target for name, target in setup.dataset.targets.items() if name not in setup.unprobeable]
    train, val, test = (int((split == part).sum()) for part in SPLITS)
    features = sum(tap.features for tap in planned.taps)
    pairs = KnnProbe.seconds(train, val, test, len(planned.poolings) * features, whole=setup.choose_on == "fit")
    # Of the encoder's own activations alone.
    joined = _joined_features(setup, planned)
    sets = seconds_of_sets(joined, FOLDS if setup.choose_on == "fit" else 1)
    memory = f"{bytes_of_sets(joined) / 1e9:.1f} GB of memory"
    costs = {
        f"{KnnProbe.name} compares samples in pairs": read
        * pairs
        * sum(target.kind in KnnProbe.kinds for target in there)
        * (KnnProbe.name in names),
        f"{TapSet.name} solves {joined:,} features side by side, in {memory}": sets
        * sum(target.kind in TapSet.streams for target in there),
        f"{QuestionProbe.name} learns attention": read
        * sum(QuestionProbe.seconds(target.values, split, features) for target in there if target.kind == "questions")
        * (QuestionProbe.name in names),
    }
    long = {what: seconds for what, seconds in costs.items() if seconds > LONG}
    return "; ".join(f"{what}, about {duration(seconds)} of one core" for what, seconds in long.items())


def _sum_bytes(setup: Setup, planned: Plan, dense: OnGrids, *, own: bool) -> int:
    """Of the sums of an encoder; of its `own` also those of shuffled labels, and of taps side by side."""
    if setup.dense != "streamed":
        return 0
    targets, bytes_ = targets_to_stream(setup), 0
    if own and (features := _joined_features(setup, planned)):
        joined = replace(next(tap for tap in planned.taps if tap.grid.tokens > 1), features=features)
        read = {name: target for name, target in targets.items() if target.kind in TapSet.streams}
        bytes_ = FOLDS * block_bytes([joined], *_masks_and_columns(read, dense, shuffled=False))
    if own and setup.fewer:
        bytes_ += FOLDS * block_bytes(planned.taps, *_masks_and_columns(targets, dense, shuffled=False))
    # Where labels are shuffled, their unknown places move too.
    shuffled = own and bool(setup.draws)
    return bytes_ + FOLDS * block_bytes(planned.taps, *_masks_and_columns(targets, dense, shuffled=shuffled))


def _joined_features(setup: Setup, planned: Plan) -> int:
    """The number of features of the taps of tokens that are read side by side; 0 where none are."""
    if TapSet.name not in {measure.name for measure in setup.measures}:
        return 0
    of_tokens = [tap for tap in planned.taps if tap.grid.tokens > 1]
    return sum(tap.features for tap in joined_taps(of_tokens, setup.encoder.output_tap))


def _masks_and_columns(targets: Mapping[str, Target], dense: OnGrids, *, shuffled: bool) -> tuple[int, int]:
    """Number of masks of known places of which products of features are summed, and of columns."""
    whole, columns = dict[bytes, bool](), 0
    for name, target in targets.items():
        if target.kind in BOXED:
            # Of all tokens, and of those in boxes.
            whole |= {f"{name} all".encode(): False, f"{name} held".encode(): False}
            numbers = np.unique(target.values[:, 1:, CLASS][there(target.values)])
            columns += 5 + (len(numbers) if target.kind == "boxes" else 2 * MOST_RANK)
        elif on_grids := dense.get(name):
            grids = [(values, mask_of_known(target.kind, values)) for values in on_grids.values()]
            whole[b"".join(np.packbits(known).tobytes() for _, known in grids)] = all(known.all() for _, known in grids)
            labels = target.kind == "token_label"
            columns += max(len(np.unique(values[known])) for values, known in grids) if labels else 1
    masks = len(whole) + shuffled * sum(not each for each in whole.values())
    return masks, columns * (1 + shuffled)


def _has_weights(name: str, encoder: Encoder) -> bool:
    """True if a control is the encoder with other weights; not every encoder can be drawn anew."""
    method = {"fresh_weights": "fresh", "permuted_weights": "permuted"}.get(control_of(name), "")
    return bool(method) and getattr(type(encoder), method) is not getattr(Encoder, method)


def _plans(setup: Setup, planned: Plan, controls: Collection[str]) -> dict[str, Plan]:
    """The plans of those of some controls that can be made, beside the encoder's."""
    weights, positions = [name for name in controls if _has_weights(name, setup.encoder)], setup.control_positions
    alike = replace(planned, samples=len(positions), token_samples=int((positions < planned.token_samples).sum()))
    inputs = {name: _plan_of(name, setup, planned) for name in controls if name in INPUTS}
    return {name: other for name, other in (inputs | dict.fromkeys(weights, alike)).items() if other is not None}


def _plan_of(name: str, setup: Setup, planned: Plan) -> Plan | None:
    """The plan of a control without the encoder; None for one that cannot be made."""
    try:
        like, taps = plan_taps(name, setup.encoder, setup.dataset)
    except Exception:  # then it is left out with the reason when its turn comes
        return None
    return plan(
        like, taps, planned.samples, setup.token_budget, setup.request.precision, with_tokens=planned.token_samples
    )


def _sample_bytes(dataset: Dataset, dense: OnGrids) -> int:
    """Samples and targets as each store has them; of maps, by what those of the first samples shrink to."""
    targets = 0
    for name, target in dataset.targets.items():
        if not target.dense or target.kind in BOXED:
            first = np.asarray(target.values[0])
            targets += len(dataset) * first.nbytes + (0 if target.naive is None else target.naive.nbytes)
        for values in dense.get(name, {}).values() if target.kind not in BOXED else ():
            some = values[:SHRUNK]
            targets += len(zlib.compress(some.tobytes(), 2)) * len(dataset) // len(some)
    return targets + ID_BYTES * len(dataset) + ARRAY_BYTES * (3 + len(dataset.targets))


def _result_bytes(setup: Setup, controls: Collection[str]) -> int:
    """Of the results of all measures on the encoder and on its controls."""
    units = sum((setup.dataset.split == part).sum() for part in ("val", "test"))
    probes = sum(
        target.kind in measure.kinds for measure in setup.measures for target in setup.dataset.targets.values()
    )
    others = [measure for measure in setup.measures if not measure.kinds]
    weights = sum(_has_weights(name, setup.encoder) for name in controls)
    weights *= setup.request.control_measures == "all"
    measured = len(others) + weights * sum(not measure.pairwise for measure in others)
    shuffled = bool(setup.draws)
    of_probe = PROBE_BYTES + UNIT_BYTES * len(setup.taps) * int(units)
    return probes * (1 + len(controls) + shuffled) * of_probe + measured * RESULT_BYTES
