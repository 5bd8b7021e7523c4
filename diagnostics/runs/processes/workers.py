"""Processes beside a run's own, which pass batches, and find in the store what measures need of each tap.

The latter is handed to the measures (`Activations.ready`), which find in the run's process whatever is not there. So
nothing is decided here: without the processes, or with a measure that they cannot make, all is the same and takes
longer.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from diagnostics.activations.contract import Activations, StoredTarget, shuffle
from diagnostics.activations.place import Location
from diagnostics.activations.store import Store
from diagnostics.errors import DiagnosticsError, StorageError, describe
from diagnostics.measures.apply import Measured, measure_all
from diagnostics.measures.base import Measure
from diagnostics.measures.threads import one_thread
from diagnostics.progress import Progress, Watch
from diagnostics.registry import plugin_entries
from diagnostics.runs.machine import free_bytes, resident_bytes, usable_cores
from diagnostics.runs.setup import select_measures
from diagnostics.runs.streaming.block_sums import Read
from diagnostics.runs.streaming.stream import solve_at

LOG = logging.getLogger("diagnostics")


class Submits(Protocol):
    """The method that an executor needs: Dask's, submitit's and Python's own have it."""

    def submit(self, act: Callable[..., Any], /, *args: Any) -> Any:
        """Has a function called elsewhere; what it returns has `result()`."""
        ...


PROCESS_BYTES = 2 * 10**9
"""Memory that a process may need: libraries, pooled values that it keeps, and what it computes with."""
WORTH = 5.0
"""CPU seconds of work from which other processes are started, each of which takes 2 to 3 to start."""


def default_jobs(most: int) -> int:
    """As many processes as there are cores and memory for, each of which builds what this one has built."""
    return max(1, min(most, usable_cores(), int(min(most, free_bytes() / max(PROCESS_BYTES, resident_bytes())))))


@dataclass(frozen=True)
class Source:
    """The activations that tasks read: all that a process needs to see those that the run sees."""

    place: Location
    members: Mapping[str, Any]
    """Members in which they may differ from the store."""
    permute: bool
    digest: str
    """Of the store's description: a process of an executor may have opened another that was there."""

    def open(self) -> tuple[Store, dict[str, StoredTarget]]:
        """The activations, and their targets by name."""
        store, targets = _open(self.place, self.digest)
        activations = store.with_other(**self.members)
        return activations, shuffle(activations, targets) if self.permute else targets


@functools.lru_cache(maxsize=1)
def _open(place: Location, digest: str) -> tuple[Store, dict[str, StoredTarget]]:
    store = Store(place)
    if store.attrs["digest"] != digest:
        raise StorageError(f"{place} is not the run that is measured.", code="other-run")
    return store, store.targets()


Item = TypeVar("Item")
Pair = tuple[str, str]
"""The names of a measure and of a target, "" for none."""
_Found = tuple[tuple[str, str], Any]
"""A key of `Activations.ready`, and what was found."""


@dataclass(frozen=True)
class Task:
    """Measures with their targets at one tap, or one that has no part of a tap, whole (`tap` "")."""

    tap: str
    pairs: tuple[Pair, ...]

    def find(self, activations: Store, targets: Mapping[str, StoredTarget]) -> Iterator[_Found]:
        """All that is found, with its key of `Activations.ready`; what fails does so again where it is asked for."""
        tap = next((tap for tap in activations.taps if tap.name == self.tap), None)
        for name, of in self.pairs:
            with contextlib.suppress(Exception, SystemExit):
                measure, target = measure_named(name), targets[of] if of else None
                if tap:
                    found = measure.at_tap(activations, target, tap, activations.seed)
                else:
                    found = measure.compute(activations, target, activations.seed)
                yield (measure.key(target), self.tap), found


@dataclass(frozen=True)
class Solving(Task):
    """Measures with streamed targets at one tap, fitted together from the sums in the store."""

    ways: tuple[tuple[bool, bool], ...]
    """Of each pair, whether its target is shuffled, and whether it is read from the samples of controls alone."""

    def find(self, activations: Store, targets: Mapping[str, StoredTarget]) -> Iterator[_Found]:
        view = activations.with_other(token_samples=len(activations.ids))
        with contextlib.suppress(Exception, SystemExit):
            (tap,) = (tap for tap in view.taps if tap.name == self.tap)
            sets, views = (targets, shuffle(view, targets)), (view, view.with_other(split=view.fewer))
            reads = [
                read
                for (name, of), (mixed, fewer) in zip(self.pairs, self.ways, strict=True)
                for read in Read.of(views[fewer], measure_named(name), sets[mixed][of])
            ]
            yield ("", self.tap), solve_at(view, reads, tap)


