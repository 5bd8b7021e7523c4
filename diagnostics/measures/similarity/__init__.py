"""Similarity of two representations of the same samples, [sample, feature] each, rows aligned."""

from diagnostics.measures.similarity.canonical import canonical_correlations, cca, pwcca, svcca
from diagnostics.measures.similarity.dissimilarity import compare_rdms, rdm, rsa
from diagnostics.measures.similarity.kernels import center_gram, cka, gram_of_blocks, hsic
from diagnostics.measures.similarity.minibatch import MinibatchCka, minibatch_cka
from diagnostics.measures.similarity.nearest import cknna, mutual_knn
from diagnostics.measures.similarity.shape import angular_distance, procrustes
from diagnostics.measures.similarity.transfer import gulp

__all__ = [
    "MinibatchCka",
    "angular_distance",
    "canonical_correlations",
    "cca",
    "center_gram",
    "cka",
    "cknna",
    "compare_rdms",
    "gram_of_blocks",
    "gulp",
    "hsic",
    "minibatch_cka",
    "mutual_knn",
    "procrustes",
    "pwcca",
    "rdm",
    "rsa",
    "svcca",
]
