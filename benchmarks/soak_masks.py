"""A million optimizer steps under masks, over every optimizer and option; not one weight revived.

    python benchmarks/soak_masks.py [--steps 1000000]

A small network, so that a step takes a tenth of a millisecond. After every step each pruned weight
is looked at. Writes how many steps were taken and how many revived weights were seen (the goal: 0).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable

import torch
from _measure import write_table
from torch import nn

import pomona

Make = Callable[[list[torch.Tensor]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01),
    "SGD nesterov": lambda p: torch.optim.SGD(
        p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "SGD foreach": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, foreach=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-3),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-3, weight_decay=1e-3),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=1e-3, weight_decay=1e-3),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=1e-3, weight_decay=1e-3),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, weight_decay=1e-3),
    "RMSprop centered": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, weight_decay=1e-3),
    "Adadelta": lambda p: torch.optim.Adadelta(p, weight_decay=1e-3),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=1e-2, t0=100),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2, weight_decay=1e-3),
}
OPTIONS = ("plain", "clipping", "accumulation", "overflow", "ramp")


def network() -> nn.Module:
    """96 weights and biases."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))


def soak(make: Make, option: str, steps: int) -> tuple[int, int]:
    """(steps taken, revived weights seen)."""
    model = network()
    optimizer = make(list(model.parameters()))
    rule = pomona.Prune(0.6)
    if option == "ramp":
        rule = pomona.Prune(0.6, schedule=pomona.Cubic(steps // 2, every=10), scope="global")
    pruner = pomona.Pruner(model, {"*": rule}, optimizer=optimizer)
    inputs, labels = torch.randn(64, 16, 8), torch.randint(4, (64, 16))
    revived, masks = 0, None
    for index in range(steps):
        if index == 5 or (option == "ramp" and index % 10 == 0):
            pruner.step()
            masks = pruner.masks()
        if option != "accumulation" or index % 3 == 0:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[index % 64]), labels[index % 64])
        loss.backward()
        if option == "overflow" and index % 50 == 49:
            model[0].weight.grad.fill_(float("inf"))  # a scaler skips the step
            continue
        if option == "clipping":
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        if masks is not None:
            for layer in (0, 2):
                weight = model[layer].weight.detach()
                revived += int(weight[~masks[f"{layer}.weight"]].count_nonzero())
    pruner.report()
    return steps, revived


def main() -> None:
    """Every optimizer with every option, the steps shared out among them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    each = -(-arguments.steps // (len(OPTIMIZERS) * len(OPTIONS)))
    rows, began = [], time.perf_counter()
    for name, make in OPTIMIZERS.items():
        counts = [soak(make, option, each) for option in OPTIONS]
        steps, revived = (sum(column) for column in zip(*counts, strict=True))
        rows.append([name, f"{steps:,}", revived])
        print(*rows[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
    total = sum(int(row[1].replace(",", "")) for row in rows)
    rows.append(["all", f"{total:,}", sum(row[2] for row in rows)])
    write_table("soak_masks", "Steps under masks", ["optimizer", "steps", "revived weights"], rows)


if __name__ == "__main__":
    main()
