"""A training step of a SharedLinear beside the dense layer: milliseconds.

    python benchmarks/bench_shared_step.py

4096x4096, batch 64, SGD with momentum: forward, backward and the optimizer's step. The dense layer
steps 16.8 million weights, the shared one its codebook. A and B run in turns in one process.
"""

from __future__ import annotations

import torch
from _measure import in_turns, write_table
from torch import nn

import pomona
from pomona.nn import SharedLinear

SIZE, BATCH = 4096, 64


def step_of(layer: nn.Module, inputs: torch.Tensor) -> object:
    """One step of training, as a function."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3, momentum=0.9)
    inputs = inputs.clone().requires_grad_()  # as it is inside a network

    def step() -> None:
        optimizer.zero_grad()
        layer(inputs).square().mean().backward()
        optimizer.step()

    return step


def main() -> None:
    """One row for each number of bits and share of zeros."""
    rows = []
    inputs = torch.randn(BATCH, SIZE)
    for bits in (4, 8):
        for sparsity in (0.0, 0.9):
            linear = nn.Linear(SIZE, SIZE)
            if sparsity:
                pomona.Pruner(linear, {"weight": sparsity}).step()
            pomona.Sharer(linear, {"weight": bits}).step()
            shared = SharedLinear.from_linear(linear)
            ways = {"dense": step_of(linear, inputs), "shared": step_of(shared, inputs)}
            seconds = in_turns(ways, 15)
            ratio = seconds["shared"] / seconds["dense"]
            cells = [f"{1e3 * value:.1f}" for value in seconds.values()]
            rows.append([bits, f"{sparsity:.0%}", *cells, f"{ratio:.2f}x"])
            print(" ", *rows[-1], flush=True)
    columns = ["bits", "zeros", "dense ms", "shared ms", "shared / dense"]
    write_table("shared_step", f"A step of SharedLinear {SIZE}x{SIZE}, batch 64", columns, rows)


if __name__ == "__main__":
    main()
