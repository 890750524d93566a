"""DSD beside its control, on few images: dense, LLR and DSD in one table.

    python examples/02_dsd.py [--data DIR] [--seeds 3] [--seconds 45]

LLR trains as long as DSD and with the same drops of the learning rate, but without a mask: what it
gains, it does not owe to the mask. Source: thesis ch. 5; ICLR 2017.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads sleep: kind to a busy machine

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from data import DataError, Dataset, first_of
from measure import table
from models import LeNet300100
from training_loop import batches, error_percent, train_step

import pomona

SPARSITY = 0.3  # the paper's, for VGG-16, ResNet-18 and ResNet-50
IMAGES = 5000


def main() -> None:
    """Train with both schedules for every seed and print the table."""
    arguments = parse_arguments()
    began = time.perf_counter()
    dataset = first_of(arguments.datasets, arguments.data)
    dataset = replace(
        dataset,
        train_images=dataset.train_images[:IMAGES],
        train_labels=dataset.train_labels[:IMAGES],
    )
    columns: dict[str, list[float]] = {"dense": [], "LLR": [], "DSD": []}
    for seed in range(arguments.seeds):
        if seed and (time.perf_counter() - began) * (seed + 1) / seed > arguments.seconds:
            print(f"  {arguments.seconds:.0f} s are over: no more seeds")
            break
        dense, llr = train(dataset, arguments.epochs, seed, masks=False)
        _, dsd = train(dataset, arguments.epochs, seed, masks=True)
        for name, error in zip(columns, (dense, llr, dsd), strict=True):
            columns[name].append(error)
        print(f"  seed {seed}: dense {dense:.2f}, LLR {llr:.2f}, DSD {dsd:.2f} % error", flush=True)
    print_table(columns, dataset, arguments.epochs)
    print(f"{time.perf_counter() - began:.0f} seconds in all")


def train(dataset: Dataset, epochs: list[int], seed: int, *, masks: bool) -> tuple[float, float]:
    """All three phases -> the error in percent after the first one and after the last one."""
    torch.manual_seed(seed)
    model = LeNet300100()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    dsd = pomona.DSD(model, {"*": SPARSITY}, epochs=tuple(epochs), optimizer=optimizer, masks=masks)
    dense_error = 100.0
    generator = torch.Generator().manual_seed(seed)
    dense_error = 100.0
    for epoch in dsd:
        for inputs, labels in batches(dataset, generator=generator):
            train_step(model, optimizer, inputs, labels)
        if epoch + 1 == epochs[0]:
            dense_error = error_percent(model, dataset)
        dsd.step()  # at the end of a phase: masks set or dropped, the learning rate divided by ten
    return dense_error, error_percent(model, dataset)


def print_table(columns: dict[str, list[float]], dataset: Dataset, epochs: list[int]) -> None:
    """Means over the seeds, and the paired differences that say what the mask adds."""
    count = len(columns["DSD"])
    rows = [
        [name, f"{statistics.mean(errors):.2f}", *[f"{error:.2f}" for error in errors]]
        for name, errors in columns.items()
    ]
    print("\n" + table(["error %", "mean", *[f"seed {i}" for i in range(count)]], rows) + "\n")
    seeds = "1 seed" if count == 1 else f"{count} seeds"
    differences = [d - c for d, c in zip(columns["DSD"], columns["LLR"], strict=True)]
    wins = sum(difference < 0 for difference in differences)
    spread = f" +- {statistics.stdev(differences) / count**0.5:.2f}" if count > 1 else ""
    print(
        f"DSD - LLR: {statistics.mean(differences):+.2f}{spread} points over {seeds}; "
        f"DSD is lower in {wins}.\nLLR - dense is what the drops of the learning rate do."
    )
    print(
        f"LeNet-300-100, {len(dataset.train_labels):,} images of {dataset.name}, "
        f"{len(dataset.test_labels):,} to test, {' + '.join(map(str, epochs))} epochs, "
        f"{100 * SPARSITY:.0f} % masked in the second phase, Adam."
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the images are")
    parser.add_argument(
        "--datasets",
        nargs="+",
        metavar="NAME",
        default=["fashion-mnist", "mnist", "digits"],
        help="the first of these that is found is taken (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=int, nargs=3, metavar=("DENSE", "SPARSE", "REDENSE"), default=[20, 10, 10]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=45.0, help="starts no seed that would end later"
    )
    arguments = parser.parse_args()
    if min(arguments.epochs) < 1 or arguments.seeds < 1:
        parser.error("expected --epochs and --seeds of at least 1")
    return arguments


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        raise SystemExit(f"{error}") from None
