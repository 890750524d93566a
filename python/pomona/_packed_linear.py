"""PackedLinear runs on packed weights; pomona.nn has its public name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import _C

# The overloads, looked up once: a layer may run in ten microseconds.
_packed_linear = torch.ops.pomona.packed_linear.default
_packed_weight = torch.ops.pomona.packed_weight.default


class PackedLinear(nn.Module):
    """``y = x W^T + b`` on packed weights: only the nonzeros are stored and multiplied.

    Made for inference. The product is float32; input of another floating dtype is widened and the
    output has the input's dtype (float64 included). ``packed`` (uint8) and ``bias`` are buffers, so
    ``state_dict``, ``deepcopy``, ``pickle`` and ``.to()`` work, and ``.half()`` leaves the packed
    bytes alone. Gradients reach the input and ``bias``, never the packed weights. An infinite or
    NaN input does not reach an output through a pruned weight (a dense product gives NaN there).

    Shape:
        input ``[..., in_features]``, output ``[..., out_features]``.

    Args:
        weight: ``[out_features, in_features]``, float32, float16 or bfloat16, finite.
        bias: ``[out_features]``, floating point, or None. Both are copied.

    Raises:
        InvalidArgument: another dtype or shape, NaN or Inf.

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

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Pack the weight, on its device."""
        super().__init__()
        if not isinstance(weight, torch.Tensor):
            raise _C.InvalidArgument(
                f"PackedLinear: expected `weight` to be a tensor, got {type(weight).__name__}."
            )
        packed = _C.pack(weight.detach(), "weight")
        self.out_features, self.in_features = weight.shape
        self.register_buffer("packed", packed.to(weight.device))
        self._check_bias(bias)
        self.register_buffer(
            "bias", None if bias is None else bias.detach().to(weight.device, copy=True)
        )

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> PackedLinear:
        """The same layer, packed, in the same mode (training or not).

        Raises:
            InvalidArgument: not an nn.Linear, or a weight that cannot be packed.
        """
        if not isinstance(linear, nn.Linear):
            raise _C.InvalidArgument(
                "PackedLinear.from_linear: expected `linear` to be a torch.nn.Linear, "
                f"got {type(linear).__name__}."
            )
        return cls(linear.weight, linear.bias).train(linear.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` -> ``[..., out_features]``, in the input's dtype."""
        bias = self.bias
        if bias is not None and bias.dtype is not torch.float32:
            bias = bias.float()
        if input.dtype is torch.float32 or not input.is_floating_point():
            return _packed_linear(input, self.packed, bias, self.out_features)
        output = _packed_linear(input.float(), self.packed, bias, self.out_features)
        return output.to(input.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight ``[out_features, in_features]``, float32, made anew at each access."""
        return _packed_weight(self.packed, self.out_features, self.in_features)

    def pack_weight_(self, weight: torch.Tensor) -> None:
        """Pack another weight of the same shape into this layer.

        Raises:
            InvalidArgument: another dtype or shape, NaN or Inf. Then the layer is as it was.
        """
        packed = _C.pack(weight.detach(), "weight")
        if problem := self._problem(packed):
            raise _C.InvalidArgument(problem)
        self.packed = packed.to(self.packed.device)

    @property
    def nnz(self) -> int:
        """How many weights are stored."""
        return _C.packed_facts(self.packed)[3]

    def extra_repr(self) -> str:
        """What print() shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, bytes={self.packed.numel()}"
        )

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

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take packed bytes of any length that hold a weight of this layer's shape."""
        key = f"{prefix}packed"
        loaded = state_dict.get(key)
        if isinstance(loaded, torch.Tensor) and not loaded.is_meta:
            problem = self._problem(loaded)
            if problem:
                error_msgs.append(f"{key}: {problem}")
                state_dict = {**state_dict, key: self.packed}
            elif loaded.shape != self.packed.shape:
                self.packed = torch.empty_like(loaded, device=self.packed.device)
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def _problem(self, packed: torch.Tensor) -> str:
        """Why these bytes are not this layer's; empty when they are."""
        try:
            _, rows, cols, _ = _C.packed_facts(packed)
        except _C.InvalidArgument as error:
            return str(error)
        if (rows, cols) == (self.out_features, self.in_features):
            return ""
        return (
            f"PackedLinear: expected `packed` of shape [{self.out_features}, {self.in_features}], "
            f"got [{rows}, {cols}]."
        )
