"""Cutting parameters, buffers, gradients, optimizer state and masks to what is left, in place.

Note [The gradient accumulator]. A graph that is still alive (a loss that somebody keeps) holds the
node that accumulates a parameter's gradient, and the node remembers the parameter's shape: the next
backward pass would refuse a gradient of the new one. Torch makes a new node when ``.data`` changes
its dtype, so ``.data`` goes by way of an empty tensor of another dtype. The Parameter stays the
same object: optimizers, hooks and pruners hold on to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from . import _C
from ._chain import PLAIN
from ._mask_shell import MaskShell
from ._shell import named_owners

Dims = dict[int, torch.Tensor]


@dataclasses.dataclass
class Cut:
    """What is left of one parameter or buffer; ``values`` (whole) come in its place first."""

    owner: nn.Module
    attribute: str
    dims: Dims = dataclasses.field(default_factory=dict)
    values: torch.Tensor | None = None
    fill: float = 0.0

    @property
    def tensor(self) -> torch.Tensor:
        """The parameter or buffer as it is now."""
        return getattr(self.owner, self.attribute)


def sliced(tensor: torch.Tensor, dims: Dims) -> torch.Tensor:
    """A new tensor of the indices kept, in the memory format of the old one."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = formats.get(tensor.dim(), torch.contiguous_format)
    if not tensor.is_contiguous(memory_format=layout) or tensor.is_contiguous():
        layout = torch.contiguous_format
    tensor = tensor.detach()
    for dim, index in dims.items():
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor.contiguous(memory_format=layout)


def _slice_state(name: str, key: str, value: Any, parameter: torch.Tensor, dims: Dims) -> Any:
    """A tensor of an optimizer's state, cut as its parameter is; one number stays as it is."""
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return value
    sizes = list(zip(value.shape, parameter.shape, strict=False))
    if value.dim() == parameter.dim() and all(a in (b, 1) for a, b in sizes):
        factored = {d: index for d, index in dims.items() if value.shape[d] == parameter.shape[d]}
        return sliced(value, factored)
    if value.numel() == 1:
        return value
    raise _C.InvalidArgument(
        f"remove_dead_: expected `optimizer` to hold state of the parameters' shapes, got `{key}` "
        f"of shape {list(value.shape)} for `{name}`, which has {list(parameter.shape)}. Make a new "
        "optimizer after the removal."
    )


def masks_of_biases(pruners: Iterable[MaskShell]) -> dict[str, torch.Tensor]:
    """The masks of one-dimensional parameters, by clean name."""
    masks = {}
    for pruner in pruners:
        masks.update({n: mask for n, mask in pruner.masks().items() if mask.dim() == 1})
    return masks


def prepare(
    cuts: dict[str, Cut], optimizers: Sequence[torch.optim.Optimizer], pruners: Sequence[MaskShell]
) -> list[Callable[[], None]]:
    """Everything that is to be done, computed beforehand: nothing changes here.

    Raises:
        InvalidArgument: an optimizer's state cannot be cut.
    """
    acts: list[Callable[[], None]] = []
    by_owner = {(id(cut.owner), cut.attribute): cut for cut in cuts.values()}
    for pruner in pruners:
        owners = named_owners(pruner._model)
        for name in pruner.names:
            owner, attribute = owners[name]
            cut = by_owner.get((id(owner), attribute))
            for dim, index in cut.dims.items() if cut is not None else ():
                acts.append(lambda p=pruner, n=name, d=dim, i=index: p._narrow(n, d, i.tolist()))
    for name, cut in cuts.items():
        parameter = cut.tensor
        for optimizer in optimizers if cut.dims else ():
            if parameter in optimizer.state:
                state = optimizer.state[parameter]
                smaller = {
                    key: _slice_state(name, key, value, parameter, cut.dims)
                    for key, value in state.items()
                }
                acts.append(lambda s=state, values=smaller: s.update(values))
        values = sliced(parameter if cut.values is None else cut.values, cut.dims)
        grad = None if parameter.grad is None else sliced(parameter.grad, cut.dims)
        acts.append(lambda c=cut, v=values, g=grad: _replace(c, v, g))
    return acts


def _replace(cut: Cut, values: torch.Tensor, grad: torch.Tensor | None) -> None:
    """See Note [The gradient accumulator]."""
    tensor = cut.tensor
    if not cut.dims:
        tensor.data.copy_(values)
        return
    tensor.grad = None
    other = torch.float32 if tensor.dtype == torch.float64 else torch.float64
    if tensor.is_floating_point():
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = values
    tensor.grad = grad


def resize(owner: nn.Module) -> None:
    """Set what a layer says about its size by the weight that it has now."""
    if type(owner) is nn.Linear:
        owner.out_features, owner.in_features = owner.weight.shape
    elif type(owner) in PLAIN:
        owner.out_channels, owner.in_channels = owner.weight.shape[:2]
