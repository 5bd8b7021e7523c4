"""New captions for clips: the table that holds them, and `diagnostics recaption`, which writes it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from diagnostics_data.shapes.dataset import Shapes
from diagnostics_data.shapes.world import COLOURS, SHAPES, TEXTURES
from diagnostics_files.folder import file
from diagnostics_files.tables import SUFFIXES, column, read_table
from diagnostics_timm.weights import quiet
from diagnostics_training.alignment.decoder import decoder_named

from diagnostics.plugin import (
    Dataset,
    DiagnosticsError,
    Progress,
    build,
    explaining,
    lock,
    refuse_values,
    watcher,
    whole_file,
)
from diagnostics_pretraining.captioner import (
    CLIP_PROMPT,
    FRAME_PROMPT,
    Clip,
    ModelCaptioner,
    clip_of,
    digest_of,
    folder_digest,
)
from diagnostics_pretraining.objective import outline_of, shards_of
from diagnostics_pretraining.recipe import RecaptionJob

# The table of captions that `recaption` writes, and data with its captions in place of their own.


COLUMNS = ("video_caption", "frame_captions", "caption")


def recaptioned(table: str, data: str, caption: str) -> Dataset:
    """See `plugin.recaptioned`."""
    path = file(table, "recaptioned", SUFFIXES)
    dataset: Dataset = build("dataset", data)
    columns = read_table(path)
    ids = [str(entry) for entry in column(columns, "id", path)]
    texts = dict(zip(ids, column(columns, caption, path, "caption"), strict=True))
    wanted = list(map(str, dataset.ids))
    if lacking := [name for name in wanted if name not in texts]:
        raise DiagnosticsError(
            f"{path} has no row for {len(lacking)} of the {len(dataset)} samples of {data}, {lacking[0]} first: "
            f"caption all of them with `diagnostics recaption`, from the same data.",
            code="bad-data",
        )
    if empty := [name for name in wanted if not isinstance(texts[name], str) or not texts[name].strip()]:
        raise DiagnosticsError(
            f"{path} has no {caption} for {len(empty)} of the {len(dataset)} samples of {data}, {empty[0]} first: fill "
            f"it in, or name another column with ?caption=.",
            code="bad-sample",
        )
    return Recaptioned(dataset, [str(texts[name]).strip() for name in wanted])


class Recaptioned(Dataset):
    """A dataset with other texts; samples, splits, groups and targets stay as they are."""

    def __init__(self, dataset: Dataset, texts: Sequence[str]) -> None:
        super().__init__(
            dataset.name,
            dataset.modality,
            dataset.samples,
            dataset.ids,
            dataset.split.tolist(),
            dataset.targets,
            groups=dataset.groups.tolist(),
            about=dataset.about,
            rate=dataset.rate,
            ragged=dataset.ragged,
            texts=texts,
            extras=dataset.extras,
        )
        self._dataset, self.shards = dataset, shards_of(dataset)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the dataset's own fingerprint and the texts; made when first asked for."""
        return self._digest(self._dataset.fingerprint)

    @property
    def outline(self) -> str:
        """The same of the dataset's outline; see `objective.outline_of`."""
        return self._digest(outline_of(self._dataset))

    def _digest(self, dataset: str) -> str:
        return hashlib.sha256((dataset + "".join(f"\x1f{text}" for text in self.texts)).encode()).hexdigest()


# Fills the three columns of a table of clips, each caption once.


# Captions that were made, one a line of a file that only grows: a killed command finds there what it had paid for.

ENTRIES = {"key": str, "clip": str, "column": str, "model": str, "text": str}
"""What a line holds; `key` decides, and the others are for people."""


def key_of(*parts: Any) -> str:
    """A digest of what decides a caption: the clip, the model, the prompt."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


class Cache:
    """Captions by key. Used as a context, in which one process holds the file.

    A line without an end, as a kill leaves it, is taken off. Raises DiagnosticsError where another process holds the
    file, where it cannot be written, and for a line that is no entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._texts: dict[str, str] = {}

    def __enter__(self) -> Cache:
        with contextlib.ExitStack() as opening:
            opening.enter_context(lock(self.path, "wait for it, or choose another file with --out"))
            with _writing(self.path):
                self._file = opening.enter_context(self.path.open("ab+"))
                self._read()
            self._open = opening.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            with explaining(
                f"Line {number} of {self.path} is no caption that was kept there",
                "remove that line, or the file, and give the same command again",
                "damaged",
            ):
                entry = json.loads(line)
                if not all(isinstance(entry[name], kind) for name, kind in ENTRIES.items()):
                    raise ValueError("an entry is no text")
            self._texts[entry["key"]] = entry["text"]
        self._file.truncate(len(whole))

    def get(self, key: str) -> str | None:
        """The caption of a key; None where it was not made yet."""
        return self._texts.get(key)

    def put(self, key: str, clip: str, column: str, model: str, text: str) -> None:
        """Keep a caption, on disk before this returns."""
        entry = {"key": key, "clip": clip, "column": column, "model": model, "text": text}
        with _writing(self.path):
            self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        self._texts[key] = text


