"""The threads that measures compute on: one, so that numbers are the same on any machine."""

import contextlib
import functools
import sys
from collections.abc import Generator
from typing import Any


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Linear algebra on one thread while this lasts; also a decorator.

    Threads gain nothing on many small products, and on a busy machine cost up to 50 times the CPU time by waiting.
    """
    import torch  # not by whoever reads what was measured

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries(len(sys.modules)).limit(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)


@functools.lru_cache(maxsize=1)
def _libraries(modules: int) -> Any:
    """Those loaded; looking for them takes 30 times as long as the rest, and an import of `modules` may bring more."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
