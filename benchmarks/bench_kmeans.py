"""1-D k-means: seconds, memory and how far above the optimum, beside scikit-learn and kmeans1d.

    python benchmarks/bench_kmeans.py [--large]

Each fit runs in a process of its own on two threads; memory is what the process grew by during
the fit. scikit-learn runs Lloyd's algorithm from the thesis's linear initialization. Rivals that
are not installed, or would take minutes, are left out. --large adds 100 million values.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from _measure import write_table

import pomona

# name -> values, dtype, k; normal, as weights are
CASES = {
    "1M float32": (1_000_000, torch.float32, (16, 256)),
    "4096x4096 bfloat16": (4096 * 4096, torch.bfloat16, (16, 256)),
}
LARGE = {"100M float32": (100_000_000, torch.float32, (16, 256))}
RIVAL_STEPS = 20_000_000  # n * k that kmeans1d may take: 0.7 us each


def values_of(size: int, dtype: torch.dtype) -> torch.Tensor:
    """The same in every process."""
    return (0.02 * torch.randn(size, generator=torch.Generator().manual_seed(0))).to(dtype)


def exact(values: torch.Tensor, k: int) -> torch.Tensor:
    return pomona.quantize.fit_codebook(values, k)


def lloyd(values: torch.Tensor, k: int) -> torch.Tensor:
    return pomona.quantize.fit_codebook(values, k, fit="linear")


def scikit_learn(values: torch.Tensor, k: int) -> torch.Tensor:
    from sklearn.cluster import KMeans

    warnings.simplefilter("ignore")
    start = torch.linspace(float(values.min()), float(values.max()), k)[:, None].numpy()
    found = KMeans(k, init=start, n_init=1, max_iter=300).fit(values.float()[:, None].numpy())
    return torch.from_numpy(found.cluster_centers_)[:, 0].float().sort().values


def kmeans1d(values: torch.Tensor, k: int) -> torch.Tensor:
    from kmeans1d import cluster

    return torch.tensor(cluster(values.float().numpy(), k).centroids)


def objective(values: torch.Tensor, centroids: torch.Tensor) -> float:
    """The sum of (v - nearest centroid)^2, in double."""
    centroids = centroids.double().sort().values
    middles = (centroids[1:] + centroids[:-1]) / 2
    total = 0.0
    for part in values.split(1 << 22):
        wide = part.double()
        total += float((wide - centroids[torch.bucketize(wide, middles)]).square().sum())
    return total


def peak_kilobytes(reset: bool = False) -> int:
    """The most memory that this process held, since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def measure(
    fit: Callable[[torch.Tensor, int], torch.Tensor], size: int, dtype: torch.dtype, k: int
) -> tuple[float, float, float]:
    """(seconds, MB, objective), of a process of its own."""
    torch.set_num_threads(2)
    values = values_of(size, dtype)
    fit(values[:5000], 4)  # libraries load, threads start
    before = peak_kilobytes(reset=True)
    began = time.perf_counter()
    centroids = fit(values, k)
    seconds = time.perf_counter() - began
    grown = peak_kilobytes() - before
    return seconds, grown / 1024, objective(values, centroids)


def main() -> None:
    """One row for each case, number of centroids and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="100 million values as well")
    cases = CASES | (LARGE if parser.parse_args().large else {})
    rows = []
    for name, (size, dtype, ks) in cases.items():
        for k in ks:
            ways = {"exact": exact}
            if size <= 1_000_000:
                ways["Lloyd, linear"] = lloyd
                if find_spec("sklearn"):
                    ways["scikit-learn"] = scikit_learn
                if find_spec("kmeans1d") and size * k <= RIVAL_STEPS:
                    ways["kmeans1d"] = kmeans1d
            optimum = 0.0
            for way, fit in ways.items():
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    seconds, memory, cost = pool.apply(measure, (fit, size, dtype, k))
                optimum = optimum or cost
                above = f"{100 * (cost / optimum - 1):.4f} %"
                rows.append([name, k, way, f"{seconds:.3f}", f"{memory:.0f}", above])
                print(" ", *rows[-1], flush=True)
    columns = ["values", "k", "way", "seconds", "MB", "above the exact fit"]
    write_table("kmeans", "1-D k-means, two threads", columns, rows)


if __name__ == "__main__":
    main()
