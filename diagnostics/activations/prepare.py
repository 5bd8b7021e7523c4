"""All that precedes a forward pass.

Whether encoder and dataset fit, what stored activations depend on, whether the same samples give the same again, and
the batches of samples.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from diagnostics.activations.metadata import COVERED
from diagnostics.activations.plan import Plan, row_order
from diagnostics.activations.store import Store
from diagnostics.datasets.boxes import crop_boxes, misfit_of_boxes
from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.matches import crop_matches
from diagnostics.datasets.target import Target, classes_on_grid, crop_maps, events_on_grid, join_maps, on_grid
from diagnostics.encoders.encoder import Encoder, Reduce, check_modality, size_for
from diagnostics.encoders.hooks import Call, as_tokens, record_passes
from diagnostics.encoders.modules import by_name, digest_of, seeding
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, StorageError, describe, explaining
from diagnostics.interrupts import hold_worker_ends
from diagnostics.vocabulary import BOXED, BY_PLACE, Compute

# In what two sets of samples differ, in words, as far as what is stored of them tells.


@dataclass(frozen=True)
class SampleFacts:
    """Facts of each sample: its id, split and group, and values of targets.

    Only those targets stand here that have some of the sample as a whole.
    """

    ids: np.ndarray
    split: np.ndarray
    groups: np.ndarray
    targets: Mapping[str, np.ndarray | None]

    @classmethod
    def of(cls, data: Dataset | Store) -> Self:
        targets = data.targets() if isinstance(data, Store) else data.targets
        # Dense ones are stored as each encoder's grid sees them.
        whole = {name: None if each.kind in BY_PLACE else each.values for name, each in targets.items()}
        ids = np.array([str(name) for name in data.ids])
        order = np.argsort(ids, kind="stable")
        return cls(
            ids[order],
            np.asarray(data.split).astype(str)[order],
            np.asarray(data.groups).astype(str)[order],
            {name: None if values is None else np.asarray(values)[order] for name, values in whole.items()},
        )


def differences(
    first: SampleFacts, second: SampleFacts, words: tuple[str, str] = ("in one", "in the other")
) -> Iterator[str]:
    """Differences of two identities, the most telling first; `words` say where the first's and the second's are."""
    ids = set(first.ids), set(second.ids)
    if missing := ids[0] ^ ids[1]:
        yield f"{len(missing)} of {len(ids[0] | ids[1])} samples are in one only, for example {min(missing)}"
        return
    for name, mine, theirs in (("splits", first.split, second.split), ("groups", first.groups, second.groups)):
        if (rows := np.flatnonzero(mine != theirs)).size:
            row = rows[0]
            yield (
                f"the {name} differ in {rows.size} samples ({first.ids[row]} is {mine[row]} {words[0]}, {theirs[row]} "
                f"{words[1]})"
            )
    if lacking := sorted(set(first.targets) ^ set(second.targets)):
        yield f"only one of them has the target {lacking[0]}"
    for name in sorted(set(first.targets) & set(second.targets)):
        mine, theirs = first.targets[name], second.targets[name]
        if mine is not None and theirs is not None:
            yield from _other_values(name, first.ids, mine, theirs)


def _other_values(name: str, ids: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> Iterator[str]:
    if mine.shape != theirs.shape:
        yield f"the values of the target {name} differ in their shape"
        return
    same = (mine == theirs) | ((mine != mine) & (theirs != theirs))
    rows = np.flatnonzero(~same.reshape(len(ids), -1).all(axis=1))
    if rows.size:
        yield f"the values of the target {name} differ in {rows.size} samples, for example {ids[rows[0]]}"


def identity(encoder: Encoder, dataset: Dataset, plan: Plan, compute: Compute) -> dict[str, str]:
    """Digests of all that the activations depend on: never device, batch size or number of workers."""
    return {
        **encoder.identity,
        "dataset": f"{dataset.name} {dataset.fingerprint}",
        "taps": "; ".join(
            f"{tap.name} {tap.site} {tap.grid} {tap.features} {tap.depth:.6f} {tap.part}" for tap in plan.taps
        ),
        "output tap": plan.output_tap,
        "seen of dense targets": "; ".join(
            f"{name} {encoder.covers(_extent(dataset, target))}"
            for name, target in sorted(dataset.targets.items())
            if target.kind in BY_PLACE
        ),
        "pooling": " and ".join(plan.poolings),
        "precision": plan.precision,
        "compute": compute,
        "tokens": f"{plan.token_samples} samples in shards of {plan.shard}, pooled values in shards of "
        f"{plan.pooled_shard}",
    }


DIGESTS = {
    "weights": "the numbers in the model have changed",
    "preprocessing": "the encoder's example is prepared differently now",
    "masks": "other tokens count as data (not padding) now",
}
"""What it means when a digest differs, which itself says nothing."""
MASKS_SEEN = 8
"""Samples whose masks are part of the identity of what is stored."""


def refuse_other_identity(store: Store, wanted: Mapping[str, str], dataset: Dataset) -> None:
    """Raise when a store holds other activations than the ones wanted, and say in all of what they differ."""
    differ = list[str]()
    for key in {**store.identity, **wanted}:
        old, new = (identity.get(key, "nothing") for identity in (store.identity, wanted))
        if old != new:
            shown = _other_data(store, dataset) if key == "dataset" else DIGESTS.get(key) or _there_and_now(old, new)
            differ.append(f"its {key} differ{'' if key.endswith('s') else 's'}, {shown}")
    if differ:
        raise StorageError(
            f"{store.path} holds other activations, {'; '.join(differ)}: choose another --out, or --fresh, which drops "
            f"them.",
            code="other-run",
        )


def _there_and_now(old: str, new: str) -> str:
    olds, news = (value.split("; ") for value in (old, new))
    there = next((x for x in olds if x not in news), "fewer")
    now = next((x for x in news if x not in olds), "fewer")
    return f"{there[:60]} there, {now[:60]} now"


def _other_data(store: Store, dataset: Dataset) -> str:
    name, _, _ = store.identity["dataset"].rpartition(" ")
    if name != dataset.name:
        return f"{name} there, {dataset.name} now"
    facts = SampleFacts.of(store), SampleFacts.of(dataset)
    known = next(differences(*facts, ("there", "now")), "")
    return known or "under the same ids, what the samples themselves or their dense targets hold has changed"


def reference_statistics(encoder: Encoder, plan: Plan) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each tap's activations on the encoder's own example.

    They show a change of code that computes something else from the same weights, which no digest covers.
    """

    def reduce(tap: Tap, tokens: Tensor) -> tuple[float, float]:
        return float(tokens.mean(dtype=torch.float64)), float(tokens.double().std(correction=0))

    with explaining(f"{encoder.name} fails on its own example"):
        batch = default_collate([encoder.preprocess(encoder.example())])
        return encoder.capture(batch, [tap.name for tap in plan.taps], reduce)


