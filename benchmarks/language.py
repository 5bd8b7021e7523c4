"""Language alignment with the tiny decoder: questions a CPU second with everything trained.

Scenes of 48 pixels, an encoder of six blocks of 64 features on 36 tokens; rendering is left out, and batches are made in the same
thread.
"""

from __future__ import annotations

from diagnostics_training.alignment.decoder import decoder_named, with_projector
from diagnostics_training.alignment.language import Language, Pairs, QuestionFeed
from diagnostics_training.alignment.student import make_student, start_of
from diagnostics_training.jobs import LanguageJob
from diagnostics_training.trainer.objective import World
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import build_optimiser, train_step

from _common import SMALLEST, cpu, finish, verdict

STEPS, BATCH, SCENES = (1, 4, 20) if SMALLEST else (20, 64, 200)
LEAST = 165.0
ENCODER = "objective:jepa?modality=image&size=48&width=64&depth=6&heads=4&patch=8"


def throughput() -> float:
    """Questions a CPU second, with batches made in the same thread."""
    job = LanguageJob(
        encoder=ENCODER, lm="tiny", train_lm=True, data=f"shapes?n={SCENES}&size=48", steps=STEPS, batch=BATCH
    )
    start = start_of(job)
    questions = {question for asked in start.dataset.questions for question in asked}
    decoder = decoder_named("tiny", [text for q in questions for text in (q.answer, *q.wordings, *q.held_back)])
    student, *_ = make_student(start, job, lambda encoder: with_projector(encoder, decoder.width))
    feed = QuestionFeed(start, Pairs(start.dataset, decoder, 1 + start.tap.grid.tokens), BATCH)
    objective = Language(student, decoder, True)
    objective.free(feed(0))
    settings = Settings(steps=STEPS, lr=1e-3)
    optimiser = build_optimiser(objective.train(), settings)
    objective.before_step(0)
    began = cpu()
    for step in range(STEPS):
        train_step(objective, feed(step), optimiser, settings, step, World())
    return STEPS * BATCH / (cpu() - began)


if __name__ == "__main__":
    finish(verdict("questions a CPU second, everything trained", throughput(), LEAST, at_least=True))
