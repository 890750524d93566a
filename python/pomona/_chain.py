"""Which layer feeds which: chains Linear/Conv -> [known operations] -> Linear/Conv, by torch.fx.

Note [What a chain promises]. Each operation between the two layers works on every neuron by itself
(or lays its values side by side, flatten), so a neuron may leave without the others noticing. What
is not known to do so ends the chain, and the layer's ``why`` says what it was.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from . import _C
from ._operation import NORMS, Operation, is_pooled, module_operation, node_operation, text_of

PLAIN = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)


@dataclasses.dataclass
class Layer:
    """A layer, and the chain to the one that its neurons feed; ``why`` says why they must stay."""

    name: str
    module: nn.Module
    shape: torch.Size = dataclasses.field(
        default_factory=torch.Size
    )  # of its output, with the example
    why: str = ""
    operations: list[Operation] = dataclasses.field(default_factory=list)
    consumer: str = ""
    spread: int = 1


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper."""
    while isinstance(getattr(model, "_orig_mod", None), nn.Module):
        model = model._orig_mod
    return model


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """All modules in training or in evaluation; afterwards each as it was."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = training
        yield
    finally:
        for module, flag in flags:
            module.training = flag


class _Shapes(fx.Interpreter):
    """Runs the graph and keeps the shape of each tensor."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.shapes[n] = result.shape
        return result


def trace(model: nn.Module, what: str, tracer: fx.Tracer | None = None) -> fx.GraphModule:
    """The model's graph, in the mode that it is in.

    Raises:
        InvalidArgument: torch.fx cannot trace it.
    """
    tracer = fx.Tracer() if tracer is None else tracer
    try:
        return fx.GraphModule(model, tracer.trace(model))
    except Exception as error:
        raise _C.InvalidArgument(
            f"{what}: expected `model` to be traceable by torch.fx, got {type(model).__name__}, "
            f"which is not ({_first_line(error)}). Its forward may not branch on data."
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]


def _propagate(model: nn.Module, graph: fx.GraphModule, example: Any, what: str) -> _Shapes:
    inputs = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    if not inputs or not all(isinstance(value, torch.Tensor) for value in inputs):
        raise _C.InvalidArgument(
            f"{what}: expected `example` to be a tensor or a tuple of tensors, "
            f"got {type(example).__name__}. It is an input of the model, a batch of any size."
        )
    interpreter = _Shapes(graph)
    try:
        with torch.no_grad():
            interpreter.run(*inputs)
    except Exception as error:
        shapes = ", ".join(str(list(value.shape)) for value in inputs)
        raise _C.InvalidArgument(
            f"{what}: expected `example` to be an input of the model ({type(model).__name__}), "
            f"got shape {shapes}, with which its forward fails ({_first_line(error)})."
        ) from error
    return interpreter


def find_layers(model: nn.Module, example: Any, what: str) -> dict[str, Layer]:
    """Every Linear and convolution by name, in the order of execution; uncalled ones at the end.

    The model is traced in evaluation and in training; only what is the same in both is a chain.

    Raises:
        InvalidArgument: the model cannot be traced, or does not take the example.
    """
    with mode(model, training=True):
        in_training = _Graph(model, trace(model, what))
    with mode(model, training=False):
        graph = trace(model, what)
        here = _Graph(model, graph)
        shapes = _propagate(model, graph, example, what).shapes
    layers = {}
    for node in graph.graph.nodes:
        if here.is_layer(node) and node.target not in layers:
            layers[node.target] = here.chain(node, shapes, in_training)
    for name, module in model.named_modules():
        if isinstance(module, LAYERS) and not any(module is row.module for row in layers.values()):
            layers[name] = Layer(name, module, why=here.why_fixed(name))
    return layers