def masks_digest(encoder: Encoder, dataset: Dataset, plan: Plan) -> str:
    """A digest of which tokens stand for data in the first few samples: what pooling skips decides what it gives."""
    digest = hashlib.sha256()
    masked = False
    for i in range(min(MASKS_SEEN, len(dataset))):
        try:
            batch = default_collate([encoder.preprocess(dataset[i])])
        except Exception:
            continue  # reported, with the name of the sample, when its turn comes
        for tap in plan.taps:
            valid = encoder.valid(batch, tap)
            masked |= valid is not None
            digest.update(f"{i} {tap.name} {None if valid is None else valid.cpu().int().tolist()};".encode())
    return digest.hexdigest() if masked else "none"


def dense_targets(encoder: Encoder, dataset: Dataset, taps: Sequence[Tap]) -> dict[str, dict[str, np.ndarray]]:
    """Arrays to store of each target that lies on a sample's own axes: name -> key -> array.

    Dense ones by the cells of each distinct grid, under `16x16`; masks as they are, under `covered`, those of unequal
    extents by the nearest pixels of the smallest; boxes in shares of the covered part, as of `crop_boxes`.
    """
    shapes = {tap.grid.shape for tap in taps if tap.grid.tokens > 1}
    by_cell = {"token_value": on_grid, "token_label": classes_on_grid, "event": events_on_grid}
    dense: dict[str, dict[str, np.ndarray]] = {}
    for name, target in dataset.targets.items():
        if target.kind == "masks":
            masks = join_maps([crop_maps(maps, encoder.covers(maps.shape[1:])) for maps in target.blocks()])
            # A panoptic number (class x 1000 + object) may not fit into 16 bits.
            fits = masks.size == 0 or (masks.min() >= -1 and masks.max() <= np.iinfo(np.int16).max)
            dense[name] = {COVERED: masks.astype(np.int16) if fits else masks}
        elif target.kind in BOXED:
            boxes = target.values.copy()
            for i in np.flatnonzero(np.isnan(boxes[:, 0, 2])):
                boxes[i, 0, 2:4] = _extent(dataset, target, int(i))[::-1]
            if wrong := misfit_of_boxes(boxes, target.classes, target.kind == "phrases"):
                raise DiagnosticsError(f"Target {name} of {dataset.name}: {wrong}.", code="bad-target")
            dense[name] = {COVERED: crop_boxes(boxes, encoder.covers)}
        elif target.kind == "matches":
            dense[name] = {COVERED: crop_matches(target.values, encoder.covers)}
        elif target.dense:
            fitting = {"x".join(map(str, shape)): shape for shape in shapes if len(shape) == np.ndim(target.values[0])}
            with explaining(
                f"Target {name} cannot be brought to the grids of the taps (fewer samples take less memory)"
            ):
                blocks = [
                    [by_cell[target.kind](maps, encoder.covers(maps.shape[1:]), shape) for shape in fitting.values()]
                    for maps in target.blocks()
                ]
                cells = zip(fitting, zip(*blocks, strict=True), strict=True)
                dense[name] = {key: join_maps(parts) for key, parts in cells}
    return dense


