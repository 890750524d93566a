"""A small network and a training loop that tests share."""

from __future__ import annotations

import torch
from torch import nn


class SmallNet(nn.Module):
    """Two convolutions and two linear layers on images [n, 1, 8, 8]; ten classes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv1 = nn.Conv2d(1, 4, 3)
            self.conv2 = nn.Conv2d(4, 6, 3)
            self.fc1 = nn.Linear(96, 24)
            self.fc2 = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.fc2(self.fc1(x.flatten(1)).relu())


def batch(index: int, size: int = 8, dtype: torch.dtype = torch.float32):
    """The batch of this number: the same on every run."""
    rng = torch.Generator().manual_seed(1000 + index)
    images = torch.randn(size, 1, 8, 8, generator=rng).to(dtype)
    return images, torch.randint(10, (size,), generator=rng)


def train(model, optimizer, begin: int, end: int, clip: float = 1.0, micro_batches: int = 1):
    """Optimizer steps begin..end of an ordinary loop with clipping and gradient accumulation."""
    dtype = next(model.parameters()).dtype
    for index in range(begin, end):
        optimizer.zero_grad()
        for micro in range(micro_batches):
            images, labels = batch(index * micro_batches + micro, dtype=dtype)
            loss = nn.functional.cross_entropy(model(images).float(), labels)
            (loss / micro_batches).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
