"""The smallest model of every architecture module of timm, with random weights at a small image size; nothing is downloaded.

`python benchmarks/coverage/timm_zoo.py` chooses them anew, by parameters on the meta device, and prints the table below
as it should be; it takes minutes.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from typing import Any

import timm
import torch

TITLE = "timm, by architecture module"
LEAST = 0.97

SIZE = 96
"""Pixels along a side, where a model takes any size."""

SIZES = {"byoanet": 256, "crossvit": 240, "efficientformer": 224, "deepseek_vit": 168}
"""Where 96 pixels do not fit windows or patches, or tables of positions are made for one size."""

CUT: dict[str, dict[str, Any]] = {
    "deepseek_vit": {"depth": 2},
    "gemma4_vit": {"depth": 2},
    "vgg": {"num_classes": 10},
}
"""The smallest model of these has hundreds of millions of parameters."""

SMALLEST: dict[str, str] = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
"""Architecture module of timm -> its smallest model (timm 1.0.31)."""


def kinds() -> list[str]:
    """The architecture modules of the timm that is installed."""
    return list(timm.list_modules())


def smallest(module: str) -> str:
    """The module's model with the fewest parameters."""
    sizes: dict[str, int] = {}
    for name in timm.list_models(module=module):
        with torch.device("meta"):
            sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
    return min(sizes, key=lambda name: sizes[name])


def encoder(module: str) -> Any:
    """The encoder of a module's smallest model (seed 0); raises what building it raises."""
    from diagnostics_timm.encoder import create, encoder_of

    name = SMALLEST.get(module) or smallest(module)
    size = SIZES.get(module, SIZE)
    cut = CUT.get(module, {})
    make = partial(create, name, size, **cut)
    torch.manual_seed(0)
    told = "".join(f" with {key}={value}" for key, value in cut.items())
    return encoder_of(make(), f"timm:{name}?pretrained=false&img_size={size}{told}", size, make)


def main() -> None:
    warnings.filterwarnings("ignore")
    for module in kinds():
        print(f'    "{module}": "{smallest(module)}",', flush=True)


if __name__ == "__main__":
    sys.exit(main())