def _extent(dataset: Dataset, target: Target, sample: int = 0) -> tuple[int, ...]:
    """The extents of the axes that a target by place lies on, of a sample."""
    if target.kind == "matches":
        width, height = target.values[sample, 0, :2]
        return int(height), int(width)
    if target.kind not in BOXED:
        return np.shape(target.values[sample])
    width, height = target.values[sample, 0, 2:4]
    return np.shape(dataset[sample])[:2] if np.isnan(width) else (int(height), int(width))


def refuse_other_behaviour(store: Store, statistics: Mapping[str, tuple[float, float]]) -> None:
    """Raise where the same weights now give other activations, beyond what another device or batch size changes."""
    for tap, now in statistics.items():
        then = store.contents.reference_statistics[tap]
        if not np.allclose(then, now, rtol=0.02, atol=0.02 * abs(then[1]) + 1e-6, equal_nan=True):
            raise StorageError(
                f"{store.path} holds other activations, the same weights gave different ones at tap {tap}: "
                "choose another --out, or --fresh, which drops them.",
                code="other-run",
            )


def fit(encoder: Encoder, dataset: Dataset) -> Encoder:
    """The encoder sized for the samples of a dataset, by its first one.

    Raises DiagnosticsError where modality or sampling rate (Hz of audio, frames a second of video) differ, where the
    first sample cannot be read, and where the encoder takes no samples of its size.
    """
    check_modality(encoder, dataset)
    if encoder.rate is not None and dataset.rate is not None and encoder.rate != dataset.rate:
        raise DiagnosticsError(
            f"{encoder.name} takes {encoder.rate:g} samples a second, {dataset.name} holds {dataset.rate:g}: resample "
            f"the data (?rate={encoder.rate:g} where the dataset has that option).",
            code="bad-sample",
        )
    with explaining(f"Samples of {dataset.name} cannot be read for {encoder.name}"):
        sample = dataset[0]
    return size_for(encoder, sample, f"Samples of {dataset.name}")


# Read and prepared twice, and of these passed: what draws may leave single samples as they are, noise in a pass none.
SAMPLES, PASSED = 8, 3
TEXTS = 64
"""Whether an encoder cuts them is tried on so many."""
MOST_TOKENS = 64
"""Of a tap, spread over its grid: noise is in all of them."""
TOLERANCE: Mapping[Compute, float] = {"float32": 1e-5, "tf32": 1e-5, "bf16": 1e-2}
"""Share of a tap's norm up to which two passes are the same: kernels may add in another order."""
# Likewise: of a sample beside others, and of a tap and what is returned, perhaps in bfloat16.
SAME, RETURNED = 1e-3, 1e-2


