"""What spatial alignment costs: checks of its loss, then the share of a step that relations by masks take.

On a GPU: a student and a frozen teacher of PE-L/14 at 448 pixels with random weights, bf16, compiled; all products of matrices of
a step (student, teacher, loss) a second, to those of one large product measured beside it; the share of a step that relations take;
and whether PE-G/14 trains at 448 pixels with a batch of 8, its blocks computed twice. Wall time there, since a GPU's work is in no process's CPU time.
Without a GPU that part is left out, and says so. `align.py cpu` puts the CPU and small models in the GPU's place, to try this script.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from diagnostics_training.alignment.feed import draw_view, places_of
from diagnostics_training.alignment.objective import Alignment, Teacher, put_drops, scaled
from diagnostics_training.alignment.spatial import MaskRelations, SpatialAlignment, SpatialFeed, relation_loss
from diagnostics_training.trainer.objective import World
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import build_optimiser, recomputed, train_step, wrap
from torch.utils.flop_counter import FlopCounterMode

from diagnostics import Dataset, Target, build

from _common import ARGUMENTS, SMALLEST, cpu, finish, product_rate, timed, verdict

TOKENS, KEPT = 1024, 4
SHARE, RATE, BATCH = 0.05, 0.4, 8


def scenes(size: int, count: int = 40, objects: int = 8) -> Dataset:
    """Images of noise with a mask of random blocks of objects for each."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    cells = rng.integers(0, objects + 1, (count, 8, 8)).astype(np.int8)
    rows = np.arange(size) * 8 // size
    split = np.resize(["train"] * 3 + ["val", "test"], count)
    ids = [f"noise-{i}" for i in range(count)]
    targets = {"masks": Target("masks", cells[:, rows][:, :, rows])}
    return Dataset("noise", "image", pixels, ids, list(split), targets, fingerprint=f"noise {count} {size}")


def made(spec: str, tap: str, data: Dataset, batch: int, related: bool) -> tuple[Alignment, SpatialFeed]:
    """The objective of an encoder's last block taught by a tap, with relations by masks or without, and its batches."""
    base = build("encoder", spec)
    student, blocks = scaled(base, 0.1)
    put_drops(student.module, blocks, 0.4)
    teachers = [Teacher(base, base.tap(tap))]
    places = places_of(base, base.tap(base.output_tap))
    relations = MaskRelations(data, places) if related else None
    rows = np.flatnonzero(data.split == "train")
    feed = SpatialFeed(data, rows, base, teachers, relations, places, batch, 0.75, 2, 0)
    objective = (
        SpatialAlignment(student, teachers, relations, feed.section)
        if relations
        else Alignment(student, teachers, feed.section)
    )
    objective.parts = [student.module.get_submodule(block.name) for block in blocks]
    return objective, feed


def step_of(objective: Alignment, feed: SpatialFeed, settings: Settings, device: str) -> Callable[[], object]:
    """A step of training on one batch, as the trainer does it."""
    for encoder in (objective.student, *(teacher.encoder for teacher in objective.teachers)):
        encoder.to(device)
    batch = {key: value.to(device) for key, value in feed(0).items()}
    objective.to(device).eval()
    objective.free(batch)
    objective.train()
    optimiser, world = build_optimiser(objective, settings), World(device=device)
    module = wrap(objective, settings, world)
    return lambda: train_step(module, batch, optimiser, settings, 1, world)


def check_pairs() -> list[bool]:
    """What is kept of pairs for the gradient, and known answers."""
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    torch.manual_seed(0)
    tokens, relations = torch.randn(2, TOKENS, 64, requires_grad=True), torch.rand(2, TOKENS, 8)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        relation_loss(tokens, relations)
    pairs = sum(tensor.nbytes for tensor in kept if tensor.shape[-2:] == (TOKENS, TOKENS)) / 2
    groups = torch.eye(8)[torch.arange(TOKENS) % 8][None]
    features = torch.randn(8, TOKENS, 32)
    return [
        verdict(f"MiB kept of the pairs of {TOKENS} tokens", pairs / 2**20, KEPT),
        verdict("loss of clear groups", float(relation_loss(groups, groups)), 1e-17),
        verdict(
            "loss of random features as their own teacher, off 1/32",
            abs(float(relation_loss(features, features)) * 32 - 1),
            0.02,
        ),
    ]


