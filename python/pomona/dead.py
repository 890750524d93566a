"""Dead neurons (thesis ch. 3): what pruning left without inputs or outputs leaves the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from . import _C
from ._chain import find_layers, unwrapped
from ._dead_plan import DeadRow, Plan
from ._mask_shell import MaskShell, logger
from ._removal import DeadReport, Kept, Removal
from ._shell import clean_name, unwrap_optimizers
from ._shrink import Cut, masks_of_biases, prepare, resize

_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel")

__all__ = ["DeadReport", "DeadRow", "Removal", "dead_neurons", "remove_dead_"]


def dead_neurons(model: nn.Module, example: Any) -> DeadReport:
    """What ``remove_dead_`` would remove, layer by layer; the model stays as it is.

    Args:
        model: can be traced by torch.fx.
        example: a tensor or a tuple of tensors that the model takes; only shapes matter.

    Returns:
        A row for each Linear and convolution: its neurons, how many would be removed, how many
        more are dead and would stay, and why.

    Raises:
        InvalidArgument: the model cannot be traced, does not take the example, or is distributed.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> _ = model[0].weight.data[1].zero_()
        >>> [(row.layer, row.removed) for row in dead_neurons(model, torch.zeros(1, 4))]
        [('0', 1), ('2', 0)]

    Reference:
        Han, thesis ch. 3; Han et al., Learning both Weights and Connections, NIPS 2015, §3.5.
    """
    model = _checked(model, "dead_neurons")
    return DeadReport(Plan(find_layers(model, example, "dead_neurons"), {}).rows())


def remove_dead_(
    model: nn.Module,
    example: Any,
    *,
    optimizer: Any = None,
    pruners: Iterable[MaskShell] | MaskShell = (),
) -> Removal:
    """Remove the neurons without inputs or without outputs; what the model computes stays.

    A neuron is a row of a Linear or an output channel of a convolution, and leaves when what is
    between it and the next layer treats each neuron by itself: element-wise activations, pooling,
    dropout, BatchNorm, flatten. When only its inputs are gone its output is a constant, which goes
    into the bias of the next layer. It stays where that would not be exact (zero padding, a batch
    norm in training) or not possible (no bias), and the report says so. The model's inputs and
    outputs stay, and each layer keeps a neuron.

    It may be called in the middle of training: parameters stay the same objects, with their
    gradients and optimizer state cut to what is left, and the pruners' masks follow. Copies of the
    model (EMA) do not. What has left does not come back, at DSD's re-dense neither, and a schedule
    that goes on counts its sparsity in what is left. A constant is what it is in evaluation: of
    dropout only the mean is folded.

    To resume in a new process, load ``removal.expand(state_dict)`` into the original network and
    call this again: the same neurons leave. Load the states of optimizer and pruner after that.

    Args:
        model: can be traced by torch.fx. Not distributed.
        example: a tensor or a tuple of tensors that the model takes; only shapes matter.
        optimizer: trains the model; a list or a wrapper will do. Those attached to the pruners need
            not be named again.
        pruners: the Pruner and DSD objects of the model.

    Returns:
        What left: for a report, and for ``save(..., original=removal)``.

    Raises:
        InvalidArgument: the model cannot be traced, does not take the example or is distributed;
            something that is no optimizer, or one whose state cannot be cut (LBFGS); a pruner of
            another model. The model is then as it was.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> _ = model[0].weight.data[1].zero_()
        >>> removal = remove_dead_(model, torch.zeros(1, 4))
        >>> removal.removed, model[0], removal.expand(model.state_dict())["0.weight"].shape
        (1, Linear(in_features=4, out_features=2, bias=True), torch.Size([3, 4]))

    Reference:
        Han, thesis ch. 3; Han et al., Learning both Weights and Connections, NIPS 2015, §3.5.
    """
    model = _checked(model, "remove_dead_")
    listed = _checked_pruners(model, pruners)
    optimizers = _checked_optimizers(optimizer, listed)
    layers = find_layers(model, example, "remove_dead_")
    plan = Plan(layers, masks_of_biases(listed))
    cuts = _cuts(plan)
    acts = prepare(cuts, optimizers, listed)
    tensors = {
        clean_name(name): Kept(
            tuple(cut.tensor.shape),
            {dim: tuple(index.tolist()) for dim, index in cut.dims.items()},
            cut.fill,
        )
        for name, cut in cuts.items()
        if cut.dims
    }
    removal = Removal(DeadReport(plan.rows()), tensors)
    with torch.no_grad():
        for act in acts:
            act()
    for name, row in plan.layers.items():
        resize(row.module)
        for operation in row.operations:
            if operation.kind == "norm":
                operation.module.num_features = int(plan.alive[name].sum()) * operation.spread
    logger.info("remove_dead_: %d neurons\n%s", removal.removed, removal)
    return removal


def _cuts(plan: Plan) -> dict[str, Cut]:
    """What becomes of each tensor that changes, by name."""
    cuts: dict[str, Cut] = {}
    for name, row in plan.layers.items():
        dims = {}
        if not plan.alive[name].all():
            dims[0] = plan.alive[name].nonzero().flatten()
        inputs = plan.inputs(name)
        if inputs is not None and not inputs.all():
            dims[1] = inputs.nonzero().flatten()
        if dims:
            cuts[f"{name}.weight"] = Cut(row.module, "weight", dims)
        bias = plan.bias[name]
        if bias is not None and (0 in dims or not torch.equal(bias, row.module.bias)):
            rows = {0: dims[0]} if 0 in dims else {}
            cuts[f"{name}.bias"] = Cut(row.module, "bias", rows, bias)
        for operation in row.operations if 0 in dims else ():
            if operation.kind == "norm":
                alive = plan.alive[name].repeat_interleave(operation.spread)
                cuts.update(_norm_cuts(operation.name, operation.module, alive))
    return cuts


def _norm_cuts(name: str, module: nn.Module, alive: torch.Tensor) -> dict[str, Cut]:
    fills = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    return {
        f"{name}.{attribute}": Cut(
            module, attribute, {0: alive.nonzero().flatten()}, None, fills[attribute]
        )
        for attribute in fills
        if getattr(module, attribute) is not None
    }


def _checked(model: nn.Module, what: str) -> nn.Module:
    """The model without torch.compile's wrapper."""
    if not isinstance(model, nn.Module):
        raise _C.InvalidArgument(
            f"{what}: expected `model` to be a torch.nn.Module, got {type(model).__name__}."
        )
    for module in model.modules():
        if type(module).__name__ in _WRAPPERS:
            raise _C.InvalidArgument(
                f"{what}: expected `model` without a wrapper that copies or shards it, "
                f"got {type(module).__name__}. Remove on every rank before wrapping it."
            )
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "placements"):
            raise _C.InvalidArgument(
                f"{what}: expected `model` to hold whole tensors, got a DTensor for `{name}`. "
                "Remove before sharding it."
            )
    return unwrapped(model)


