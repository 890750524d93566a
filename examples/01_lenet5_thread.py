"""One network the whole way: trained, pruned, shared, saved, read back elsewhere, run packed.

    python examples/01_lenet5_thread.py [--data DIR] [--out DIR] [--seconds 150]

LeNet-5 on real images, at the densities and bits of the thesis (NIPS 2015 Table 3, ICLR 2016
Table 3). The training loop is in training_loop.py and knows nothing of Pomona. Every number in the
table at the end is measured in this run.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads sleep: kind to a busy machine

import argparse
import json
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent

import torch
from data import DataError, Dataset, first_of, load
from measure import dense_bytes, digests, milliseconds, nonzeros, table
from models import LeNet5
from training_loop import describe_machine, error_percent, fit, print_epoch, to_input

import pomona

# What stays of each layer, and the bits of its codes.
KEPT = {"conv1": 0.66, "conv2": 0.12, "fc1": 0.08, "fc2": 0.19}
# The exact fit, the default, has the least error; the thesis's linear one the codes that compress
# best, and training wins the difference back.
BITS = {"conv*": pomona.Share(8, fit="linear"), "fc*": pomona.Share(5, fit="linear")}
BATCHES = (1, 64)  # at which a forward pass is timed


@dataclass
class Stage:
    """One line of the table."""

    name: str
    error: float
    nonzeros: int
    sizes: dict[str, int | None] = field(default_factory=dict)
    milliseconds: dict[int, float] = field(default_factory=dict)  # by batch size


def main() -> None:
    """Walk the thread and print the table."""
    arguments = parse_arguments()
    if arguments.read_back:
        read_back(arguments)
        return
    began = time.perf_counter()
    dataset = first_of(arguments.datasets, arguments.data)
    is_small = len(dataset.train_labels) < 10_000
    arguments.epochs = arguments.epochs or ([30, 20, 10] if is_small else [6, 4, 2])
    print(describe_machine())
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "lenet5.pomona"
    stages, models, shown = train(arguments, dataset)

    print("\nsave")
    print(indent(str(pomona.save(models[-1], file)), "  "))
    with TemporaryDirectory() as folder:  # what the earlier stages would take
        for stage, model in zip(stages, models, strict=True):
            report = pomona.save(model, Path(folder) / f"{stage.name}.pomona")
            stage.sizes = {**dense_bytes(model), "pomona": report.file_bytes}
    for batch in BATCHES:
        inputs = to_input(dataset.test_images[:batch])
        times = milliseconds(dict(enumerate(models)), inputs)
        for index, stage in enumerate(stages):
            stage.milliseconds[batch] = times[index]

    print("\nread back in a new process")
    stages += in_new_process(arguments, dataset, file, expected=digests(models[-1]))
    print_table(stages, dataset, shown, arguments)
    print(f"{time.perf_counter() - began:.0f} seconds in all")


def train(arguments: argparse.Namespace, dataset: Dataset) -> tuple[list[Stage], list[LeNet5], int]:
    """Three stages -> their lines, a copy of the model after each, the number of images shown."""
    torch.manual_seed(arguments.seed)
    model = LeNet5().to(memory_format=torch.channels_last)
    epochs = arguments.epochs
    stages, models, shown = [], [], []
    began = time.perf_counter()

    def run(name: str, optimizer: torch.optim.Optimizer, lr: float) -> None:
        index = len(stages)
        left = arguments.seconds - (time.perf_counter() - began)
        shown.append(
            fit(
                model,
                optimizer,
                dataset,
                epochs=epochs[index],
                lr=lr,
                seconds=left * epochs[index] / sum(epochs[index:]),
                seed=arguments.seed + index,
                on_epoch=print_epoch,
            )
        )
        stages.append(Stage(name, error_percent(model, dataset), nonzeros(model)))
        models.append(deepcopy(model))
        print(f"  {name}: {stages[-1].error:.2f} % error, {stages[-1].nonzeros:,} nonzero weights")

    print("\ntrain")
    run("trained", sgd(model, weight_decay=5e-4), lr=0.05)

    print("\nprune and retrain")
    optimizer = sgd(model, weight_decay=2e-4)
    sparsity = {layer: 1 - kept for layer, kept in KEPT.items()}
    pruner = pomona.Pruner(model, sparsity, optimizer=optimizer)
    pruner.step()
    print(f"  pruned, not yet retrained: {error_percent(model, dataset):.2f} % error")
    run("pruned", optimizer, lr=0.02)
    pruner.finalize()

    print("\nshare and train the centroids")
    optimizer = torch.optim.Adam(model.parameters())
    sharer = pomona.Sharer(model, BITS, optimizer=optimizer, reduction="sum")
    sharer.step()
    print(f"  shared, not yet fine-tuned: {error_percent(model, dataset):.2f} % error")
    run("shared", optimizer, lr=1e-4)
    sharer.finalize()
    return stages, models, sum(shown)


def sgd(model: torch.nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer of the first two stages; fit() sets its learning rate."""
    return torch.optim.SGD(
        model.parameters(), lr=0.0, momentum=0.9, nesterov=True, weight_decay=weight_decay
    )