def _writing(path: Path) -> contextlib.AbstractContextManager[None]:
    return explaining(f"{path} cannot be written", "choose another file with --out", "unwritable", OSError)


# One caption made of all that is known of a clip, by a causal model, or by a rule where there is none.

ASKED = """Below are notes about one video. Some were written by people, others by programs that looked at the whole \
video or at single frames of it, in their order. Write one caption of the video from them.

- Two or three plain sentences, at most 60 words, in the present tense.
- Name what is seen, where it is and what happens. Leave out what only one frame says where the others say otherwise.
- Where notes contradict each other, trust people first, then the note on the whole video, then those on frames.
- Add nothing that no note says. Mention neither notes, nor frames, nor that this is a video.

{notes}

Caption:"""


class FirstKnown:
    """The caption that a person wrote where there is one, else that of the whole clip.

    That is what there is without a model.
    """

    name = identity = "first known"

    def summarise(self, clip: Clip, notes: str, video_caption: str) -> str:
        return clip.human_caption or video_caption


class ModelSummariser:
    """A causal model in a folder, asked by its chat template where it has one; the most probable token each time."""

    def __init__(self, name: str, tokens: int, device: str, precision: str) -> None:
        self.name = name
        self._decoder = decoder_named(name, (), half=precision == "bf16")
        self._model: Any = self._decoder.model.to(device)
        self._tokens, self._device = tokens, device
        self.identity = f"{folder_digest(Path(name).expanduser())} tokens={tokens} {precision}"

    def summarise(self, clip: Clip, notes: str, video_caption: str) -> str:
        prompt = ASKED.format(notes=notes)
        tokenizer = self._decoder.tokenizer
        if tokenizer.chat_template is not None:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            ids = self._decoder.tokens(text)
        else:
            ids = [self._decoder.start, *self._decoder.tokens(prompt)]
        most = self._decoder.context
        if most is not None and len(ids) + self._tokens > most:
            raise DiagnosticsError(
                f"The notes on clip {clip.id} are {len(ids)} tokens of {self.name}, which with an answer of "
                f"{self._tokens} are more than its {most}: give clips of fewer frames, or fewer --tokens.",
                code="too-large",
            )
        given = torch.tensor([ids], device=self._device)
        with (
            explaining(
                f"{self.name} fails on the notes on clip {clip.id}",
                "give another --summary; captions that are made stay",
            ),
            quiet(),
            torch.no_grad(),
        ):
            answer = self._model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=self._tokens,
                do_sample=False,
                num_beams=1,
                eos_token_id=self._decoder.end,
                pad_token_id=self._decoder.end,
            )
        return " ".join(tokenizer.decode(answer[0, len(ids) :], skip_special_tokens=True).split())


Summariser = FirstKnown | ModelSummariser
"""Has a `name`, and an `identity` that changes whenever what it says of the same notes may change."""


def notes_text(clip: Clip, video_caption: str | None, frame_captions: Sequence[str]) -> str:
    """All that is known of a clip, a line each, people's words first."""
    lines = [("Title, by a person", clip.title), ("Caption, by a person", clip.human_caption)]
    lines.append(("The whole video", video_caption or ""))
    lines += [(f"Frame {i}", text) for i, text in enumerate(frame_captions, 1)]
    return "\n".join(f"{name}: {text}" for name, text in lines if text)


# A captioner that knows the truth of `shapes` and is wrong as often as one wants, so that the loop can be tried without
# a model.

NAME = "rules"
KINDS = (tuple(COLOURS), tuple(TEXTURES), SHAPES)
_KIND_OF = {word: kind for kind in KINDS for word in kind}
_WORD = re.compile(rf"\b({'|'.join(_KIND_OF)})\b")
_ARTICLE = re.compile(r"\ban? (?=([a-z]))")