def _checked_pruners(model: nn.Module, pruners: Any) -> list[MaskShell]:
    is_list = isinstance(pruners, Iterable) and not isinstance(pruners, MaskShell)
    listed = list(pruners) if is_list else [pruners]
    for pruner in listed:
        if not isinstance(pruner, MaskShell):
            raise _C.InvalidArgument(
                "remove_dead_: expected `pruners` to be Pruner or DSD objects, "
                f"got {type(pruner).__name__}."
            )
        if unwrapped(pruner._model) is not model:
            raise _C.InvalidArgument(
                "remove_dead_: expected `pruners` to be of this model, "
                f"got a {type(pruner).__name__} of another."
            )
    return listed


def _checked_optimizers(
    optimizer: Any, pruners: Sequence[MaskShell]
) -> list[torch.optim.Optimizer]:
    """All optimizers, once each."""
    try:
        named = unwrap_optimizers(optimizer)
    except _C.InvalidArgument as error:
        raise _C.InvalidArgument(str(error).replace("attach", "remove_dead_", 1)) from None
    unique = {id(o): o for o in (*named, *(o for p in pruners for o in p._optimizers))}
    for found in unique.values():
        if isinstance(found, torch.optim.LBFGS) and found.state:
            raise _C.InvalidArgument(
                "remove_dead_: expected `optimizer` to hold state of the parameters' shapes, "
                "got LBFGS, which holds one long vector. Make a new one after the removal."
            )
    return list(unique.values())
