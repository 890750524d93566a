"""What SharedLinear, SharedConv2d and SharedEmbedding have in common: codebook, codes, checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from . import _C

_MAX_VALUES = 256  # codes have at most 8 bits

_Self = TypeVar("_Self", bound="SharedLayer")


class SharedLayer(nn.Module):
    """Codebook, codes, and what reads and checks them; a subclass has a shape, options, forward().

    ``codebook [k]`` is the Parameter, without the zero; ``codes`` is a buffer, uint8, flat, packed
    in ``bits`` bits.
    """

    codes: torch.Tensor
    _dense: type[nn.Module]  # the twin
    _argument: str  # how from_...() calls it

    def __init__(
        self,
        centroids: int,
        shape: Sequence[int],
        has_zero: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        """Make the frame; every weight is zero."""
        super().__init__()
        codes = centroids + has_zero
        if centroids < 0 or not 1 <= codes <= _MAX_VALUES:
            raise _C.InvalidArgument(
                f"{type(self).__name__}: expected `centroids` (and the zero) in 1..256, "
                f"got {codes}."
            )
        self.has_zero = has_zero
        self.bits: int = _C.storage_bits(codes)
        self._shape = torch.Size(shape)
        self.codebook = nn.Parameter(torch.zeros(centroids, device=device, dtype=dtype))
        size = (self._shape.numel() * self.bits + 7) // 8
        self.register_buffer("codes", torch.zeros(size, device=device, dtype=torch.uint8))
        self._register_state_dict_hook(_write_has_zero)

    def _make_bias(self, size: int | None) -> None:
        bias = None if size is None else nn.Parameter(self.codebook.new_zeros(size))
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> torch.Tensor:
        """The weight as the dense layer has it, differentiable in ``codebook``."""
        return self._lookup(self.codes, self._shape)

    def _lookup(
        self, codes: torch.Tensor, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        return torch.ops.pomona.lookup(
            self.codebook, codes, shape, bits=self.bits, has_zero=self.has_zero, dtype=dtype
        )

    def to_dense(self) -> nn.Module:
        """The dense layer of the same outputs, device, dtype and mode; values are copied."""
        dtype = self.codebook.dtype
        layer = self._frame_of_dense(device=self.codebook.device, dtype=dtype)
        with torch.no_grad():
            layer.weight.copy_(self._lookup(self.codes, self._shape, dtype))
        layer.weight.requires_grad_(self.codebook.requires_grad)
        _copy_bias(self, layer)
        return layer.train(self.training)

    def _frame_of_dense(self, **factory: Any) -> nn.Module:
        """A dense layer of these options, its values not set."""
        raise NotImplementedError

    @classmethod
    def _frame_of(cls: type[_Self], dense: nn.Module, centroids: int, has_zero: bool) -> _Self:
        """A fresh layer of the options, device and dtype of a dense one."""
        raise NotImplementedError

    @classmethod
    def _why_not(cls, dense: nn.Module) -> str:
        """Which option of a dense layer this one cannot have; empty when it can be made."""
        return ""

    @classmethod
    def _from_dense(cls: type[_Self], dense: nn.Module) -> _Self:
        what = f"{cls.__name__}: expected `{cls._argument}"
        weight = getattr(dense, "weight", None)
        if not isinstance(dense, cls._dense) or not weight.is_floating_point():
            raise _C.InvalidArgument(
                f"{what}` to be a floating-point nn.{cls._dense.__name__}, "
                f"got {type(dense).__name__}."
            )
        if problem := cls._why_not(dense):
            raise _C.InvalidArgument(f"{what}` {problem}")
        if not weight.isfinite().all():
            raise _C.InvalidArgument(f"{what}.weight` to be finite, got NaN or Inf.")
        values, indices = weight.detach().unique(return_inverse=True)
        if len(values) > _MAX_VALUES:
            raise _C.InvalidArgument(
                f"{what}.weight` to have at most 256 distinct values, got {len(values)}. "
                "Share it first (pomona.Sharer)."
            )
        is_zero = values == 0
        has_zero = len(values) == 0 or bool(is_zero.any())
        if has_zero:  # its code is 0, and those of the values before it move up by one
            order = torch.cat([is_zero.nonzero()[:, 0], (~is_zero).nonzero()[:, 0]])
            indices = order.argsort()[indices]
        return cls._from_codes(dense, values[~is_zero], indices.to(torch.uint8), has_zero)

    @classmethod
    def _from_codes(
        cls: type[_Self],
        dense: nn.Module,
        codebook: torch.Tensor,
        codes: torch.Tensor,
        has_zero: bool,
    ) -> _Self:
        """From codebook [k] without the zero, and codes uint8 of the weight's shape."""
        layer = cls._frame_of(dense, len(codebook), has_zero)
        with torch.no_grad():
            layer.codebook.copy_(codebook)
            layer.codes.copy_(_C.pack_bits(codes.cpu().contiguous(), layer.bits))
        layer.codebook.requires_grad_(dense.weight.requires_grad)
        _copy_bias(dense, layer)
        return layer.train(dense.training)

    def _codes_repr(self) -> str:
        return f"centroids={len(self.codebook)}, has_zero={self.has_zero}, bits={self.bits}"

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
        count = self._shape.numel()
        if codes.is_meta or count == 0:
            return ""
        highest = int(_C.unpack_bits(codes.cpu().contiguous(), count, self.bits).max())
        most = len(self.codebook) + self.has_zero - 1
        return f"expected codes up to {most}, got {highest}." if highest > most else ""


def _write_has_zero(
    module: SharedLayer, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
) -> None:
    """Beside the version: a codebook of k entries with a zero and one without look alike."""
    local_metadata["has_zero"] = module.has_zero


def _copy_bias(source: nn.Module, target: nn.Module) -> None:
    if (bias := getattr(source, "bias", None)) is not None:
        with torch.no_grad():
            target.bias.copy_(bias)
        target.bias.requires_grad_(bias.requires_grad)
