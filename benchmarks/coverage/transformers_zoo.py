"""A small random-weight model of every model type that transformers knows; nothing is downloaded.

Each starts from its type's default configuration, whose numbers are made small by their names: widths, depths, heads,
vocabularies, images. What that breaks is put right by the table of exceptions.

`python benchmarks/coverage/transformers_zoo.py [TYPE ...]` prints how many types build and give an encoder, and why the
others do not.
"""

from __future__ import annotations

import re
import sys
import time
import warnings
from typing import Any

import torch
from torch import nn

TITLE = "transformers, by model type"
LEAST = 0.9
MOST_PARAMETERS = 40_000_000
"""A model with more would be slow to build and to run."""

WIDTH, HEADS, HEAD_WIDTH, INNER, VOCABULARY = 32, 4, 8, 64, 128

# The first that matches a number's name makes it small; a number is never made larger.
_RULES: tuple[tuple[str, int], ...] = (
    (r"(moe_topk|experts?_per_tok(en)?|top_k|moe_k)$", 2),
    (r"(n_group|topk_group|n_groups)$", 1),
    (r"(num_experts|num_local_experts|routed_experts|moe_num_experts|zero_expert_num)$", 4),
    (
        r"(qk_rope_head_dim|qk_nope_head_dim|v_head_dim|head_dim|head_width|d_kv|kv_channels|dim_head|d_head)$",
        HEAD_WIDTH,
    ),
    (r"qk_head_dim$", 2 * HEAD_WIDTH),
    (r"(lora_rank)$", 16),
    (r"(attention_heads|n_heads?|num_heads|linear_num_heads|index_n_heads)$", HEADS),
    (
        r"((?<!num_conv_pos_)(hidden_size|hidden_dim|d_model|n_embd|embed_dim|emb_dim|embedding_size|embedding_dim|units))$",
        WIDTH,
    ),
    (r"(projection_dim|proj_dim)$", 16),
    (r"pooler_output_size$", WIDTH),
    (r"(intermediate_size|intermediate_dim|ffn_dim|ffn_hidden_size|d_ff|dff|dim_ff|n_inner|mlp_dim|d_inner)$", INNER),
    (r"(?<!feat_extract_)(?<!dense_)(?<!adapter_)((hidden_)?layers|n_layers?|depth)$", 2),
    (r"(vocab_size)$", VOCABULARY),
    (r"(num_frames|frames_per_clip)$", 4),
)
_IMAGE = 64
_LISTED_WIDTHS = r"(hidden_sizes|embed_dims?|depths_dims|channels|conv_dim|dims|channel_list)$"
_DEPTHS = r"(depths|num_layers|stage_num_blocks|layers)$"


