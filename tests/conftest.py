"""Settings of the whole test session."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import settings

# Tables as wide as in the README, whatever the terminal that the tests are run in; tests of other widths set their own.
os.environ["COLUMNS"] = "140"

# Threads of tiny models wait for each other more than they work, most of all where tests run side by side.
torch.set_num_threads(1)

# The same cases everywhere, so that what passes here passes in CI; `--hypothesis-profile=default` looks for others.
settings.register_profile("settled", derandomize=True, database=None)
settings.load_profile("settled")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Contiguous parts of the suite for the processes of `-n`, so that few modules prepare their fixtures in two of them."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None
