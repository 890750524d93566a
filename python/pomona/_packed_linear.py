"""PackedLinear runs on packed weights; pomona.nn has its public name."""

from __future__ import annotations

import functools
import logging
from typing import Any, Literal, get_args

import torch
from torch import nn

from . import _C
from ._packed_base import PackedLayer

# The overload, looked up once: a layer may run in ten microseconds.
_packed_linear = torch.ops.pomona.packed_linear.default


Layout = Literal["csr16", "pg32", "pgv", "lut", "csc16"]
Precision = Literal["fp32", "bf16", "fixed16", "int8"]


PRECISIONS = get_args(Precision)

_log = logging.getLogger("pomona")


def done_precision(what: str, precision: Precision) -> Precision:
    """What this processor has instructions for; another one is done in fp32, which is said once."""
    if precision not in PRECISIONS:
        raise _C.InvalidArgument(
            f"{what}: expected `precision` to be fp32, bf16, fixed16 or int8, got {precision!r}."
        )
    if precision in _C.fast_precisions():
        return precision
    _say_once(f"{what}: this processor has no instructions for {precision}; packing in fp32")
    return "fp32"


@functools.cache
def _say_once(message: str) -> None:
    _log.warning(message)


def packed_bytes(weight: torch.Tensor, layout: Layout | None, precision: Precision) -> torch.Tensor:
    """A matrix as a layer keeps it, on its device."""
    weight = weight.detach()
    if layout is None:
        # Others run on the CPU only.
        found = _C.layouts_for(weight, "weight", precision) if weight.is_cpu else ["csr16"]
        layout = found[0] if found else ("pg32" if precision == "bf16" else "pgv")
    return _C.pack(weight, "weight", layout, precision).to(weight.device)


class PackedLinear(PackedLayer):
    """``y = x W^T + b`` on packed weights: only the nonzeros are stored and multiplied.

    Made for inference. The product is float32 or as ``precision`` says; input of another floating
    dtype is widened and the output has the input's dtype (float64 included). ``packed`` (uint8) and
    ``bias`` are buffers, so ``state_dict``, ``deepcopy``, ``pickle`` and ``.to()`` work, and
    ``.half()`` leaves the packed bytes alone. Gradients reach the input and ``bias``, never the
    packed weights. An infinite or NaN input reaches outputs as in a dense product (0 times infinity
    is NaN).

    Shape:
        input ``[..., in_features]``, output ``[..., out_features]``.

    Args:
        weight: ``[out_features, in_features]``, float32, float16 or bfloat16, finite.
        bias: ``[out_features]``, floating point, or None. Both are copied.
        layout: "csr16" (any weight), "pg32" or "pgv" (shared weights of up to 31 values and zero;
            made for AVX2 and AVX-512), "lut" (of up to 256 values, zero among them; hardly pruned),
            "csc16" (of up to 128 values; reads nothing where the input is zero); None: the likely
            fastest on this machine.
        precision: "fp32"; "bf16": the input is rounded to bfloat16; "fixed16": input and weights in
            16-bit fixed point, sums exact (error at most 1e-4 of the largest output); "int8".
        relu: whether negative outputs become 0.

    Raises:
        InvalidArgument: another dtype or shape, NaN or Inf, a layout that cannot hold the weight.

    Reference:
        Thesis §4.8: sparse matrix-vector product at batch 1.

    Example:
        >>> import pomona, torch
        >>> linear = torch.nn.Linear(8, 4)
        >>> _ = pomona.Pruner(linear, {"*": 0.75}).step()
        >>> packed = PackedLinear.from_linear(linear)
        >>> torch.allclose(packed(torch.ones(8)), linear(torch.ones(8)), atol=1e-6)
        True
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        layout: Layout | None = None,
        precision: Precision = "fp32",
        relu: bool = False,
    ) -> None:
        """Pack the weight, on its device."""
        super().__init__()
        if not isinstance(weight, torch.Tensor):
            raise _C.InvalidArgument(
                f"PackedLinear: expected `weight` to be a tensor, got {type(weight).__name__}."
            )
        packed = packed_bytes(weight, layout, precision)
        self.out_features, self.in_features = weight.shape
        self.relu = relu
        self.register_buffer("packed", packed)
        self._check_bias(bias)
        self.register_buffer(
            "bias", None if bias is None else bias.detach().to(weight.device, copy=True)
        )

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        layout: Layout | None = None,
        precision: Precision = "fp32",
        relu: bool = False,
    ) -> PackedLinear:
        """The same layer, packed, in the same mode (training or not).

        Raises:
            InvalidArgument: not an nn.Linear, or a weight that cannot be packed.
        """
        if not isinstance(linear, nn.Linear):
            raise _C.InvalidArgument(
                "PackedLinear.from_linear: expected `linear` to be a torch.nn.Linear, "
                f"got {type(linear).__name__}."
            )
        options: dict[str, Any] = {"layout": layout, "precision": precision, "relu": relu}
        return cls(linear.weight, linear.bias, **options).train(linear.training)

    @classmethod
    def from_packed(
        cls, packed: torch.Tensor, bias: torch.Tensor | None = None, *, relu: bool = False
    ) -> PackedLinear:
        """A layer of bytes that are packed already, as ``packed`` of another has them; not copied.

        Raises:
            InvalidArgument: bytes that no layer of this version has packed, or a bias that does not
                fit.
        """
        _, _, rows, cols, _ = _C.packed_facts(packed)
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.out_features, layer.in_features, layer.relu = rows, cols, relu
        layer.register_buffer("packed", packed)
        layer._check_bias(bias)
        layer.register_buffer("bias", None if bias is None else bias.detach())
        return layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` -> ``[..., out_features]``, in the input's dtype."""
        bias = self.bias
        if bias is not None and bias.dtype is not torch.float32:
            bias = bias.float()
        if input.dtype is torch.float32 or not input.is_floating_point():
            return _packed_linear(input, self.packed, bias, self.out_features, relu=self.relu)
        output = _packed_linear(input.float(), self.packed, bias, self.out_features, relu=self.relu)
        return output.to(input.dtype)

    def extra_repr(self) -> str:
        """What print() shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, relu={self.relu}, bytes={self.packed.numel()}"
        )

    def _matrix_shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def _pack_anew(self, weight: torch.Tensor) -> torch.Tensor:
        return _C.pack(weight, "weight", self.layout, self.precision)

    def _check_bias(self, bias: torch.Tensor | None) -> None:
        if bias is None:
            return
        is_tensor = isinstance(bias, torch.Tensor)
        if not is_tensor or not bias.is_floating_point() or bias.shape != (self.out_features,):
            got = f"{bias.dtype} {list(bias.shape)}" if is_tensor else type(bias).__name__
            raise _C.InvalidArgument(
                "PackedLinear: expected `bias` to be floating point of shape "
                f"[{self.out_features}], got {got}."
            )
