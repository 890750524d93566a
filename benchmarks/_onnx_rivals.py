"""One matrix as graphs of ONNX Runtime, which is installed for the benchmarks only.

``pip install -r requirements/bench.txt``; without it these rivals are left out.
"""

from __future__ import annotations

from typing import Any

import torch
from _candidates import Candidate

try:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
    from onnx.numpy_helper import from_array
except ImportError:
    onnxruntime = None

_OPSETS = (("", 17), ("com.microsoft", 1))
_BLOCK = 32  # columns that share a scale in 4 bits
_LARGEST = 63  # of an int8 weight: ONNX Runtime's own advice for machines without VNNI
Parts = tuple[list[Any], list[Any]]  # nodes, constants


def versions() -> dict[str, str]:
    """Of what is installed."""
    if onnxruntime is None:
        return {"onnxruntime": "skipped: not installed (requirements/bench.txt)"}
    return {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}


def candidates(weight: torch.Tensor, x: torch.Tensor, threads: int) -> dict[str, Candidate]:
    """Dense in float32, int8 (x quantized anew at each call, or by a scale known before), 4 bits.

    4 bits: MatMulNBits with a scale for 32 weights, x in int8 or in float32.
    """
    if onnxruntime is None:
        return {}
    size = weight.numel()
    return {
        "onnxruntime": _candidate(_float32(weight), x, weight, threads, 4 * size, 1e-4),
        "onnxruntime int8": _candidate(_int8(weight), x, weight, threads, size, 0.1),
        "onnxruntime int8, QDQ": _candidate(_qdq(weight), x, weight, threads, size, 0.1),
        "onnxruntime 4-bit": _candidate(_nbits(weight, 4), x, weight, threads, size // 2, 0.3),
        "onnxruntime 4-bit, x fp32": _candidate(
            _nbits(weight, 1), x, weight, threads, size // 2, 0.3
        ),
    }


def _candidate(
    parts: Parts, x: torch.Tensor, weight: torch.Tensor, threads: int, reads: int, allowed: float
) -> Candidate:
    """A session with x and y bound to where they lie; threads spin as they do by default."""
    nodes, constants = parts
    rows, cols = weight.shape
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, cols])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, rows])
    graph = helper.make_graph(nodes, "g", [given], [made], constants)
    opsets = [helper.make_opsetid(*opset) for opset in _OPSETS]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    y = torch.empty(1, rows)
    binding = session.io_binding()
    for bind, name, tensor in ((binding.bind_input, "x", x), (binding.bind_output, "y", y)):
        bind(name, "cpu", 0, TensorProto.FLOAT, list(tensor.shape), tensor.data_ptr())

    def run() -> torch.Tensor:
        session.run_with_iobinding(binding)
        return y

    return Candidate(run, reads, allowed)


def _array(tensor: torch.Tensor, name: str) -> Any:
    return from_array(tensor.contiguous().numpy(), name)


def _float32(weight: torch.Tensor) -> Parts:
    return [helper.make_node("MatMul", ["x", "w"], ["y"])], [_array(weight.t(), "w")]


def _quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(int8 ``[cols, rows]``, its scale)."""
    scale = weight.abs().max() / _LARGEST
    return (weight.t() / scale).round().to(torch.int8), scale


def _int8(weight: torch.Tensor) -> Parts:
    codes, scale = _quantized(weight)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "w", "xz"], ["yi"]),
        helper.make_node("Cast", ["yi"], ["yf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "ws"], ["s"]),
        helper.make_node("Mul", ["yf", "s"], ["y"]),
    ]
    return nodes, [_array(codes, "w"), _array(scale, "ws")]


def _qdq(weight: torch.Tensor) -> Parts:
    codes, scale = _quantized(weight)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    zeros = [
        _array(torch.tensor(0, dtype=t), n) for t, n in ((torch.uint8, "xz"), (codes.dtype, "wz"))
    ]
    constants = [_array(codes, "w"), _array(scale, "ws"), _array(torch.tensor(1 / 255), "xs")]
    return nodes, constants + zeros


def _nbits(weight: torch.Tensor, accuracy: int) -> Parts:
    """``accuracy`` 4: x is quantized to int8; 1: it stays float32."""
    rows, cols = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -cols % _BLOCK)).view(rows, -1, _BLOCK)
    scales = padded.abs().amax(2).div(7).clamp(min=1e-9)
    codes = (padded / scales[..., None]).round().clamp(-8, 7).add(8).to(torch.uint8)
    packed = codes[..., 0::2] | codes[..., 1::2] << 4
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "scales"], ["y"], domain="com.microsoft",
        K=cols, N=rows, bits=4, block_size=_BLOCK, accuracy_level=accuracy,
    )  # fmt: skip
    return [node], [_array(packed, "w"), _array(scales, "scales")]
