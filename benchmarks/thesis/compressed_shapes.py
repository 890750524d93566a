"""AlexNet and VGG-16 as files: their shapes, the thesis's densities and bits, synthetic weights.

    python benchmarks/thesis/compressed_shapes.py [--networks AlexNet VGG-16]

Each layer is a Gaussian of which the largest magnitudes are kept (Deep Compression, Tables 4 and
5), shared with equally spaced centroids (the linear initialization, before k-means). Files: as the
thesis (gaps of 4 bits in AlexNet, of 5 in VGG-16, Huffman), the fastest to read, and the smallest.
Of each: bytes, the seconds that a new process with two threads takes to read it into tensors, and
how much memory beside the tensors that process needed. "entropy" is the least that a file of such
tensors takes on average: positions and codes are independent draws, so no coder can do better.
Goals: 6.9 and 11.3 MB as the thesis, read in under a second, 64 MB beside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks")]

from _measure import write_table  # noqa: E402

import pomona  # noqa: E402

# name, shape, percent kept, bits of a code. Deep Compression, Tables 4 and 5.
ALEXNET = [
    ("conv1", (96, 3, 11, 11), 84, 8),
    ("conv2", (256, 48, 5, 5), 38, 8),
    ("conv3", (384, 256, 3, 3), 35, 8),
    ("conv4", (384, 192, 3, 3), 37, 8),
    ("conv5", (256, 192, 3, 3), 37, 8),
    ("fc6", (4096, 9216), 9, 5),
    ("fc7", (4096, 4096), 9, 5),
    ("fc8", (1000, 4096), 25, 5),
]
VGG16 = [
    ("conv1_1", (64, 3, 3, 3), 58, 8),
    ("conv1_2", (64, 64, 3, 3), 22, 8),
    ("conv2_1", (128, 64, 3, 3), 34, 8),
    ("conv2_2", (128, 128, 3, 3), 36, 8),
    ("conv3_1", (256, 128, 3, 3), 53, 8),
    ("conv3_2", (256, 256, 3, 3), 24, 8),
    ("conv3_3", (256, 256, 3, 3), 42, 8),
    ("conv4_1", (512, 256, 3, 3), 32, 8),
    ("conv4_2", (512, 512, 3, 3), 27, 8),
    ("conv4_3", (512, 512, 3, 3), 34, 8),
    ("conv5_1", (512, 512, 3, 3), 35, 8),
    ("conv5_2", (512, 512, 3, 3), 29, 8),
    ("conv5_3", (512, 512, 3, 3), 36, 8),
    ("fc6", (4096, 25088), 4, 5),
    ("fc7", (4096, 4096), 4, 5),
    ("fc8", (1000, 4096), 23, 5),
]
NETWORKS = {"AlexNet": (ALEXNET, 4, 6.9), "VGG-16": (VGG16, 5, 11.3)}

READ = """
import sys, time
import torch
torch.set_num_threads(2)
import pomona
def kilobytes(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what + ":"))
small = pomona.load(sys.argv[2])
open("/proc/self/clear_refs", "w").write("5")
before = kilobytes("VmRSS")
begin = time.perf_counter()
tensors = pomona.load(sys.argv[1])
seconds = time.perf_counter() - begin
dense = sum(t.numel() * t.element_size() for t in tensors.values())
print(seconds, 1024 * (kilobytes("VmHWM") - before) - dense)
"""


def make(layers: list[tuple[str, tuple[int, ...], int, int]]) -> dict[str, torch.Tensor]:
    """The tensors of a network, pruned and shared, and its biases."""
    torch.manual_seed(0)
    tensors = {}
    for name, shape, percent, bits in layers:
        dense = {"weight": torch.randn(shape)}
        pruned = pomona.convert.compress(dense, prune={"weight": 1 - percent / 100})["weight"]
        tensors[f"{name}.weight"] = equally_spaced(pruned, 2**bits - 1)
        tensors[f"{name}.bias"] = torch.randn(shape[0])
    return tensors


def equally_spaced(pruned: torch.Tensor, centroids: int) -> torch.Tensor:
    """Each weight as the nearest of so many centroids from the least to the largest; zeros stay."""
    kept = pruned != 0
    low, high = pruned.min(), pruned.max()
    step = (high - low) / (centroids - 1)
    return torch.where(kept, torch.round((pruned - low) / step) * step + low, 0.0)


def entropy_bytes(tensors: dict[str, torch.Tensor]) -> float:
    """Positions and codes at the entropy of their draws; biases as they lie in memory."""
    bits = 0.0
    for tensor in tensors.values():
        if tensor.dim() == 1:
            bits += 32 * tensor.numel()
            continue
        _, counts = torch.unique(tensor, return_counts=True)  # 0.0 among them: a pruned weight
        share = counts.double() / tensor.numel()
        bits += -float((share * torch.log2(share)).sum()) * tensor.numel()
    return bits / 8


def read(file: Path, small: Path) -> tuple[float, float]:
    """(seconds, bytes beside the tensors): the best of three new processes."""
    runs = []
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", READ, str(file), str(small)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        runs.append(tuple(map(float, run.stdout.split())))
    return min(r[0] for r in runs), min(r[1] for r in runs)


def main() -> None:
    """Every network in every coding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rows = []
    for network in arguments.networks:
        layers, gap_bits, goal = NETWORKS[network]
        tensors = make(layers)
        dense = sum(t.numel() * 4 for t in tensors.values())
        least = entropy_bytes(tensors)
        modes = {
            f"thesis: {gap_bits}-bit gaps, Huffman": {"coding": "huffman", "gap_bits": gap_bits},
            "fast": {"coding": "fast"},
            "smallest": {"coding": "smallest"},
        }
        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder) / "small.pomona"
            pomona.save({"w": torch.ones(3)}, small)
            for mode, options in modes.items():
                file = Path(folder) / "net.pomona"
                begin = time.perf_counter()
                report = pomona.save(tensors, file, **options)
                written = time.perf_counter() - begin
                seconds, beside = read(file, small)
                bytes_ = report.file_bytes
                rows.append([
                    *(network, mode, f"{bytes_ / 1e6:.2f}", f"{least / 1e6:.2f}", f"{goal:.1f}"),
                    *(f"{dense / bytes_:.0f}x", f"{written:.1f}", f"{seconds:.2f}"),
                    f"{beside / 1e6:.0f}",
                ])  # fmt: skip
                print(*rows[-1], flush=True)
    columns = [
        "network",
        "file",
        "MB",
        "entropy MB",
        "thesis MB",
        "ratio",
        "write s",
        "read s",
        "MB beside",
    ]
    if set(arguments.networks) == set(NETWORKS):
        write_table("compressed_shapes", "AlexNet and VGG-16, synthetic weights", columns, rows)
    else:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
