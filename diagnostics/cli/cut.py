"""Exports an encoder cut at a tap to a file, and reports what that saves."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modes import wanting_gradients
from diagnostics.encoders.saved.cut import cut_encoder
from diagnostics.encoders.saved.files import SAVED, save_encoder
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError
from diagnostics.report.escaping import printable
from diagnostics.specs import build


@dataclass(frozen=True)
class Exported:
    """A cut encoder in a file: its name there, the whole encoder's, and the costs of both.

    `flops` are those of matrix products, convolutions and attention in a pass over the example, a multiplication and an
    addition counting 2; None where a pass cannot be counted.
    """

    file: str
    name: str
    whole: str
    tap: str
    taps: tuple[str, ...]
    parameters: int
    whole_parameters: int
    flops: int | None
    whole_flops: int | None

    def __str__(self) -> str:
        taps = f"tap {self.tap}"
        if len(self.taps) > 1:
            taps = f"{len(self.taps)} taps from {self.taps[0]} to {self.taps[-1]}"
        if self.flops is None or self.whole_flops is None:
            flops = "not countable"
        elif not self.whole_flops:
            flops = "0, since it has no matrix product or convolution that is counted"
        else:
            flops = _saved(self.flops, self.whole_flops)
        return (
            f"{printable(f'{self.file}: {self.name}, {taps}')}\nParameters: {_saved(self.parameters, self.whole_parameters)}\n"
            f"FLOPs of a pass over the example: {flops}"
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain data, with what is saved as numbers and shares."""
        parameters = self.whole_parameters - self.parameters
        flops = None if self.flops is None or self.whole_flops is None else self.whole_flops - self.flops
        return asdict(self) | {
            "taps": list(self.taps),
            "parameters_saved": parameters,
            "parameters_saved_share": parameters / self.whole_parameters if self.whole_parameters else None,
            "flops_saved": flops,
            "flops_saved_share": flops / self.whole_flops if flops is not None and self.whole_flops else None,
        }


def export(encoder: str | Encoder, tap: str, out: str | Path, *, trust_code: bool = False) -> Exported:
    """Cuts an encoder, or what a name builds, and saves it; refuses a file that is there. `trust_code` as of `build`."""
    file = Path(out) if Path(out).suffix == ".safetensors" else Path(out) / SAVED
    if file.exists():
        raise DiagnosticsError(f"{file} is there already: choose another --out, or remove it.")
    whole: Encoder = build("encoder", encoder, trust_code=trust_code) if isinstance(encoder, str) else encoder
    cut = cut_encoder(whole, tap)
    assert isinstance(whole, TorchEncoder)
    written = save_encoder(file, cut)
    return Exported(
        str(written), cut.name, whole.name, tap, tuple(tap.name for tap in cut.taps), _parameters(cut), _parameters(whole),
        flops_of(cut), flops_of(whole),
    )  # fmt: skip


def _saved(count: int, whole: int) -> str:
    share = (whole - count) / whole if whole else 0.0
    return f"{count:,} of {whole:,} ({whole - count:,} saved, {share:.1%})"


def _parameters(encoder: TorchEncoder) -> int:
    return sum(parameter.numel() for parameter in encoder.module.parameters())


def flops_of(encoder: TorchEncoder) -> int | None:
    """Of one pass over the example: matrix products, convolutions and attention, with 2 for a multiplication and an addition.

    None where the counter cannot follow the pass. Recurrent layers that run in one kernel count nothing.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    # Kernels for whole layers, and fused ones for attention on a CPU, would count as nothing.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        batch = default_collate([encoder.preprocess(encoder.example())])
        # Torch's counter cannot follow a parameter that a layer is given as its input and that wants a gradient.
        with (
            wanting_gradients(encoder.module, False),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            encoder.capture(batch, [])
        return int(counter.get_total_flops())
    except Exception:
        return None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
