"""Slow, literal references of the criteria, pieces and schedules of pruning."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def pool(
    scores: Sequence[torch.Tensor],
    sparsity: float,
    previous: Sequence[torch.Tensor] | None = None,
    *,
    by_value: bool = False,
) -> list[torch.Tensor]:
    """Masks over several tensors ranked together: masked and zero scores first, then the smallest.

    Ties: the earlier tensor, then the lower index.
    """
    values = [s.detach().double() if by_value else s.detach().double().abs() for s in scores]
    keep = [
        torch.ones(v.shape, dtype=torch.bool) if p is None else p.clone()
        for v, p in zip(values, previous or [None] * len(values), strict=True)
    ]
    if not by_value and sparsity > 0:
        keep = [k & (v != 0) for k, v in zip(keep, values, strict=True)]
    total = sum(v.numel() for v in values)
    going = math.floor(total * sparsity + 0.5) - sum(int((~k).sum()) for k in keep)
    flat_values = torch.cat([v.flatten() for v in values])
    flat_keep = torch.cat([k.flatten() for k in keep])
    live = flat_keep.nonzero().flatten()
    order = flat_values[live].sort(stable=True).indices
    flat_keep[live[order[: max(going, 0)]]] = False
    pieces = flat_keep.split([v.numel() for v in values])
    return [piece.view(v.shape) for piece, v in zip(pieces, values, strict=True)]


def rows(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The rows of the smallest mean magnitude go whole."""
    means = weight.detach().double().abs().flatten(1).mean(1)
    return pool([means], sparsity)[0].view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)


def columns(weight: torch.Tensor, sparsity: float) -> torch.Tensor:
    """The columns (channels) of the smallest mean magnitude go whole."""
    return rows(weight.transpose(0, 1), sparsity).transpose(0, 1)


def blocks(weight: torch.Tensor, sparsity: float, height: int, width: int) -> torch.Tensor:
    """Blocks of the matrix [dim 0, the rest], smaller at the edges."""
    matrix = weight.detach().double().abs().flatten(1)
    tiles = [
        (slice(r, r + height), slice(c, c + width))
        for r in range(0, matrix.shape[0], height)
        for c in range(0, matrix.shape[1], width)
    ]
    means = torch.stack([matrix[tile].mean() for tile in tiles])
    keep = torch.ones_like(matrix, dtype=torch.bool)
    for tile, kept in zip(tiles, pool([means], sparsity)[0], strict=True):
        keep[tile] = kept
    return keep.view(weight.shape)


def n_of_m(weight: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Of every m neighbours along dimension 1 the n largest stay; zeros never do."""
    values = (
        weight.detach().double().abs().flatten(2)
        if weight.dim() > 2
        else (weight.detach().double().abs()[:, :, None])
    )
    keep = torch.zeros(values.shape, dtype=torch.bool)
    for r in range(values.shape[0]):
        for k in range(values.shape[2]):
            for begin in range(0, values.shape[1], m):
                part = values[r, begin : begin + m, k]
                order = part.sort(stable=True).indices.tolist()
                for c in order[::-1][:n]:
                    keep[r, begin + c, k] = bool(part[c] != 0)
    return keep.view(weight.shape)
