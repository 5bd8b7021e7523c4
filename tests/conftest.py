"""Settings of the whole test session."""

from __future__ import annotations

import torch

# Threads of tiny models wait for each other more than they work, most of all where tests run side by side.
torch.set_num_threads(1)
