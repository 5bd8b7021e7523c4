"""Captions that were made, one a line of a file that only grows: a killed command finds there what it had paid for."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from diagnostics import DiagnosticsError

ENTRIES = {"key": str, "clip": str, "column": str, "model": str, "text": str}
"""What a line holds; `key` decides, and the others are for people."""


def key_of(*parts: Any) -> str:
    """A digest of what decides a caption: the clip, the model, the prompt."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


class Cache:
    """Captions by key. Used as a context, in which one process holds the file.

    A line without an end, as a kill leaves it, is taken off. Raises DiagnosticsError where another process holds the file, where it
    cannot be written, and for a line that is no entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._texts: dict[str, str] = {}

    def __enter__(self) -> Cache:
        self._open = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            opening.enter_context(_held(self.path))
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
            try:
                entry = json.loads(line)
                if not all(isinstance(entry[name], kind) for name, kind in ENTRIES.items()):
                    raise ValueError("an entry is no text")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DiagnosticsError(
                    f"Line {number} of {self.path} is no caption that was kept there: remove that line, or the file, and give the "
                    "same command again."
                ) from error
            self._texts[entry["key"]] = entry["text"]
        self._file.truncate(len(whole))

    def get(self, key: str) -> str | None:
        """The caption of a key; None where it was not made yet."""
        return self._texts.get(key)

    def put(self, key: str, clip: str, column: str, model: str, text: str) -> None:
        """Keeps a caption, on disk before this returns."""
        entry = {"key": key, "clip": clip, "column": column, "model": model, "text": text}
        with _writing(self.path):
            self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        self._texts[key] = text


@contextlib.contextmanager
def _writing(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise DiagnosticsError(
            f"{path} cannot be written ({error.strerror or error}): choose another file with --out."
        ) from error


@contextlib.contextmanager
def _held(path: Path) -> Generator[None]:
    """Holds the file for this process; the system frees it if the process dies. The lock's own file stays, since another process may
    have opened it already."""
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except filelock.Timeout as error:
        raise DiagnosticsError(
            f"Another process is writing {path}: wait for it, or choose another file with --out."
        ) from error
    try:
        yield
    finally:
        lock.release()
