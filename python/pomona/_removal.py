"""What was cut out of a network, and how to put zeros back where it was."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch

from . import _C
from ._dead_plan import DeadRow
from ._shell import clean_name
from .report import text_table

_FORMAT = "pomona removal 1"


@dataclasses.dataclass(frozen=True)
class Kept:
    """What is left of a tensor: its original shape, the indices kept by dimension, and the filler.

    ``fill`` stands where something left: 0, and 1 for the scale and the variance of a batch norm.
    """

    shape: tuple[int, ...]
    indices: dict[int, tuple[int, ...]]
    fill: float = 0.0

    @property
    def small_shape(self) -> tuple[int, ...]:
        """The shape of what is left."""
        return tuple(len(self.indices.get(d, range(n))) for d, n in enumerate(self.shape))

    def expand(self, tensor: torch.Tensor) -> torch.Tensor:
        """The original tensor with the filler where something left."""
        tensor = tensor.detach()
        for dim, kept in self.indices.items():
            shape = (*tensor.shape[:dim], self.shape[dim], *tensor.shape[dim + 1 :])
            index = torch.tensor(kept, dtype=torch.long, device=tensor.device)
            tensor = tensor.new_full(shape, self.fill).index_copy(dim, index, tensor)
        return tensor

    def then(self, later: Kept) -> Kept:
        """This, and then a second cut of what was left."""
        indices = dict(self.indices)
        for dim, kept in later.indices.items():
            before = self.indices.get(dim, range(self.shape[dim]))
            indices[dim] = tuple(before[i] for i in kept)
        return Kept(self.shape, indices, self.fill)


class DeadReport(list[DeadRow]):
    """Rows (layer, neurons, removed, stayed, why); ``str()`` is a table."""

    def __str__(self) -> str:
        """A table of plain text."""
        columns = ["layer", "neurons", "removed", "dead that stayed", "why"]
        cells = [[r.layer, str(r.neurons), str(r.removed), str(r.stayed), r.why] for r in self]
        return text_table(columns, cells)

    @property
    def removed(self) -> int:
        """How many neurons leave, over all layers."""
        return sum(row.removed for row in self)


@dataclasses.dataclass(frozen=True)
class Removal:
    """What ``remove_dead_`` has cut: enough to write the original network again.

    ``report`` has a row for each layer; ``tensors`` has a ``Kept`` for each parameter and buffer
    that is smaller now, by name (without the prefixes of wrappers). ``str()`` is the report.
    """

    report: DeadReport
    tensors: dict[str, Kept]

    def __str__(self) -> str:
        """The report as a table."""
        return str(self.report)

    @property
    def removed(self) -> int:
        """How many neurons have left, over all layers."""
        return self.report.removed

    def expand(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The ``state_dict`` of the original network from that of the small one.

        What left comes back as zeros: incoming weights, bias and outgoing weights; entries of a
        batch norm as scale 1, bias 0, mean 0 and variance 1. The original network with this state
        computes what the small one does. Other entries are passed on as they are.

        Args:
            state: the small network's ``state_dict()``.

        Raises:
            InvalidArgument: a tensor that was cut is missing or has another shape.
        """
        if not isinstance(state, Mapping):
            raise _C.InvalidArgument(
                "Removal.expand: expected `state` to be a dict of tensors, "
                f"got {type(state).__name__}."
            )
        shapes = {clean_name(name): tuple(value.shape) for name, value in state.items()}
        for name, kept in self.tensors.items():
            if shapes.get(name) != kept.small_shape:
                found = "no such tensor" if name not in shapes else f"shape {list(shapes[name])}"
                raise _C.InvalidArgument(
                    f"Removal.expand: expected `state` to hold `{name}` of shape "
                    f"{list(kept.small_shape)}, got {found}. It is the state_dict of the network "
                    "just after the removal; of several removals, join them by then()."
                )
        return {
            name: self.tensors[clean].expand(value) if clean in self.tensors else value
            for name, value in state.items()
            for clean in (clean_name(name),)
        }

    def then(self, later: Removal) -> Removal:
        """This removal and a later one of the same network as one.

        Raises:
            InvalidArgument: the later one did not begin where this one ended.
        """
        tensors = dict(self.tensors)
        for name, kept in later.tensors.items():
            earlier = self.tensors.get(name)
            if earlier is not None and earlier.small_shape != kept.shape:
                raise _C.InvalidArgument(
                    "Removal.then: expected `later` to begin where this removal ended, got "
                    f"`{name}` of shape {list(kept.shape)} after {list(earlier.small_shape)}."
                )
            tensors[name] = kept if earlier is None else earlier.then(kept)
        before = {row.layer: row for row in self.report}
        rows = []
        for row in later.report:
            first = before.get(row.layer)
            sizes = (row.neurons, row.removed)
            if first is not None:
                sizes = (first.neurons, first.removed + row.removed)
            rows.append(DeadRow(row.layer, *sizes, row.stayed, row.why))
        return Removal(DeadReport(rows), tensors)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for JSON; ``from_dict`` reads them."""
        return {
            "format": _FORMAT,
            "report": [dataclasses.asdict(row) for row in self.report],
            "tensors": {
                name: {
                    "shape": list(kept.shape),
                    "indices": {str(dim): list(i) for dim, i in kept.indices.items()},
                    "fill": kept.fill,
                }
                for name, kept in self.tensors.items()
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Removal:
        """Inverse of ``to_dict``.

        Raises:
            InvalidArgument: it is no such dict.
        """
        try:
            if values["format"] != _FORMAT:
                raise ValueError(f"format {values['format']!r}")
            rows = DeadReport(DeadRow(**row) for row in values["report"])
            tensors = {str(n): _kept_from_dict(n, k) for n, k in values["tensors"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _C.InvalidArgument(
                "Removal.from_dict: expected a dict as Removal.to_dict() returns it, "
                f"got {type(values).__name__} ({error!r})."
            ) from None
        return cls(rows, tensors)


def _kept_from_dict(name: str, values: Mapping[str, Any]) -> Kept:
    shape = tuple(int(n) for n in values["shape"])
    indices = {int(d): tuple(int(i) for i in kept) for d, kept in values["indices"].items()}
    for dim, kept in indices.items():
        is_rising = all(a < b for a, b in itertools.pairwise(kept))
        if not 0 <= dim < len(shape) or not kept or not is_rising:
            raise ValueError(f"indices of {name}")
        if not 0 <= kept[0] <= kept[-1] < shape[dim]:
            raise ValueError(f"indices of {name}")
    return Kept(shape, indices, float(values["fill"]))
