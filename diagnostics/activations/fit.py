"""Whether an encoder and a dataset are compatible: modality, sampling rate and sample size."""

import torch

from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.errors import DiagnosticsError, describe


def fit(encoder: Encoder, dataset: Dataset) -> Encoder:
    """The encoder sized for the samples of a dataset, by its first one.

    Raises DiagnosticsError where modality or sampling rate (Hz of audio, frames a second of video) differ, where the first
    sample cannot be read, and where the encoder takes no samples of its size.
    """
    if encoder.modality != dataset.modality:
        raise DiagnosticsError(
            f"{encoder.name} reads {encoder.modality} samples, but {dataset.name} holds {dataset.modality} samples: "
            f"choose a dataset of {encoder.modality} samples."
        )
    if encoder.rate is not None and dataset.rate is not None and encoder.rate != dataset.rate:
        raise DiagnosticsError(
            f"{encoder.name} takes {encoder.rate:g} samples a second, {dataset.name} holds {dataset.rate:g}: resample the data "
            f"(?rate={encoder.rate:g} where the dataset has that option)."
        )
    try:
        return encoder.sized_for(dataset[0])
    except DiagnosticsError as error:
        raise DiagnosticsError(f"Samples of {dataset.name} do not fit {encoder.name}: {error}") from error
    except Exception as error:
        raise DiagnosticsError(
            f"Samples of {dataset.name} cannot be read for {encoder.name}: {describe(error)}"
        ) from error


def usable_device(device: str | None) -> str:
    """The device that was asked for, or `cuda` where there is one, else `cpu`.

    Raises DiagnosticsError where this machine cannot compute on it.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device).cpu()  # `meta` holds nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DiagnosticsError(
            f"Device '{device}' is not there ({str(error).splitlines()[0]}): use --device cpu."
        ) from error
    return device
