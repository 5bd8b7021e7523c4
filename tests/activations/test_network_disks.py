"""Disks that answer as network file systems do: late, with errors of their own, without locks, and with names that stay for a while."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import diagnostics as dx
from diagnostics.activations.folder import Folder
from diagnostics.errors import DiagnosticsError, StorageError
from tests.support.tiny import tiny_dataset, tiny_encoder

OPERATIONS = ("open", "lstat", "mkdir", "rename", "unlink", "fsync", "scandir")
"""What a run asks of the system, below `Folder` and beside it."""


def measured(out: Path) -> dict[str, Any]:
    run = dx.run(tiny_encoder(), tiny_dataset(24), out=out, measures=["linear_probe", "cka"], controls=False)
    found = run.to_json()
    return {key: found[key] for key in ("profiles", "similarity", "recommendations", "skipped")}


class Disk:
    """Counts the operations below a folder; from the `fault`-th on they fail `times` times, and each takes `delay` seconds."""

    def __init__(
        self, patch: pytest.MonkeyPatch, root: Path, error: int = 0, fault: int = -1, times: int = 1, delay: float = 0.0
    ) -> None:
        self.root, self.error, self.fault, self.times, self.delay, self.count = root, error, fault, times, delay, 0
        for name in OPERATIONS:
            patch.setattr(os, name, self.slow(getattr(os, name)))

    def slow(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *more: Any, **options: Any) -> Any:
            # Handles of folders, and names relative to one, are the run's; others are the system's own.
            if (
                "dir_fd" in options
                or "src_dir_fd" in options
                or isinstance(path, int)
                or str(path).startswith(str(self.root))
            ):
                self.count += 1
                time.sleep(self.delay)
                if self.fault <= self.count < self.fault + self.times and self.fault >= 0:
                    raise OSError(self.error, os.strerror(self.error))
            return real(path, *more, **options)

        return call


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    """What an undisturbed run finds, and the operations that it took."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, root)
        found = measured(root / "run")
    return found, disk.count


@pytest.mark.parametrize(
    ("error", "part"), [((errno.ESTALE, errno.EDQUOT, errno.EIO)[part % 3], part) for part in range(10)]
)
def test_an_error_of_the_disk_is_a_sentence_and_the_same_command_goes_on(
    error: int, part: int, whole: tuple[dict[str, Any], int], tmp_path: Path
) -> None:
    """At moments evenly over the run: it ends well, or in an error of ours, and the same command finds the same."""
    found, operations = whole
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, tmp_path, error, 1 + (2 * part + 1) * operations // 20)
        with contextlib.suppress(DiagnosticsError):
            assert measured(tmp_path / "run") == found
    assert measured(tmp_path / "run") == found


def test_the_first_look_at_a_run_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    for fault in range(0, 12, 3):
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(DiagnosticsError):
            Disk(patch, tmp_path, errno.EIO, 18 + fault)
            measured(tmp_path / str(fault))


def test_late_answers_change_nothing(whole: tuple[dict[str, Any], int], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, tmp_path, delay=0.002)
        assert measured(tmp_path / "run") == whole[0]


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_one_sentence(error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(StorageError) as refused:
        measured(tmp_path / "run")
    assert os.strerror(error) in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_names_of_open_files_that_stay_after_their_removal_are_no_ones(
    whole: tuple[dict[str, Any], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS renames a file that is removed while somebody reads it to `.nfs...`, and a folder that holds it cannot be removed."""
    unlink = os.unlink

    def removed(path: Any, **options: Any) -> None:
        if "dir_fd" in options:
            os.rename(path, f".nfs{os.urandom(4).hex()}", src_dir_fd=options["dir_fd"], dst_dir_fd=options["dir_fd"])
        else:
            unlink(path, **options)

    out = tmp_path / "run"
    assert measured(out) == whole[0]
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", removed)
        dx.run(tiny_encoder(), tiny_dataset(24), out=out, measures=["rankme"], controls=False, fresh=True)
    assert [profile.measure for profile in dx.open_run(out).profiles()] == ["rankme"]
    assert measured(out)["profiles"][0] in whole[0]["profiles"]
    assert any(name.rpartition("/")[2].startswith(".nfs") for name in Folder(out).list())
