"""Where packed layers of several matrices have them from: a dense module, or a file."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from ._packed_linear import Layout, PackedLinear, Precision, packed_bytes


class Source(Protocol):
    """The parameters of one module, by the names it has for them."""

    def packed(self, name: str, parts: int) -> list[torch.Tensor]:
        """The packed bytes of a matrix that is cut into so many parts of as many rows each."""

    def bias(self, name: str) -> torch.Tensor | None:
        """A vector; None where the module has none of this name."""


class ModuleSource:
    """The weights of a dense module, packed now."""

    def __init__(self, module: nn.Module, layout: Layout | None, precision: Precision) -> None:
        """How the matrices shall lie, and what products are computed in."""
        self._parameters = dict(module.named_parameters())
        self._layout, self._precision = layout, precision

    def packed(self, name: str, parts: int) -> list[torch.Tensor]:
        """See Source."""
        matrices = self._parameters[name].detach().chunk(parts)
        return [packed_bytes(m, self._layout, self._precision) for m in matrices]

    def bias(self, name: str) -> torch.Tensor | None:
        """See Source; copied."""
        found = self._parameters.get(name)
        return None if found is None else found.detach().clone()


def linear(source: Source, weight: str, bias: str) -> PackedLinear:
    """``y = x W^T + b`` of two parameters, the second if it is there."""
    (packed,) = source.packed(weight, 1)
    return PackedLinear.from_packed(packed, source.bias(bias))
