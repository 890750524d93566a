"""How much of each layer can go: the thesis's sensitivity scan of LeNet-5, table and picture.

    python examples/04_sensitivity.py [--data DIR] [--out DIR] [--seconds 60] [--tolerance 0.1]

One layer at a time is pruned as ``pomona.Pruner`` prunes it, measured on the test images and put
back. It writes sensitivity.csv and sensitivity.png; stop it and start it again: it goes on where it
was. Source: thesis §3.2 (NIPS 2015, §3 and Fig. 6).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads sleep: kind to a busy machine

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from data import DataError, Dataset, first_of
from models import LeNet5
from training_loop import describe_machine, error_percent, fit, print_epoch

import pomona

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)


def main() -> None:
    """Scan, write the files, print the table and the rules that follow from it."""
    arguments = parse_arguments()
    began = time.perf_counter()
    print(describe_machine())
    dataset = first_of(arguments.datasets, arguments.data)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = trained_lenet5(dataset, arguments.seconds, arguments.seed, arguments.out)
    scan = pomona.sensitivity(
        model,
        partial(error_percent, dataset=dataset),
        sparsities=SPARSITIES,
        resume=arguments.out / "sensitivity.csv" if arguments.resume else None,
    )
    scan.to_csv(arguments.out / "sensitivity.csv")
    scan.to_png(arguments.out / "sensitivity.png", title=f"LeNet-5 on {dataset.name}")
    print(f"\n{scan}\n")
    print(f"up to {arguments.tolerance} points more error by one layer alone:")
    for name, rule in scan.rules(arguments.tolerance).items():
        print(f"  {name:<14}{'leave it' if rule is None else f'{100 * rule.sparsity:.0f} %'}")
    print(f"{arguments.out}: sensitivity.csv, sensitivity.png")
    print(f"{time.perf_counter() - began:.0f} seconds in all")


def trained_lenet5(dataset: Dataset, seconds: float, seed: int, folder: Path) -> LeNet5:
    """With published weights where they are at hand and the images are MNIST; else trained once.

    What it trains is kept in the folder: a scan that goes on needs the weights that it began with.
    """
    torch.manual_seed(seed)
    model = LeNet5()
    file = MODELS / "lenet5_mnist.safetensors"
    kept = folder / f"lenet5_{dataset.name}_dense.pomona"
    if dataset.name == "mnist" and file.is_file():
        print(f"weights: {file.name}")
        tensors = read_safetensors(file)
        model.load_state_dict({name.replace("ip", "fc"): value for name, value in tensors.items()})
        with torch.no_grad():  # they were trained on x / 256, to_input makes x / 255
            model.conv1.weight.mul_(255 / 256)
    elif kept.is_file():
        print(f"weights: {kept}")
        pomona.load_(model, kept)
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.0, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        fit(model, optimizer, dataset, epochs=4, lr=0.05, seconds=seconds, on_epoch=print_epoch)
        pomona.save(model, kept)
    return model.to(memory_format=torch.channels_last).eval()


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """float32 tensors by name: 8 bytes of length, a JSON header, the numbers."""
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        numbers = torch.frombuffer(content[begin:end], dtype=torch.float32)
        tensors[name] = numbers.view(entry["shape"])
    return tensors


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
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, where it trains")
    parser.add_argument("--tolerance", type=float, default=0.1, help="in points of error")
    parser.add_argument("--no-resume", dest="resume", action="store_false", help="scan anew")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (DataError, pomona.InvalidArgument) as error:
        raise SystemExit(f"{error}") from None
