"""lookup and centroid_grad beside what plain torch offers: ns per weight, on the CPU.

    python benchmarks/bench_codebook.py [--json FILE]

Layers are those of the thesis (Table 6.1 and LeNet). A and B run in turns in one process; the time
is the median. One thread, unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from pomona import _C
from pomona.quantize import centroid_grad, lookup

LAYERS = {"LeNet-300 fc1": (300, 784), "NT-LSTM": (2400, 1201), "Alex-8": (1000, 4096)}
RUNS = 15


def in_turns(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median seconds of each function, run one after the other RUNS times."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(RUNS + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(row) for name, row in times.items()}


def measure(shape: tuple[int, int], bits: int) -> dict[str, dict[str, float]]:
    """Seconds of each way, by operation."""
    k = 2**bits
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, k, shape, dtype=torch.uint8, generator=generator)
    packed = _C.pack_bits(codes, bits)
    book, grad = torch.randn(k), torch.randn(shape)
    indices = codes.flatten().long()  # torch indexes by int64: eight bytes a weight
    assert torch.equal(lookup(book, packed, shape, bits=bits).flatten(), book[indices])
    forward = {
        "pomona": lambda: lookup(book, packed, shape, bits=bits),
        "codebook[int64 codes]": lambda: book[indices],
        "codebook[codes.long()]": lambda: book[codes.long()],
    }
    flat = grad.flatten()
    backward = {
        "pomona": lambda: centroid_grad(grad, packed, k, bits=bits),
        "index_add_": lambda: torch.zeros(k).index_add_(0, indices, flat),
        "bincount": lambda: torch.bincount(indices, weights=flat, minlength=k),
    }
    return {"lookup": in_turns(forward), "centroid_grad": in_turns(backward)}


def main() -> None:
    """Print one line for each operation, layer and width; write them as JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    arguments = parser.parse_args()
    rows = []
    for layer, shape in LAYERS.items():
        for bits in (4, 8):
            for operation, seconds in measure(shape, bits).items():
                weights = shape[0] * shape[1]
                ns = {name: 1e9 * value / weights for name, value in seconds.items()}
                rows.append({"name": f"{operation}/cpu/{layer}/bits:{bits}", "ns_per_weight": ns})
                words = ", ".join(f"{name} {value:.2f}" for name, value in ns.items())
                print(f"{rows[-1]['name']:48} {words} ns/weight")
    if arguments.json:
        facts = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
