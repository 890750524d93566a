"""DSD beside its control on ResNet-20 and CIFAR-10, from the published weights (thesis ch. 5).

    python benchmarks/thesis/dsd_resnet20.py [--seeds 3] [--jobs N] [--quick]

Two sparse and two re-dense epochs against the same four epochs without a mask (LLR): lr 0.01, then
0.001, the same order of the images, so that the difference is what the mask itself adds. The first
convolution stays dense. Each seed's result is printed as it comes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from _measure import write_table  # noqa: E402
from data import load  # noqa: E402
from paired import difference, mean_and_deviation  # noqa: E402
from resnet20 import ResNet20, published, to_input  # noqa: E402
from training_loop import HAS_FAST_BFLOAT16  # noqa: E402

import pomona  # noqa: E402

WEIGHTS = ROOT.parent / "shared" / "models" / "resnet20_cifar10.safetensors"
BATCH = 128
SPARSITY = 0.3  # the paper's, for ResNet-18 and ResNet-50
EPOCHS = (0, 2, 2)
LR = 0.1  # of the published training; the phases take 0.1 and 0.01 of it


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to 4 pixels, and mirrored half of the time."""
    count = len(images)
    padded = functional.pad(images, [4] * 4)
    rows, columns = (
        torch.randint(0, 9, (count, 1), generator=generator) + torch.arange(32) for _ in range(2)
    )
    flip = torch.rand(count, generator=generator) < 0.5
    columns[flip] = columns[flip].flip(1)
    indices = torch.arange(count)
    return padded[
        indices[:, None, None, None],
        torch.arange(3)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def train_epoch(
    model: ResNet20,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    generator: torch.Generator,
) -> None:
    """All images once."""
    model.train()
    for indices in torch.randperm(len(images), generator=generator).split(BATCH):
        inputs = to_input(augmented(images[indices], generator))
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_FAST_BFLOAT16):
            logits = model(inputs)
        optimizer.zero_grad()
        functional.cross_entropy(logits.float(), labels[indices]).backward()
        optimizer.step()


@torch.no_grad()
def error_percent(model: ResNet20, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images classified wrongly, in percent, in float32."""
    model.eval()
    wrong = sum(
        int((model(to_input(part)).argmax(1) != truth).sum())
        for part, truth in zip(images.split(1000), labels.split(1000), strict=True)
    )
    return 100 * wrong / len(labels)


def run(seed: int, masks: bool, quick: bool) -> float:
    """Both phases -> the test error in percent."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    dataset = load("cifar10")
    count = 1000 if quick else len(dataset.train_labels)
    images, labels = dataset.train_images[:count], dataset.train_labels[:count]
    model = published(WEIGHTS).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    dsd = pomona.DSD(model, {"*": SPARSITY}, epochs=EPOCHS, optimizer=optimizer, masks=masks)
    generator = torch.Generator().manual_seed(seed)
    for _ in dsd:
        train_epoch(model, optimizer, images, labels, generator)
        dsd.step()
    error = error_percent(model, dataset.test_images, dataset.test_labels)
    name = "DSD" if masks else "LLR"
    took = time.perf_counter() - began
    print(f"  seed {seed}, {name}: {error:.2f} % error, {took:.0f} s", flush=True)
    return error


def main() -> None:
    """Every seed with and without a mask, and the table."""
    arguments = parse_arguments()
    dataset = load("cifar10")
    start = error_percent(
        published(WEIGHTS).to(memory_format=torch.channels_last),
        dataset.test_images,
        dataset.test_labels,
    )
    print(f"  published weights: {start:.2f} % error", flush=True)
    seeds = range(arguments.seeds)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        pairs = [
            [pool.submit(run, seed, masks, arguments.quick) for masks in (False, True)]
            for seed in seeds
        ]
        llr, dsd = ([pair[arm].result() for pair in pairs] for arm in (0, 1))
    found = difference(dsd, llr)
    row = ["ResNet-20, CIFAR-10", len(llr), f"{start:.2f}"]
    row += [mean_and_deviation(llr), mean_and_deviation(dsd), *found.cells()]
    columns = ["network", "seeds", "start %", "LLR %", "DSD %", "DSD - LLR", "DSD lower", "verdict"]
    if arguments.quick:
        print(columns, row, sep="\n")
        return
    title = "DSD beside LLR: ResNet-20 from its weights"
    write_table("dsd_resnet20", title, columns, [row], errors={"LLR": llr, "DSD": dsd})


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
