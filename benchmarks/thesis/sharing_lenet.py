"""Shared weights on the pruned LeNets (thesis §4.3-4.4; Deep Compression, Tables 1 and 6, Fig. 8).

    python benchmarks/thesis/sharing_lenet.py [--seeds 3] [--jobs N] [--quick]

The networks of pruning_lenet.py, three seeds, 12x pruned, then shared: LeNet-300-100 with 6 bits,
LeNet-5 with 8 (conv) and 5 (fc), and with 2, 3 and 4 bits everywhere; by Lloyd's algorithm from the
thesis's three initializations and by the exact optimum; before and after the centroids are trained
(Adam 3e-4, two epochs, codes fixed). "entropy" is what an ideal coder takes for the code of a kept
weight. The first table compares the fits on images as they are; the second holds the bars of Deep
Compression's Table 1 (and goals of our own for moved images).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from _measure import write_table  # noqa: E402
from data import Dataset  # noqa: E402
from models import LeNet5  # noqa: E402
from paired import mean_and_deviation  # noqa: E402
from pruning_lenet import RECIPES, Recipe, dense_and_pruned  # noqa: E402
from training_loop import HAS_FAST_BFLOAT16, error_percent, fit  # noqa: E402

import pomona  # noqa: E402

FITS = ("linear", "density", "forgy", "exact")
FEW_BITS = (2, 3, 4)
TABLE_BITS = {"LeNet-300-100": {"*": 6}, "LeNet-5": {"conv*": 8, "*": 5}}
BARS = {  # error in percent: Deep Compression's Table 1; ours where images are moved
    ("LeNet-300-100", "as they are"): 1.58,
    ("LeNet-300-100", "moved by 1 pixel"): 1.15,
    ("LeNet-5", "as they are"): 0.74,
    ("LeNet-5", "moved by 2 pixels"): 0.70,
}
EPOCHS, LR = 2, 3e-4

Found = dict[str, float]


def shared(model: torch.nn.Module, rules: dict[str, int], how: str) -> tuple[pomona.Sharer, Found]:
    """The model shared, and the entropy of its codes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    share = {pattern: pomona.Share(bits, fit=how) for pattern, bits in rules.items()}
    sharer = pomona.Sharer(model, share, optimizer=optimizer)
    sharer.step()
    report = sharer.report()
    kept = sum(row.kept for row in report)
    entropy = sum(row.entropy * row.kept for row in report) / kept
    return sharer, {"entropy": entropy}


def one(
    model: torch.nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    rules: dict[str, int],
    how: str,
    epochs: int,
) -> Found:
    """Share a copy, measure it, train its centroids, measure again."""
    copy = deepcopy(model)
    for module in copy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # a few hundred centroids do not overfit
    sharer, found = shared(copy, rules, how)
    found["before"] = error_percent(copy, dataset)
    fit(
        copy,
        sharer._optimizers[0],
        dataset,
        epochs=epochs,
        lr=LR,
        shift=recipe.shift,
        seed=7,
        bfloat16=HAS_FAST_BFLOAT16 and isinstance(model, LeNet5),
    )
    found["after"] = error_percent(copy, dataset)
    sharer.step()  # raises if a weight has left its codebook
    return found


def run(recipe: Recipe, seed: int, quick: bool) -> dict[tuple[str, str], Found]:
    """(bits, fit) -> what was found, for one seed."""
    began = time.perf_counter()
    model, dataset, errors = dense_and_pruned(recipe, seed, tune=False, quick=quick)
    table = TABLE_BITS[recipe.network]
    cases = {("table", how): table for how in FITS}
    if recipe.shift == 0:
        cases |= {(str(bits), how): {"*": bits} for bits in FEW_BITS for how in FITS}
    found = {("pruned", ""): errors}
    for (bits, how), rules in cases.items():
        found[bits, how] = one(model, dataset, recipe, rules, how, 1 if quick else EPOCHS)
    seconds = time.perf_counter() - began
    best = found["table", "exact"]
    print(
        f"  {recipe.network}, {recipe.protocol}, seed {seed}: pruned {errors['pruned']:.2f}, "
        f"shared {best['before']:.2f}, trained {best['after']:.2f} % error, {seconds:.0f} s",
        flush=True,
    )
    return found


def words(network: str, bits: str) -> str:
    """The bits of a row."""
    if bits != "table":
        return bits
    return "6" if network == "LeNet-300-100" else "8 conv, 5 fc"


def fit_rows(recipe: Recipe, runs: Sequence[dict[tuple[str, str], Found]]) -> list[list[object]]:
    """One row for each number of bits and fit."""
    rows = []
    for bits in (*map(str, FEW_BITS), "table"):
        for how in FITS:
            found = [run[bits, how] for run in runs]
            entropy = statistics.mean(f["entropy"] for f in found)
            errors = [mean_and_deviation([f[key] for f in found]) for key in ("before", "after")]
            name = words(recipe.network, bits)
            rows.append([recipe.network, name, how, f"{entropy:.2f}", *errors])
    return rows


def bar_row(recipe: Recipe, runs: Sequence[dict[tuple[str, str], Found]]) -> list[object]:
    """Pruned, shared and trained, beside the bar."""
    bar = BARS[recipe.network, recipe.protocol]
    best = [run["table", "linear"] for run in runs]
    exact = [run["table", "exact"] for run in runs]
    means = [statistics.mean(f["after"] for f in found) for found in (best, exact)]
    return [
        *(recipe.network, recipe.protocol, words(recipe.network, "table"), len(runs)),
        mean_and_deviation([run["pruned", ""]["pruned"] for run in runs]),
        *(mean_and_deviation([f["after"] for f in found]) for found in (best, exact)),
        f"{bar:.2f}",
        {2: "both met", 1: "one met", 0: "missed"}[sum(mean <= bar for mean in means)],
    ]


def main() -> None:
    """Every seed of every network, and the two tables."""
    arguments = parse_arguments()
    recipes = [r for r in RECIPES if arguments.only in f"{r.network}, {r.protocol}"]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        waiting = [
            [pool.submit(run, recipe, seed, arguments.quick) for seed in range(arguments.seeds)]
            for recipe in reversed(recipes)  # the longest first
        ]
        runs = [[future.result() for future in futures] for futures in waiting][::-1]
    fits = [row for r, found in zip(recipes, runs, strict=True) if not r.shift
            for row in fit_rows(r, found)]  # fmt: skip
    bars = [bar_row(recipe, found) for recipe, found in zip(recipes, runs, strict=True)]
    fit_columns = ["network", "bits", "fit", "entropy", "shared %", "trained %"]
    bar_columns = ["network", "images", "bits", "seeds", "pruned %", "linear, trained %"]
    bar_columns += ["exact, trained %", "bar", "bars"]
    if arguments.quick or arguments.only:
        print(fit_columns, *fits, bar_columns, *bars, sep="\n")
        return
    write_table("sharing_fits", "Shared 12x pruned LeNets: fits", fit_columns, fits)
    write_table("sharing_lenet", "Pruned and shared, MNIST", bar_columns, bars)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", help='rows that hold this, such as "LeNet-5, as"')
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