class _SampleChangedError(DiagnosticsError):
    """Preparation wrote into the sample."""

    code = "sample-changed"


Read = Callable[[Any, Sequence[str], Reduce], dict[str, Any] | None]
"""`Encoder.capture` in a pass that is made for something else; None where there is no such pass."""


def find_difference(
    encoder: Encoder, dataset: Dataset, taps: Sequence[Tap], compute: Compute, other: Read | None = None
) -> tuple[str, str, bool]:
    """Compare samples that are read, prepared and passed twice: where they are not the same, as a sentence, or "".

    Then what else these passes show that makes numbers mean another thing than they say, "" where nothing. Also whether
    the `other` way of reading a pass gives the same to the bit. What fails here is left to the extraction, which names
    the sample. Raises DiagnosticsError where preparation changes the sample itself, which is put back.
    """
    beware: list[str] = []
    try:
        why, alike = _difference(encoder, dataset, taps, TOLERANCE[compute], other, beware)
    except _SampleChangedError:
        raise
    except Exception:
        why, alike = "", False
    return f"Not repeatable: {why}" if why else "", " ".join(beware), alike


def _difference(
    encoder: Encoder,
    dataset: Dataset,
    taps: Sequence[Tap],
    tolerance: float,
    other: Read | None,
    beware: list[str],
) -> tuple[str, bool]:
    rows, names = row_order(len(dataset))[:SAMPLES].tolist(), [tap.name for tap in taps]
    drawn = "so all numbers are of one draw of it. Take what is random out of it (a crop, noise) and give --fresh."
    first, second = ([dataset[i] for i in rows] for _ in range(2))
    kept = [np.array(sample) for sample in first]
    if list(map(_bits, kept)) != list(map(_bits, second)):
        return f"{dataset.name} gives another sample when it is read again, {drawn}", False
    beware += _padding(encoder, dataset, taps, kept)
    prepared, again = ([encoder.preprocess(sample) for sample in samples] for samples in (first, second))
    changed = [i for i, sample, before in zip(rows, first, kept, strict=True) if _bits(sample) != _bits(before)]
    for sample, before in zip(first, kept, strict=True) if changed else ():
        sample[...] = before
    if changed:
        raise _SampleChangedError(
            f"Preparing sample {dataset.ids[changed[0]]} for {encoder.name} changes the sample itself, so that whoever "
            f"reads it next gets another one: let preprocess work on a copy, np.array(sample)."
        )
    if list(map(_digest, prepared)) != list(map(_digest, again)):
        return f"the preprocessing of {encoder.name} gives another input for the same sample, {drawn}", False
    beware += _cut_texts(encoder, dataset)
    batch = default_collate(prepared[:PASSED])
    # A pass leaves random states as they were, so that two in a row would draw the same.
    with seeding(1), record_passes(getattr(encoder, "module", None)) as passes:
        once = encoder.capture(batch, names, _some_tokens(encoder, batch))
    beware += _other_output(encoder, batch, once, passes)
    # Without the first, in another order, beside another: what a whole batch shares does not depend on the order.
    places = list(range(len(prepared[:PASSED])))[:0:-1]
    others = default_collate([*(prepared[place] for place in places), prepared[-1]])
    with seeding(2):
        twice = other(batch, names, _some_tokens(encoder, batch)) if other else None
        among = encoder.capture(others, names, _some_tokens(encoder, others))
    alike = twice is not None and all(torch.equal(once[tap], twice[tap]) for tap in names)
    here, there = (
        {tap: tokens[part] for tap, tokens in of.items()} for of, part in ((once, places), (among, slice(-1)))
    )
    if _first_apart(here, there, tolerance):
        with seeding(3):
            twice = encoder.capture(batch, names, _some_tokens(encoder, batch))
        if tap := _first_apart(once, twice, tolerance):
            return f"{encoder.name} gives other activations for the same input, first at {tap}, {drawn}", False
        if tap := _first_apart(here, there, max(tolerance, SAME)):
            return (
                f"{encoder.name} gives a sample other activations when other samples are in its batch, first at {tap}, "
                "so all numbers depend on --batch-size. Take what mixes samples out of it (statistics of a batch, time "
                "before samples) and give --fresh."
            ), alike
    return "", alike


