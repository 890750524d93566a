"""The two networks of the thesis's first chapters, under the names of its tables."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class LeNet300100(nn.Module):
    """Images [n, 1, 28, 28] -> logits [n, 10]; 266,200 weights. Source: thesis ch. 3."""

    def __init__(self) -> None:
        """PyTorch's default initialisation."""
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, 1, 28, 28] -> logits [n, 10]."""
        hidden = functional.relu(self.fc1(images.flatten(1)))
        return self.fc3(functional.relu(self.fc2(hidden)))


class LeNet5(nn.Module):
    """Images [n, 1, 28, 28] -> logits [n, 10]; 430,500 weights. Source: thesis ch. 3."""

    def __init__(self) -> None:
        """PyTorch's default initialisation."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, 1, 28, 28] -> logits [n, 10]."""
        maps = functional.max_pool2d(self.conv1(images), 2)
        maps = functional.max_pool2d(self.conv2(maps), 2)
        return self.fc2(functional.relu(self.fc1(maps.flatten(1))))
