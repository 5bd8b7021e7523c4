"""Language alignment: what answers teach an encoder, what the two controls say, and that its phases are one training."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import diagnostics as dx
from diagnostics import DiagnosticsError, Grid, Question
from diagnostics.cli.main import main
from diagnostics.plugin import silent

pytest.importorskip("transformers")

from diagnostics_training.alignment.decoder import TAP, Decoder, Projector, decoder_named, with_projector
from diagnostics_training.alignment.language import (
    Language,
    Pair,
    Pairs,
    QuestionFeed,
    align_language,
    check_texts,
    held_out,
    laid_out,
)
from diagnostics_training.alignment.student import make_student, start_of
from diagnostics_training.jobs import LanguageJob
from diagnostics_training.plugin import aligned_lines
from diagnostics_training.trainer import checkpoint
from diagnostics_training.trainer.record import lines
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import fit

from tests.support.answering import COLOURS, SHAPES, WORDINGS
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder
from tests.support.two_processes import end_two, start_two

pytest.importorskip("transformers")

SUPPORT = f"{Path(__file__).parents[2] / 'support' / 'answering.py'}"
WORDS = [*COLOURS, *SHAPES, *(text for pair in WORDINGS.values() for texts in pair for text in texts)]


def job(out: Path, encoder: str = "build", data: str = "data", **more: Any) -> LanguageJob:
    options = {"lm": "tiny", "train_lm": True, "steps": 200, "batch": 64, "lr": 5e-3, "device": "cpu", **more}
    return LanguageJob(encoder=f"{SUPPORT}:{encoder}", data=f"{SUPPORT}:{data}", out=out, **options)


def whole(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], without: str = "-") -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items() if without not in name)


# What it does


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """An encoder whose tokens hold the colour, and whose last block takes the shape away."""
    folder = tmp_path_factory.mktemp("planted")
    # At .005 three of four seeds do not learn the shape; at .002 eight of eight do, whatever the processor's last bits.
    return align_language(job(folder / "lifted", steps=400, batch=32, lr=2e-3, drop_path=0.0)), folder


def shape_over_colour(encoder: str | Path) -> float:
    """How long the half of the output is that holds the shape, beside the other half."""
    data, built = dx.build("dataset", f"{SUPPORT}:data"), dx.build("encoder", str(encoder), trust_code=True)
    tokens = built.capture(torch.stack([built.preprocess(data[i]) for i in range(64)]), ["blocks.1"])["blocks.1"]
    return float(tokens[..., 4:].norm() / tokens[..., :4].norm())


@pytest.mark.slow
def test_answers_come_from_the_samples_own_tokens_and_from_nowhere_else(planted: Any) -> None:
    scores = planted[0]["answers"]["scores"]
    assert list(scores) == ["all", "colour", "shape"]
    for name in scores:
        assert scores[name]["own"][1] > 0.8
        value, low, high = scores[name]["commonest"]
        assert value == 0.25 and low < scores[name]["others"][0] < high
        assert scores[name]["none"][0] < high
    value, low, _ = planted[0]["answers"]["from_samples"]
    assert value == pytest.approx(scores["all"]["own"][0] - scores["all"]["others"][0]) and low > 0.6
    loss = planted[0]["answers"]["loss"]
    assert loss["own"] < 0.1 < 0.6 < min(loss["others"], loss["none"])


@pytest.mark.slow
def test_what_was_asked_for_is_at_the_output_and_training_by_itself_brings_it_not(planted: Any) -> None:
    row, folder = planted
    assert shape_over_colour(f"{SUPPORT}:build") == 0
    assert shape_over_colour(folder / "lifted") > 0.2
    # What weight decay leaves of the matrix that takes it away.
    assert shape_over_colour(row["control"]["path"]) < 0.03
    # The control sat out the steps in which the encoder of the other learned nothing.
    assert [lines(folder / name)[0]["step"] for name in ("lifted", "lifted-control")] == [10, 50]
    assert lines(folder / "lifted")[-1]["lr"] == lines(folder / "lifted-control")[-1]["lr"]


def test_an_encoder_that_sees_nothing_answers_as_the_commonest(tmp_path: Path) -> None:
    row = align_language(job(tmp_path / "b", "blind", steps=60, control=False))
    for scores in row["answers"]["scores"].values():
        assert scores["own"] == scores["others"] and scores["own"][0] < scores["commonest"][2]
    assert row["answers"]["from_samples"][0] == 0 and row["control"] is None


@pytest.mark.slow
def test_the_saved_encoder_has_the_projector_and_the_saved_decoder_answers_from_it(planted: Any) -> None:
    row, folder = planted
    loaded = dx.load_encoder(folder / "lifted", trust_code=True)
    assert isinstance(loaded, dx.TorchEncoder)
    head = loaded.tap(TAP)
    assert loaded.output_tap == "blocks.1" and head.depth > 1 and head.part == "head" and head.features == 96
    assert loaded.lineage["group"] == "answering aligned with tiny" and loaded.lineage["to"] == "tiny"
    assert loaded.lineage["base"] == dx.build("encoder", f"{SUPPORT}:build").identity["weights"]
    assert "--lm tiny --train-lm" in loaded.lineage["how"]
    decoder = decoder_named(row["decoder"], [])
    data = dx.build("dataset", f"{SUPPORT}:data")
    pairs, rows = Pairs(data, decoder, 5), np.flatnonzero(data.split == "test")[:20]
    objective = Language(loaded, decoder)
    batch = torch.stack([loaded.preprocess(data[int(i)]) for i in rows])
    text = laid_out([pairs.tested(int(i))[1] for i in rows])
    with torch.no_grad():
        assert bool(objective.answered(objective.shown(batch), **text)[1].all())
        # Greedy, word by word.
        shown = objective.shown(batch)[0]
        for i, row_of in enumerate(rows[:3]):
            prompt = decoder.embedded(torch.tensor([[decoder.start, *pairs.tested(int(row_of))[1].prompt]]))
            given = torch.cat([prompt[:, :1], shown[i : i + 1], prompt[:, 1:]], dim=1)
            said = decoder.model.generate(inputs_embeds=given, max_new_tokens=4, do_sample=False)
            assert decoder.tokenizer.decode(said[0], skip_special_tokens=True) == data.questions[row_of][1].answer
    # And once more as the base of another.
    again = align_language(
        dataclasses.replace(
            job(folder / "again", lm=row["decoder"], train_lm=False, steps=2, batch=8, trust_code=True, control=False),
            encoder=str(folder / "lifted"),
        )
    )
    assert again["decoder"] is None and not (folder / "again" / "decoder").exists()
    assert again["answers"]["scores"]["all"]["none"][0] < 0.5
    assert len(dx.load_encoder(folder / "again", trust_code=True).taps) == len(loaded.taps)


@pytest.mark.slow
def test_what_is_printed(planted: Any) -> None:
    text = "\n".join(aligned_lines(planted[0]))
    assert "160 questions about 80 test samples, by what the decoder is shown:" in text
    assert re.search(r"^right +own tokens +other samples' +none +commonest answer$", text, re.M)
    assert re.search(r"^shape +\d\.\d{3} \[", text, re.M) and "minus that with other samples': 0." in text
    assert "nats per token: own tokens 0.0" in text and "decoder: the trained decoder, as --lm takes it" in text
    json.dumps(planted[0], allow_nan=False)


# Two phases, one training


def parts(steps: int, alone: int, lm: str = "tiny", **more: Any) -> tuple[Language, QuestionFeed, Decoder]:
    asked = job(Path("unused"), steps=steps, projector_steps=alone, batch=8, **more)
    start, decoder = start_of(asked), decoder_named(lm, WORDS)
    torch.manual_seed(0)
    student, blocks, _ = make_student(start, asked, lambda encoder: with_projector(encoder, decoder.width, asked.pool))
    feed = QuestionFeed(start, Pairs(start.dataset, decoder, 5), asked.batch)
    objective = Language(student, decoder, asked.train_lm, alone)
    objective.eval()
    objective.free(feed(0))
    objective.parts = [objective.module.get_submodule(block.name) for block in blocks]
    return objective, feed, decoder


class Stopped(Exception):
    """Where a training is cut off."""


def trained(
    out: Path, steps: int = 8, alone: int = 4, stop: int | None = None, lm: str = "tiny", **more: Any
) -> tuple[Language, Any]:
    objective, feed, decoder = parts(steps, alone, lm)
    seen: dict[int, dict[str, Tensor]] = {}

    def after(done: int, total: int) -> None:
        seen[done] = whole(objective.module) | whole(decoder.model)
        if done == stop:
            raise Stopped

    objective.after_step = after
    settings = Settings(steps=steps, lr=5e-3, log_every=1, checkpoint_every=3, **more)
    fit(objective, feed, settings, out, silent, tell=lambda line: None)
    return objective, seen


def test_questions_about_val_are_asked_while_it_trains_and_change_nothing(tmp_path: Path) -> None:
    row, plain = (
        align_language(
            dataclasses.replace(job(tmp_path / str(every)), steps=20, batch=16, control=False, evaluate_every=every)
        )
        for every in (8, None)
    )
    assert row["loss"] == plain["loss"]
    logged = {line["step"]: line for line in lines(tmp_path / "8") if "evaluation/loss" in line}
    assert list(logged) == [8, 16, 20]
    assert logged[20]["evaluation/loss"] < logged[8]["evaluation/loss"]
    assert all(0 <= line["evaluation/right"] <= 1 for line in logged.values())
    assert not any("evaluation/loss" in line for line in lines(tmp_path / "None"))


def test_there_is_no_evaluation_without_val(tmp_path: Path) -> None:
    start = start_of(job(tmp_path / "o"))
    start.dataset.split[start.dataset.split == "val"] = "test"
    with refusal("bad-splits"):
        held_out(start, Pairs(start.dataset, decoder_named("tiny", WORDS), 5))


@pytest.mark.parametrize("random", [False, True])
def test_the_projector_learns_first_and_with_it_a_random_decoder_but_no_encoder(tmp_path: Path, random: bool) -> None:
    decoder_named("tiny", WORDS, seed=1).save(tmp_path / "lm")
    lm = "tiny" if random else str(tmp_path / "lm")
    objective, _, decoder = parts(8, 4, lm)
    before = whole(objective.module) | whole(decoder.model)
    _, seen = trained(tmp_path / "out", lm=lm)
    for done in range(1, 5):
        changed = {name for name in before if not torch.equal(before[name], seen[done][name])}
        assert any("projector" in name for name in changed)
        assert all("projector" in name or (random and name.startswith(("model.", "lm_head."))) for name in changed)
        assert any(name.startswith("model.layers") for name in changed) == random
    assert not same(before, seen[5], without="projector")
    changed = {name for name in before if not torch.equal(before[name], seen[8][name])}
    assert any("blocks" in name for name in changed) and any(name.startswith("model.layers") for name in changed)


def test_the_optimiser_holds_nothing_of_what_has_not_learned(tmp_path: Path) -> None:
    decoder_named("tiny", WORDS, seed=1).save(tmp_path / "lm")
    with pytest.raises(Stopped):
        trained(tmp_path, stop=4, lm=str(tmp_path / "lm"))
    with safe_open(tmp_path / checkpoint.FILE, "pt") as file:
        moments = [name for name in file.keys() if name.startswith("optimiser/")]  # noqa: SIM118 (safetensors' own)
    assert moments and all("language_projector" in name for name in moments)


@pytest.mark.parametrize("stop", [4, 5, 7])
def test_it_goes_on_exactly_on_either_side_of_the_boundary(tmp_path: Path, stop: int) -> None:
    """Cut off after steps 4, 5 and 7 of 8, it goes on from 3, 3 and 6; the fifth is the first in which all learn."""
    _, seen = trained(tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(tmp_path / "cut", stop=stop)
    _, again = trained(tmp_path / "cut")
    assert min(again) == {4: 4, 5: 4, 7: 7}[stop]
    assert all(same(seen[done], again[done]) for done in again)
    assert [x["loss"] for x in lines(tmp_path / "cut")] == [x["loss"] for x in lines(tmp_path / "whole")]


def test_bf16_computes_coarsely_and_keeps_weights_fine(tmp_path: Path) -> None:
    objective, _ = trained(tmp_path / "a", precision="bf16")
    _, _ = trained(tmp_path / "b")
    assert {parameter.dtype for parameter in objective.parameters()} == {torch.float32}
    coarse, fine = (np.array([x["loss"] for x in lines(tmp_path / name)]) for name in "ab")
    assert (coarse != fine).any()
    np.testing.assert_allclose(coarse, fine, rtol=0.05)


@pytest.mark.parametrize("more", [{"recompute": True}, {"workers": 1}])
def test_what_saves_memory_or_time_changes_no_number(tmp_path: Path, more: dict[str, Any]) -> None:
    objective, seen = trained(tmp_path / "a", **more)
    _, plain = trained(tmp_path / "b")
    # Two blocks of the encoder, three of the decoder.
    assert len(objective.blocks()) == 5
    assert all(torch.allclose(seen[8][name], plain[8][name], atol=1e-6) for name in plain[8])


def test_drop_path_is_at_work_when_all_learn_and_only_in_training() -> None:
    objective, feed, _ = parts(8, 4, drop_path=0.9)
    batch = feed(0)

    def losses() -> int:
        return len({float(objective(batch)["loss"].detach()) for _ in range(4)})

    objective.train()
    objective.before_step(3)
    assert losses() == 1
    objective.before_step(4)
    assert losses() > 1
    objective.eval()
    assert losses() == 1


def test_a_decoder_from_a_folder_stays_as_it_is_and_in_no_checkpoint(tmp_path: Path) -> None:
    decoder_named("tiny", WORDS).save(tmp_path / "lm")
    files = {path.name: path.read_bytes() for path in (tmp_path / "lm").iterdir()}
    start = start_of(job(tmp_path / "o"))
    decoder = decoder_named(str(tmp_path / "lm"), [])
    before = whole(decoder.model)
    objective = Language(with_projector(start.base, decoder.width), decoder)
    feed = QuestionFeed(start, Pairs(start.dataset, decoder, 5), 8)
    objective.free(feed(0))
    first = whole(objective.module)
    fit(
        objective,
        feed,
        Settings(steps=3, lr=5e-3, checkpoint_every=1),
        tmp_path / "fit",
        silent,
        tell=lambda line: None,
    )
    assert same(before, decoder.model.state_dict()) and all(p.grad is None for p in decoder.model.parameters())
    assert not same(first, objective.module.state_dict(), without="projector")
    with safe_open(tmp_path / "fit" / checkpoint.FILE, "pt") as file:
        assert not any("layers" in name or "embed_tokens" in name for name in file.keys())  # noqa: SIM118 (safetensors' own)
    row = align_language(job(tmp_path / "o", lm=str(tmp_path / "lm"), train_lm=False, steps=2, control=False))
    assert row["decoder"] is None and {p.name: p.read_bytes() for p in (tmp_path / "lm").iterdir()} == files
    with refusal("other-run", "--pool"):
        align_language(job(tmp_path / "o", lm=str(tmp_path / "lm"), train_lm=False, steps=2, control=False, pool=2))
    decoder_named("tiny", WORDS, seed=1).save(tmp_path / "lm")
    with refusal("other-run", "weights of the decoder"):
        align_language(job(tmp_path / "o", lm=str(tmp_path / "lm"), train_lm=False, steps=2, control=False))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, warm_python: Path) -> None:
    """Over the boundary of the phases, where half of the parameters begin to have gradients."""
    running = start_two(warm_python, __file__, f"align_language(t.short(Path({str(tmp_path / 'two')!r})))")
    align_language(short(tmp_path / "one"))
    end_two(running)
    one, two = (dx.load_encoder(tmp_path / name, trust_code=True) for name in ("one", "two"))
    assert isinstance(one, dx.TorchEncoder) and isinstance(two, dx.TorchEncoder)
    for name, tensor in one.module.state_dict().items():
        torch.testing.assert_close(two.module.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)
    assert one.identity["weights"] != dx.build("encoder", f"{SUPPORT}:build").identity["weights"]


def short(out: Path) -> LanguageJob:
    return job(out, steps=8, projector_steps=4, batch=8, drop_path=0.0, control=False)


# The command


def test_the_command_from_scenes_to_the_next_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    encoder = "objective:jepa?modality=image&size=32&width=16&depth=2&heads=2&patch=8"
    words = (
        f"align language --encoder {encoder} --at blocks.0 --lm tiny --train-lm --pool 2 --data shapes?n=20&size=48 "
    )
    monkeypatch.setattr("sys.argv", ["diagnostics", *f"{words}--steps 2 --batch 4 --device cpu -o out".split()])
    with pytest.raises(SystemExit) as left:
        main()
    shown = capsys.readouterr().out
    assert left.value.code == 0 and "16 questions about 4 test samples, by what the decoder is shown:" in shown
    assert "out/decoder: the trained decoder, as --lm takes it" in shown and "Next: for model in" in shown
    built = dx.build("encoder", "out")
    # Of samples of the size that the base was named with, and of those that it learned from.
    assert built.tap(TAP).grid.shape == (2, 2)
    assert built.sized_for(np.zeros((48, 48, 3), np.uint8)).tap(TAP).grid.shape == (3, 3)
    assert [tap.name for tap in dx.build("encoder", "out-control").taps] == ["embed", "blocks.0"]
    monkeypatch.setattr(
        "sys.argv", ["diagnostics", *f"{words.replace('shapes?n=20&size=48', 'digits')}-o other".split()]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and "digits has no texts, from which language is learned" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


# What a decoder is shown


def tiny_language(valid: Any = None, pool: int = 1) -> tuple[Language, Tensor]:
    """A decoder that reads a series of 8 tokens, and a batch of three."""
    torch.manual_seed(0)
    encoder = tiny_encoder().replace(valid=valid) if valid else tiny_encoder()
    data = tiny_dataset()
    batch = torch.stack([encoder.preprocess(data[i]) for i in range(3)])
    return Language(with_projector(encoder, 96, pool), decoder_named("tiny", WORDS)), batch


PAIRS = [
    Pair(Question("q", "a"), prompt, answer) for prompt, answer in (([3, 4, 5], [6, 0]), ([], [7, 8, 9, 0]), ([4], [0]))
]


def test_the_loss_is_the_decoders_own_on_the_answer_alone() -> None:
    """By transformers' loss, one question at a time and without padding."""
    objective, batch = tiny_language()
    decoder = objective.decoder
    with torch.no_grad():
        shown = objective.shown(batch)
        lost, _ = objective.answered(shown, **laid_out(PAIRS))
        for i, pair in enumerate(PAIRS):
            text = decoder.embedded(torch.tensor([[decoder.start, *pair.prompt, *pair.answer]]))
            sequence = torch.cat([text[:, :1], shown[0][i : i + 1], text[:, 1:]], dim=1)
            labels = torch.tensor([[-100] * (1 + 8 + len(pair.prompt)) + pair.answer])
            expected = decoder.model(inputs_embeds=sequence, labels=labels).loss
            assert float(lost[i]) == pytest.approx(float(expected), rel=1e-5)
        bare, _ = objective.answered(None, **laid_out(PAIRS))
        alone = torch.tensor([[decoder.start, *PAIRS[0].prompt, *PAIRS[0].answer]])
        expected = decoder.model(input_ids=alone, labels=torch.where(torch.arange(6) < 4, -100, alone)).loss
        assert float(bare[0]) == pytest.approx(float(expected), rel=1e-5)


