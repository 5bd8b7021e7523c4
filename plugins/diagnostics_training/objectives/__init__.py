"""The objectives, a module each, as their papers define them."""

from __future__ import annotations

from diagnostics_training.models.architecture import Architecture, Model
from diagnostics_training.trainer.objective import Objective

REGULARISERS = ("none", "variance", "sigreg")


def objective_of(
    architecture: Architecture, model: Model, regulariser: str = "none", classes: tuple[int, ...] = ()
) -> Objective | None:
    """What trains a model of that architecture; None for `random`, which nothing trains."""
    grid = architecture.patches.grid(architecture.extent)
    match architecture.objective:
        case "forecast":
            from diagnostics_training.objectives.forecast import Forecast

            return Forecast(model, architecture.likelihood)
        case "reconstruct":
            from diagnostics_training.objectives.reconstruct import Reconstruct

            return Reconstruct(model, grid)
        case "contrastive":
            from diagnostics_training.objectives.contrastive import Contrastive, TemporalContrastive

            return TemporalContrastive(model) if architecture.positives == "temporal" else Contrastive(model)
        case "jepa":
            from diagnostics_training.objectives.jepa import Jepa

            return Jepa(model, grid, regulariser)
        case "supervised":
            from diagnostics_training.objectives.supervised import Supervised

            return Supervised(model, classes)
        case _:
            return None
