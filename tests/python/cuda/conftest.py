"""Tests that need a GPU take the fixture ``cuda``, which skips them, saying why, without one."""

from __future__ import annotations

import pytest
import torch

import pomona


@pytest.fixture
def cuda() -> torch.device:
    """The device, or a skip that says why there is none."""
    reason = pomona.why_no_cuda()
    if reason:
        pytest.skip(reason)
    return torch.device("cuda")
