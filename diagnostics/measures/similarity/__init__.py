"""Similarity of two representations of the same samples, [sample, feature] each, rows aligned."""

from diagnostics.measures.similarity.canonical import canonical_correlations as canonical_correlations
from diagnostics.measures.similarity.canonical import cca as cca
from diagnostics.measures.similarity.canonical import pwcca as pwcca
from diagnostics.measures.similarity.canonical import svcca as svcca
from diagnostics.measures.similarity.dissimilarity import compare_rdms as compare_rdms
from diagnostics.measures.similarity.dissimilarity import rdm as rdm
from diagnostics.measures.similarity.dissimilarity import rsa as rsa
from diagnostics.measures.similarity.kernels import center_gram as center_gram
from diagnostics.measures.similarity.kernels import cka as cka
from diagnostics.measures.similarity.kernels import gram_of_blocks as gram_of_blocks
from diagnostics.measures.similarity.kernels import hsic as hsic
from diagnostics.measures.similarity.minibatch import MinibatchCka as MinibatchCka
from diagnostics.measures.similarity.minibatch import minibatch_cka as minibatch_cka
from diagnostics.measures.similarity.nearest import cknna as cknna
from diagnostics.measures.similarity.nearest import mutual_knn as mutual_knn
from diagnostics.measures.similarity.shape import angular_distance as angular_distance
from diagnostics.measures.similarity.shape import procrustes as procrustes
from diagnostics.measures.similarity.transfer import gulp as gulp
