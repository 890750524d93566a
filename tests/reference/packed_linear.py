"""The product of a packed layer, literally: only stored weights are multiplied, in double."""

from __future__ import annotations

import torch


def packed_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """y and the sum of |w x| (the scale of its rounding), both double; x is [batch, cols]."""
    y = torch.zeros(x.shape[0], weight.shape[0], dtype=torch.float64)
    scale = torch.zeros_like(y)
    for b, row in enumerate(x.double().tolist()):
        for r, weights in enumerate(weight.double().tolist()):
            terms = [w * v for w, v in zip(weights, row, strict=True) if w != 0]
            start = 0.0 if bias is None else bias[r].item()
            y[b, r] = sum(terms) + start
            scale[b, r] = sum(abs(term) for term in terms) + abs(start)
    return y, scale
