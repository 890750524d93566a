"""Layers whose weight is ``lookup(codebook, codes)``; pomona.nn has their public names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ._shared_base import SharedLayer


class SharedLinear(SharedLayer):
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

    Raises:
        InvalidArgument: no centroid and no zero, or more than 256 together.

    Reference: thesis §4.2-4.3.

    >>> linear = torch.nn.Linear(3, 2)
    >>> _ = linear.weight.data.copy_(torch.tensor([[0.0, 0.5, -1.0], [0.5, 0.0, 2.0]]))
    >>> SharedLinear.from_linear(linear)
    SharedLinear(in_features=3, out_features=2, centroids=3, has_zero=True, bits=2, bias=True)
    """

    _dense = nn.Linear
    _argument = "linear"

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
        super().__init__(centroids, (out_features, in_features), has_zero, device, dtype)
        self.in_features = in_features
        self.out_features = out_features
        self._make_bias(out_features if bias else None)

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
        return cls._from_dense(linear)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``input [..., in_features]`` to ``[..., out_features]``."""
        return F.linear(input, self.weight, self.bias)

    @classmethod
    def _frame_of(cls, dense: nn.Linear, centroids: int, has_zero: bool) -> SharedLinear:
        return cls(
            dense.in_features,
            dense.out_features,
            centroids,
            dense.bias is not None,
            has_zero=has_zero,
            device=dense.weight.device,
            dtype=dense.weight.dtype,
        )

    def _frame_of_dense(self, **factory: Any) -> nn.Linear:
        sizes = (self.in_features, self.out_features)
        return nn.utils.skip_init(nn.Linear, *sizes, self.bias is not None, **factory)

    def extra_repr(self) -> str:
        """What stands between the brackets of repr()."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"{self._codes_repr()}, bias={self.bias is not None}"
        )
