"""Whether an encoder and a dataset are compatible: modality, sampling rate and sample size."""

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
