"""Probes: what can be predicted from a representation, and how well, on held-out samples.

Every probe keeps to one protocol: standardised with the statistics of the rows it is fitted on; fitted on train for
every hyperparameter of one grid for all taps; chosen on val, or out of fold on train and val where these are random
parts of one pool; fitted again on train and val; read once on test.
"""

from diagnostics.measures.probes.cross_attention import attentive
from diagnostics.measures.probes.depth import DepthMetrics, depth_metrics
from diagnostics.measures.probes.least_squares import PENALTIES, Moments, RidgePath, leave_one_out, ridge
from diagnostics.measures.probes.nearest import Retrieval, knn, knn_votes, knn_weights, retrieval_recall
from diagnostics.measures.probes.segmentation import DenseClassification, confusion, dense_classification, iou, mean_iou
from diagnostics.measures.probes.softmax import Logistic, logistic

__all__ = [
    "PENALTIES",
    "DenseClassification",
    "DepthMetrics",
    "Logistic",
    "Moments",
    "Retrieval",
    "RidgePath",
    "attentive",
    "confusion",
    "dense_classification",
    "depth_metrics",
    "iou",
    "knn",
    "knn_votes",
    "knn_weights",
    "leave_one_out",
    "logistic",
    "mean_iou",
    "retrieval_recall",
    "ridge",
]
