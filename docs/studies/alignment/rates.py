"""What a rate does to an encoder that has nothing to learn: its cosine to itself while it is aligned to its own output.

    python rates.py     # keeps results/rates.json; trials that are in it are not made again

Epsilon and clip of AdamW are tried too, of which the first is no option of the command.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from diagnostics_training.alignment.student import Start, batches_for, make_student, start_of
from diagnostics_training.jobs import TapJob
from diagnostics_training.trainer.settings import Settings
from study import BASE, HERE, OUTPUT
from torch.nn.functional import cosine_similarity
from torch.utils.data import default_collate

TRIALS = (
    (1e-4, 1e-8, 1.0, "float32", 30),
    (1e-4, 1e-6, 1.0, "float32", 30),
    (1e-4, 1e-4, 1.0, "bf16", 40),
    (2e-5, 1e-8, 1.0, "bf16", 20),
    (2e-5, 1e-8, math.inf, "bf16", 20),
    (1e-5, 1e-8, 1.0, "bf16", 40),
)
"""Rate, epsilon, clip, precision and steps."""
DATA, SCENES, EVERY = "shapes?n=600&size=112&seed=1000", 24, 10
"""Training data, how many of their val scenes are looked at, and after how many steps."""
KEPT = HERE / "results" / "rates.json"


def trial(
    start: Start, job: TapJob, rate: float, epsilon: float, clip: float, precision: str, steps: int
) -> list[list[float]]:
    """[step, mean cosine to the base's output on val] every so many steps."""
    torch.manual_seed(0)
    student = make_student(start, job)
    objective, feed = batches_for(start, job, [start.itself])(student.encoder.sized_for(start.sample))
    objective.train()
    objective.free(feed(0))
    learning = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    matrices = [p for p in learning if sum(n > 1 for n in p.shape) > 1]
    others = [p for p in learning if sum(n > 1 for n in p.shape) <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=epsilon, fused=True)
    settings, seen = Settings(steps=steps, lr=rate), on_val(start)
    own = start.own.capture(seen, [OUTPUT])[OUTPUT]
    looks: list[list[float]] = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate(step)
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(feed(step))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, clip)
        optimiser.step()
        if not (step + 1) % EVERY:
            given = objective.student.capture(seen, [OUTPUT])[OUTPUT]
            looks.append([step + 1, round(float(cosine_similarity(given, own, dim=-1).mean()), 4)])
    return looks


def on_val(start: Start) -> torch.Tensor:
    rows = np.flatnonzero(start.dataset.split == "val")[:SCENES]
    return default_collate([start.own.preprocess(start.dataset[int(row)]) for row in rows])


def main() -> None:
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {"data": DATA, "trials": []}
    job = TapJob(encoder=BASE, to=OUTPUT, data=DATA, batch=12, out=Path("unused"))
    start = start_of(job)
    for rate, epsilon, clip, precision, steps in TRIALS:
        asked = {
            "rate": rate,
            "epsilon": epsilon,
            "clip": clip if math.isfinite(clip) else None,
            "precision": precision,
            "steps": steps,
        }
        if not any(asked.items() <= one.items() for one in kept["trials"]):
            kept["trials"].append(
                {**asked, "scenes": SCENES, "cosines": trial(start, job, rate, epsilon, clip, precision, steps)}
            )
            KEPT.write_text(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main()
