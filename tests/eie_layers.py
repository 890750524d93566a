"""Shared weights and activations for the tests of pomona.eie."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import pomona

LEVELS = torch.arange(1, 8) / 16.0


def shared(*shape, density=0.3, seed=0):
    """A tensor of zeros and 14 other values."""
    generator = torch.Generator().manual_seed(seed)
    values = LEVELS[torch.randint(7, shape, generator=generator)]
    values = torch.where(torch.rand(shape, generator=generator) < 0.5, values, -values)
    return values * (torch.rand(shape, generator=generator) < density)


def activations(*shape, density=0.5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=generator)
    return values * (torch.rand(shape, generator=generator) < density)


def saved_network(folder: Path) -> tuple[nn.Sequential, Path]:
    """Two shared layers with a ReLU between, and their file."""
    model = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 5))
    with torch.no_grad():
        model[0].weight.copy_(shared(20, 40))
        model[2].weight.copy_(shared(5, 20, seed=2))
    pomona.save(model, folder / "net.pomona")
    return model, folder / "net.pomona"
