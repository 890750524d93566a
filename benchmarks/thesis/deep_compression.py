"""The Deep Compression table: two LeNets from training to the file, everything counted.

    python benchmarks/thesis/deep_compression.py [--seeds 3] [--jobs N] [--only NETWORK] [--quick]
        [--keep FOLDER [--kept-only]]

`--keep` writes each trained network to a folder, and takes it from there the next time;
`--kept-only` trains none.

Three rows of networks. "12x pruned": the paper's densities, shared with 6 bits (LeNet-300-100) or 8
and 5 bits (LeNet-5), linear initialization, two epochs of centroid training. "pruned once more":
those before sharing, pruned again and retrained, at most 21.8 k and 33 k weights. "extreme": the
second-order ramp of pruning_extreme.py to 3,400 (longer) and 3,000 weights, 12 and 8 codes, biases
of 6 and 8 bits. The file of each: once as the thesis says (gaps of 5 bits, Huffman), once with
the gaps' width chosen by cost, once as small as we can. Every file is read in a new process, and
the errors are those of what it read. "positions" is what of a file says where the weights are. 1 kB
= 1000 B.
Source: thesis Tables 4.2 and 4.3 (Deep Compression, Tables 1 to 3).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import copy
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks"), str(Path(__file__).parent)]

import pruning_extreme  # noqa: E402
import pruning_lenet  # noqa: E402
from _measure import write_table  # noqa: E402
from data import Dataset, load  # noqa: E402
from held_out import split  # noqa: E402
from models import LeNet5, LeNet300100  # noqa: E402
from paired import mean_and_deviation  # noqa: E402
from training_loop import HAS_FAST_BFLOAT16, fit  # noqa: E402

import pomona  # noqa: E402

NETWORKS = {"LeNet-300-100": LeNet300100, "LeNet-5": LeNet5}
BITS = {"LeNet-300-100": {"*": 6}, "LeNet-5": {"conv*": 8, "*": 5}}
CODES = {"LeNet-300-100": (12, 15), "LeNet-5": (8, 6)}  # codes, 0.0 among them; epochs
BIAS_BITS = {"LeNet-300-100": 6, "LeNet-5": 8}
# The last ramp of pruning_extreme.py, to fewer weights and longer (chosen on held-out images).
LAST_STAGE = {"LeNet-300-100": pruning_extreme.Stage(3_400, 30, 50, 2e-3)}
MODES = {
    "thesis: 5-bit gaps, Huffman": {"coding": "huffman", "gap_bits": 5},
    "best gaps, Huffman": {"coding": "huffman"},
    "smallest": {"coding": "smallest"},
}
ONCE, MORE, EXTREME = "12x pruned", "pruned once more", "extreme"
# Sparsities of the second pruning, which leaves 21.3 k and 32.5 k weights; what trains them after.
FEWER = {
    "LeNet-300-100": {"fc1": 0.922, "fc2": 0.91, "fc3": 0.74},
    "LeNet-5": {"conv1": 0.34, "conv2": 0.88, "fc1": 0.9295, "fc2": 0.81},
}
AFTER_FEWER = {"epochs": 6, "lr": 0.02}
GOALS = {  # bytes and error in percent; the first row has none, it is reported
    ("LeNet-300-100", ONCE): None,
    ("LeNet-5", ONCE): None,
    ("LeNet-300-100", MORE): (27_000, 1.58),
    ("LeNet-5", MORE): (44_000, 0.74),
    ("LeNet-300-100", EXTREME): (3_300, 1.65),
    ("LeNet-5", EXTREME): (3_150, 0.78),
}

Found = dict[str, Any]

READ = """
import sys, json
sys.path[:0] = {paths!r}
from data import load
from held_out import split
from models import {model}
from training_loop import error_percent
import pomona, torch
torch.set_num_threads(1)
model = {model}()
tensors = pomona.load({file!r})
for name, tensor in tensors.items():  # dead neurons have left: take the file's shapes
    *path, last = name.split(".")
    module = model.get_submodule(".".join(path))
    setattr(module, last, torch.nn.Parameter(tensor))
print(json.dumps(error_percent(model, split(load("mnist"), False, {quick!r}))))
"""


def error_of_file(file: Path, network: str, quick: bool) -> float:
    """The test error of what a new process reads from a file."""
    program = READ.format(
        paths=[str(ROOT / "examples"), str(ROOT / "benchmarks"), str(Path(__file__).parent)],
        model=NETWORKS[network].__name__,
        file=str(file),
        quick=quick,
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return float(json.loads(run.stdout.splitlines()[-1]))


def share_and_train(
    model: torch.nn.Module,
    dataset: Dataset,
    rules: dict[str, pomona.Share],
    *,
    epochs: int,
    lr: float,
    shift: int,
) -> None:
    """Share, and train centroids and biases."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    sharer = pomona.Sharer(model, rules, optimizer=optimizer)
    sharer.step()
    fast = HAS_FAST_BFLOAT16 and isinstance(model, LeNet5)
    fit(model, optimizer, dataset, epochs=epochs, lr=lr, shift=shift, seed=7, bfloat16=fast)
    sharer.step()
    sharer.finalize()