def _first_apart(one: Mapping[str, Tensor], two: Mapping[str, Tensor], share: float) -> str:
    """The first tap of the second that lies apart, "" where none does."""
    return next((tap for tap in two if (one[tap] - two[tap]).norm() > share * one[tap].norm()), "")


def _padding(encoder: Encoder, dataset: Dataset, taps: Sequence[Tap], samples: Sequence[np.ndarray]) -> list[str]:
    """A sentence where tokens of padding may pass for data: samples differ in length, and no `valid` was declared.

    Pixels and frames are brought to one size.
    """
    pooled = [tap.name for tap in taps if tap.grid.tokens > 1 and encoder.modality not in ("image", "video")]
    # Steps without the padding on the left.
    lengths = sorted(
        x.shape[0] - int(np.isfinite(x).reshape(len(x), -1).any(axis=1).argmax()) if x.ndim else len(str(x))
        for x in (samples if pooled else ())
    )
    return [
        f"Beware: samples of {dataset.name} differ in length (from {lengths[0]} to {lengths[-1]} in the first "
        f"{len(lengths)}), and {encoder.name} does not say which of its tokens stand for data, so that padding counts "
        f"in its means, as at {tap}: give valid= of its diagnostics.TorchEncoder, and --fresh."
        for tap in pooled[:1]
        if getattr(encoder, "_valid", True) is None and lengths[0] < lengths[-1]
    ]


def _cut_texts(encoder: Encoder, dataset: Dataset) -> list[str]:
    """A sentence where texts fill what an encoder takes of one: another text behind them changes nothing."""
    texts = [dataset[i] for i in row_order(len(dataset))[:TEXTS].tolist()] if encoder.modality == "text" else []
    full = 0
    with suppress(Exception):  # where more text is refused, none is cut
        for text, other in zip(texts, reversed(texts), strict=True):
            full += _digest(encoder.preprocess(text)) == _digest(encoder.preprocess(np.asarray(f"{text} {other}")))
    return [
        f"Beware: {full} of {len(texts)} texts of {dataset.name} fill what {encoder.name} takes of one, and what lies "
        "beyond is cut: give it more (?length= of tokens), or shorter texts, and --fresh."
    ] * bool(full)


def _other_output(encoder: Encoder, batch: Any, captured: Mapping[str, Tensor], passes: Sequence[Call]) -> list[str]:
    """A sentence where a module returns other values than its output tap, as if they were that: in the same shape.

    None where that is not its last tap: what follows is a head.
    """
    tap = encoder.taps[-1]
    if tap.name != encoder.output_tap or tap.name not in captured or tap.site is None or len(passes) != 1:
        return []
    try:
        tokens = as_tokens(tap, replace(tap.site, item=0), passes[0].output)
    except DiagnosticsError:  # of another shape
        return []
    alike = len(tokens) != len(captured[tap.name]) or not _first_apart(
        captured, {tap.name: _some_tokens(encoder, batch)(tap, tokens)}, RETURNED
    )
    return (
        []
        if alike
        else [
            f"Beware: {encoder.name} returns other values than its last tap, {tap.name}, which stands for its output: "
            'to measure what it returns, declare diagnostics.Site("") as the last tap of a diagnostics.TorchEncoder, '
            "and give --fresh."
        ]
    )


