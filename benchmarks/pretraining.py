"""Pretraining on a GPU, in one call: checks, the rate of both towers, and the run for the page.

1. The contrast on the device against open_clip's `ClipLoss` in float64 on the CPU, loss and gradients.
2. PE-L/14 with random weights at 98, 154 and 336 pixels, bf16 and compiled, with the largest batch of `BATCHES` that fits: products of
   matrices of a step of the image tower a second to those of one large product measured beside it; pairs a second of both towers with
   contrast and optimiser.
3. With `--demonstration`: `train pe --size nano --recipe 9` with 5 million pairs of `shapes?objects=1&split=pairs`, its wall time, and shape by
   zero-shot on pairs of colour and shape that it never saw; then its profile over depth.
4. With `--row 1` or `--row 9`, and then nothing else: the same of that row at b16-224, with as many pairs as four minutes allow by the rate of
   its first steps. There is no limit: it shows what so many pairs come to.

Wall time, since a GPU's work is in no process's CPU time. `pretraining.py cpu` puts the CPU and small models in the GPU's place, to
try this script; its limits are then not meant.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diagnostics_pretraining.objective import Pretraining, contrast
from diagnostics_pretraining.recipe import PretrainJob
from diagnostics_pretraining.text_encoder import Vocabulary, context_of
from diagnostics_pretraining.towers import Towers, build_towers
from diagnostics_pretraining.train import train
from diagnostics_training.trainer.objective import World
from diagnostics_training.trainer.record import lines
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import build_optimiser, train_step, wrap
from open_clip.loss import ClipLoss
from torch.utils.flop_counter import FlopCounterMode

from _common import ARGUMENTS, SMALLEST, apart, finish, product_rate, timed, verdict

EQUAL, RATE = 1e-5, 0.5
SECONDS, SHAPE = 600.0, 0.625
BATCHES = (2048, 1024, 512, 256, 128, 64)
PAIRS = 5_013_504
"""The whole batches nearest to 5 million."""
DATA = "shapes?objects=1&split=pairs&size=48"
ASKED = 96 if SMALLEST else 2560
"""Scenes of the zero-shot; half as many of the profile."""
ROW_SECONDS, ROW_BATCH, ROW_STEPS = 240, 512, 20
"""Of a row at b16-224; the steps show its rate."""


def check_contrast(device: str) -> list[bool]:
    """Loss and gradients on the device to those of `ClipLoss` in float64."""
    torch.manual_seed(0)
    values = [torch.randn(256, 64, dtype=torch.float64) for _ in range(2)]
    wanted = [torch.nn.functional.normalize(value, dim=-1).requires_grad_() for value in values]
    loss = ClipLoss()(*wanted, torch.tensor(20.0, dtype=torch.float64))
    loss.backward()
    # Gradients to the normalised embeddings: their own are already of length 1, so the projection onto the sphere is the rest.
    found = [value.detach().float().to(device).requires_grad_() for value in wanted]
    own = contrast(*found, torch.tensor(20.0, device=device).log())
    own.backward()
    apart = max(
        float((mine.grad.cpu().double() - _on_sphere(value)).abs().max())  # type: ignore[union-attr]  (backward has run)
        for mine, value in zip(found, wanted, strict=True)
    )
    return [
        verdict("contrast off ClipLoss in float64", abs(float(own.detach()) - float(loss.detach())), EQUAL),
        verdict("its gradients off", apart, EQUAL),
    ]


def _on_sphere(value: torch.Tensor) -> torch.Tensor:
    """The gradient without its part along each row of length 1."""
    gradient, rows = value.grad, value.detach()
    assert gradient is not None
    return gradient - (gradient * rows).sum(-1, keepdim=True) * rows


def pairs_of(towers: Towers, batch: int, side: int, device: str) -> dict[str, torch.Tensor]:
    """Noise, and texts of as many tokens as the context has."""
    context, most = towers.vocabulary.context, towers.vocabulary.size
    tokens = torch.randint(1, most - 2, (batch, context), device=device)
    tokens[:, -1] = most - 1
    return {"pixels": torch.randn(batch, 3, side, side, device=device), "tokens": tokens}


def rates(
    size: str, sides: tuple[int, ...], device: str, wait: Callable[[], object], batches: tuple[int, ...]
) -> list[bool]:
    """Of each size in pixels the largest batch that fits, and its rates."""
    best, held = product_rate(device, wait), list[bool]()
    for side in sides:
        for batch in batches:
            torch.manual_seed(0)
            towers = build_towers(size, rope=True, pool="attention", vocabulary=Vocabulary(context_of(size)), seed=0)
            try:
                rate, pairs = rates_of(towers.to(device), batch, side, device, wait)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                continue
            used = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else ""
            print(
                f"{size} at {side} pixels, batches of {batch}{used}: {pairs:,.0f} pairs a second; image tower {rate / 1e12:.1f} TFLOP/s of {best / 1e12:.1f}"
            )
            held.append(
                verdict(
                    f"image tower at {side} pixels, products a second to one large product's",
                    rate / best,
                    RATE,
                    at_least=True,
                )
            )
            break
        else:
            held.append(verdict(f"{size} at {side} pixels: pairs of a batch that fits", 0, batches[-1], at_least=True))
        torch.cuda.empty_cache()
    return held


def rates_of(towers: Towers, batch: int, side: int, device: str, wait: Callable[[], object]) -> tuple[float, float]:
    """Operations a second of the image tower, forward and backward, and pairs a second of whole steps."""
    shown = pairs_of(towers, batch, side, device)

    def image_step(run: Callable[[torch.Tensor], torch.Tensor]) -> None:
        with torch.autocast(device, torch.bfloat16):
            run(shown["pixels"]).float().square().mean().backward()

    with FlopCounterMode(display=False) as counter:
        image_step(towers.embed_images)
    compiled = towers.embed_images if SMALLEST else torch.compile(towers.embed_images)
    seconds = timed(lambda: image_step(compiled), time.perf_counter, wait)
    settings = Settings(steps=10, lr=2e-3, optimiser="lamb", precision="bf16", compile=not SMALLEST)
    objective, world = Pretraining(towers), World(device=device)
    optimiser, module = build_optimiser(objective, settings), wrap(objective, settings, world)
    step = timed(
        lambda: train_step(module, shown, optimiser, settings, 1, world),
        time.perf_counter,
        wait,
    )
    return counter.get_total_flops() / seconds, batch / step


def demonstrate(
    device: str, size: str, recipe: str, pairs: int, scenes: int, *more: str, data: str = DATA
) -> tuple[float, float]:
    """Seconds of a training of so many pairs, and shape by zero-shot on pairs of colour and shape that it never saw."""
    with tempfile.TemporaryDirectory() as folder:
        towers = str(Path(folder) / f"pe{recipe}")
        begun = time.perf_counter()
        trained = json.loads(
            command(
                "train", "pe", "--size", size, "--recipe", recipe, "--data", f"{data}&n={scenes}&seed=1000", "--samples", str(pairs), "--out", towers,
                "--device", device, "--precision", "bf16", "--workers", "8" if device == "cuda" else "0", "--json", *more,
            )
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        asked = json.loads(
            command(
                "zeroshot",
                towers,
                "--data",
                f"{data}&n={ASKED}",
                "--for",
                "shape",
                "--gallery",
                "256" if scenes > 2000 else "16",
                "--device",
                device,
                "--json",
            )
        )
        read = data.replace("&split=pairs", "")
        run = json.loads(command("run", towers, "--data", f"{read}&n={ASKED // 2}", "--measures", "linear_probe", "--token-budget", "0", "--device", device, *(["--no-controls"] if SMALLEST else []), "--json", "--out", f"{folder}/run"))  # fmt: skip
    print(f"trained: {json.dumps(trained)}")
    shape = asked["classification"]["accuracy"]
    print(f"zero-shot, pairs never seen: {json.dumps(asked)}")
    for one in (one for one in run["profiles"] if one["measure"] == "linear_probe"):
        print(json.dumps({key: one[key] for key in ("target", "taps", "depth", "score", "low", "high", "chosen_tap", "best_tap", "hidden_gap", "verdict", "controls")}))  # fmt: skip
    return seconds, shape["value"]


def as_many_as_fit(device: str, size: str, recipe: str, batch: int, scenes: int) -> None:
    """A row of the recipe with as many pairs as `ROW_SECONDS` allow."""
    pairs, more, data = 4 * batch, ["--batch", str(batch)], DATA.replace("48", "64")
    if not SMALLEST:
        more.append("--compile")
        with tempfile.TemporaryDirectory() as folder:
            job = PretrainJob(
                data=f"{data}&n=2000",
                out=Path(folder) / "pe",
                size=size,
                recipe=recipe,
                samples=batch * ROW_STEPS,
                batch=batch,
                precision="bf16",
                compile=True,
                workers=8 if device == "cuda" else 0,
                device=device,
            )
            train(job)
            rate = lines(job.out, times=True)[-1]["time/samples"]
        pairs = max(pairs, int(rate * ROW_SECONDS) // batch * batch)
    seconds, shape = demonstrate(device, size, recipe, pairs, scenes, *more, data=data)
    print(f"row {recipe} at {size}: {pairs:,} pairs in {seconds:.0f} s, shape by zero-shot on unseen pairs {shape:.3f}")


def command(*words: str) -> str:
    """What a command prints; a failing one ends the benchmark."""
    if SMALLEST:
        return apart(invoked, *words)
    return subprocess.run(
        [sys.executable, "-m", "diagnostics", *words], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def invoked(*words: str) -> str:
    """The same in this process."""
    from diagnostics.cli.main import main as run

    said, sys.argv = io.StringIO(), ["diagnostics", *words]
    with contextlib.redirect_stdout(said):
        try:
            run()
        except SystemExit as left:
            if left.code:
                raise RuntimeError(f"{words[0]} ended with status {left.code}") from None
    return said.getvalue()


def main() -> None:
    shown = "--demonstration" in ARGUMENTS
    device = "cpu" if "cpu" in ARGUMENTS or SMALLEST else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU with CUDA is here, so nothing is checked or timed: run it where there is one.")
    if "--row" in ARGUMENTS:
        recipe = ARGUMENTS[ARGUMENTS.index("--row") + 1]
        size, batch, scenes = ("b16-224", ROW_BATCH, 20_000) if device == "cuda" else ("micro", 16, 160)
        as_many_as_fit(device, size, recipe, batch, scenes)
        if not SMALLEST:
            return
    if device == "cuda":
        print(torch.cuda.get_device_name())
        held = [*check_contrast(device), *rates("l14-336", (98, 154, 336), device, torch.cuda.synchronize, BATCHES)]
    else:
        held = [*check_contrast(device), *rates("micro", (16,), device, lambda: None, (4 if SMALLEST else 16,))]
    if shown:
        size, pairs, scenes = (
            ("micro", 64, 160) if SMALLEST else ("micro", 4096, 400) if device == "cpu" else ("nano", PAIRS, 60_000)
        )
        seconds, shape = demonstrate(device, size, "9", pairs, scenes, *(["--batch", "16"] if SMALLEST else []))
        held += [
            verdict(f"seconds of {pairs:,} pairs at {size}", seconds, SECONDS),
            verdict("shape by zero-shot on unseen pairs (its interval above)", shape, SHAPE, at_least=True),
        ]
    finish(*held)


if __name__ == "__main__":
    main()