@dataclass(frozen=True)
class Opening:
    """A task that opens a source, and finds nothing."""

    def find(self, *_: Any) -> Iterator[_Found]:
        """Nothing."""
        return iter(())


@functools.cache
def measure_named(name: str) -> Measure:
    """The measure of a plugin, the same object each time."""
    return select_measures([name])[0][0]


def tasks_of(measures: Sequence[Measure], activations: Activations, targets: Mapping[str, StoredTarget]) -> list[Task]:
    """The tasks of measures that other processes can make by name; whole ones first, since they take longest."""
    named = plugin_entries("measure")
    parts, whole = list[Pair](), list[Pair]()
    for measure in measures:
        if measure.name not in named:
            LOG.info("%s was handed over as an object, and is measured by one process", measure.name)
            continue
        with contextlib.suppress(Exception, SystemExit):
            # What was streamed is in this process alone.
            streamed = measure.streams if activations.streamed else ()
            theirs = [name for name, of in targets.items() if of.kind not in streamed and measure.reads(of)]
            read = theirs if measure.kinds else [""]
            has_parts = type(measure).at_tap is not Measure.at_tap
            (parts if has_parts else whole).extend((measure.name, name) for name in read)
    at_taps = [Task(tap.name, tuple(parts)) for tap in activations.taps if parts]
    return [*(Task("", (pair,)) for pair in whole), *at_taps]


@dataclass(frozen=True)
class Tasks:
    """Tasks of one store's activations and targets."""

    tasks: Sequence[Task]
    activations: Store
    targets: Mapping[str, StoredTarget]

    @property
    def source(self) -> Source:
        """The same activations for another process."""
        store = self.activations
        members = {name: getattr(store, name) for name in ("taps", "choose_on", "seed", "split", "fewer")}
        place = store.path.absolute() if isinstance(store.path, Path) else store.path
        permute = any(target.shuffled for target in self.targets.values())
        return Source(place, members, permute, store.attrs["digest"])


