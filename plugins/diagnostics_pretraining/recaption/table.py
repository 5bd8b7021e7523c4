"""The table of captions that `recaption` writes, and data with its captions in place of their own."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diagnostics_files.decode.tables import SUFFIXES, column, read_table
from diagnostics_files.scan import file

from diagnostics.plugin import Dataset, DiagnosticsError, build
from diagnostics_pretraining.feed import outline_of, shards_of

COLUMNS = ("video_caption", "frame_captions", "caption")


def write_table(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as JSON lines, there as a whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".partial-") as folder:
            partial = Path(folder, out.name)
            partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            partial.replace(out)
    except OSError as error:
        raise DiagnosticsError(
            f"{out} cannot be written ({error.strerror or error}): choose another file with --out."
        ) from error


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
            f"{path} has no row for {len(lacking)} of the {len(dataset)} samples of {data}, {lacking[0]} first: caption all of them with "
            "`diagnostics recaption`, from the same data."
        )
    if empty := [name for name in wanted if not isinstance(texts[name], str) or not texts[name].strip()]:
        raise DiagnosticsError(
            f"{path} has no {caption} for {len(empty)} of the {len(dataset)} samples of {data}, {empty[0]} first: fill it in, or name "
            "another column with ?caption=."
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
        self._with_texts: str | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of the dataset's own fingerprint and the texts; made when first asked for."""
        if self._with_texts is None:
            self._with_texts = self._digest(self._dataset.fingerprint)
        return self._with_texts

    @property
    def outline(self) -> str:
        """The same of the dataset's outline; see `feed.data.outline_of`."""
        return self._digest(outline_of(self._dataset))

    def _digest(self, dataset: str) -> str:
        return hashlib.sha256((dataset + "".join(f"\x1f{text}" for text in self.texts)).encode()).hexdigest()
