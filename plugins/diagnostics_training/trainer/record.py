"""Records of a training in its folder and while it runs: what it came to, logs and notices."""

import contextlib
import hashlib
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagnostics.plugin import (
    DiagnosticsError,
    Encoder,
    Progress,
    digest_of_json,
    effective_rank,
    explaining,
    printable,
    save_encoder,
    whole_file,
)
from diagnostics_training.trainer.checkpoint import (
    FILE,
    UNREADABLE,
    Saver,
    about_checkpoint,
    refuse_other,
)
from diagnostics_training.trainer.objective import Objective, World, over_processes
from diagnostics_training.trainer.settings import Settings


def make_folder(folder: Path) -> None:
    """Make a folder where there is none; raises where that is impossible."""
    with explaining(f"Folder {folder} cannot be made", "give another --out", "unwritable", OSError):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def resumable(folder: Path) -> Generator[None]:
    """An interrupt of a training in a folder says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (folder / FILE).is_file()
        how = "resumes from its last checkpoint" if kept else "starts again, since there was no checkpoint yet"
        raise KeyboardInterrupt(f"Interrupted; the same command {how} in {folder}.") from None


# What a finished training left in its folder: one JSON file with what it came to and what it was made with.

ENCODER = "encoder.safetensors"
STEPS = "steps"
"""Folder of the encoders that are kept on the way, each in one named by its step."""


def finished(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a training of the same identity; None where it is not finished.

    Raises where the folder holds a training of another identity, or an encoder that no such training made: it would be
    overwritten.
    """
    folder, encoder = path.parent, path.parent / ENCODER
    if path.is_file():
        failure = f"{path} cannot be read as the summary of a training"
        with explaining(failure, "give another --out", "damaged", UNREADABLE):
            kept: dict[str, Any] = json.loads(path.read_text())
            if kept.pop("digest") != digest_of_json(kept):
                raise ValueError("it is not what was written")
            row, others, digest = (kept[key] for key in ("row", "identity", "encoder"))
        refuse_other(f"The encoder in {folder}", others, identity)
        if encoder.is_file():
            if digest != digest_of_file(encoder).hex():
                raise DiagnosticsError(
                    f"{encoder} is not the encoder that {path.name} in that folder describes, and would be "
                    f"overwritten: give another --out.",
                    code="occupied",
                )
            # Of no use any more, where a kill left it.
            (folder / FILE).unlink(missing_ok=True)
            return row
    if checkpoint := about_checkpoint(folder):
        whole = checkpoint["identity"]
        if not identity.keys() <= whole.keys():
            raise DiagnosticsError(
                f"The checkpoint in {folder} is that of another kind of training: give another --out.", code="other-run"
            )
        refuse_other(f"The checkpoint in {folder}", {key: whole[key] for key in identity}, identity)
    if encoder.is_file():
        raise DiagnosticsError(
            f"{encoder} is an encoder that this command did not make, and would be overwritten: give another --out.",
            code="occupied",
        )
    return None


def earlier_result(path: Path, identity: Mapping[str, Any], where: World) -> dict[str, Any] | None:
    """The result of `finished`; the first process says it."""
    done = finished(path, identity)
    if done is not None and where.first:
        say(f"{path.parent} is finished")
    return done


