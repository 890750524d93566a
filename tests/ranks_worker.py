"""What tests/python/prune/test_ranks.py starts on several ranks; each writes what it found.

torchrun --nproc-per-node 2 tests/ranks_worker.py CASE FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import pomona
from pomona._ranks import is_distributed


class Net(nn.Module):
    """Sizes that no number of ranks divides."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.fc1, self.fc2, self.fc3 = nn.Linear(7, 13), nn.Linear(13, 10), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


RULES = {
    "layer": {"*": 0.6},
    "global": {"*": pomona.Prune(0.6, scope="global")},
    "random": {"*": pomona.Prune(0.6, criterion="random", scope="global")},
    "std": {"*": pomona.Prune(criterion=pomona.StdFactor(0.8))},
    "columns": {"*": pomona.Prune(0.4, granularity="column")},
    "obd": {
        "*": pomona.Prune(
            0.7, criterion=pomona.OBD(), scope="global", schedule=pomona.Cubic(4, begin=1)
        )
    },
}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, begin: int, end: int) -> None:
    """Every rank trains on the same data, so that ranks add nothing but rounding."""
    for index in range(begin, end):
        optimizer.zero_grad()
        rng = torch.Generator().manual_seed(index)
        inputs, labels = torch.randn(8, 7, generator=rng), torch.randint(3, (8,), generator=rng)
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if is_distributed(tensor) else tensor


def hashes(pruner: pomona.Pruner) -> dict[str, int]:
    """One number for each mask, the same however it is sharded."""
    return {
        name: pomona.Mask.from_tensor(whole(keep).contiguous()).hash()
        for name, keep in pruner.masks().items()
    }


def make(kind: str, rules: str) -> tuple[nn.Module, torch.optim.Optimizer, pomona.Pruner]:
    model = Net()
    if kind == "fsdp":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        fully_shard(model.fc1, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, pomona.Pruner(model, RULES[rules], optimizer=optimizer)


def masks(kind: str, rules: str) -> dict[str, object]:
    """Hashes of the masks, and how many pruned weights have come back after training."""
    model, optimizer, pruner = make(kind, rules)
    for index in range(6):
        steps(model, optimizer, index, index + 1)
        pruner.step()
    steps(model, optimizer, 6, 12)
    with torch.no_grad():
        model(torch.randn(2, 7))  # after this the root of FSDP shows whole tensors
    pruner.step()
    parameters = {n.removeprefix("module."): whole(p) for n, p in model.named_parameters()}
    kept = {name: whole(keep) for name, keep in pruner.masks().items()}
    alive = sum(int(parameters[name][~keep].count_nonzero()) for name, keep in kept.items())
    return {"hashes": hashes(pruner), "alive": alive, "sparsity": pruner.sparsity}


def every_mask(_: Path) -> dict[str, object]:
    return {f"{kind} {rules}": masks(kind, rules) for kind in ("ddp", "fsdp") for rules in RULES}


def save(folder: Path) -> dict[str, object]:
    model, optimizer, pruner = make("fsdp", "obd")
    for index in range(4):
        steps(model, optimizer, index, index + 1)
        pruner.step()
    dcp.save({"model": model.state_dict(), "pruner": pruner.state_dict()}, checkpoint_id=folder)
    return {"hashes": hashes(pruner)}


def load(folder: Path) -> dict[str, object]:
    model, _, pruner = make("fsdp", "obd")
    state = {"model": model.state_dict(), "pruner": pruner.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    model.load_state_dict(state["model"])
    pruner.load_state_dict(state["pruner"])
    return {"hashes": hashes(pruner), "rows": len(pruner.report())}


def fail(_: Path) -> dict[str, object]:
    """A NaN on one rank: all of them raise, and soon."""
    found = {}
    for kind in ("ddp", "fsdp"):
        model, _, pruner = make(kind, "global")
        if dist.get_rank() == 1:
            weight = next(model.parameters())
            local = weight.to_local() if is_distributed(weight) else weight
            with torch.no_grad():
                local[0, 0] = float("nan")
        try:
            pruner.step()
            found[kind] = "no error"
        except pomona.InvalidArgument as error:
            found[kind] = str(error)
    return found


def sharded_otherwise(_: Path) -> dict[str, object]:
    from torch.distributed.tensor import Shard, distribute_tensor

    model = Net()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model.fc1.weight = nn.Parameter(distribute_tensor(model.fc1.weight.detach(), mesh, [Shard(1)]))
    try:
        pomona.Pruner(model, {"*": 0.5})
    except pomona.InvalidArgument as error:
        return {"error": str(error)}
    return {"error": "none"}


def main() -> None:
    case, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    cases = {
        "masks": every_mask,
        "save": save,
        "load": load,
        "fail": fail,
        "sharded_otherwise": sharded_otherwise,
    }
    found = cases[case](folder / "checkpoint")
    out = folder / f"{case}-{dist.get_world_size()}-{dist.get_rank()}.json"
    out.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    # torch's own threads may still run when a busy machine ends the process ("terminate called
    # without an active exception"); what this rank found is on disk.
    os._exit(0)


if __name__ == "__main__":
    main()
