"""packed_linear (csr16) beside the dense layer, at the thesis's densities and widths of codes.

    python benchmarks/bench_csr16.py [--quick]

Dense, packed with a codebook and packed without one run in turns in one process; the time is the
median. One thread, unless OMP_NUM_THREADS says otherwise. GB/s counts the packed bytes once.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _measure import in_turns, write_table
from torch.nn.functional import linear

from pomona.nn import PackedLinear

# rows, cols, share of weights kept, bits of a code: as the thesis compressed LeNet (its chapter 4)
# and as its hardware ran AlexNet (its chapter 6).
LAYERS = {
    "LeNet-300 ip1": (300, 784, 0.08, 6),
    "LeNet-300 ip2": (100, 300, 0.09, 6),
    "LeNet-5 ip1": (500, 800, 0.08, 5),
    "Alex-6": (4096, 9216, 0.09, 4),
    "Alex-7": (4096, 4096, 0.09, 4),
    "Alex-8": (1000, 4096, 0.25, 4),
}
BATCHES = (1, 8)


def pruned(rows: int, cols: int, density: float) -> torch.Tensor:
    """A random matrix that keeps a share of its weights, at random places."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, cols, generator=generator)
    return torch.where(torch.rand(rows, cols, generator=generator) < density, weight, 0)


def shared(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The same with 2^bits - 1 distinct nonzero values."""
    book = torch.linspace(-2, 2, 2**bits - 1) + 1e-3  # no entry is 0
    codes = torch.bucketize(weight, book).clamp(max=len(book) - 1)
    return torch.where(weight != 0, book[codes], 0)


@torch.no_grad()
def measure(layer: str, batch: int, runs: int) -> list[str]:
    """One row of the table."""
    rows, cols, density, bits = LAYERS[layer]
    plain = pruned(rows, cols, density)
    weight = shared(plain, bits)
    coded, floats = PackedLinear(weight), PackedLinear(plain)
    x = torch.randn(batch, cols, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(coded(x), linear(x, weight), rtol=1e-3, atol=1e-3)
    seconds = in_turns(
        {
            "dense": lambda: linear(x, weight),
            "coded": lambda: coded(x),
            "floats": lambda: floats(x),
        },
        runs,
    )
    coded_seconds = seconds["coded"]
    return [
        f"packed_linear/cpu/{layer}/density:{density:g}/batch:{batch}",
        f"{1e6 * seconds['dense']:.1f}",
        f"{1e6 * coded_seconds:.1f}",
        f"{1e6 * seconds['floats']:.1f}",
        f"{seconds['dense'] / coded_seconds:.2f}",
        f"{coded.nnz * batch / coded_seconds / 1e9:.2f}",
        f"{coded.packed.numel() / coded_seconds / 1e9:.2f}",
    ]


def main() -> None:
    """Print the table and write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="LeNet's layers only, nothing written")
    quick = parser.parse_args().quick
    layers = [name for name in LAYERS if not quick or name.startswith("LeNet")]
    rows = [measure(layer, batch, 15 if quick else 31) for layer in layers for batch in BATCHES]
    columns = ["name", "dense us", "codes us", "floats us", "dense / codes", "Gnnz/s", "GB/s"]
    if quick:
        for row in rows:
            print(*row, sep="  ")
    else:
        write_table("csr16", "Packed linear layers (csr16) beside dense ones", columns, rows)


if __name__ == "__main__":
    main()
