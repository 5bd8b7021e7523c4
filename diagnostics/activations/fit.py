"""Whether an encoder and a dataset are compatible: modality, sampling rate and sample size."""

from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder, check_modality, size_for
from diagnostics.errors import DiagnosticsError, explaining


def fit(encoder: Encoder, dataset: Dataset) -> Encoder:
    """The encoder sized for the samples of a dataset, by its first one.

    Raises DiagnosticsError where modality or sampling rate (Hz of audio, frames a second of video) differ, where the first
    sample cannot be read, and where the encoder takes no samples of its size.
    """
    check_modality(encoder, dataset)
    if encoder.rate is not None and dataset.rate is not None and encoder.rate != dataset.rate:
        raise DiagnosticsError(
            f"{encoder.name} takes {encoder.rate:g} samples a second, {dataset.name} holds {dataset.rate:g}: resample the data "
            f"(?rate={encoder.rate:g} where the dataset has that option)."
        )
    with explaining(f"Samples of {dataset.name} cannot be read for {encoder.name}"):
        sample = dataset[0]
    return size_for(encoder, sample, f"Samples of {dataset.name}")
