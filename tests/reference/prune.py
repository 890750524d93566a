"""Slow, literal references of the prune chapter."""

from __future__ import annotations

import math

import torch


def select_smallest(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The mask (True: kept) after floor(n * sparsity + 0.5) smallest magnitudes have gone.

    Ties: the lower index goes first. ``scores`` of any shape; the mask has the same.
    """
    count = math.floor(scores.numel() * sparsity + 0.5)
    order = scores.detach().double().abs().flatten().sort(stable=True).indices
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    mask[order[:count]] = False
    return mask.view(scores.shape)


def row_bytes(mask: torch.Tensor) -> torch.Tensor:
    """A bool mask as row-aligned bytes, uint8 [dim0, ceil(row / 8)], bit by bit."""
    rows = mask.shape[0] if mask.dim() else 1
    row_size = math.prod(mask.shape[1:])
    out = torch.zeros(rows, (row_size + 7) // 8, dtype=torch.uint8)
    flat = mask.reshape(rows, row_size)
    for r in range(rows):
        for j in range(row_size):
            out[r, j // 8] |= int(flat[r, j]) << (j % 8)
    return out
