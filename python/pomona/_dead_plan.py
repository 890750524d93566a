"""Which neurons are dead, and what their leaving does to biases; decided in C++ (``dead_plan.h``).

Here the layers that torch.fx has found become what the plan in C++ takes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from . import _C
from ._chain import PLAIN, Layer
from ._operation import Operation


@dataclasses.dataclass(frozen=True)
class DeadRow:
    """What became of a layer: how many neurons leave, how many dead ones stay, and why."""

    layer: str
    neurons: int
    removed: int
    stayed: int
    why: str


class Plan:
    """``alive[name]`` bool [neurons] and ``bias[name]`` of every layer once the dead have left.

    Args:
        layers: as ``find_layers`` returns them.
        held: masks (True is kept) of the biases that a pruner holds, by parameter name.
    """

    def __init__(self, layers: dict[str, Layer], held: Mapping[str, torch.Tensor]) -> None:
        """Find the fixed point."""
        self.layers = {n: row for n, row in layers.items() if _weight(row) is not None}
        rows = [_layer_row(row) for row in self.layers.values()]
        self._plan = _C.DeadPlan(rows, {name: mask.cpu() for name, mask in held.items()})
        self.alive = dict(zip(self.layers, self._plan.alive(), strict=True))
        self.bias = dict(zip(self.layers, self._plan.biases(), strict=True))

    def rows(self) -> list[DeadRow]:
        """The report, in the order of execution."""
        return [DeadRow(*row) for row in self._plan.rows()]

    def inputs(self, name: str) -> torch.Tensor | None:
        """Which inputs of a layer are alive; None when nothing that leaves feeds it."""
        return self._plan.inputs(list(self.layers).index(name))


def _layer_row(row: Layer) -> tuple[Any, ...]:
    """What the C++ plan takes."""
    return (
        row.name,
        _weight(row),
        None if row.module.bias is None else row.module.bias.detach(),
        getattr(row.module, "transposed", False),
        _pads_with_zeros(row.module),
        row.why,
        row.consumer,
        row.spread,
        [] if row.why else [_operation_row(operation) for operation in row.operations],
    )


def _operation_row(operation: Operation) -> tuple[Any, ...]:
    norm = None
    if operation.kind == "norm":
        module = operation.module
        tensors = (module.running_mean, module.running_var, module.weight, module.bias)
        norm = (*tensors, module.eps, module.training)
    shape = list(operation.shape)
    return (operation.kind, operation.name, operation.run, shape, operation.is_random, norm)


def _weight(row: Layer) -> torch.Tensor | None:
    weight = getattr(row.module, "weight", None)
    is_plain = isinstance(weight, torch.Tensor) and weight.dim() >= 2
    return weight.detach() if is_plain and not isinstance(row.module, nn.Bilinear) else None


def _pads_with_zeros(module: nn.Module) -> bool:
    if not PLAIN.get(type(module)) or module.padding_mode != "zeros":
        return False
    if module.padding == "same":
        pairs = zip(module.dilation, module.kernel_size, strict=True)
        return any(d * (k - 1) > 0 for d, k in pairs)
    return module.padding != "valid" and any(p > 0 for p in module.padding)
