"""Which neurons are dead, and what their leaving does to biases; found without touching a model.

Note [Dead]. A neuron leaves when all its outgoing weights are zero (nobody reads it), or when all
its incoming weights are: then its output is one number for every input, act(bias), which is carried
through the operations to the consumer and folded into the consumer's bias there. Either may kill
the next one, so both are repeated until nothing changes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

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
        self._held = held
        self._producers = {row.consumer: n for n, row in self.layers.items() if not row.why}
        self.alive: dict[str, torch.Tensor] = {}
        self.bias: dict[str, torch.Tensor | None] = {}
        self._nonzero: dict[str, torch.Tensor] = {}
        self._stayed: dict[str, dict[int, str]] = {}
        for name, row in self.layers.items():
            weight = _weight(row)
            by_neuron = weight.transpose(0, 1) if _is_transposed(row) else weight
            self._nonzero[name] = (by_neuron != 0).reshape(*by_neuron.shape[:2], -1).any(2).cpu()
            self.alive[name] = torch.ones_like(self._nonzero[name][:, 0])
            bias = row.module.bias
            self.bias[name] = None if bias is None else bias.detach().clone()
        while any([self._pass(row) for row in self.layers.values()]):
            pass

    def rows(self) -> list[DeadRow]:
        """The report, in the order of execution."""
        rows = []
        for name, alive in self.alive.items():
            stayed = self._stayed[name]
            counts = Counter(stayed.values())
            why = "; ".join(f"{n}: {why}" if len(counts) > 1 else why for why, n in counts.items())
            removed = alive.numel() - int(alive.sum())
            why = why or self.layers[name].why
            rows.append(DeadRow(name, alive.numel(), removed, len(stayed), why))
        return rows

    def inputs(self, name: str) -> torch.Tensor | None:
        """Which inputs of a layer are alive; None when nothing that leaves feeds it."""
        producer = self._producers.get(name)
        if producer is None:
            return None
        return self.alive[producer].repeat_interleave(self.layers[producer].spread)

    def _pass(self, row: Layer) -> bool:
        """Remove what is dead now; whether something was."""
        alive, inputs = self.alive[row.name], self.inputs(row.name)
        nonzero = self._nonzero[row.name]
        is_fed = (nonzero if inputs is None else nonzero[:, inputs]).any(1)
        self._stayed[row.name] = {}
        if row.why:
            self._stay(row, alive & ~is_fed, row.why)
            return False
        is_read = self._nonzero[row.consumer][self.alive[row.consumer]].any(0)
        is_read = is_read.view(alive.numel(), row.spread).any(1)
        goes = alive & ~(is_read & is_fed)
        if goes.any() and torch.equal(goes, alive):
            last = torch.zeros_like(goes)
            last[int(goes.int().argmax())] = True
            self._stay(row, last, "a layer keeps at least one neuron")
            goes &= ~last
        to_fold = goes & is_read
        if to_fold.any():
            goes &= ~self._fold(row, to_fold)
        self.alive[row.name] = alive & ~goes
        return bool(goes.any())

    def _stay(self, row: Layer, which: torch.Tensor, why: str) -> None:
        for index in which.nonzero().flatten().tolist():
            self._stayed[row.name].setdefault(index, why)

    def _fold(self, row: Layer, to_fold: torch.Tensor) -> torch.Tensor:
        """Add the constants of these neurons to the consumer's bias; which of them cannot leave."""
        values, whys = carry(row, self.bias[row.name])
        consumer = self.layers[row.consumer]
        weight = _weight(consumer).double()
        values = values.to(weight.device)
        summed = weight.reshape(*weight.shape[:2], -1).sum(2)
        added = (summed * values.double()).view(summed.shape[0], -1, row.spread).sum(2)
        values = values.view(-1, row.spread)
        is_zero = (values == 0).all(1)
        bias = self.bias[row.consumer]
        if bias is None:
            whys.append((~is_zero, f"`{row.consumer}` has no bias to fold it into"))
        if _pads_with_zeros(consumer.module):
            whys.append((~is_zero, f"`{row.consumer}` pads with zeros, folding would be inexact"))
        whys.append((~values.isfinite().all(1), "its constant is not finite"))
        held = self._held.get(f"{row.consumer}.bias")
        if held is not None:
            is_held = (added[~held.to(added.device)] != 0).any(0)
            whys.append((is_held, f"a mask holds the bias of `{row.consumer}` at zero"))
        stays = torch.zeros_like(to_fold)
        for where, why in whys:
            which = where.cpu()
            self._stay(row, to_fold & which, why)
            stays |= to_fold & which
        if bias is not None:
            folded = bias.double() + added[:, (to_fold & ~stays).to(added.device)].sum(1)
            self.bias[row.consumer] = folded.to(bias.dtype)
        return stays


