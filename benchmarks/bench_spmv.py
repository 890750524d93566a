"""Batch 1 on compressed weights: packed_linear in every layout beside everything else that runs.

    python benchmarks/bench_spmv.py [--quick] [--threads 1 2] [--layers Alex-6 ...]

The nine layers of EIE (Table III), Bernoulli patterns, 15 centroids. All candidates of a layer run
in turns in one process; a time is the least of many by the wall clock, x's preparation or
quantization inside the call, and one below bytes / 200 GB/s is thrown away as a broken clock. Cold
is after 96 MB have been written, the third best of nine.

Rivals: torch's dense layer in float32 (linear, mv) and bfloat16 and its dynamic int8; ONNX Runtime
in float32, int8 and 4 bits (`pip install -r requirements/bench.txt`); a streaming sgemv;
torch.sparse and scipy CSR; the first prototype's pg32, frozen (AVX-512); and our `lut`, the dense
4-bit table. What is not installed or has no instructions here is left out, and said. Ratios are
geometric means over the layers of rival / ours, the worst layer in brackets. Packed layers are
called as a user calls them, through Python's modules and torch's dispatcher; the rivals in C++ are
called directly.

Goals, one thread, with AVX-512: against the frozen pg32: fp32 1.2, bf16 codebook 1.6, bf16 x 2.2,
fixed16 2.1, int8 3.2; against the best dense fp32: 14.5, 19.5, 27, 26, 39, cold fp32 13.5; bf16
codebook against torch bf16 8; int8 against the best dense int8 6.5.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from _candidates import Times, check, measure, microseconds, ratio, with_best
from _matrices import LAYERS, bernoulli, with_values
from _measure import write_table
from _ours import OURS, ours, skipped
from _rivals import BEST, rivals, versions

SECONDS, QUICK_SECONDS = 5.0, 0.3


@torch.no_grad()
def measure_layer(layer: str, threads: int, seconds: float) -> Times:
    """Every candidate of a layer."""
    torch.set_num_threads(threads)
    mask = bernoulli(*LAYERS[layer])
    weight = with_values(mask)
    x = torch.rand(1, weight.shape[1], generator=torch.Generator().manual_seed(1))
    others = rivals(weight, x, threads)
    check(others, weight, x)
    candidates = {**others, **ours(lambda bfloat16: with_values(mask, bfloat16), x)}
    return with_best(measure(candidates, seconds), BEST)


def ratios(threads: int, times: dict[str, Times]) -> list[list[object]]:
    """Our layouts against every rival, hot; those in fp32 cold as well."""
    names = dict.fromkeys(name for layer in times.values() for name in layer)
    rows: list[list[object]] = []
    for name in (name for name in names if name in OURS):
        for which in ("hot", "cold") if OURS[name][1] == "fp32" else ("hot",):
            cells = [ratio(times.values(), rival, name, which) for rival in rivals_of(names)]
            rows.append([threads, name, which, *cells])
    return rows


def rivals_of(names: dict[str, None]) -> list[str]:
    """The columns of the ratios; `lut` is ours and, as the dense table, a rival."""
    return [name for name in names if name not in OURS] + ["lut", "lut int8"]


def main() -> None:
    """Every layer with every number of threads; the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short, nothing written")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    arguments = parser.parse_args()
    told = {**versions(), **skipped()}
    print(*(f"{name}: {text}" for name, text in told.items()), sep="\n", flush=True)
    table, cold, compared = [], [], []
    for threads in arguments.threads:
        times = {}
        for layer in arguments.layers:
            seconds = QUICK_SECONDS if arguments.quick else SECONDS
            times[layer] = measure_layer(layer, threads, seconds)
            print(
                threads, layer, {n: microseconds(times[layer], n) for n in times[layer]}, flush=True
            )
        names = dict.fromkeys(name for layer in times.values() for name in layer)
        for name in names:
            table.append([threads, name, *(microseconds(t, name) for t in times.values())])
            cold.append([threads, name, *(microseconds(t, name, "cold") for t in times.values())])
        compared += ratios(threads, times)
    columns = ["threads", "candidate", *arguments.layers]
    compared_columns = ["threads", "layout", "weights", *rivals_of(names)]
    if arguments.quick or arguments.layers != list(LAYERS):
        for row in (columns, *table, compared_columns, *compared):
            print(*row, sep="  ")
        return
    title = "Batch 1, microseconds: the nine layers of EIE"
    write_table("spmv", title, columns, table, cold=cold, versions=told)
    title = "Batch 1, times faster than each rival (worst layer): the nine layers of EIE"
    write_table("spmv_ratios", title, compared_columns, compared, versions=told)


if __name__ == "__main__":
    main()