def _some_tokens(encoder: Encoder, batch: Any) -> Reduce:
    """The function from a tap's tokens to some of them, with zeros where no data are: there anything may stand."""

    def reduce(tap: Tap, tokens: Tensor) -> Tensor:
        if (valid := encoder.valid(batch, tap)) is not None:
            data = torch.nn.functional.pad(valid.to(tokens.device, torch.bool), (tap.grid.prefix, 0), value=True)
            tokens = tokens.masked_fill(~data[..., None], 0)
        return tokens[:, :: -(-tokens.shape[1] // MOST_TOKENS)].to("cpu", torch.float64, copy=True)

    return reduce


def _bits(sample: np.ndarray) -> tuple[Any, ...]:
    return sample.dtype, sample.shape, sample.tobytes()


def _digest(prepared: Any) -> str:
    return digest_of({key: torch.as_tensor(value) for key, value in by_name(prepared).items()})


Load = Callable[[Encoder, Dataset, int], Any]
"""What a pass is given of a sample."""


def prepare(encoder: Encoder, dataset: Dataset, sample: int) -> Any:
    """A sample as the model takes it."""
    return encoder.preprocess(dataset[sample])


class _Batches(TorchDataset[Any]):
    """Preprocessed batches for a DataLoader.

    An error is returned as a value, since a worker process can pass that on.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset, batches: Sequence[np.ndarray], load: Load) -> None:
        self.encoder, self.dataset, self.batches, self.load = encoder, dataset, batches, load
        self.order = row_order(len(dataset))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        samples: list[Any] = []
        for i in self.order[self.batches[index]]:
            try:
                samples.append(self.load(self.encoder, self.dataset, int(i)))
            except DiagnosticsError as error:
                code = "bad-sample" if error.code == "other" else error.code
                return DiagnosticsError(f"Sample {self.dataset.ids[i]}: {error}", code=code)
            except (Exception, SystemExit) as error:
                failure = DiagnosticsError(
                    f"Sample {self.dataset.ids[i]} of {self.dataset.name} cannot be prepared for {self.encoder.name}: "
                    f"{describe(error)}",
                    code="foreign-error",
                )
                # A chained error would stay behind in the worker's process.
                failure.add_note(traceback.format_exc())
                return failure
        try:
            return default_collate(samples)
        except (RuntimeError, TypeError) as error:
            return DiagnosticsError(
                f"Samples of {self.dataset.name} do not form a batch ({str(error).splitlines()[0]}): if their sizes "
                f"differ, let the encoder bring them to one (size= beside a bare module).",
                code="bad-shape",
            )


def prepare_batches(
    encoder: Encoder, dataset: Dataset, batches: Sequence[np.ndarray], workers: int, load: Load = prepare
) -> Generator[Any]:
    """The preprocessed, collated batch of each array of row positions, in order; close it where it is left early.

    Raises DiagnosticsError for a sample that cannot be prepared, where samples do not form a batch, and where a worker
    process is ended from outside.
    """
    if workers and sys.platform != "linux":
        # Elsewhere system libraries may hang or crash after a fork, and what encoders prepare with seldom can be
        # pickled.
        raise DiagnosticsError(
            "Workers are forked, which only Linux does safely: leave --workers out.", code="unsupported"
        )
    # A generator of its own, as the loader would draw a seed for its workers from the global one.
    loader: Any = DataLoader(
        _Batches(encoder, dataset, batches, load),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        generator=torch.Generator(),
        # From pinned memory a copy to a GPU waits for nobody.
        pin_memory=torch.cuda.is_initialized(),
    )
    with _worker_errors(dataset):
        batches_in_order = iter(loader)
    with hold_worker_ends() if workers else contextlib.nullcontext(contextlib.ExitStack) as waiting:
        try:
            while True:
                with _worker_errors(dataset), waiting():
                    batch = next(batches_in_order, None)
                if batch is None:
                    return
                if isinstance(batch, DiagnosticsError):
                    raise batch
                yield batch
        finally:
            # Workers end with it, and one that was killed is not to be heard of after that.
            del batches_in_order


@contextlib.contextmanager
def _worker_errors(dataset: Dataset) -> Generator[None]:
    """Turn what torch raises where a worker was ended into one sentence."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        # The latter two come of a batch that was being handed over: a sample's own errors are values here.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        # Its frames keep the loader's iterator.
        traceback.clear_frames(error.__traceback__)
        raise DiagnosticsError(
            f"A process that prepares samples of {dataset.name} was ended ({describe(error)}), perhaps because memory "
            f"ran out: give fewer --workers.",
            code="process-ended",
        ) from error


# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that glibc takes on a 64-bit machine; blocks beyond it come from the kernel and go back to it.
_MMAP_THRESHOLD = 32 * 2**20
KEPT = 512 * 2**20
"""Bytes of freed memory that a process may keep."""


def keep_freed_memory() -> None:
    """From here on glibc keeps up to `KEPT` bytes that are freed; nothing happens with another C library.

    By default it hands large blocks back to the kernel, which clears them page by page when the next batch asks for
    them: a tenth of the CPU time of a small encoder's forward pass (benchmarks/cka.py measures it).
    """
    # Not every C library has mallopt, and not every system lets itself be asked for its C library so.
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
