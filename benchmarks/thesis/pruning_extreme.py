"""How few weights are enough: a global second-order ramp on LeNet-300-100 and LeNet-5.

    python benchmarks/thesis/pruning_extreme.py [--seeds 3] [--jobs N] [--tune] [--quick]

One ranking over all layers by w^2 * EMA(g^2) (Optimal Brain Damage's diagonal), a cubic ramp with
new masks every 40 steps, Adam; between stages dead neurons leave the network. Goals: LeNet-300-100
at 3,500 weights with at most 1.60 % error, LeNet-5 at 3,000 with at most 0.76 %. `--tune` trains on
55,000 images and reports the error on the other 5,000: the hyper-parameters below were chosen so,
never on the test set. Source of the method: LeCun et al., 1990; Zhu and Gupta, 2017; thesis ch. 3.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from _measure import write_table  # noqa: E402
from data import Dataset, load  # noqa: E402
from held_out import split  # noqa: E402
from models import LeNet5, LeNet300100  # noqa: E402
from training_loop import batches, error_percent, fit, set_lr, train_step  # noqa: E402

import pomona  # noqa: E402

BATCH = 256
MASKS_EVERY = 40  # steps


@dataclass(frozen=True)
class Stage:
    """One ramp: to this many weights in so many epochs, then a cosine to 0."""

    weights: int
    ramp: int
    cosine: int
    lr: float


@dataclass(frozen=True)
class Recipe:
    """A network, how it is trained dense, and its stages."""

    network: str
    model: type[torch.nn.Module]
    shift: int
    dense_epochs: int
    dense_lr: float
    decay: float
    stages: tuple[Stage, ...]
    goal: float


RECIPES = (
    Recipe(
        "LeNet-300-100",
        LeNet300100,
        shift=1,
        dense_epochs=15,
        dense_lr=0.1,
        decay=1e-4,
        stages=(Stage(12_000, 10, 4, 1e-3), Stage(3_500, 20, 30, 2e-3)),
        goal=1.60,
    ),
    Recipe(
        "LeNet-5",
        LeNet5,
        shift=2,
        dense_epochs=8,
        dense_lr=0.05,
        decay=5e-4,
        stages=(Stage(25_000, 3, 0, 1e-3), Stage(6_000, 6, 2, 2e-3), Stage(3_000, 12, 18, 2e-3)),
        goal=0.76,
    ),
)


def prunable(model: torch.nn.Module) -> list[torch.Tensor]:
    """The weights that rules match: everything of two or more dimensions."""
    return [p for p in model.parameters() if p.dim() > 1]


def ramp(
    model: torch.nn.Module, stage: Stage, dataset: Dataset, shift: int, generator: torch.Generator
) -> None:
    """Prune to ``stage.weights`` by a cubic ramp, train on, and take dead neurons out."""
    steps = math.ceil(len(dataset.train_labels) / BATCH)
    size = sum(p.numel() for p in prunable(model))
    optimizer = torch.optim.Adam(model.parameters(), lr=stage.lr)
    rule = pomona.Prune(
        max(0.0, 1 - stage.weights / size),  # without dead neurons there may be fewer already
        criterion=pomona.OBD(decay=0.98),
        scope="global",
        schedule=pomona.Cubic(stage.ramp * steps, every=MASKS_EVERY, begin=MASKS_EVERY),
    )
    pruner = pomona.Pruner(model, {"*": rule}, optimizer=optimizer)
    length = stage.cosine * steps
    done = 0
    for _ in range(stage.ramp + stage.cosine):
        for inputs, labels in batches(dataset, shift=shift, generator=generator, size=BATCH):
            progress = max(0, done - stage.ramp * steps) / max(1, length)
            set_lr(optimizer, stage.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
            train_step(model, optimizer, inputs, labels)
            pruner.step()
            done += 1
    for _ in range(MASKS_EVERY):  # the last round falls `begin` steps after the ramp's epochs
        pruner.step()
    pomona.remove_dead_(model, dataset_example(dataset), optimizer=optimizer, pruners=[pruner])
    pruner.finalize()


def dataset_example(dataset: Dataset) -> torch.Tensor:
    """One image as the network takes it."""
    return dataset.train_images[:1].float() / 255


def run(recipe: Recipe, seed: int, tune: bool, quick: bool) -> dict[str, float]:
    """Train one seed through all stages."""
    began = time.perf_counter()
    model, errors = pruned(recipe, seed, tune, quick)
    kept = sum(int(p.count_nonzero()) for p in prunable(model))
    return {**errors, "kept": kept, "seconds": time.perf_counter() - began}


def pruned(
    recipe: Recipe, seed: int, tune: bool, quick: bool
) -> tuple[torch.nn.Module, dict[str, float]]:
    """The network of one seed after all stages, without its dead neurons, and its errors."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    began = time.perf_counter()
    dataset = split(load("mnist"), tune, quick)
    model = recipe.model().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.dense_lr, momentum=0.9, nesterov=True,
        weight_decay=recipe.decay,
    )  # fmt: skip
    epochs = 1 if quick else recipe.dense_epochs
    fit(
        model,
        optimizer,
        dataset,
        epochs=epochs,
        lr=recipe.dense_lr,
        shift=recipe.shift,
        seed=seed,
    )
    errors = {"dense": error_percent(model, dataset)}
    generator = torch.Generator().manual_seed(1000 + seed)
    for stage in recipe.stages:
        short = replace(stage, ramp=1, cosine=min(1, stage.cosine)) if quick else stage
        ramp(model, short, dataset, recipe.shift, generator)
        errors[str(stage.weights)] = error_percent(model, dataset)
        kept = sum(int(p.count_nonzero()) for p in prunable(model))
        print(
            f"  {recipe.network} seed {seed}: {kept} weights, {errors[str(stage.weights)]:.2f} %, "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    return model, errors


def row(recipe: Recipe, runs: Sequence[dict[str, float]]) -> list[object]:
    """One line of the table."""
    final = str(recipe.stages[-1].weights)
    errors = [run[final] for run in runs]
    spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
    dense = statistics.mean(run["dense"] for run in runs)
    mean = statistics.mean(errors)
    size = sum(p.numel() for p in prunable(recipe.model()))
    kept = max(int(run["kept"]) for run in runs)
    return [
        recipe.network,
        len(runs),
        f"{dense:.2f}",
        f"{kept:,}",
        f"{size / kept:.0f}x",
        f"{mean:.2f} ± {spread:.2f}",
        f"{recipe.goal:.2f}",
        "yes" if mean <= recipe.goal else "no",
        f"{statistics.mean(run['seconds'] for run in runs):.0f}",
    ]


def main() -> None:
    """Run every seed of every network, and write the table."""
    arguments = parse_arguments()
    recipes = [r for r in RECIPES if arguments.network in ("all", r.network)]
    table, errors = [], {}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        waiting = {
            recipe: [
                pool.submit(run, recipe, seed, arguments.tune, arguments.quick)
                for seed in range(arguments.seeds)
            ]
            for recipe in recipes
        }
        for recipe, futures in waiting.items():
            runs = [future.result() for future in futures]
            table.append(row(recipe, runs))
            errors[recipe.network] = [run[str(recipe.stages[-1].weights)] for run in runs]
    columns = [
        *("network", "seeds", "dense %", "weights", "fewer", "error %", "goal %", "met"),
        "seconds a seed",
    ]
    if arguments.tune or arguments.quick or arguments.network != "all":
        print(columns, *table, sep="\n")
        return
    title = "As few weights as possible, MNIST"
    write_table("pruning_extreme", title, columns, table, errors=errors)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--network", default="all", help="LeNet-5 or LeNet-300-100 alone")
    parser.add_argument("--tune", action="store_true", help="report 5,000 held-out images")
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
