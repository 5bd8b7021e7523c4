"""Encoders whose torch module is at hand, among them a second teacher."""

from __future__ import annotations

import numpy as np

from diagnostics import Dataset, DiagnosticsError, Encoder, TorchEncoder, build
from diagnostics.encoders.trust import UntrustedCodeError
from diagnostics_training.alignment.data import check_modality
from diagnostics_training.alignment.objective import Teacher


def with_module(encoder: Encoder) -> TorchEncoder:
    """The encoder itself; raises where it shows no torch module."""
    if not isinstance(encoder, TorchEncoder):
        raise DiagnosticsError(f"{encoder.name} shows no torch module, which aligning needs: name another encoder.")
    return encoder


def second_teacher(name: str, sample: np.ndarray, dataset: Dataset, trust_code: bool = False) -> Teacher:
    """The encoder of `NAME` or `NAME:TAP`, and that tap or its output."""
    try:
        encoder, tap = build("encoder", name, trust_code=trust_code), ""
    except UntrustedCodeError:
        raise
    except DiagnosticsError as error:
        whole, colon, tap = name.rpartition(":")
        if not colon:
            raise
        try:
            encoder = build("encoder", whole, trust_code=trust_code)
        except UntrustedCodeError:
            raise
        except DiagnosticsError:
            raise error from None
    check_modality(encoder, dataset)
    sized = with_module(with_module(encoder).sized_for(sample))
    return Teacher(sized, sized.tap(tap or sized.output_tap), "second")