class Rules:
    """Says what a clip of `shapes` shows.

    Of the colours, textures and shapes that it names, the share `mistakes` is replaced by another of its kind, drawn
    for each by itself.

    Raises DiagnosticsError for other data and for a share that is none.
    """

    videos = True

    def __init__(self, dataset: Dataset, mistakes: float, seed: int) -> None:
        if not isinstance(dataset, Shapes):
            raise DiagnosticsError(
                f"Captioner rules knows the ground truth of `shapes` only, not of {dataset.name}: give --data "
                f"'shapes?frames=8', or the folder of a model.",
                code="other-modality",
            )
        refuse_values(
            (not 0 <= mistakes <= 1, f"A share of mistakes of {mistakes:g} does not exist: give --mistakes 0 to 1."),
            (seed < 0, f"Captioner rules cannot have --seed {seed}: give 0 or more."),
        )
        self.dataset, self.mistakes, self.seed = dataset, mistakes, seed
        self.name, self.identity = NAME, f"{NAME} mistakes={mistakes!r} seed={seed}"

    def caption_clip(self, clip: Clip, prompt: str) -> str:
        return self._make_mistakes(self.dataset.texts[clip.row], clip.id, -1)

    def caption_frame(self, clip: Clip, frame: int, prompt: str) -> str:
        return self._make_mistakes(self.dataset.frame_texts[clip.row][frame], clip.id, frame)

    def _make_mistakes(self, text: str, clip: str, frame: int) -> str:
        rng = np.random.default_rng([self.seed, int(key_of(clip, frame)[:16], 16)])

        def word(match: re.Match[str]) -> str:
            others = [other for other in _KIND_OF[match[0]] if other != match[0]]
            # Both are drawn for every word, so that more mistakes keep those that there were.
            wrong, other = rng.random() < self.mistakes, others[rng.integers(len(others))]
            return other if wrong else match[0]

        return _ARTICLE.sub(lambda match: "an " if match[1] in "aeiou" else "a ", _WORD.sub(word, text))


Captioner = ModelCaptioner | Rules
"""Has a `name`, an `identity` that changes whenever what it says of the same clip may change, and `videos`: whether it
captions several frames at once.
"""

# What people wrote about clips: titles and captions of a table, joined by id.

WRITTEN = ("title", "human_caption")
"""Columns that are read; at least one of them must be there."""


def notes_on(dataset: Dataset, table: Path | None) -> list[dict[str, str]]:
    """Of each sample the columns `WRITTEN` that the table has for its id, or else for its group (the file of a clip).

    Raises DiagnosticsError for a table without an id or without any of these columns, for an id that stands there
    twice, and for one that is of no sample.
    """
    if table is None:
        return [{} for _ in range(len(dataset))]
    columns = read_table(table)
    names = [str(entry) for entry in column(columns, "id", table)]
    there = [name for name in WRITTEN if name in columns]
    if not there:
        raise DiagnosticsError(
            f"{table} has neither a column title nor a column human_caption but {', '.join(columns)}: name one of its "
            f"columns so.",
            code="unknown-name",
        )
    if repeated := next((name for name, count in Counter(names).items() if count > 1), None):
        raise DiagnosticsError(
            f"{table} has the id {repeated} twice: keep one row for each clip or file.", code="duplicate"
        )
    ids, groups = list(map(str, dataset.ids)), list(map(str, dataset.groups))
    if strange := sorted(set(names) - {*ids, *groups}):
        raise DiagnosticsError(
            f"{table} has {len(strange)} id(s) that neither a clip nor a file of {dataset.name} has, {strange[0]} "
            f"first: ids are as {ids[0]}, or {groups[0]} for all clips of a file.",
            code="bad-data",
        )
    rows = {
        name: {key: " ".join(str(columns[key][i]).split()) for key in there if columns[key][i] is not None}
        for i, name in enumerate(names)
    }
    return [rows.get(one, rows.get(group, {})) for one, group in zip(ids, groups, strict=True)]


PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Captioned:
    """The counts of a recaptioning: captions made now and taken from the cache, and clips whose column stayed empty."""

    out: str
    clips: int
    new: int
    kept: int
    empty: dict[str, int]
    captioner: str
    summary: str


