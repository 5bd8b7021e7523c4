"""Language alignment with the tiny decoder: questions a CPU second with everything trained.

Scenes of 48 pixels, an encoder of six blocks of 64 features on 36 tokens; rendering is left out, and batches are made in the same
thread. `--real` aligns DINOv2 ViT-S of `wheel:dinov2-small` at 112 pixels to questions about 500 scenes instead and prints what the
controls say (an hour of one core; no limit).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from diagnostics_training.alignment.start import make_student, start_of
from diagnostics_training.alignment_commands import aligned_lines
from diagnostics_training.language.align import LanguageJob, align_language
from diagnostics_training.language.decoder import decoder_named
from diagnostics_training.language.feed import QuestionFeed
from diagnostics_training.language.objective import Language
from diagnostics_training.language.pairs import Pairs
from diagnostics_training.language.projector import with_projector
from diagnostics_training.trainer.distributed import World
from diagnostics_training.trainer.optimisers import build_optimiser
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import train_step

from _common import cpu, finish, verdict

STEPS, BATCH, LEAST = 20, 64, 165.0
ENCODER = "objective:jepa?modality=image&size=48&width=64&depth=6&heads=4&patch=8"


def throughput() -> float:
    """Questions a CPU second, with batches made in the same thread."""
    job = LanguageJob(encoder=ENCODER, lm="tiny", train_lm=True, data="shapes?n=200&size=48", steps=STEPS, batch=BATCH)
    start = start_of(job)
    questions = {question for asked in start.dataset.questions for question in asked}
    decoder = decoder_named("tiny", [text for q in questions for text in (q.answer, *q.wordings, *q.held_back)])
    student = make_student(start, job, lambda encoder: with_projector(encoder, decoder.width)).encoder
    feed = QuestionFeed(start, Pairs(start.dataset, decoder, 1 + start.tap.grid.tokens), BATCH)
    objective = Language(student, decoder, True)
    objective.free(feed(0))
    settings = Settings(STEPS, 1e-3)
    optimiser = build_optimiser(objective.train(), settings)
    objective.before_step(0)
    began = cpu()
    for step in range(STEPS):
        train_step(objective, objective, feed(step), optimiser, settings, step, World())
    return STEPS * BATCH / (cpu() - began)


def real() -> None:
    with tempfile.TemporaryDirectory() as folder:
        row = align_language(
            LanguageJob(
                encoder="wheel:dinov2-small?size=112", at="encoder.layer.7", lm="tiny", train_lm=True, data="shapes?n=500&size=112",
                out=Path(folder, "real"), steps=300, batch=32, lr=1e-3, layer_scale=float(sys.argv[2]) if len(sys.argv) > 2 else 1.0,
            )
        )  # fmt: skip
    print("\n".join(aligned_lines(row)[:-2]))


if __name__ == "__main__":
    if "--real" in sys.argv:
        real()
    else:
        finish(verdict("questions a CPU second, everything trained", throughput(), LEAST, at_least=True))