def _weight(row: Layer) -> torch.Tensor | None:
    weight = getattr(row.module, "weight", None)
    is_plain = isinstance(weight, torch.Tensor) and weight.dim() >= 2
    return weight.detach() if is_plain and not isinstance(row.module, nn.Bilinear) else None


def _is_transposed(row: Layer) -> bool:
    return getattr(row.module, "transposed", False)


def _pads_with_zeros(module: nn.Module) -> bool:
    if not PLAIN[type(module)] or module.padding_mode != "zeros":
        return False
    if module.padding == "same":
        pairs = zip(module.dilation, module.kernel_size, strict=True)
        return any(d * (k - 1) > 0 for d, k in pairs)
    return module.padding != "valid" and any(p > 0 for p in module.padding)


Whys = list[tuple[torch.Tensor, str]]


def carry(row: Layer, bias: torch.Tensor | None) -> tuple[torch.Tensor, Whys]:
    """What the consumer reads of each neuron that has no inputs, and where that is not one number.

    Returns:
        Values [neurons * spread], of the weight's dtype, and (bool [neurons], why) for neurons
        whose output is no constant.
    """
    weight = _weight(row)
    values = weight.new_zeros(weight.shape[0]) if bias is None else bias
    whys: Whys = []
    with torch.no_grad():
        for operation in row.operations:
            values, is_inexact, why = _STEPS[operation.kind](operation, values)
            if is_inexact is not None:
                whys.append((is_inexact.view(weight.shape[0], -1).any(1), why))
    return values, whys


Step = tuple[torch.Tensor, "torch.Tensor | None", str]


def _through_element(operation: Operation, values: torch.Tensor) -> Step:
    return operation.run(values.clone()), None, ""


def _through_flat(operation: Operation, values: torch.Tensor) -> Step:
    return values.repeat_interleave(operation.shape[2:].numel()), None, ""


def _through_dropout(operation: Operation, values: torch.Tensor) -> Step:
    if not operation.is_random:
        return values, None, ""
    return values, values != 0, f"`{operation.name}` is on in evaluation too"


def _through_pool(operation: Operation, values: torch.Tensor) -> Step:
    """A pool passes a constant on, unless it counts the zeros of its padding."""
    shape = (1, -1, *[1] * (len(operation.shape) - 2))
    maps = values.view(shape).expand(1, -1, *operation.shape[2:]).contiguous()
    pooled = operation.run(maps).reshape(values.numel(), -1).double()
    wanted = values.double().unsqueeze(1)
    tolerance = 64 * torch.finfo(values.dtype).eps
    is_same = ((pooled - wanted).abs() <= tolerance * wanted.abs()).all(1)
    return (
        values,
        ~is_same,
        f"`{operation.name}` does not keep a constant (padding), folding would be inexact",
    )


def _through_norm(operation: Operation, values: torch.Tensor) -> Step:
    """By running statistics; in training a constant becomes the norm's own bias."""
    module = operation.module
    in_training = torch.zeros_like(values) if module.bias is None else module.bias.detach()
    if module.running_mean is None:
        return in_training.to(values.dtype), None, ""
    carried = functional.batch_norm(
        values.unsqueeze(0),
        *(module.running_mean, module.running_var, module.weight, module.bias),
        *(False, 0.0, module.eps),
    ).squeeze(0)
    if not module.training:
        return carried, None, ""
    return carried, carried != in_training, f"`{operation.name}` is in training mode"


_STEPS = {
    "element": _through_element,
    "flat": _through_flat,
    "dropout": _through_dropout,
    "pool": _through_pool,
    "norm": _through_norm,
}
