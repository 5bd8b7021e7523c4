"""Probes: what can be predicted from a representation, and how well, on held-out samples.

Every probe keeps to one protocol: standardised with the statistics of the rows it is fitted on; fitted on train for
every hyperparameter of one grid for all taps; chosen on val, or out of fold on train and val where these are random parts of
one pool; fitted again on train and val; read once on test.
"""

from diagnostics.measures.probes.caption import Retrieval as Retrieval
from diagnostics.measures.probes.caption import retrieval_recall as retrieval_recall
from diagnostics.measures.probes.cross_attention import attentive as attentive
from diagnostics.measures.probes.dense import DepthMetrics as DepthMetrics
from diagnostics.measures.probes.dense import depth_metrics as depth_metrics
from diagnostics.measures.probes.least_squares import PENALTIES as PENALTIES
from diagnostics.measures.probes.least_squares import Moments as Moments
from diagnostics.measures.probes.least_squares import RidgePath as RidgePath
from diagnostics.measures.probes.least_squares import leave_one_out as leave_one_out
from diagnostics.measures.probes.least_squares import ridge as ridge
from diagnostics.measures.probes.nearest import knn as knn
from diagnostics.measures.probes.nearest import knn_votes as knn_votes
from diagnostics.measures.probes.nearest import knn_weights as knn_weights
from diagnostics.measures.probes.segmentation import DenseClassification as DenseClassification
from diagnostics.measures.probes.segmentation import confusion as confusion
from diagnostics.measures.probes.segmentation import dense_classification as dense_classification
from diagnostics.measures.probes.segmentation import iou as iou
from diagnostics.measures.probes.segmentation import mean_iou as mean_iou
from diagnostics.measures.probes.softmax import Logistic as Logistic
from diagnostics.measures.probes.softmax import logistic as logistic
