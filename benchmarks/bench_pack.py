"""Packing: nonzeros a second on a core, and from AlexNet's file to its first output.

    python benchmarks/bench_pack.py [--quick] [path of the program bench_pack]

The program (benchmarks/bench_pack.cpp; `make bench` builds it where Google Benchmark is) packs the
nine layers of EIE and the shapes of language models from a `Weight`, in every layout, for best and
quickly (one view, each nonzero to the next slot); the least CPU time of three counts.
Without the program only the second table is made.

The second: AlexNet's three fully-connected layers (9, 9, 25 % of the weights, 15 values) are saved
once; then a model on the meta device is loaded with `pomona.load_packed_` and gives its first
output, without a cache and from the cache that the first start left; beside `pomona.load_`, dense.
The least of five, the file in the page cache.

Goals: 15 million nonzeros a second on a core packed for best, 50 million quickly; from file to
first output 0.5 s on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _matrices import LANGUAGE_MODEL, LAYERS, bernoulli, with_values
from _measure import google_benchmark, write_table
from torch import nn

import pomona

ALEXNET = ("Alex-6", "Alex-7", "Alex-8")
GOAL_SECONDS = "0.5"


def packing(program: Path, quick: bool) -> None:
    """The first table."""
    shapes = {**LAYERS, **LANGUAGE_MODEL}
    if quick:
        shapes = {name: shapes[name] for name in ("Alex-7", "NT-We")}
    words = [str(word) for name, shape in shapes.items() for word in (name, *shape)]
    runs, compiler = google_benchmark(program, *words, repetitions=1 if quick else 3)
    best: dict[str, dict[str, float]] = {name: {} for name in shapes}
    bits: dict[str, dict[str, float]] = {name: {} for name in shapes}
    for run in sorted(runs, key=lambda run: run["family_index"]):  # in the order of the program
        name, way = str(run["run_name"]).split("/")[:2]
        best[name][way] = max(best[name].get(way, 0.0), run["items_per_second"])
        bits[name][way] = run["bits_per_nonzero"]
    ways = list(best[next(iter(shapes))])
    columns = ["layer", *ways]
    table = [[name, *(f"{row[way] / 1e6:.1f}" for way in ways)] for name, row in best.items()]
    table.append(["least", *(f"{min(row[w] for row in best.values()) / 1e6:.1f}" for w in ways)])
    if quick:
        for row in (columns, *table):
            print(*row, sep="  ")
        return
    title = "Packing, million nonzeros a second on one core"
    write_table("pack", title, columns, table, compiler=compiler, bits_per_nonzero=bits)


def alexnet() -> nn.Sequential:
    """Its fully-connected layers, without data."""
    with torch.device("meta"):
        layers = [nn.Linear(LAYERS[name][1], LAYERS[name][0]) for name in ALEXNET]
        return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def save(path: Path) -> float:
    """The file, and its size in MB."""
    model = alexnet().to_empty(device="cpu")
    for layer, name in zip((m for m in model if isinstance(m, nn.Linear)), ALEXNET, strict=True):
        with torch.no_grad():
            layer.weight.copy_(with_values(bernoulli(*LAYERS[name])))
            layer.bias.zero_()
    pomona.save(model, path)
    return path.stat().st_size / 1e6


@torch.no_grad()
def first_output(load: Callable[[nn.Module], object], model: nn.Module, x: torch.Tensor) -> float:
    """Seconds from the file to y."""
    begin = time.perf_counter()
    load(model)
    model(x)
    return time.perf_counter() - begin


def starting(quick: bool) -> None:
    """The second table."""
    table = []
    x = torch.rand(1, LAYERS["Alex-6"][1])
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "alexnet.pomona", Path(folder) / "alexnet.packed"
        megabytes = f"{save(path):.2f}"

        def packed(model: nn.Module, **options: object) -> None:
            pomona.load_packed_(model, path, **options)

        ways: dict[str, Callable[[nn.Module], object]] = {
            "load_packed_": packed,
            "load_packed_ that writes a cache": lambda m: packed(m, cache=cache),
            "load_packed_ from the cache": lambda m: packed(m, cache=cache),
            "load_, dense": lambda m: pomona.load_(m, path),
        }
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for way, load in ways.items():
                taken = []
                for _ in range(1 if quick else 5):
                    if "writes" in way:
                        cache.unlink(missing_ok=True)
                    model = alexnet()
                    if "dense" in way:
                        model = model.to_empty(device="cpu")
                    taken.append(first_output(load, model, x))
                row = [threads, way, megabytes, f"{min(taken):.3f}"]
                table.append([*row, GOAL_SECONDS if "dense" not in way else "-"])
                print(*table[-1], sep="  ", flush=True)
    columns = ["threads", "start", "MB of the file", "seconds to the first output", "goal"]
    if not quick:
        title = "AlexNet's fully-connected layers from the file to the first output"
        write_table("first_output", title, columns, table)


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?", type=Path, help="the program bench_pack")
    parser.add_argument("--quick", action="store_true", help="short, nothing written")
    arguments = parser.parse_args()
    if arguments.program is None:
        print("bench_pack: the program is not given (no Google Benchmark?); no packing speeds")
    else:
        packing(arguments.program, arguments.quick)
    starting(arguments.quick)


if __name__ == "__main__":
    main()
