"""Images with questions and their answers: VQA v2's two files a set of images, or TextVQA's one."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import SPLIT_OF, DiagnosticsError, LazySamples, Question, complete_splits
from diagnostics_files.decode import check_there, picture
from diagnostics_files.folder import (
    FileDataset,
    folder,
    join_notes,
    parsing,
    read_json,
    safe_name,
    sentence,
    tell,
    usable,
)

SUFFIXES = (".jpg", ".jpeg", ".png")


def vqa(path: str, sets: str, n: int | None, seed: int, on_error: str) -> FileDataset:
    """See `plugin.vqa`."""
    scheme, root = f"vqa:{path}", folder(path, "vqa")
    files = _files(root, sets, scheme)
    asked, split, dropped = defaultdict[str, list[Question]](list), dict[str, str](), 0
    for of, pair in files.items():
        before = SPLIT_OF.get(of.rstrip("0123456789").lower(), "")
        with parsing(pair[0], "the format of VQA v2 or TextVQA"):
            for name, question in _questions(of, *map(read_json, pair)):
                asked[name] += [question] if question else []
                dropped += question is None
                split[name] = before
    names = sorted(name for name, of in asked.items() if of)
    if n is not None and n < len(names):
        names = sorted(np.random.default_rng(seed).permutation(names)[:n].tolist())
    if not names:
        raise DiagnosticsError(
            f"{scheme} asks no question that has an answer: name other sets by ?sets=.", code="bad-data"
        )
    paths = {name: _path(root, name) for name in names}

    def read(name: str) -> np.ndarray:
        check_there(paths[name], name)
        return picture(paths[name], name)

    kept, left_out = usable(names, lambda i: read(names[i]), on_error, scheme)
    ids = [names[i] for i in kept]
    for name in ids:
        check_there(paths[name], name)
    note = tell(scheme, f"{dropped} questions without an answer left out" if dropped else "")
    parts, how, exchangeable = complete_splits([split[name] for name in ids], ids, seed, scheme)
    count = sum(len(asked[name]) for name in ids)
    return FileDataset(
        root.resolve().name,
        "image",
        LazySamples(len(ids), lambda i: read(ids[i])),
        ids,
        parts,
        {},
        about=join_notes(f"{len(ids)} images with {count} questions", how, note, sentence(left_out, len(names))),
        files={name: paths[name] for name in ids} | {at.name: at for pair in files.values() for at in pair},
        options=f"sets={','.join(files)} n={n}",
        left_out=left_out,
        questions=[asked[name] for name in ids],
        exchangeable=exchangeable,
    )


def _files(root: Path, sets: str, scheme: str) -> dict[str, tuple[Path, ...]]:
    """Of each set of images (`val2014`) its questions, with its annotations where they are a file of their own."""
    there = sorted(at for base in (root, root / "annotations") for at in base.glob("*.json"))
    found: dict[str, tuple[Path, ...]] = {}
    for at in there:
        if at.stem.endswith("_questions"):
            name = at.stem.removesuffix("_questions").rpartition("_")[2]
            answers = [other for other in there if other.stem.endswith(f"_{name}_annotations")]
            found |= {name: (at, *answers[:1])} if answers else {}
        elif at.stem.startswith("TextVQA_"):
            found[at.stem.rpartition("_")[2]] = (at,)
    wanted = [name.strip() for name in sets.split(",") if name.strip()] or [name for name in found if name != "test"]
    if absent := [name for name in wanted if name not in found] or ([""] if not wanted else []):
        name = absent[0] or "val2014"
        raise DiagnosticsError(
            f"{scheme} has no questions with answers of {name}: copy *_{name}_questions.json and "
            f"*_{name}_annotations.json of VQA v2, or TextVQA_*_{name}.json there.",
            code="missing-file",
        )
    return {name: found[name] for name in wanted}


def _questions(
    of: str, said: Mapping[str, Any], answers: Mapping[str, Any] | None = None
) -> list[tuple[str, Question | None]]:
    """Each question with the name of its image below the root; None in its place where it has no answer."""
    found: list[tuple[str, Question | None]] = []
    if answers is None:
        for each in said["data"]:
            given = [str(answer).strip().lower() for answer in each.get("answers", ())]
            most = Counter(answer for answer in given if answer).most_common(1)
            where = "test_images" if of == "test" else "train_images"
            name = safe_name(f"{where}/{each['image_id']}", "An image").as_posix()
            found.append((name, Question("reading", most[0][0], (str(each["question"]),)) if most else None))
        return found
    told = {each["question_id"]: each for each in answers["annotations"]}
    for each in said["questions"]:
        answer = told.get(each["question_id"], {})
        text, kind = str(answer.get("multiple_choice_answer", "")).strip(), str(answer.get("answer_type", "other"))
        name = f"{of}/COCO_{of}_{int(each['image_id']):012d}"
        found.append((name, Question(kind, text, (str(each["question"]),)) if text else None))
    return found


def _path(root: Path, name: str) -> Path:
    """The file of an image, whatever its ending; the first that is looked for where there is none."""
    places = [root / base / f"{name}{suffix}" for base in (".", "images") for suffix in SUFFIXES]
    return next((at for at in places if at.is_file()), places[0])