def test_gradients_reach_the_encoder_from_answers_and_not_from_questions() -> None:
    objective, batch = tiny_language()
    shown = objective.shown(batch)[0].detach().requires_grad_()
    objective.answered((shown, None), **laid_out(PAIRS))[0].sum().backward()
    assert shown.grad is not None and bool((shown.grad.abs().sum((1, 2)) > 0).all())
    asked = laid_out([PAIRS[0], PAIRS[0]])
    asked["ids"][1, 3:] = 9
    # Of two answers to one question, the second with other tokens where no label is.
    asked["labels"][1] = asked["labels"][0]
    with torch.no_grad():
        lost, _ = objective.answered((shown[:1].expand(2, -1, -1), None), **asked)
    assert float((lost[0] - lost[1]).abs()) > 0  # the answer's first token is read before its second
    assert int((asked["labels"] != -100).sum(1)[0]) == 2


def test_tokens_that_stand_for_no_data_are_as_if_they_were_not_there() -> None:
    known = torch.ones(3, 8, dtype=torch.bool)
    known[0, :5], known[1, 3:6], known[2, 7:] = False, False, False
    with torch.no_grad():
        objective, batch = tiny_language(lambda batch, tap: known)
        shown, valid = objective.shown(batch)
        assert valid is not None and torch.equal(valid, known)
        lost, right = objective.answered((shown, valid), **laid_out(PAIRS))
        for i, pair in enumerate(PAIRS):
            alone, _ = objective.answered((shown[i : i + 1, known[i]], None), **laid_out([pair]))
            assert float(lost[i]) == pytest.approx(float(alone[0]), rel=1e-5)
        assert right.shape == (3,)
        every, _ = objective.answered((shown, torch.ones_like(known)), **laid_out(PAIRS))
        plain, _ = objective.answered((shown, None), **laid_out(PAIRS))
        torch.testing.assert_close(every, plain)