class _Graph:
    """What the nodes of one graph are."""

    def __init__(self, model: nn.Module, graph: fx.GraphModule) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        nodes = list(graph.graph.nodes)
        self._calls = Counter(id(self._module(n)) for n in nodes if n.op == "call_module")
        self._attributes = {str(n.target) for n in nodes if n.op == "get_attr"}
        names = model.named_parameters(remove_duplicate=False)
        self._names = Counter(id(parameter) for _, parameter in names)
        self._first = {n.target: n for n in reversed(nodes) if n.op == "call_module"}

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self._modules.get(str(node.target)) if node.op == "call_module" else None

    def is_layer(self, node: fx.Node) -> bool:
        return isinstance(self._module(node), LAYERS)

    def why_fixed(self, name: str) -> str:
        """Why nothing may be cut from this module; empty when it may."""
        module = self._modules[name]
        if not isinstance(module, NORMS) and type(module) not in PLAIN:
            return f"it is a {type(module).__name__}"
        if getattr(module, "groups", 1) != 1:
            return f"it has {module.groups} groups"
        if not isinstance(module, NORMS) and module._parameters.get("weight") is None:
            return "its weight is computed (parametrized)"
        if _has_hooks(module):
            return "it has a forward hook"
        if any(self._names[id(p)] > 1 for p in module.parameters(recurse=False)):
            return "its weights are tied"
        calls = self._calls[id(module)]
        if calls != 1:
            return f"the model calls it {calls} times" if calls else "the model does not call it"
        if any(f"{a}.".startswith(f"{name}.") for a in self._attributes):
            return "the model reads its weights by itself"
        return ""

    def chain(self, node: fx.Node, shapes: dict, in_training: _Graph) -> Layer:
        """The layer that a node calls, with the chain that begins there."""
        name = str(node.target)
        layer = Layer(name, self._modules[name], shapes.get(node, torch.Size()))
        layer.why = self.why_fixed(name)
        if layer.why:
            return layer
        nodes, layer.why = self._walk(node)
        if not layer.why and in_training._signature(name) != [text_of(n) for n in nodes]:
            layer.why = "its output goes another way in training"
        if not layer.why:
            layer.why = self._lay_out(layer, node, nodes, shapes)
        return layer

    def _signature(self, name: str) -> list[str] | None:
        node = self._first.get(name)
        nodes, why = self._walk(node) if node is not None else ([], "not called")
        return None if why else [text_of(n) for n in nodes]

    def _walk(self, node: fx.Node) -> tuple[list[fx.Node], str]:
        """The nodes from one layer to the next, that one included, or why there is no chain."""
        nodes: list[fx.Node] = []
        while True:
            users = [user for user in node.users if not _asks_for_batch(user)]
            if len(users) != 1:
                return nodes, f"its output has {len(users)} consumers"
            (user,) = users
            if user.op == "output":
                return nodes, "the model returns it"
            nodes.append(user)
            if self.is_layer(user):
                why = self.why_fixed(str(user.target))
                return nodes, f"of its consumer `{user.target}`: {why}" if why else ""
            name = text_of(user)
            if len({n for n in user.all_input_nodes if not _is_batch(n)}) != 1:
                return nodes, f"`{name}` combines it with something else"
            module = self._module(user)
            if module is not None and _has_hooks(module):
                return nodes, f"`{user.target}` has a forward hook"
            if self.operation(user) is None:
                sizes = " with sizes written out" if name in ("view", "reshape") else ""
                return nodes, f"it goes through `{name}`{sizes}"
            node = user

    def operation(self, node: fx.Node) -> Operation | None:
        """What a node between two layers does; None when it is not known."""
        module = self._module(node)
        if module is None:
            return node_operation(node)
        is_fixed = type(module) in NORMS and self.why_fixed(str(node.target))
        return None if is_fixed else module_operation(module, str(node.target))

    def _lay_out(self, layer: Layer, node: fx.Node, nodes: list[fx.Node], shapes: dict) -> str:
        """Follow the dimension that holds the neurons; why that fails, or nothing."""
        rank = len(layer.shape)
        dimensions = PLAIN[type(layer.module)]
        if rank != dimensions + 2 if dimensions else rank < 2:
            return "the example has no batch dimension"
        axis = 1 if dimensions else rank - 1
        for before, here in itertools.pairwise([node, *nodes[:-1]]):
            operation = self.operation(here)
            operation.shape, operation.spread = shapes[before], layer.spread
            axis_after = self._axis(operation, here, axis, layer, shapes)
            if axis_after is None:
                return f"`{operation.name}` does not keep its neurons apart"
            axis = axis_after
            layer.operations.append(operation)
        last = nodes[-2] if len(nodes) > 1 else node
        module = self._modules[str(nodes[-1].target)]
        rank, dimensions = len(shapes[last]), PLAIN[type(module)]
        expected = axis == rank - 1 if not dimensions else axis == 1 and rank == dimensions + 2
        inputs = module.in_channels if dimensions else module.in_features
        if not expected or inputs != layer.module.weight.shape[0] * layer.spread:
            return f"`{nodes[-1].target}` does not keep its neurons apart"
        layer.consumer = str(nodes[-1].target)
        return ""

    def _axis(
        self, operation: Operation, node: fx.Node, axis: int, layer: Layer, shapes: dict
    ) -> int | None:
        """Where the neurons are after an operation; None when they are mixed."""
        rank, after = len(operation.shape), shapes[node]
        if operation.kind == "norm":
            features = layer.module.weight.shape[0] * layer.spread
            return axis if axis == 1 and operation.module.num_features == features else None
        if operation.kind == "pool":
            pooled = is_pooled(node, self._module(node), rank)
            return axis if axis == 1 and pooled else None
        if operation.kind == "flat":
            whole = math.prod(operation.shape[1:])
            if axis != 1 or after != (operation.shape[0], whole):
                return None
            layer.spread *= math.prod(operation.shape[2:])
        return axis


def _is_item_zero(node: fx.Node) -> bool:
    return node.op == "call_function" and text_of(node) == "getitem" and node.args[1] == 0


def _asks_for_batch(node: fx.Node) -> bool:
    """Whether a node reads nothing but the size of the batch: ``x.size(0)``, ``x.shape[0]``."""
    if node.op == "call_method" and node.target == "size" and len(node.args) == 2:
        return node.args[1] == 0
    is_shape = (node.op == "call_method" and node.target == "size") or (
        node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
    )
    return is_shape and all(_is_item_zero(user) for user in node.users)


def _is_batch(node: fx.Node) -> bool:
    """Whether a node is the size of a batch."""
    if _is_item_zero(node) and isinstance(node.args[0], fx.Node):
        return _asks_for_batch(node.args[0])
    return _asks_for_batch(node) and node.target == "size" and len(node.args) == 2


def _has_hooks(module: nn.Module) -> bool:
    """Whether code that nobody can read runs beside its forward: it may count the neurons."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
