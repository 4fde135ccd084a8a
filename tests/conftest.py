"""Settings for all tests."""

from __future__ import annotations

import torch

# The tests' tensors are small: a second thread costs more in waiting than it computes, above all on a busy machine.
torch.set_num_threads(1)