def test_tokens_are_pooled_over_cells_of_data() -> None:
    grid = Grid((3, 4), ("y", "x"))
    torch.manual_seed(0)
    projector, tokens = Projector(5, 7, 2), torch.randn(2, 12, 5)
    known = torch.ones(2, 12, dtype=torch.bool)
    known[0, [0, 1, 4]] = False
    known[1, [2, 3, 6, 7]] = False
    valid = projector.valid(known, grid)
    assert valid.tolist() == [[True] * 4, [True, False, True, True]]
    gone = tokens.masked_fill(~known[..., None], float("nan"))
    cells = tokens.reshape(2, 3, 4, 5)
    # Three rows become two that share the middle one.
    by_hand = torch.stack(
        [cells[:, y : y + 2, x : x + 2].reshape(2, 4, 5).mean(1) for y in (0, 1) for x in (0, 2)], dim=1
    )

    def project(pooled: Tensor) -> Tensor:
        return projector.out(torch.nn.functional.gelu(projector.enter(pooled)))

    torch.testing.assert_close(projector(tokens, grid), project(by_hand))
    result = projector(gone, grid, known)
    torch.testing.assert_close(result[0, 0], project(tokens[0, 5]))
    torch.testing.assert_close(
        result[1, 3], project(cells[1, 1:3, 2:4][torch.tensor([[False, False], [True, True]])].mean(0))
    )
    clip = Grid((2, 4, 4), ("t", "y", "x"))
    assert Projector(5, 7, 2)(torch.randn(1, 32, 5), clip).shape == (1, 8, 7)
    objective, batch = tiny_language(pool=2)
    assert objective.shown(batch)[0].shape == (3, 4, 96) and objective.student.tap(TAP).grid == Grid((4,), ("t",))


