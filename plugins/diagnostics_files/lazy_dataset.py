"""Datasets whose fingerprint is made of their files' bytes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import Dataset, LazySamples
from diagnostics_files.errors import Unusable, check_regular


def pad_left(sample: np.ndarray, length: int) -> np.ndarray:
    """A sample float32 [time, ...] with NaN in front, so that it has `length` steps."""
    return np.concatenate([np.full((length - len(sample), *sample.shape[1:]), np.nan, np.float32), sample])


class FileDataset(Dataset):
    """A dataset of files.

    Parameters
    ----------
    files: id-like name -> file, all whose bytes decide what the samples are.
    options: what else decides it (size, frames), as text.
    left_out: sample -> what is wrong with its file; kept as sentences.
    shards: which of several archives each sample lies in, int [sample]; None where no order of reading is better than another.
    scanned: digest of what archives told when they were opened, of each sample its caption and where it lies.
    """

    def __init__(
        self,
        *args: Any,
        files: Mapping[str, Path],
        options: str,
        left_out: Mapping[str, Unusable],
        shards: np.ndarray | None = None,
        scanned: str = "",
        **more: Any,
    ) -> None:
        super().__init__(*args, **more)
        self.files, self.options, self.shards, self.scanned = dict(files), options, shards, scanned
        self.left_out = {name: f"{error.name} {error.why}." for name, error in left_out.items()}
        self._of_files: str | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of the bytes of all files under their names within the folder, ids, splits, groups, targets and options.

        Made when first asked for: every file is read once from end to end and none is decoded.
        """
        if self._of_files is None:
            digest = self._of_columns()
            if self.modality == "image":  # how the bytes become samples: until then images lay as the camera did
                digest.update(b"upright")
            for name, path in sorted(self.files.items()):
                check_regular(path, name)
                with path.open("rb") as file:
                    digest.update(name.encode() + b"\x1f" + hashlib.file_digest(file, "sha256").digest())
            for name, target in sorted(self.targets.items()):
                values = np.ascontiguousarray(target.values)
                facts = (name, target.kind, target.classes, target.units, target.period, values.dtype.str, values.shape)
                digest.update(repr(facts).encode())
                if values.dtype != object:  # maps that are read on demand are the files' bytes
                    digest.update(values.data)
            self._of_files = str(digest.hexdigest())
        return self._of_files

    @property
    def outline(self) -> str:
        """Digest of ids, splits, groups, texts and options, and of the sizes of all files, whose bytes are not read.

        By it a training knows terabytes again. It does not see an image that is replaced by another of the same size.
        """
        digest = self._of_columns()
        digest.update(self.scanned.encode())
        for name, path in sorted(self.files.items()):
            check_regular(path, name)
            digest.update(f"{name}\x1f{path.stat().st_size}\x1e".encode())
        return digest.hexdigest()

    def _of_columns(self) -> Any:
        digest = hashlib.sha256(f"{self.modality} {self.rate} {self.ragged} {self.options}\x1e".encode())
        # Texts that are read on demand lie in the files.
        texts = () if isinstance(self.texts, LazySamples) else self.texts
        for column in (self.ids, self.split, self.groups, texts):
            digest.update("\x1f".join(map(str, column)).encode() + b"\x1e")
        return digest
