"""Batch 1 in the shapes of language models, hardly pruned: where do positions cost more than zeros?

    python benchmarks/bench_language_model.py [--quick] [--threads 1 2]

4096 x 4096 and 11008 x 4096 at 20, 30 and 50 % density, 15 centroids, measured as in bench_spmv.py,
beside torch float32 and bfloat16, ONNX Runtime's 4-bit MatMulNBits (x in int8, or in float32) and
our dense 4-bit table (`lut`). "dispatch" is the layout that a file's layer is packed in here;
"fastest" what `pack_` would keep, for it measures (dense where that wins).
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from _candidates import Times, check, measure, microseconds
from _matrices import LANGUAGE_MODEL, bernoulli, with_values
from _measure import write_table
from _ours import OURS, ours, skipped
from _rivals import FROZEN, rivals, versions

from pomona import _C

RIVALS = (
    "torch linear",
    "torch bf16",
    "onnxruntime 4-bit",
    "onnxruntime 4-bit, x fp32",
    "stream",
    FROZEN,
)
SECONDS, QUICK_SECONDS = 4.0, 0.3


@torch.no_grad()
def measure_shape(shape: str, threads: int, seconds: float) -> tuple[Times, str]:
    """The times, and the layout that a layer is given when nothing is measured."""
    torch.set_num_threads(threads)
    mask = bernoulli(*LANGUAGE_MODEL[shape])
    weight = with_values(mask)
    x = torch.rand(1, weight.shape[1], generator=torch.Generator().manual_seed(1))
    others = {n: c for n, c in rivals(weight, x, threads).items() if n in RIVALS}
    check(others, weight, x)
    candidates = {**others, **ours(lambda bfloat16: with_values(mask, bfloat16), x)}
    return measure(candidates, seconds), _C.layouts_for(weight, "weight", "fp32")[0]


def fastest(times: Times) -> str:
    """Of dense float32 and our layouts that keep it."""
    kept = [
        n
        for n in times
        if n == "torch linear" or OURS.get(n, ("", "", True))[1:] == ("fp32", False)
    ]
    best = min(kept, key=lambda name: times[name].hot)
    return "dense" if best == "torch linear" else best


def main() -> None:
    """Every shape with every number of threads; the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short, nothing written")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    arguments = parser.parse_args()
    told = {**versions(), **skipped()}
    print(*(f"{name}: {text}" for name, text in told.items()), sep="\n", flush=True)
    found: dict[tuple[int, str], tuple[Times, str]] = {}
    for threads in arguments.threads:
        for shape in LANGUAGE_MODEL:
            seconds = QUICK_SECONDS if arguments.quick else SECONDS
            times, _ = found[threads, shape] = measure_shape(shape, threads, seconds)
            print(threads, shape, {n: microseconds(times, n) for n in times}, flush=True)
    names = list(dict.fromkeys(name for times, _ in found.values() for name in times))
    columns = ["threads", "shape, density", *names, "dispatch", "fastest"]
    table = [
        [threads, shape, *(microseconds(times, n) for n in names), dispatch, fastest(times)]
        for (threads, shape), (times, dispatch) in found.items()
    ]
    if arguments.quick:
        for row in (columns, *table):
            print(*row, sep="  ")
        return
    title = "Batch 1, microseconds: shapes of language models"
    write_table("language_model", title, columns, table, versions=told)


if __name__ == "__main__":
    main()
