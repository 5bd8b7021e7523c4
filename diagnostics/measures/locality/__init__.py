"""Measures of locality: attention, similarity of near and far tokens, and whether tokens know their position."""

from diagnostics.measures.locality.autocorrelation import (
    TokenSimilarity,
    morans_i,
    neighbour_chance,
    neighbour_consistency,
    null_morans_i,
    self_similarity,
    spatial_relation,
)
from diagnostics.measures.locality.discovery import Discovered, FoundObject, corloc, lost, object_discovery, tokencut
from diagnostics.measures.locality.heads import (
    GlobalMass,
    attention_distance,
    attention_entropy,
    global_token_mass,
    uniform_distance,
)
from diagnostics.measures.locality.masks import (
    RegionAndBoundary,
    boundary_f,
    box_iou,
    box_of,
    j_and_f,
    jaccard,
    label_propagation,
)
from diagnostics.measures.locality.receptive import ReceptiveField, receptive_field
from diagnostics.measures.locality.single_tokens import OutlierTokens, PositionProbe, outlier_tokens, position_probe

__all__ = [
    "Discovered",
    "FoundObject",
    "GlobalMass",
    "OutlierTokens",
    "PositionProbe",
    "ReceptiveField",
    "RegionAndBoundary",
    "TokenSimilarity",
    "attention_distance",
    "attention_entropy",
    "boundary_f",
    "box_iou",
    "box_of",
    "corloc",
    "global_token_mass",
    "j_and_f",
    "jaccard",
    "label_propagation",
    "lost",
    "morans_i",
    "neighbour_chance",
    "neighbour_consistency",
    "null_morans_i",
    "object_discovery",
    "outlier_tokens",
    "position_probe",
    "receptive_field",
    "self_similarity",
    "spatial_relation",
    "tokencut",
    "uniform_distance",
]
