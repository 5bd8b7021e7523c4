"""Everything that needs a GPU, in one call, on a machine that has torch and perhaps nothing else, and no network.

    python benchmarks/wheels_for_a_gpu.py --python 3.12     # here: what that machine lacks, into .wheels/
    python3 benchmarks/on_a_gpu.py                          # there, in a copy of this checkout with .wheels/

Where a call has ten minutes, three of them do all: `tests attention extraction`, then `trainer align`, then `pretraining`. Each wheel in `.wheels/` whose package is not there is unpacked into a temporary folder, which the parts below import from too. A part
is a process with a time limit of its own, the last one has what is left, and none goes on after `--minutes` in all. One line of JSON is printed at the start
(the machine) and after each part: its `status`, `seconds`, and what it printed (`lines`, the last ones). Status is `held`, `missed` (a limit, or
a test that was left out though there is a GPU), `failed`, or `out of time`. What the parts print as they go is on stderr.

Parts: `tests` (those marked `gpu`), `attention`, `extraction` (here: PE-L/14 at 336 pixels in bf16 beside bare passes), `trainer` (here: `train pe` at b16-224, pairs a second and the
time that a step waits for data, plain, compiled, recomputed, and with flash), `align`, `pretraining` (its rates; with `--demonstration` its 5 million pairs too, for which `--minutes` has to be 25 or so; with `--row 1` or `--row 9` that row at
b16-224 for four minutes in place of all that). Some can be named.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / ".wheels"
LIMITS = {"tests": 300, "attention": 150, "extraction": 90, "trainer": 300, "align": 150, "pretraining": 150}
"""Seconds of each part that others follow; what is right comes before what is fast."""
KEPT = 60
"""Lines of a part's output in the JSON."""


def command(part: str, more: list[str], smallest: bool) -> list[str]:
    """What runs a part."""
    files = sorted(
        str(path)
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu\n" in path.read_text() or "mark.gpu," in path.read_text()
    )
    scripts = ROOT / "benchmarks"
    asked = {
        "attention": [f"{scripts}/attention.py"],
        "extraction": [__file__, "--here", "extraction"],
        "trainer": [__file__, "--here", "trainer"],
        "align": [f"{scripts}/align.py"],
        "pretraining": [f"{scripts}/pretraining.py", *more],
        "tests": ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files],
    }[part]
    return [sys.executable, *asked, *(["--smallest"] if smallest and part != "tests" else [])]


def unpack_missing(folder: Path) -> tuple[list[str], list[str]]:
    """Unpacks the wheels whose packages are not there; their names, and those made for another Python."""
    here = f"cp{sys.version_info[0]}{sys.version_info[1]}-"
    unpacked: list[str] = []
    others: list[str] = []
    for wheel in sorted(WHEELS.glob("*.whl")):
        name, _, tags = wheel.name.split("-", 2)
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            fits = here in tags or "-abi3-" in tags or "-none-any" in tags
            (unpacked if fits else others).append(name)
            if fits:
                zipfile.ZipFile(wheel).extractall(folder)
    return unpacked, others


