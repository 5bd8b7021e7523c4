"""Random models that caption, with their processors, in folders as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = (
    "describe the video image in one sentence two write caption from notes title a red star blue disc moves left . ,"
)
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'text' %} {{ c['text'] }} {% else %}<{{ c['type'] }}>"
    "{% endif %}{% endfor %}{% endfor %}"
)
SIDE, PATCH = 32, 16
_TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "max_position_embeddings": 2048,
}


def tokenizer() -> Any:
    """Words of `WORDS`, one token each; the first four stand for an end, the unknown, an image and a video."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    names = ["<end>", "<unknown>", "<image>", "<video>", *dict.fromkeys(WORDS.split())]
    words: Any = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unknown>"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<end>",
        unk_token="<unknown>",
        pad_token="<end>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )


def save_perception_lm(folder: Path) -> Any:
    """A PerceptionLM, which reads images and videos."""
    import transformers as tr

    words = tokenizer()
    vision = {
        "model_type": "timm_wrapper",
        "architecture": "vit_pe_core_tiny_patch16_384",
        "do_pooling": True,
        "num_classes": 0,
        "model_args": {
            "img_size": [SIDE, SIDE],
            "depth": 1,
            "embed_dim": 24,
            "num_heads": 3,
            "global_pool": "",
            "use_post_transformer_norm": False,
            "init_values": 0.1,
            "ref_feat_shape": [2, 2],
        },
    }
    config = tr.PerceptionLMConfig(
        vision_config=vision, text_config={**_TEXT, "vocab_size": len(words)}, image_token_id=2, video_token_id=3
    )
    model = _drawn(lambda: tr.PerceptionLMForConditionalGeneration(config))
    images = tr.PerceptionLMImageProcessor(tile_size=SIDE, max_num_tiles=1, vision_input_type="vanilla")
    videos = tr.PerceptionLMVideoProcessor(size={"height": SIDE, "width": SIDE})
    return _save(folder, model, tr.PerceptionLMProcessor(videos, images, words, PATCH, TEMPLATE, 1))


def save_llava(folder: Path) -> Any:
    """A Llava, which reads images alone, several of them in one question."""
    import transformers as tr

    words = tokenizer()
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    config = tr.LlavaConfig(vision_config=vision, text_config={**_TEXT, "vocab_size": len(words)}, image_token_index=2)
    model = _drawn(lambda: tr.LlavaForConditionalGeneration(config))
    images = tr.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return _save(
        folder, model, tr.LlavaProcessor(images, words, PATCH, "default", TEMPLATE, num_additional_image_tokens=1)
    )


def save_git(folder: Path) -> Any:
    """A GIT, which captions one image and is asked nothing."""
    import transformers as tr

    words = tokenizer()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    config = tr.GitConfig(
        vision_config=vision,
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = _drawn(lambda: tr.GitForCausalLM(config))
    images = tr.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return _save(folder, model, tr.GitProcessor(images, words))


def save_causal(folder: Path) -> Any:
    """A Llama, for summaries."""
    import transformers as tr

    words = tokenizer()
    options = {key: value for key, value in _TEXT.items() if key != "model_type"}
    model = _drawn(lambda: tr.LlamaForCausalLM(tr.LlamaConfig(**options, vocab_size=len(words))))
    return _save(folder, model, words)


def _drawn(build: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        with torch.no_grad():
            for parameter in model.parameters():
                # At the usual scale of 0.02 every picture is described alike.
                if parameter.ndim > 1:
                    parameter.mul_(8)
        return model.eval()


def _save(folder: Path, model: Any, processor: Any) -> Any:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