def model_types() -> dict[str, Any]:
    """Model type -> its configuration class, of every type with a bare model (`AutoModel`)."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return {name: CONFIG_MAPPING[name] for name in MODEL_MAPPING_NAMES}


def small(config: Any) -> Any:
    """The same kind of configuration with small numbers."""
    kind = type(config)
    plain = vars(kind())
    given: dict[str, Any] = {}
    layers = _layers(config)
    for name, value in vars(config).items():
        if name.startswith("_") or name in ("transformers_version", "architectures"):
            continue
        if isinstance(value, (list, tuple)) and len(value) == layers > 2 and isinstance(value[0], str):
            # The first and the last layer, so that hybrids keep both of their kinds.
            given[name] = [value[0], value[-1]]
            continue
        shrunk = _small(name, value, config)
        if shrunk is not value or not _same(value, plain.get(name)):
            given[name] = shrunk
    if isinstance(getattr(config, "_out_indices", None), (list, tuple)) and isinstance(
        getattr(config, "depths", None), (list, tuple)
    ):
        given["out_indices"] = list(config._out_indices)
    given |= EXCEPTIONS.get(config.model_type or kind.__name__, {})
    return kind(**given)


def _layers(config: Any) -> int:
    for name in ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "encoder_layers"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return 0


def _small(name: str, value: Any, config: Any) -> Any:
    if name == "mrope_section":
        return [HEAD_WIDTH // 4, HEAD_WIDTH // 8, HEAD_WIDTH // 8]
    if isinstance(value, dict) and name.startswith("rope_"):
        return {key: _small(key, part, config) for key, part in value.items()}
    if hasattr(value, "to_dict") and hasattr(value, "model_type"):
        return small(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return _small_number(name, value, config)
    if isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
        if re.search(_DEPTHS, name):
            return [min(v, 2) for v in value]
        if name == "num_heads" or name.endswith("attention_heads"):
            return [2 for _ in value]
        if re.search(_LISTED_WIDTHS, name) and min(value) > 16:
            return [max(8, 16 * v // min(value) // 8 * 8) for v in value]
        if name.endswith("image_size") and min(value) > _IMAGE:
            return [_image_size(config)] * len(value)
    return value


def _small_number(name: str, value: int, config: Any) -> int:
    if name.endswith(("token_id", "token_index", "_id")) and value >= VOCABULARY:
        return 64 + value % 64
    if name.endswith(("image_size", "crop_size")) and value > _IMAGE:
        return _image_size(config)
    if re.search(r"(key_value_heads|kv_heads)$", name):
        return HEADS if value == getattr(config, name.replace("key_value", "attention"), None) else min(value, 2)
    for pattern, most in _RULES:
        if re.search(pattern, name):
            return min(value, most)
    return value


def _image_size(config: Any) -> int:
    patch = getattr(config, "patch_size", 0)
    patch = max(patch) if isinstance(patch, (list, tuple)) else patch
    return 4 * patch if isinstance(patch, int) and patch >= 8 else _IMAGE


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:
        return False


_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_chunk_size": 32}
_FORECASTER = {"prediction_length": 8, "context_length": 32}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_PYRAMID = {"encoder_in_channels": [64, 128, 256], "decoder_in_channels": [WIDTH] * 3, "num_queries": 20}
_RATIOS = (("long", 7), ("mid", 5), ("short", 3))
_PE_VIT = {
    "architecture": "vit_pe_core_tiny_patch16_384",
    "model_args": {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4},
}

# fmt: off
# A detector's stages halve the map along both axes; the backbone's own defaults are a recogniser's, which keeps the width.
_LCNET_OF_DETECTORS = {"backbone_config": {
    "model_type": "pp_lcnet_v4", "stem_channels": [3, 8, 16], "out_features": ["stage1", "stage2", "stage3", "stage4"],
    "block_configs": [[[3, 16, 16, 1, True]], [[3, 16, 32, 2, False], [3, 32, 32, 1, True]],
                      [[3, 32, 48, 2, False], [3, 48, 48, 1, True]], [[3, 48, 64, 2, False], [3, 64, 64, 1, True]]]}}
_INTRACLASS = {
    "reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0],
    **{f"symmetric_conv_long_{name}ratio": [n, 1, n // 2] for name, n in _RATIOS},
    **{f"vertical_long_to_small_conv_{name}ratio": [[n, 1], 1, [n // 2, 0]] for name, n in _RATIOS},
    **{f"horizontal_small_to_long_conv_{name}ratio": [[1, n], 1, [0, n // 2]] for name, n in _RATIOS},
}
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "autoformer": _FORECASTER,
    "informer": _FORECASTER,
    "time_series_transformer": _FORECASTER,
    "bamba": _MAMBA,
    "granitemoehybrid": _MAMBA,
    "bit": {"num_groups": 4},
    "esm": {"vocab_size": 64, "pad_token_id": 1, "mask_token_id": 32},
    "funnel": {"architectures": ["FunnelModel"], "block_sizes": [1, 1, 1]},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 16, "chunk_size": 32, "n_groups": 1},
    "hunyuan_v1_dense": {"head_dim": HEAD_WIDTH},
    "hunyuan_v1_moe": {"head_dim": HEAD_WIDTH},
    "bailing_hybrid": {"num_expert_group": 1},
    "blt_patcher": {"vocab_size": 260},
    "blt_local_encoder": {"vocab_size": 260, "hidden_size_global": WIDTH},
    "blt_local_decoder": {"vocab_size": 260, "hidden_size_global": WIDTH},
    "clvp_encoder": {"hidden_size": 128, "num_attention_heads": 4},
    "d_fine": _PYRAMID,
    "deimv2": _PYRAMID,
    "pp_doclayout_v4": _PYRAMID,
    "pp_doclayout_v3": _PYRAMID | {"x4_feat_dim": 32},
    "rt_detr": _PYRAMID | {"encoder_in_channels": [32, 64, 128]},
    "rt_detr_v2": _PYRAMID | {"encoder_in_channels": [32, 64, 128]},
    "edgetam_vision_model": {"backbone_channel_list": [384, 192, 96, 48], "backbone_config": {
        "model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 2,
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}}},
    "longcat_flash": {"qk_head_dim": 16},
    "mistral4": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                 "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 8192, "max_position_embeddings": 8192}},
    "lw_detr_vit": {"num_windows": 4},
    "lw_detr": {"projector_scale_factors": [1.0], "num_queries": 20, "group_detr": 1},
    "rf_detr": {"num_queries": 20, "group_detr": 1},
    "uvdoc_backbone": {"out_indices": [1, 2, 3, 4, 5, 6]},
    "deformable_detr": {"d_model": 64},
    "llama4_vision_model": {"intermediate_size": 4 * WIDTH, "projector_input_dim": 64, "projector_output_dim": 64,
                            "vision_output_dim": 64},
    "mllama_vision_model": {"intermediate_layers_indices": [0, 1], "vision_output_dim": 3 * WIDTH},
    "deepseek_ocr2_sam_vision_model": {"downsample_channels": [16, WIDTH]},
    "gemma4_audio": {"subsampling_conv_channels": [128, 32]},
    "hunyuan_vl_text": {"head_dim": HEAD_WIDTH, "rope_parameters": _MROPE | {"rope_type": "default"}},
    "ministral": {"head_dim": HEAD_WIDTH},
    "nemotron": {"num_key_value_heads": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "diffusion_gemma_text": {"num_experts": 4, "moe_intermediate_size": 32, "top_k_experts": 2},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"], "num_hidden_layers": 2,
                 "attention_head_size": 8, "feed_forward_size": 64, "num_buckets": 4, "max_position_embeddings": 256},
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2},
    "gemma4_text": {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "muse_spark_audio": {"num_hidden_layers": 4},
    "neomme": {"head_dim": 16},
    "cosmos3_edge_text": {"head_dim": 8},
    "ernie4_5_vl_moe_text": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "mrope_section": [1, 1, 2]}},
    "perception_lm": {"vision_config": {"model_type": "timm_wrapper", **_PE_VIT}},
    "pe_video_encoder": {"vision_config": {"model_type": "timm_wrapper", **_PE_VIT}},
    "timm_wrapper": {},
    "timm_backbone": {"backbone": "resnet18", "use_pretrained_backbone": False},
    "gemma3n_vision": {"architecture": "mobilenetv5_base"},
    "cohere_compass_text": {"layer_types": ["full_attention", "sliding_attention"], "rope_parameters": {
        kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")}},
    "mimi": {"upsample_groups": WIDTH, "codebook_dim": 16, "vector_quantization_hidden_dimension": 16, "num_filters": 8},
    "mimi_decoder": {"upsample_groups": WIDTH, "num_filters": 8},
    "mimi_encoder": {"num_filters": 8},
    "pocket_tts_audio_tokenizer": {"upsample_groups": WIDTH, "num_filters": 8},
    "pocket_tts_audio_tokenizer_decoder": {"upsample_groups": WIDTH, "num_filters": 8},
    "GradiumPhononTTSFlowHeadConfig": {"condition_dim": WIDTH},
    "PocketTTSFlowHeadConfig": {"condition_dim": WIDTH},
    "FunAsrNanoAdaptorConfig": {"intermediate_size": WIDTH // 4},
    "bridgetower_vision_model": {"hidden_size": 64},
    "bridgetower_text_model": {"hidden_size": 64},
    "granite4_vision": {"deepstack_layer_map": [], "spatial_target_layers": [0, 1], "downsample_rate": "1/2"},
    "hgnet_v2": {"stem_channels": [3, 8, 16], "stage_in_channels": [16, 32, 64, 128], "stage_mid_channels": [8, 8, 16, 32],
                 "stage_out_channels": [32, 64, 128, 256], "stage_numb_of_layers": [2, 2, 2, 2], "hidden_sizes": [32, 64, 128, 256]},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
    "pp_ocrv6_small_det": _LCNET_OF_DETECTORS | {"neck_out_channels": 32, "layer_list_out_channels": [16, 32, 48, 64]},
    "pp_ocrv6_medium_det": _LCNET_OF_DETECTORS | {"neck_out_channels": 32, "kernel_list": [3, 2, 2],
                            "scale_factor_list": [1, 2, 4, 8], "intraclass_block_config": _INTRACLASS},
    "speecht5": {"architectures": ["SpeechT5ForSpeechToText"]},
    # Merges patches behind its first layer, as the makers' models do behind their seventh of more.
    **{f"minicpm{kind}{part}": {"insert_layer_id": 0} for kind in ("v4_6", "v4_7", "_ocr") for part in ("", "_vision")},
    "depth_pro": {"patch_size": 56},
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1, "num_hidden_layers": 3,
             "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    "efficientloftr": {"hidden_size": 256, "stage_num_blocks": [1, 1, 1, 2], "num_attention_layers": 1},
    "gemma3n_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 1, "intermediate_size": [64] * 4,
                     "layer_types": ["sliding_attention", "full_attention"] * 2, "activation_sparsity_pattern": [0.0] * 4,
                     "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8},
    "mistral_large4_text": {"kv_source_layers": [0, 1], "no_rope_layers": [1, 0]},
    "molmo2_adapter": {"vision_feature_layer": [1, 0]},
    "wavtokenizer": {"codebook_dim": WIDTH, "decoder_attention_num_groups": 4, "num_filters": 8},
    "wavtokenizer_encoder": {"codebook_dim": WIDTH, "decoder_attention_num_groups": 4, "num_filters": 8},
    "vibevoice_acoustic_tokenizer": {"num_filters": 4},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 4},
    "vibevoice_acoustic_tokenizer_decoder": {"num_filters": 4},
    "chameleon": {"vocabulary_map": {"<image>": 5}},
    "emu3": {"vocabulary_map": {"<image>": 5}},
    "dbrx": {"attn_config": {"model_type": "", "kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8}},
    "bridgetower": {"hidden_size": 64},
    "janus_vqgan": {"base_channels": 32, "num_embeddings": 128, "latent_channels": 32},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 64,
                       "indexer_compress_ratio": 16},
    "omdet-turbo": {"backbone_config": {"model_type": "swin", "embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2],
                     "image_size": 224, "out_indices": [1, 2, 3]}, "backbone_image_size": 224},
    "longformer": {"max_position_embeddings": 1026},
    "swin": {"image_size": 224},
    "donut-swin": {"image_size": 224},
    "maskformer-swin": {"image_size": 224},
    **{kind: {"head_dim": 8, "rope_parameters": _MROPE} for kind in ("glm4v_text", "glm_image_text", "glm_ocr_text")},
    "glm4v_moe_text": {"head_dim": 16, "rope_parameters": _MROPE | {"partial_rotary_factor": 0.5}},
    "qwen2_vl_text": {"rope_parameters": _MROPE},
    "qwen2_5_vl_text": {"rope_parameters": _MROPE},
    "sam2_hiera_det_model": {"hidden_size": 16, "embed_dim_per_stage": [16, 32, 64, 128], "image_size": [64, 64],
                             "num_attention_heads_per_stage": [1, 2, 4, 8], "window_positional_embedding_background_size": [4, 4]},
    "sam2_vision_model": {"backbone_channel_list": [128, 64, 32, 16], "fpn_hidden_size": 32,
                          "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "efficientnet": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "align_vision_model": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "lilt": {"hidden_size": 48},
    "bros": {"hidden_size": 128},
    "mobilebert": {"intra_bottleneck_size": WIDTH},
    "textnet": {"hidden_sizes": [64, 64, 128, 256, 512]},
    "videoprism_vision_model": {"image_size": 72},
    "xclip_vision_model": {"mit_hidden_size": 64, "mit_num_attention_heads": 1},
    "blt": {"encoder_hash_byte_group_vocab": 512, "vocab_size": 260},
}
# fmt: on
"""Model type (the class of a configuration without one) -> settings that the rules get wrong."""


WHOLE = {"speecht5": "SpeechT5ForSpeechToText"}
"""Model type -> the architecture that is built where the bare model lacks what reads its input."""


def tiny_config(model_type: str) -> Any:
    """The type's configuration made small."""
    return small(model_types()[model_type]())


