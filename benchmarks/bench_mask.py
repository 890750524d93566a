"""What a mask costs a training step, beside no mask and beside torch.nn.utils.prune.

    python benchmarks/bench_mask.py

LeNet-5, ResNet-20 on CIFAR-10's shapes, a 2-layer LSTM and an MLP of 100 million weights, batch 128
(the LSTM 32 x 64), SGD with momentum, 90 % pruned per layer. Goal: at most 2 % of a step of
ResNet-20. Steps run in turns; times are medians. "Noise" is what a second copy of the dense network
differs by: a cost below it is not told apart from nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from _measure import in_turns, write_table
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks" / "thesis")]

from models import LeNet5  # noqa: E402
from resnet20 import ResNet20  # noqa: E402

import pomona  # noqa: E402

SPARSITY = 0.9


class TwoLayerLSTM(nn.Module):
    """[n, t, 128] -> [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(128, 256, num_layers=2, batch_first=True)
        self.out = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(x)[0][:, -1])


def mlp() -> nn.Module:
    """Some 100 million weights."""
    return nn.Sequential(
        *(nn.Linear(5000, 7000), nn.ReLU(), nn.Linear(7000, 9000), nn.ReLU()),
        nn.Linear(9000, 10),
    )


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "LeNet-5": (LeNet5, (128, 1, 28, 28), 101),
    "ResNet-20": (ResNet20, (128, 3, 32, 32), 41),
    "LSTM 2x256": (TwoLayerLSTM, (32, 64, 128), 61),
    "MLP 100M": (mlp, (128, 5000), 9),
}


def stepper(model: nn.Module, inputs: torch.Tensor, masked: bool) -> Callable[[], None]:
    """One training step as a function."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.randint(10, (len(inputs),))
    if masked:
        pomona.Pruner(model, {"*": SPARSITY}, optimizer=optimizer).step()

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    return step


def with_torch_prune(model: nn.Module) -> nn.Module:
    """The same masks by torch: the weight is computed from `weight_orig` in every forward."""
    for module in model.modules():
        names = [n for n, p in module.named_parameters(recurse=False) if p.dim() > 1]
        for name in names:
            prune.l1_unstructured(module, name, amount=SPARSITY)
    return model


def main() -> None:
    """One row for each network."""
    torch.manual_seed(0)
    rows = []
    for name, (make, shape, runs) in CASES.items():
        model, inputs = make(), torch.randn(shape)
        ways = {
            "dense": stepper(deepcopy(model), inputs, False),
            "again": stepper(deepcopy(model), inputs, False),
            "pomona": stepper(deepcopy(model), inputs, True),
        }
        if not isinstance(model, TwoLayerLSTM):  # torch's LSTM then warns and copies at every step
            ways["torch"] = stepper(with_torch_prune(deepcopy(model)), inputs, False)
        seconds = in_turns(ways, runs)
        cells = [f"{1e3 * seconds[way]:.2f}" if way in seconds else "-" for way in
                 ("dense", "pomona", "torch")]  # fmt: skip
        shares = [
            f"{100 * (seconds[way] / seconds['dense'] - 1):+.1f} %" if way in seconds else "-"
            for way in ("again", "pomona", "torch")
        ]
        rows.append([f"mask/cpu/{name}/density:0.1", *cells, *shares])
        print(*rows[-1], flush=True)
    columns = ["case", "dense ms", "pomona ms", "nn.utils.prune ms", "noise", "mask costs"]
    columns += ["prune costs"]
    write_table("mask", "A training step with and without masks", columns, rows)


if __name__ == "__main__":
    main()
