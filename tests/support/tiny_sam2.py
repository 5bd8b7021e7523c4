"""A random Sam2 of 64 x 64 pixels in a folder, as transformers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def save(folder: Path, seed: int = 0, video: bool = False) -> Any:
    """The model, saved with its image processor; Meta's own folders say that they are of `video`."""
    import transformers as tr

    hiera = tr.Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = tr.Sam2VisionConfig(
        backbone_config=hiera,
        backbone_channel_list=[64, 32, 16, 8],
        fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    parts = {
        "vision_config": vision.to_dict(),
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 64},
        "mask_decoder_config": decoder,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tr.Sam2VideoModel(tr.Sam2VideoConfig(**parts)) if video else tr.Sam2Model(tr.Sam2Config(**parts))
    model.save_pretrained(folder)
    tr.Sam2ImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return model.eval()
