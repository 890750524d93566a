"""What a network costs: nonzeros, bytes (beside general compressors) and milliseconds."""

from __future__ import annotations

import hashlib
import importlib
import lzma
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence

import torch


def nonzeros(model: torch.nn.Module) -> int:
    """Weights that are not 0, biases not counted."""
    return sum(int(p.count_nonzero()) for p in model.parameters() if p.dim() >= 2)


def digests(model: torch.nn.Module) -> dict[str, str]:
    """SHA-256 of every tensor's bits, to compare two models without sending them."""
    return {
        name: hashlib.sha256(_content(tensor)).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def dense_bytes(model: torch.nn.Module) -> dict[str, int | None]:
    """The size of all tensors written one after the other: raw, ``zstd -19``, ``xz -9``."""
    content = b"".join(_content(tensor) for tensor in model.state_dict().values())
    return {
        "raw": len(content),
        "zstd -19": _zstd(content),
        "xz -9": len(lzma.compress(content, preset=9)),
    }


@torch.inference_mode()
def milliseconds(
    models: Mapping[str, torch.nn.Module], inputs: torch.Tensor, *, runs: int = 50
) -> dict[str, float]:
    """Median time of one forward pass of each model on one thread, the models taking turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in models}
    for run in range(runs + 5):
        for name, model in models.items():
            begun = time.perf_counter()
            model(inputs)
            if run >= 5:  # the first few warm caches up
                times[name].append(1000 * (time.perf_counter() - begun))
    torch.set_num_threads(threads)
    return {name: statistics.median(taken) for name, taken in times.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns under their names, the first to the left, the others to the right; ``-`` for None."""
    cells = [list(header), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _content(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _zstd(content: bytes) -> int | None:
    """With the Python package, or else the program; None where there is neither."""
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError:
        program = shutil.which("zstd")
        if program is None:
            return None
        command = [program, "-19", "--stdout", "--quiet"]
        return len(subprocess.run(command, input=content, capture_output=True, check=True).stdout)
    return len(zstandard.ZstdCompressor(level=19).compress(content))
