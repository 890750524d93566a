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
        gentle_first: whether the smallest setting costs least.
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
    gentle_first: bool
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
        wrong = [value for value in values if not self._is_setting(value)]
        if wrong or not values:
            what = "integers in 1..8" if self.rule is Share else "numbers in [0, 1)"
            got = wrong[0] if wrong else "none"
            raise _C.InvalidArgument(
                f"sensitivity: expected `{self.key}` to be {what}, got {got!r}."
            )
        if len(set(values)) != len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise _C.InvalidArgument(
                f"sensitivity: expected `{self.key}` to be distinct, got {twice!r} twice."
            )
        return sorted(values if self.rule is Share else map(float, values))

    def _is_setting(self, value: object) -> bool:
        if isinstance(value, bool):
            return False
        if self.rule is Share:
            return isinstance(value, int) and 1 <= value <= 8
        return isinstance(value, (int, float)) and 0 <= value < 1


SPARSITY = Kind(
    *("sparsity", "sparsities", Prune, Pruner, "pruned", "%", 100.0),
    axis="weights pruned in this layer [%]",
    gentle_first=True,
    gentlest=0.0,
)
BITS = Kind(
    *("bits", "bits", Share, Sharer, "shared", "bits", 1.0),
    axis="bits of a code in this layer",
    gentle_first=False,
    gentlest=8,
)


def kind_of(identity: dict[str, Any]) -> Kind:
    """What the scan of this identity varied."""
    return BITS if BITS.key in identity else SPARSITY
