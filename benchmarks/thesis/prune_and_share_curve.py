"""Error against compressed size: pruning, sharing, both (thesis Fig. 4.7; ICLR'16 Fig. 6).

    python benchmarks/thesis/prune_and_share_curve.py [--quick]

One LeNet-300-100 on MNIST, trained once. Each point starts from it: prune every layer alike and
retrain (five epochs), share by the exact optimum and train the centroids (two epochs), or both one
after the other. The size is that of the .pomona file, everything in it counted, beside the 1,066 kB
of the dense weights. A CSV and a PNG go to results/.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import csv
import datetime
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from _measure import RESULTS, write_table  # noqa: E402
from data import Dataset, load  # noqa: E402
from held_out import split  # noqa: E402
from models import LeNet300100  # noqa: E402
from training_loop import error_percent, fit  # noqa: E402

import pomona  # noqa: E402

# (sparsity, bits): 0 is not pruned, 32 is not shared.
PRUNED = [(s, 32) for s in (0.5, 0.8, 0.9, 0.94, 0.96, 0.975, 0.985, 0.99)]
SHARED = [(0.0, bits) for bits in (8, 6, 4, 3, 2, 1)]
BOTH = [(s, bits) for s in (0.8, 0.9, 0.94, 0.96, 0.975, 0.985) for bits in (5, 3, 2)]
WAYS = {"pruning": PRUNED, "sharing": SHARED, "pruning and sharing": BOTH}


@dataclass(frozen=True)
class Point:
    """What one point costs and gives."""

    way: str
    sparsity: float
    bits: int
    size: int  # bytes of the file
    error: float  # percent


def train(model: torch.nn.Module, dataset: Dataset, optimizer, epochs: int, lr: float) -> None:
    """With a warm-up and a cosine to 0, images as they are."""
    fit(model, optimizer, dataset, epochs=epochs, lr=lr, shift=0, seed=1, bfloat16=False)


def sgd(model: torch.nn.Module, decay: float) -> torch.optim.Optimizer:
    """The optimizer of the dense and the pruned network."""
    return torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=decay
    )


def point(dense: torch.nn.Module, dataset: Dataset, way: str, sparsity: float, bits: int) -> Point:
    """One point, from the dense network on."""
    torch.set_num_threads(1)
    model = deepcopy(dense)
    if sparsity:
        optimizer = sgd(model, 1e-4)
        pruner = pomona.Pruner(model, {"*": sparsity}, optimizer=optimizer)
        pruner.step()
        train(model, dataset, optimizer, 5, 0.05)
        pruner.finalize()
    if bits < 32:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
        sharer = pomona.Sharer(model, {"*": bits}, optimizer=optimizer)
        sharer.step()
        train(model, dataset, optimizer, 2, 3e-4)
        sharer.finalize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.pomona"
        pomona.save(model, path)
        size = path.stat().st_size
    return Point(way, sparsity, bits, size, error_percent(model, dataset))


def draw(points: list[Point], dense: float, size: int, path: Path) -> None:
    """Error over the share of the dense size; a line joins the best errors up to each size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axhline(dense, color="0.25", linestyle="--", linewidth=1.2, label=f"dense: {dense:.2f} %")
    for index, way in enumerate(WAYS):
        own = sorted((p for p in points if p.way == way), key=lambda p: p.size)
        best, edge = float("inf"), []
        for p in own:
            if p.error < best:
                best = p.error
                edge.append(p)
        color = f"C{index}"
        axes.plot(
            [100 * p.size / size for p in edge], [p.error for p in edge], color=color, label=way
        )
        axes.scatter([100 * p.size / size for p in own], [p.error for p in own], s=12, color=color)
    axes.set_xscale("log")
    axes.set_ylim(0.9 * dense, 4 * dense)
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
    axes.set_xlabel("size of the file, % of the dense weights")
    axes.set_ylabel("test error %")
    axes.set_title("LeNet-300-100: each alone, and both", loc="left", fontsize=12)
    axes.grid(color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, format="png")


def smallest(points: list[Point], way: str, most: float) -> str:
    """The smallest file of a way whose error is at most so much."""
    good = [p for p in points if p.way == way and p.error <= most]
    if not good:
        return "none"
    best = min(good, key=lambda p: p.size)
    bits = "" if best.bits == 32 else f", {best.bits} bits"
    return f"{best.size / 1000:.1f} kB ({best.error:.2f} %; {best.sparsity:.1%} zeros{bits})"


def main() -> None:
    """All points, the table, the CSV and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = split(load("mnist"), False, arguments.quick)
    model = LeNet300100()
    train(model, dataset, sgd(model, 5e-4), 1 if arguments.quick else 20, 0.1)
    dense = error_percent(model, dataset)
    size = 4 * sum(p.numel() for p in model.parameters())
    with ProcessPoolExecutor(arguments.jobs) as pool:
        waiting = [
            pool.submit(point, model, dataset, way, *setting)
            for way, settings in WAYS.items()
            for setting in (settings[:2] if arguments.quick else settings)
        ]
        points = [future.result() for future in waiting]
    for p in points:
        print(f"  {p.way}: {p.sparsity:.3f}, {p.bits} bits: {p.size:,} B, {p.error:.2f} %")
    limits = [dense + more for more in (0.1, 0.5)]
    rows = [[way, *(smallest(points, way, most) for most in limits)] for way in WAYS]
    columns = ["way", *(f"smallest file at most {most:.2f} % error" for most in limits)]
    if arguments.quick:
        print(columns, *rows, sep="\n")
        return
    stem = f"{datetime.date.today().isoformat()}-prune_and_share_curve"
    with (RESULTS / f"{stem}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["way", "sparsity", "bits", "bytes", "error %"])
        writer.writerows([p.way, p.sparsity, p.bits, p.size, f"{p.error:.2f}"] for p in points)
    draw(points, dense, size, RESULTS / f"{stem}.png")
    title = f"LeNet-300-100 ({size / 1000:,.0f} kB, {dense:.2f} % error): pruning, sharing, both"
    write_table("prune_and_share_curve", title, columns, rows)


if __name__ == "__main__":
    main()
