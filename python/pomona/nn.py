"""Compact layers: Shared... train through their codebook, Packed... run on packed weights.

The same names, buffers and outputs as ``pomona::nn`` in C++.

``DistributedDataParallel`` sends buffers from rank 0 in every forward pass. Codes never change:
where every rank has made the same ones (or has loaded them), leave them out, before the model is
wrapped::

    model._ddp_params_and_buffers_to_ignore = [
        name for name, _ in model.named_buffers() if name.split(".")[-1] == "codes"
    ]
"""

from __future__ import annotations

import torch
from torch import nn

from . import _C
from ._packed_attention import PackedMultiheadAttention
from ._packed_embedding import PackedEmbedding
from ._packed_linear import PackedLinear
from ._packed_rnn import PackedGRU, PackedLSTM
from ._shared_base import SharedLayer
from ._shared_layers import SHARED_TWINS, SharedConv2d, SharedEmbedding, SharedLinear

__all__ = [
    "PackedEmbedding",
    "PackedGRU",
    "PackedLSTM",
    "PackedLinear",
    "PackedMultiheadAttention",
    "SharedConv2d",
    "SharedEmbedding",
    "SharedLinear",
    "to_dense_",
]


def to_dense_(model: nn.Module) -> list[str]:
    """Replace every SharedLinear, SharedConv2d and SharedEmbedding by its dense twin.

    Outputs, devices, dtypes and modes stay; layers of one codebook and equal codes are tied again
    by one ``weight``; a ``bias`` is the same Parameter as before. Subclasses stay as they are. The
    codebooks are gone: make a new optimizer over ``model.parameters()``.

    Args:
        model: that contains the layers.

    Returns:
        The names of the replaced modules.

    Raises:
        InvalidArgument: the model is itself such a layer, or one has hooks, which would be lost.
            Then nothing is replaced.

    Reference: thesis §4.2.

    >>> model = torch.nn.Sequential(SharedLinear(3, 2, centroids=4))
    >>> to_dense_(model)
    ['0']
    >>> model[0]
    Linear(in_features=3, out_features=2, bias=True)
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    names = [name for name, module in modules.items() if type(module) in SHARED_TWINS.values()]
    _check_replaceable({name: modules[name] for name in names})
    made: dict[int, nn.Module] = {}
    of_codebook: dict[int, list[tuple[SharedLayer, nn.Module]]] = {}
    for name in names:
        layer = modules[name]
        if id(layer) not in made:
            dense = layer.to_dense()
            _keep_parameters(layer, dense, of_codebook.setdefault(id(layer.codebook), []))
            made[id(layer)] = dense
        parent, _, attribute = name.rpartition(".")
        setattr(modules[parent], attribute, made[id(layer)])
    return names


def _keep_parameters(
    layer: SharedLayer, dense: nn.Module, others: list[tuple[SharedLayer, nn.Module]]
) -> None:
    """The weight of a layer that this one is tied to, and its own bias."""
    if getattr(layer, "bias", None) is not None:
        dense.bias = layer.bias
    for other, twin in others:
        if other._shape == layer._shape and torch.equal(other.codes, layer.codes):
            dense.weight = twin.weight
            return
    others.append((layer, dense))


def _check_replaceable(layers: dict[str, nn.Module]) -> None:
    for name, layer in layers.items():
        if not name:
            raise _C.InvalidArgument(
                f"to_dense_: expected `model` to contain its layers, got a {type(layer).__name__}. "
                "Use its to_dense()."
            )
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
            raise _C.InvalidArgument(
                f"to_dense_: expected `{name}` to have no hooks, got some. They would be lost: "
                "remove them first."
            )
