"""What a sensitivity scan varies: the sparsity of a layer, or the bits of its codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch

from . import _C
from .prune import Pruner
from .quantize import Sharer
from .rules import Prune, Share

__all__ = ["BITS", "SPARSITY", "Kind", "kind_of"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One of the two.

    Args:
        column: of the file, and the field of a rule.
        key: the argument of ``sensitivity`` and the entry of a scan's identity.
        rule: the class of its rules.
        shell: the class that applies them.
        done: what has been done to a layer, as a heading.
        unit: stands behind a number, which is multiplied by ``factor``.
        axis: under a picture.
        gentlest: the setting that costs least.
    """

    column: str
    key: str
    rule: type
    shell: Callable[..., Any]
    done: str
    unit: str
    factor: float
    axis: str
    gentlest: float

    def label(self, setting: float) -> str:
        """As tables show it: "90 %", "4 bits"."""
        return f"{self.factor * setting:.4g} {self.unit}"

    def at(self, rule: Any, setting: float) -> Any:
        """The rule at this setting, reached in one step."""
        if self.rule is Share:
            return dataclasses.replace(rule, bits=int(setting), codes=None)
        return dataclasses.replace(rule, sparsity=setting, schedule=Prune(0.0).schedule)

    def apply(self, model: torch.nn.Module, name: str, rule: Any) -> int:
        """Prune or share one parameter, as for good; how many of its weights are kept."""
        shell = self.shell(model, {name: rule})  # a whole name is this one alone
        try:
            shell.step()
            return sum(row.kept for row in shell.report())
        finally:
            shell.finalize()  # its hooks go

    def sorted(self, settings: Iterable[float]) -> list[float]:
        """In ascending order.

        Raises:
            InvalidArgument: none, one that no rule can have, or one twice.
        """
        values = list(settings)
        are_bits = self.rule is Share
        known = (int,) if are_bits else (int, float)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, known):
                what = "integers in 1..8" if are_bits else "numbers in [0, 1)"
                raise _C.InvalidArgument(
                    f"sensitivity: expected `{self.key}` to be {what}, got {value!r}."
                )
        in_order = _C.scan_settings(self.key, are_bits, list(map(float, values)))
        return list(map(int, in_order)) if are_bits else in_order


SPARSITY = Kind(
    *("sparsity", "sparsities", Prune, Pruner, "pruned", "%", 100.0),
    axis="weights pruned in this layer [%]",
    gentlest=0.0,
)
BITS = Kind(
    *("bits", "bits", Share, Sharer, "shared", "bits", 1.0),
    axis="bits of a code in this layer",
    gentlest=8,
)


def kind_of(identity: dict[str, Any]) -> Kind:
    """What the scan of this identity varied."""
    return BITS if BITS.key in identity else SPARSITY
