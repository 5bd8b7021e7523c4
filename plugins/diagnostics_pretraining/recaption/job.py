"""Fills the three columns of a table of clips, each caption once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostics import Dataset, DiagnosticsError, Progress, build, watcher
from diagnostics_pretraining.recaption.cache import Cache, key_of
from diagnostics_pretraining.recaption.captioner import Captioner, ModelCaptioner
from diagnostics_pretraining.recaption.clips import Clip, check_clips, clip_of, digest_of
from diagnostics_pretraining.recaption.notes import notes_on
from diagnostics_pretraining.recaption.rules import NAME, Rules
from diagnostics_pretraining.recaption.summary import ASKED, FirstKnown, ModelSummariser, Summariser, notes_text
from diagnostics_pretraining.recaption.table import COLUMNS, write_table

PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Job:
    """What `diagnostics recaption` is asked for; fields are its options."""

    data: str
    captioner: str
    out: Path
    table: Path | None
    summary: str | None
    prompt: str
    frame_prompt: str
    tokens: int
    mistakes: float | None
    seed: int | None
    precision: str
    device: str


@dataclass(frozen=True)
class Captioned:
    """What came of it: captions that were made now and taken from the cache, and clips whose column stayed empty."""

    out: str
    clips: int
    new: int
    kept: int
    empty: dict[str, int]
    captioner: str
    summary: str


def recaption(job: Job) -> Captioned:
    """Captions all clips of a dataset, goes on with what was interrupted, and writes the table at the end.

    Captions stand in the file beside the table from the moment that they are made. Raises DiagnosticsError before any work where
    `out` is a file that this command did not write.
    """
    _check(job)
    kept_in = job.out.with_name(f"{job.out.name}.cache")
    if job.out.exists() and not kept_in.is_file():
        raise DiagnosticsError(
            f"{job.out} is there, and {kept_in.name} is not in that folder, so this command did not write the table: choose another file with "
            "--out."
        )
    dataset: Dataset = build("dataset", job.data)
    check_clips(dataset)
    notes = notes_on(dataset, job.table)
    captioner = _captioner(job, dataset)
    summariser: Summariser = (
        FirstKnown() if job.summary is None else ModelSummariser(job.summary, job.tokens, job.device, job.precision)
    )
    rows: list[dict[str, Any]] = []
    with Cache(kept_in) as cache, watcher() as watch:
        columns = Columns(job, captioner, summariser, cache)
        for row in range(len(dataset)):
            clip = clip_of(dataset, row, **notes[row])
            watch(Progress("captioning", row, len(dataset), clip.id))
            rows.append(columns.filled(clip))
        watch(Progress("captioning", len(dataset), len(dataset)))
        write_table(job.out, rows)
    empty = {name: count for name in COLUMNS if (count := sum(_lacks(row[name]) for row in rows))}
    return Captioned(str(job.out), len(rows), columns.new, columns.kept, empty, captioner.name, summariser.name)


class Columns:
    """The columns of one clip after the other; counts captions that were made and that were there."""

    def __init__(self, job: Job, captioner: Captioner, summariser: Summariser, cache: Cache) -> None:
        self.job, self.captioner, self.summariser, self.cache = job, captioner, summariser, cache
        self.new = self.kept = 0

    def filled(self, clip: Clip) -> dict[str, Any]:
        """A row of the table; what no model says is None."""
        frames = [self._of_frame(clip, frame) for frame in range(len(clip.frames))]
        whole = self._of_clip(clip) if len(frames) > 1 else frames[0]
        notes = notes_text(clip, whole, frames if len(frames) > 1 else ())
        caption = self._once(
            clip, "caption", self.summariser, key_of(notes, ASKED),
            lambda: self.summariser.summarise(clip, notes, whole or ""),
        ) if notes else ""  # fmt: skip
        written = {"title": clip.title, "human_caption": clip.human_caption}
        return {
            "id": clip.id,
            **{name: text for name, text in written.items() if text},
            "video_caption": whole or None,
            "frame_captions": frames,
            "caption": caption or None,
        }

    def _of_clip(self, clip: Clip) -> str | None:
        if not self.captioner.videos:
            return None
        prompt = self.job.prompt
        return self._once(
            clip, "video_caption", self.captioner, key_of(digest_of(clip.frames), prompt),
            lambda: self.captioner.caption_clip(clip, prompt),
        )  # fmt: skip

    def _of_frame(self, clip: Clip, frame: int) -> str:
        prompt = self.job.frame_prompt
        return self._once(
            clip, f"frame_captions[{frame}]", self.captioner, key_of(digest_of(clip.frames[frame]), prompt),
            lambda: self.captioner.caption_frame(clip, frame, prompt),
        )  # fmt: skip

    def _once(
        self, clip: Clip, column: str, model: Captioner | Summariser, asked: str, answer: Callable[[], str]
    ) -> str:
        key = key_of(clip.id, column, model.identity, asked)
        text = self.cache.get(key)
        if text is not None:
            self.kept += 1
            return text
        text = answer()
        self.cache.put(key, clip.id, column, model.name, text)
        self.new += 1
        return text


def _lacks(entry: Any) -> bool:
    """Whether a column says nothing: no text, or a frame without one."""
    return not (all(entry) if isinstance(entry, list) else entry)


def _captioner(job: Job, dataset: Dataset) -> Captioner:
    if job.captioner == NAME:
        return Rules(dataset, job.mistakes or 0.0, job.seed or 0)
    given = [f"--{name}" for name in ("mistakes", "seed") if getattr(job, name) is not None]
    if given:
        raise DiagnosticsError(
            f"{' and '.join(given)} is of captioner {NAME}, and {job.captioner} is a model that answers alike each time: leave it out."
        )
    return ModelCaptioner(job.captioner, job.tokens, job.device, job.precision)


def _check(job: Job) -> None:
    if not 1 <= job.tokens < math.inf:
        raise DiagnosticsError(f"A caption of {job.tokens} tokens does not exist: give --tokens 1 or more.")
    if job.precision not in PRECISIONS:
        raise DiagnosticsError(f"Unknown precision '{job.precision}': give {' or '.join(PRECISIONS)}.")
    if job.out.is_dir() or job.out.suffix != ".jsonl":
        raise DiagnosticsError(f"The table {job.out} must have a name that ends in .jsonl: correct --out.")
    for option, prompt in (("--prompt", job.prompt), ("--frame-prompt", job.frame_prompt)):
        if not prompt.strip():
            raise DiagnosticsError(f"{option} is empty, so that nothing is asked: give a question, or leave it out.")
