"""Clips captioned anew: by rules and by tiny random models, each caption once, whatever interrupts it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnostics_data.shapes.dataset import Shapes
from diagnostics_pretraining.captioner import FRAME_PROMPT, ModelCaptioner, clip_of
from diagnostics_pretraining.plugin import recaption
from diagnostics_pretraining.recaption import KINDS, Cache, ModelSummariser, Rules
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from diagnostics import Dataset, build
from diagnostics.cli.app import guard
from tests.support.refusals import refusal

DATA = "shapes?n=10&frames=2&size=32"
INNER = DATA.replace("&", "%26")
MODELS = ("--tokens", 5)


@pytest.fixture(scope="module")
def clips() -> Shapes:
    return build("dataset", DATA)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    from tests.support import tiny_captioners

    folder = tmp_path_factory.mktemp("models")
    for name in ("perception_lm", "llava", "git", "causal"):
        getattr(tiny_captioners, f"save_{name}")(folder / name)
    return folder


def rows_of(table: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in table.read_text().splitlines()]


def called(*options: object) -> Any:
    """`diagnostics recaption OPTIONS`, as the command line calls a plugin's command."""
    app = Typer()
    app.command()(guard(recaption, "pretraining"))
    return CliRunner().invoke(app, [str(option) for option in options])


def captioned(*options: object) -> dict[str, Any]:
    result = called("--data", DATA, "--json", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*options: object) -> str:
    result = called(*options)
    assert result.exit_code == 2, result.stderr
    (line,) = result.stderr.splitlines()
    return line.removeprefix("diagnostics: ")


def test_frames_are_captioned_by_what_is_seen_in_them(clips: Shapes) -> None:
    """An object that has left, or is hidden, is not named in a frame, and nothing is said to move."""
    scenes: Shapes = build("dataset", "shapes?n=20&frames=8&size=32&seed=1")
    differ = 0
    for texts, visible, caption in zip(scenes.frame_texts, scenes.visible, scenes.texts, strict=True):
        assert len(texts) == 8
        for text, pixels in zip(texts, visible, strict=True):
            count = int((pixels >= 4).sum())
            assert text.startswith(("no", "one", "two", "three", "four", "five", "six")[count] + " object")
            assert "moving" not in text and "hovering" not in text
        differ += len({text.split(",")[0] for text in texts}) > 1
        assert "moving" in caption or "hovering" in caption
    assert differ
    assert build("dataset", "shapes?n=10&size=32").frame_texts[3] == (build("dataset", "shapes?n=10&size=32").texts[3],)


def test_rules_are_wrong_as_often_as_asked(clips: Shapes) -> None:
    scenes: Shapes = build("dataset", "shapes?n=100&frames=2&size=32")
    pattern = re.compile(rf"\b({'|'.join(word for kind in KINDS for word in kind)})\b")
    wrong: dict[float, list[bool]] = {}
    for share in (0.0, 0.3, 0.6, 1.0):
        rules = Rules(scenes, share, seed=0)
        wrong[share] = []
        for row, text in enumerate(scenes.texts):
            clip = clip_of(scenes, row)
            caption = rules.caption_clip(clip, "")
            was, now = pattern.findall(text), pattern.findall(caption)
            assert len(was) == len(now)
            kinds = [next(i for i, kind in enumerate(KINDS) if word in kind) for word in (*was, *now)]
            assert kinds[: len(was)] == kinds[len(was) :]
            wrong[share] += [a != b for a, b in zip(was, now, strict=True)]
            assert not re.search(r"\ban (?![aeiou])|\ba (?=[aeiou])", caption)
            if share == 0:
                assert caption == text
                assert rules.caption_frame(clip, 1, "") == scenes.frame_texts[row][1]
    n = len(wrong[0.3])
    for share in (0.3, 0.6):
        assert abs(np.mean(wrong[share]) - share) < 4 * np.sqrt(share * (1 - share) / n)
    assert not any(wrong[0.0]) and all(wrong[1.0])
    assert all(b for a, b in zip(wrong[0.3], wrong[0.6], strict=True) if a)
    assert Rules(scenes, 0.5, 1).caption_clip(clip, "") != Rules(scenes, 0.5, 0).caption_clip(clip, "")


