"""Cores and memory that this process may use, by its affinity, its cgroups and what is free."""

import contextlib
import os
import shutil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MOST_WORKERS = 8


def usable_cores() -> int:
    """Those of the affinity (`PYTHON_CPU_COUNT` stands for it, as in Python), or fewer where a cgroup says so."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = int(os.environ.get("PYTHON_CPU_COUNT") or affinity)
    # "200000 100000" are two, "max 100000" all.
    quotas = [int(limit) // int(period) for limit, period in map(str.split, _limits("cpu.max")) if limit != "max"]
    return max(1, min([cores, *quotas]))


def default_workers(batch: int) -> int:
    """Processes that prepare batches of so many bytes for a GPU.

    Each has three of them in shared memory, of which a container may have little.
    """
    shared = Path("/dev/shm")
    fitting = shutil.disk_usage(shared).free // max(1, 3 * batch) if shared.is_dir() else 0
    return min(MOST_WORKERS, usable_cores() - 1, fitting)


def free_bytes() -> float:
    """Memory that is free, also within each cgroup; infinite where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        free = 1024 * _number(Path("/proc/meminfo").read_text(), "MemAvailable:")
        # The outermost may have a memory.stat alone.
        files = zip(*map(_limits, ("memory.max", "memory.current", "memory.stat")), strict=False)
        # What files left in memory is given back when it is needed.
        of = [(limit, int(used) - _number(stat, "inactive_file")) for limit, used, stat in files]
        return min([free, *(int(limit) - used for limit, used in of if limit != "max")])
    return float("inf")


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return 1024 * _number(Path("/proc/self/status").read_text(), "VmRSS:")
    return 0


def _number(text: str, name: str) -> int:
    return int(text.partition(name)[2].split()[0])


def _limits(name: str) -> list[str]:
    """Limits of the cgroups that this process is in, the innermost first; nothing where there are none."""
    with contextlib.suppress(OSError):
        own = CGROUPS / Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
        return [file.read_text().strip() for each in (own, *own.parents) if (file := each / name).is_file()]
    return []
