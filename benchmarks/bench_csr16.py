"""packed_linear on the layout csr16 beside the dense layer, batch 1: microseconds, on one thread.

python benchmarks/bench_csr16.py

Layers and densities of the thesis (NIPS 2015 Table 3, EIE Table III), random patterns, 15 nonzero
centroids, so a code has 4 bits as in EIE.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _measure import in_turns, write_table

import pomona

LAYERS = {  # out, in, density
    "LeNet-300-100 fc1": (300, 784, 0.08),
    "LeNet-5 fc1": (500, 800, 0.08),
    "Alex-6": (4096, 9216, 0.09),
    "Alex-7": (4096, 4096, 0.09),
    "Alex-8": (1000, 4096, 0.25),
    "NT-We": (600, 4096, 0.10),
}


def sparse_layer(out: int, inputs: int, density: float) -> torch.nn.Linear:
    """A pruned and shared layer."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(inputs, out)
    codebook = torch.linspace(-0.1, 0.1, 16)
    codebook = codebook[codebook != 0][:15]
    codes = torch.randint(15, (out, inputs), generator=generator)
    keep = torch.rand(out, inputs, generator=generator) < density
    layer.weight.data.copy_(torch.where(keep, codebook[codes], 0.0))
    return layer.eval()


@torch.no_grad()
def main() -> None:
    """One row for each layer."""
    rows = []
    for name, (out, inputs, density) in LAYERS.items():
        dense = sparse_layer(out, inputs, density)
        packed = pomona.nn.PackedLinear.from_linear(dense)
        x = torch.rand(1, inputs)
        torch.testing.assert_close(packed(x), dense(x), rtol=1e-4, atol=1e-4)
        seconds = in_turns(
            {"dense": lambda d=dense, x=x: d(x), "packed": lambda p=packed, x=x: p(x)}, 51
        )
        nnz = int(dense.weight.count_nonzero())
        microseconds = [f"{1e6 * value:.1f}" for value in seconds.values()]
        nanoseconds = f"{1e9 * seconds['packed'] / nnz:.2f}"
        ratio = f"{seconds['dense'] / seconds['packed']:.1f}x"
        rows.append([f"{name}/density:{density}/batch:1", *microseconds, nanoseconds, ratio])
    columns = ["case", "dense us", "csr16 us", "csr16 ns per nonzero", "over dense"]
    write_table("csr16", "A linear layer on its compressed weights", columns, rows)


if __name__ == "__main__":
    main()
