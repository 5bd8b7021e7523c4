"""The baseline: the weights that every training of a seed starts from."""

from diagnostics_training.objectives.base import EncoderObjective


class Random(EncoderObjective):
    """Trains nothing."""

    trained = False
