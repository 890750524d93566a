"""The operations between two layers that treat each neuron by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

_ELEMENT_MODULES = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardtanh),
    *(nn.Hardsigmoid, nn.Hardswish, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink, nn.Threshold),
)
_DROPOUT_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_POOLS = ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool")
_POOL_MODULES = {getattr(nn, f"{pool}{n}d"): n for pool in _POOLS for n in (1, 2, 3)}


def _functions(*names: str) -> set[Any]:
    return {getattr(m, n) for m in (torch, functional) for n in names if hasattr(m, n)}


_ELEMENT_NAMES = (
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("sigmoid", "logsigmoid", "tanh", "softplus", "softsign", "hardtanh", "hardsigmoid"),
    *("hardswish", "tanhshrink", "softshrink", "hardshrink"),
)
_ELEMENT_FUNCTIONS = _functions(*_ELEMENT_NAMES)
_ELEMENT_METHODS = {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "contiguous", "clone"}
_DROPOUT_FUNCTIONS = _functions("dropout", "dropout1d", "dropout2d", "dropout3d")
_POOL_FUNCTIONS = {
    function: n
    for pool in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")
    for n in (1, 2, 3)
    for function in _functions(f"{pool}{n}d")
}


@dataclasses.dataclass
class Operation:
    """One operation between two layers.

    ``kind`` is "element", "pool", "norm", "dropout" or "flat"; ``run`` computes it; ``shape`` is
    what goes in with the example; ``spread`` is how many values a neuron has along the features.
    """

    kind: str
    run: Callable[[torch.Tensor], torch.Tensor]
    name: str
    module: nn.Module | None = None
    shape: torch.Size = dataclasses.field(default_factory=torch.Size)
    spread: int = 1
    is_random: bool = False  # dropout that is on even in evaluation


def text_of(node: fx.Node) -> str:
    """A node as a message names it: the module's name, the function's, the method's."""
    return node.target if isinstance(node.target, str) else node.target.__name__


def module_operation(module: nn.Module, name: str) -> Operation | None:
    """What a module does; None when it is not known."""
    if type(module) in _ELEMENT_MODULES:
        return Operation("element", module.forward, name)
    if type(module) is nn.PReLU and module.num_parameters == 1:
        return Operation("element", module.forward, name)
    if type(module) in _DROPOUT_MODULES:
        return Operation("dropout", module.forward, name)
    if type(module) in _POOL_MODULES and not getattr(module, "return_indices", False):
        return Operation("pool", module.forward, name)
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return Operation("flat", module.forward, name)
    if type(module) in NORMS:
        return Operation("norm", module.forward, name, module)
    return None


def node_operation(node: fx.Node) -> Operation | None:
    """What a call of a function or of a method does; None when it is not known."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return None
    name, arguments, target = text_of(node), node.args[1:], node.target
    if name in ("flatten", "view", "reshape"):
        is_flat = _flattens(name, arguments, node.kwargs)
        return Operation("flat", lambda x: x.flatten(1), name) if is_flat else None
    if any(isinstance(a, fx.Node) for a in (*arguments, *node.kwargs.values())):
        return None
    if node.op == "call_method":
        kind = "element" if target in _ELEMENT_METHODS else "pool" if name == "mean" else ""
        run = lambda x: getattr(x, target)(*arguments, **node.kwargs)  # noqa: E731
    else:
        kind = _function_kind(target)
        run = lambda x: target(x, *arguments, **node.kwargs)  # noqa: E731
    if not kind:
        return None
    is_random = kind == "dropout" and node.kwargs.get("training", True) is not False
    return Operation(kind, run, name, is_random=is_random)


def _function_kind(function: Any) -> str:
    if function in _ELEMENT_FUNCTIONS:
        return "element"
    if function in _POOL_FUNCTIONS or function is torch.mean:
        return "pool"
    return "dropout" if function in _DROPOUT_FUNCTIONS else ""


def is_pooled(node: fx.Node, module: nn.Module | None, rank: int) -> bool:
    """Whether a pool works on the positions of [n, channels, positions...] only."""
    if module is not None:
        return rank == _POOL_MODULES[type(module)] + 2
    if text_of(node) != "mean":
        is_whole = not node.kwargs.get("return_indices", False)
        return is_whole and rank == _POOL_FUNCTIONS[node.target] + 2
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
    dims = (dims,) if isinstance(dims, int) else dims or ()
    return bool(dims) and all(isinstance(d, int) and d % rank >= 2 for d in dims)


def _flattens(name: str, arguments: tuple, kwargs: dict) -> bool:
    """Whether it is [n, ...] -> [n, everything else], with no size of a layer written out."""
    if name == "flatten":
        start = arguments[0] if arguments else kwargs.get("start_dim", 0)
        end = arguments[1] if len(arguments) > 1 else kwargs.get("end_dim", -1)
        return (start, end) == (1, -1)
    sizes = arguments[0] if len(arguments) == 1 else arguments
    return isinstance(sizes, (tuple, list)) and len(sizes) == 2 and sizes[1] == -1 and not kwargs
