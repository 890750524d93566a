"""Cycles for a nonzero and bytes a second, rung by rung: from compressed rows to the tiles.

    python benchmarks/bench_ladder.py [--quick] [path of the program bench_ladder]

The program (benchmarks/bench_ladder.cpp; `make bench` builds it where Google Benchmark is)
multiplies two layers of EIE at batch 1 on one core in every layout, every arithmetic and every
instruction set that this machine has, x's preparation inside the call; its plain forms are the
reference and not made to be fast. Times are the least of seven repetitions. Cycles come from a
chain of products and sums that is timed beside (turbo and all); the roof is what the machine takes
to read as many bytes and add them up, from wherever they lie after a call: caches, or memory.

No goals of its own: docs/kernels.md explains what it shows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _matrices import LAYERS
from _measure import google_benchmark, write_table

SHOWN = ("Alex-7", "VGG-6")
COLUMNS = ["layer", "rung", "us", "cycles a nonzero", "bits a nonzero", "GB/s", "roof GB/s"]


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short, nothing written")
    parser.add_argument("program", type=Path, nargs="?", default=Path("build/bench_ladder"))
    arguments = parser.parse_args()
    words = [str(word) for name in SHOWN for word in (name, *LAYERS[name])]
    runs, compiler = google_benchmark(
        arguments.program, *words, repetitions=1 if arguments.quick else 7
    )
    times: dict[str, float] = {}
    facts: dict[str, dict[str, float]] = {}
    for run in sorted(runs, key=lambda run: run["family_index"]):  # in the order of the program
        name = str(run["run_name"])
        times[name] = min(times.get(name, float("inf")), float(run["real_time"]) * 1e-9)
        facts[name] = run
    clock = facts["clock"]["cycles"] / times["clock"]
    table = []
    for name, seconds in times.items():
        if not name.endswith("/multiply"):
            continue
        layer, rung, _ = name.split("/")
        fact, read = facts[name], times[f"{layer}/{rung}/read"]
        table.append([
            layer,
            rung,
            f"{seconds * 1e6:.0f}",
            f"{seconds * clock / fact['nonzeros']:.2f}",
            f"{8 * fact['bytes'] / fact['nonzeros']:.1f}",
            f"{fact['bytes'] / seconds / 1e9:.1f}",
            f"{fact['bytes'] / read / 1e9:.1f}",
        ])  # fmt: skip
    if arguments.quick:
        for row in (COLUMNS, *table):
            print(*row, sep="  ")
        return
    title = "Batch 1 on one core, rung by rung: cycles and bytes"
    write_table("ladder", title, COLUMNS, table, compiler=compiler, clock_hz=clock)


if __name__ == "__main__":
    main()
