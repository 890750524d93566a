"""Everything else that can multiply one matrix at batch 1, each where it is installed."""

from __future__ import annotations

import warnings

import _native
import _onnx_rivals
import torch
from _candidates import Candidate
from torch import nn
from torch.nn import functional

try:
    import scipy
    import scipy.sparse
except ImportError:
    scipy = None

BEST = {  # what a goal calls "the best dense"
    "best dense fp32": ("torch linear", "torch mv", "stream", "onnxruntime"),
    "best dense int8": ("torch dynamic int8", "onnxruntime int8", "onnxruntime int8, QDQ"),
}
FROZEN = "frozen pg32"


def versions() -> dict[str, str]:
    """Of every rival; why one does not run."""
    found = {
        "torch": torch.__version__,
        "torch dynamic int8": f"engine {torch.backends.quantized.engine}",
        "scipy": "skipped: not installed" if scipy is None else scipy.__version__,
        **_onnx_rivals.versions(),
    }
    one = torch.ones(1, 1)
    stream, frozen = _native.stream(one, one, 1), _native.frozen_pg32(one, one, 1)
    found["stream"] = f"skipped: {stream}" if isinstance(stream, str) else _native.stream_isa()
    found[FROZEN] = f"skipped: {frozen}" if isinstance(frozen, str) else "AVX-512"
    return found


def rivals(weight: torch.Tensor, x: torch.Tensor, threads: int) -> dict[str, Candidate]:
    """By name, x of float32 in all: what a rival converts, it converts inside the call."""
    return {
        **_torch(weight, x),
        **_onnx_rivals.candidates(weight, x, threads),
        **_scipy(weight, x),
        **_native_ones(weight, x, threads),
    }


def _torch(weight: torch.Tensor, x: torch.Tensor) -> dict[str, Candidate]:
    size, nnz = weight.numel(), int(weight.count_nonzero())
    half = weight.bfloat16()
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.out_features, layer.in_features = weight.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a beta, a deprecation
        sparse = weight.to_sparse_csr()
        quantized = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8
        )
    return {
        "torch linear": Candidate(lambda: functional.linear(x, weight), 4 * size),
        "torch mv": Candidate(lambda: torch.mv(weight, x[0]), 4 * size),
        "torch bf16": Candidate(lambda: functional.linear(x.bfloat16(), half), 2 * size, 2e-2),
        "torch dynamic int8": Candidate(lambda: quantized(x), size, 0.1),
        "torch.sparse CSR": Candidate(lambda: sparse @ x[0], 12 * nnz),
    }


def _scipy(weight: torch.Tensor, x: torch.Tensor) -> dict[str, Candidate]:
    if scipy is None:
        return {}
    rows, vector = scipy.sparse.csr_matrix(weight.numpy()), x[0].numpy()
    reads = 8 * rows.nnz
    return {"scipy CSR": Candidate(lambda: rows @ vector, reads, output=torch.as_tensor)}


def _native_ones(weight: torch.Tensor, x: torch.Tensor, threads: int) -> dict[str, Candidate]:
    made = {
        "stream": _native.stream(weight, x, threads),
        FROZEN: _native.frozen_pg32(weight, x, threads),
    }
    return {name: one for name, one in made.items() if isinstance(one, Candidate)}
