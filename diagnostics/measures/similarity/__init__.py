"""Similarity of two representations of the same samples, [sample, feature] each, rows aligned."""

from diagnostics.measures.similarity.decomposed import (
    angular_distance,
    canonical_correlations,
    cca,
    gulp,
    procrustes,
    pwcca,
    svcca,
)
from diagnostics.measures.similarity.kernels import center_gram, cka, gram_of_blocks, hsic
from diagnostics.measures.similarity.minibatch import MinibatchCka, minibatch_cka
from diagnostics.measures.similarity.pairs import cknna, compare_rdms, mutual_knn, rdm, rsa

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
