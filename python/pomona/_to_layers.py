"""What ``Sharer.to_layers_`` puts in the place of which module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from . import _C
from ._shared_base import SharedLayer
from ._shared_layers import SHARED_TWINS
from ._shell import named_owners

if TYPE_CHECKING:
    from ._sharer import Sharer


def find_replacements(
    sharer: Sharer, model: torch.nn.Module
) -> list[tuple[str, torch.nn.Module, str, SharedLayer]]:
    """(name, parent, attribute, new layer); tied layers share their codebook."""
    index_of = {name: i for i, name in enumerate(sharer.names)}
    index_of_weight = {
        id(getattr(*owner)): index_of[name]
        for name, owner in named_owners(model).items()
        if name in index_of
    }
    modules = dict(model.named_modules(remove_duplicate=False))
    for module in modules.values():  # a weight tied to a module that stays, stays
        if not _is_replaceable(module):
            for parameter in module.parameters(recurse=False):
                index_of_weight.pop(id(parameter), None)
    made: dict[int, SharedLayer] = {}
    first_of: dict[int, SharedLayer] = {}
    rows = []
    for name, module in modules.items():
        if not _is_replaceable(module) or id(module.weight) not in index_of_weight:
            continue
        if not name:
            twin = SHARED_TWINS[type(module)]
            raise _C.InvalidArgument(
                "to_layers_: expected `model` to contain its layers, got an "
                f"nn.{type(module).__name__}. Use {twin.__name__}.from_{twin._argument}."
            )
        if id(module) not in made:
            layer = _to_layer(sharer, name, module, index_of_weight[id(module.weight)])
            tied = first_of.setdefault(id(module.weight), layer)
            layer.codebook, layer.codes = tied.codebook, tied.codes
            if getattr(module, "bias", None) is not None:
                layer.bias = module.bias
            made[id(module)] = layer
        parent, _, attribute = name.rpartition(".")
        rows.append((name, modules[parent], attribute, made[id(module)]))
    return rows


def _to_layer(sharer: Sharer, name: str, dense: torch.nn.Module, index: int) -> SharedLayer:
    codes = sharer._core.codes(index)
    if sharer._core.group(index) != 0:
        raise _C.InvalidArgument(
            f"to_layers_: expected one codebook for `{name}`, got one for each "
            f"{sharer._core.group(index)} weights. Share it with granularity='tensor'."
        )
    fits = codes.shape == dense.weight.shape
    codebook = sharer._core.codebook(index, dense.weight) if fits else torch.empty(0)
    if not fits or not torch.equal(codebook[codes.long()], dense.weight):
        raise _C.InvalidArgument(
            f"to_layers_: expected the weight of `{name}` to be in its codebook, got others. "
            "Is this the model that was shared?"
        )
    has_zero = sharer._core.has_zero(index)
    twin = SHARED_TWINS[type(dense)]
    return twin._from_codes(dense, codebook[int(has_zero) :], codes, has_zero)


def _is_replaceable(module: torch.nn.Module) -> bool:
    """Exactly a layer with a compact twin (a subclass may do anything), without hooks."""
    twin = SHARED_TWINS.get(type(module))
    has_hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return twin is not None and not twin._why_not(module) and not has_hooks
