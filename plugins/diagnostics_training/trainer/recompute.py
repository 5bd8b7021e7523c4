"""Memory against time: what a block computes is not kept for the backward pass, but computed once more in it.

Chen et al., Training deep nets with sublinear memory cost (arXiv 1604.06174); torch calls it activation checkpointing.
"""

import contextlib
import functools
from collections.abc import Generator, Iterable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def recomputed(blocks: Iterable[nn.Module]) -> Generator[None]:
    """A context in which passes keep only what each block is given, and draw the same random numbers the second time.

    Gradients are those of a pass that keeps everything. Hooks on a block fire once a pass; hooks on its parts fire again in the
    backward pass if they are still there then. Modules, names and parameters stay as they are.
    """
    with contextlib.ExitStack() as undone:
        # On the instance, since hooks and names belong to the module itself.
        for block in dict.fromkeys(blocks):
            undone.callback(_restore, block, vars(block).get("forward"))
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        yield


def _restore(block: nn.Module, forward: Any) -> None:
    if forward is None:
        del block.forward
    else:
        block.forward = forward
