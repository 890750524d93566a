"""Batch 1 on compressed weights: packed_linear in every layout beside everything else that runs.

    python benchmarks/bench_spmv.py [--quick] [--threads 1 2] [--layers Alex-6 ...]

The nine layers of EIE (Table III), Bernoulli patterns, 15 centroids. All candidates of a layer run
in turns in one process; a time is the least of many, x's preparation or quantization inside the
call, and a time below bytes / 200 GB/s is thrown away as a broken clock. "cold": after 96 MB have
been written, the third best of nine. Rivals: torch's dense layer in float32 (linear, mv) and
bfloat16, its dynamic int8, torch.sparse CSR, scipy CSR, and ONNX Runtime float32 and int8, each
where it is installed. Ratios are geometric means over the layers: rival / ours.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from _measure import write_table
from torch import nn
from torch.nn import functional

from pomona import _C
from pomona.nn import PackedLinear

try:
    import scipy.sparse
except ImportError:
    scipy = None
try:
    import onnx
    import onnxruntime
except ImportError:
    onnxruntime = None

LAYERS = {  # rows, cols, share of weights kept; EIE, Table III
    "Alex-6": (4096, 9216, 0.09),
    "Alex-7": (4096, 4096, 0.09),
    "Alex-8": (1000, 4096, 0.25),
    "VGG-6": (4096, 25088, 0.04),
    "VGG-7": (4096, 4096, 0.04),
    "VGG-8": (1000, 4096, 0.23),
    "NT-We": (600, 4096, 0.10),
    "NT-Wd": (8791, 600, 0.11),
    "NT-LSTM": (2400, 1201, 0.10),
}
# Name of a row: layout, precision, whether the codebook is rounded to bfloat16 beforehand.
OURS = {
    "csr16": ("csr16", "fp32", False),
    "pg32": ("pg32", "fp32", False),
    "pg32, bf16 codebook": ("pg32", "fp32", True),
    "pg32, bf16 x": ("pg32", "bf16", True),
    "pgv fixed16": ("pgv", "fixed16", False),
    "pgv int8": ("pgv", "int8", False),
}
DENSE = ("torch linear", "torch mv", "onnxruntime")
BROKEN_CLOCK = 200e9  # bytes a second


def matrix(rows: int, cols: int, density: float, bfloat16: bool) -> torch.Tensor:
    """A pruned and shared weight; equal patterns with either codebook."""
    generator = torch.Generator().manual_seed(0)
    book = torch.randn(15, generator=generator)
    if bfloat16:
        book = book.bfloat16().float()
    weight = torch.zeros(rows, cols)
    for row in weight.split(512):  # a few rows at a time: no temporary of the layer's size
        kept = torch.rand(row.shape, generator=generator) < density
        row[kept] = book[torch.randint(15, (int(kept.sum()),), generator=generator)]
    return weight


def onnx_session(weight: torch.Tensor, threads: int, int8: bool) -> Callable[[], object]:
    """A MatMul, or a dynamically quantized one, in ONNX Runtime; takes x when it is called."""
    helper, of_array = onnx.helper, onnx.numpy_helper.from_array
    rows, cols = weight.shape
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, cols])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, rows])
    transposed = weight.t().contiguous()
    if int8:
        scale = transposed.abs().max() / 127
        codes = (transposed / scale).round().to(torch.int8)
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
            helper.make_node("MatMulInteger", ["xq", "w", "xz"], ["yi"]),
            helper.make_node("Cast", ["yi"], ["yf"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["xs", "ws"], ["s"]),
            helper.make_node("Mul", ["yf", "s"], ["y"]),
        ]
        constants = [of_array(codes.numpy(), "w"), of_array(scale.numpy(), "ws")]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        constants = [of_array(transposed.numpy(), "w")]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(None, {"x": x.numpy()})


def rivals(weight: torch.Tensor, threads: int) -> dict[str, tuple[Callable, int]]:
    """Name -> (function of x, bytes that it reads)."""
    size = weight.numel()
    nnz = int(weight.count_nonzero())
    half = weight.bfloat16()
    sparse = weight.to_sparse_csr()
    found: dict[str, tuple[Callable, int]] = {
        "torch linear": (lambda x: functional.linear(x, weight), 4 * size),
        "torch mv": (lambda x: torch.mv(weight, x[0]), 4 * size),
        "torch bf16": (lambda x: functional.linear(x.bfloat16(), half), 2 * size),
        "torch.sparse CSR": (lambda x: sparse @ x[0], 12 * nnz),
    }
    layer = nn.Linear(*weight.shape[::-1], bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            quantized = torch.ao.quantization.quantize_dynamic(
                nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8
            )
            found["torch dynamic int8"] = (quantized, size)
        except (AttributeError, RuntimeError):
            pass
    if scipy is not None:
        rows = scipy.sparse.csr_matrix(weight.numpy())
        found["scipy CSR"] = (lambda x: rows @ x[0].numpy(), 8 * nnz)
    if onnxruntime is not None:
        found["onnxruntime"] = (onnx_session(weight, threads, False), 4 * size)
        found["onnxruntime int8"] = (onnx_session(weight, threads, True), size)
    return found


def ours(layer: str) -> dict[str, tuple[Callable, int]]:
    """The same for each of our layouts that has instructions here."""
    found: dict[str, tuple[Callable, int]] = {}
    for name, (layout, precision, bfloat16) in OURS.items():
        if precision in _C.fast_precisions():
            weight = matrix(*LAYERS[layer], bfloat16)
            packed = PackedLinear(weight, layout=layout, precision=precision)
            x = torch.rand(1, weight.shape[1])
            expected = x @ weight.t()
            error = (packed(x) - expected).abs().max() / expected.abs().max()
            allowed = {"fp32": 1e-4, "bf16": 2e-2, "fixed16": 1e-4, "int8": 0.1}[precision]
            assert error <= allowed, f"{layer}, {name}: {error}"
            found[name] = (packed, packed.packed.numel())
    return found


@torch.no_grad()
def measure(layer: str, threads: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Name -> (hot, cold) microseconds."""
    rows, cols, _ = LAYERS[layer]
    torch.set_num_threads(threads)
    weight = matrix(*LAYERS[layer], False)
    candidates = {**rivals(weight, threads), **ours(layer)}
    x = torch.rand(1, cols, generator=torch.Generator().manual_seed(1))
    flushed = torch.ones(24 << 20)
    hot = {name: math.inf for name in candidates}
    for run, _ in candidates.values():
        run(x)
        run(x)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, (run, size) in candidates.items():
            for _ in range(1 if size > 4 * rows * cols // 2 else 4):
                begin = time.perf_counter()
                run(x)
                took = time.perf_counter() - begin
                if took > size / BROKEN_CLOCK:
                    hot[name] = min(hot[name], took)
    cold: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(9 if seconds > 0.5 else 3):
        for name, (run, _) in candidates.items():
            flushed.add_(1)
            begin = time.perf_counter()
            run(x)
            cold[name].append(time.perf_counter() - begin)
    return {n: (1e6 * hot[n], 1e6 * sorted(cold[n])[len(cold[n]) // 4]) for n in candidates}


def main() -> None:
    """Every layer with every number of threads; the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short, nothing written")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    arguments = parser.parse_args()
    columns = ["threads", "candidate", *arguments.layers, "dense / this", "cold"]
    table = []
    for threads in arguments.threads:
        times = {}
        for layer in arguments.layers:
            times[layer] = measure(layer, threads, 0.3 if arguments.quick else 4.0)
            print(threads, layer, {n: round(t[0], 1) for n, t in times[layer].items()}, flush=True)
        dense = {
            layer: [min(t[n][i] for n in DENSE if n in t) for i in range(2)]
            for layer, t in times.items()
        }
        for name in times[arguments.layers[0]]:
            ratios = [
                statistics.geometric_mean(dense[x][i] / t[name][i] for x, t in times.items())
                for i in range(2)
            ]
            cells = [f"{t[name][0]:.1f}" for t in times.values()]
            table.append([threads, name, *cells, f"{ratios[0]:.2f}", f"{ratios[1]:.2f}"])
    if arguments.quick or arguments.layers != list(LAYERS):
        for row in (columns, *table):
            print(*row, sep="  ")
        return
    versions = {"torch": torch.__version__}
    if scipy is not None:
        versions["scipy"] = scipy.__version__
    if onnxruntime is not None:
        versions["onnxruntime"] = onnxruntime.__version__
    title = "Batch 1, microseconds: the nine layers of EIE"
    write_table("spmv", title, columns, table, versions=versions)


if __name__ == "__main__":
    main()
