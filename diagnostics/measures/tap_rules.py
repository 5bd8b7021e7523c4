"""Rules by which a tap can be chosen, and in which direction a measure without labels is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Direction:
    """The end of a measure at which its authors expect the tap that is best for tasks."""

    tap: Literal["largest", "smallest"]
    source: str


DIRECTIONS: dict[str, Direction] = {
    "rankme": Direction("largest", "Garrido et al. 2023 (2210.02885): a larger rank goes with better probes"),
    "lidar": Direction("largest", "Thilak et al. 2023 (2312.04000): a larger rank goes with better probes"),
    "dime": Direction("largest", "Skean et al. 2023 (2301.08164): more is shared by two views"),
    "infonce": Direction("smallest", "Oord et al. 2018 (1807.03748): a smaller loss bounds more mutual information"),
    "curvature": Direction("smallest", "Hosseini and Fedorenko 2023 (2311.04930): training straightens the path"),
    "matrix_entropy": Direction(
        "largest", "Skean et al. 2025 (2502.02013), theorem 1: more entropy, more diverse features"
    ),
    "two_nn": Direction("largest", "Cheng et al. 2024 (2405.15471): transfer is best where the dimension peaks"),
    "self_similarity": Direction("largest", "iREPA (2512.10794): LDS goes with the quality of generated images"),
    "linear_predictability": Direction(
        "largest", "Hénaff et al. 2019 (Nature Neuroscience 22, 984): straight paths predict"
    ),
}
"""By measure, as published. Committed before any result was computed, and never fitted on what is reported. Where a
paper prints a correlation without a sign, as 2502.02013 does, the direction is that of its theory."""
