"""The baseline: the weights that every training of a seed starts from."""

from diagnostics_training.models.encoder import EncoderObjective


class Random(EncoderObjective):
    """Trains nothing."""

    trained = False