class Workers:
    """Up to `jobs` processes, this one and others from when work takes long; `close` ends those."""

    def __init__(self, jobs: int, watch: Watch, executor: Submits | None = None) -> None:
        self.jobs, self.watch, self.executor = jobs, watch, executor
        """It does in place of processes what is left when tasks take long."""
        self.ahead = dict[tuple[int, int], dict[tuple[str, str], Any]]()
        """Findings of `measure_ahead`, by activations and targets."""
        self.spent = 0.0
        """CPU seconds of work so far, in this process."""
        self.processes = list[_Process]()
        self.worth = False
        """True once work was worth their time, which opens what it needs there."""
        self.threads = ThreadPoolExecutor(jobs)

    def close(self) -> None:
        """End the others at once, whatever they do."""
        self._end()
        self.threads.shutdown()

    def start(self) -> None:
        """Start the others, which takes seconds, unless they are there."""
        self.processes = self.processes or [_Process() for _ in range(self.jobs - 1)]

    def measure_all(
        self,
        measures: Sequence[Measure],
        activations: Store,
        targets: Mapping[str, StoredTarget],
        *,
        what: str = "",
        asked: Collection[str] = (),
    ) -> Measured:
        """As `measure_all`, tap by tap, so that each is read once; whose parts are shared out."""
        # On a GPU measures compute there, many taps at once.
        if not activations.device.startswith("cuda"):
            ready = self.ahead.pop((id(activations), id(targets)), None)
            if ready is None:
                (ready,) = self.share(
                    [Tasks(tasks_of(measures, activations, targets), activations, targets)], f"measuring {what}"
                )
            activations = activations.with_other(ready=ready)
        return measure_all(measures, activations, targets, asked=asked, what=what, watch=self.watch)

    def measure_ahead(
        self, sets: Sequence[tuple[Sequence[Measure], Store, Mapping[str, StoredTarget]]], what: str
    ) -> None:
        """Share out the parts of later calls of `measure_all` together, so that nobody waits in between."""
        on_cpu = [each for each in sets if not each[1].device.startswith("cuda")]
        found = self.share([Tasks(tasks_of(*each), *each[1:]) for each in on_cpu], f"measuring {what}")
        self.ahead = {(id(store), id(of)): ready for (_, store, of), ready in zip(on_cpu, found, strict=True)}

    def solve(self, store: Store, reads: Sequence[Read], what: str) -> dict[tuple[str, str], Any]:
        """Findings of `solve_at` at each tap, where other processes can make the measures of all reads by name."""
        # Once for all reads of a target.
        each = dict.fromkeys((read.dense.measure, read.target.name, read.target.shuffled, read.fewer) for read in reads)
        of, ways = (
            tuple((measure, target) for measure, target, *_ in each),
            tuple((mixed, fewer) for _, _, mixed, fewer in each),
        )
        tasks = [Solving(tap.name, of, ways) for tap in store.taps]
        return self.share([Tasks(tasks, store, store.targets())], f"solving {what}")[0]

    def share(self, sets: Sequence[Tasks], step: str) -> list[dict[tuple[str, str], Any]]:
        """The findings of all tasks of each set; this process does some of them too."""
        found = [dict[tuple[str, str], Any]() for _ in sets]
        items = [(i, task) for i, each in enumerate(sets) for task in each.tasks]
        if self.executor is not None:
            self._submit(self.executor, items, sets, found)
            return found
        sources, done = [each.source for each in sets], 0
        self.worth |= bool(self.processes)  # a store is soon opened

        def here(item: tuple[int, Task]) -> list[_Found]:
            of, task = item
            self.watch(Progress(f"{step} by tap", done, len(items), task.tap or task.pairs[0][0]))
            return list(task.find(sets[of].activations, sets[of].targets))

        def sent(item: tuple[int, Task]) -> tuple[Source, Task]:
            return sources[item[0]], item[1]

        with one_thread(), contextlib.closing(self.deal(items, here, sent, len(items))) as dealt:
            for (of, _), each in zip(items, dealt, strict=True):
                found[of].update(each)
                done += 1
        self.watch(Progress(f"{step} by tap", len(items), len(items)))
        return found

    def deal(
        self,
        items: Sequence[Item],
        here: Callable[[Item], Any],
        sent: Callable[[Item], tuple[Any, Any]],
        ahead: int,
        first: Callable[[], Any] = lambda: None,
    ) -> Generator[Any]:
        """Deals items out and yields what becomes of each, in their order.

        They are done `here`, and as found by other processes from the source and task that are `sent`; `first` gives
        what is both, and is sent to each process once (None: nothing).

        Nobody begins an item that is so many `ahead` of what was taken. Where it is left early, the others end.
        """
        state, done, failed = threading.Condition(), dict[int, Any](), list[BaseException]()
        begun = given = 0
        over, kept = False, None

        def begin() -> int | None:
            nonlocal begun
            if over or begun >= min(len(items), given + ahead):
                return None
            begun += 1
            return begun - 1

        def put(index: int, found: Any) -> None:
            with state:
                done[index] = found
                state.notify_all()

        def work(process: _Process) -> None:
            nonlocal kept
            opened = False
            try:
                while not over and begun < len(items):
                    if process.has_started():
                        process.hold(kept)
                        if all(each.holds for each in self.processes):
                            kept = None  # up to a gigabyte
                        if not opened:
                            # Of no item yet, for which all others would wait.
                            process.find(sent(items[0])[0], Opening())
                            opened = True
                        with state:
                            if (index := begin()) is None:
                                state.wait(0.1)
                                continue
                        put(index, process.find(*sent(items[index])))
            except BaseException as error:
                with state:
                    failed.append(error)
                    state.notify_all()

        others, seconds, own = list[Future[None]](), 0.0, 0
        try:
            for wanted in range(len(items)):
                while True:
                    with state:
                        if failed:
                            raise failed[0]
                        if wanted in done:
                            found, given = done.pop(wanted), wanted + 1
                            state.notify_all()
                            break
                        if (index := begin()) is None:
                            state.wait()
                            continue
                    # Those ahead are taken to last as long as those that are done.
                    ahead_of_all = self.spent + seconds * len(items) / max(1, own)
                    if not others and (self.worth or ahead_of_all >= WORTH):
                        self.worth = True
                        self.start()
                        kept = None if all(process.holds for process in self.processes) else first()
                        others = [self.threads.submit(work, process) for process in self.processes]
                    start = time.thread_time()
                    put(index, here(items[index]))
                    seconds, own = seconds + time.thread_time() - start, own + 1
                yield found
        finally:
            self.spent += seconds
            over = True
            if given < len(items):
                self._end()
            for other in others:
                other.result()

    def _end(self) -> None:
        for process in self.processes:
            process.end()
        self.processes, self.worth = [], False

    def _submit(
        self,
        executor: Submits,
        items: Sequence[tuple[int, Task]],
        sets: Sequence[Tasks],
        found: Sequence[dict[tuple[str, str], Any]],
    ) -> None:
        """Find tasks, the first in this process and, where they take long, the others by an executor.

        What it fails at is found where it is asked for.
        """
        start, done = time.thread_time(), 0
        with one_thread():
            while done < len(items) and self.spent + (time.thread_time() - start) * len(items) / max(1, done) < WORTH:
                of, task = items[done]
                found[of].update(task.find(sets[of].activations, sets[of].targets))
                done += 1
        self.spent += time.thread_time() - start
        submitted = list[Any]()
        try:
            submitted.extend(executor.submit(find_packed, sets[of].source, task) for of, task in items[done:])
        except Exception as error:  # of any engine
            LOG.info("the executor takes no task: %s", describe(error))
        for i, task in enumerate(submitted):
            self.watch(Progress("measuring by the executor", i, len(submitted)))
            try:
                found[items[done + i][0]].update(unpack(task.result()))
            except Exception as error:
                LOG.info("the executor failed on a task: %s", describe(error))