def digest_of_file(file: Path) -> bytes:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def finish(
    path: Path, encoder: Encoder, lineage: Mapping[str, Any], row: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Save the encoder, and beside it what it came to; after that the checkpoint is of no use.

    The file says which encoder is to be there before that one takes its place, so that a kill in between leaves no
    encoder of which nothing tells: the same command then does the rest again.
    """
    folder = path.parent
    make_folder(folder)
    with whole_file(folder / ENCODER) as weights:
        save_encoder(weights, encoder, lineage=lineage)
        kept = {"row": dict(row), "identity": dict(identity), "encoder": digest_of_file(weights).hex()}
        kept["digest"] = digest_of_json(kept)
        with whole_file(path) as summary:
            summary.write_text(json.dumps(kept, indent=1))
    (folder / FILE).unlink(missing_ok=True)


# What is logged and printed while training: losses, collapse, the time that is left.
#
# Metrics go to a file of JSON lines, and to TensorBoard where it is installed.


# Whether an output still tells samples apart: its effective rank and the spread of its features.

LEAST_SPREAD = 0.01
LEAST_RANK = 1.5
FEWEST = 4
"""Samples from which ranks are told: without their mean, two have a rank of 1 and three of 2 at most, whatever the
output.
"""


@dataclass(frozen=True)
class Look:
    """Figures of an output [sample, feature] at a step.

    Also how far a sample's tokens lie apart where they are seen.
    """

    step: int
    rank: float
    spread: float
    token_spread: float | None = None

    @property
    def collapsed(self) -> bool:
        """All samples have one output, or differ along one line only; or all tokens of a sample agree."""
        agree = self.token_spread is not None and not self.token_spread >= LEAST_SPREAD
        return agree or not (self.spread >= LEAST_SPREAD and self.rank >= LEAST_RANK)

    @property
    def figures(self) -> dict[str, float]:
        """By the name under which each is logged."""
        tokens = {} if self.token_spread is None else {"token_spread": self.token_spread}
        return {"rank": self.rank, "spread": self.spread} | tokens

    def __str__(self) -> str:
        tokens = "" if self.token_spread is None else f", of a sample's tokens {self.token_spread:.2g}"
        return f"effective rank {self.rank:.2f}, spread {self.spread:.2g}{tokens} at step {self.step}"


def look(step: int, output_BF: Tensor, tokens_BTF: Tensor | None = None) -> Look:
    """The figures of an output float [sample, feature] of at least two samples, and of its tokens.

    Tokens count where there are at least two of each sample; zeros where they are not finite.
    """
    output = output_BF.detach().double()
    tokens = None if tokens_BTF is None or tokens_BTF.shape[1] < 2 else _spread(tokens_BTF.detach().double(), 1)
    if not bool(output.isfinite().all()):
        return Look(step, 0.0, 0.0, tokens)
    # Of an output that is the same for all there is none.
    rank = effective_rank((output - output.mean(0)).cpu())
    return Look(step, 0.0 if math.isnan(rank) else rank, _spread(output, 0), tokens)


def _spread(values: Tensor, axis: int) -> float:
    """The size of what differs along an axis, as a share of the whole; 0 where it is not finite."""
    share = (values - values.mean(axis, keepdim=True)).square().mean().sqrt() / values.square().mean().sqrt()
    return float(share.nan_to_num(0.0))


# Warnings of heads whose attention has become very sharp, read from what was logged.

LEAST_ENTROPY = 0.1
"""Of ln(keys), the entropy of a head that looks everywhere alike."""
MOST_LOGIT = 50.0


def sharp_heads(line: Mapping[str, float]) -> dict[str, str]:
    """Of a line of the metrics: the key of each scalar beyond its bound, and what it says in words."""
    sharp: dict[str, str] = {}
    for key, value in line.items():
        part, *rest = key.split("/")
        if part != "attention" or len(rest) != 3:
            continue
        block, kind, head = rest
        at = f"head {head} of block {block}"
        most = math.log(line[f"attention/{block}/keys"])
        if kind == "entropy" and value < LEAST_ENTROPY * most:
            sharp[key] = f"{at} has an entropy of {value:.2g}, of at most {most:.2g}"
        elif kind == "logit" and value > MOST_LOGIT:
            sharp[key] = f"{at} has a logit of {value:.3g}"
    return sharp


Watch = Callable[[Progress], None]
METRICS, BOARD = "metrics.jsonl", "tensorboard"
SHOWN = 20
"""Ids in a message at most."""
ESTIMATE_AFTER = 10
"""Steps after which the remaining time is said; the first is left out of the estimate."""


def say(line: str) -> None:
    """One line to whoever sits at the terminal."""
    print(printable(line), file=sys.stderr, flush=True)


class Monitor:
    """Logs and notices of the first process while it trains.

    Lines of the folder's `metrics.jsonl` after step `first` (of a run that was killed) are cut off.
    """

    def __init__(
        self, out: Path, name: str, settings: Settings, first: int, watch: Watch, tell: Callable[[str], None]
    ) -> None:
        self.name, self.settings, self.watch, self.tell = name, settings, watch, tell
        before = [line for line in lines(out, times=True) if line["step"] <= first]
        with whole_file(out / METRICS) as written:
            written.write_text("".join(json.dumps(line) + "\n" for line in before))
        self.file = (out / METRICS).open("a")
        self.board: Any = None
        # What its import chain says about other libraries is of no use here.
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out / BOARD), purge_step=first + 1 if first else None)
        self.loss: float = before[-1]["loss"] if before else math.nan
        self.looks = [
            Look(line["step"], line["rank"], line["spread"], line.get("token_spread"))
            for line in before
            if "rank" in line
        ]
        self.sharp = {key for line in before for key in sharp_heads(line)}

    def note(
        self,
        done: int,
        values: Mapping[str, float],
        seen: Look | None,
        evaluation: Mapping[str, float],
        heads: Mapping[str, float],
    ) -> None:
        """Note what was seen after step `done`.

        Of the output and of heads of attention where they were looked at, and what an evaluation gave.
        """
        self.loss = values["loss"]
        line: dict[str, float] = {"step": done, **values}
        if seen is not None:
            if seen.collapsed and not any(look.collapsed for look in self.looks):
                self.tell(f"{self.name}: the output collapses: {seen} (see docs/how-to/training.md)")
            self.looks.append(seen)
            line |= seen.figures
        line |= {f"evaluation/{key}": float(value) for key, value in evaluation.items()}
        line |= heads
        # One line for the heads whose attention is as sharp as it was not before.
        sharp = sharp_heads(line)
        if new := [words for key, words in sharp.items() if key not in self.sharp]:
            more = f", and {len(new) - 1:,} more like it" if len(new) > 1 else ""
            self.tell(f"{self.name}: attention sharpens at step {done:,}: {new[0]}{more}")
        self.sharp |= sharp.keys()
        line["lr"] = self.settings.rate(done - 1)
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.board is not None:
            for key, value in line.items():
                if key != "step":
                    self.board.add_scalar(key, value, done)
        self.watch(Progress(self.name, done, self.settings.steps, f"loss {self.loss:.4g}"))

    def close(self) -> None:
        """Lets the files go."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def to_numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers, averaged over processes; one transfer from the device."""
    stacked = over_processes(torch.stack([value.float().reshape(()) for value in values.values()]))
    return dict(zip(values, stacked.tolist(), strict=True))


class Finite:
    """The first step whose loss or gradient is not finite: kept on the device, so that no step waits for the answer."""

    def __init__(self, device: str) -> None:
        self.first = torch.full((2,), torch.iinfo(torch.int64).max, device=device)

    def note(self, values: Mapping[str, Tensor], done: int) -> None:
        """After step `done`, counted from 1."""
        finite = torch.stack([values["loss"].float(), values["gradient"].float()]).isfinite()
        self.first = torch.where(finite, self.first, self.first.clamp(max=done))

    def check(self, done: int, name: str, saver: Saver, ids: Callable[[int, int, int], Sequence[str]] | None) -> None:
        """Raise where a step up to `done` was not finite; `ids` as of `data.Batches`, None where there are none."""
        loss, gradient = over_processes(self.first, least=True).tolist()
        if (step := min(loss, gradient)) > done:
            return
        saver.wait()
        kept = about_checkpoint(saver.folder)
        last = f"step {kept['step']:,} is the last in {saver.folder / FILE}" if kept else "no checkpoint was written"
        raise DiagnosticsError(
            f"The {'loss' if loss == step else 'gradient'} of {name} is not finite at step {step}"
            f"{f' (batch of {_few(ids(step - 1, 0, 1))})' if ids else ''}, and {last}: "
            f"{'look at those samples, or ' if ids else ''}train with a smaller --lr, into another folder than "
            f"{saver.folder}.",
            code="diverged",
        )


def _few(ids: Sequence[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else "")


@contextlib.contextmanager
def looking(objective: Objective, settings: Settings) -> Generator[None]:
    """A context in eval mode, without gradients and in the precision of training.

    Its random draws change no later ones.
    """
    device = next(objective.parameters()).device
    objective.eval()
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.no_grad(),
        torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"),
    ):
        yield
    objective.train()


TIMES = "time/"
"""What the keys of a line begin with that no other training of the same numbers has.

`data` are the seconds that each step of a line waited for its batch, `samples` those a second over all processes.
"""


def lines(folder: Path, times: bool = False) -> list[dict[str, Any]]:
    """All that was logged, in order, without times unless asked for; a last line that a kill cut short is left out.

    Raises DiagnosticsError for another that is none.
    """
    path = folder / METRICS
    if not path.is_file():
        return []
    entries: list[dict[str, Any]] = []
    logged = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(logged, 1):
        try:
            entry = {key: value for key, value in json.loads(line).items() if times or not key.startswith(TIMES)}
            entries.append({**entry, "step": int(entry["step"]), "loss": float(entry["loss"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number < len(logged):
                raise DiagnosticsError(
                    f"Line {number} of {path} is damaged: remove that line, or the file, and give the same command "
                    f"again; the training goes on from its checkpoint.",
                    code="damaged",
                ) from error
    return entries
