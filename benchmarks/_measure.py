"""What the Python benchmarks share: runs in turns, medians, and a dated table in results/."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_BEGAN = time.perf_counter()


def in_turns(functions: dict[str, Callable[[], object]], runs: int = 11) -> dict[str, float]:
    """The median seconds of each function; A and B run in turns, after two rounds to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(runs + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(row) for name, row in times.items()}


def google_benchmark(
    program: Path, *arguments: str, repetitions: int
) -> tuple[list[dict[str, Any]], str]:
    """Every repetition of every benchmark, as Google Benchmark tells it, and the compiler."""
    options = [
        f"--benchmark_repetitions={repetitions}",
        "--benchmark_enable_random_interleaving=true",
        "--benchmark_min_time=0.1",
        "--benchmark_format=json",
    ]
    command = [program, *options, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(result.stdout)
    runs = [each for each in told["benchmarks"] if each["run_type"] == "iteration"]
    return runs, told["context"]["compiler"]


def machine() -> str:
    """The processor's name and how many threads torch uses."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} thread(s)"


def commit() -> str:
    """The commit of the working tree; "unknown" outside of git."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def write_table(
    stem: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    **beside: object,
) -> None:
    """Print a table and write it to results/ as `tools/result_tables.py` reads it.

    ``beside`` goes into the file only: the values of every seed.
    """
    widths = [max(len(str(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)))
    date = datetime.date.today().isoformat()
    facts = {"title": title, "date": date, "machine": machine(), "commit": commit()}
    facts["minutes"] = f"{(time.perf_counter() - _BEGAN) / 60:.1f}"  # of the whole script
    facts["compiler"] = f"torch {torch.__version__}, {platform.python_compiler()}"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{date}-{stem}.json"
    content = {**facts, "columns": columns, "rows": rows, **beside}
    path.write_text(json.dumps(content, indent=1) + "\n")
