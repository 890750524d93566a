"""Layers whose weight is ``lookup(codebook, codes)``; pomona.nn has their public names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from . import _C
from ._shared_base import SharedLayer

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
_Pair = int | tuple[int, int]


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


class SharedConv2d(SharedLayer):
    """nn.Conv2d with ``weight = lookup(codebook, codes)``: k floats to train, reduce and store.

    All options of ``nn.Conv2d``. Zeros, fresh layers and ``codes`` are as in :class:`SharedLinear`;
    :meth:`from_conv` makes one from a shared layer.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the kernel; like stride, padding and dilation one number or a pair (height,
            width).
        centroids: entries of the codebook, 0 to 256 together with the zero.
        stride: of the convolution.
        padding: on each side, or "valid" (none), or "same" (the output has the input's size).
        dilation: between the elements of the kernel.
        groups: of channels that do not meet; it divides both channels.
        bias: whether there is one.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        has_zero: whether code 0 stands for 0.0.
        device: of parameters and codes.
        dtype: of codebook and bias.

    Shapes:
        input ``[N, in_channels, H, W]`` or ``[in_channels, H, W]``, output alike, ``weight
        [out_channels, in_channels / groups, height, width]``, ``codebook [centroids]`` (Parameter),
        ``codes`` uint8, flat and packed (buffer), ``bias [out_channels]`` (Parameter).

    Raises:
        InvalidArgument: no centroid and no zero, or more than 256 together; groups that do not
            divide the channels; another padding or padding mode; "same" with a stride.

    Reference: thesis §4.2-4.3.

    >>> conv = torch.nn.Conv2d(1, 2, 2, padding=1)
    >>> _ = conv.weight.data.copy_(torch.tensor([[0.0, 0.5], [-1.0, 0.5]]))
    >>> SharedConv2d.from_conv(conv)(torch.ones(1, 3, 3)).shape
    torch.Size([2, 4, 4])
    """

    _dense = nn.Conv2d
    _argument = "conv"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Pair,
        centroids: int,
        stride: _Pair = 1,
        padding: str | _Pair = 0,
        dilation: _Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        has_zero: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the frame; every weight is zero."""
        kernel, strides = _pair(kernel_size), _pair(stride)
        _check_conv(in_channels, out_channels, groups, strides, padding, padding_mode)
        shape = (out_channels, in_channels // groups, *kernel)
        super().__init__(centroids, shape, has_zero, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = strides
        self.padding = padding if isinstance(padding, str) else _pair(padding)
        self.dilation = _pair(dilation)
        self.groups = groups
        self.padding_mode = padding_mode
        self._make_bias(out_channels if bias else None)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> SharedConv2d:
        """The layer of the same options, outputs, device, dtype and mode.

        Args:
            conv: of at most 256 distinct weights; they and the bias are copied, zeros become
                code 0.

        Raises:
            InvalidArgument: more than 256 distinct weights, NaN or Inf, or not a floating-point
                ``nn.Conv2d``.
        """
        return cls._from_dense(conv)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``input [N, in_channels, H, W]`` (or without N) to ``[N, out_channels, H', W']``."""
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._edges(), mode=self.padding_mode)
            padding = 0
        options = (self.stride, padding, self.dilation, self.groups)
        return F.conv2d(input, self.weight, self.bias, *options)

    def _edges(self) -> list[int]:
        """What F.pad takes: left, right, top, bottom."""
        sizes = zip(self.kernel_size, self.dilation, strict=True)
        if self.padding == "same":
            totals = [dilation * (size - 1) for size, dilation in sizes]
            sides = [(total // 2, total - total // 2) for total in totals]
        elif self.padding == "valid":
            sides = [(0, 0), (0, 0)]
        else:
            sides = [(size, size) for size in self.padding]
        return [*sides[1], *sides[0]]

    @classmethod
    def _frame_of(cls, dense: nn.Conv2d, centroids: int, has_zero: bool) -> SharedConv2d:
        return cls(
            dense.in_channels,
            dense.out_channels,
            dense.kernel_size,
            centroids,
            dense.stride,
            dense.padding,
            dense.dilation,
            dense.groups,
            dense.bias is not None,
            dense.padding_mode,
            has_zero=has_zero,
            device=dense.weight.device,
            dtype=dense.weight.dtype,
        )

    def _frame_of_dense(self, **factory: Any) -> nn.Conv2d:
        return nn.utils.skip_init(
            nn.Conv2d,
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias is not None,
            self.padding_mode,
            **factory,
        )

    def extra_repr(self) -> str:
        """What stands between the brackets of repr()."""
        return (
            f"in_channels={self.in_channels}, out_channels={self.out_channels}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}, "
            f"dilation={self.dilation}, groups={self.groups}, padding_mode={self.padding_mode!r}, "
            f"{self._codes_repr()}, bias={self.bias is not None}"
        )


def _pair(size: _Pair) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _check_conv(
    in_channels: int,
    out_channels: int,
    groups: int,
    stride: tuple[int, int],
    padding: str | _Pair,
    padding_mode: str,
) -> None:
    if groups < 1 or in_channels % groups != 0 or out_channels % groups != 0:
        raise _C.InvalidArgument(
            "SharedConv2d: expected `groups` to divide `in_channels` and `out_channels` "
            f"({in_channels}, {out_channels}), got {groups}."
        )
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise _C.InvalidArgument(
            f'SharedConv2d: expected `padding` to be numbers, "same" or "valid", got {padding!r}.'
        )
    if padding == "same" and stride != (1, 1):
        raise _C.InvalidArgument(
            f'SharedConv2d: expected `stride` to be 1 with padding "same", got {stride}.'
        )
    if padding_mode not in _PADDING_MODES:
        raise _C.InvalidArgument(
            f"SharedConv2d: expected `padding_mode` to be one of {', '.join(_PADDING_MODES)}, "
            f"got {padding_mode!r}."
        )


class SharedEmbedding(SharedLayer):
    """nn.Embedding with ``weight = lookup(codebook, codes)``: k floats to train, reduce and store.

    Only the rows that are asked for are looked up, where a row is whole bytes (``embedding_dim *
    bits`` divisible by 8); else the whole weight. Under autocast the output has the codebook's
    dtype, as that of ``nn.Embedding``. Zeros, fresh layers and ``codes`` are as in
    :class:`SharedLinear`; :meth:`from_embedding` makes one from a shared layer.

    Args:
        num_embeddings: rows of the weight.
        embedding_dim: columns of the weight.
        centroids: entries of the codebook, 0 to 256 together with the zero.
        padding_idx: a row through which no gradient flows; negative ones count from the end. Its
            values are centroids like others: they move with them, unless they are zeros.
        has_zero: whether code 0 stands for 0.0.
        device: of parameters and codes.
        dtype: of the codebook.

    Shapes:
        input ``[...]`` of integers, output ``[..., embedding_dim]``, ``codebook [centroids]``
        (Parameter), ``codes`` uint8, flat and packed (buffer).

    Raises:
        InvalidArgument: no centroid and no zero, or more than 256 together; ``padding_idx`` is no
            row.

    Reference: thesis §4.2-4.3.

    >>> embedding = torch.nn.Embedding(3, 2)
    >>> _ = embedding.weight.data.copy_(torch.tensor([[0.0, 0.5], [-1.0, 0.5], [2.0, 0.0]]))
    >>> SharedEmbedding.from_embedding(embedding)(torch.tensor([2, 0])).tolist()
    [[2.0, 0.0], [0.0, 0.5]]
    """

    _dense = nn.Embedding
    _argument = "embedding"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        centroids: int,
        padding_idx: int | None = None,
        *,
        has_zero: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the frame; every weight is zero."""
        super().__init__(centroids, (num_embeddings, embedding_dim), has_zero, device, dtype)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise _C.InvalidArgument(
                    f"SharedEmbedding: expected `padding_idx` in {-num_embeddings}.."
                    f"{num_embeddings - 1}, got {padding_idx}."
                )
            padding_idx %= num_embeddings
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> SharedEmbedding:
        """The layer of the same outputs, device, dtype and mode.

        Args:
            embedding: of at most 256 distinct weights; they are copied, zeros become code 0.

        Raises:
            InvalidArgument: more than 256 distinct weights, NaN or Inf, ``max_norm``,
                ``scale_grad_by_freq`` or ``sparse``, or not a floating-point ``nn.Embedding``.
        """
        return cls._from_dense(embedding)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``input [...]`` of integers to ``[..., embedding_dim]``."""
        dtype = self.codebook.dtype
        row_bits = self.embedding_dim * self.bits
        if row_bits % 8 != 0:
            weight = self._lookup(self.codes, self._shape, dtype)
            return F.embedding(input, weight, self.padding_idx)
        rows = F.embedding(input, self.codes.reshape(self.num_embeddings, row_bits // 8))
        output = self._lookup(rows, (*input.shape, self.embedding_dim), dtype)
        if self.padding_idx is None:
            return output
        return torch.where((input == self.padding_idx).unsqueeze(-1), output.detach(), output)

    @classmethod
    def _why_not(cls, dense: nn.Embedding) -> str:
        if dense.max_norm is not None:
            return (
                f"without `max_norm`, got {dense.max_norm}. It would change rows, and with them "
                "the codebook of all."
            )
        if dense.scale_grad_by_freq:
            return "without `scale_grad_by_freq`, got True. The gradient is that of a codebook."
        if dense.sparse:
            return "without `sparse`, got True. The gradient of a codebook is dense."
        return ""

    @classmethod
    def _frame_of(cls, dense: nn.Embedding, centroids: int, has_zero: bool) -> SharedEmbedding:
        return cls(
            dense.num_embeddings,
            dense.embedding_dim,
            centroids,
            dense.padding_idx,
            has_zero=has_zero,
            device=dense.weight.device,
            dtype=dense.weight.dtype,
        )

    def _frame_of_dense(self, **factory: Any) -> nn.Embedding:
        sizes = (self.num_embeddings, self.embedding_dim)
        return nn.utils.skip_init(nn.Embedding, *sizes, self.padding_idx, **factory)

    def extra_repr(self) -> str:
        """What stands between the brackets of repr()."""
        return (
            f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}, "
            f"padding_idx={self.padding_idx}, {self._codes_repr()}"
        )


SHARED_TWINS: dict[type[nn.Module], type[SharedLayer]] = {
    layer._dense: layer for layer in (SharedLinear, SharedConv2d, SharedEmbedding)
}