def recaption(job: RecaptionJob) -> Captioned:
    """Captions all clips of a dataset, goes on with what was interrupted, and writes the table at the end.

    Captions stand in the file beside the table from the moment that they are made. Raises DiagnosticsError before any
    work where `out` is a file that this command did not write.
    """
    _check(job)
    kept_in = job.out.with_name(f"{job.out.name}.cache")
    if job.out.exists() and not kept_in.is_file():
        raise DiagnosticsError(
            f"{job.out} is there, and {kept_in.name} is not in that folder, so this command did not write the table: "
            f"choose another file with --out.",
            code="occupied",
        )
    dataset: Dataset = build("dataset", job.data)
    if dataset.modality not in ("video", "image"):
        raise DiagnosticsError(
            f"{dataset.name} holds {dataset.modality} samples, and captions are of what can be seen: give "
            f"`videos:FOLDER`, `images:FOLDER` or `shapes?frames=8`.",
            code="other-modality",
        )
    notes = notes_on(dataset, job.table)
    captioner = _captioner(job, dataset)
    summariser: Summariser = (
        FirstKnown()
        if job.summary is None
        else ModelSummariser(job.summary, job.tokens, job.device or "cpu", job.precision)
    )
    rows: list[dict[str, Any]] = []
    with Cache(kept_in) as cache, watcher() as watch:
        columns = Columns(job, captioner, summariser, cache)
        for row in range(len(dataset)):
            clip = clip_of(dataset, row, **notes[row])
            watch(Progress("captioning", row, len(dataset), clip.id))
            rows.append(columns.row_of(clip))
        watch(Progress("captioning", len(dataset), len(dataset)))
        with whole_file(job.out) as written:
            written.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    empty = {name: count for name in COLUMNS if (count := sum(_lacks(row[name]) for row in rows))}
    return Captioned(
        out=str(job.out),
        clips=len(rows),
        new=columns.new,
        kept=columns.kept,
        empty=empty,
        captioner=captioner.name,
        summary=summariser.name,
    )


class Columns:
    """The columns of one clip after the other; counts captions that were made and that were there."""

    def __init__(self, job: RecaptionJob, captioner: Captioner, summariser: Summariser, cache: Cache) -> None:
        self.job, self.captioner, self.summariser, self.cache = job, captioner, summariser, cache
        self.new = self.kept = 0

    def row_of(self, clip: Clip) -> dict[str, Any]:
        """A row of the table; what no model says is None."""
        frames = [self._of_frame(clip, frame) for frame in range(len(clip.frames))]
        whole = self._of_clip(clip) if len(frames) > 1 else frames[0]
        notes = notes_text(clip, whole, frames if len(frames) > 1 else ())
        caption = (
            self._once(
                clip,
                "caption",
                self.summariser,
                key_of(notes, ASKED),
                lambda: self.summariser.summarise(clip, notes, whole or ""),
            )
            if notes
            else ""
        )
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
        prompt = self.job.prompt or CLIP_PROMPT
        return self._once(
            clip,
            "video_caption",
            self.captioner,
            key_of(digest_of(clip.frames), prompt),
            lambda: self.captioner.caption_clip(clip, prompt),
        )

    def _of_frame(self, clip: Clip, frame: int) -> str:
        prompt = self.job.frame_prompt or FRAME_PROMPT
        return self._once(
            clip,
            f"frame_captions[{frame}]",
            self.captioner,
            key_of(digest_of(clip.frames[frame]), prompt),
            lambda: self.captioner.caption_frame(clip, frame, prompt),
        )

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
    """A column that says nothing: no text, or a frame without one."""
    return not (all(entry) if isinstance(entry, list) else entry)


def _captioner(job: RecaptionJob, dataset: Dataset) -> Captioner:
    if job.captioner == NAME:
        return Rules(dataset, job.mistakes or 0.0, job.seed or 0)
    given = [f"--{name}" for name in ("mistakes", "seed") if getattr(job, name) is not None]
    if given:
        raise DiagnosticsError(
            f"{' and '.join(given)} is of captioner {NAME}, and {job.captioner} is a model that answers alike each "
            f"time: leave it out.",
            code="no-effect",
        )
    return ModelCaptioner(job.captioner, job.tokens, job.device or "cpu", job.precision)


def _check(job: RecaptionJob) -> None:
    refuse_values(
        (
            not 1 <= job.tokens < math.inf,
            f"A caption of {job.tokens} tokens does not exist: give --tokens 1 or more.",
        ),
        (
            job.out.is_dir() or job.out.suffix != ".jsonl",
            f"The table {job.out} must have a name that ends in .jsonl: correct --out.",
        ),
        (
            job.precision not in PRECISIONS,
            f"Unknown precision '{job.precision}': give {' or '.join(PRECISIONS)}.",
            "unknown-name",
        ),
    )
    for option, prompt in (("--prompt", job.prompt), ("--frame-prompt", job.frame_prompt)):
        if prompt is not None and not prompt.strip():
            raise DiagnosticsError(
                f"{option} is empty, so that nothing is asked: give a question, or leave it out.", code="no-effect"
            )
