"""Retraining after pruning (thesis ch. 3): dropout that fits what is left, and frozen halves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd

from . import _C
from ._chain import mode, trace, unwrapped
from ._mask_shell import MaskShell
from ._removal import Removal
from ._shell import clean_name, named_owners

__all__ = ["Frozen", "adjust_dropout_", "freeze"]

# On a dropout module: (D_o, D_r, {layer: C_o}). Travels with deepcopy and pickle; in no state_dict.
_MEMORY = "_pomona_dropout"
_Memory = tuple[float, float, dict[str, int]]


def adjust_dropout_(
    model: nn.Module, pruner: MaskShell, *, original: Removal | None = None
) -> dict[str, tuple[float, float]]:
    """Lower each dropout rate to what the pruned layer before it needs: D_r = D_o sqrt(C_r / C_o).

    C_o is how many connections the layer had and C_r how many it has under the mask: a sparse layer
    overfits less. The rate D_o that a dropout began with is remembered, so a second call starts
    from it again (and takes a rate that somebody has set since for the new D_o).

    Args:
        model: can be traced by torch.fx, or is a Sequential.
        pruner: the Pruner or DSD of the model; as it stands now.
        original: what ``remove_dead_`` has removed before the first call; its layers count as they
            were.

    Returns:
        ``{dropout: (D_o, D_r)}`` of each dropout module that comes after a layer.

    Raises:
        InvalidArgument: no such dropout, one that follows layers of different sparsity, a pruner of
            another model, or a model that cannot be traced. Then nothing has changed.

    Example:
        >>> import pomona
        >>> model = nn.Sequential(nn.Linear(10, 10), nn.Dropout(0.5), nn.Linear(10, 2))
        >>> pruner = pomona.Pruner(model, {"0": 0.84})
        >>> pruner.step(), adjust_dropout_(model, pruner)
        (True, {'1': (0.5, 0.2)})

    Reference:
        Han, thesis ch. 3; Han et al., Learning both Weights and Connections, NIPS 2015, §3.2.
    """
    _check(model, pruner, original)
    whole = unwrapped(model)
    modules = dict(whole.named_modules())
    connections = _connections(pruner, original)
    memories = {
        name: _adjusted(
            name, modules[name], {layer: connections[id(modules[layer])] for layer in layers}
        )
        for name, layers in _dropouts(whole).items()
    }
    if not memories:
        raise _C.InvalidArgument(
            "adjust_dropout_: expected `model` to hold a torch.nn.Dropout after a layer, got none. "
            "A rate that is passed to functional.dropout is set in the model's code."
        )
    for name, memory in memories.items():
        modules[name].p = memory[1]
        setattr(modules[name], _MEMORY, memory)
    return {name: memory[:2] for name, memory in memories.items()}


def _adjusted(name: str, dropout: _DropoutNd, layers: dict[str, tuple[int, int]]) -> _Memory:
    """What a dropout remembers from now on; ``layers`` has the (C_r, C_o) of those before it."""
    rows = [(layer, left, total) for layer, (left, total) in layers.items()]
    return _C.adjust_dropout(name, dropout.p, rows, getattr(dropout, _MEMORY, None))


def _check(model: Any, pruner: Any, original: Any) -> None:
    if not isinstance(model, nn.Module):
        raise _C.InvalidArgument(
            "adjust_dropout_: expected `model` to be a torch.nn.Module, "
            f"got {type(model).__name__}."
        )
    if not isinstance(pruner, MaskShell):
        raise _C.InvalidArgument(
            "adjust_dropout_: expected `pruner` to be a Pruner or a DSD, "
            f"got {type(pruner).__name__}."
        )
    if unwrapped(pruner._model) is not unwrapped(model):
        raise _C.InvalidArgument(
            "adjust_dropout_: expected `pruner` to be of this model, "
            f"got a {type(pruner).__name__} of another."
        )
    if original is not None and not isinstance(original, Removal):
        raise _C.InvalidArgument(
            "adjust_dropout_: expected `original` to be what remove_dead_ has returned, "
            f"got {type(original).__name__}."
        )


def _matrices(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that a layer itself holds."""
    own = module._parameters.items()
    return {name: value for name, value in own if value is not None and value.dim() >= 2}


def _connections(pruner: MaskShell, original: Removal | None) -> dict[int, tuple[int, int]]:
    """(C_r, C_o) by id of the module, over all its weights."""
    owners = named_owners(pruner._model)
    left = {id(getattr(*owners[n])): int(mask.sum()) for n, mask in pruner.masks().items()}
    whole = {} if original is None else original.tensors
    counts: dict[int, tuple[int, int]] = {}
    for path, module in unwrapped(pruner._model).named_modules():
        before = (0, 0)
        for attribute, weight in _matrices(module).items():
            kept = whole.get(clean_name(f"{path}.{attribute}"))
            total = weight.numel() if kept is None else math.prod(kept.shape)
            before = (before[0] + left.get(id(weight), weight.numel()), before[1] + total)
        counts[id(module)] = before
    return counts