# What is asked


def spoken(questions: Any = (), texts: Any = ()) -> dx.Dataset:
    samples, split = np.zeros((3, 4)), ["train", "val", "test"]
    return dx.Dataset("spoken", "series", samples, list("abc"), split, {}, questions=questions, texts=texts)


def test_training_draws_every_wording_but_those_held_back_and_tests_draw_those() -> None:
    decoder, data = decoder_named("tiny", WORDS), dx.build("dataset", f"{SUPPORT}:data")
    pairs = Pairs(data, decoder, 5)
    rng = np.random.default_rng(0)
    drawn = {decoder.tokenizer.decode(pairs.drawn(0, rng).prompt) for _ in range(60)}
    held_back = {decoder.tokenizer.decode(pair.prompt) for row in range(5) for pair in pairs.tested(row)}
    bare = {
        name: {re.sub(r"(?=[?.])", " ", text) for text in texts}
        for name, texts in (
            ("drawn", {w for one in WORDINGS.values() for w in one[0]}),
            ("held", {w for one in WORDINGS.values() for w in one[1]}),
        )
    }
    assert drawn == bare["drawn"] and held_back == bare["held"]
    captions = Pairs(spoken(texts=["a red disc", "red", "blue"]), decoder, 5)
    assert captions.drawn(0, rng) == captions.tested(0)[0]
    assert captions.tested(0)[0].prompt == [] and captions.tested(0)[0].answer[-1] == decoder.end


