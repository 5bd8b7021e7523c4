"""The names that others rely on, listed: none is lost, added or renamed without this list being changed too."""

from __future__ import annotations

import importlib

import pytest

from diagnostics import registry
from diagnostics.measures import load_bundled
from diagnostics.plugin import EncoderTests
from tests.support.functions import exported

NAMES = {
    "diagnostics": """
        Choice Comparison Dataset DiagnosticsError Encoder Grid LayerProfiles LazySamples Measure Progress Question Run Site Tap
        Target TorchEncoder __version__ build choose compare complete_splits dataset discover encoder encoder_of frames_of hookimpl load_encoder measure open_run pad_series printable run
        save_encoder silent split_groups stack_taps watcher
    """,
    "diagnostics.measures.dynamics": """
        linear_predictability mase seasonal_naive straightness
    """,
    "diagnostics.measures.geometry": """
        Activity alignment alpha_req curvature dime distinct_samples effective_rank infonce lidar
        massive_activations matrix_entropy mean_cosine mle_dimension nesum participation_ratio rankme
        stable_rank two_nn uniformity
    """,
    "diagnostics.measures.locality": """
        Discovered FoundObject GlobalMass OutlierTokens PositionProbe ReceptiveField RegionAndBoundary
        TokenSimilarity attention_distance attention_entropy boundary_f box_iou box_of corloc global_token_mass
        j_and_f jaccard label_propagation lost morans_i neighbour_chance neighbour_consistency null_morans_i
        object_discovery outlier_tokens position_probe receptive_field self_similarity spatial_relation tokencut
        uniform_distance
    """,
    "diagnostics.measures.probes": """
        DenseClassification DepthMetrics Logistic Moments PENALTIES Retrieval RidgePath attentive confusion
        dense_classification depth_metrics iou knn knn_votes knn_weights leave_one_out logistic mean_iou
        retrieval_recall ridge
    """,
    "diagnostics.sklearn": "TapFeatures",
    "diagnostics.measures.similarity": """
        MinibatchCka angular_distance canonical_correlations cca center_gram cka cknna compare_rdms
        gram_of_blocks gulp hsic minibatch_cka mutual_knn procrustes pwcca rdm rsa svcca
    """,
}
MEASURES = """
    alignment alpha_req angular_distance attention_distance attention_entropy attention_logit attention_peak
    attention_received attentive_probe caption_probe
    cca cka cka_rbf cknna correspondence curvature detection_probe dime effective_rank event_probe forecast_probe global_token_mass grounding_probe gulp infonce input_scaling kernel_probe knn_probe label_efficiency label_propagation lidar linear_predictability linear_probe logme massive_activations matrix_entropy mean_cosine minibatch_cka mle_dimension mlp_probe morans_i mutual_knn neighbour_consistency nesum
    object_discovery outlier_tokens participation_ratio position_probe procrustes pwcca question_probe rankme
    receptive_field rsa segmentation_probe self_similarity stable_rank straightness svcca tap_attention tap_set torch_cka two_nn
    uniformity
"""
CHECKS = """
    attention batch_invariance depth description determinism grid hooks identity_preprocessing
    identity_stable identity_weights in_place manual_forward no_graph padding save_and_load shapes sizes
"""
HOOKS = "commands datasets encoders measures rules"


@pytest.mark.parametrize("module", NAMES)
@pytest.mark.smoke
def test_a_module_exports_these_names(module: str) -> None:
    package = importlib.import_module(module)
    names = exported(package)
    assert sorted(names) == sorted(NAMES[module].split())
    for name in names:
        assert getattr(package, name) is not None


@pytest.mark.smoke
def test_these_measures_are_bundled() -> None:
    assert sorted(load_bundled()) == MEASURES.split()


@pytest.mark.smoke
def test_a_plugin_author_is_offered_these_checks_and_hooks() -> None:
    assert {name.removeprefix("test_") for name in vars(EncoderTests) if name.startswith("test_")} == set(
        CHECKS.split()
    )
    assert EncoderTests.encoder == "" and EncoderTests.data is None
    assert {name for name, value in vars(registry).items() if hasattr(value, "diagnostics_spec")} == set(HOOKS.split())
