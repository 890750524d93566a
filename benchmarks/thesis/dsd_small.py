"""DSD beside dense training and its control, where a seed takes seconds (thesis ch. 5).

    python benchmarks/thesis/dsd_small.py [--part fashion|shakespeare] [--jobs N] [--quick]

fashion: LeNet-300-100 and LeNet-5 on 5,000 images of Fashion-MNIST, ten paired seeds, once after a
dense phase of constant lr, once after one that was annealed to 0. shakespeare: the same for a
character LSTM on the first 250,000 characters of tiny Shakespeare. DSD and LLR go on from the same
dense weights with the same order of the data and the same drops of the learning rate (to a tenth,
then a hundredth), so their difference is what the mask adds; LLR - dense is what the drops and the
longer training do. A part alone is printed, not recorded.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

from _measure import write_table  # noqa: E402
from data import Dataset, load  # noqa: E402
from models import LeNet5, LeNet300100  # noqa: E402
from paired import difference, mean_and_deviation  # noqa: E402
from training_loop import batches, error_percent, train_step  # noqa: E402

import pomona  # noqa: E402

SPARSITY = 0.3
IMAGES = 5000
CHARACTERS = 250_000
SEEDS = 10
TEXT = ROOT.parent / "shared" / "data" / "tinyshakespeare" / "input.txt"
LENGTH, SEQUENCES = 64, 32  # characters of a sequence, sequences of a batch
NETWORKS = {"LeNet-300-100": (LeNet300100, 20), "LeNet-5": (LeNet5, 8)}  # and dense epochs

Step = Callable[[nn.Module, torch.optim.Optimizer], None]


class CharLSTM(nn.Module):
    """Characters [n, t] -> logits [n, t, characters]; one layer."""

    def __init__(self, characters: int, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 32)
        self.lstm = nn.LSTM(32, hidden, batch_first=True)
        self.out = nn.Linear(hidden, characters)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.embedding(text))[0])


def three_ways(
    model: nn.Module,
    make: Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer],
    train_epoch: Callable[[nn.Module, torch.optim.Optimizer, int], None],
    evaluate: Callable[[nn.Module], float],
    rules: dict[str, object],
    epochs: tuple[int, int, int],
    annealed: bool,
) -> tuple[float, float, float]:
    """(dense, LLR, DSD): the dense phase once, then both ways from the same weights and moments."""
    optimizer = make(model.parameters())
    lr = optimizer.param_groups[0]["lr"]
    for epoch in range(epochs[0]):
        share = 0.5 * (1 + math.cos(math.pi * epoch / epochs[0])) if annealed else 1.0
        optimizer.param_groups[0]["lr"] = lr * share
        train_epoch(model, optimizer, epoch)
    found = [evaluate(model)]
    for masks in (False, True):
        copy = deepcopy(model)
        again = make(copy.parameters())
        again.load_state_dict(deepcopy(optimizer.state_dict()))
        again.param_groups[0]["lr"] = lr
        dsd = pomona.DSD(
            copy, rules, epochs=(0, *epochs[1:]), optimizer=again, masks=masks
        )  # lr x 0.1 while sparse, x 0.01 after
        for epoch in dsd:
            train_epoch(copy, again, epochs[0] + epoch)
            dsd.step()
        found.append(evaluate(copy))
    return found[0], found[1], found[2]


def fashion(network: str, annealed: bool, seed: int, quick: bool) -> tuple[float, float, float]:
    """Test error in percent of one seed."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    dataset = load("fashion-mnist")
    count = 500 if quick else IMAGES
    small: Dataset = replace(
        dataset,
        train_images=dataset.train_images[:count],
        train_labels=dataset.train_labels[:count],
    )
    kind, dense = NETWORKS[network]

    def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        generator = torch.Generator().manual_seed(10_000 * seed + epoch)
        model.train()
        for inputs, labels in batches(small, generator=generator):
            train_step(model, optimizer, inputs, labels)

    return three_ways(
        kind().to(memory_format=torch.channels_last),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        train_epoch,
        lambda model: error_percent(model, small),
        {"*": SPARSITY},
        (1, 1, 1) if quick else (dense, dense // 2, dense // 2),
        annealed,
    )


def sequences(text: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """All of a text once, from a random start, as [SEQUENCES, LENGTH + 1] in random order."""
    start = int(torch.randint(0, LENGTH, (1,), generator=generator))
    count = (len(text) - start - 1) // LENGTH
    begins = start + LENGTH * torch.randperm(count, generator=generator)
    for chosen in begins.split(SEQUENCES):
        yield text[chosen[:, None] + torch.arange(LENGTH + 1)]


@torch.no_grad()
def bits_per_character(model: nn.Module, text: torch.Tensor) -> float:
    """The cross-entropy on a text, in bits."""
    count = (len(text) - 1) // 256
    chunks = text[256 * torch.arange(count)[:, None] + torch.arange(257)]
    logits = model(chunks[:, :-1])
    return float(
        functional.cross_entropy(logits.flatten(0, 1), chunks[:, 1:].flatten())
    ) / math.log(2)


def shakespeare(annealed: bool, seed: int, quick: bool) -> tuple[float, float, float]:
    """Bits per character on the last tenth of the text, one seed."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    raw = TEXT.read_text()
    vocabulary = {character: i for i, character in enumerate(sorted(set(raw)))}
    text = torch.tensor([vocabulary[character] for character in raw])
    split = len(text) * 9 // 10
    trained, held_out = text[: 20_000 if quick else CHARACTERS], text[split:]

    def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        generator = torch.Generator().manual_seed(10_000 * seed + epoch)
        for chunk in sequences(trained, generator):
            optimizer.zero_grad()
            logits = model(chunk[:, :-1])
            functional.cross_entropy(logits.flatten(0, 1), chunk[:, 1:].flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return three_ways(
        CharLSTM(len(vocabulary)),
        lambda parameters: torch.optim.Adam(parameters, lr=4e-3),
        train_epoch,
        lambda model: bits_per_character(model, held_out),
        {"embedding": None, "*": SPARSITY},
        (1, 1, 1) if quick else (4, 2, 2),
        annealed,
    )


def row(name: str, dense_phase: str, unit: str, runs: Sequence[Sequence[float]]) -> list[object]:
    """One line of the table."""
    dense, llr, dsd = zip(*runs, strict=True)
    found = difference(dsd, llr)
    return [
        *(name, dense_phase, unit, len(runs)),
        *(mean_and_deviation(values) for values in (dense, llr, dsd)),
        *found.cells(),
    ]


def main() -> None:
    """Every seed of the parts asked for, and their table."""
    arguments = parse_arguments()
    began = time.perf_counter()
    seeds = range(2 if arguments.quick else SEEDS)
    jobs: dict[tuple[str, str, str], list] = {}
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for phase in ("constant lr", "annealed"):
            annealed = phase == "annealed"
            for network in NETWORKS if arguments.part in ("all", "fashion") else ():
                jobs[f"{network}, 5,000 of Fashion-MNIST", phase, "error %"] = [
                    pool.submit(fashion, network, annealed, seed, arguments.quick) for seed in seeds
                ]
            if arguments.part in ("all", "shakespeare"):
                jobs["char-LSTM, tiny Shakespeare", phase, "bits/char"] = [
                    pool.submit(shakespeare, annealed, seed, arguments.quick) for seed in seeds
                ]
        rows, found = [], {}
        for name, futures in jobs.items():
            runs = [future.result() for future in futures]
            rows.append(row(*name, runs))
            found[", ".join(name)] = [[round(value, 4) for value in run] for run in runs]
            print(f"  {time.perf_counter() - began:.0f} s", *rows[-1], flush=True)
    columns = ["network", "dense phase", "unit", "seeds", "dense", "LLR", "DSD", "DSD - LLR (95 %)"]
    columns += ["DSD lower", "verdict"]
    if arguments.quick or arguments.part != "all":
        return
    write_table("dsd_small", "DSD beside LLR: small tasks", columns, rows, values=found)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["all", "fashion", "shakespeare"], default="all")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
