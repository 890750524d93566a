"""What a distributed job adds to a shell: this rank's rows of a parameter, and sums over ranks.

Only torch.distributed, and only what it knows already: a DTensor says which rows are here, a
process group adds up.

Note [Ranks prune together]. Every rank makes the same calls of ``step()``. Counters are summed,
weights never gathered, and when a call fails on one rank it raises on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from . import _C

Shard = tuple[int, int]  # (first row here, rows in all)


def is_distributed(tensor: Any) -> bool:
    """Whether it is a DTensor."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "to_local")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a DTensor, with its gradient; a plain tensor as it is."""
    if not is_distributed(tensor):
        return tensor
    with torch.no_grad():
        part = tensor.to_local().detach()
        if tensor.is_leaf and tensor.grad is not None:
            part.grad = local(tensor.grad).detach()
    return part


def like(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """This rank's rows (of a mask, of scores) as a DTensor, sharded as ``whole`` is."""
    if not is_distributed(whole):
        return part
    from torch.distributed.tensor import DTensor

    shape = torch.Size([whole.shape[0] if whole.dim() else 1, *part.shape[1:]])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        part.to(whole.device),
        whole.device_mesh,
        whole.placements,
        run_check=False,
        shape=shape,
        stride=stride,
    )


def shard_of(name: str, weight: torch.Tensor) -> tuple[Shard | None, Any]:
    """((first row, rows), its process group), or (None, None) where the whole tensor is here.

    Raises:
        InvalidArgument: it is sharded along another dimension, or along two.
    """
    if not is_distributed(weight):
        return None, None
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    placements = weight.placements
    sharded = [i for i, placement in enumerate(placements) if type(placement) is Shard]
    others = [p for i, p in enumerate(placements) if i not in sharded]
    if (
        not all(type(placement) is Replicate for placement in others)
        or len(sharded) > 1
        or any(placements[i].dim != 0 for i in sharded)
    ):
        raise _C.InvalidArgument(
            f"expected `{name}` to be sharded along dimension 0 alone, as fully_shard does, got "
            f"{tuple(placements)}."
        )
    if not sharded:
        return None, None
    _, offset = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, placements)
    return (int(offset[0]), int(weight.shape[0])), weight.device_mesh.get_group(sharded[0])


def ranks_of(names: Sequence[str], weights: Sequence[torch.Tensor], group: Any) -> Any:
    """What the C++ core takes: (rank, size, sum, shards); None on one process.

    Args:
        names: of the parameters, for messages.
        weights: the parameters.
        group: a process group; None: that of the shards, or all ranks; False: no other rank.

    Raises:
        InvalidArgument: as ``shard_of``, or shards of several groups.
    """
    shards, groups = [], []
    for name, weight in zip(names, weights, strict=True):
        shard, own = shard_of(name, weight)
        shards.append(shard)
        if own is not None and own not in groups:
            groups.append(own)
    if len(groups) > 1:
        raise _C.InvalidArgument(
            f"expected all shards to be of one process group, got {len(groups)} of them."
        )
    if group is False or not (dist.is_available() and dist.is_initialized()):
        return None
    group = groups[0] if groups else group
    size = dist.get_world_size(group)
    return None if size == 1 else (dist.get_rank(group), size, _summing(group), shards)


def _summing(group: Any) -> Callable[[torch.Tensor], None]:
    """Adds a CPU tensor up over the group's ranks, in place, on the device that it talks by."""
    backend = dist.get_backend(group)
    device = torch.device("cpu" if backend in ("gloo", "mpi") else "cuda")

    def add_up(tensor: torch.Tensor) -> None:
        moved = tensor.to(device)
        dist.all_reduce(moved, group=group)
        if moved is not tensor:
            tensor.copy_(moved)

    return add_up


def reshard(model: torch.nn.Module) -> None:
    """FSDP2: after an evaluation its root shows whole tensors, and writing to those is lost."""
    for module in model.modules():
        if hasattr(module, "unshard") and hasattr(module, "reshard"):
            module.reshard()
