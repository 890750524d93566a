"""Look-up, centroid gradient, pooling and snapping beside plain torch: ns per weight, one thread.

    python benchmarks/bench_codebook.py

A and B run in turns in one process; the time is the median. "into" writes into memory that exists
(as pooling and snapping do); a fresh weight costs page faults besides, on either side.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable

import torch
from _measure import in_turns, write_table

from pomona import _C
from pomona.quantize import centroid_grad, lookup

SIZES = {"NT-LSTM": 2400 * 1201, "64M": 64 << 20}
BITS = (4, 8)
FEW = 3  # runs of the large case


def ways_of(size: int, bits: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """operation -> (ours, torch's)."""
    k = 2**bits
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, k, (size,), dtype=torch.uint8, generator=generator)
    packed = _C.pack_bits(codes, bits) if bits < 8 else codes
    book, gradient = torch.randn(k), torch.randn(size)
    out, weight = torch.empty(size), book[codes.long()]
    counts = torch.bincount(codes, minlength=k).double()[None]
    first = torch.stack([(codes == code).nonzero()[0, 0] for code in range(k)])[None]
    pool = torch.ops.pomona.pool_gradients_
    snap = torch.ops.pomona.snap_weights_

    def torch_means(values: torch.Tensor) -> torch.Tensor:
        index = codes.long()
        sums = torch.zeros(k).index_add_(0, index, values)
        return (sums / counts[0].float())[index]

    def torch_snap() -> None:
        weight.copy_(torch_means(weight))

    def torch_pool() -> None:
        gradient.copy_(torch_means(gradient))

    return {
        "lookup": (
            lambda: lookup(book, packed, (size,), bits=bits),
            lambda: book[codes.long()],
        ),
        "lookup into": (
            lambda: lookup(book, packed, (size,), bits=bits, out=out),
            lambda: torch.index_select(book, 0, codes.int(), out=out),
        ),
        "centroid_grad": (
            lambda: centroid_grad(gradient, packed, k, bits=bits),
            lambda: torch.zeros(k).index_add_(0, codes.long(), gradient),
        ),
        "pool_gradients_": (lambda: pool([gradient], [codes], [counts], [0], True), torch_pool),
        "snap_weights_": (lambda: snap([weight], [codes], [counts], [first], [0]), torch_snap),
    }


def main() -> None:
    """One row for each operation, size and width."""
    rows = []
    for layer, size in SIZES.items():
        for bits in BITS:
            for operation, (ours, theirs) in ways_of(size, bits).items():
                runs = FEW if size > 10_000_000 else 11
                seconds = in_turns({"pomona": ours, "torch": theirs}, runs)
                ns = {name: 1e9 * value / size for name, value in seconds.items()}
                rows.append(
                    [
                        *(operation, layer, bits),
                        *(f"{value:.2f}" for value in ns.values()),
                        f"{ns['torch'] / ns['pomona']:.1f}x",
                    ]
                )
                print(" ", *rows[-1], flush=True)
    columns = ["operation", "weights", "bits", "pomona ns", "torch ns", "over torch"]
    write_table("codebook", "Codebook operators, ns per weight", columns, rows)


if __name__ == "__main__":
    main()
