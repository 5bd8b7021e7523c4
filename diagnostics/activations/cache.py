"""A cache of recent reads and decompositions, limited to a number of bytes for the whole process."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

import numpy as np


class Kept:
    """Arrays by owner and name, at most `most` bytes; the least recently used are dropped first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._arrays: OrderedDict[tuple[Hashable, str], np.ndarray] = OrderedDict()
        self._gone: deque[Hashable] = deque()
        self._lock = threading.Lock()

    def get(self, owner: Hashable, name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The array that `read` returns, or returned before; read-only."""
        key = owner, name
        with self._lock:
            self._drop()
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        values = read()
        values.flags.writeable = False
        with self._lock:
            self._arrays[key] = values
            while sum(array.nbytes for array in self._arrays.values()) > self.most:
                self._arrays.popitem(last=False)
        return values

    def forget(self, owner: Hashable) -> None:
        """Drop all arrays of an owner, now or in the next `get`.

        It never waits for the lock: a finaliser calls it, perhaps in the thread that holds the lock.
        """
        self._gone.append(owner)
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _drop(self) -> None:
        while self._gone:
            owner = self._gone.popleft()
            for key in [key for key in self._arrays if key[0] == owner]:
                del self._arrays[key]
