"""Applying masks, beside `weight.mul_(float mask)` and `masked_fill_`: nanoseconds per weight.

A mask of bits reads a thirty-second of what a float mask reads. On one thread.

python benchmarks/bench_apply_masks.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _measure import in_turns, write_table

import pomona
from pomona import _C

LAYERS = {
    "LeNet-300 fc1": (300, 784),
    "Alex-8": (1000, 4096),
    "VGG-conv5": (512, 512, 3, 3),
    "VGG-conv5 channels_last": (512, 512, 3, 3),
}


def measure(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, float]:
    """Median seconds of each way."""
    last = torch.channels_last if name.endswith("channels_last") else torch.contiguous_format
    weight = torch.randn(shape).to(dtype).to(memory_format=last)
    pruner = _C.Pruner([("weight", list(shape), pomona.Prune(0.9)._row())])
    pruner.step([(weight, [])])
    keep = pruner.keep_mask(0, weight).to(memory_format=last)
    factor, drop = keep.to(dtype), ~keep
    ((_, mask),) = pruner.state()[4]
    ways = {
        "apply_masks_": lambda: torch.ops.pomona.apply_masks_([weight], [mask]),
        "mul_": lambda: weight.mul_(factor),
        "masked_fill_": lambda: weight.masked_fill_(drop, 0),
    }
    return in_turns(ways)


def main() -> None:
    """One row for each layer and dtype."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for layer, shape in LAYERS.items():
            seconds = measure(layer, shape, dtype)
            weights = torch.Size(shape).numel()
            cells = [f"{1e9 * value / weights:.3f}" for value in seconds.values()]
            ratio = f"{seconds['mul_'] / seconds['apply_masks_']:.1f}x"
            rows.append([f"apply_masks/cpu/{layer}/{str(dtype)[6:]}", *cells, ratio])
    columns = ["case", "apply_masks_ ns", "mul_ ns", "masked_fill_ ns", "over mul_"]
    write_table("apply_masks", "Applying a mask", columns, rows)


if __name__ == "__main__":
    main()
