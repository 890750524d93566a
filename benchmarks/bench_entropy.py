"""The entropy coders beside their rivals: runs bench_entropy and writes its table.

The program's path is the argument. All benchmarks are repeated in a random order within one
process; the least CPU time of each counts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from _measure import google_benchmark, machine, write_table

ORDER = ("huffman", "rans-avx512", "rans-avx2", "rans-portable", "zstd-huff0")
GENERAL = ("gzip-9", "xz-6", "zstd-19")  # encoded only


def rows(runs: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each source and coder: bits, entropy, and the best speeds."""
    best: dict[tuple[str, str, str], dict[str, float]] = {}
    for each in runs:
        verb, coder, source = str(each["run_name"]).split("/iterations")[0].split("/", 2)
        key = (source, coder, verb)
        if key not in best or each["items_per_second"] > best[key]["items_per_second"]:
            best[key] = each

    def speed(source: str, coder: str, verb: str) -> str:
        # The encoder of rANS has one form for all instruction sets.
        name = coder.split("-")[0] if verb == "encode" and coder.startswith("rans") else coder
        found = best.get((source, name, verb))
        return f"{found['items_per_second'] / 1e9:.3f}" if found else "-"

    table = []
    for source in sorted({key[0] for key in best}):
        for coder in (*ORDER, *GENERAL):
            verb = "encode" if coder in GENERAL else "decode"
            if (found := best.get((source, coder, verb))) is None:
                continue
            bits, entropy = (f"{found[name]:.3f}" for name in ("bits_per_symbol", "entropy"))
            speeds = [speed(source, coder, verb) for verb in ("encode", "decode")]
            table.append([source, coder, bits, entropy, *speeds])
    return table


def main() -> None:
    """Run and write."""
    if len(sys.argv) != 2:
        print("bench_entropy: Google Benchmark is not installed; nothing to run")
        return
    runs, compiler = google_benchmark(Path(sys.argv[1]), repetitions=5)
    columns = ["source", "coder", "bits", "entropy", "encode Gsymbol/s", "decode Gsymbol/s"]
    write_table(
        "entropy",
        "Entropy coders, one core, 16 million symbols in pieces of a million",
        columns,
        rows(runs),
        machine=machine().rsplit(",", 1)[0] + ", 1 thread, shared",
        compiler=compiler,
    )


if __name__ == "__main__":
    main()