def rounded(tensors: dict[str, torch.Tensor], bias_bits: int) -> dict[str, torch.Tensor]:
    """Codebook entries in bfloat16, biases as multiples of a power of two, of so many bits."""
    result = {}
    for name, tensor in tensors.items():
        if not name.endswith("bias"):
            result[name] = tensor.bfloat16().float()
        else:
            step = 2.0 ** torch.ceil(torch.log2(tensor.abs().max() / (2 ** (bias_bits - 1) - 1)))
            result[name] = torch.round(tensor / step) * step + 0.0
    return result


def saved(tensors: dict[str, torch.Tensor], network: str, quick: bool) -> dict[str, Found]:
    """Bytes and error of each way to write a network."""
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as folder:
        for mode, options in MODES.items():
            file = Path(folder) / "net.pomona"
            report = pomona.save(tensors, file, **options)
            error = error_of_file(file, network, quick)
            found[mode] = {
                "bytes": report.file_bytes,
                "error": error,
                "layers": [layer_row(entry) for entry in report.entries if len(entry.shape) > 1],
                "kept": sum(e.kept for e in report.entries if len(e.shape) > 1),
                "positions": sum(e.position_bytes for e in report.entries),
            }
    return found


def layer_row(entry: Any) -> list[object]:
    """The columns of Deep Compression's Tables 2 and 3; fillers are entries of both streams."""
    stored = entry.kept + entry.fillers
    code_bits = max(1, entry.centroids).bit_length()  # code 0 is the filler's
    raw = stored * (code_bits + entry.gap_bits) + 32 * entry.centroids
    return [
        entry.name.removesuffix(".weight"),
        f"{entry.numel:,}",
        f"{100 * entry.kept / entry.numel:.0f}%",
        code_bits,
        f"{8 * entry.code_bytes / entry.kept:.1f}",
        entry.gap_bits or "-",
        f"{8 * entry.position_bytes / entry.kept:.1f}",
        f"{100 * raw / (32 * entry.numel):.2f}%" if entry.gap_bits else "-",
        f"{100 * entry.bytes / (4 * entry.numel):.2f}%",
    ]


def moderate(network: str, seed: int, quick: bool) -> dict[str, torch.nn.Module]:
    """One seed, pruned and shared as the thesis did it, and one pruned once more."""
    recipe = next(r for r in pruning_lenet.RECIPES if r.network == network and r.shift == 0)
    model, dataset, _ = pruning_lenet.dense_and_pruned(recipe, seed, False, quick)
    fewer = copy.deepcopy(model)
    phase = dataclasses.replace(recipe.pruned, **AFTER_FEWER)
    pruning_lenet.train(fewer, phase, dataset, 0, seed + 200, FEWER[network])
    rules = {p: pomona.Share(bits, fit="linear") for p, bits in BITS[network].items()}
    models = {ONCE: model, MORE: fewer}
    for each in models.values():
        share_and_train(each, dataset, rules, epochs=1 if quick else 2, lr=3e-4, shift=0)
    return models


def extreme(network: str, seed: int, quick: bool) -> dict[str, torch.nn.Module]:
    """One seed of the smallest network."""
    recipe = next(r for r in pruning_extreme.RECIPES if r.network == network)
    if stage := LAST_STAGE.get(network):
        recipe = dataclasses.replace(recipe, stages=(*recipe.stages[:-1], stage))
    model, _ = pruning_extreme.pruned(recipe, seed, False, quick)
    dataset = split(load("mnist"), False, quick)
    codes, epochs = CODES[network]
    rules = {"*": pomona.Share((codes - 1).bit_length(), codes=codes)}
    epochs = 1 if quick else epochs
    share_and_train(model, dataset, rules, epochs=epochs, lr=1e-3, shift=recipe.shift)
    return {EXTREME: model}


def kept_file(keep: Path, network: str, rows: tuple[str, ...], seed: int) -> Path:
    """Where the networks of one training are kept."""
    return keep / f"{network} {rows[0]} {seed}.pt"


