"""Probes: what can be read out of a representation, and how well, on samples that were not seen.

Every probe keeps to one protocol: standardised with the statistics of the rows it is fitted on; fitted on train for
every hyperparameter of one grid for all taps; chosen on val; fitted again on train and val; read once on test.
"""

from diagnostics.measures.probes.knn import knn_votes, knn_weights
from diagnostics.measures.probes.logistic import Logistic, logistic_path
from diagnostics.measures.probes.ridge import PENALTIES, Moments, RidgePath

__all__ = ["PENALTIES", "Logistic", "Moments", "RidgePath", "knn_votes", "knn_weights", "logistic_path"]