def in_new_process(
    arguments: argparse.Namespace, dataset: Dataset, file: Path, expected: dict[str, str]
) -> list[Stage]:
    """Run ``read_back`` in another Python; stop unless it found every tensor equal bit for bit."""
    command = [sys.executable, __file__, "--read-back", file, "--datasets", dataset.name]
    if arguments.data:
        command += ["--data", arguments.data]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"the new process failed with status {answer.returncode}")
    *lines, result = answer.stdout.splitlines()
    print("\n".join(lines))
    result = json.loads(result)
    differ = [name for name, digest in expected.items() if result["digests"].get(name) != digest]
    if differ or len(result["digests"]) != len(expected):
        raise SystemExit(f"the new process read other tensors than were saved: {differ}")
    print(f"  all {len(expected)} tensors equal bit for bit")
    stages = [Stage(**stage) for stage in result["stages"]]
    for stage in stages:  # JSON made the batch sizes strings
        stage.milliseconds = {int(batch): time for batch, time in stage.milliseconds.items()}
    return stages


def read_back(arguments: argparse.Namespace) -> None:
    """In the new process: load, pack, measure; the last line of the output is JSON."""
    torch.set_num_threads(1)
    dataset = load(arguments.datasets[0], arguments.data, download=False)
    model = LeNet5().to(memory_format=torch.channels_last).eval()
    pomona.load_(model, arguments.read_back)
    read = digests(model)

    packed = deepcopy(model)  # every linear layer runs on its compressed weights
    packed.fc1 = pomona.nn.PackedLinear.from_linear(model.fc1)
    packed.fc2 = pomona.nn.PackedLinear.from_linear(model.fc2)
    rows = {"read back": model, "packed": packed}
    stages = [Stage(name, error_percent(m, dataset), nonzeros(model)) for name, m in rows.items()]
    stages.append(Stage("pack_", stages[1].error, nonzeros(model)))
    for batch in BATCHES:
        inputs = to_input(dataset.test_images[:batch])
        chosen = deepcopy(model)  # each layer the faster way for this batch
        report = pomona.pack_(chosen, example=inputs)
        print(f"  pack_ for batch {batch}:", indent(str(report), "    "), sep="\n")
        times = milliseconds({**rows, "pack_": chosen}, inputs)
        for stage in stages:
            stage.milliseconds[batch] = times[stage.name]
        stages[2].error = error_percent(chosen, dataset)
    print(json.dumps({"digests": read, "stages": [vars(stage) for stage in stages]}))


def print_table(
    stages: list[Stage], dataset: Dataset, shown: int, arguments: argparse.Namespace
) -> None:
    """Everything that was measured, a line for each stage."""
    compressors = ["raw", "zstd -19", "xz -9", "pomona"]
    header = [
        "stage",
        "error %",
        "nonzeros",
        *compressors,
        *[f"ms batch {batch}" for batch in BATCHES],
    ]
    rows = [
        [
            stage.name,
            f"{stage.error:.2f}",
            stage.nonzeros,
            *[stage.sizes.get(compressor) for compressor in compressors],
            *[f"{stage.milliseconds[batch]:.3f}" for batch in BATCHES],
        ]
        for stage in stages
    ]
    print(f"\n{table(header, rows)}\n")
    title = f"LeNet-5 on {dataset.name}, one seed: from training to a file that runs"
    record = json.dumps({"title": title, "columns": header, "rows": rows})
    (arguments.out / "thread.json").write_text(record)
    shared = stages[2].sizes
    print(f"raw / pomona = {stages[0].sizes['raw'] / shared['pomona']:.1f}, everything counted.")
    print("raw, zstd, xz: the fp32 tensors of that stage as they are in memory; sizes in bytes.")
    print("ms: median of 50 forward passes on one thread, the models of one process by turns.")
    print("packed: all linear layers run on compressed weights; pack_: those where that is faster.")
    epochs, images = sum(arguments.epochs), len(dataset.train_labels)
    if shown < epochs * images:
        print(
            f"{arguments.seconds:.0f} s of training did not suffice here: "
            f"{shown:,} images were shown instead of {epochs * images:,}."
        )
    else:
        print(f"{dataset.name}: {epochs} epochs of {images:,} images.")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the images are")
    parser.add_argument(
        "--datasets",
        nargs="+",
        metavar="NAME",
        default=["mnist", "fashion-mnist", "digits"],
        help="the first of these that is found is taken (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path(__file__).parent / "out")
    parser.add_argument(
        "--epochs",
        type=int,
        nargs=3,
        metavar=("TRAIN", "PRUNE", "SHARE"),
        help="of the three stages (default: 6 4 2, and five times as many on a small set)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=150.0,
        help="of training; a slow machine shows fewer images (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read-back", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.epochs and min(arguments.epochs) < 1:
        parser.error(f"expected --epochs of at least 1, got {arguments.epochs}")
    return arguments


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        raise SystemExit(f"{error}") from None
