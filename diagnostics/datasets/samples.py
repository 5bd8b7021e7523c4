"""Samples that are read when they are asked for, and indexed as numpy indexes an axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class LazySamples(Sequence[Any]):
    """`n` samples, the i-th of which is `read(i)`; nothing is kept.

    An integer, from the end where it is negative, gives a sample; a slice, a mask or several integers give those samples, again
    read when they are asked for. Raises IndexError for what lies beyond the samples, as numpy does.

    Examples:
        >>> import numpy as np
        >>> import diagnostics as dx
        >>> def read(i):
        ...     print(f"reading sample {i}")
        ...     return np.full((2, 2), i)
        >>> samples = dx.LazySamples(1000, read)
        >>> ten = samples[100:110]
        >>> len(ten)
        10
        >>> print(ten[-1])
        reading sample 109
        [[109 109]
         [109 109]]
    """

    def __init__(self, n: int, read: Callable[[int], Any]) -> None:
        self._rows, self._read = np.arange(n), read

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        rows = self._rows[index]
        if np.ndim(rows) == 0:
            return self._read(int(rows))
        if np.ndim(rows) > 1:
            raise IndexError(f"samples lie along one axis, and the index asks for {np.ndim(rows)}")
        chosen = LazySamples(0, self._read)
        chosen._rows = rows
        return chosen

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} samples>"
