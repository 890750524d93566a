"""Selecting the smallest magnitudes, beside what torch offers: milliseconds, on one thread.

python benchmarks/bench_select.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _measure import in_turns, write_table

from pomona import _C

CASES = {
    "LeNet-300 fc1": (784 * 300, torch.float32),
    "Alex-8": (1000 * 4096, torch.float32),
    "10M": (10_000_000, torch.float32),
    "100M": (100_000_000, torch.float32),
    "100M bfloat16": (100_000_000, torch.bfloat16),
    "100M float64": (100_000_000, torch.float64),
}
SPARSITY = 0.9
FEW = 5  # runs of the large cases: kthvalue takes seconds


def by_kthvalue(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Not exact: every weight that ties with the threshold goes."""
    magnitudes = scores.abs()
    return magnitudes > magnitudes.kthvalue(count).values


def by_topk(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Exact in number; which of the ties go is not defined."""
    kept = scores.abs().topk(scores.numel() - count, sorted=False).indices
    return torch.zeros(scores.shape, dtype=torch.bool).index_fill_(0, kept, True)


def main() -> None:
    """One row for each size."""
    rows = []
    for layer, (size, dtype) in CASES.items():
        scores = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
        count = int(size * SPARSITY + 0.5)
        ways = {
            "select_smallest": lambda s=scores: _C.select_smallest(s, SPARSITY),
            "kthvalue": lambda s=scores, c=count: by_kthvalue(s, c),
            "topk": lambda s=scores, c=count: by_topk(s, c),
        }
        seconds = in_turns(ways, FEW if size > 10_000_000 else 11)
        ours = seconds["select_smallest"]
        cells = [f"{1e3 * value:.2f}" for value in seconds.values()]
        rows.append([f"select/cpu/{layer}/density:0.1", *cells, f"{seconds['topk'] / ours:.1f}x"])
    columns = ["case", "select_smallest ms", "kthvalue ms", "topk ms", "over topk"]
    write_table("select", "Selecting the smallest 90 %", columns, rows)


if __name__ == "__main__":
    main()
