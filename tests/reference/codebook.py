"""Weight sharing, literally (thesis §4.2-4.3): one code at a time, sums in double."""

from __future__ import annotations

import math

import torch


def pack(codes: list[int], bits: int) -> torch.Tensor:
    """Codes of ``bits`` bits into bytes, low bits first."""
    packed = [0] * ((len(codes) * bits + 7) // 8)
    for i, code in enumerate(codes):
        packed[i * bits // 8] |= code << (i * bits % 8)
    return torch.tensor(packed, dtype=torch.uint8)


def lookup(codebook: torch.Tensor, codes: list[int], shape: tuple[int, ...]) -> torch.Tensor:
    """weight[i] = codebook[codes[i]], NaN for a code outside the codebook."""
    values = codebook.tolist()
    flat = [values[code] if code < len(values) else math.nan for code in codes]
    return torch.tensor(flat, dtype=codebook.dtype).reshape(shape)


def centroid_grad(grad: torch.Tensor, codes: list[int], k: int) -> torch.Tensor:
    """dL/dC_j = sum of dL/dW_i over codes[i] = j (thesis eq. 4.3), in double."""
    sums = [0.0] * k
    for value, code in zip(grad.double().flatten().tolist(), codes, strict=True):
        if code < k:
            sums[code] += value
    return torch.tensor(sums, dtype=torch.float64)


def lloyd(values: list[float], k: int, iterations: int = 10_000) -> list[float]:
    """k-means of scalars from k centroids equally spaced over [min, max], until nothing moves.

    Returns the centroids that have members, or the distinct values when there are at most k.
    """
    distinct = sorted(set(values))
    if len(distinct) <= k:
        return distinct
    low, high = distinct[0], distinct[-1]
    centroids = [low + (high - low) * j / (k - 1) for j in range(k)] if k > 1 else [low]
    nearest: list[int] = []
    for _ in range(iterations):
        before = nearest
        nearest = [min(range(k), key=lambda j: (abs(v - centroids[j]), j)) for v in values]
        members = [
            [v for v, near in zip(values, nearest, strict=True) if near == j] for j in range(k)
        ]
        centroids = [
            math.fsum(m) / len(m) if m else c for m, c in zip(members, centroids, strict=True)
        ]
        if nearest == before:
            break
    return [c for m, c in zip(members, centroids, strict=True) if m]
