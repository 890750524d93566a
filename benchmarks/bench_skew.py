"""What real and skewed patterns cost: time per nonzero against a uniform pattern.

    python benchmarks/bench_skew.py [--quick]

Each pattern beside one of the same shape and exactly as many nonzeros without any order, the same
15 values, in turns, one thread. What a call itself costs (a layer of 1 x 1) is taken off both, so
the loss is the kernel's. The trained networks are those of `shared/models` beside the checkout,
pruned by magnitude; their rows are left out where it is not there. Log-normal: the chance of a
weight to be kept differs by column (sigma) and by row (sigma / 2).

Goals (with AVX-512, our best layout): lose at most 20 % on both ip1, at most 30 % at sigma 1; a
layer of 64 rows or fewer splits its heavy rows over lanes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from _candidates import check, measure
from _matrices import are_models_here, log_normal, pruned, uniform_like, with_values
from _measure import write_table
from _ours import OURS, ours, packed

SECONDS, QUICK_SECONDS = 3.0, 0.3
TRAINED = {  # (file, tensor): goal
    "LeNet-300-100 ip1": ("lenet300100_mnist.safetensors", "ip1.weight", "20"),
    "LeNet-5 ip1": ("lenet5_mnist.safetensors", "ip1.weight", "20"),
    "ResNet-20 layer3.2.conv2": ("resnet20_cifar10.safetensors", "layer3.2.conv2.weight", "-"),
}


def patterns() -> Iterator[tuple[str, str, torch.Tensor]]:
    """Name, goal in percent, mask."""
    if are_models_here():
        for name, (file, tensor, goal) in TRAINED.items():
            for density in (0.08, 0.25):
                yield name, goal, pruned(file, tensor, density)
    for rows, density in ((4096, 0.09), (4096, 0.04), (1000, 0.25), (64, 0.09)):
        yield (
            "log-normal, sigma 1",
            "30" if rows > 64 else "-",
            log_normal(rows, 4096, density, 1.0),
        )


@torch.no_grad()
def rows_of(name: str, goal: str, mask: torch.Tensor, seconds: float) -> list[list[str]]:
    """A row for each of our layouts."""
    x = torch.rand(1, mask.shape[1], generator=torch.Generator().manual_seed(1))
    one = torch.ones(1, 1)
    candidates = {"call": packed(one, one, "csr16", "fp32")}
    for kind, pattern in (("skewed", mask), ("uniform", uniform_like(mask))):
        made = ours(lambda bfloat16, p=pattern: with_values(p, bfloat16), x)
        candidates |= {f"{layout}, {kind}": each for layout, each in made.items()}
    check({"call": candidates["call"]}, one, one)
    times = measure(candidates, seconds)
    call = times["call"].hot
    facts = [name, f"{mask.shape[0]} x {mask.shape[1]}", f"{mask.float().mean():.1%}"]
    table = []
    for layout in (layout for layout in OURS if f"{layout}, uniform" in times):
        skewed, uniform = (times[f"{layout}, {kind}"].hot - call for kind in ("skewed", "uniform"))
        loss = 100 * (skewed / uniform - 1)
        cells = [f"{1e6 * seconds_:.2f}" for seconds_ in (uniform, skewed)]
        table.append([*facts, layout, *cells, f"{loss:+.0f}", goal])
    return table


def main() -> None:
    """Every pattern; the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not are_models_here():
        print("the trained networks are not here; log-normal patterns only")
    table = []
    for name, goal, mask in patterns():
        found = rows_of(name, goal, mask, QUICK_SECONDS if arguments.quick else SECONDS)
        for row in found:
            print(*row, sep="  ", flush=True)
        table += found
    if arguments.quick:
        return
    columns = ["pattern", "shape", "kept", "layout", "uniform us", "us", "loss %", "goal %"]
    write_table("skew", "Batch 1: what skewed patterns lose, one thread", columns, table)


if __name__ == "__main__":
    main()