class _Tracer(fx.Tracer):
    """Takes every layer whole, a subclass of Linear too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_layer = bool(_matrices(m)) and not any(True for _ in m.children())
        is_whole = is_layer or isinstance(m, _DropoutNd)
        return is_whole or super().is_leaf_module(m, module_qualified_name)


def _dropouts(model: nn.Module) -> dict[str, list[str]]:
    """The dropouts that come after a layer, each with the layers that it follows."""
    try:
        with mode(model, training=True):
            graph = trace(model, "adjust_dropout_", _Tracer())
    except _C.InvalidArgument:
        if isinstance(model, nn.Sequential):
            return _dropouts_in_order(model)
        raise
    names = {id(module): name for name, module in model.named_modules()}
    modules = dict(model.named_modules(remove_duplicate=False))
    nodes = {node: i for i, node in enumerate(graph.graph.nodes)}
    found: dict[str, list[str]] = {}
    for node in nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        layer = _layer_before(node, modules, nodes) if isinstance(module, _DropoutNd) else None
        if layer is not None:
            layers = found.setdefault(names[id(module)], [])
            name = names[id(modules[str(layer.target)])]
            layers.extend([name] if name not in layers else [])
    return found


def _layer_before(
    node: fx.Node, modules: dict[str, nn.Module], order: dict[fx.Node, int]
) -> fx.Node | None:
    """The last layer that data passes on its way to a node."""
    layers, waiting, seen = [], list(node.all_input_nodes), set()
    while waiting:
        before = waiting.pop()
        if before in seen:
            continue
        seen.add(before)
        module = modules.get(str(before.target)) if before.op == "call_module" else None
        if module is not None and _matrices(module):
            layers.append(before)
        else:
            waiting.extend(before.all_input_nodes)
    return max(layers, key=order.__getitem__, default=None)


def _dropouts_in_order(model: nn.Sequential) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    last = None
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd) and last is not None:
            found[name] = [last]
        elif _matrices(module):
            last = name
    return found


class Frozen:
    """Parameters without gradients until ``undo()``, or until the end of a with statement.

    ``names`` lists them.
    """

    def __init__(self, parameters: dict[str, torch.nn.Parameter]) -> None:
        """Freeze them."""
        self.names = list(parameters)
        self._flags = [(parameter, parameter.requires_grad) for parameter in parameters.values()]
        for parameter, _ in self._flags:
            parameter.requires_grad_(False)
            parameter.grad = None  # an optimizer would still use it

    def undo(self) -> None:
        """Each parameter as it was: one that was frozen before stays frozen. Does nothing twice."""
        for parameter, requires_grad in self._flags:
            parameter.requires_grad_(requires_grad)
        self._flags = []

    def __enter__(self) -> Frozen:
        """It is frozen already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Undo."""
        self.undo()


def freeze(model: nn.Module, patterns: str | Sequence[str]) -> Frozen:
    """Hold some layers fixed while the others are retrained.

    Pruned layers are best retrained a part at a time: the convolutions stay as they are while the
    fully connected layers adapt, and then the other way round. Optimizers pass over what has no
    gradient, so neither weight decay nor momentum moves a frozen parameter.

    Args:
        model: the network.
        patterns: one or several, as in rules (``"conv*"``, ``"re:..."``, a name); those of modules
            take biases and other vectors along.

    Returns:
        For a with statement, or to call ``undo()`` on. A gradient that was there is dropped.

    Raises:
        InvalidArgument: a pattern that matches no parameter. Then nothing has changed.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> with freeze(model, "0") as frozen:
        ...     frozen.names, [p.requires_grad for p in model.parameters()]
        (['0.weight', '0.bias'], [False, False, True, True])

    Reference:
        Han, thesis ch. 3; Han et al., Learning both Weights and Connections, NIPS 2015, §3.3.
    """
    if not isinstance(model, nn.Module):
        raise _C.InvalidArgument(
            f"freeze: expected `model` to be a torch.nn.Module, got {type(model).__name__}."
        )
    listed = [patterns] if isinstance(patterns, str) else patterns
    is_list = isinstance(listed, (list, tuple)) and bool(listed)
    if not is_list or not all(isinstance(pattern, str) for pattern in listed):
        raise _C.InvalidArgument(
            "freeze: expected `patterns` to be a pattern or a list of at least one, "
            f"got {patterns!r}."
        )
    owners = named_owners(model)
    parameters = {name: getattr(*owner) for name, owner in owners.items()}
    rows = [(name, list(p.shape), p.is_floating_point()) for name, p in parameters.items()]
    matched = _C.match_parameters("freeze", rows, list(listed))
    names = list(parameters)
    return Frozen({names[index]: parameters[names[index]] for index in matched})