def run_part(words: list[str], site: str, limit: float) -> dict[str, object]:
    """Run a part and pass on what it prints; ends it with all its processes at the limit."""
    paths = [str(ROOT), str(ROOT / "plugins"), site, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    begun, lines, late = time.perf_counter(), list[str](), threading.Event()
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def end() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(max(limit, 0), end)
    timer.start()
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", file=sys.stderr, flush=True)
        lines.append(line.rstrip("\n"))
    status = process.wait()
    timer.cancel()
    failed = status not in (0, 1) or any(line.startswith(("Traceback", "ERROR ", "FAILED ")) for line in lines)
    left_out = torch.cuda.is_available() and any(line.startswith("SKIPPED ") for line in lines)
    word = "out of time" if late.is_set() else "failed" if failed else "missed" if status or left_out else "held"
    return {"status": word, "seconds": round(time.perf_counter() - begun, 1), "lines": lines[-KEPT:]}


def extract_beside_passes(smallest: bool) -> None:
    """Images a second of an extraction of all taps, pooled, beside those of bare passes over batches that are on the device.

    The limit is 1.10 of their time.
    """
    import diagnostics as dx
    from diagnostics.activations.extract import extract
    from diagnostics.activations.plan import plan
    from diagnostics.encoders.modules import computing

    from _common import finish, images, timed, verdict

    spec, count, batch, device = "pe:core-l14-336?pretrained=false", 2048, 128, "cuda"
    if smallest:
        spec, count, batch, device = "pe:spatial-t16-512?pretrained=false&img_size=64", 10, 5, "cpu"
    encoder, data = dx.build("encoder", spec), images(count)
    wanted = plan(encoder, encoder.taps, count, 0, "float32")
    with tempfile.TemporaryDirectory() as folder, computing("bf16", device):
        begun = time.perf_counter()
        extract(
            encoder,
            data,
            Path(folder) / "run",
            wanted,
            batch_size=batch,
            workers=0 if smallest else os.cpu_count() or 1,
            device=device,
            compute="bf16",
        )
        whole = count / (time.perf_counter() - begun)
        shown = torch.stack([torch.as_tensor(encoder.preprocess(data[i])) for i in range(batch)]).to(device)
        with torch.inference_mode():
            alone = batch / timed(
                lambda: encoder.module.forward_features(shown),
                time.perf_counter,
                torch.cuda.synchronize if device == "cuda" else lambda: None,
            )
    print(
        f"{spec} in bf16, {len(encoder.taps)} taps, batches of {batch}: {whole:.1f} images a second with preparing and writing, bare passes {alone:.1f}"
    )
    finish(verdict("extraction to bare passes, wall time", alone / whole, 1.1))


def train_a_pair(smallest: bool) -> None:
    """Pairs a second of `train pe`, and seconds that a step waits for its batch, by what was logged last."""
    from diagnostics_pretraining.recipe import PretrainJob
    from diagnostics_pretraining.train import train
    from diagnostics_training.trainer.record import lines

    size, scenes, batch, steps = ("micro", 40, 4, 2) if smallest else ("b16-224", 900, 512, 40)
    kinds = {"plain": {}, "recomputed": {"recompute": True}}
    if not smallest:
        kinds |= {"compiled": {"compile": True}, "compiled, flash": {"compile": True, "attention": "flash"}}
    for name, options in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            job = PretrainJob(
                data=f"shapes?n={scenes}&size=64",
                out=Path(folder) / "pe",
                size=size,
                recipe="1",
                samples=batch * steps,
                batch=batch,
                precision="float32" if smallest else "bf16",
                workers=0 if smallest else min(8, os.cpu_count() or 1),
                device="cpu" if smallest else "cuda",
                **options,
            )
            try:
                train(job)
            except torch.OutOfMemoryError:
                print(f"{size}, batches of {batch}, {name}: does not fit")
                continue
            last = lines(job.out, times=True)[-1]
        print(
            f"{size}, batches of {batch}, {name}: {last['time/samples']:.1f} pairs a second, waiting {last['time/data']:.4f} s a step"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(LIMITS)}; all by default")
    parser.add_argument("--minutes", type=float, default=9, metavar="M", help="in all")
    parser.add_argument("--demonstration", action="store_true", help="of pretraining: 5 million pairs")
    parser.add_argument("--row", choices=("1", "9"), help="of pretraining: this row at b16-224")
    parser.add_argument("--smallest", action="store_true", help="on the CPU, to see that each part ends")
    parser.add_argument("--here", choices=("extraction", "trainer"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        {"extraction": extract_beside_passes, "trainer": train_a_pair}[given.here](given.smallest)
        return
    if unknown := set(given.parts) - set(LIMITS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if not torch.cuda.is_available() and not given.smallest:
        sys.exit("No GPU with CUDA is here: run it where there is one, or with --smallest on the CPU.")
    more = [*(["--row", given.row] if given.row else []), *(["--demonstration"] if given.demonstration else [])]
    begun, statuses = time.perf_counter(), list[object]()
    with tempfile.TemporaryDirectory() as site:
        unpacked, others = unpack_missing(Path(site))
        machine = {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "unpacked": unpacked,
            "made for another Python": others,
        }
        print(json.dumps(machine), flush=True)
        parts = given.parts or list(LIMITS)
        for i, part in enumerate(parts):
            rest = 60 * given.minutes - (time.perf_counter() - begun)
            limit = rest if i == len(parts) - 1 else min(LIMITS[part], rest)
            found = run_part(command(part, more, given.smallest), site, limit)
            statuses.append(found["status"])
            print(json.dumps({"part": part, **found}), flush=True)
    sys.exit(0 if all(status == "held" for status in statuses) else 1)


if __name__ == "__main__":
    main()
