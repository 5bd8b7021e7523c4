"""Forward passes of a run in processes that build its encoder, or a control of it, by name."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from diagnostics.activations.batches import Passed, pass_batch
from diagnostics.activations.contract import Observation
from diagnostics.activations.place import Location
from diagnostics.activations.plan import Plan
from diagnostics.activations.prepare import keep_freed_memory
from diagnostics.activations.run_files import ENCODER
from diagnostics.datasets.dataset import Dataset, at_rows
from diagnostics.encoders.attention.kernel_choice import attention_in
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import computing
from diagnostics.errors import DiagnosticsError, describe
from diagnostics.runs.controls.kinds import control_encoders
from diagnostics.runs.controls.names import WEIGHTS, control_of
from diagnostics.runs.machine import usable_cores
from diagnostics.runs.options import Request
from diagnostics.runs.processes.workers import Opening, measure_named
from diagnostics.runs.setup import Setup


def by_names(request: Request, folder: Location) -> Request:
    """The same request for other processes, which can be compared with others.

    Raises DiagnosticsError where encoder or dataset is no name.
    """
    for name in ("encoder", "dataset"):
        if not isinstance(getattr(request, name), str):
            raise DiagnosticsError(
                f"In other processes the {name} is built anew, and an object cannot be sent there: give its name, as "
                f"on the command line (scheme:name, file.py:function, or a folder that was saved).",
                code="bad-type",
            )
    # Without lists, tasks know the same request again.
    values: dict[str, Any] = {each.name: getattr(request, each.name) for each in fields(request)}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Request(**values | {"out": folder})


HELD_BYTES = 2**30
"""Size of a dataset in memory up to which it is sent to other processes, and not made there again."""
_HELD = dict[Any, Dataset]()
"""Of a process that was sent one: its name, and it."""


@dataclass(frozen=True)
class Held(Opening):
    """A dataset that other processes hold then by its name, packed; a source and its own task."""

    name: Any
    packed: bytes

    @classmethod
    def of(cls, name: Any, dataset: Dataset) -> Held | None:
        """The dataset as arrays, where it is in memory and not too large; None where each process must make it."""
        arrays: list[Any] = [dataset.samples, *(target.values for target in dataset.targets.values())]
        if any(type(each) is not np.ndarray for each in arrays) or sum(each.nbytes for each in arrays) > HELD_BYTES:
            return None
        with contextlib.suppress(Exception):  # of a plugin's own types
            return cls(name, pickle.dumps(at_rows(dataset, np.arange(len(dataset)))))
        return None

    def open(self) -> tuple[()]:
        """Keep the dataset for `setup_of`."""
        # Of this run's own process.
        _HELD[self.name] = pickle.loads(self.packed)  # noqa: S301
        return ()


@functools.lru_cache(maxsize=1)
def setup_of(request: Request) -> Setup:
    """Setup of a request, kept for the next task."""
    return Setup(replace(request, dataset=_HELD.get(request.dataset, request.dataset)))


@contextlib.contextmanager
def threads(count: int) -> Generator[None]:
    """Pass on so many threads while this lasts, with numpy's products of what is passed."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        # Numpy's would else take a core that another process passes on, and wait there.
        with threadpool_limits(count, "blas"):
            yield
    finally:
        torch.set_num_threads(before)


def threads_of(jobs: int) -> int:
    """Threads of a pass where so many processes pass at once."""
    return max(1, min(torch.get_num_threads(), usable_cores()) // jobs)


@dataclass(frozen=True)
class Passing:
    """Passes of a run's encoder, or of a control: all that a process needs to make them as the run does."""

    request: Request
    control: str
    identity: Mapping[str, str]
    """Of what passes here, which is not sent."""
    outline: str
    """Of the dataset, by `outline_of`."""
    plan: Plan
    threads: int

    def open(self) -> tuple[Passing, Encoder | str, Dataset | None]:
        """This with encoder and dataset; in the encoder's place why there is no such one here."""
        try:
            setup = setup_of(self.request)
            encoder, identity, seen = _built(self.request, self.control)
            dataset = setup.control_dataset if control_of(self.control) in WEIGHTS else setup.dataset
            if identity != dict(self.identity) or seen != self.outline:
                return self, "each time that it is built it is another", None
        except Exception as error:
            return self, f"it cannot be built in another process ({describe(error)})", None
        return self, encoder, dataset

    @contextlib.contextmanager
    def passing(self, encoder: Encoder) -> Generator[None]:
        """An encoder on a CPU that passes as it does in the run."""
        model = self.control == ENCODER or control_of(self.control) in WEIGHTS
        compute, kernel = (self.request.compute, self.request.attention) if model else ("float32", "auto")
        with threads(self.threads), encoder.on("cpu"), computing(compute, "cpu"), attention_in(kernel):
            yield


def outline_of(dataset: Dataset) -> str:
    """A digest of ids, splits, and the first and last sample: of all samples, each process would have to read them."""
    digest = hashlib.sha256(repr((list(dataset.ids), list(dataset.split))).encode(errors="surrogatepass"))
    for row in (0, len(dataset) - 1):
        digest.update(np.asarray(dataset[row]).tobytes())
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def _built(request: Request, control: str) -> tuple[Encoder, dict[str, str], str]:
    """The encoder, its identity and the dataset's outline, once for all batches."""
    setup, encoder = setup_of(request), _encoder(request, control)
    dataset = setup.control_dataset if control_of(control) in WEIGHTS else setup.dataset
    return encoder, dict(encoder.identity), outline_of(dataset)


def _encoder(request: Request, control: str) -> Encoder:
    setup = setup_of(request)
    keep_freed_memory()
    if control == ENCODER:
        return setup.encoder
    encoder = control_encoders(setup.encoder, setup.dataset, request.seed, setup.draws)[control]()
    return encoder if control_of(control) in WEIGHTS else encoder.sized_for(setup.dataset[0])


@dataclass(frozen=True)
class Batch:
    """Samples by position; `whole` as of `pass_batch`; `measure`: whose observation is made in the pass ("": none)."""

    positions: np.ndarray
    whole: bool
    measure: str = ""

    @property
    def observation(self) -> Observation | None:
        """The observation of the measure of that name."""
        return measure_named(self.measure).observation if self.measure else None

    def find(
        self, passing: Passing, encoder: Encoder | str, dataset: Dataset | None
    ) -> Iterator[tuple[tuple[str, str], Passed | Exception | str]]:
        """Make its pass: the findings, the error where it fails, or why it cannot be made here, under an empty key."""
        if isinstance(encoder, str) or dataset is None:
            yield ("", ""), str(encoder)
            return
        try:
            with passing.passing(encoder):
                found = pass_batch(encoder, dataset, passing.plan, self.positions, self.whole, self.observation)
        except Exception as error:
            yield ("", ""), error
        else:
            yield ("", ""), found
