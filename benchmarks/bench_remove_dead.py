"""LeNet-5 pruned 12x, with and without its dead neurons: a training step on one thread.

    python benchmarks/bench_remove_dead.py [--seconds 60]

The network is that of examples/04_sensitivity.py, pruned at once and retrained: weight by weight to
the densities of NIPS'15 Table 3, and whole neurons to the same total.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import copy
import importlib
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from _measure import in_turns, write_table
from data import Dataset, first_of
from training_loop import BATCH, error_percent, fit, to_input, train_step

import pomona

RULES = {
    "weights pruned 12x": {"conv1": 0.34, "conv2": 0.88, "fc1": 0.92, "fc2": 0.81},
    "neurons pruned 12x": {
        "conv1": pomona.Prune(0.5, granularity="row"),
        "conv2": pomona.Prune(0.7, granularity="row"),
        "fc1": pomona.Prune(0.75, granularity="row"),
    },
}


class Trained:
    """A pruned network with its optimizer and pruner."""

    def __init__(self, model: torch.nn.Module, rules: dict) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        self.pruner = pomona.Pruner(model, rules, optimizer=self.optimizer)
        self.pruner.step()

    def cells(self, dataset: Dataset) -> list[str]:
        """What it is, and how well it does."""
        layers = list(self.model.children())
        sizes = "-".join(str(layer.weight.shape[0]) for layer in layers)
        weights = sum(layer.weight.numel() for layer in layers)
        kept = sum(int(layer.weight.count_nonzero()) for layer in layers)
        return [sizes, f"{weights:,}", f"{kept:,}", f"{error_percent(self.model, dataset):.2f}"]


def main() -> None:
    """Two rows for each way of pruning: with and without the dead neurons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of retraining, in all")
    seconds = parser.parse_args().seconds
    dataset = first_of(["mnist", "fashion-mnist", "digits"])
    example = importlib.import_module("04_sensitivity")
    folder = Path(example.__file__).parent / "out"
    folder.mkdir(exist_ok=True)
    dense = example.trained_lenet5(dataset, seconds, 0, folder)
    rows = []
    for name, rules in RULES.items():
        pruned = Trained(copy.deepcopy(dense), rules)
        budget = seconds / len(RULES)
        fit(pruned.model, pruned.optimizer, dataset, epochs=2, lr=0.01, seconds=budget)
        rows += compare(name, pruned, Trained(copy.deepcopy(pruned.model), rules), dataset)
    columns = ["network", "neurons", "weights", "nonzero", "error %", "step ms", "speed"]
    title = f"LeNet-5 pruned 12x: a training step of {BATCH} images without its dead neurons"
    write_table("remove_dead", title, columns, rows)


def compare(name: str, pruned: Trained, small: Trained, dataset: Dataset) -> list[list[str]]:
    """The rows of a network and of its copy, from which the dead neurons are removed here."""
    images, labels = to_input(dataset.train_images[:BATCH]), dataset.train_labels[:BATCH]
    before = error_percent(small.model, dataset)
    print(pomona.remove_dead_(small.model, images, pruners=small.pruner))
    after = error_percent(small.model, dataset)
    if abs(after - before) > 0.02:  # two images of 10,000: sums in another order
        raise SystemExit(f"the removal changed the error from {before} % to {after} %")
    networks = {name: pruned, f"{name}, dead ones removed": small}
    cells = {n: network.cells(dataset) for n, network in networks.items()}
    seconds = in_turns(
        {
            n: lambda t=network: train_step(t.model, t.optimizer, images, labels)
            for n, network in networks.items()
        },
        runs=51,
    )
    base = seconds[name]
    return [
        [n, *cells[n], f"{1e3 * seconds[n]:.2f}", f"{base / seconds[n]:.2f}x"] for n in networks
    ]


if __name__ == "__main__":
    main()