def run(
    network: str, rows: tuple[str, ...], seed: int, quick: bool, keep: Path | None
) -> dict[str, dict[str, Found]]:
    """Train one seed, or take it from where it is kept, and write the files of each row."""
    began = time.perf_counter()
    kept = None if keep is None else kept_file(keep, network, rows, seed)
    if kept is not None and kept.exists():
        states = torch.load(kept, weights_only=True)
    else:
        models = {ONCE: moderate, EXTREME: extreme}[rows[0]](network, seed, quick)
        states = {row: model.state_dict() for row, model in models.items()}
        if kept is not None:
            torch.save(states, kept)
    if EXTREME in states:
        states[EXTREME] = rounded(states[EXTREME], BIAS_BITS[network])
    found = {row: saved(tensors, network, quick) for row, tensors in states.items()}
    for row, modes in found.items():
        sizes = ", ".join(f"{f['bytes']:,} B {f['error']:.2f} %" for f in modes.values())
        seconds = time.perf_counter() - began
        print(f"  {network}, {row}, seed {seed}: {sizes}, {seconds:.0f} s", flush=True)
    return found


def rows_of(network: str, row: str, runs: Sequence[dict[str, Found]]) -> list[list[object]]:
    """A line for each way to write the network."""
    dense = 4 * sum(p.numel() for p in NETWORKS[network]().parameters())
    goal = GOALS[network, row]
    rows = []
    for mode in MODES:
        found = [run[mode] for run in runs]
        mean = statistics.mean(f["bytes"] for f in found)
        error = statistics.mean(f["error"] for f in found)
        positions = statistics.mean(f["positions"] for f in found)
        rows.append([
            *(network, row, mode, len(runs), f"{max(f['kept'] for f in found):,}"),
            f"{positions:,.0f}", f"{mean:,.0f}", f"{dense / mean:.0f}x",
            mean_and_deviation([f["error"] for f in found]),
            *(["-", "-", "-"] if goal is None else [
                f"{goal[0]:,}", f"{goal[1]:.2f}",
                "met" if mean <= goal[0] and error <= goal[1] else "not met",
            ]),
        ])  # fmt: skip
    return rows


def main() -> None:
    """Every seed of every network, the table and the tables of layers."""
    arguments = parse_arguments()
    together = ((EXTREME,), (ONCE, MORE))
    cases = [(n, rows) for n in ("LeNet-5", "LeNet-300-100") for rows in together]
    cases = [(n, rows) for n, rows in cases if arguments.only in (n, f"{n} {rows[0]}", "")]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        waiting = {
            case: [
                pool.submit(run, *case, seed, arguments.quick, arguments.keep)
                for seed in range(arguments.seeds)
                if not arguments.kept_only or kept_file(arguments.keep, *case, seed).exists()
            ]
            for case in cases
        }
        done = {case: [future.result() for future in futures] for case, futures in waiting.items()}
    runs = {(n, row): [f[row] for f in found] for (n, rows), found in done.items() for row in rows}
    columns = [
        "network",
        "row",
        "file",
        "seeds",
        "weights",
        "positions",
        "bytes",
        "ratio",
        "error %",
    ]
    columns += ["goal bytes", "goal %", "goal"]
    order = [case for case in GOALS if runs.get(case)]
    table = [row for case in order for row in rows_of(*case, runs[case])]
    layers = [
        [network, *layer]
        for network, row in order
        if row == ONCE
        for layer in runs[network, row][0][next(iter(MODES))]["layers"]
    ]
    layer_columns = ["network", "layer", "weights", "kept", "code bits", "Huffman"]
    layer_columns += ["gap bits", "Huffman ", "rate", "with Huffman"]
    if arguments.quick or (arguments.only and arguments.only not in NETWORKS):
        print(columns, *table, layer_columns, *layers, sep="\n")
        return
    # A network by itself has tables of its own: those of both stay.
    stem = "deep_compression" + arguments.only.lower().replace("-", "").replace("lenet", "_lenet")
    title = arguments.only or "LeNets"
    keep = {" ".join(case): found for case, found in runs.items()}
    write_table(stem, f"{title}, compressed", columns, table, runs=keep)
    write_table(f"{stem}_layers", f"{title} by layer, seed 0", layer_columns, layers)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="a network, or a network and a row")
    parser.add_argument("--keep", type=Path, help="folder for the trained networks")
    parser.add_argument("--kept-only", action="store_true", help="of the folder, and no other")
    parser.add_argument("--quick", action="store_true", help="an epoch each, to see that it runs")
    arguments = parser.parse_args()
    if arguments.kept_only and arguments.keep is None:
        parser.error("--kept-only wants --keep")
    return arguments


if __name__ == "__main__":
    main()
