"""Matrices that the benchmarks of inference share: pruned, and shared with 15 values.

Patterns: Bernoulli (the nine layers of EIE and shapes of language models), log-normal, and those
that pruning by magnitude leaves in trained networks (``shared/models``).
"""

from __future__ import annotations

import sys

import torch
from _measure import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "thesis"))
from resnet20 import read_safetensors

MODELS = ROOT.parent / "shared" / "models"
Shape = tuple[int, int, float]  # rows, cols, share of weights kept
LAYERS: dict[str, Shape] = {  # EIE, Table III
    "Alex-6": (4096, 9216, 0.09),
    "Alex-7": (4096, 4096, 0.09),
    "Alex-8": (1000, 4096, 0.25),
    "VGG-6": (4096, 25088, 0.04),
    "VGG-7": (4096, 4096, 0.04),
    "VGG-8": (1000, 4096, 0.23),
    "NT-We": (600, 4096, 0.10),
    "NT-Wd": (8791, 600, 0.11),
    "NT-LSTM": (2400, 1201, 0.10),
}
LANGUAGE_MODEL: dict[str, Shape] = {
    f"{rows} x {cols}, {density:.0%}": (rows, cols, density)
    for rows, cols in ((4096, 4096), (11008, 4096))
    for density in (0.2, 0.3, 0.5)
}
VALUES = 15
_ROWS_AT_ONCE = 512  # no temporary of a whole layer's size


def codebook(bfloat16: bool) -> torch.Tensor:
    """The values, ``[15]``; as bfloat16 rounds them where that is asked."""
    book = torch.randn(VALUES, generator=torch.Generator().manual_seed(0))
    return book.bfloat16().float() if bfloat16 else book


def with_values(mask: torch.Tensor, bfloat16: bool = False) -> torch.Tensor:
    """A weight of that pattern; the same codes with either codebook."""
    generator = torch.Generator().manual_seed(2)
    book = codebook(bfloat16)
    weight = torch.zeros(mask.shape)
    for row, kept in zip(weight.split(_ROWS_AT_ONCE), mask.split(_ROWS_AT_ONCE), strict=True):
        row[kept] = book[torch.randint(VALUES, (int(kept.sum()),), generator=generator)]
    return weight


def bernoulli(rows: int, cols: int, density: float) -> torch.Tensor:
    """Every weight is kept with the same chance."""
    return log_normal(rows, cols, density, 0.0)


def log_normal(rows: int, cols: int, density: float, sigma: float) -> torch.Tensor:
    """Chances that differ by column (sigma) and by row (sigma / 2), log-normally."""
    generator = torch.Generator().manual_seed(1)
    by_column = torch.randn(cols, generator=generator).mul(sigma).exp()
    by_row = torch.randn(rows, 1, generator=generator).mul(sigma / 2).exp()
    by_row *= _scale(by_row, by_column, density) if sigma > 0 else density
    mask = torch.empty(rows, cols, dtype=torch.bool)
    for row, chance in zip(mask.split(_ROWS_AT_ONCE), by_row.split(_ROWS_AT_ONCE), strict=True):
        row.copy_(torch.rand(row.shape, generator=generator) < chance * by_column)
    return mask


def _scale(by_row: torch.Tensor, by_column: torch.Tensor, density: float) -> float:
    """What makes the mean chance that density: chances end at 1, so it is searched for."""
    low, high = 0.0, 10.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        mean = float((middle * by_row * by_column).clamp(max=1).mean())
        low, high = (middle, high) if mean < density else (low, middle)
    return low


def uniform_like(mask: torch.Tensor) -> torch.Tensor:
    """The same shape and exactly as many weights, without any order."""
    chosen = torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(3))
    uniform = torch.zeros(mask.numel(), dtype=torch.bool)
    uniform[chosen[: int(mask.sum())]] = True
    return uniform.view(mask.shape)


def pruned(file: str, name: str, density: float) -> torch.Tensor:
    """What pruning by magnitude keeps of a trained weight, as a matrix ``[rows, -1]``."""
    weight = read_safetensors(MODELS / file)[name].float().flatten(1)
    kept = round(weight.numel() * density)
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[weight.abs().flatten().topk(kept).indices] = True
    return mask.view(weight.shape)


def are_models_here() -> bool:
    """Whether trained networks lie beside the checkout."""
    return MODELS.is_dir()
