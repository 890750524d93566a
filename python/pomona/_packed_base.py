"""What layers on packed bytes have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import _C

_packed_weight = torch.ops.pomona.packed_weight.default


class PackedLayer(nn.Module):
    """A matrix as packed bytes in a buffer; a subclass has its shape and forward()."""

    packed: torch.Tensor

    def _matrix_shape(self) -> tuple[int, int]:
        raise NotImplementedError

    def _pack_anew(self, weight: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def pack_weight_(self, weight: torch.Tensor) -> None:
        """Pack another weight of the same shape into this layer.

        Raises:
            InvalidArgument: another dtype or shape, NaN or Inf, a weight that does not fit the
                layout. Then the layer is as it was.
        """
        packed = self._pack_anew(weight.detach())
        if problem := self._problem(packed):
            raise _C.InvalidArgument(problem)
        self.packed = packed.to(self.packed.device)

    @property
    def weight(self) -> torch.Tensor:
        """The dense weight ``[rows, columns]``, float32, made anew at each access."""
        return _packed_weight(self.packed, *self._matrix_shape())

    @property
    def layout(self) -> str:
        """How the weights lie: "csr16", "pg32", "pgv", "lut" or "csc16"."""
        return _C.packed_facts(self.packed)[0]

    @property
    def precision(self) -> str:
        """What the product is computed in: "fp32", "bf16", "fixed16" or "int8"."""
        return _C.packed_facts(self.packed)[1]

    @property
    def nnz(self) -> int:
        """How many weights are stored."""
        return _C.packed_facts(self.packed)[4]

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
            _, _, rows, cols, _ = _C.packed_facts(packed)
        except _C.InvalidArgument as error:
            return str(error)
        if (rows, cols) == self._matrix_shape():
            return ""
        return (
            f"{type(self).__name__}: expected `packed` of shape {list(self._matrix_shape())}, "
            f"got [{rows}, {cols}]."
        )
