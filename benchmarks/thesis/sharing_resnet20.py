"""ResNet-20 on CIFAR-10 with 4 and 3 bits, from the published weights (thesis §4.3-4.4).

    python benchmarks/thesis/sharing_resnet20.py [--steps 100]

Every convolution and the last layer are shared by the exact optimum, one codebook for a layer and
one for each channel, then the centroids are trained for a hundred steps (Adam 1e-3, batch 128,
about half a minute on a core). Nothing is pruned. Errors stand beside the network's own.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from _measure import write_table  # noqa: E402
from data import load  # noqa: E402
from dsd_resnet20 import BATCH, WEIGHTS, augmented, error_percent  # noqa: E402
from resnet20 import ResNet20, published, to_input  # noqa: E402
from training_loop import HAS_FAST_BFLOAT16  # noqa: E402

import pomona  # noqa: E402

LR = 1e-3


def train_centroids(
    model: ResNet20, optimizer: torch.optim.Optimizer, steps: int, images, labels
) -> None:
    """So many steps on moved and mirrored images; batch norm keeps its statistics."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LR * (1 - step / steps)
        chosen = torch.randint(0, len(images), (BATCH,), generator=generator)
        inputs = to_input(augmented(images[chosen], generator))
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_FAST_BFLOAT16):
            logits = model(inputs)
        optimizer.zero_grad()
        functional.cross_entropy(logits.float(), labels[chosen]).backward()
        optimizer.step()


def main() -> None:
    """One row for each number of bits and granularity."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    dataset = load("cifar10")
    test = dataset.test_images, dataset.test_labels
    start = error_percent(published(WEIGHTS).to(memory_format=torch.channels_last), *test)
    rows = []
    for bits in (4, 3):
        for granularity in ("tensor", "channel"):
            model = published(WEIGHTS).to(memory_format=torch.channels_last)
            optimizer = torch.optim.Adam(model.parameters(), lr=LR)
            rule = pomona.Share(bits, granularity=granularity)
            sharer = pomona.Sharer(model, {"*": rule}, optimizer=optimizer)
            sharer.step()
            before = error_percent(model, *test)
            began = time.perf_counter()
            train_centroids(model, optimizer, steps, dataset.train_images, dataset.train_labels)
            seconds = time.perf_counter() - began
            sharer.step()
            after = error_percent(model, *test)
            rows.append(
                [
                    bits,
                    granularity,
                    f"{start:.2f}",
                    f"{before:.2f}",
                    f"{after:.2f}",
                    f"{seconds:.0f}",
                ]
            )
            print(" ", *rows[-1], flush=True)
    columns = ["bits", "codebook for each", "dense %", "shared %", "trained %", "seconds"]
    write_table("sharing_resnet20", f"ResNet-20 shared, {steps} steps on centroids", columns, rows)


if __name__ == "__main__":
    main()
