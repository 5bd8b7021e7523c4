"""Images with phrases and the boxes of what they name: RefCOCO, RefCOCO+ and RefCOCOg, as JSON."""

from pathlib import Path

from diagnostics.plugin import DiagnosticsError, LazySamples, Target, complete_splits, pad_phrases
from diagnostics_files.coco import Photo, by_number, photo_of
from diagnostics_files.decode import check_there
from diagnostics_files.folder import FileDataset, folder, join_notes, parsing, read_json, sentence, tell, usable


def refcoco(path: str, by: str, images: str, seed: int, on_error: str) -> FileDataset:
    """See `plugin.refcoco`."""
    scheme, root = f"refcoco:{path}", folder(path, "refcoco")
    refs, instances = _refs(root, by, scheme), root / "instances.json"
    if not instances.is_file():
        raise DiagnosticsError(f"{scheme} has no instances.json: copy it beside {refs.name}.", code="missing-file")
    read, photos, dropped = read_json(instances), dict[int, Photo](), 0
    with parsing(instances, "COCO's format"):
        extents, boxes = by_number(read["images"]), by_number(read["annotations"])
    phrases: dict[int, list[tuple[str, list[float]]]] = {}
    listed, moved = read_json(refs), 0
    with parsing(refs, "RefCOCO's format, a list of phrases with ann_id, image_id, split and sentences"):
        for ref in listed:
            number, split = int(ref["image_id"]), str(ref["split"])
            if number not in photos:
                photos[number] = photo_of(root, images, "test" if split.startswith("test") else split, extents[number])
            moved += photos[number].split != ("test" if split.startswith("test") else split)
            x, y, width, height = map(float, boxes[int(ref["ann_id"])]["bbox"])
            (rows, columns), box = photos[number].extent, [x, y, x + width, y + height]
            said = [str(each["sent"]) for each in ref["sentences"]]
            told = [text for text in said if any(map(str.isalnum, text))]
            good = min(width, height) > 0 and x < columns and y < rows and min(box[2:]) > 0
            phrases.setdefault(number, []).extend((text, box) for text in told if good)
            dropped += len(said) - len(told) * good
    every = list(photos.values())
    kept, left_out = usable([photo.name for photo in every], lambda i: every[i].read(), on_error, scheme)
    shown = [every[i] for i in kept]
    for photo in shown:
        check_there(photo.path, photo.name)
    notes = (
        f"{dropped} phrases without a word or a box left out" if dropped else "",
        f"{moved} objects in the split of their image and not in their own" if moved else "",
    )
    note = tell(scheme, join_notes(*notes))
    ids = [photo.name for photo in shown]
    split, how, exchangeable = complete_splits([photo.split for photo in shown], ids, seed, scheme)
    numbers = list(photos)
    values, texts = pad_phrases([phrases[numbers[i]] for i in kept], [photo.extent for photo in shown])
    return FileDataset(
        root.resolve().name,
        "image",
        LazySamples(len(shown), lambda i: shown[i].read()),
        ids,
        split,
        {"phrases": Target("phrases", values, about="boxes of what a phrase names", classes=texts)},
        about=join_notes(f"{len(shown)} images with {len(texts)} phrases", how, note, sentence(left_out, len(every))),
        files={**{photo.name: photo.path for photo in shown}, refs.name: refs, instances.name: instances},
        options=f"by={by}",
        left_out=left_out,
        exchangeable=exchangeable,
    )


def _refs(root: Path, by: str, scheme: str) -> Path:
    """The file of phrases; a pickle is refused with the line that converts it."""
    name = f"refs({by})"
    if (found := root / f"{name}.json").is_file():
        return found
    if (root / f"{name}.p").is_file():
        line = f"import json, pickle; json.dump(pickle.load(open('{name}.p', 'rb')), open('{name}.json', 'w'))"
        raise DiagnosticsError(
            f"{scheme} has {name}.p, a pickle, which can run any code and is not read: if you trust who made it, "
            f'convert it there with python -c "{line}".',
            code="untrusted-code",
        )
    raise DiagnosticsError(
        f"{scheme} has no {name}.json: give another split by ?by=, or convert the makers' file.", code="missing-file"
    )
