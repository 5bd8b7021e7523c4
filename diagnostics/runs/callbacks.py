"""Calls a function after each step of other libraries' trainers, by the process that measures for all."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from diagnostics.errors import DiagnosticsError

Step = Callable[[int], Any]


def transformers_callback(step: Step) -> Any:
    """A `transformers.TrainerCallback`; raises DiagnosticsError where transformers is not installed."""
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise DiagnosticsError("transformers is not installed: pip install transformers.") from error

    class AfterEachStep(TrainerCallback):  # pyright: ignore[reportUntypedBaseClass] # untyped where it is not installed
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                step(int(state.global_step))

    return AfterEachStep()


def lightning_callback(step: Step) -> Any:
    """A Lightning `Callback`, of `lightning` or `pytorch_lightning`; raises DiagnosticsError where neither is installed."""
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            base: Any = importlib.import_module(package).Callback
            break
        except ImportError:
            continue
    else:
        raise DiagnosticsError("Lightning is not installed: pip install -e '.[lightning]'.")

    class AfterEachStep(base):
        def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            # Batches whose gradients are accumulated repeat the step before them, which is measured once.
            if trainer.is_global_zero:
                step(int(trainer.global_step))

    return AfterEachStep()