def test_a_batch_is_a_function_of_its_step() -> None:
    _, feed, _ = parts(8, 4)
    whole_batch, halves = feed(5), [feed(5, rank, 2) for rank in range(2)]
    assert all(torch.equal(feed(5)[key], whole_batch[key]) for key in whole_batch)
    assert not torch.equal(feed(6)["clean"], whole_batch["clean"])
    for key in whole_batch:
        shown = torch.cat(
            [
                torch.nn.functional.pad(
                    half[key],
                    (0, whole_batch[key].shape[-1] - half[key].shape[-1]),
                    value=-100 if key == "labels" else 0,
                )
                for half in halves
            ]
        )
        assert torch.equal(shown, whole_batch[key])


# Bad input


def test_texts_that_cannot_be_learned_from_are_told() -> None:
    with refusal("no-target", "spoken"):
        check_texts(spoken())
    with refusal("bad-data", "2", "3", "spoken"):
        check_texts(spoken(texts=["a", " ", ""]))
    with refusal("bad-data", "1", "3", "spoken"):
        check_texts(spoken([[Question("q", "a")], [], [Question("q", "a")]]))
    decoder = dataclasses.replace(decoder_named("tiny", ["one two"]), context=8)
    texts = ["one two", "one " * 4, "two " * 5]
    Pairs(spoken(texts=texts), decoder, 2)
    with refusal("too-large", "2", "spoken", "4", "tiny", "5"):
        Pairs(spoken(texts=texts), decoder, 4)
    held_back = [[Question("q", "one", ("two",), ("one " * 9,))]] * 3
    with refusal("too-large", "3", "spoken", "6", "11"):
        Pairs(spoken(held_back), decoder, 2)


def test_nothing_is_begun_where_texts_are_missing(tmp_path: Path) -> None:
    with refusal("no-target", "planted"):
        align_language(
            dataclasses.replace(
                job(tmp_path / "o"),
                encoder=SUPPORT.replace("answering", "erasing") + ":build",
                data=SUPPORT.replace("answering", "erasing") + ":data",
            )
        )
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": 3}, "Tokens cannot be pooled by 3: give --pool 1 or 2"),
        ({"projector_steps": 201}, "cannot learn alone for 201 of 200 steps: give --projector-steps 0 to 200"),
        ({"projector_steps": -1}, "cannot learn alone for -1 of 200 steps"),
        ({"train_lm": False}, "Decoder tiny starts from random weights and must be trained too: add --train-lm"),
        ({"lm": "o/decoder"}, "Decoder o/decoder lies in o, where it would be overwritten: give another --out"),
    ],
)
def test_choices_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DiagnosticsError, match=message):
        job(Path("o"), **change)
