"""Batch 1 where x has zeros, as EIE has it: compressed columns beside every other layout.

    python benchmarks/bench_activations.py [--quick]

The six layers of EIE whose inputs come from a ReLU (Table III: 18 to 41 % of the activations are
not zero), Bernoulli patterns, 15 centroids, one thread; then the same layers with 5 % of x. As in
bench_spmv.py otherwise. "fastest" is the best of the others in float32; the last column says how
many times faster csc16 is, as a geometric mean (and the worst layer).
"""

from __future__ import annotations

import argparse

import torch
from _candidates import Times, measure, microseconds, ratio, with_best
from _matrices import LAYERS, bernoulli, with_values
from _measure import write_table
from _ours import OURS, ours

ACTIVATIONS = {  # EIE, Table III
    "Alex-6": 0.351,
    "Alex-7": 0.353,
    "Alex-8": 0.375,
    "VGG-6": 0.183,
    "VGG-7": 0.375,
    "VGG-8": 0.411,
}
FEW = 0.05
OTHERS = {"fastest": tuple(name for name in OURS if OURS[name][1] == "fp32" and name != "csc16")}


@torch.no_grad()
def measure_layer(layer: str, share: float, seconds: float) -> Times:
    """Our layouts."""
    mask = bernoulli(*LAYERS[layer])
    weight = with_values(mask)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, weight.shape[1], generator=generator)
    x *= torch.rand(x.shape, generator=generator) < share
    return with_best(measure(ours(lambda rounded: with_values(mask, rounded), x), seconds), OTHERS)


def main() -> None:
    """Both inputs; the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table: list[list[object]] = []
    for which, shares in (("EIE's", ACTIVATIONS), ("5 %", dict.fromkeys(ACTIVATIONS, FEW))):
        times = {
            layer: measure_layer(layer, share, 0.3 if arguments.quick else 3.0)
            for layer, share in shares.items()
        }
        for name in dict.fromkeys(name for layer in times.values() for name in layer):
            cells = [microseconds(layer, name) for layer in times.values()]
            table.append([which, name, *cells, ratio(times.values(), name, "csc16", "hot")])
            print(*table[-1], sep="  ", flush=True)
    columns = ["x", "layout", *ACTIVATIONS, "this / csc16"]
    if not arguments.quick:
        title = "Batch 1, microseconds where x has zeros, one thread"
        write_table("activations", title, columns, table)


if __name__ == "__main__":
    main()