def test_a_table_by_rules_is_data_to_train_on(tmp_path: Path, clips: Shapes) -> None:
    out = tmp_path / "clips.jsonl"
    first = captioned("--captioner", "rules", "--out", out)
    assert (first["clips"], first["new"], first["kept"], first["empty"]) == (10, 40, 0, {})
    rows = rows_of(out)
    assert [row["id"] for row in rows] == clips.ids
    assert [row["video_caption"] for row in rows] == [row["caption"] for row in rows] == list(clips.texts)
    assert [tuple(row["frame_captions"]) for row in rows] == list(clips.frame_texts)
    wrong = tmp_path / "wrong.jsonl"
    captioned("--captioner", "rules", "--mistakes", 0.5, "--out", wrong)
    true, other = (build("dataset", f"recaptioned:{table}?data={INNER}") for table in (out, wrong))
    assert true.texts == clips.texts != other.texts
    assert [asked[0].answer for asked in other.questions] == list(other.texts)
    assert len({true.fingerprint, other.fingerprint, clips.fingerprint}) == 3
    assert true.fingerprint == build("dataset", f"recaptioned:{out}?data={INNER}").fingerprint
    assert list(other.split) == list(clips.split) and np.array_equal(other[2], clips[2])


def test_an_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    out = tmp_path / "images.jsonl"
    result = called("--data", "shapes?n=10&size=32", "--captioner", "rules", "--mistakes", 0.5, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert all([row["video_caption"]] == row["frame_captions"] == [row["caption"]] for row in rows_of(out))


def test_an_interrupted_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said before a kill is not asked again, a line cut short is made anew, and the table is the same."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "clips.jsonl"
    options = ("--captioner", "rules", "--mistakes", 0.3, "--seed", 2)
    captioned(*options, "--out", whole)
    say, answered = Rules.caption_frame, []

    def killed(self: Rules, clip: Any, frame: int, prompt: str) -> str:
        if len(answered) == 9:
            raise RuntimeError("killed")
        answered.append(clip.id)
        return say(self, clip, frame, prompt)

    with monkeypatch.context() as patch:
        patch.setattr(Rules, "caption_frame", killed)
        assert called("--data", DATA, *options, "--out", out).exit_code == 2
    assert not out.exists()
    cache = tmp_path / "clips.jsonl.cache"
    # Of 4 clips both frames, the clip and the caption, and one frame more.
    assert len(cache.read_text().splitlines()) == 17
    cache.write_bytes(cache.read_bytes()[:-10])
    again = captioned(*options, "--out", out)
    assert (again["new"], again["kept"]) == (40 - 16, 16)
    assert out.read_bytes() == whole.read_bytes()
    assert captioned(*options, "--out", out)["new"] == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_perception_lm_is_asked_about_clips_and_frames(tmp_path: Path, models: Path, clips: Shapes) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    out = tmp_path / "clips.jsonl"
    options = ("--captioner", models / "perception_lm", *MODELS, "--out", out)
    first = captioned(*options, "--prompt", "the video", "--frame-prompt", "the image")
    assert first["new"] == 40
    rows = rows_of(out)
    assert len({row["video_caption"] for row in rows}) > 1
    processor = AutoProcessor.from_pretrained(models / "perception_lm")
    model = AutoModelForImageTextToText.from_pretrained(models / "perception_lm").eval()

    def answer(text: str, **seen: Any) -> str:
        batch = processor(text=[text], return_tensors="pt", **seen)
        with torch.no_grad():
            ids = model.generate(**batch, max_new_tokens=5, do_sample=False)[0, batch["input_ids"].shape[1] :]
        return " ".join(processor.tokenizer.decode(ids, skip_special_tokens=True).split())

    for row, sample in zip(rows[:3], clips, strict=False):
        assert row["video_caption"] == answer("<video> the video ", videos=[sample], do_sample_frames=False)
        assert row["frame_captions"] == [answer("<image> the image ", images=Image.fromarray(one)) for one in sample]
    # Another question about frames: the clips' captions stay, and `caption` is theirs.
    other = captioned(*options, "--prompt", "the video", "--frame-prompt", "one image")
    assert other["new"] == 20 + 10 and other["kept"] == 10
    assert captioned(*options, "--prompt", "the video", "--frame-prompt", "the image")["new"] == 0
    assert rows_of(out) == rows
    # More tokens may say more.
    assert captioned(*options[:-4], "--tokens", 6, *options[-2:], "--prompt", "the video")["new"] == 40


def test_a_model_of_images_gets_all_frames_in_one_question(tmp_path: Path, models: Path, clips: Shapes) -> None:
    captioner = ModelCaptioner(str(models / "llava"), 5, "cpu", "float32")
    clip = clip_of(clips, 0)
    seen: list[int] = []
    tower = captioner.model.model.vision_tower
    tower.register_forward_hook(lambda module, given, output: seen.append(len(output.last_hidden_state)))
    captioner.caption_clip(clip, "two images")
    captioner.caption_frame(clip, 1, FRAME_PROMPT)
    assert seen == [2, 1]


def test_a_model_that_is_asked_nothing_captions_frames_alone(tmp_path: Path, models: Path) -> None:
    out = tmp_path / "clips.jsonl"
    result = called("--data", DATA, "--captioner", models / "git", *MODELS, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "BEWARE: video_caption is empty, or lacks frames, in 10 of 10 clips" in result.stdout
    rows = rows_of(out)
    assert all(row["video_caption"] is None and len(row["frame_captions"]) == 2 for row in rows)
    with refusal("bad-sample", "video_caption", "10", "shapes"):
        build("dataset", f"recaptioned:{out}?caption=video_caption&data={INNER}")


def test_a_summary_is_made_of_all_that_is_known(tmp_path: Path, models: Path) -> None:
    table, out = tmp_path / "people.csv", tmp_path / "clips.jsonl"
    table.write_text("id,title,human_caption\nshapes-0-000003,Stars,two stars pass\nshapes-0-000004,,a disc rests\n")
    captioned("--captioner", "rules", "--table", table, "--out", out)
    rows = rows_of(out)
    assert rows[3]["title"] == "Stars" and rows[3]["caption"] == "two stars pass" and "title" not in rows[4]
    assert rows[5]["caption"] == rows[5]["video_caption"]
    prompts: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        summarise = ModelSummariser.summarise
        patch.setattr(
            ModelSummariser,
            "summarise",
            lambda self, clip, notes, whole: (prompts.append(notes), summarise(self, clip, notes, whole))[1],
        )
        again = captioned(
            "--captioner", "rules", "--table", table, "--summary", models / "causal", *MODELS, "--out", out
        )
    assert (again["new"], again["kept"]) == (10, 30)
    row = rows_of(out)[3]
    assert prompts[3].splitlines() == [
        "Title, by a person: Stars",
        "Caption, by a person: two stars pass",
        f"The whole video: {row['video_caption']}",
        f"Frame 1: {row['frame_captions'][0]}",
        f"Frame 2: {row['frame_captions'][1]}",
    ]
    assert (
        captioned("--captioner", "rules", "--table", table, "--summary", models / "causal", *MODELS, "--out", out)[
            "new"
        ]
        == 0
    )
    # What people wrote changes the notes on that clip alone.
    table.write_text("id,title\nshapes-0-000003,Stars\nshapes-0-000004,\n")
    assert (
        captioned("--captioner", "rules", "--table", table, "--summary", models / "causal", *MODELS, "--out", out)[
            "new"
        ]
        == 2
    )


def test_what_people_wrote_of_a_file_is_said_of_its_clips(tmp_path: Path) -> None:
    from diagnostics_pretraining.recaption import notes_on

    samples = np.zeros((6, 2, 8, 8, 3), np.uint8)
    ids = [f"{name}.mp4@{start:06d}" for name in "abc" for start in (0, 2)]
    groups = [name[:5] for name in ids]
    dataset = Dataset("c", "video", samples, ids, ["train"] * 2 + ["val"] * 2 + ["test"] * 2, {}, groups=groups)
    table = tmp_path / "t.csv"
    table.write_text("id,title\na.mp4,Ants\na.mp4@000002,More ants\n")
    assert notes_on(dataset, table) == [{"title": "Ants"}, {"title": "More ants"}, {}, {}, {}, {}]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--data", "lorenz?n=10", "--captioner", "rules"),
            "lorenz holds series samples, and captions are of what can be seen",
        ),
        (
            ("--data", "digits?n=60", "--captioner", "rules"),
            "Captioner rules knows the ground truth of `shapes` only, not of digits",
        ),
        (("--mistakes", 1.5), "A share of mistakes of 1.5 does not exist"),
        (("--captioner", "nowhere", "--mistakes", 0.1), "--mistakes is of captioner rules, and nowhere is a model"),
        (("--captioner", "nowhere"), "There is no captioner nowhere: give `rules`"),
        (("--tokens", 0), "A caption of 0 tokens does not exist"),
        (("--precision", "half"), "Unknown precision 'half': give float32 or bf16."),
        (("--prompt", " "), "--prompt is empty"),
        (("--summary", "nowhere"), "There is no decoder nowhere"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: tuple[object, ...], sentence: str) -> None:
    given = {"--data": DATA, "--captioner": "rules", "--out": tmp_path / "c.jsonl"} | dict(
        zip(options[::2], options[1::2], strict=True)
    )
    assert refused(*[part for pair in given.items() for part in pair]).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    call = ("--data", DATA, "--captioner", "rules")
    out.write_text("mine\n")
    assert "so this command did not write the table" in refused(*call, "--out", out)
    assert out.read_text() == "mine\n"
    assert "ends in .jsonl" in refused(*call, "--out", tmp_path / "c.csv")
    other, cache = tmp_path / "d.jsonl", tmp_path / "d.jsonl.cache"
    cache.write_text('{"key": "k", "text": "t"}\n')
    assert refused(*call, "--out", other).startswith(f"Line 1 of {cache} is no caption that was kept there")
    table = tmp_path / "t.csv"
    for text, sentence in (
        ("id,title\nshapes-0-000003,A\nshapes-0-000003,B\n", "has the id shapes-0-000003 twice"),
        ("id,title\nnobody,A\n", "has 1 id(s) that neither a clip nor a file of shapes has, nobody first"),
        ("id,name\nshapes-0-000003,A\n", "has neither a column title nor a column human_caption but id, name"),
    ):
        table.write_text(text)
        assert sentence in refused(*call, "--table", table, "--out", tmp_path / "e.jsonl")
    assert called(*call, "--out", tmp_path / "f.jsonl").exit_code == 0
    with refusal("bad-data", "2", "12", "shapes"):
        build("dataset", f"recaptioned:{tmp_path / 'f.jsonl'}?data=shapes?n=12%26frames=2%26size=32")


def test_folders_that_hold_no_captioner_are_named(tmp_path: Path, models: Path) -> None:
    def captioner(folder: Path) -> ModelCaptioner:
        return ModelCaptioner(str(folder), 5, "cpu", "float32")

    with refusal("unreadable"):
        captioner(models / "causal")
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((models / "llava" / name).read_bytes())
    with refusal("unreadable"):
        captioner(folder)
    wordy, clip = ModelCaptioner(str(models / "llava"), 5000, "cpu", "float32"), clip_of(build("dataset", DATA), 0)
    with refusal("too-large", "5000", "2048"):
        wordy.caption_frame(clip, 0, "image")


def test_one_process_holds_the_captions_and_leaves_no_lock(tmp_path: Path) -> None:
    with (
        Cache(tmp_path / "made.jsonl"),
        refusal("in-use", "made.jsonl"),
    ):
        Cache(tmp_path / "made.jsonl").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["made.jsonl"]
