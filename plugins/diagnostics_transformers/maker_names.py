"""The names by which transformers calls what stands at a tower's last taps."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from diagnostics.plugin import TorchEncoder, last_taps, names_of_outputs


def maker_names(encoder: TorchEncoder, within: str = "tower") -> dict[str, str]:
    """Tap -> `last_hidden_state`, `pooler_output`, or `hidden_states[-1]` where that is another than the last state.

    `within` is the name of the tower in the encoder's module, "" where it is that module.
    """
    forward = encoder.forward

    def run(module: nn.Module, batch: Any, **options: bool) -> dict[str, Tensor]:
        tower: Any = module.get_submodule(within)
        with tower.register_forward_pre_hook(lambda _, args, kwargs: (args, {**kwargs, **options}), with_kwargs=True):
            out = forward(module, batch)
        outputs = {key: getattr(out, key, None) for key in ("last_hidden_state", "pooler_output")}
        outputs["hidden_states[-1]"] = (getattr(out, "hidden_states", None) or [None])[-1] if options else None
        return {name: value for name, value in outputs.items() if isinstance(value, Tensor)}

    taps = last_taps(encoder.taps, encoder.output_tap)
    # Some towers have no option for their hidden states.
    return names_of_outputs(encoder, partial(run, output_hidden_states=True), taps) or names_of_outputs(
        encoder, run, taps
    )