class _Process:
    """A process that does what it is asked for, of a group of its own: Ctrl-C at a terminal reaches the run alone."""

    def __init__(self) -> None:
        self.ready = self.holds = False
        self.link, theirs = multiprocessing.Pipe()
        with theirs:
            code = f"from diagnostics.runs.processes.workers import serve; serve({theirs.fileno()})"
            # What it prints must not stand among a command's output, and its modules are those of this process.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def has_started(self) -> bool:
        """Test for having its libraries, which takes seconds; waits a moment where it has not."""
        if not self.ready and self.link.poll(0.1):
            self.ready = self._exchange() == []
        return self.ready

    def hold(self, kept: Any) -> None:
        """Send what is its own source and task, unless it was sent or is None."""
        if kept is not None and not self.holds:
            self.find(kept, kept)
            self.holds = True

    def find(self, source: Any, task: Any) -> list[_Found]:
        """As `task.find` of what the source opens there."""
        return unpack(self._exchange((source, task)))

    def _exchange(self, *asked: Any) -> list[_Found]:
        """The next that it sends, after it was sent something."""
        try:
            for each in asked:
                self.link.send(each)
            return self.link.recv()
        except (OSError, EOFError) as error:
            status = self.process.wait()
            raise DiagnosticsError(
                f"A process of this run was ended (status {status}), perhaps because memory ran out: give fewer "
                f"--jobs.",
                code="process-ended",
            ) from error

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.link.close()


def find_packed(source: Source, task: Task) -> list[tuple[tuple[str, str], bytes]]:
    """All that a task finds, with its keys; what cannot be sent is found again where it is asked for."""
    found = list[tuple[tuple[str, str], bytes]]()
    with one_thread():
        try:
            given = source.open()
        except Exception as error:  # of a disk, a bucket, or a run that changed since
            LOG.info("a task finds nothing: %s", describe(error))
            return found
        for key, value in task.find(*given):
            with contextlib.suppress(Exception):  # of a plugin's own type, perhaps
                # Not by a link's own pickles, in which tensors are shared memory.
                found.append((key, pickle.dumps(value)))
    return found


def unpack(found: Iterable[tuple[tuple[str, str], bytes]]) -> list[_Found]:
    """Unpacks the findings of `find_packed`."""
    # Of this run's own processes, or of the caller's executor, which unpickles what tasks return in any case.
    return [(key, pickle.loads(value)) for key, value in found]  # noqa: S301


def serve(link: int) -> None:
    """Do what arrives at the descriptor of a link until the process at its other end closes it, or has ended."""
    connection = Connection(link)
    tasks = queue.SimpleQueue[tuple[Any, Any]]()

    def receive() -> NoReturn:
        # Beside the work, which would else go on for nobody.
        with contextlib.suppress(EOFError, OSError):
            while True:
                tasks.put(connection.recv())
        os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    found = list[tuple[tuple[str, str], bytes]]()
    with one_thread():
        while True:
            connection.send(found)
            found = find_packed(*tasks.get())