def build(model_type: str) -> nn.Module:
    """The type's bare model with random weights (seed 0), in eval mode; raises what its construction raises."""
    import transformers

    config = tiny_config(model_type)
    kind: Any = getattr(transformers, WHOLE[model_type])._from_config if model_type in WHOLE else None
    make = kind or transformers.AutoModel.from_config
    with torch.device("meta"):
        size = sum(p.numel() for p in make(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} M parameters")
    torch.manual_seed(0)
    return make(config).eval()


LENGTH = 40
"""Of texts in tokens: short, and no width that a model here has."""


class NotBuilt(Exception):
    """The type has no small model here: why."""


def kinds() -> list[str]:
    """All model types."""
    return list(model_types())


def encoder(kind: str) -> Any:
    """The type's encoder as `hf:` makes it, without a directory to read preprocessing from."""
    from diagnostics_transformers.encoder import encoder_of
    from diagnostics_transformers.load import Loaded, quiet, settled
    from diagnostics_transformers.towers import Wanted, choose, kind_of

    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model: Any = build(kind)
        except Exception as error:
            raise NotBuilt(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        loaded = Loaded(kind, model, settled(model.config), None)
        text = kind_of(choose(loaded, None)[1]) == "text"
        return encoder_of(loaded, f"hf:{kind}", None, Wanted(length=LENGTH if text else None))


def outside(error: Exception) -> str:
    """Why a type does not count: it has no small model here, or no encoder of one modality."""
    said = str(error)
    if isinstance(error, NotBuilt):
        return f"not built: {said}"
    return (
        said
        if "which is no image, video, audio, text or series by itself" in said or "which no dataset here holds" in said
        else ""
    )


def main() -> None:
    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    names = sys.argv[1:] or kinds()
    built = tapped = 0
    begun = time.process_time()
    for name in names:
        try:
            made = encoder(name)
        except Exception as error:
            built += not isinstance(error, NotBuilt)
            print(f"{name}: {' '.join(str(error).split())[:200]}", flush=True)
            continue
        built, tapped = built + 1, tapped + 1
        if sys.argv[1:]:
            print(
                f"{name}: {made.modality}, {len(made.taps)} taps on {made.taps[0].grid}, output {made.output_tap}",
                flush=True,
            )
    spent = time.process_time() - begun
    print(f"{built} of {len(names)} model types build, {tapped} of them give an encoder, in {spent:.0f} s.")


if __name__ == "__main__":
    main()
