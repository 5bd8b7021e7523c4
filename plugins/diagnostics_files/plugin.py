"""The datasets of this plugin: a scheme for each kind of folder or file; importing it imports nothing heavy.

`on_error` says what a damaged file does: `stop` ends the run when its turn comes, `skip` decodes every file once
beforehand, says on stderr which are left out, and goes on without them. `replace`, with which `diagnostics train pe`
reads, leaves pairs of archives out that lack a part, and looks at no image beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from json import dumps as to_json
from pathlib import Path
from typing import Annotated, Any

import diagnostics as dx
from diagnostics.plugin import Entry, Option, options_of, printable


def images(
    path: str,
    table: str = "",
    file: str = "file",
    group: str = "",
    values: str = "",
    seed: int = 0,
    on_error: str = "stop",
) -> dx.Dataset:
    """Images of a folder, uint8 [y, x, 3]; class folders give the target `label`.

    Splits are folders train, val and test above the class folders, a column `split` of the table, or drawn (`seed`).
    `table` is a CSV, JSON lines or Parquet file whose column `file` (or another, `file=NAME`) names images as they lie
    below the folder; `split` and `group` (or another, `group=NAME`) are used as such, and other columns are targets:
    text and whole numbers a label, other numbers a value, and whole numbers too that `values=a,b` names. Images keep
    their size: the encoder brings them to its own.
    """
    from diagnostics_files.media import Labels, images

    return images(path, Labels(table, file, group, values, seed, on_error))


def segmentation(path: str, unknown: int | None = None, seed: int = 0, on_error: str = "stop") -> dx.Dataset:
    """Images with a class for each pixel: `images/` and `annotations/` (or `masks/`) with files of the same names.

    Target `segmentation`. Splits are folders below both (ADE20k: training and validation) or above both. `unknown` is
    the number that means no class: 0 in ADE20k's layout, else 255, unless given. Images and maps keep their size: an
    encoder brings images to its own, and maps are cut as it cuts them.
    """
    from diagnostics_files.pairs import segmentation

    return segmentation(path, unknown, seed, on_error)


def depth(path: str, scale: float = 0.001, seed: int = 0, on_error: str = "stop") -> dx.Dataset:
    """Images with the depth of each pixel: `rgb/` (or `images/`) and `depth/` with files of the same names.

    Target `depth` in metres: 16-bit PNG times `scale` (millimetres by default), `.npy` of metres [y, x]; 0 is unknown.
    """
    from diagnostics_files.pairs import depths

    return depths(path, scale, seed, on_error)


def coco(path: str, sets: str = "", targets: str = "boxes", seed: int = 0, on_error: str = "stop") -> dx.Dataset:
    """Images with boxes of objects in COCO's layout: `annotations/instances_SET.json`, images below `SET/`.

    Target `boxes`; `targets=boxes,caption` adds the first caption of `captions_SET.json`, as hashed words and as text.
    `sets=val2017` reads these sets alone. Sets train and val are the splits train and test, a fifth of train is val;
    one set is split by image (`seed`).
    """
    from diagnostics_files.coco import coco

    return coco(path, sets, targets, seed, on_error)


def refcoco(path: str, by: str = "unc", images: str = "train2014", seed: int = 0, on_error: str = "stop") -> dx.Dataset:
    """Images with phrases and the boxes of what they name: `refs(BY).json` and `instances.json` as RefCOCO has them.

    Target `phrases`, of all sentences of an image; `by` names the makers of the splits (unc, google, umd), and `images`
    the folder of COCO's images, below the folder or its `images/`. testA and testB are test. Pickles are not read.
    """
    from diagnostics_files.refcoco import refcoco

    return refcoco(path, by, images, seed, on_error)


def vqa(path: str, sets: str = "", n: int | None = None, seed: int = 0, on_error: str = "stop") -> dx.Dataset:
    """Images with questions: `*_SET_questions.json` and `*_SET_annotations.json` of VQA v2, or `TextVQA_*_SET.json`.

    A run makes its target `questions` of them; the answer is the most frequent one, told apart by its type. Images lie
    below `SET/` (TextVQA: `train_images/`) or `images/`. `sets=val2014` reads these sets alone, without test; `n` takes
    a random subset of images. Sets train and val are the splits train and test.
    """
    from diagnostics_files.vqa import vqa

    return vqa(path, sets, n, seed, on_error)


def spair(path: str, layout: str = "small", seed: int = 0, on_error: str = "stop") -> dx.Dataset:
    """Pairs of images of one category with the same points marked in both, in SPair-71k's layout.

    A sample is the source of a pair, its view the target; target `matches`, with the longer side of the target's object
    as length. Pairs and splits are those of `Layout/LAYOUT/trn.txt`, `val.txt` and `test.txt`; the images of a category
    meet in many pairs, so that a category in a split is a group.
    """
    from diagnostics_files.spair import spair

    return spair(path, layout, seed, on_error)


def davis(
    path: str,
    frames: int = 8,
    sets: str | None = None,
    seed: int = 0,
    on_error: str = "stop",
) -> dx.Dataset:
    """Videos with objects' masks: `JPEGImages/480p/VIDEO/*.jpg` and `Annotations/480p/VIDEO/*.png`, or without `480p`.

    Clips of `frames` frames that follow one another; target `objects`, masks [sample, t, y, x]; a video is a group.
    `sets=2017` takes videos and splits from `ImageSets/2017/train.txt` and `val.txt` (or `test.txt`).
    """
    from diagnostics_files.pairs import davis

    return davis(path, frames, sets, seed, on_error)


def captions(
    path: str,
    image: str = "image",
    caption: str = "caption",
    images: str | None = None,
    embeddings: str | None = None,
    features: int = 512,
    seed: int = 0,
    on_error: str = "stop",
) -> dx.Dataset:
    """Images with captions: a table, or WebDataset tars.

    A table has columns `image` and `caption`; tars are one, a folder of them, or a pattern, as `{00000..00099}.tar`.

    Image names lie below the table's folder or below `images`. A row is a sample; captions of one image are a group.
    Target
    `caption`: rows of `embeddings` (a .npy), else hashed counts of words and pairs of words in `features` features;
    with `features=0` there is none, so that data of many millions fit into memory. The texts are `dataset.texts`.
    """
    from diagnostics_files.captions import build

    return build(path, image, caption, images, embeddings, features=features, seed=seed, on_error=on_error)


def videos(
    path: str,
    frames: int = 8,
    every: int = 1,
    clips: int | None = None,
    table: str = "",
    file: str = "file",
    group: str = "",
    values: str = "",
    seed: int = 0,
    on_error: str = "stop",
) -> dx.Dataset:
    """Video files of a folder, in clips uint8 [t, y, x, 3] of `frames` frames, each `every`-th; a file is a group.

    All clips that follow one another, or at most `clips` of each file, spread over it. Classes, table and splits as for
    `images:`.
    """
    from diagnostics_files.media import Labels, videos

    return videos(path, frames, every, clips, Labels(table, file, group, values, seed, on_error))


def audio(
    path: str,
    rate: int | None = None,
    seconds: float | None = None,
    table: str = "",
    file: str = "file",
    group: str = "",
    values: str = "",
    seed: int = 0,
    on_error: str = "stop",
) -> dx.Dataset:
    """Sound files of a folder as float32 [time], the mean of all channels; a file is a group.

    `rate=16000` resamples. `seconds` cuts windows that follow one another, and drops the rest of a longer file; without
    it recordings of unequal length are padded with NaN on the left. Classes, table and splits as for `images:`.
    """
    from diagnostics_files.media import Labels, audio

    return audio(path, rate, seconds, Labels(table, file, group, values, seed, on_error))


def texts(
    path: str,
    text: str = "text",
    table: str = "",
    file: str = "file",
    group: str = "",
    values: str = "",
    seed: int = 0,
    on_error: str = "stop",
) -> dx.Dataset:
    """Texts of a file: one a line of a .txt, or the column `text` of a table; or .txt files of a folder, a text each.

    Equal texts are a group. Of a folder, classes, table and splits are as for `images:`. Of a file, columns `id`,
    `split` and `group` (or `group=NAME`) are used as such; others are targets as for `images:`.
    """
    from diagnostics_files import media, tables

    if Path(path).expanduser().is_dir():
        return media.texts(path, media.Labels(table, file, group, values, seed, on_error))
    return tables.texts(path, text, group, values, seed)


def series(path: str, values: str = "", steps: str = "", id: str = "", group: str = "", seed: int = 0) -> dx.Dataset:
    """Series of an .npz, Zarr, Parquet, CSV or JSON lines file, float32 [time] or [time, variate].

    Arrays: `series` (or `X`, beside `y` and `groups`) [sample, time] or [sample, time, variate]. Tables: steps as
    columns 0, 1, 2, ... (a series a row), lists in a column `series`, or columns `id` and `time` (a step a row; what
    never changes within a series is its target, the rest are variates). `steps=v*` names the columns of steps by a
    pattern, in the order of their numbers, `id=NAME` and `group=NAME` these columns. `id`, `split` and `group` are used
    as such; other arrays and columns are targets as for `images:`. Unequal lengths are padded with NaN on the left; NaN
    between known values is a gap.
    """
    from diagnostics_files.tables import series

    return series(path, values, steps, {"id": id, "group": group}, seed)


def ts(path: str, seed: int = 0) -> dx.Dataset:
    """Series of a .ts file of the UCR and UEA archives.

    Of NAME_TRAIN.ts and NAME_TEST.ts both, val carved out of train.
    """
    from diagnostics_files.tables import ts

    return ts(path, seed)


def datasets_on_disk(
    path: str,
    input: str | None = None,
    values: str = "",
    rate: int | None = None,
    seed: int = 0,
    on_error: str = "stop",
) -> dx.Dataset:
    """A Hugging Face dataset written by `save_to_disk`: its image, audio, list of numbers or text as samples.

    `input` names that column where several could be; other plain columns are targets, as for `images:`, and `group` the
    group.
    """
    from diagnostics_files.media import datasets_on_disk

    return datasets_on_disk(path, input, values, rate, seed, on_error)


@options_of()
def index(
    path: Annotated[
        str, Option("A WebDataset .tar, a folder of them, or a pattern: 'cc12m/{00000..00099}.tar'.", argument=True)
    ],
    caption: Annotated[str, Option("Entry of a .json that is the caption, if there is no .txt.", "NAME")] = "caption",
    decode: Annotated[
        bool, Option("Decode each image once, so that ?on_error=skip knows which to leave out.", names=("--decode",))
    ] = False,
    json: Annotated[bool, Option("Print one JSON object instead of text.", names=("--json",))] = False,
) -> None:
    """Index tar archives for `captions:`: which samples they hold, and where.

    The index of an archive lies beside it and is written once, here or when the archive is first read. The same command
    goes on after the last whole index. It lists pairs that lack a part, and with --decode images that cannot be
    decoded.

    \b
    Example:
      diagnostics index 'cc12m/{00000..00099}.tar'
    """
    from diagnostics_files.archives import archives_at, describe_index, index_of

    archives = archives_at(path)
    with dx.watcher() as watch:
        parts = []
        for done, archive in enumerate(archives, 1):
            parts.append(index_of(archive, caption, decode))
            watch(dx.Progress("indexing", done, len(archives), archive.name))
    found, lines = describe_index(parts)
    for line in [to_json(found)] if json else map(printable, lines):
        print(line)


@dx.hookimpl
def commands() -> Mapping[str, Callable[..., Any]]:
    """Name -> command."""
    return {"index": index}


@dx.hookimpl
def datasets() -> Mapping[str, Entry]:
    """Scheme -> builder; what follows the colon is the path. Kinds of target are named where no column decides them."""
    return {
        "images:": Entry(images, modalities=("image",)),
        "segmentation:": Entry(segmentation, modalities=("image",), kinds=("token_label",)),
        "depth:": Entry(depth, modalities=("image",), kinds=("token_value",)),
        "coco:": Entry(coco, modalities=("image",), kinds=("boxes", "caption")),
        "refcoco:": Entry(refcoco, modalities=("image",), kinds=("phrases",)),
        "vqa:": Entry(vqa, modalities=("image",), kinds=("questions",)),
        "spair:": Entry(spair, modalities=("image",), kinds=("matches",)),
        "davis:": Entry(davis, modalities=("video",), kinds=("masks",)),
        "captions:": Entry(captions, modalities=("image",), kinds=("caption",)),
        "videos:": Entry(videos, modalities=("video",)),
        "audio:": Entry(audio, modalities=("audio",)),
        "texts:": Entry(texts, modalities=("text",)),
        "series:": Entry(series, modalities=("series",)),
        "ts:": Entry(ts, modalities=("series",), kinds=("label", "value")),
        "datasets:": Entry(datasets_on_disk, modalities=("image", "audio", "series", "text")),
    }
