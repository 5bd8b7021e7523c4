"""The threads that measures compute on: one, so that numbers are the same on any machine."""

import contextlib
from collections.abc import Generator


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Linear algebra on one thread while this lasts; also a decorator.

    Threads gain nothing on many small products, and on a busy machine cost up to 50 times the CPU time by waiting.
    """
    import torch  # not by whoever reads what was measured
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
