"""Folders of images."""

from __future__ import annotations

from diagnostics_files.decode.images import check_size, picture
from diagnostics_files.errors import join_notes, sentence, usable
from diagnostics_files.labelled import labelled
from diagnostics_files.lazy_dataset import FileDataset, Lazy
from diagnostics_files.scan import PICTURES, find, folder


def build(path: str, *, table: str, file: str, values: str, size: int | None, seed: int, on_error: str) -> FileDataset:
    """See `plugin.images`."""
    root = folder(path, "images")
    check_size(size, "images")
    every = find(root, PICTURES, "images")
    kept, left_out = usable(
        [f.name for f in every], lambda i: picture(every[i].path, every[i].name, size), on_error, f"images:{path}"
    )
    known = labelled(every, kept, root, f"images:{path}", table=table, key=file, values=values, seed=seed)
    files = known.files
    return FileDataset(
        root.resolve().name,
        "image",
        Lazy(len(files), lambda i: picture(files[i].path, files[i].name, size)),
        [f.name for f in files],
        known.split,
        known.targets,
        groups=known.groups,
        about=join_notes(f"{len(files)} images of a folder", known.about, sentence(left_out, len(every))),
        files={f.name: f.path for f in files},
        options=f"size={size}",
        left_out=left_out,
    )
