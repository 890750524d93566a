"""Compact layers: SharedLinear trains through its codebook, PackedLinear runs on packed weights.

The same names, buffers and outputs as ``pomona::nn`` in C++.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from . import _C

__all__ = ["PackedLinear", "SharedLinear"]

_MAX_VALUES = 256  # codes have at most 8 bits


class SharedLinear(nn.Module):
    """``y = x W^T + b`` with ``W = lookup(codebook, codes)``: k floats to train, reduce and store.

    A layer with pruned weights (``has_zero``) has code 0 = 0.0, which no entry of ``codebook``
    holds and no step can move. A fresh layer is a frame for ``load_state_dict``;
    :meth:`from_linear` makes one from a shared layer.

    Args:
        in_features: columns of the weight.
        out_features: rows of the weight.
        centroids: entries of the codebook, 0 to 256 together with the zero.
        bias: whether there is one.
        has_zero: whether code 0 stands for 0.0.
        device: of parameters and codes.
        dtype: of codebook and bias.

    Shapes:
        input ``[..., in_features]``, output ``[..., out_features]``, ``codebook [centroids]``
        (Parameter), ``codes`` uint8, flat and packed (buffer), ``bias [out_features]`` (Parameter).

    Reference: thesis §4.2-4.3.

    >>> linear = torch.nn.Linear(3, 2)
    >>> _ = linear.weight.data.copy_(torch.tensor([[0.0, 0.5, -1.0], [0.5, 0.0, 2.0]]))
    >>> SharedLinear.from_linear(linear)
    SharedLinear(in_features=3, out_features=2, centroids=3, has_zero=True, bits=2, bias=True)
    """

    codes: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        centroids: int,
        bias: bool = True,
        *,
        has_zero: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the frame; every weight is zero."""
        super().__init__()
        codes = centroids + has_zero
        if centroids < 0 or not 1 <= codes <= _MAX_VALUES:
            raise _C.InvalidArgument(
                f"SharedLinear: expected `centroids` (and the zero) in 1..256, got {codes}."
            )
        self.in_features = in_features
        self.out_features = out_features
        self.has_zero = has_zero
        self.bits: int = _C.storage_bits(codes)
        self.codebook = nn.Parameter(torch.zeros(centroids, device=device, dtype=dtype))
        size = (out_features * in_features * self.bits + 7) // 8
        self.register_buffer("codes", torch.zeros(size, device=device, dtype=torch.uint8))
        self.bias = (
            nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )
        self._register_state_dict_hook(_write_has_zero)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> SharedLinear:
        """The layer of the same outputs, device, dtype and mode.

        Args:
            linear: of at most 256 distinct weights; they and the bias are copied, zeros become
                code 0.

        Raises:
            InvalidArgument: more than 256 distinct weights, NaN or Inf, or not a floating-point
                ``nn.Linear``.
        """
        weight = getattr(linear, "weight", None)
        if not isinstance(linear, nn.Linear) or not weight.is_floating_point():
            raise _C.InvalidArgument(
                "SharedLinear: expected `linear` to be a floating-point nn.Linear, "
                f"got {type(linear).__name__}."
            )
        if not weight.isfinite().all():
            raise _C.InvalidArgument(
                "SharedLinear: expected `linear.weight` to be finite, got NaN or Inf."
            )
        values, indices = weight.detach().unique(return_inverse=True)
        if len(values) > _MAX_VALUES:
            raise _C.InvalidArgument(
                "SharedLinear: expected `linear.weight` to have at most 256 distinct values, "
                f"got {len(values)}. Share it first (pomona.Sharer)."
            )
        is_zero = values == 0
        has_zero = len(values) == 0 or bool(is_zero.any())
        if has_zero:  # its code is 0, and those of the values before it move up by one
            order = torch.cat([is_zero.nonzero()[:, 0], (~is_zero).nonzero()[:, 0]])
            indices = order.argsort()[indices]
        return cls._from_codes(linear, values[~is_zero], indices.to(torch.uint8), has_zero)

    @classmethod
    def _from_codes(
        cls, linear: nn.Linear, codebook: torch.Tensor, codes: torch.Tensor, has_zero: bool
    ) -> SharedLinear:
        """From codebook [k] without the zero, and codes uint8 [out, in]."""
        layer = cls(
            linear.in_features,
            linear.out_features,
            len(codebook),
            linear.bias is not None,
            has_zero=has_zero,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        with torch.no_grad():
            layer.codebook.copy_(codebook)
            layer.codes.copy_(_C.pack_bits(codes.cpu().contiguous(), layer.bits))
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        layer.codebook.requires_grad_(linear.weight.requires_grad)
        if layer.bias is not None:
            layer.bias.requires_grad_(linear.bias.requires_grad)
        return layer.train(linear.training)

    @property
    def weight(self) -> torch.Tensor:
        """The weight [out_features, in_features], differentiable in ``codebook``."""
        codebook = F.pad(self.codebook, (1, 0)) if self.has_zero else self.codebook
        shape = (self.out_features, self.in_features)
        return torch.ops.pomona.lookup(codebook, self.codes, shape, bits=self.bits)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``input [..., in_features]`` to ``[..., out_features]``."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """What stands between the brackets of repr()."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"centroids={len(self.codebook)}, has_zero={self.has_zero}, bits={self.bits}, "
            f"bias={self.bias is not None}"
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
        """As nn.Module, but a state that would mean other weights here is an error."""
        problem = self._problem_of(state_dict.get(prefix + "codes"), local_metadata)
        if problem:
            error_msgs.append(f"{prefix}codes: {problem}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _problem_of(self, codes: torch.Tensor | None, metadata: dict[str, Any]) -> str:
        if metadata.get("has_zero", self.has_zero) != self.has_zero:
            return f"expected a layer with has_zero={self.has_zero}, got one with the other."
        if codes is None or codes.shape != self.codes.shape:
            return ""  # nn.Module has words for these
        if codes.dtype != torch.uint8:
            return f"expected packed codes of uint8, got {codes.dtype}."
        count = self.out_features * self.in_features
        if codes.is_meta or count == 0:
            return ""
        highest = int(_C.unpack_bits(codes.cpu().contiguous(), count, self.bits).max())
        most = len(self.codebook) + self.has_zero - 1
        return f"expected codes up to {most}, got {highest}." if highest > most else ""


def _write_has_zero(
    module: SharedLinear, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    """Beside the version: a codebook of k entries with a zero and one without look alike."""
    local_metadata["has_zero"] = module.has_zero


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
