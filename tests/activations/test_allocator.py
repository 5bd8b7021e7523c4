import platform
import subprocess
import sys

import pytest

from diagnostics.activations import prepare

# Page faults of the second time that 60 MB in six blocks are taken and let go.
FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1:]:
    from diagnostics.activations.prepare import keep_freed_memory
    keep_freed_memory()
def batch():
    return [np.ones(10**7, dtype=np.uint8) for _ in range(6)]
for _ in range(2):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, *arguments], check=True, capture_output=True).stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's; another C library is left alone (the test below)"
)
def test_memory_of_a_batch_is_used_again_by_the_next() -> None:
    assert faults("keep") < 1000 < faults()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare.ctypes, "CDLL", lambda name: object())
    prepare.keep_freed_memory()