def on_one_core() -> list[bool]:
    """Shares of a step of DINOv2's size S, and of making a batch, in CPU time."""
    size = 56 if SMALLEST else 224
    data = scenes(size)
    spec, settings = (
        f"timm:vit_small_patch14_dinov2?pretrained=false&img_size={size}",
        Settings(steps=10, lr=5e-4, optimiser="lamb"),
    )
    objective, feed = made(spec, "blocks.7", data, 4, True)
    step = timed(step_of(objective, feed, settings, "cpu"), cpu, lambda: None)
    batch = feed(0)
    tokens = objective.tokens(batch).detach()[:, objective.tap.grid.prefix :].requires_grad_()
    pairs = timed(lambda: relation_loss(tokens, batch["relations"]).backward(), cpu, lambda: None)
    relations = feed.relations
    assert relations is not None
    views = [draw_view(np.random.default_rng(i)) for i in range(20)]
    images = timed(lambda: [view.image(data[0]) for view in views], cpu, lambda: None) / 20
    masks = timed(lambda: [relations.inputs(0, data[0], view) for view in views], cpu, lambda: None) / 20
    print(
        f"ViT-S/14 at {size} pixels, 4 images: {step:.2f} CPU-s a step, {pairs:.4f} of it pairs; a view {images:.4f}, its masks {masks:.4f}"
    )
    return [
        verdict("relations by masks to a step, CPU time", pairs / step, SHARE),
        verdict("views and masks to a step, CPU time", 4 * (images + masks) / step, SHARE),
    ]


def on_device(device: str, large: str, tap: str, size: int, batch: int) -> list[bool]:
    """Rate and share of a step of a large encoder, bf16 and compiled."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    settings = Settings(steps=10, lr=5e-4, optimiser="lamb", precision="bf16")
    data = scenes(size)
    with FlopCounterMode(display=False) as counter:
        step_of(*made(large, tap, data, batch, True), settings, device)()
    # The first pass of `free`, which is one more, has been counted with the step.
    products = counter.get_total_flops() / 2
    compiled = replace(settings, compile=not SMALLEST)
    plain, related = (
        timed(step_of(*made(large, tap, data, batch, with_it), compiled, device), time.perf_counter, wait)
        for with_it in (False, True)
    )
    rate, best = products / related, product_rate(device, wait)
    print(
        f"{large}, {batch} images: {related * 1e3:.1f} ms a step, {plain * 1e3:.1f} without relations; {rate / 1e12:.1f} TFLOP/s of {best / 1e12:.1f}"
    )
    return [
        verdict("products of a step a second to those of one large product", rate / best, RATE, at_least=True),
        verdict("relations by masks to a step, wall time", related / plain - 1, SHARE),
    ]


def fits(device: str, largest: str, tap: str, size: int) -> bool:
    """Whether the largest encoder trains with a batch of 8, its blocks computed twice."""
    settings = Settings(steps=10, lr=5e-4, optimiser="lamb", precision="bf16", recompute=True)
    objective, feed = made(largest, tap, scenes(size), BATCH, True)
    with recomputed(objective.blocks()):
        step = step_of(objective, feed, settings, device)
        try:
            step()
        except torch.OutOfMemoryError:
            return verdict(f"{largest}: images of a batch that fits", 0, BATCH, at_least=True)
    used = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    print(f"{largest}, {BATCH} images with recomputation: {used:.1f} GiB")
    return verdict(f"{largest}: images of a batch that fits", BATCH, BATCH, at_least=True)


def main() -> None:
    device = ARGUMENTS[0] if ARGUMENTS else "cpu" if SMALLEST else "cuda"
    held = [*check_pairs(), *on_one_core()]
    if device == "cuda" and not torch.cuda.is_available():
        print("No GPU with CUDA is here, so PE-L/14 is not timed and PE-G/14 not tried: run it where there is one.")
    elif device == "cuda":
        held += on_device(device, "pe:spatial-l14-448?pretrained=false", "blocks.17", 448, 16)
        torch.cuda.empty_cache()
        held.append(fits(device, "pe:spatial-g14-448?pretrained=false", "blocks.40", 448))
    else:
        held += on_device(device, "pe:spatial-t16-512?pretrained=false&img_size=64", "blocks.5", 64, 4)
        held.append(fits(device, "pe:spatial-t16-512?pretrained=false&img_size=64", "blocks.5", 64))
    finish(*held)


if __name__ == "__main__":
    main()
