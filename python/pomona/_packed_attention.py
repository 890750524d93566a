"""PackedMultiheadAttention runs on packed projections; pomona.nn has its public name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from . import _C
from ._packed_linear import Layout, PackedLinear, Precision
from ._packed_source import ModuleSource, Source, linear


class PackedMultiheadAttention(nn.Module):
    """``torch.nn.MultiheadAttention`` on packed projections, for inference.

    Takes and returns what the torch module does: batched or not, ``batch_first`` or not, masks of
    both kinds, keys and values of other sizes. The four projections are packed; what happens
    between them is torch's. Dropout is left out.

    Args:
        attention: a torch.nn.MultiheadAttention without ``add_bias_kv`` and ``add_zero_attn``, its
            weights finite; copied.
        layout: as for :class:`PackedLinear`, of every projection.
        precision: as for :class:`PackedLinear`.

    Raises:
        InvalidArgument: another module, one of those two options, NaN or Inf, a layout that cannot
            hold a weight.

    Example:
        >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> packed = PackedMultiheadAttention(attention)
        >>> x = torch.randn(3, 5, 8)
        >>> torch.allclose(packed(x, x, x)[0], attention(x, x, x)[0], atol=1e-5)
        True
    """

    def __init__(
        self,
        attention: nn.MultiheadAttention,
        *,
        layout: Layout | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """Pack the projections."""
        super().__init__()
        if type(attention) is not nn.MultiheadAttention:
            raise _C.InvalidArgument(
                "PackedMultiheadAttention: expected `attention` to be a "
                f"torch.nn.MultiheadAttention, got {type(attention).__name__}."
            )
        if attention.bias_k is not None or attention.add_zero_attn:
            raise _C.InvalidArgument(
                "PackedMultiheadAttention: expected `attention` without add_bias_kv and "
                "add_zero_attn, got one with."
            )
        self._fill(attention, ModuleSource(attention, layout, precision))

    @classmethod
    def from_source(
        cls, attention: nn.MultiheadAttention, source: Source
    ) -> PackedMultiheadAttention:
        """A layer like ``attention``, whose weights are read from elsewhere."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._fill(attention, source)
        return layer

    @staticmethod
    def matrices(attention: nn.MultiheadAttention) -> dict[str, int]:
        """The matrices of a torch module by name, and into how many each is cut."""
        if attention.in_proj_weight is not None:
            return {"in_proj_weight": 3, "out_proj.weight": 1}
        return {**{f"{name}_proj_weight": 1 for name in "qkv"}, "out_proj.weight": 1}

    def _fill(self, attention: nn.MultiheadAttention, source: Source) -> None:
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.kdim, self.vdim = attention.kdim, attention.vdim
        self.batch_first = attention.batch_first
        weights = [
            part
            for name, parts in self.matrices(attention).items()
            if name != "out_proj.weight"
            for part in source.packed(name, parts)
        ]
        bias = source.bias("in_proj_bias")
        biases = [None] * 3 if bias is None else [part.clone() for part in bias.chunk(3)]
        self.q_proj, self.k_proj, self.v_proj = map(PackedLinear.from_packed, weights, biases)
        self.out_proj = linear(source, "out_proj.weight", "out_proj.bias")
        self.train(attention.training)

    @classmethod
    def from_attention(
        cls,
        attention: nn.MultiheadAttention,
        *,
        layout: Layout | None = None,
        precision: Precision = "fp32",
    ) -> PackedMultiheadAttention:
        """The same layer, packed; see the class."""
        return cls(attention, layout=layout, precision=precision)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As the torch module: ``(output, weights or None)``, shapes as there."""
        self._check(query, key, value)
        is_single = query.dim() == 2
        if is_causal and attn_mask is None:
            raise _C.InvalidArgument(
                "PackedMultiheadAttention: expected `attn_mask` with is_causal, got none."
            )
        if is_single:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            self._heads(project(x))
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        mask = self._mask(attn_mask, key_padding_mask, q)
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = weights @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, mask)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if is_single:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def extra_repr(self) -> str:
        """What print() shows."""
        words = [str(self.embed_dim), str(self.num_heads)]
        return ", ".join(words + (["batch_first"] if self.batch_first else []))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, steps, embed_dim] -> [batch, heads, steps, embed_dim / heads]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _mask(
        self,
        attn_mask: torch.Tensor | None,
        key_padding_mask: torch.Tensor | None,
        q: torch.Tensor,
    ) -> torch.Tensor | None:
        """Both masks as one that is added to the scores [batch, heads, steps, keys]."""
        parts = []
        if attn_mask is not None:
            added = _added(attn_mask, q.dtype)
            per_head = added.dim() == 3
            parts.append(added.unflatten(0, (-1, self.num_heads)) if per_head else added)
        if key_padding_mask is not None:
            parts.append(_added(key_padding_mask, q.dtype)[:, None, None, :])
        return None if not parts else parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _check(self, *inputs: Any) -> None:
        sizes = (self.embed_dim, self.kdim, self.vdim)
        for name, x, size in zip(("query", "key", "value"), inputs, sizes, strict=True):
            if not isinstance(x, torch.Tensor) or x.dim() not in (2, 3) or x.shape[-1] != size:
                got = list(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
                raise _C.InvalidArgument(
                    f"PackedMultiheadAttention: expected `{name}` of shape [steps, {size}], or of "
                    f"three dimensions with a batch, got {got}."
                )


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """True means "not this one" to the torch module; numbers are added to the scores."""
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
